"""The folder of a run: its name, what it says about itself, and its log."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import secrets
import shlex
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout
from transformers.utils import logging as transformers_logging

from ..base.saving.checkpoint import checkpoints, find_checkpoint, require_complete
from ..errors import BadInput
from ..frozen.loading.provenance import versions_of
from ..hub import redacted
from ..schema import many, read_json, record, text, whole
from ..version import PROJECT
from .parsing.recipes import SECRETS, as_recipe
from .parsing.request import RECIPE, RECORD, Request

LOG, HISTORY, REPORT = "log.txt", "history.json", "report"
LENS, EMA = "lens", "lens-ema"
WANDB_ID, LOCK = "wandb_id.txt", ".lock"
LIBRARIES = (PROJECT, "torch", "transformers", "accelerate", "datasets", "peft", "huggingface_hub")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def settle_folder(request: Request, model: str, site: str, dataset: str) -> Path:
    """The folder that was named, that of the checkpoint to go on from, or one with a name of its own; the same on
    every process. A run that is finished, or has checkpoints, is not overwritten."""
    values = request.values
    resume = values["resume_from_checkpoint"] if checkpoint_of(request) else None
    named = values["output_dir"]
    if named is None and resume and not _is_answer(resume) and Path(resume).is_dir():
        named = str(Path(resume).parent)
    if named is None:
        rate = f"{values['learning_rate']:g}"
        name = f"{model}_{site}_{dataset}_lr{rate}{request.family.tag}_{time.strftime('%Y%m%d-%H%M%S')}"
        named = broadcast_object_list([str(Path("outputs") / name.replace("/", "-"))])[0]
        request.named_itself = True
    folder = Path(named).expanduser()
    if not goes_on(resume, folder) and ((there := checkpoints(folder)) or (folder / LENS).exists()):
        fix = "Use --resume_from_checkpoint true to go on with it, or another folder." if there else "Use another one."
        raise BadInput("output_dir", str(folder), fix, why="a run lies there already")
    request.folder = folder
    return folder


def claim(request: Request, folder: Path, exits: ExitStack) -> Path:
    """Keep all other runs out of the folder until the end. A run that names itself takes the next name where another
    one has begun in the same second."""
    try:
        if request.named_itself:
            folder = _new(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        fix = "Wait for it, or use another folder."
        raise BadInput("output_dir", str(folder), fix, why="another run is writing there") from None
    except OSError as error:
        raise BadInput("output_dir", str(folder), "Choose a folder that you may write to.", str(error)) from error
    exits.callback(lock.release)
    return folder


def _new(wanted: Path) -> Path:
    """A folder that nobody else has made."""
    folder, number = wanted, 1
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
            folder = wanted.with_name(f"{wanted.name}-{number}")


def checkpoint_of(request: Request) -> Path | None:
    """The checkpoint to go on from; raise where there is none, or it was cut off. With `auto` there may be none."""
    resume = request.values["resume_from_checkpoint"]
    if not resume or resume.lower() == "false":
        return None
    if not _is_answer(resume):
        on_hub = (request.values[name] for name in ("hub_model_id", "hub_revision", "hub_token"))
        folder = find_checkpoint(resume, *on_hub)
        require_complete(folder)
        return folder
    if request.values["output_dir"] is None:
        fix = "Say which run with --output_dir, or give the path of a checkpoint."
        raise BadInput("resume_from_checkpoint", resume, fix)
    found = checkpoints(Path(request.values["output_dir"]))
    if not found and resume.lower() == "auto":
        return None
    if not found:
        fix = "Start the run again without it."
        why = f"there is no whole checkpoint in {request.values['output_dir']}"
        raise BadInput("resume_from_checkpoint", resume, fix, why)
    return found[-1]


def goes_on(resume: str | None, folder: Path) -> bool:
    """Whether what is resumed is the run in this folder: a checkpoint of another one would go on over it."""
    if not resume:
        return False
    return _is_answer(resume) or not Path(resume).is_dir() or Path(resume).resolve().parent == folder.resolve()


def _is_answer(resume: str) -> bool:
    return resume.lower() in ("true", "false", "auto")


def begin(folder: Path, request: Request, argv: Sequence[str], resumed: Path | None) -> None:
    """Write down what was settled, how it was started, and with what; every start is kept."""
    values = request.values | {"output_dir": str(folder), "resume_from_checkpoint": None}
    (folder / RECIPE).write_text(as_recipe(values), encoding="utf-8")
    path = folder / RECORD
    starts = _starts(folder) if path.is_file() else []
    start = {
        "command": command_of(argv),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "processes": PartialState().num_processes,
        "device": str(PartialState().device),
        "resumed_from": resumed.name if resumed else None,
        "versions": {"python": platform.python_version()} | versions_of(*LIBRARIES),
    }
    path.write_text(json.dumps({"name": folder.name, "starts": [*starts, start]}, indent=2) + "\n", encoding="utf-8")


def command_of(argv: Sequence[str]) -> str:
    """How the run was started, without what is nobody's business."""
    words = []
    for before, word in zip(["", *argv], argv, strict=False):
        option = word.partition("=")[0]
        if _is_secret(before):
            word = "***"
        elif _is_secret(option) and option != word:
            word = f"{option}=***"
        words.append(without_folder(word))
    return redacted(shlex.join(["run_lens.py", *words]))


