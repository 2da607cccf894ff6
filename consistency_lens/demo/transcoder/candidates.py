"""What is compared with features as detectors of facts: neurons, principal directions, features of random weights.

Shapes: N tokens, L chosen layers, d hidden size, C candidates of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaMLP

from consistency_lens.demo.stories import Story
from consistency_lens.demo.transcoder.labels import batches_of
from consistency_lens.frozen import FrozenLM
from consistency_lens.frozen.anatomy.parts import locate
from consistency_lens.sparse.coding.documents import read_documents
from consistency_lens.sparse.modeling import CrosslayerTranscoder


@dataclass(frozen=True)
class Activations:
    """What the model computes on some stories, story after story without first tokens: `[N, L, d]` each.

    Args:
        read: at the sites that the lens reads.
        entered: what each MLP sees, behind its norm.
        written: at the sites that the lens writes.
    """

    read: Tensor
    entered: Tensor
    written: Tensor

    @classmethod
    def of(cls, frozen: FrozenLM, lens: CrosslayerTranscoder, told: Sequence[Story]) -> Activations:
        config = lens.config
        places = (config.read_sites, [f"mlp_in.{layer}" for layer in config.window], config.written_sites)
        parts = []
        for _, batch in batches_of(frozen, told):
            found = read_documents(frozen, batch, list(dict.fromkeys(site for sites in places for site in sites)))
            parts.append([torch.stack([found[site] for site in sites], 1).float().cpu() for sites in places])
        return cls(*(torch.cat(part) for part in zip(*parts, strict=True)))


@torch.no_grad()
def features(lens: CrosslayerTranscoder, found: Activations) -> Iterator[tuple[int, Tensor]]:
    """Of each layer of a lens, on all tokens: `[N, F]`."""
    x = lens.standardiser(found.read.to(lens.device))
    for i, source in enumerate(lens.layers_in_order):
        parts = [source(part, limit=0.0) for part in x[:, i].split(4096)]
        yield i, torch.cat([part if isinstance(part, Tensor) else part.dense() for part in parts]).cpu()


@torch.no_grad()
def neurons(frozen: FrozenLM, lens: CrosslayerTranscoder, found: Activations) -> Iterator[tuple[int, Tensor]]:
    """Of each MLP what its last layer reads, and its negative: `[N, 2 d']`."""
    for i, layer in enumerate(lens.config.window):
        part = locate(frozen.model, frozen.site(f"mlp_out.{layer}")).module
        assert isinstance(part, LlamaMLP)  # the model of this world is one
        x = found.entered[:, i].to(frozen.device, frozen.dtype)
        values = (part.act_fn(part.gate_proj(x)) * part.up_proj(x)).float().cpu()
        yield i, torch.cat([values, -values], 1)


def directions(known: Activations, found: Activations) -> Iterator[tuple[int, Tensor]]:
    """Along all principal directions of what the lens reads, both ways, the mean left out: `[N, 2 d]`."""
    for i in range(found.read.shape[1]):
        own = known.read[:, i].double()
        centred = own - own.mean(0)
        _, basis = torch.linalg.eigh(centred.T @ centred)
        values = ((found.read[:, i].double() - own.mean(0)) @ basis).float()
        yield i, torch.cat([values, -values], 1)
