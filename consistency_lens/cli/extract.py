"""`run_lens.py extract`: corpus to Arrow."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.markup import escape
from rich.table import Table

from ..activations import Activations
from ..frozen import FrozenLM
from .opening import console, load_model, model_path, open_corpus, open_model
from .parsing import Request
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
    config, tokenizer = open_model(path, subject.revision)
    extraction = request.options.run.extraction(open_corpus(request.corpus), tokenizer, config, arguments, command)
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
        _show(Activations.load(made, verify=False), made, tokenizer)
        if repo is not None:
            publish_rows(request, made, repo)
    return made, frozen


def _show(activations: Activations, folder: Path, tokenizer: Any) -> None:
    console.print(f"\nrows in [bold]{escape(str(folder))}[/]", highlight=False, soft_wrap=True)
    table = Table(box=None, header_style="dim")
    for name in ("split", "documents", "rows"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for split, counts in activations.metadata["splits"].items():
        table.add_row(split, f"{counts['documents']:,}", f"{counts['rows']:,}")
    console.print(table)
    row = activations.splits["train"][0]
    context, following = tokenizer.decode(row["input_ids"]), tokenizer.decode(row["continuation_ids"])
    console.print(f"\n[dim]first row: document {row['doc_id']}, position {row['position']}[/]")
    console.print(f"{escape(context)} [bold]|[/] [dim]{escape(following)}[/]", highlight=False)
    for site in activations.sites:
        vector = activations.splits["train"].with_format("numpy")[0][site]
        shown = " ".join(f"{x:+.2f}" for x in vector[:6])
        console.print(
            f"[dim]{site}[/] [{shown} ...] [dim]{vector.dtype}, norm {(vector**2).sum() ** 0.5:.2f}[/]",
            highlight=False,
        )
