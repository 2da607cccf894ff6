"""HTML for what Gradio has no component for. Everything that is not ours goes through `safe`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from looks import Row
from marking import safe
from panels import panel

STEPS = (0.02, 0.1, 0.5, 2.0)  # nats, between the five colours
NAMES = ("the same", "near", "moved", "different", "lost")
MOST, LEAST = 6, 0.005  # tokens beside one another, and their probability


def level(kl: float) -> int:
    """0 (says the same) to 4 (lost): which of the five colours."""
    return sum(kl >= step for step in STEPS)


def nats(kl: float) -> str:
    return f"{kl:.3f}" if kl < 9.9995 else f"{kl:.1f}"


def notice(text: str = "", kind: str = "note", done: int = 0, of: int = 0) -> str:
    """A message: a `note`, an `error`, or, while something is `busy`, how far it is."""
    if not text:
        return "<div class='notice' role='status'></div>"
    bar = f"<progress value='{done}' max='{of}' aria-label='progress'></progress>" if of else ""
    role = "alert" if kind == "error" else "status"
    return f"<div class='notice {kind}' role='{role}'>{safe(text)}{bar}</div>"


def legend(since: int = 0) -> str:
    """The five colours with their numbers."""
    edges = ["0", *(f"{step:g}" for step in STEPS)]
    cells = [
        f"<li><span class='swatch kl{i}' aria-hidden='true'></span>{name} <small>≥ {edges[i]}</small></li>"
        for i, name in enumerate(NAMES)
    ]
    if since > 1:
        hint = f"before token {since} nothing was measured: read these with care"
        cells.append(f"<li><span class='swatch early' aria-hidden='true'></span>{hint}</li>")
    return f"<ul class='legend' aria-label='KL in nats'><li>KL in nats:</li>{''.join(cells)}</ul>"


def tokens(rows: Sequence[Row], chosen: int, since: int = 0, unit: str = "Token") -> str:
    """The text as a row of buttons: one stop of the Tab key, arrows move inside it, Enter opens.

    Args:
        rows: one per token.
        chosen: which one is open.
        since: the first position that the lens's report has measured; those before it are grey.
        unit: what a row stands for.
    """
    if not rows:
        return ""
    within = chosen if any(row["position"] == chosen for row in rows) else rows[0]["position"]
    buttons = []
    for row in rows:
        here = row["position"] == within
        label = f"{unit.lower()} {row['position']}, {row['token']}, KL {nats(row['kl'])}"
        buttons.append(
            f"<button type='button' class='token kl{level(row['kl'])} {'early' if row['position'] < since else ''}' "
            f"data-position='{row['position']}' "
            f"tabindex='{0 if here else -1}' aria-pressed='{str(here).lower()}' aria-label='{safe(label)}' "
            f"title='{safe(row['explanation'])}'>{safe(row['token']) or '&nbsp;'}"
            f"<small>{nats(row['kl'])}</small></button>"
        )
    name = f"{unit}s of the text. Arrow keys move, Enter opens."
    return f"<div class='tokens' role='toolbar' aria-label='{name}'>{''.join(buttons)}</div>{legend(since)}"


def bars(pairs: Sequence[tuple[str, float, float]], names: tuple[str, str] = ("before", "after")) -> str:
    """Two bars for each token: the probability before and after."""
    head = f"<p class='key'><i class='bar one'></i> {names[0]} <i class='bar two'></i> {names[1]}</p>"
    lines = []
    for token, *chances in pairs:
        sides = "".join(
            f"<span class='track'><i class='bar {side}' style='width:{100 * chance:.1f}%'></i>"
            f"<small>{chance:.2f}</small></span>"
            for side, chance in zip(("one", "two"), chances, strict=True)
        )
        lines.append(f"<li><b>{safe(token.strip() or repr(token))}</b><span class='pair'>{sides}</span></li>")
    return f"{head}<ul class='bars'>{''.join(lines)}</ul>"


def numbers(pairs: Sequence[tuple[str, str, str]]) -> str:
    """Figures with a name and a hint of what they mean."""
    cells = [
        f"<div><dt>{safe(name)}</dt><dd>{safe(value)}</dd><p>{safe(hint)}</p></div>" for name, value, hint in pairs
    ]
    return f"<dl class='numbers'>{''.join(cells)}</dl>"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "", numeric: int = 1) -> str:
    """A plain table of text; from column `numeric` on, cells are numbers."""
    head = "".join(
        f"<th scope='col' class='{'number' if i >= numeric else ''}'>{safe(h)}</th>" for i, h in enumerate(headers)
    )
    lines = []
    for row in rows:
        cells = "".join(
            f"<td class='number'>{safe(cell)}</td>" if i >= numeric else f"<th scope='row'>{safe(cell)}</th>"
            for i, cell in enumerate(row)
        )
        lines.append(f"<tr>{cells}</tr>")
    title = f"<caption>{safe(caption)}</caption>" if caption else ""
    return (
        f"<div class='scroll' tabindex='0'><table class='plain'>{title}<thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def words(pairs: Sequence[tuple[str, float]]) -> str:
    """The tokens of an explanation, each over the probability that the decoder gave it."""
    cells = "".join(
        f"<span class='word'>{safe(word) or '&nbsp;'}<i style='width:{100 * chance:.0f}%'></i>"
        f"<small>{chance:.2f}</small></span>"
        for word, chance in pairs
    )
    return f"<p class='explanation'>{cells}</p>"


def paired(before: Sequence[tuple[str, float]], after: Sequence[tuple[str, float]]) -> list[tuple[str, float, float]]:
    """Two lists of likeliest tokens as one; what is missing from a list is below all of it, and counts as 0."""
    sides = dict(before), dict(after)
    names = sorted({**sides[0], **sides[1]}, key=lambda t: -max(sides[0].get(t, 0.0), sides[1].get(t, 0.0)))
    return [(name, sides[0].get(name, 0.0), sides[1].get(name, 0.0)) for name in names]


def likely(pairs: Sequence[tuple[str, float, float]]) -> Sequence[tuple[str, float, float]]:
    """The first few, without those that would be shown as 0 on both sides."""
    shown = [pair for pair in pairs if max(pair[1:]) >= LEAST]
    return shown[:MOST] or pairs[:1]


def amounts(pairs: Sequence[tuple[str, float]]) -> str:
    """A bar for each number; the first is the lens's own."""
    worst = max((value for _, value in pairs), default=0.0) or 1.0
    lines = "".join(
        f"<li><b>{safe(name)}</b><span class='pair'><span class='track'><i class='bar {'two' if i else 'one'}' "
        f"style='width:{100 * value / worst:.1f}%'></i><small>{nats(value)}</small></span></span></li>"
        for i, (name, value) in enumerate(pairs)
    )
    return f"<ul class='bars wide'>{lines}</ul>"


