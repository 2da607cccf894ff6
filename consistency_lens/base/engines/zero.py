"""Weights out of a DeepSpeed checkpoint: in float32, as the optimizer kept them, also where the lens is bfloat16."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ...errors import BadInput
from ..modeling import LensModel
from .engine import Together
from .shards import fill


def load_zero(lens: LensModel, checkpoint: Path | str) -> None:
    """Put what `zero_to_fp32.py` makes of a checkpoint into a lens of the same configuration.

    DeepSpeed's files are pickles: only for checkpoints that you have written yourself.
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    if not (Path(checkpoint) / "latest").is_file():
        fix = "Give a checkpoint-N of a run with --deepspeed."
        raise BadInput("checkpoint", str(checkpoint), fix, why="DeepSpeed has written nothing there")
    load_consolidated(lens, get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), exclude_frozen_parameters=True))


def load_consolidated(lens: LensModel, tensors: Mapping[str, Tensor]) -> None:
    """The same from a state dict that `zero_to_fp32.py` has written already; frozen weights need not be in it."""
    names = {id(p): {name} for name, p in lens.named_parameters()}
    for name, parameter in Together(lens).named_parameters():  # as ZeRO-3 saw it
        names[id(parameter)].add(name)
    for part in lens.parts().values():
        for parameter in part.values():
            known = names[id(parameter)] & tensors.keys()
            if not known and parameter.requires_grad:
                fix = "Load the lens that was trained: lens = AutoLens.from_pretrained(checkpoint)."
                raise BadInput("checkpoint", min(names[id(parameter)]), fix, why="this tensor is not in it")
            for name in known:
                fill(parameter, tensors[name])
