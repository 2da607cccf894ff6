"""Read: the text coloured by what the code of each token keeps, one token from near, and what comes of a change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from desk import MODEL, Desk, Follower, in_turn, number_of, told
from drawing import near, notice, parts, tokens
from links import Choice
from looks import Row
from reports import measured_since
from texts import LONGEST as LONGEST_TEXT
from texts import unknown_words

from consistency_lens import BadInput, view_of

SCRIPTS = {
    name: (Path(__file__).parents[1] / f"{name}.js").read_text(encoding="utf-8") for name in ("tokens", "panel")
}
LONGEST = 20_000  # characters of all values of a panel
# A request that is too large would be refused before anybody could say why: one character too many is enough for that.
CUT = f"(lens, text) => [lens, String(text ?? '').slice(0, {LONGEST_TEXT + 1})]"


def reading(desk: Desk, wanted: Choice) -> Iterator[tuple[Any, ...]]:
    """Choice, rows, coloured text, one token from near, and a notice: as far as it has come, again and again."""
    choice, lens = desk.settled(wanted)
    yield gr.skip(), gr.skip(), gr.skip(), gr.skip(), notice("Reading …", "busy")
    rows: list[Row] = []
    view = view_of(lens)
    since = measured_since(desk.lenses.folders[choice.lens])
    for rows, of in desk.scans.read(choice.lens, choice.text):
        if len(rows) < of:
            coming = notice(f"{len(rows)} of {of} {view.unit.lower()}s", "busy", len(rows), of)
            # With the text that they are of, so that whoever stops here has not two texts at once.
            yield choice.at(0), rows, tokens(rows, 0, since, view.unit), "", coming
    last = rows[-1]["position"]
    choice = choice.at(min(choice.position or last, last))
    found = view.near(choice.text, choice.position)
    assert lens.subject is not None
    odd = unknown_words(choice.text, lens.subject)
    said = f"The model does not know {', '.join(odd[:8])}: it reads them as {lens.subject.tokenizer.unk_token}."
    strip = tokens(rows, choice.position, since, view.unit)
    yield choice, rows, strip, near(found), notice(said if odd else "")


def opening(desk: Desk, choice: Choice, position: float) -> Iterator[tuple[Any, ...]]:
    """Choice, one token from near, and a notice."""
    choice, lens = desk.settled(choice)
    choice = choice.at(int(number_of("position", position)))
    yield choice, near(view_of(lens).near(choice.text, choice.position)), notice()


def changing(desk: Desk, choice: Choice, values: str) -> Iterator[tuple[Any, ...]]:
    """What comes of a change, and a notice.

    Args:
        desk: with the lenses.
        choice: what is open.
        values: of the controls, a JSON object; what is not named is as it was at first.
    """
    choice, lens = desk.settled(choice)
    yield gr.skip(), notice("Computing …", "busy")
    found = view_of(lens).changed(choice.text, choice.position, parsed(values))
    yield f"<section class='near' aria-live='polite'>{parts(found)}</section>", notice()


def parsed(values: str) -> Any:
    """The values of a panel, which anybody may have written."""
    if not isinstance(values, str) or len(values) > LONGEST:
        raise BadInput("values", str(values)[:40], f"Give a JSON object of at most {LONGEST:,} characters.")
    try:
        return json.loads(values or "{}")
    except (ValueError, RecursionError) as error:
        raise BadInput("values", values[:40], "Give a JSON object.", "it is no JSON") from error


def build(desk: Desk, followers: list[Follower]) -> tuple[list[Any], gr.HTML]:
    """The components of the tab, the coloured text and the token from near; and where the result of a change is, which
    has to be emptied when another text is read. Other tabs follow what is opened here."""
    strip = gr.HTML(js_on_load=SCRIPTS["tokens"], elem_id="tokens")
    position = gr.Number(precision=0, visible=False)
    detail = gr.HTML(js_on_load=SCRIPTS["panel"], elem_id="near")
    values = gr.Textbox(visible=False)
    result = gr.HTML(elem_id="changed")

    @in_turn
    @told(2)
    def open_token(choice: Choice, index: float) -> Iterator[tuple[Any, ...]]:
        yield from opening(desk, choice, index)

    def chosen(event: gr.SelectData) -> tuple[int, str]:
        return int(event.index), ""  # the result that is shown was of another token

    picked = strip.select(chosen, None, [position, result], queue=False, api_visibility="private")
    outputs = [desk.choice, detail, desk.notice]
    opened = picked.then(open_token, [desk.choice, position], outputs, api_name="open", **MODEL)
    desk.follow(opened, followers)

    @in_turn
    @told(1)
    def change(choice: Choice, given: str) -> Iterator[tuple[Any, ...]]:
        yield from changing(desk, choice, given)

    def given(event: gr.SelectData) -> str:
        return str(event.value)

    last: dict[str, Any] = {"trigger_mode": "always_last"}  # of changes that come while one is computed
    turned = detail.select(given, None, values, queue=False, api_visibility="private", **last)
    turned.then(change, [desk.choice, values], [result, desk.notice], api_name="change", **last, **MODEL)
    return [strip, detail], result


def on_demand(
    desk: Desk, event: Any, outputs: list[Any], followers: list[Follower], text: Any = None
) -> gr.events.Dependency:
    """Read the text, or that of another component, when something happens."""

    @in_turn
    @told(4)
    def read(name: str, text: str) -> Iterator[tuple[Any, ...]]:
        yield from reading(desk, Choice(name, text))

    work = event(read, [desk.lens, text or desk.text], outputs, api_name="read", js=CUT, **MODEL)
    desk.follow(work, followers)
    return work
