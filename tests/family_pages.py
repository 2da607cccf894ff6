"""Folders of lenses of every family as the page meets them, made in a moment, and the page in this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from extracting import saved_model
from space_runs import run_folder

from consistency_lens import FrozenLM, FrozenModels
from consistency_lens.soft.modeling import LatentWire

for family in ("sparse", "soft"):  # whose small lenses these are
    if (place := str(Path(__file__).parent / family)) not in sys.path:
        sys.path.append(place)
from transcoders import small_lens  # noqa: E402
from wire_runs import wire_models  # noqa: E402

SPARSE, SOFT, TEXT = "sparse_run", "soft_run", "some_demo_run"


@cache
def _home() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="consistency-lens-families-")


@cache
def wire_folders() -> dict[str, Path]:
    """Where the two models of the wire lie, by name."""
    found = {}
    for name, model in wire_models().items():
        found[name] = Path(_home().name) / f"model-{name}"
        model.model.save_pretrained(found[name])
        model.tokenizer.save_pretrained(found[name])
    return found


@cache
def subjects() -> dict[str, str]:
    """The models of all lenses, by the name that each lens has for them."""
    return {"base": str(saved_model()), **{name: str(folder) for name, folder in wire_folders().items()}}


@cache
def folder_of(name: str) -> Path:
    """A run with a lens of one family."""
    if name == TEXT:
        return run_folder()
    folder = Path(_home().name) / name
    if name == SPARSE:
        made: Any = small_lens(frozen=FrozenLM.from_pretrained(saved_model()))
    else:
        loaded = [FrozenLM.from_pretrained(place, name=each) for each, place in wire_folders().items()]
        made = LatentWire.from_models(FrozenModels(loaded), ratio=2.0).eval()
    made.save_pretrained(folder / "lens")
    return folder


@cache
def lenses_of(*names: str) -> Any:
    """What a page of these runs offers."""
    from lenses import Lenses

    return Lenses([str(folder_of(name)) for name in names], subject=subjects())


@contextmanager
def page_of(lenses: Any) -> Iterator[str]:
    """The address of their page, in this process."""
    import app

    page = app.build(lenses)
    _, url, _ = app.serve(page, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    try:
        yield url.rstrip("/")
    finally:
        page.close()
