"""Starting texts of all rows, made before the first step that needs them, and kept beside the rows.

Rows of one length run together, so that little of a pass is padding; and which rows run together depends on the rows
alone: a probability on the edge of doubt falls on the same side in a run that was resumed.

Shapes: R rows, T tokens of a text.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import xxhash
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from ...files import replacing
from ..parts.generation import Words
from .texts import StartingTexts

logger = logging.getLogger(__name__)

TOKENS = 16_384  # of the contexts of one pass, padding included
ROWS = 512  # of one pass at most: each gets a distribution over the vocabulary
_CHECKSUM = "checksum"


class PreparedTexts:
    """The text of each row, found again by its document and position.

    Args:
        texts: of all rows.
        keys: `(doc_id, position)` of each.
    """

    def __init__(self, texts: StartingTexts, keys: Sequence[tuple[int, int]]) -> None:
        self.texts, self.rows = texts, {key: row for row, key in enumerate(keys)}

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        make: Callable[[dict[str, Tensor]], StartingTexts],
        pad_id: int,
        *,
        recipe: Mapping[str, Any] | None = None,
        share: tuple[int, int] = (0, 1),
        main: bool = True,
        any_process: Callable[[bool], bool] = bool,
        by_document: bool = False,
    ) -> PreparedTexts:
        """
        Args:
            dataset: rows with `input_ids`, `position` and `doc_id`.
            make: contexts, padded on the left, to texts.
            pad_id: what fills contexts up.
            recipe: all that decides what `make` gives. With it, what was made once for rows that lie in a folder is
                kept there, as datasets keeps its own caches, and found again.
            share: this process's number and how many there are, where each makes a part for all.
            main: this process writes, and shows a bar.
            any_process: whether a flag is set on any: all find what was kept, or all make it.
            by_document: contexts that begin alike run together, for a `make` that reads what they share once.
        """
        columns = dataset.with_format("torch", columns=["input_ids", "position", "doc_id"])[:]
        contexts = columns["input_ids"]
        keys = list(zip(columns["doc_id"].tolist(), columns["position"].tolist(), strict=True))
        number, processes = share
        kept = None if recipe is None else _place(dataset, contexts, {"pad_id": pad_id, **recipe})
        known = None if kept is None else _kept(kept, len(keys), pad_id)
        if kept is not None and not any_process(known is None):
            assert known is not None
            return cls(known, keys)
        if main:  # a bar is seen in a terminal alone
            logger.info("making the starting texts of %d rows", len(keys))
        found: list[tuple[list[int], StartingTexts]] = []
        mine = _batches(contexts, by_document)[number::processes]
        for rows in tqdm(mine, desc="starting texts", unit="batch", leave=False, disable=None if main else True):
            padded = pad_sequence([contexts[i] for i in rows], True, pad_id, padding_side="left")
            mask = pad_sequence([torch.ones_like(contexts[i]) for i in rows], True, 0, padding_side="left")
            found.append((rows, make({"input_ids": padded, "attention_mask": mask})))
        texts = _together(found, len(keys), pad_id, processes)
        if kept is not None and main:
            _keep(kept, texts)
        return cls(texts, keys)

    def __len__(self) -> int:
        return len(self.texts.words)

    def find(self, keys: Sequence[tuple[int, int]], device: torch.device) -> StartingTexts:
        """Texts of some rows."""
        return self.texts.take(torch.tensor([self.rows[key] for key in keys])).to(device)


def _place(dataset: Dataset, contexts: Sequence[Tensor], recipe: Mapping[str, Any]) -> Path | None:
    """A file beside the rows, named after them and the recipe; None for rows that lie nowhere."""
    if not dataset.cache_files:
        return None
    digest = xxhash.xxh3_128(json.dumps(recipe, sort_keys=True).encode())
    for ids in contexts:
        digest.update(ids.numpy().tobytes())
        digest.update(b"/")
    return Path(dataset.cache_files[0]["filename"]).parent / f"starting-texts-{digest.hexdigest()}.safetensors"


def _kept(file: Path, rows: int, pad_id: int) -> StartingTexts | None:
    """What was made before for so many rows; None where there is nothing, or it is not as written."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as stored:
            said = (stored.metadata() or {}).get(_CHECKSUM)
        tensors = load_file(file)
        if said != _checksum(tensors) or {len(tensors[name]) for name in ("ids", "mask", "tail")} != {rows}:
            raise ValueError("its checksum differs")
    except (OSError, SafetensorError, ValueError, LookupError) as error:
        logger.warning("%s is damaged (%s). These texts are made again now.", file.name, error)
        return None
    ids, mask, tail = (tensors[name].long() for name in ("ids", "mask", "tail"))
    return StartingTexts(Words(ids, mask), tail, pad_id)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        digest.update(f"{name} {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _keep(file: Path, texts: StartingTexts) -> None:
    """Whole or not at all; where nobody may write, the next run makes them again."""
    words, tail = texts.words, texts.tail
    tensors = {"ids": words.ids.int(), "mask": words.mask.bool(), "tail": tail.int()}
    try:
        with replacing(file) as part:
            save_file(tensors, part, metadata={_CHECKSUM: _checksum(tensors)})
    except (OSError, SafetensorError) as error:
        logger.info("starting texts are not kept: %s", error)


def _batches(contexts: Sequence[Tensor], by_document: bool = False) -> list[list[int]]:
    """Rows by length, in batches of about as many tokens each; which go together depends on what they say alone."""
    if by_document:
        order = sorted(range(len(contexts)), key=lambda i: contexts[i].numpy().tobytes())
        return [order[first : first + ROWS] for first in range(0, len(order), ROWS)] or [[]]
    batches: list[list[int]] = [[]]
    for row in sorted(range(len(contexts)), key=lambda i: (len(contexts[i]), contexts[i].numpy().tobytes())):
        rows = len(batches[-1])
        if rows and (rows == ROWS or (rows + 1) * len(contexts[row]) > TOKENS):
            batches.append([])
        batches[-1].append(row)
    return batches


def _together(
    found: Sequence[tuple[list[int], StartingTexts]], rows: int, pad_id: int, processes: int
) -> StartingTexts:
    """The texts of all batches in the order of the rows; of all processes, where each has made some."""
    length = found[0][1].words.ids.shape[1] if found else 0
    if processes > 1:
        length = int(_reduced(torch.tensor(length), torch.distributed.ReduceOp.MAX))
    ids, mask, tail = (torch.zeros(shape, dtype=torch.long) for shape in ((rows, length), (rows, length), (rows,)))
    for here, made in found:
        ids[here], mask[here], tail[here] = made.words.ids.cpu(), made.words.mask.cpu(), made.tail.cpu()
    if processes > 1:
        # Each row was made by one process, and is zero in the others.
        ids, mask, tail = (_reduced(part, torch.distributed.ReduceOp.SUM) for part in (ids, mask, tail))
    return StartingTexts(Words(ids, mask), tail, pad_id)


def _reduced(tensor: Tensor, how: Any) -> Tensor:
    """Over all processes, wherever their backend works."""
    from accelerate import PartialState

    moved = tensor.to(PartialState().device)
    torch.distributed.all_reduce(moved, how)
    return moved.cpu()
