"""What a pass of a language model costs, in floating-point operations: two for each weight and token, and attention.

Look-ups, norms and activation functions are left out, and so is what activation checkpointing computes again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ...frozen.anatomy.parts import blocks_of


@dataclass(frozen=True)
class Pass:
    """
    Args:
        rows: how many.
        columns: tokens of each that are run.
        said: of these, those that meet the vocabulary.
        before: tokens of each that lie in a cache.
    """

    rows: int
    columns: int
    said: int = 0
    before: int = 0


@dataclass(frozen=True)
class Size:
    """What of a language model counts.

    Args:
        block: weights of the products in one block.
        adapter: those that an adapter adds to them; 0 for none.
        head: weights of the product with the vocabulary.
        width: of attention: heads times their size.
        depth: how many blocks are run.
    """

    block: int
    adapter: int
    head: int
    width: int
    depth: int

    @classmethod
    def of(cls, model: PreTrainedModel, depth: int | None = None, adapter: str | None = None) -> Size:
        """From the shapes that modules state, whatever holds their weights."""
        blocks, config = blocks_of(model), model.config.get_text_config()
        block = added = 0
        for name, module in blocks[0].named_modules():
            if ".lora_" not in name:
                block += _product_of(module)
            elif name.endswith(f".{adapter}"):
                added += _product_of(module)
        given: dict[str, Any] = config.to_dict()
        heads = config.num_attention_heads
        width = heads * (given.get("head_dim") or config.hidden_size // heads)
        return cls(block, added, config.hidden_size * config.vocab_size, width, depth or len(blocks))

    def forward(self, at: Pass) -> int:
        """A pass without gradient."""
        return self._weights(at) + self._adapter(at) + self._attention(at)

    def both(self, at: Pass, trained: bool) -> int:
        """A pass and its backward pass: once more for what flows through, of attention twice, and once more for the
        weights that learn: those of the adapter, or else all of them if they are `trained`."""
        learning = 0 if self.adapter or not trained else self._weights(at)
        return 2 * self._weights(at) + learning + 3 * (self._adapter(at) + self._attention(at))

    def _weights(self, at: Pass) -> int:
        return 2 * at.rows * (self.depth * self.block * at.columns + self.head * at.said)

    def _adapter(self, at: Pass) -> int:
        return 2 * at.rows * self.depth * self.adapter * at.columns

    def _attention(self, at: Pass) -> int:
        return 4 * at.rows * self.depth * self.width * at.columns * (at.before + at.columns)


def _product_of(module: nn.Module) -> int:
    match module:
        case nn.Linear():
            return module.in_features * module.out_features
        case Conv1D():
            return module.nx * module.nf
        case _:
            return 0
