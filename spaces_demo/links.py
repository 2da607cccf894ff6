"""What a visitor has chosen, and the same as a link."""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import parse_qs, urlencode

from consistency_lens import BadInput

TABS = ("read", "scan", "edit", "compare", "rate", "report")
ORDERS = ("text", "worst", "best", "cosine", "words")  # of the table, the first by default


@dataclass(frozen=True)
class Choice:
    """A lens, a text, a token of it (0: the last one), the tab that is open, and how the table is ordered. `text` is
    empty at first."""

    lens: str
    text: str = ""
    position: int = 0
    tab: str = "read"
    order: str = ORDERS[0]

    def query(self) -> str:
        """The part of the address from the question mark on."""
        shown = {"text": self.text, "position": self.position, "lens": self.lens, "tab": self.tab}
        shown |= {"order": self.order} if self.order != ORDERS[0] else {}
        return f"?{urlencode(shown)}" if self.text else ""

    def at(self, position: int) -> Choice:
        return replace(self, position=position)

    def on(self, tab: str, order: str = ORDERS[0]) -> Choice:
        return replace(self, tab=tab, order=order)


def choice_of(query: str, lens: str) -> Choice:
    """What a link says; raise where it says something that no link of ours does. Other people's parameters are theirs.

    Args:
        query: the part of an address from the question mark on; it may be empty.
        lens: which one to take where the link names none.
    """
    try:
        found = {name: values[-1] for name, values in parse_qs(query.lstrip("?"), max_num_fields=20).items()}
    except ValueError as error:
        raise BadInput("link", query[:40], "Copy the link again: this one is damaged.", str(error)) from error
    position = found.get("position", "0")
    if not (position.isascii() and position.isdigit() and len(position) < 8):
        raise BadInput("position", position[:40], "Give the number of a token.")
    tab = found.get("tab", "read")
    if tab not in TABS:
        raise BadInput("tab", tab[:40], f"Use one of {', '.join(TABS)}.")
    order = found.get("order", ORDERS[0])
    if order not in ORDERS:
        raise BadInput("order", order[:40], f"Use one of {', '.join(ORDERS)}.")
    return Choice(found.get("lens", lens), found.get("text", ""), int(position), tab, order)
