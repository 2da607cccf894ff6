"""HTML for what Gradio has no component for. Everything that is not ours goes through `safe`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from looks import Look, Row

STEPS = (0.02, 0.1, 0.5, 2.0)  # nats, between the five colours
NAMES = ("the same", "near", "moved", "different", "lost")


def safe(text: Any) -> str:
    """Text in HTML; what would be invisible can be seen."""
    return escape(str(text).replace("\n", "↵").replace("\t", "⇥"))


def unmarked(text: Any) -> str:
    """Text in Markdown, in which nothing is marked up."""
    line = str(text).replace("\n", " ")
    return re.sub(r"[\\`*_{}\[\]()#+\-.!|<>~$&:@/]", lambda found: f"&#{ord(found[0])};", line)


def level(kl: float) -> int:
    """0 (says the same) to 4 (lost): which of the five colours."""
    return sum(kl >= step for step in STEPS)


def nats(kl: float) -> str:
    return f"{kl:.3f}" if kl < 9.9995 else f"{kl:.1f}"


def notice(text: str = "", kind: str = "note", done: int = 0, of: int = 0) -> str:
    """What has to be said: a `note`, an `error`, or, while something is `busy`, how far it is."""
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


def tokens(rows: Sequence[Row], chosen: int, since: int = 0) -> str:
    """The text as a row of buttons: one stop of the Tab key, arrows move inside it, Enter opens.

    Args:
        rows: one per token.
        chosen: which one is open.
        since: the first position that the lens's report has measured; those before it are drawn with a broken line.
    """
    if not rows:
        return ""
    within = chosen if any(row["position"] == chosen for row in rows) else rows[0]["position"]
    buttons = []
    for row in rows:
        here = row["position"] == within
        label = f"token {row['position']}, {row['token']}, KL {nats(row['kl'])}"
        buttons.append(
            f"<button type='button' class='token kl{level(row['kl'])} {'early' if row['position'] < since else ''}' "
            f"data-position='{row['position']}' "
            f"tabindex='{0 if here else -1}' aria-pressed='{str(here).lower()}' aria-label='{safe(label)}' "
            f"title='{safe(row['explanation'])}'>{safe(row['token']) or '&nbsp;'}"
            f"<small>{nats(row['kl'])}</small></button>"
        )
    name = "Tokens of the text. Arrow keys move, Enter opens."
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


def near(found: Look) -> str:
    """One token from near."""
    facts = numbers(
        [
            ("KL", nats(found.kl), "nats between what the model says next and what it says after the swap"),
            ("cosine", f"{found.cosine:.3f}", "of the restored activation and the real one"),
            ("agreement", f"{found.agreement:.0%}", "of these words are in another sample, on average"),
        ]
    )
    samples = table(
        ["drawn again", "times", "per token", "KL"],
        [(s.text, f"{s.times} ×", f"{s.probability:.2f}", nats(s.kl)) for s in found.samples],
    )
    worst = max([found.kl, *(kl for _, kl in found.controls)]) or 1.0
    lines = [("the lens", found.kl, "one"), *((name, kl, "two") for name, kl in found.controls)]
    controls = "".join(
        f"<li><b>{safe(name)}</b><span class='pair'><span class='track'><i class='bar {side}' "
        f"style='width:{100 * kl / worst:.1f}%'></i><small>{nats(kl)}</small></span></span></li>"
        for name, kl, side in lines
    )
    return (
        f"<section class='near' aria-live='polite'><h3>Token {found.position}: <q>{safe(found.token)}</q></h3>"
        f"{words(found.words)}{facts}<div class='columns'>"
        f"<div><h4>What the model says next</h4>{bars(found.bars, ('by itself', 'after the swap'))}</div>"
        f"<div><h4>In its place, KL in nats</h4><ul class='bars wide'>{controls}</ul></div>"
        f"<div><h4>How sure the words are</h4>{samples}</div></div></section>"
    )
