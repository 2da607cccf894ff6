"""The address of the page: what a visitor who follows a link finds, and how the link keeps up with what he does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr
from desk import MODEL, Desk, Follower, in_turn, sentence, told
from drawing import notice
from links import Choice, choice_of
from views.read import reading

from consistency_lens import BadInput


def arrive(desk: Desk, query: str, text: str) -> tuple[Choice, str, str, str, str]:
    """What an address asks for, before anything is read: choice, lens, text, tab, and a notice.

    Args:
        desk: with the lenses.
        query: the part of the address from the question mark on.
        text: what to read where the address holds no text.
    """
    start = Choice(desk.lenses.default)
    try:
        asked = choice_of(query, start.lens)
        asked = replace(asked, lens=desk.lenses.known(asked.lens), text=asked.text or text)
        return asked, asked.lens, asked.text, asked.tab, notice()
    except BadInput as error:  # nothing is read then, so that the message stays
        return start, start.lens, text, start.tab, notice(sentence(error), "error")


def build(
    desk: Desk, page: gr.Blocks, tabs: gr.Tabs, text: str, outputs: list[Any], followers: list[Follower]
) -> gr.events.Dependency:
    """Fill the page when it is opened."""
    address = gr.Textbox(visible=False)

    def open_link(query: str) -> tuple[Any, ...]:
        choice, lens, shown, tab, said = arrive(desk, query or "", text)
        # With those that were opened since the page was made.
        there = gr.Dropdown(choices=desk.lenses.names, value=lens)
        return choice, there, shown, gr.Tabs(selected=tab), tab, choice.order, said

    @in_turn
    @told(4)
    def read(choice: Choice) -> Iterator[tuple[Any, ...]]:
        if choice.text:
            yield from reading(desk, choice)
        else:  # of a generator that yields nothing all outputs are emptied, the message too
            yield (gr.skip(),) * len(outputs)

    parts = [desk.choice, desk.lens, desk.text, tabs, desk.tab, desk.order, desk.notice]
    search = "() => [window.location.search]"
    opened = page.load(open_link, address, parts, js=search, queue=False, api_visibility="private")
    work = opened.success(read, desk.choice, outputs, api_visibility="private", **MODEL)
    desk.follow(work, followers)
    return work


def remember(desk: Desk, tab: gr.Tab, key: str) -> None:
    """Let the link lead to the tab that is open."""
    turned = tab.select(lambda: key, None, desk.tab, queue=False, api_visibility="private")
    desk.link(turned.then)
