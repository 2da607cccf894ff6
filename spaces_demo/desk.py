"""What all tabs share: the lens and the text that were chosen, what was read of it, and a place for messages."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import wraps
from threading import Lock
from typing import Any

import gradio as gr
from drawing import notice
from lenses import Lenses
from links import ORDERS, Choice
from looks import Row, scan
from texts import checked, glimpse

from consistency_lens import BadInput, LensModel

REMEMBERED = 1 << 12  # rows, about 2.5 kB each
BEYOND = 1e15  # what no number on the page needs
Follower = tuple[Callable[..., Any], list[Any]]  # what a tab shows of a choice and its rows, and where
# All work of models waits in one line: whoever came first is served first, whatever the tab.
MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
_AT_WORK, _DONE = Lock(), object()
# Said by the browser itself, and only where there is something to stop.
STOPPING = f'said => said?.includes("notice busy") ? {json.dumps(notice("Stopping …"))} : said'


class Scans:
    """What was read last, for everybody: a text that somebody has read costs the next one nothing."""

    def __init__(self, lenses: Lenses) -> None:
        self.lenses = lenses
        self._kept: OrderedDict[tuple[str, str], list[Row]] = OrderedDict()
        self._lock = Lock()

    def read(self, name: str, text: str) -> Iterator[tuple[list[Row], int]]:
        """The rows so far and how many there will be."""
        with self._lock:
            rows = self._kept.get((name, text))
        if rows is not None:
            yield rows, len(rows)
            return
        of = 0
        for rows, of in scan(self.lenses.get(name), text):
            yield rows, of
        assert rows is not None and len(rows) == of
        with self._lock:
            self._kept[name, text] = rows
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > REMEMBERED:
                self._kept.popitem(last=False)


@dataclass
class Desk:
    """The components that every tab works with.

    Args:
        lenses, scans: what there is, and what was read.
        lens, text: what the visitor is about to read.
        choice, rows: what was read last; a `Choice`, and a row per token.
        notice: where messages go.
        query: the link to it, without the address of the page.
        tab: the one that is open. Not kept in `choice`: a tab may be turned to while a text is being read, and of two
            events that write the same state the slower one would undo the other.
        order: of the table, for the same reason.
    """

    lenses: Lenses
    scans: Scans
    lens: gr.Dropdown
    text: gr.Textbox
    choice: gr.State
    rows: gr.State
    notice: gr.HTML
    query: gr.Textbox
    tab: gr.State
    order: gr.State

    def settled(self, choice: Choice) -> tuple[Choice, LensModel]:
        """The choice with a lens that there is and a text that it can read; raise where there is none such. Nothing
        that comes from a visitor is taken on trust, not even what he was given a moment ago."""
        name = self.lenses.known(choice.lens)
        lens = self.lenses.get(name)
        assert lens.subject is not None
        return replace(choice, lens=name, text=checked(choice.text, lens.subject)), lens

    def offered(self, times: int) -> list[Any]:
        """The lenses that there are by now, for so many lists of them; what is chosen in each stays."""
        return [gr.Dropdown(choices=self.lenses.names) for _ in range(times)]

    def follow(self, event: Any, followers: Sequence[Follower]) -> None:
        """After an event that succeeded, bring the link and other tabs up to date."""
        event = self.link(event.success)
        for show, outputs in followers:
            given = [self.choice, self.rows, self.order]
            event = event.success(show, given, outputs, queue=False, api_visibility="private")

    def link(self, event: Any) -> Any:
        """Let the link lead to what is shown when this happens."""
        return event(link_to, [self.choice, self.tab, self.order], self.query, queue=False, api_visibility="private")

    def stop(self, button: gr.Button, work: Sequence[Any], followers: Sequence[Follower] = ()) -> None:
        """Let a button stop this work. What is being computed is finished first, and until then the page is deaf to a
        new click: that it has stopped is said by an event which the browser sends once the cancelling is through.
        Followers show what there is by then."""
        cancelling: dict[str, Any] = {"cancels": list(work), "queue": False, "api_visibility": "private"}
        button.click(None, self.notice, self.notice, js=STOPPING, **cancelling)
        for event in work:
            over = event.failure(lambda: notice("Stopped."), None, self.notice, queue=False, api_visibility="private")
            if followers:
                self.follow(over, followers)


def link_to(choice: Choice, tab: str, order: str = ORDERS[0]) -> str:
    return choice.on(tab, order).query()


def told(outputs: int) -> Callable[[Callable[..., Iterator[Any]]], Callable[..., Generator[Any]]]:
    """Of a generator whose values are `outputs` of its own and a notice: what a visitor did wrong is the notice."""

    def wrap(work: Callable[..., Iterator[Any]]) -> Callable[..., Generator[Any]]:
        @wraps(work)
        def guarded(*given: Any) -> Generator[Any]:
            try:
                yield from work(*given)
            except BadInput as error:
                yield *([gr.skip()] * outputs), notice(sentence(error), "error")

        return guarded

    return wrap


def in_turn(work: Callable[..., Generator[Any]]) -> Callable[..., Generator[Any]]:
    """Of work of models one step at a time, whoever's it is: Gradio gives the place of what was cancelled to the next
    in line while its thread is still computing."""

    @wraps(work)
    def stepping(*given: Any) -> Generator[Any]:
        with closing(work(*given)) as steps:
            while True:
                with _AT_WORK:
                    found = next(steps, _DONE)
                if found is _DONE:
                    return
                yield found

    return stepping


def number_of(field: str, given: Any) -> float:
    """A number from a visitor, who may have emptied its field; raise where it is none."""
    if not (isinstance(given, int | float) and abs(given) < BEYOND):  # nor is NaN
        raise BadInput(field, given, "Give a number.")
    return given


def sentence(error: BadInput) -> str:
    """The error for a page: what is wrong and what to do; of the value no more than a glimpse."""
    value = "" if error.value is None else glimpse(str(error.value)).strip("· ")
    value = f" “{value}”" if value else ""
    why = f": {error.why.rstrip('.')}" if error.why else ""
    return f"{error.field}{value}{why[:400]}. {error.fix[:400]}"
