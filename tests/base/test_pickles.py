"""What lies beside a checkpoint and would run code on reading: refused in a line, and nothing of it runs."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lens_runs import trainer_of

from consistency_lens.base.saving.checkpoint import require_complete
from consistency_lens.base.saving.pickles import require_plain
from consistency_lens.errors import BadInput

NAMES = ["optimizer.pt", "scheduler.pt", "rng_state.pth"]


class Runs:
    """Whoever reads it as a pickle calls a function of its choice."""

    def __init__(self, function: Callable[..., Any], *given: Any) -> None:
        self.called = function, given

    def __reduce__(self) -> Any:
        return self.called


@cache
def _home() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="consistency-lens-pickles-")


@cache
def _checkpoint() -> Path:
    trainer_of(_home().name, max_steps=3, save_strategy="steps", save_steps=2).train()
    return Path(_home().name) / "checkpoint-2"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """One of a short run, which one can go on from."""
    return shutil.copytree(_checkpoint(), tmp_path / "checkpoint-2")


def test_what_a_run_writes_is_plain(checkpoint: Path) -> None:
    assert {path.name for path in checkpoint.glob("*.pt*")} >= set(NAMES)
    require_complete(checkpoint)


@pytest.mark.parametrize("name", [*NAMES, "global_step2/zero_states.pt", "scaler.pt"])
@pytest.mark.parametrize("inside", [lambda bad: bad, lambda bad: {"state": {}, "param_groups": [{"lr": bad}]}])
def test_a_hostile_one_is_one_line_and_does_not_run(name: str, inside: Any, checkpoint: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (checkpoint / name).parent.mkdir(exist_ok=True)
    torch.save(inside(Runs(os.mkdir, str(marker))), checkpoint / name)
    with pytest.raises(BadInput, match=r"would run code of posix\.mkdir") as caught:
        require_complete(checkpoint)
    assert (
        caught.value.field == "resume_from_checkpoint" and name in str(caught.value) and "\n" not in str(caught.value)
    )
    assert not marker.exists()


def test_a_training_refuses_it_before_anything_is_read(checkpoint: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save(Runs(os.mkdir, str(marker)), checkpoint / "optimizer.pt")
    with pytest.raises(BadInput, match=r"optimizer\.pt would run code"):
        trainer_of(tmp_path / "run", max_steps=3).train(str(checkpoint))
    assert not marker.exists()


def test_what_torch_does_not_write_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = checkpoint / "scheduler.pt"
    path.write_bytes(pickle.dumps(Runs(os.mkdir, str(marker))))  # a pickle alone, as torch once wrote it
    with pytest.raises(BadInput):
        require_complete(checkpoint)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:  # megabytes that unpack to gigabytes
        archive.writestr("archive/data.pkl", pickle.dumps(b"\0" * 10**6))
    with pytest.raises(BadInput, match="is packed"):
        require_complete(checkpoint)
    assert not marker.exists()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(NAMES))
def test_a_damaged_one_is_read_or_is_one_line(seed: int, name: str) -> None:
    random = Random(seed)
    data = bytearray((_checkpoint() / name).read_bytes())
    for _ in range(random.choice([1, 8, 200])):
        data[random.randrange(len(data))] = random.randrange(256)
    with TemporaryDirectory(prefix="consistency-lens-pickle-") as place:
        (Path(place) / name).write_bytes(data[: random.choice([len(data), random.randrange(len(data))])])
        try:
            require_plain(Path(place))
        except BadInput as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_training_refuses_it_however_the_checkpoint_is_named(kind: Any, checkpoint: Path, tmp_path: Path) -> None:
    torch.save(Runs(os.mkdir, str(tmp_path / "ran")), checkpoint / "scaler.pt")
    with pytest.raises(BadInput, match=r"would run code of posix\.mkdir"):
        trainer_of(tmp_path / "run", max_steps=3).train(kind(checkpoint))
    assert not (tmp_path / "ran").exists()
