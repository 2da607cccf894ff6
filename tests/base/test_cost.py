"""What a training took is counted over all its starts, and said in words."""

from __future__ import annotations

import json

import pytest
import torch

from consistency_lens.base.watching import cost
from consistency_lens.base.watching.cost import Cost, Meter, peak_memory

CPU = torch.device("cpu")


def test_a_meter_goes_on_where_a_checkpoint_had_left_it() -> None:
    meter = Meter(CPU, processes=2, readers=2)
    meter.begin(Cost(seconds=100.0, judging=10.0, rows=40, tokens=400, peak_memory=10**15, sessions=1))
    meter.see(2, torch.tensor(5))
    meter.see(1, torch.tensor(2))
    meter.judging += 2.5
    found = meter.cost
    assert (found.rows, found.tokens, found.sessions, found.peak_memory) == (40 + 2 * 3, 400 + 2 * 7, 2, 10**15)
    assert 100 <= found.seconds < 160 and found.judging == 12.5
    assert Cost.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    meter.begin()
    assert (meter.cost.rows, meter.cost.tokens, meter.cost.sessions, meter.cost.partial) == (0, 0, 1, False)


def test_a_gap_is_said() -> None:
    meter = Meter(CPU)
    meter.begin(Cost(partial=True))
    assert "an earlier part of the training was not counted" in meter.cost.in_words()["CPU hours"]
    meter.begin(meter.cost)
    assert meter.cost.partial, "it stays"
    meter.begin(Cost())
    assert not meter.cost.partial


def test_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    meter, now = Meter(CPU), [50.0]
    monkeypatch.setattr(cost.time, "monotonic", lambda: now[0])
    meter.begin(Cost(seconds=1000.0))
    now[0] += 7.25
    assert meter.cost.seconds == 1007.2


def test_memory_is_that_of_the_process() -> None:
    before = peak_memory(CPU)
    kept = torch.ones(before // 4 + 30_000_000)  # float32: more than all that was there
    assert peak_memory(CPU) >= before + 100_000_000 and len(kept)


def test_words() -> None:
    spent = Cost(seconds=7200.0, judging=720.0, rows=64_800, tokens=648_000, peak_memory=1_500_000_000, threads=2)
    assert spent.in_words() == {
        "hardware": "1 × CPU, 2 threads each",
        "CPU hours": "4 (evaluations took 10 %)",
        "peak memory": "1.50 GB of the process",
        "speed": "100 tokens of context per second, 10 activations per second, without evaluations",
        "trained on": "64,800 activations, 648,000 tokens of context",
    }
    on_gpus = Cost(seconds=1800.0, kind="cuda", device="NVIDIA H200", threads=9, processes=4, sessions=3).in_words()
    assert on_gpus["GPU hours"] == "2 (evaluations took 0 %, 3 starts)" and on_gpus["hardware"] == "4 × NVIDIA H200"
    assert "of the GPU" in on_gpus["peak memory"] and "CPU hours" not in on_gpus