# A part is drawn by its kind, which the family names.
_DRAWN: dict[str, Callable[[Any], str]] = {
    "figures": lambda part: numbers(part.items),
    "spelled": lambda part: words(part.items),
    "bars": lambda part: bars(likely(paired(part.before, part.after)), part.names),
    "amounts": lambda part: amounts(part.items),
    "grid": lambda part: table(part.headers, part.rows, numeric=part.numeric),
}


def parts(found: Sequence[Any]) -> str:
    """Parts of a page: those with a title side by side, the others as wide as they may be."""
    shown = []
    for titled, group in groupby(found, key=lambda part: bool(part.title)):
        if titled:
            cells = "".join(f"<div><h4>{safe(part.title)}</h4>{_DRAWN[part.kind](part)}</div>" for part in group)
            shown.append(f"<div class='columns'>{cells}</div>")
        else:
            shown += [_DRAWN[part.kind](part) for part in group]
    return "".join(shown)


def near(found: Any) -> str:
    """One row from near, and what can be changed about it: a `Near` of the family."""
    title = f"{safe(found.unit)} {found.position}: <q>{safe(found.token)}</q>"
    return (
        f"<section class='near' aria-live='polite'><h3>{title}</h3>{parts(found.parts)}</section>"
        f"{panel(found.controls, found.act)}"
    )
