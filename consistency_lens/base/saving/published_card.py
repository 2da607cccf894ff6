"""The card as it goes to a repository: with its address there, and with what people wrote on the one that is there.

Between two generated sections the words on the Hub stay as they are; where there are none, those written here go in.
"""

from __future__ import annotations

from pathlib import Path

from ... import hub
from ...card import FRONT_MATTER, SECTION, merge_card, readdress
from ...files import write_whole
from .lens_card import CARD


def card_there(repo: str, token: str | None = None, revision: str | None = None, kind: str = "model") -> Path | None:
    """The card that a repository has, if it has one."""
    if not hub.has_file(repo, CARD, token, revision, kind):
        return None
    return hub.download_file(repo, CARD, revision, token, field="repo_id", kind=kind)


def publish_card(
    card: Path, into: Path, repo: str, token: str | None = None, revision: str | None = None, kind: str = "model"
) -> Path:
    """Write a card of this machine into a folder as it shall read in a repository; the folder may be its own."""
    there = card_there(repo, token, revision, kind)
    text = merge_words(readdress(_read(card), repo), _read(there) if there else None)
    # Never over the old content: the file may be a link to the original.
    return write_whole(into / CARD, text.encode("utf-8", "surrogateescape"))


def merge_words(ours: str, theirs: str | None) -> str:
    """Our sections and metadata, their words, and our words where they have none."""
    if not theirs:
        return ours
    merged = merge_card(ours, theirs)
    mine, there = _words(ours), _words(theirs)
    for before, words in mine.items():
        if words and not there.get(before):
            at = next((found.end() for found in SECTION.finditer(merged) if found["name"] == before), _start(merged))
            words = f"\n\n{words}" if before else f"{words}\n\n"
            merged = merged[:at] + words + merged[at:]
    return merged


def _words(card: str) -> dict[str, str]:
    """Name of a section -> what a person wrote between it and the next; without a name, before the first."""
    found = list(SECTION.finditer(card))
    starts = {"": _start(card)} | {section["name"]: section.end() for section in found}
    ends = [*(section.start() for section in found), len(card)]
    return {name: card[start:end].strip() for (name, start), end in zip(starts.items(), ends, strict=True)}


def _start(card: str) -> int:
    front = FRONT_MATTER.match(card)
    return front.end() if front else 0


def _read(card: Path) -> str:
    # As bytes: `read_text` would change line ends, and a byte that is no UTF-8 is somebody's, too.
    return card.read_bytes().decode("utf-8", "surrogateescape")
