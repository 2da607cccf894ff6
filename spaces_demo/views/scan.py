"""Scan: all tokens at once, as a table to sort, to take home and to share."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import gradio as gr
from desk import Desk, Follower
from drawing import nats, numbers
from links import Choice
from looks import Row
from tables import HEADERS, KINDS, as_csv, as_parquet, cells

WIDTHS = ["60px", "100px", "90px", "300px", "90px", "235px", "235px"]
# The address of the page is the browser's to know.
SHARE = "(query) => { if (query) history.replaceState(null, '', query); return location.href; }"


def table_of(rows: list[Row]) -> Any:
    """What the table shows."""
    return {"headers": HEADERS, "data": cells(rows)}


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


def build(desk: Desk) -> Follower:
    """The components of the tab, and what fills them after a text has been read."""
    figures = gr.HTML(elem_id="figures")
    files = gr.HTML(elem_id="files")
    link = gr.Textbox(label="Link to what you see", interactive=False, buttons=["copy"], elem_id="link")
    shown = gr.Dataframe(
        headers=HEADERS,
        datatype=KINDS,
        column_widths=WIDTHS,
        interactive=False,
        wrap=True,
        max_height=620,
        buttons=["fullscreen"],
        label="Click a column's name to sort",
        elem_id="scan",
    )
    desk.query.change(None, desk.query, link, js=SHARE)

    def show(choice: Choice, rows: list[Row]) -> tuple[Any, ...]:
        return summary(rows), downloads(desk, choice, rows), table_of(rows)

    return show, [figures, files, shown]
