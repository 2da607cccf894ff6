"""Compile a model block by block, so that hooks that come later are noticed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from transformers import PreTrainedModel

from .sites import blocks_of

# A block is compiled anew for each adapter, with a gradient and without, with a hook and without, for many columns and
# for one, with a cache and without; and all blocks of all models share their code.
_VERSIONS = 64

_COMPILED: WeakSet[PreTrainedModel] = WeakSet()


def compile_blocks(model: PreTrainedModel, **options: Any) -> None:
    """Compile each block with `torch.compile(**options)`; the same code serves every length.

    The model as a whole would not do: compiled code does not notice hooks that come later, and edits would be dropped
    without a word.
    """
    if model in _COMPILED:
        return
    for block in blocks_of(model):
        block.compile(**({"dynamic": True} | options))
    _COMPILED.add(model)


@contextmanager
def noticing_hooks(model: PreTrainedModel) -> Iterator[None]:
    """Let compiled code look at hooks before it runs, and make another version of itself where they differ."""
    if model not in _COMPILED:
        yield
        return
    # Slow to import, and of no use to who does not compile.
    from torch._dynamo import config as dynamo_config

    versions = _VERSIONS * len(blocks_of(model))
    with dynamo_config.patch(
        skip_nnmodule_hook_guards=False, recompile_limit=versions, accumulated_recompile_limit=8 * versions
    ):
        yield
