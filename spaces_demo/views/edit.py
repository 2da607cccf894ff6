"""Edit: other words for an activation, what the encoder makes of the difference, and how the predictions change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
from desk import MODEL, Desk, Follower, in_turn, number_of, told
from drawing import bars, nats, notice, numbers, paired
from links import Choice
from looks import Row
from marking import safe
from texts import checked

from consistency_lens import BadInput, Steered, view_of

TOP = 6


def drawn(found: Steered) -> str:
    """Before and after."""
    spill = "none to measure" if found.off_target is None else nats(found.off_target)
    over = f"nats, mean over {found.off_target_tokens} later tokens that have nothing to do with the changed words"
    facts = numbers(
        [
            ("KL", nats(found.kl), "nats from the unedited model's next token"),
            ("off target", spill, over),
            ("size", f"{found.size:.2f}", "of what was added, over the activation's own norm"),
        ]
    )
    sides = [
        f"<div><h4>{name}</h4><p class='said'>… <q>{safe(found.token)}</q> <b>{safe(text)}</b></p></div>"
        for name, text in (("It goes on", found.continuation_before), ("Edited, it goes on", found.continuation_after))
    ]
    return (
        f"<section class='near' aria-live='polite'><h3>At token {found.position}, <q>{safe(found.token)}</q></h3>"
        f"<p class='change'><del>{safe(found.old_explanation)}</del> "
        f"<ins>{safe(found.new_explanation)}</ins></p>{facts}"
        f"<div class='columns'><div><h4>What the model says next</h4>"
        f"{bars(paired(found.before, found.after)[:TOP], ('by itself', 'edited'))}</div>"
        f"{''.join(sides)}</div></section>"
    )


def steering(
    desk: Desk,
    choice: Choice,
    position: Any,
    words: str,
    strength: float,
    temperature: float,
    length: float,
    seed: float,
) -> Iterator[tuple[Any, ...]]:
    """What came of it, and a notice."""
    if position is not None:
        choice = choice.at(position_of(position))
    choice, chosen = desk.settled(choice)
    lens: Any = chosen
    if not view_of(lens).speaks:
        why = f"the code of {choice.lens} holds no words"
        raise BadInput("lens", choice.lens, "Turn what stands under Read, or choose a lens that writes words.", why)
    words = checked(words, lens.subject, "explanation")
    yield gr.skip(), notice("The model is thinking again …", "busy")
    found = lens.steer(
        choice.text,
        choice.position or -1,
        words,
        strength=number_of("strength", strength),
        continuation_length=int(number_of("tokens", length)),
        temperature=number_of("temperature", temperature),
        seed=int(number_of("seed", seed)),
        top=TOP,
    )
    yield drawn(found), notice()


def position_of(given: Any) -> int:
    """The number of a token, chosen from the list or typed."""
    number = str(given).partition(":")[0].strip()
    if not (number.isascii() and number.isdigit() and len(number) < 8 and int(number) > 0):
        raise BadInput("position", str(given), "Give the number of a token, from 1 on.")
    return int(number)


def options(rows: list[Row]) -> list[tuple[str, int]]:
    """The tokens to choose from."""
    return [(f"{row['position']}: {row['token'].strip() or repr(row['token'])}", row["position"]) for row in rows]


def build(desk: Desk) -> Follower:
    """The components of the tab, and what fills them after a text has been read or a token opened."""
    gr.Markdown("Change the words. The encoder turns the change into a direction, and it is added to the activation.")
    with gr.Row():
        token = gr.Dropdown([], label="At token", allow_custom_value=True, elem_id="edit-token", min_width=160)
        words = gr.Textbox(label="What the lens says there: change it", elem_id="edit-words", min_width=260, scale=3)
        strength = gr.Slider(-4, 8, 1, step=0.25, label="Strength", elem_id="strength", min_width=220, scale=2)
    with gr.Accordion("How it goes on", open=False), gr.Row():
        temperature = gr.Slider(0, 2, 0, step=0.1, label="Temperature (0: likeliest words)", min_width=200)
        length = gr.Slider(1, 64, 16, step=1, label="Tokens", min_width=200)
        seed = gr.Number(0, label="Seed", precision=0, min_width=120)
    with gr.Row():
        act = gr.Button("Edit its mind", variant="primary", elem_id="steer", min_width=160)
        stop = gr.Button("Stop", elem_id="steer-stop", scale=0, min_width=110)
    result = gr.HTML(elem_id="edited")

    def follow(choice: Choice, found: list[Row], _order: str) -> tuple[Any, ...]:
        said = next((row["explanation"] for row in found if row["position"] == choice.position), "")
        return gr.Dropdown(options(found), value=choice.position if said else None), said

    def other_token(position: Any, found: list[Row]) -> str:
        return next((row["explanation"] for row in found if str(row["position"]) == str(position)), "")

    @in_turn
    @told(1)
    def steer(choice: Choice, *given: Any) -> Iterator[tuple[Any, ...]]:
        yield from steering(desk, choice, *given)

    token.input(other_token, [token, desk.rows], words, queue=False, api_visibility="private")
    inputs = [desk.choice, token, words, strength, temperature, length, seed]
    work = gr.on([act.click, words.submit], steer, inputs, [result, desk.notice], api_name="steer", **MODEL)
    desk.stop(stop, [work])
    return follow, [token, words]
