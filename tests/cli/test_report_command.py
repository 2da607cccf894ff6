"""What `run_lens.py evaluate` adds to a report where the truth about texts is known."""

from pathlib import Path

import pytest
from lens_runs import tiny_lens, tiny_rows
from tiny import shared_lm, tiny_model, tiny_tokenizer

from consistency_lens import cli
from consistency_lens.auto import world_of
from consistency_lens.demo.judging.judge import reword_all
from consistency_lens.frozen import FrozenLM


def test_only_the_demo_has_other_words_and_only_its_rows_have_facts() -> None:
    for name, found in (("subject-0123456789abcdef", {"reword": reword_all}), ("tiny-llama", {})):
        frozen = FrozenLM(tiny_model("llama"), tiny_tokenizer(), model_id=name)
        lens = tiny_lens(frozen)
        assert world_of(lens).options(lens, tiny_rows(), "test") == found, "no row says a fact"


def test_a_lens_of_another_family_is_refused_before_its_data_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_lens(shared_lm("llama")).save_pretrained(tmp_path / "lens")
    words = ["evaluate", "--family", "sparse", "--lens", str(tmp_path / "lens"), "--activations", "nowhere"]
    assert cli.main(words) == 2
    assert "family='sparse': the lens is of another one. Use --family text." in capsys.readouterr().err.replace(
        "\n", " "
    )
