"""A block on disk: one safetensors file, whole or not at all, with a checksum.

    activations [n, L, d]   of the kept tokens, at each site, in the stored dtype
    scale [L, d]            with int8 alone: the size of a step of each channel
    tokens [T]              of its documents, those that are not kept included
    documents [D, 2]        number and length of each document

Shapes: n kept tokens, L sites, d hidden size, T tokens, D documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..documents import Tokens
from ..storage import CorruptShard, Shard, checksum_of, replacing
from .encoding import Encoded, broken_scale, from_int8

AGAIN = "Remove it and run the extraction again with --resume, or fetch the folder again if it was copied."


def write_block(
    folder: Path, split: str, chunk: int, number: int, documents: Sequence[Tokens], encoded: Encoded
) -> Shard:
    """Write the `number`-th block of one split of a chunk; on disk only when complete."""
    path = folder / split / f"data-{chunk:05d}-{number:03d}.safetensors"
    tensors = {
        "activations": encoded.activations,
        "tokens": torch.from_numpy(np.concatenate([document.ids for document in documents])),
        "documents": torch.tensor([(document.doc_id, len(document.ids)) for document in documents]),
    }
    if encoded.scale is not None:
        tensors["scale"] = encoded.scale
    with replacing(path) as part:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, part)
        size, checksum = part.stat().st_size, checksum_of(part)
    return Shard(f"{split}/{path.name}", split, len(encoded.activations), size, checksum)


def read_documents(path: Path) -> list[Tokens]:
    """The documents of a block."""
    tokens, documents = (tensor.numpy() for tensor in _read(path, ["tokens", "documents"]))
    ends = np.cumsum(documents[:, 1])
    return [
        Tokens(int(doc_id), tokens[end - length : end]) for (doc_id, length), end in zip(documents, ends, strict=True)
    ]


def read_activations(path: Path, dtype: torch.dtype, sites: Sequence[str], into: Tensor) -> None:
    """Copy a block's activations, stored in a dtype, into a tensor of it or of floats."""
    (activations,) = _read(path, ["activations"])
    if activations.dtype != dtype or activations.shape != into.shape:
        wanted = f"{list(into.shape)} {dtype}"
        raise CorruptShard(f"{path} holds {list(activations.shape)} {activations.dtype} instead of {wanted}. {AGAIN}")
    if dtype == into.dtype or dtype != torch.int8:
        into.copy_(activations)
        return
    scale, tokens = read_scale(path, sites)[None].to(into.device), torch.arange(len(into), device=into.device)
    from_int8(activations.to(into.device), scale, into, tokens, torch.zeros_like(tokens))


def read_scale(path: Path, sites: Sequence[str]) -> Tensor:
    """The scale of an int8 block; raise where nothing could be multiplied with it."""
    (scale,) = _read(path, ["scale"])
    wrong = broken_scale(scale, sites)
    if wrong:
        raise CorruptShard(f"{path} is broken: {wrong}. {AGAIN}")
    return scale


def _read(path: Path, names: Sequence[str]) -> list[Tensor]:
    with _opened(path) as file:
        missing = sorted(set(names) - {*file.keys()})
        if missing:
            raise CorruptShard(f"{path} holds no {missing[0]}. {AGAIN}")
        return [file.get_tensor(name) for name in names]


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise CorruptShard(f"{path} cannot be read ({error}). {AGAIN}") from error
