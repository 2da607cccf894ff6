"""A lens whose adapters have become plain weights says the same, is saved and comes back, and needs no peft."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lens_runs import stirred, tiny_lens
from tiny import tiny_lm

from consistency_lens import BadInput, ConsistencyLens
from consistency_lens.base.watching.callbacks import MovingAverage

KINDS = [("lora", "lora"), ("lora", "full"), ("full", "lora"), ("lora", "projections"), ("projections", "lora")]


def lens_of(decoder: str, encoder: str, case: str = "llama") -> ConsistencyLens:
    return stirred(tiny_lens(tiny_lm(case), trainable=decoder, encoder_trainable=encoder), by=0.1).eval()


def says(lens: ConsistencyLens) -> tuple[list[str], torch.Tensor]:
    vectors = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    batch = {"activations": {lens.config.sites[0]: vectors}}
    code = lens.compress(batch, seed=4)
    return [row["explanation"] for row in lens.explain(code)], lens.restore(code, batch)[0].value


@pytest.mark.parametrize(
    ("kind", "case"), [(kind, "llama") for kind in KINDS] + [(KINDS[0], case) for case in ("gpt2", "gemma2", "phi3")]
)
def test_merged_weights_do_what_the_adapters_did(kind: tuple[str, str], case: str, tmp_path: Path) -> None:
    lens = lens_of(*kind, case)
    (said, restored), merged = says(lens), lens.merge_for_release()
    said_merged, restored_merged = says(merged)
    assert said_merged == said and len(set(said)) > 1
    torch.testing.assert_close(restored_merged, restored, rtol=1e-4, atol=1e-4)
    assert torch.equal(says(lens)[1], restored), "the lens that was merged is as it was"
    expected = ["full" if part == "lora" else part for part in kind]
    assert [merged.config.trainable, merged.config.encoder_trainable] == expected
    merged.save_pretrained(tmp_path)
    assert not list(tmp_path.rglob("adapter*"))
    again = ConsistencyLens.from_pretrained(tmp_path, tiny_lm(case))
    assert says(again)[0] == said_merged and torch.equal(says(again)[1], restored_merged), "bit for bit"


def test_a_merged_lens_needs_neither_subject_nor_peft(tmp_path: Path) -> None:
    merged = lens_of("lora", "lora").merge_for_release()
    merged.save_pretrained(tmp_path / "lens")
    program = (
        "import sys, json, torch; sys.modules['peft'] = None\n"
        "sys.path[:0] = json.loads(sys.argv[1])\n"
        "from test_merging import says\n"
        "from consistency_lens import ConsistencyLens\n"
        "said, restored = says(ConsistencyLens.from_pretrained(sys.argv[2]))\n"
        "print(json.dumps([said, restored.tolist()]))"
    )
    words = [sys.executable, "-c", program, json.dumps(sys.path), str(tmp_path / "lens")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    said, restored = says(merged)
    elsewhere = json.loads(done.stdout.splitlines()[-1])
    assert elsewhere[0] == said
    # Another process may have another number of threads, and so other last bits.
    torch.testing.assert_close(torch.tensor(elsewhere[1]), restored, rtol=1e-5, atol=1e-5)


def test_what_it_costs_is_said(caplog: pytest.LogCaptureFixture) -> None:
    lens = lens_of("lora", "lora")
    with caplog.at_level(logging.INFO, logger="consistency_lens"):
        merged = lens.merge_for_release()
    sizes = [sum(p.numel() * 4 for file in each.files().values() for p in file.values()) for each in (merged, lens)]
    assert f"merged: {sizes[0] / 1e9:.3g} GB in the place of {sizes[1] / 1e9:.3g} GB" in caplog.text


@pytest.mark.parametrize("kind", ["full", "projections"])
def test_without_adapters_there_is_nothing_to_merge(kind: str) -> None:
    with pytest.raises(BadInput, match="it has no adapters to merge"):
        lens_of(kind, kind).merge_for_release()


@pytest.mark.parametrize("kind", ["full", "lora", "projections"])
def test_an_average_is_saved_and_comes_back_bit_for_bit(kind: str, tmp_path: Path) -> None:
    lens = lens_of(kind, kind)
    before = says(lens)
    parameters = {name: p for part in lens.parts().values() for name, p in part.items()}
    average = MovingAverage(parameters, 0.9)
    for name, tensor in average.averages.items():
        average.averages[name] = tensor * 0.5
    with average.in_place():
        said, restored = says(lens)
        lens.save_pretrained(tmp_path)
    assert not torch.equal(restored, before[1]) and torch.equal(says(lens)[1], before[1])
    again = ConsistencyLens.from_pretrained(tmp_path, tiny_lm())
    assert says(again)[0] == said and torch.equal(says(again)[1], restored)
