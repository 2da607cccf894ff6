"""Compile a model block by block, so that hooks that come later are noticed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PreTrainedModel

from ..anatomy.parts import blocks_of

# A block is compiled anew for each adapter, with a gradient and without, with a hook and without, for many columns and
# for one, with a cache and without; and all blocks of all models share their code.
_VERSIONS = 64

_COMPILED: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()  # block -> how


def compile_blocks(model: PreTrainedModel, **options: Any) -> None:
    """Compile each block with `torch.compile(**options)`; the same code serves every length. A block that is compiled
    so already stays as it is; with other options, the last ones hold.

    The model as a whole would not do: compiled code does not notice hooks that come later, and edits would be dropped
    without a word.
    """
    wanted = {"dynamic": True} | options
    for block in blocks_of(model):
        if _COMPILED.get(block) != wanted:
            block.compile(**wanted)
            _COMPILED[block] = wanted


@contextmanager
def noticing_hooks(model: PreTrainedModel) -> Iterator[None]:
    """Let compiled code look at hooks before it runs, and make another version of itself where they differ."""
    blocks = blocks_of(model)
    if not any(block in _COMPILED for block in blocks):
        yield
        return
    # Slow to import, and of no use to who does not compile.
    from torch._dynamo import config as dynamo_config

    versions = _VERSIONS * len(blocks)
    with dynamo_config.patch(
        skip_nnmodule_hook_guards=False, recompile_limit=versions, accumulated_recompile_limit=8 * versions
    ):
        yield
