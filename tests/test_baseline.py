"""Runs whose baselines would be the same share one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from extracting import saved_model
from whole_runs import rows_of, whole_run, words_for

from consistency_lens import AutoLens, FrozenLM, cli
from consistency_lens.text.starting.source import WrittenTexts

FOUND = "context tail: trained before, with the same seed, rows and budget"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows beside which nothing is noted."""
    place = tmp_path_factory.mktemp("shared") / "rows"
    shutil.copytree(rows_of(whole_run()), place, ignore=shutil.ignore_patterns("baseline-*"))
    return place


def test_what_only_words_have_a_part_in_makes_no_other_baseline(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def trained(name: str, *more: str) -> bool:
        words = words_for(rows, tmp_path / name, "--tail_baseline", "true", "--no_keep_warm_start", *more)
        assert cli.main(words) == 0, capsys.readouterr().err
        return FOUND not in capsys.readouterr().out

    def weights(name: str, folder: str = "tail_lens") -> bytes:
        lens = AutoLens.from_pretrained(tmp_path / name / folder, FrozenLM.from_pretrained(saved_model()))
        return b"".join(p.detach().numpy().tobytes() for _, p in sorted(lens.encoder.named_parameters()))

    assert trained("first", "--fresh_encoder")
    assert (
        weights("first", "fresh_lens") != weights("first") and not (tmp_path / "first/fresh_lens/README.md").exists()
    )
    own = AutoLens.from_pretrained(tmp_path / "first", FrozenLM.from_pretrained(saved_model()))
    batch = {"activations": {"resid_post.1": torch.randn(3, 32)}}
    texts = WrittenTexts(own).of(batch, 4)
    assert torch.equal(texts.words.ids, own.compress(batch).ids) and not texts.tail.any()  # type: ignore[attr-defined]
    assert not trained("second", "--lm_weight", "0.3", "--ground_weight", "0.1", "--rollouts", "3")
    assert weights("second") == weights("first")
    assert trained("third", "--kl_weight", "0.5"), "that is part of what the encoder learns from"
    assert weights("third") != weights("first")
    # One whose weights are no longer those that were noted is trained again.
    weights_file = next((tmp_path / "first/tail_lens").rglob("*.safetensors"))
    whole = weights_file.read_bytes()
    weights_file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert trained("changed", "--lm_weight", "0.2") and weights("changed") == weights("second")
    weights_file.write_bytes(whole)
    # One that is no longer what was noted is trained again.
    (tmp_path / "changed/tail_lens/baseline.json").write_text('{"key": "another"}')
    assert trained("fourth", "--ground_weight", "0.1"), "no refusal either: its texts quote and are not grounded"
    assert weights("fourth") == weights("second")
