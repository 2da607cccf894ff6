"""Read: the text coloured by how well each explanation stands in for its activation, and one token from near."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from desk import MODEL, Desk, Follower, in_turn, number_of, told
from drawing import near, notice, tokens
from links import Choice
from looks import Row, look
from reports import measured_since
from texts import unknown_words

SCRIPT = (Path(__file__).parents[1] / "tokens.js").read_text(encoding="utf-8")


def reading(desk: Desk, wanted: Choice) -> Iterator[tuple[Any, ...]]:
    """Choice, rows, coloured text, one token from near, and a notice: as far as it has come, again and again."""
    choice, lens = desk.settled(wanted)
    yield gr.skip(), gr.skip(), gr.skip(), gr.skip(), notice("Reading …", "busy")
    rows: list[Row] = []
    since = measured_since(desk.lenses.folders[choice.lens])
    for rows, of in desk.scans.read(choice.lens, choice.text):
        if len(rows) < of:
            coming = notice(f"{len(rows)} of {of} tokens", "busy", len(rows), of)
            # With the text that they are of, so that whoever stops here has not two texts at once.
            yield choice.at(0), rows, tokens(rows, 0, since), "", coming
    last = rows[-1]["position"]
    choice = choice.at(min(choice.position or last, last))
    found = look(lens, choice.text, choice.position)
    assert lens.subject is not None
    odd = unknown_words(choice.text, lens.subject)
    said = f"The model does not know {', '.join(odd[:8])}: it reads them as {lens.subject.tokenizer.unk_token}."
    yield choice, rows, tokens(rows, choice.position, since), near(found), notice(said if odd else "")


def opening(desk: Desk, choice: Choice, position: float) -> Iterator[tuple[Any, ...]]:
    """Choice, one token from near, and a notice."""
    choice, lens = desk.settled(choice)
    choice = choice.at(int(number_of("position", position)))
    found = look(lens, choice.text, choice.position)
    yield choice, near(found), notice()


def build(desk: Desk, followers: list[Follower]) -> list[Any]:
    """The components of the tab: the coloured text and the token from near. Other tabs follow what is opened here."""
    strip = gr.HTML(js_on_load=SCRIPT, elem_id="tokens")
    position = gr.Number(precision=0, visible=False)
    detail = gr.HTML(elem_id="near")

    @in_turn
    @told(2)
    def open_token(choice: Choice, index: float) -> Iterator[tuple[Any, ...]]:
        yield from opening(desk, choice, index)

    def chosen(event: gr.SelectData) -> int:
        return int(event.index)

    picked = strip.select(chosen, None, position, queue=False, api_visibility="private")
    given, outputs = [desk.choice, position], [desk.choice, detail, desk.notice]
    opened = picked.then(open_token, given, outputs, api_name="open", **MODEL)
    desk.follow(opened, followers)
    return [strip, detail]


def on_demand(
    desk: Desk, event: Any, outputs: list[Any], followers: list[Follower], text: Any = None
) -> gr.events.Dependency:
    """Read the text, or that of another component, when something happens."""

    @in_turn
    @told(4)
    def read(name: str, text: str) -> Iterator[tuple[Any, ...]]:
        yield from reading(desk, Choice(name, text))

    work = event(read, [desk.lens, text or desk.text], outputs, api_name="read", **MODEL)
    desk.follow(work, followers)
    return work
