"""`run_lens.py explore`: the page of a lens on this machine, which comes with the sources."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

from ..errors import BadInput
from .commands.publish_space import SPACE
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
    places = {
        "--lens": [request.run.lens] if request.run.lens else [],
        "--subject": [place] if (place := request.subject.model_name_or_path) else [],
    }
    words = [word for name, given in places.items() if given for word in (name, *given)]
    done = subprocess.run([sys.executable, str(page), *words], check=False)
    if done.returncode:  # what was wrong has been said
        raise SystemExit(done.returncode)
