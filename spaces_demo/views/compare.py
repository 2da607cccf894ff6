"""Compare: two lenses, or two stages of one, on the same text; and how a lens became what it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr
from brought import brought_by
from curves import draw, history_of
from desk import MODEL, Desk, in_turn, sentence, told
from drawing import nats, notice, numbers
from lenses import run_of
from links import Choice
from looks import Row
from marking import safe

from consistency_lens import BadInput
from consistency_lens.card import columns

SIDES = [columns.heading(name) + which for name in ("kl", "explanation") for which in (", first", ", second")]
HEADERS = [columns.heading("position"), columns.heading("token"), *SIDES]
KINDS = ["number", "str", "number", "number", "str", "str"]
WIDTHS = ["60px", "120px", "100px", "100px", "365px", "365px"]


def side_by_side(first: list[Row], second: list[Row]) -> list[list[Any]]:
    """One line per token."""
    return [
        [a["position"], a["token"], round(a["kl"], 4), round(b["kl"], 4), a["explanation"], b["explanation"]]
        for a, b in zip(first, second, strict=True)
    ]


def summary(names: tuple[str, str], first: list[Row], second: list[Row]) -> str:
    """Which serves this text better."""
    means = [sum(row["kl"] for row in rows) / len(rows) for rows in (first, second)]
    wins = sum(a["kl"] < b["kl"] for a, b in zip(first, second, strict=True))
    same = sum(a["explanation"] == b["explanation"] for a, b in zip(first, second, strict=True))
    facts = [
        (f"mean KL, {place}", nats(m), name) for place, m, name in zip(("first", "second"), means, names, strict=True)
    ]
    shares = [
        ("first is nearer", f"{wins} of {len(first)}", "tokens"),
        ("same words", f"{same} of {len(first)}", "tokens"),
    ]
    return numbers(facts + shares)


def comparing(desk: Desk, choice: Choice, first: str, second: str) -> Iterator[tuple[Any, ...]]:
    """Figures, a table, the curves, and a notice."""
    found = []
    first, second = (desk.lenses.known(name) for name in (first, second))
    for name in (first, second):
        settled, _ = desk.settled(replace(choice, lens=name))
        yield gr.skip(), gr.skip(), gr.skip(), notice(f"Reading with {settled.lens} …", "busy")
        rows: list[Row] = []
        for rows, of in desk.scans.read(settled.lens, settled.text):
            yield (
                gr.skip(),
                gr.skip(),
                gr.skip(),
                notice(f"{settled.lens}: {len(rows)} of {of} tokens", "busy", len(rows), of),
            )
        found.append(rows)
    first_tokens, second_tokens = ([row["token"] for row in rows] for rows in found)
    if first_tokens != second_tokens:
        yield gr.skip(), gr.skip(), gr.skip(), notice("They cut the text into different pieces.", "error")
        return
    table = {"headers": HEADERS, "data": side_by_side(*found)}
    yield summary((first, second), *found), table, curves(desk, first, second), notice()


def curves(desk: Desk, *names: str) -> str:
    """The training of these lenses; stages of one run share it."""
    runs = {run_of(desk.lenses.folders[name]): name.partition(" · ")[0] for name in names}
    try:
        histories = {name: history_of(run) for run, name in runs.items()}
        with brought_by(next(iter(runs)), "history.json", "Its training cannot be shown."):
            return draw(histories)
    except BadInput as error:  # a lens is worth looking at without it
        return f"<p class='empty'>{safe(sentence(error))}</p>"


def build(desk: Desk, tab: gr.Tab) -> None:
    names = desk.lenses.names
    with gr.Row():
        given: dict[str, Any] = {"choices": names, "allow_custom_value": True, "min_width": 200}
        first = gr.Dropdown(value=names[0], label="First", elem_id="first", **given)
        second = gr.Dropdown(value=names[min(1, len(names) - 1)], label="Second", elem_id="second", **given)
    with gr.Row():
        act = gr.Button("Compare", variant="primary", elem_id="compare", min_width=160)
        stop = gr.Button("Stop", elem_id="compare-stop", scale=0, min_width=110)
    figures = gr.HTML(elem_id="compared")
    table = gr.Dataframe(
        headers=HEADERS,
        datatype=KINDS,
        column_widths=WIDTHS,
        interactive=False,
        wrap=True,
        max_height=520,
        buttons=["fullscreen"],
        label="A column's ⋮ sorts and filters it",
        elem_id="both",
    )
    gr.Markdown("### How it was trained")
    curve = gr.HTML(curves(desk, names[0]), elem_id="curve")

    @in_turn
    @told(3)
    def compare(choice: Choice, *given: str) -> Iterator[tuple[Any, ...]]:
        yield from comparing(desk, choice, *given)

    outputs = [figures, table, curve, desk.notice]
    # A lens may have been opened since the page was made, by this visitor or another one.
    for event in (tab.select, desk.lens.change):
        event(lambda: desk.offered(2), None, [first, second], queue=False, api_visibility="private")
    work = act.click(compare, [desk.choice, first, second], outputs, api_name="compare", **MODEL)
    desk.stop(stop, [work])
