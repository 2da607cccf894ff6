"""Scan: all tokens at once, as a table to sort, to take home and to share."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Any

import gradio as gr
from desk import Desk, Follower
from drawing import nats, numbers
from links import ORDERS, Choice
from looks import Row
from tables import KINDS, as_csv, as_parquet, cells, headers, shown_columns

from consistency_lens import BadInput

WIDTHS = ["60px", "100px", "90px", "300px", "90px", "235px", "235px"]
# The address of the page is the browser's to know.
SHARE = "(query) => { if (query) history.replaceState(null, '', query); return location.href; }"

LABELS = ("as in the text", "worst KL first", "best KL first", "lowest cosine first", "explanations from a to z")
KEYS: dict[str, Callable[[Row], Any]] = {
    "text": lambda row: row["position"],
    "worst": lambda row: -row["kl"],
    "best": lambda row: row["kl"],
    "cosine": lambda row: row.get("cosine", 0.0),
    "words": lambda row: row["explanation"],
}


def table_of(rows: list[Row], order: str = ORDERS[0]) -> Any:
    """What the table shows."""
    if order not in KEYS:
        raise BadInput("order", order, f"Use one of: {', '.join(KEYS)}.")
    return {"headers": headers(rows), "data": cells(sorted(rows, key=KEYS[order]))}


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


def shown_of(desk: Desk, choice: Choice, rows: list[Row], order: str = ORDERS[0]) -> tuple[str, str, Any]:
    """Figures, files and table; all are empty where nothing could be read."""
    if not rows:
        return "", "", table_of(rows)
    return summary(rows), downloads(desk, choice, rows), table_of(rows, order)


def build(desk: Desk) -> Follower:
    """The components of the tab, and what fills them after a text has been read."""
    figures = gr.HTML(elem_id="figures")
    files = gr.HTML(elem_id="files")
    link = gr.Textbox(label="Link to what you see", interactive=False, buttons=["copy"], elem_id="link")
    orders = list(zip(LABELS, ORDERS, strict=True))
    order = gr.Dropdown(orders, value=ORDERS[0], allow_custom_value=True, label="Order", elem_id="order")
    shown = gr.Dataframe(
        headers=headers([]),
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

    def laid_out(table: Any, rows: list[Row]) -> Any:
        columns = shown_columns(rows)
        kinds, widths = ([each[i] for i in columns] for each in (KINDS, WIDTHS))
        return gr.Dataframe(table, headers=table["headers"], datatype=kinds, column_widths=widths)

    def put_in(order: str, rows: list[Row]) -> tuple[Any, str]:
        order = order if order in ORDERS else ORDERS[0]
        return laid_out(table_of(rows, order), rows), order

    put = order.input(put_in, [order, desk.rows], [shown, desk.order], queue=False, api_visibility="private")
    desk.link(put.success)

    def show(choice: Choice, rows: list[Row], order: str) -> tuple[Any, ...]:
        *beside, table = shown_of(desk, choice, rows, order)
        return *beside, laid_out(table, rows), order

    return show, [figures, files, shown, order]
