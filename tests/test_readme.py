"""The README's first screen does what it says it does."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from consistency_lens import ConsistencyLens, FrozenLM

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def printed_by(snippet: str) -> tuple[str, str]:
    """What a snippet prints, and what the README shows below it."""
    block = rf"<!-- snippet: {snippet} -->\n```python\n(.*?)```\n<!-- /snippet -->\n```\n(.*?)```"
    found = re.search(block, README, re.DOTALL)
    assert found
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(found[1], "README.md", "exec"), {})
    return printed.getvalue(), found[2]


@pytest.mark.slow
def test_the_snippet_prints_what_stands_below_it(subject_folder: Path) -> None:
    said, shown = (re.findall(r"'(\w+) ([\d.]+)'", text) for text in printed_by("frozen"))
    # The likeliest name of each line, sure of itself; the runner-up hangs on the last digits of the training.
    assert [said[0][0], said[2][0]] == [shown[0][0], shown[2][0]] == ["finn", "clara"]
    assert min(float(said[0][1]), float(said[2][1])) > 0.9


@pytest.mark.slow
def test_a_lens_is_used_as_the_readme_says(
    subject_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words are those of a trained lens, which no test makes; the tokens and the form are the same for any."""
    lens = ConsistencyLens.from_subject(FrozenLM.from_pretrained(subject_folder), "resid_post.1")
    lens.save_pretrained(tmp_path / "outputs/demo/lens")
    monkeypatch.chdir(tmp_path)
    said, shown = (re.findall(r"^(\w+) \| [^|]+ \| KL \d+\.\d+$", text, re.MULTILINE) for text in printed_by("lens"))
    assert said == shown == ["name", "is"]
