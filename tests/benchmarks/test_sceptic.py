"""`benchmarks/sceptic.py`: its own arithmetic against the library's, and it runs to its table on a tiny lens."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from lens_runs import SITE, rows_folder, stirred, tiny_lens, tiny_rows
from tiny import shared_lm

from consistency_lens import AutoLens, ConsistencyLens
from consistency_lens.frozen import Edit

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sceptic(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("sceptic")


def test_whole_sequences_give_what_the_swap_gives(sceptic: ModuleType) -> None:
    lm = shared_lm("llama")
    rows = sceptic.Rows.of(tiny_rows().splits["test"], SITE, 12, seed=0)
    subject = sceptic.Subject(lm.model, lm.tokenizer, SITE)
    vectors = rows.vectors.flip(0)
    clean = dict(pair for part, found in subject.predict(rows, None) for pair in zip(part, found, strict=True))
    found = sceptic.scored(subject, rows, [clean[i] for i in range(len(rows.contexts))], vectors)
    for i, ids in enumerate(rows.contexts):
        batch = {"input_ids": torch.tensor([ids])}
        before = lm.logits(batch)[0, -1].log_softmax(-1)
        after = lm.logits(batch, Edit(SITE, vectors[i : i + 1], -1))[0, -1].log_softmax(-1)
        kl = float((before.exp() * (before - after)).sum())
        assert found["kl"][i] == pytest.approx(kl, abs=1e-4)
        assert found["top1"][i] == float(before.argmax() == after.argmax())
    same = sceptic.scored(subject, rows, [clean[i] for i in range(len(rows.contexts))], rows.vectors)
    assert same["kl"].max() < 1e-4 and same["error"].max() == 0


def test_the_table_and_the_forms_of_a_text(sceptic: ModuleType) -> None:
    lm = shared_lm("llama")
    split = tiny_rows().splits["train"]
    subject = sceptic.Subject(lm.model, lm.tokenizer, SITE)
    means, vectors, last, following = sceptic.table_of(subject, split, SITE, 40)
    pair = (int(last[3]), int(following[3]))
    same = (last == pair[0]) & (following == pair[1])
    assert torch.allclose(means[pair], vectors[same].mean(0))
    found, fell = sceptic.looked_up(means, [pair[0], -7], [pair[1], 0])
    assert torch.equal(found[0], means[pair]) and torch.equal(found[1], means[None]) and fell == 0.5
    said, sure = [[11, 12, 13, 14], [21, 22, 23, 24]], [[0.9, 0.1, 0.9, 0.1], [0.9, 0.1, 0.2, 0.9]]
    assert sceptic.in_form(said, sure, [5, 6], 5, 99, 0.3) == [[5, 11, 99, 13], [6, 11 + 10]]
    assert sceptic.in_form(said, sure, [5, 6], 3, None, 0.3) == [[5, 11, 12], [6, 21, 22]]


def test_it_runs_to_its_table(
    sceptic: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = shared_lm("llama")
    lens = stirred(tiny_lens(lm))
    lens.save_pretrained(tmp_path / "lens")

    def loaded(cls: type, place: Path, *args: object, **more: object) -> ConsistencyLens:
        return ConsistencyLens.from_pretrained(place, lm)

    monkeypatch.setattr(AutoLens, "from_pretrained", classmethod(loaded))
    path, folder = tmp_path / "found.json", rows_folder("llama")
    words = ["--lens", tmp_path / "lens", "--activations", folder, "--rows", 20, "--vague", "w5", "--show", 2]
    monkeypatch.setattr(sys, "argv", ["sceptic.py", *map(str, words), "--json", str(path)])
    monkeypatch.setattr(sceptic, "DRAWS", 20)
    sceptic.main()
    rows = {row["in A's place"]: row for row in json.loads(path.read_text())["results"] if "in A's place" in row}
    assert {"lens", "greedy", "greedy, plain", "table", "probes", "mean", "swapped", "dropped", "replaced"} == set(
        rows
    )
    assert rows["mean"]["kl_recovered"].startswith("0.000") and rows["mean"]["fve"].startswith("0.000")
    assert np.isfinite(rows["lens"]["behind P, nats"])
    assert capsys.readouterr().out.count(" | ") == 2
