"""`benchmarks/evidence.py` times what it says, on a tiny model that knows the demo's words."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import pytest
import torch

from consistency_lens.demo.subject import new_model
from consistency_lens.demo.tokenizer import build_tokenizer
from consistency_lens.demo.training import SubjectConfig
from consistency_lens.frozen import FrozenLM


def test_every_row_gets_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    evidence = importlib.import_module("evidence")
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = SubjectConfig(hidden_size=32, intermediate_size=64, num_heads=4)
    lm = FrozenLM(new_model(config, tokenizer).eval(), tokenizer, "subject-0000000000000000")
    options = argparse.Namespace(stories=6, length=6, share=0.5, rounds=2)
    first, second = evidence.run(lm, "resid_post.1", options)
    assert first["rows"] == second["rows"] == 6 * 8
    assert first["ratio"] == pytest.approx(first["texts s"] / first["extraction s"]) and first["words"] <= 3
    assert (first["words"], first["worth"]) != (second["words"], second["worth"]), "other stories"