def _is_secret(option: str) -> bool:
    return option.removeprefix("--").replace("-", "_") in SECRETS  # argparse takes both spellings


def first_command(folder: Path) -> str:
    """How a run was started; what resumed it later is the same run. Empty where no record lies there."""
    starts = _starts(folder) if (folder / RECORD).is_file() else []
    return str(starts[0]["command"]) if starts else ""


def _starts(folder: Path) -> list[dict[str, Any]]:
    """How often a run was started, and how."""
    kind = record({"starts": many(record({"command": text()}))})
    fix = f"Take {RECORD} away: the run then begins its record anew."
    return list(read_json(folder / RECORD, kind, "output_dir", str(folder), fix)["starts"])


def read_history(folder: Path) -> list[dict[str, Any]]:
    """What a run has logged, step by step."""
    fix = f"Take {HISTORY} away: the report then shows no course of the training."
    found = read_json(folder / HISTORY, many(record({}, {"step": whole()})), "lens", str(folder), fix)
    return [{"step": 0, **row} for row in found]


def without_folder(word: str) -> str:
    """Of a path outside the current folder only the last part: where things lie on this machine is on no card."""
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    path = os.path.normpath(value)
    if os.path.isabs(path) or path.split(os.sep)[0] == ".." or path.startswith("~"):
        value = os.path.basename(path) or os.sep
        value = "~" if value.startswith("~") else value  # ~alice
    return f"{option}{equals}{value}"


def keep_wandb_run(folder: Path, project: str) -> None:
    """Let a resumed run go on under its id: wandb reads it from the environment."""
    path = folder / WANDB_ID
    if not path.is_file():
        path.write_text(secrets.token_hex(4))
    os.environ |= {"WANDB_RUN_ID": path.read_text(), "WANDB_RESUME": "allow"}
    os.environ.setdefault("WANDB_PROJECT", project)


class Log:
    """Inside, what is printed also goes to `log.txt` of the run; an exception leaves its trace there.

    A progress bar rewrites its line; of each line the log gets what stood there in the end.

    Args:
        folder: of the run.
        token: that must not stand in it, beside those in the environment and what looks like one.
    """

    def __init__(self, folder: Path, token: str | None = None) -> None:
        self.path, self.token = folder / LOG, token

    def __enter__(self) -> Log:
        self.file = Silent(self.path.open("a", encoding="utf-8"), self.token)
        self.exits = ExitStack()
        self.exits.enter_context(redirect_stdout(Tee(sys.stdout, self.file)))  # type: ignore[type-var]
        self.exits.enter_context(redirect_stderr(Tee(sys.stderr, self.file)))  # type: ignore[type-var]
        # Handlers hold the streams that were there when they were made.
        handler = logging.StreamHandler(self.file)
        logging.getLogger().addHandler(handler)
        self.exits.callback(logging.getLogger().removeHandler, handler)
        transformers_logging.add_handler(handler)
        self.exits.callback(transformers_logging.remove_handler, handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.exits.close()
        if isinstance(error, BadInput):
            self.file.write(f"error: {error}\n")
        elif error is not None:
            self.file.write("".join(traceback.format_exception(kind, error, trace)))
        self.file.close()


class Silent:
    """A file in which no token is written; what is given to `write` has to be whole lines."""

    def __init__(self, file: TextIO, token: str | None) -> None:
        self.file, self.token = file, token

    def write(self, text: str) -> int:
        return self.file.write(redacted(text, self.token))

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()


class Tee:
    """A stream that is also written to a log, line by line, as each line was in the end."""

    def __init__(self, stream: TextIO, log: Silent | TextIO) -> None:
        self.stream, self.log, self.line = stream, log, ""

    def write(self, text: str) -> int:
        *lines, self.line = (self.line + text).split("\n")
        for line in lines:
            self.log.write(_as_seen(line) + "\n")
        self.line = self.line[self.line.rfind("\r") :] if "\r" in self.line else self.line
        if lines:
            self.log.flush()
        return self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    @property
    def encoding(self) -> str:
        return self.stream.encoding

    @property
    def errors(self) -> Any:
        return self.stream.errors


def _as_seen(line: str) -> str:
    """What a line shows after all carriage returns and without colours."""
    parts = [part for part in _ESCAPES.sub("", line).split("\r") if part.strip()]
    return parts[-1].rstrip() if parts else ""
