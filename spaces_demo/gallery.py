"""The gallery: lenses of runs on this machine and lenses on the Hub, found when somebody looks, loaded when opened.

It stands on a page that was asked for it (`--gallery`): whoever sees the page can then make it download lenses, and
the models that they were made for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import gradio as gr
from brought import brought_by
from desk import Desk, in_turn, told
from drawing import notice
from lenses import CONFIG, Lenses, newest_first

from consistency_lens import AutoLens, BadInput

MOST = 24  # of either kind
RUNS = "outputs"
ABOUT = "Lenses of the runs on this machine, and those on the Hub. One that is opened can take minutes to load."


@dataclass(frozen=True)
class Found:
    """A lens that can be opened.

    Args:
        place: where it lies; what `AutoLens` takes.
        shown: what a visitor reads.
    """

    place: str
    shown: str


def local_runs(roots: Sequence[Path]) -> list[Found]:
    """The lenses of runs in these folders, the newest first. A run whose configuration is damaged is passed over."""
    there = {path for root in roots for path in (root / RUNS).glob(f"*/lens/{CONFIG}")}
    found = []
    for path in newest_first(there)[:MOST]:
        run = path.parent.parent
        try:
            with brought_by(run, CONFIG, "Save it again."):
                said = json.loads(path.read_text(encoding="utf-8"))
                model = str(said["provenance"]["model_id"])[:80]
                kind = str(said["model_type"])[:40].replace("_", " ")
        except BadInput:
            continue
        found.append(Found(str(run), f"{run.name} · {kind} of {model} · this machine"))
    return found


def on_hub() -> list[Found]:
    """Those that `publish` has tagged, the most downloaded first."""
    return [Found(repo, f"{repo} · {family} · the Hub") for repo, family in AutoLens.published(MOST)]


class Gallery:
    """What was found last, for everybody. Nothing else can be opened, whatever a visitor sends.

    Args:
        lenses: to which an opened one is added.
        roots: folders that runs lie in, under `outputs/`.
    """

    def __init__(self, lenses: Lenses, roots: Sequence[Path]) -> None:
        self.lenses, self.roots = lenses, list(roots)
        self.found: dict[str, Found] = {}
        self._lock = Lock()

    def look(self) -> tuple[list[str], str]:
        """What can be opened, as a visitor reads it; and what is wrong with the Hub, if anything: runs of this machine
        are there without it."""
        found, damage = local_runs(self.roots), ""
        try:
            found += on_hub()
        except BadInput as error:
            damage = f"The Hub shows nothing: {error.why}."
        with self._lock:
            self.found = {each.shown: each for each in found}
        return list(self.found), damage

    def open(self, shown: Any) -> str:
        """Add a lens that was found, and load it; returns its name."""
        with self._lock:
            chosen = self.found.get(shown) if isinstance(shown, str) else None
        if chosen is None:
            raise BadInput("lens", str(shown)[:80], "Choose one that is shown.", why="no such lens was found")
        return self.lenses.add(chosen.place)


def build(gallery: Gallery, desk: Desk) -> None:
    """The gallery, closed at first."""
    with gr.Accordion("Gallery", open=False, elem_id="gallery"):
        gr.Markdown(ABOUT)
        listed = gr.Radio([], label="Lenses", elem_id="found", visible=False)
        with gr.Row():
            look = gr.Button("Look", elem_id="look", min_width=120)
            opening = gr.Button("Open", variant="primary", elem_id="open", min_width=120, interactive=False)

    @told(2)
    def looking() -> Iterator[tuple[Any, ...]]:
        yield gr.skip(), gr.skip(), notice("Looking …", "busy")
        names, damage = gallery.look()
        if not names:
            damage = damage or "Nothing was found: no run lies under outputs/, and the Hub has no lens."
        shown = gr.Radio(names, value=names[0] if names else None, visible=bool(names))
        yield shown, gr.Button(interactive=bool(names)), notice(damage, "error" if damage else "note")

    @in_turn
    @told(1)
    def load(shown: Any) -> Iterator[tuple[Any, ...]]:
        yield gr.skip(), notice("Loading …", "busy")
        name = gallery.open(shown)
        yield gr.Dropdown(gallery.lenses.names, value=name), notice(f"{name} is here: press Read.")

    alone: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 1}
    look.click(looking, None, [listed, opening, desk.notice], **alone)
    opening.click(load, listed, [desk.lens, desk.notice], concurrency_id="model", **alone)


def chosen_roots(given: Sequence[str]) -> list[Path]:
    """Folders that were named, each as it is or by the `outputs` in it; by default the one that the page runs in."""
    named = [Path(each).expanduser() for each in given] or [Path.cwd()]
    if missing := [path for path in named if not path.is_dir()]:
        raise BadInput("gallery", str(missing[0]), "Name a folder that holds outputs/, or leave it out.")
    return [path.parent if path.name == RUNS else path for path in named]
