"""A new card is merged with the one that is there: what a person has written by hand stays.

The parts that we generate stand between markers and are replaced at each rewrite; all other text, and every metadata
key that the new card does not set, is kept byte for byte:

    <!-- generated: numbers -->
    ...
    <!-- /generated -->
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from ..files import write_whole

SECTION = re.compile(
    r"<!-- generated: (?P<name>[\w-]+) -->(?:(?!<!-- generated: ).)*?<!-- /generated -->", flags=re.DOTALL
)
# With the blank line that it was put behind, which goes with it.
_WITH_GAP = re.compile(rf"(?P<gap>(?:\n\n)?){SECTION.pattern}", flags=SECTION.flags)
FRONT_MATTER = re.compile(
    r"\A\ufeff?---[ \t]*\r?\n(?P<yaml>.*?)^---[ \t]*(?:\r?\n|\Z)", flags=re.DOTALL | re.MULTILINE
)
_QUOTED = r'"(?:[^"\\\n]|\\.)*"'
# Section -> what it loads from a place.
LOADS = {
    "use": re.compile(rf"(\bAutoLens\.from_pretrained\(){_QUOTED}"),
    "load": re.compile(rf"(\bload_dataset\(){_QUOTED}"),
}
TOP_LEVEL_KEY = re.compile(r"""(?P<quote>["']?)(?P<key>[^\s#"'\-\[\]{}][^\r\n"':]*)(?P=quote)[ \t]*:(?=\s)""")
# Metadata that must not outlive the measurement it came from; results have a file of their own, see `write_results`.
ALWAYS_OURS = {"model-index"}
RESULTS = ".eval_results/consistency-lens.yaml"


def readdress(card: str, repo_id: str) -> str:
    """The card with this id in its snippet: the name of a folder means nothing on another machine."""

    def addressed(found: re.Match[str]) -> str:
        loads = LOADS.get(found["name"])
        return loads.sub(lambda call: f'{call[1]}"{repo_id}"', found[0]) if loads else found[0]

    return SECTION.sub(addressed, card)


def _split(card: str) -> tuple[str, str]:
    """Front matter without its fences, and the rest."""
    found = FRONT_MATTER.match(card)
    return (found["yaml"], card[found.end() :]) if found else ("", card)


def _keys(front_matter: str) -> list[tuple[str, str]]:
    """Top-level key -> its lines as they are written, with the comments above it; '' for what belongs to no key."""
    chunks, waiting = [("", "")], ""
    for line in front_matter.splitlines(keepends=True):
        if found := TOP_LEVEL_KEY.match(line):
            chunks.append((found["key"].strip(), waiting + line))
        elif line.startswith("#") or not line.strip():
            waiting += line
            continue
        else:
            chunks[-1] = (chunks[-1][0], chunks[-1][1] + waiting + line)
        waiting = ""
    return [*chunks, ("", waiting)]


def _merge_metadata(new: str, existing: str) -> str:
    ours = {key for key, _ in _keys(new)} | ALWAYS_OURS
    return new + "".join(lines for key, lines in _keys(existing) if key not in ours)


def _merge_body(new: str, existing: str) -> str:
    sections = {found["name"]: found[0] for found in SECTION.finditer(new)}
    placed: set[str] = set()

    def place(found: re.Match[str]) -> str:
        name = found["name"]
        if name in placed or name not in sections:  # a copy, or a claim that we no longer make
            return ""
        placed.add(name)
        return found["gap"] + sections[name]

    body = _WITH_GAP.sub(place, existing)
    before: str | None = None
    for name, text in sections.items():  # a new section goes behind the one it follows in the new card
        if name not in placed:
            if before is not None:
                body = body.replace(sections[before], f"{sections[before]}\n\n{text}", 1)
            elif placed:
                first = next(found[0] for found in SECTION.finditer(body))
                body = body.replace(first, f"{text}\n\n{first}", 1)
            else:
                body += f"{'' if body.endswith(chr(10)) else chr(10)}\n{text}\n"
            placed.add(name)
        before = name
    return body


def merge_card(new: str, existing: str | None) -> str:
    """`new` with all that a person has added to `existing`: words outside the markers, and metadata of their own."""
    if not existing or not existing.strip():
        return new
    (new_metadata, new_body), (metadata, body) = _split(new), _split(existing)
    merged = _merge_metadata(new_metadata, metadata)
    fenced = f"---\n{merged}{'' if merged.endswith(chr(10)) else chr(10)}---\n" if merged else ""
    return fenced + _merge_body(new_body, body)


def write_results(folder: Path, results: Sequence[EvalResultEntry]) -> None:
    """Beside the card, in the form that the Hub reads; without any, those of before go."""
    path = folder / RESULTS
    path.unlink(missing_ok=True)
    if results:
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(eval_result_entries_to_yaml(list(results)), sort_keys=False), "utf-8")


def write_card(
    folder: str | os.PathLike[str], card: str, name: str = "README.md", earlier: Path | None = None
) -> Path:
    """Merges the card with the one in the folder and swaps it in at once: a reader sees the old one or the new one.

    Args:
        folder: where it goes.
        card: the new one.
        name: of the file.
        earlier: a card whose hand-written words a folder without one begins with.
    """
    path = Path(folder) / name
    old = next((file for file in (path, earlier) if file is not None and file.exists()), None)
    # A byte that is no UTF-8 is somebody's, too.
    existing = old.read_bytes().decode("utf-8", "surrogateescape") if old is not None else None
    return write_whole(path, merge_card(card, existing).encode("utf-8", "surrogateescape"))
