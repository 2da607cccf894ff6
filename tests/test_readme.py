"""The README's first screen does what it says it does."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


@pytest.mark.slow
def test_the_snippet_prints_what_stands_below_it(subject_folder: Path) -> None:
    block = r"<!-- snippet: frozen -->\n```python\n(.*?)```\n<!-- /snippet -->\n```\n(.*?)```"
    found = re.search(block, README, re.DOTALL)
    assert found
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(found[1], "README.md", "exec"), {})
    said, shown = (re.findall(r"'(\w+) ([\d.]+)'", text) for text in (printed.getvalue(), found[2]))
    # The likeliest name of each line, sure of itself; the runner-up hangs on the last digits of the training.
    assert [said[0][0], said[2][0]] == [shown[0][0], shown[2][0]] == ["finn", "clara"]
    assert min(float(said[0][1]), float(said[2][1])) > 0.9
