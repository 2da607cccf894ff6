"""`Explanations` of one text: rows, a data frame, and a picture in a notebook."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

from ..card.columns import PREDICTIONS, heading, shown

if TYPE_CHECKING:
    import pandas

CLEAR, LOST = 0.05, 2.0  # nats: below, the model goes on as before; above, it does not


class Explanations(list[dict[str, Any]]):
    """Rows of one text, one per explained token; a list of dictionaries that a notebook shows as a table.

    Each row holds `position` (of the token in the text), `token`, `explanation` and what else the family describes of
    the code (`features` of a transcoder), `kl` (in nats, from the model's next-token distribution to the one with the
    lens's edits in place), and `before` and `after`: the likeliest next tokens of the two, each with its probability.
    Where one activation is restored, `cosine` compares it with its reconstruction. `consistency_lens.columns` defines
    each column.
    """

    def __init__(self, rows: Iterable[dict[str, Any]] = (), tokens: Iterable[str] = ()) -> None:
        super().__init__(rows)
        self.tokens = list(tokens)

    def to_pandas(self) -> pandas.DataFrame:
        """One line per row."""
        import pandas  # comes with datasets, and is slow to import

        return pandas.DataFrame(list(self))

    def _repr_html_(self) -> str:
        """The text with each explained token coloured by its KL, and the rows below it."""
        marked = {row["position"]: row.get("kl") for row in self}
        text = "".join(_token(token, marked.get(i)) for i, token in enumerate(self.tokens))
        names = list(dict.fromkeys(name for row in self for name in row))
        head = "".join(f"<th>{escape(heading(name))}</th>" for name in names)
        body = "".join(
            f"<tr>{''.join(f'<td>{_cell(name, row.get(name))}</td>' for name in names)}</tr>" for row in self
        )
        return f"<div>{text}</div><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _token(token: str, kl: float | None) -> str:
    shown = escape(token).replace("\n", "↵")
    if kl is None:
        return f"<span style='opacity:.6'>{shown} </span>"
    share = min(1.0, max(0.0, (kl - CLEAR) / (LOST - CLEAR)))
    hue = round(130 * (1 - share))  # green where the model goes on as before, red where it does not
    return f"<span title='KL {kl:.3f}' style='background:hsla({hue},70%,50%,.35)'>{shown} </span>"


def _cell(name: str, value: Any) -> str:
    if name in PREDICTIONS and value:
        return escape(shown(value, 3))
    if isinstance(value, float):
        return f"{value:.3f}"
    return escape(str(value))
