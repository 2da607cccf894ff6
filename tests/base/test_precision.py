"""TF32 is on while a lens is trained where the GPU has it, off before and after, and left alone on request."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lens_runs import AtStep, arguments, trainer_of

from consistency_lens.base import precision, trainer


def test_it_is_on_inside_and_as_before_behind() -> None:
    assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(RuntimeError), precision.tf32(True):
        assert torch.get_float32_matmul_precision() == "high"
        raise RuntimeError
    assert torch.get_float32_matmul_precision() == "highest"
    with precision.tf32(False):
        assert torch.get_float32_matmul_precision() == "highest"


def test_a_cpu_does_not_want_it(tmp_path: Path) -> None:
    assert not precision.wants_tf32(arguments(tmp_path))


@pytest.mark.parametrize("asked", [None, False])
def test_a_training_has_it_unless_told_otherwise(
    asked: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU that has it: what is asked of it is what the arguments say."""
    monkeypatch.setattr(trainer, "wants_tf32", lambda args: args.tf32 is None)
    seen: list[str] = []
    run = trainer_of(tmp_path, max_steps=1, warm_steps=1, eval_rows=2, tf32=asked)
    run.add_callback(AtStep(0, lambda: seen.append(torch.get_float32_matmul_precision())))
    run.train()
    assert seen == ["high" if asked is None else "highest"]
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.gpu
def test_a_gpu_of_this_kind_wants_it_unless_told_otherwise(tmp_path: Path) -> None:
    on_gpu = {"use_cpu": False}
    assert precision.wants_tf32(arguments(tmp_path, **on_gpu)) == (torch.cuda.get_device_capability()[0] >= 8)
    assert not precision.wants_tf32(arguments(tmp_path, tf32=False, **on_gpu))
