"""`steer` on the command line says what `lens.steer` finds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from extracting import saved_model
from lens_runs import stirred, tiny_lens

from consistency_lens import AutoLens, FrozenLM, cli

TEXT, WORDS = "w1 w2 w3 w4 w5 w6", "w9 w8"


@pytest.fixture(scope="module")
def lens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("steer") / "lens"
    stirred(tiny_lens(FrozenLM.from_pretrained(saved_model()))).save_pretrained(folder)
    return folder


def steer(lens: Path, *words: str) -> int:
    return cli.main(["steer", "--use_cpu", "--model_name_or_path", str(saved_model()), "--lens", str(lens), *words])


def test_it_says_what_python_finds(lens: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def found(position: int, **more: Any) -> dict[str, Any]:
        steered = AutoLens.from_pretrained(lens, saved_model()).steer(TEXT, position, WORDS, temperature=0, **more)
        return json.loads(json.dumps(asdict(steered)))

    assert steer(lens, TEXT, WORDS, "--json", "--dtype", "float32") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == found(-1) and "changes nothing" not in printed.err
    assert steer(lens, TEXT, WORDS, "--position", "3", "--strength", "2", "--max_new_tokens", "4", "--json") == 0
    third = found(3, strength=2.0, continuation_length=4)
    assert json.loads(capsys.readouterr().out) == third
    assert steer(lens, TEXT, WORDS, "--position=3", "--strength", "2", "--max_new_tokens", "4") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"words at 3 (w3): {third['old_explanation']} -> {WORDS}" and len(said) == 4
    assert said[1].startswith("before ") and said[1].endswith(third["continuation_before"].strip())
    assert said[2].startswith("after ") and said[2].endswith(third["continuation_after"].strip())
    assert said[3].startswith(f"KL {third['kl']:.3f}, off-target {third['off_target']:.5f} over ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "text=None. Write a text"),
        ([TEXT], "explanation=None. Write what the activation shall say"),
        ([TEXT, WORDS, "more"], "option='more'"),
        ([TEXT, WORDS, "--position", "99"], "position=99"),
        ([TEXT, WORDS, "--strength", "nan"], "strength=nan"),
        ([TEXT, WORDS, "--max_new_tokens", "0"], "max_new_tokens=0. Use 1 or more"),
    ],
)
def test_what_cannot_be_steered_is_refused(
    lens: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert steer(lens, *words) == 2
    assert said in capsys.readouterr().err
