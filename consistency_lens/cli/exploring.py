"""`run_lens.py explore`: the page of a lens on this machine, which comes with the sources."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from ..base.configuration import ONE_MODEL
from ..errors import BadInput
from .commands.publish_space import SPACE
from .opening import model_path, place_of
from .parsing.request import Request


def explore(request: Request) -> None:
    """Serve the page until it is interrupted; the lens is the newest demo run where none is named."""
    page = SPACE / "app.py"
    if not page.is_file():
        fix = "Clone the project and start it there; `publish --space` puts a page on the Hub."
        raise BadInput("command", "explore", fix, why="an installed package does not bring the page along")
    if find_spec("gradio") is None:
        fix = "Install it: pip install 'consistency-lens[space]'."
        raise BadInput("explore", "gradio", fix, why="it is not installed")
    words = ["--lens", request.run.lens] if request.run.lens else []
    if request.subject.model_name_or_path is not None:
        first, others = model_path(request.subject), request.subject.others
        named = [f"{name}={place_of(place)}" for name, place in others.items()]
        words += ["--subject", *([f"{ONE_MODEL}={first}", *named] if named else [first])]
    around = dict(os.environ)
    if request.values["use_cpu"]:
        around["CUDA_VISIBLE_DEVICES"] = ""
    if request.values["hub_token"]:
        around["HF_TOKEN"] = request.values["hub_token"]
    # The page takes the place of this process: whoever stops the command stops the page.
    os.execve(sys.executable, [sys.executable, str(page), *words], around)
