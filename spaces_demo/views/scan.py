"""Scan: all tokens at once, as a table to sort, to take home and to share."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Any

import gradio as gr
from desk import Desk, Follower
from drawing import nats, numbers
from links import Choice
from looks import Row
from tables import HEADERS, KINDS, as_csv, as_parquet, cells

from consistency_lens import BadInput

WIDTHS = ["60px", "100px", "90px", "300px", "90px", "235px", "235px"]
# The address of the page is the browser's to know.
SHARE = "(query) => { if (query) history.replaceState(null, '', query); return location.href; }"


ORDERS: dict[str, Callable[[Row], Any]] = {
    "as in the text": lambda row: row["position"],
    "worst KL first": lambda row: -row["kl"],
    "best KL first": lambda row: row["kl"],
    "lowest cosine first": lambda row: row["cosine"],
    "explanations from a to z": lambda row: row["explanation"],
}


def table_of(rows: list[Row], order: str = "as in the text") -> Any:
    """What the table shows."""
    if order not in ORDERS:
        raise BadInput("order", order, f"Use one of: {', '.join(ORDERS)}.")
    return {"headers": HEADERS, "data": cells(sorted(rows, key=ORDERS[order]))}


def summary(rows: list[Row]) -> str:
    """The text as a whole in three numbers."""
    kl = sorted(row["kl"] for row in rows)
    same = sum(row["before"][0][0] == row["after"][0][0] for row in rows) / len(rows)
    return numbers(
        [
            ("tokens", str(len(rows)), "explained"),
            ("median KL", nats(kl[len(kl) // 2]), f"nats; the worst is {nats(kl[-1])}"),
            ("same next token", f"{same:.0%}", "of tokens have the same likeliest next token after the swap"),
        ]
    )


def downloads(desk: Desk, choice: Choice, rows: list[Row]) -> str:
    """The scan as two links that hold the files themselves: nothing is left behind on the server."""
    lens = desk.lenses.get(choice.lens)
    facts = {"text": choice.text, "lens": choice.lens, "site": ", ".join(lens.config.sites or [])}
    kinds = (("Parquet", "application/vnd.apache.parquet", as_parquet(rows, facts)), ("CSV", "text/csv", as_csv(rows)))
    links = [
        f"<a class='file' id='{name.lower()}' download='scan.{name.lower()}' "
        f"href='data:{mime};base64,{b64encode(content).decode()}'>Download {name}</a>"
        for name, mime, content in kinds
    ]
    return f"<p class='files'>{''.join(links)}</p>"


def shown_of(desk: Desk, choice: Choice, rows: list[Row]) -> tuple[str, str, Any]:
    """Figures, files and table; all are empty where nothing could be read."""
    if not rows:
        return "", "", table_of(rows)
    return summary(rows), downloads(desk, choice, rows), table_of(rows)


def build(desk: Desk) -> Follower:
    """The components of the tab, and what fills them after a text has been read."""
    figures = gr.HTML(elem_id="figures")
    files = gr.HTML(elem_id="files")
    link = gr.Textbox(label="Link to what you see", interactive=False, buttons=["copy"], elem_id="link")
    order = gr.Dropdown(list(ORDERS), value="as in the text", label="Order", elem_id="order")
    shown = gr.Dataframe(
        headers=HEADERS,
        datatype=KINDS,
        column_widths=WIDTHS,
        interactive=False,
        wrap=True,
        max_height=620,
        buttons=["fullscreen"],
        label="A column's ⋮ sorts and filters it",
        elem_id="scan",
    )
    desk.query.change(None, desk.query, link, js=SHARE)

    order.input(table_of, [desk.rows, order], shown, queue=False, api_visibility="private")

    def show(choice: Choice, rows: list[Row]) -> tuple[Any, ...]:
        return *shown_of(desk, choice, rows), "as in the text"

    return show, [figures, files, shown, order]
