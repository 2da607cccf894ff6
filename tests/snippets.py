"""The code in README and docs: where it stands, and how to run it as it stands."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_READMES = ("README.md", "ds_configs/README.md", "spaces_demo/README.md")
_BESIDE = (*_READMES, "CONTRIBUTING.md", "consistency_lens/SKILL.md")
PAGES = [*(ROOT / name for name in _BESIDE), *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SNIPPET = re.compile(
    r"^<!-- snippet: (\S+) -->\n```python\n(.*?)^```\n<!-- /snippet -->(?:\n+```\n(.*?)^```)?",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Snippet:
    """Python code of a page, and what the page shows below it."""

    page: str
    name: str
    code: str
    shown: str

    def run(self, changes: Mapping[str, str] | None = None) -> str:
        """What it prints. `changes` cut down what would take minutes; each has to be in the code."""
        code = self.code
        for old, new in (changes or {}).items():
            assert code.count(old) == 1, f"{old!r} is not there once in {self.name} of {self.page}"
            code = code.replace(old, new)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, self.page, "exec"), {"__name__": self.name})
        return printed.getvalue()


def blocks(page: Path, language: str) -> list[str]:
    return [code for found, code in _BLOCK.findall(page.read_text("utf-8")) if found == language]


def snippets() -> dict[str, Snippet]:
    """By name, over all pages."""
    found = {}
    for page in PAGES:
        for name, code, shown in _SNIPPET.findall(page.read_text("utf-8")):
            assert name not in found, f"two snippets are called {name}"
            found[name] = Snippet(page.name, name, code, shown)
    return found


def commands(block: str) -> list[str]:
    """The lines of a shell block, those that go on after a backslash as one, without comments."""
    joined = re.sub(r"\\\n\s*", " ", block)
    lines = [line.strip() for line in joined.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]
