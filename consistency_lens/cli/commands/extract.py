"""`run_lens.py extract`: corpus to Arrow."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.markup import escape
from rich.table import Table

from ...frozen import FrozenLM
from ..opening import console, load_model, model_path, open_corpus, open_model
from ..parsing.request import Request
from .publish import publish_rows, require_dataset_repo

logger = logging.getLogger(__name__)


def extract(request: Request, command: str, folder: str | None = None) -> tuple[Path, FrozenLM]:
    """Rows and the model that made them. All checks that need no weights come before the weights.

    Args:
        folder: where a whole run wants its rows; what is there already, it takes. Default: as requested.
    """
    state, subject, arguments = PartialState(), request.subject, request.extraction
    if folder is not None:
        arguments = replace(arguments, output_dir=folder, resume=not arguments.overwrite)
    path = model_path(subject, show=True)
    config, tokenizer = open_model(path, subject.revision, subject.trust_remote_code)
    extraction = request.options.run.extraction(open_corpus(request), tokenizer, config, arguments, command)
    if folder is not None:
        request.family.require_extraction(extraction)
    extraction.open()
    repo = require_dataset_repo(request, Path(arguments.output_dir))
    frozen = load_model(path, subject)
    if folder is None or not extraction.folder.complete:
        bill = extraction.bill(frozen)
        if state.is_main_process:
            by = f"{state.num_processes} processes" if state.num_processes > 1 else "one process"
            logger.info("reading %s at %s, in %s", frozen.model_id, ", ".join(extraction.sites), by)
            console.print(bill)
        bill.require_room()
    made = extraction.run(frozen)
    if state.is_main_process:
        _show(request, made, tokenizer)
        if repo is not None:
            publish_rows(request, made, repo)
    return made, frozen


def _show(request: Request, folder: Path, tokenizer: Any) -> None:
    data = request.options.run.data.load(folder, verify=False)
    console.print(f"\nrows in [bold]{escape(str(folder))}[/]", highlight=False, soft_wrap=True)
    table = Table(box=None, header_style="dim")
    counted = list(next(iter(data.metadata["splits"].values())))
    for name in ("split", *counted):
        table.add_column(name, justify="left" if name == "split" else "right")
    for split, counts in data.metadata["splits"].items():
        table.add_row(split, *(f"{counts[name]:,}" for name in counted))
    console.print(table)
    console.print()
    for line in request.family.first_of(data, tokenizer):
        console.print(escape(line), highlight=False)
