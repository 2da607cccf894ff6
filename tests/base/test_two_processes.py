"""Two processes: a step that is bad in one is left out in both, and an evaluation is shared and stays the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lens_runs import SITE, arguments, rows_folder, stirred, tiny_lens
from safetensors.torch import load_file
from test_lens_trainer import Spoiled
from tiny import tiny_lm
from two_processes import in_two_processes

from consistency_lens.activations import Activations
from consistency_lens.errors import BadInput
from consistency_lens.text.modeling import ConsistencyLens
from consistency_lens.text.trainer import ConsistencyLensTrainer

pytestmark = pytest.mark.distributed


def train(rank: int, rows: Path, folder: Path) -> None:
    frozen = tiny_lm()
    args = arguments(folder, max_steps=5, ema_decay=0.9, max_skipped_steps=1)
    trainer = Spoiled(tiny_lens(frozen), args, Activations.load(rows), frozen=frozen)
    trainer.bad_steps = (1, 3) if rank == 1 else ()
    with pytest.raises(BadInput) as caught:
        trainer.train()
    sums = {name: float(p.double().sum()) for name, p in trainer.trainable.items()}
    record = {"said": str(caught.value), "step": trainer.state.global_step, "sums": sums}
    (folder / f"record-{rank}.json").write_text(json.dumps(record | {"skipped": trainer.skipped_steps}))


def test_a_step_that_is_bad_in_one_process_is_left_out_in_both(tmp_path: Path) -> None:
    in_two_processes(train, rows_folder("llama"), tmp_path)
    one, other = (json.loads((tmp_path / f"record-{rank}.json").read_text()) for rank in (0, 1))
    assert one["step"] == other["step"] == 3 and one["skipped"] == other["skipped"] == 2
    assert one["sums"] == other["sums"] and all(abs(value) < 1e6 for value in one["sums"].values())
    for rank, record in enumerate((one, other)):
        assert f"bad_batch-3-{rank}.safetensors" in record["said"] and "of the other processes" in record["said"]
    batches = [load_file(tmp_path / f"bad_batch-3-{rank}.safetensors") for rank in (0, 1)]
    assert not batches[0][SITE].equal(batches[1][SITE])


class Counting(ConsistencyLens):
    asked = 0

    def compress(self, batch: Any, **kwargs: Any) -> Any:
        self.asked += 1
        return super().compress(batch, **kwargs)


def measure(rank: int, rows: Path, folder: Path, batch: int) -> None:
    frozen = tiny_lm()
    lens = stirred(Counting.from_subject(frozen, SITE, prompt="w1 w2 <A> w3", code_length=5))
    args = arguments(folder, per_device_eval_batch_size=batch, eval_rows=20, kl_horizon=2)
    trainer = ConsistencyLensTrainer(lens, args, Activations.load(rows), frozen=frozen)
    found = trainer.measure()
    (folder / f"measured-{batch}-{rank}.json").write_text(json.dumps([found, lens.asked]))


def measure_both(rank: int, rows: Path, folder: Path) -> None:
    for batch in (4, 32):  # five batches, and one: the second process has nothing to do then
        measure(rank, rows, folder, batch)


def test_an_evaluation_is_shared_and_says_what_one_process_says(tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    measure_both(0, rows_folder("llama"), tmp_path / "alone")
    torch.set_num_threads(threads)
    in_two_processes(measure_both, rows_folder("llama"), tmp_path)
    for batch, calls in ((4, [3, 2]), (32, [1, 0])):
        expected, alone = json.loads((tmp_path / f"alone/measured-{batch}-0.json").read_text())
        found = [json.loads((tmp_path / f"measured-{batch}-{rank}.json").read_text()) for rank in (0, 1)]
        assert alone == sum(calls) and [asked for _, asked in found] == calls
        assert [numbers for numbers, _ in found] == [expected, expected]
