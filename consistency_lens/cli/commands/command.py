"""One command from start to end, and the message where it fails."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from accelerate import PartialState
from rich.console import Console
from rich.markup import escape

from ...activations import CorruptShard
from ...base.robust.termination import CODE, Terminated
from ...base.saving.checkpoint import how_to_go_on
from ...errors import BadInput, is_full_disk
from ...frozen import ProvenanceMismatch
from ...hub import redacted
from ..allocating import keep_freed_memory
from ..memory import advice
from ..parsing.request import Request, let_the_main_process_speak, parse, rank
from ..run_folder import command_of
from ..threads import use_cores
from .env import show_environment
from .explain import explain
from .export import export
from .extract import extract
from .publish import publish
from .report import evaluate
from .skill import install_skill
from .using import use

TRAINING = ("run", "train")


def run_command(argv: Sequence[str], own_process: bool = False) -> int:
    """Run one command; returns the exit code. An error that a user can fix is one line, without a trace.

    Args:
        argv: its words.
        own_process: whether the process runs this command and nothing else, so that its settings may change.
    """
    request = None
    try:
        request = parse(argv)
        on_cpu = request.use_cpu or not torch.accelerator.is_available()
        use_cores(request.run.cpu_threads, on_cpu, PartialState(cpu=on_cpu).num_processes)
        if own_process and on_cpu and request.command in TRAINING:
            keep_freed_memory(os.environ)
        _set_up_logging()
        for note in request.notes if rank() == 0 else ():
            _say(f"[yellow]note[/]: {escape(note)}")
        with ExitStack() as exits:
            _run(request, argv, exits)
        return 0
    except (BadInput, ProvenanceMismatch, CorruptShard) as error:
        let_the_main_process_speak()
        token = request.values["hub_token"] if request else None
        _say(f"[bold red]error[/]: {escape(redacted(str(error), token))}")
        return 2
    except torch.OutOfMemoryError as error:
        assert request is not None
        let_the_main_process_speak()
        _say(f"[bold red]error[/]: {escape(advice(request, error))}")
        return 2
    except OSError as error:
        if not is_full_disk(error):
            raise
        let_the_main_process_speak()
        kept = how_to_go_on(request.folder) if request and request.folder else ""
        _say(f"[bold red]error[/]: {escape(str(error))}. Free some space. {escape(kept)}")
        return 2
    except Terminated:
        assert request is not None and request.folder is not None
        if rank() == 0:
            _say(f"ended by SIGTERM: {escape(how_to_go_on(request.folder))}")
        return CODE
    except KeyboardInterrupt:
        if rank() == 0:
            _say(escape(": ".join(filter(None, ["interrupted", _kept(request)]))))
        return 130


def _run(request: Request, argv: Sequence[str], exits: ExitStack) -> None:
    match request.command:
        case "extract":
            extract(request, command_of(argv))
        case "train":
            from ..runs import train_on_rows  # what trains is slow to import, and of no use to the other commands

            train_on_rows(request, argv, exits)
        case "evaluate":
            evaluate(request, exits)
        case "explain":
            explain(request, exits)
        case "export":
            export(request)
        case "plan":
            from .plan import plan

            plan(request)
        case "publish":
            publish(request)
        case "env":
            show_environment(request)
        case "skill":
            install_skill(request)
        case "explore":
            from ..exploring import explore

            explore(request)
        case command if command in request.options.run.uses:
            use(request)
        case _:
            from ..runs import run_all

            run_all(request, argv, exits)


def _kept(request: Request | None) -> str:
    """What of an interrupted command is left, and how to go on from it, where one can."""
    if request and request.folder:
        return how_to_go_on(request.folder)
    if request and request.command == "explain" and request.explanation.output:
        return "what is finished is kept, the same command goes on from there"
    return "what is finished is kept, --resume goes on from there" if request and request.command == "extract" else ""


def _say(text: str) -> None:
    Console(stderr=True).print(text, soft_wrap=True, highlight=False)


def _set_up_logging() -> None:
    level = logging.INFO if PartialState().is_main_process else logging.ERROR
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("consistency_lens").setLevel(level)
