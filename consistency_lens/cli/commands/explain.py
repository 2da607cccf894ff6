"""`run_lens.py explain`: texts, token by token."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm.auto import tqdm

from ...activations import Corpus, CorpusArguments
from ...activations.corpus import FILE_FORMATS, Document
from ...auto import lens_folder, read_config
from ...base.explaining import Positions
from ...base.family_run import FamilyRun
from ...card.columns import PREDICTIONS, heading, shown
from ...errors import BadInput
from ...frozen.loading.provenance import hash_files
from ..explained import ExplainedFile
from ..opening import open_corpus
from ..parsing.request import Request
from .report import load_lens, named_lens, require_family

TOGETHER = 16  # documents that are read from a corpus at once
STDIN = "-"


def explain(request: Request, exits: ExitStack) -> None:
    """A table for people, one JSON object per line, or a file."""
    named_lens(request)
    require_family(request)
    given, family = request.explanation, request.family
    positions = parse_positions(given.positions)
    family.require_options(whole_run=False)
    if request.given & {*family.explain_options}:
        config, _ = read_config(lens_folder(named_lens(request)), token=request.values["hub_token"])
        family.require_lens(config)
    corpus = corpus_of(request)
    file = None
    if given.output is not None:
        made_of = {"lens": _state_of(named_lens(request)), "texts": corpus.identity, "positions": given.positions}
        made_of["options"] = {name: request.values[name] for name in family.explain_options}
        file = ExplainedFile(Path(given.output), made_of, overwrite="overwrite" in request.given)
    lens = load_lens(request)
    if not PartialState().is_main_process:
        return
    done = file.begin(exits) if file else 0
    alone, refused = corpus.num_documents == 1, list[BadInput]()
    for document in _after(corpus, done, bar=file is not None):
        try:
            rows = family.explain(lens, document.text, positions)
        except BadInput as error:
            if alone or error.field not in ("text", "positions"):
                raise
            refused.append(error)
            rows = []
        rows = [{**document.kept, **row} for row in rows]
        if file:
            file.add(document.doc_id, rows)
        elif given.json:
            for row in rows:
                sys.stdout.write(json.dumps({"doc_id": document.doc_id, **row}, ensure_ascii=False) + "\n")
        else:
            if not alone:
                Console().print(f"\n[dim]text {document.doc_id}[/]")
            Console().print(table_of(rows, family))
    say = Console(stderr=True)
    if file:
        say.print(f"{file.finish():,} rows in [bold]{escape(str(file.path))}[/]", highlight=False, soft_wrap=True)
    if refused:
        first = escape(str(refused[0]))
        say.print(f"{len(refused):,} texts were passed over, the first for {first}", highlight=False, soft_wrap=True)


def corpus_of(request: Request) -> Corpus:
    """The texts: words behind the command, a file that one of them names, stdin, or a dataset that an option names."""
    words, sources = request.words, request.given & {"dataset_name", "train_file"}
    if sources and words:
        raise BadInput(
            "text", words[0], f"Leave it out, or leave out --{min(sources)}.", why="both name what to explain"
        )
    named = {f.name: request.values[f.name] for f in fields(CorpusArguments) if f.name in request.given}
    if sources:
        return open_corpus(request, CorpusArguments(**named))
    if not words:
        fix = 'Write what to explain: explain --lens RUN "some text", a file, - for stdin, or --dataset_name.'
        raise BadInput("text", None, fix)
    if len(words) == 1 and Path(words[0]).suffix in FILE_FORMATS and Path(words[0]).is_file():
        return Corpus.load(CorpusArguments(**{**named, "train_file": [words[0]]}))
    if words == (STDIN,):
        words = tuple(line for line in sys.stdin.read().splitlines() if line.strip())
        if not words:
            raise BadInput("text", STDIN, "Send a text on each line.", why="nothing came on stdin")
    if "" in words:
        raise BadInput("text", "", "Give at least one word.")
    limit = CorpusArguments(max_documents=named.get("max_documents"))
    return Corpus(Dataset.from_dict({"text": list(words)}), limit, "the command line")


def _after(corpus: Corpus, done: int, bar: bool) -> Iterator[Document]:
    """The documents behind those that are done."""
    show = bar and sys.stderr.isatty()
    with tqdm(total=corpus.num_documents, initial=done, unit="text", dynamic_ncols=True, disable=not show) as progress:
        for _, documents in corpus.chunks(TOGETHER, lambda index: (index + 1) * TOGETHER > done):
            for document in documents:
                if document.doc_id >= done:
                    yield document
                    progress.update()


def _state_of(lens: str) -> str:
    """What tells a lens from what lies there after another training: its files, or its commit on the Hub."""
    place = Path(lens_folder(lens))
    if place.is_dir():
        return hash_files(path for path in place.rglob("*") if path.suffix in (".safetensors", ".json"))
    return f"{place}@{read_config(str(place))[1]}"


def table_of(rows: Sequence[Mapping[str, Any]], family: FamilyRun) -> Table:
    if family.across and any(family.across in row for row in rows):
        return table_across(rows, family)
    table = Table(header_style="dim", box=None)
    for name in ("position", "token", "explanation", "kl", *PREDICTIONS):
        table.add_column(heading(name), justify="right" if name in ("position", "kl") else "left", overflow="fold")
    for row in rows:
        table.add_row(
            str(row["position"]),
            f"[bold cyan]{escape(row['token'])}[/]",
            f"[bold]{escape(family.cell_of(row))}[/]",
            f"{row['kl']:.3f}",
            *(escape(shown(row[side])) for side in PREDICTIONS),
        )
    return table


def table_across(rows: Sequence[Mapping[str, Any]], family: FamilyRun) -> Table:
    """A line for each token, with a column for each value of what its rows differ in; the KL stands behind the
    explanation."""
    columns = list(dict.fromkeys(str(row[family.across]) for row in rows))
    table = Table(header_style="dim", box=None)
    for name in ("position", "token"):
        table.add_column(heading(name), justify="right" if name == "position" else "left", overflow="fold")
    for column in columns:
        table.add_column(escape(column), overflow="fold")
    tokens: dict[int, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        tokens.setdefault(row["position"], {})[str(row[family.across])] = row
    for position, cells in tokens.items():
        first = next(iter(cells.values()))
        shown_cells = [
            f"[bold]{escape(family.cell_of(cells[c]))}[/] [dim]{cells[c]['kl']:.3f}[/]" if c in cells else ""
            for c in columns
        ]
        table.add_row(str(position), f"[bold cyan]{escape(first['token'])}[/]", *shown_cells)
    return table


def parse_positions(given: str | None) -> Positions:
    """`3,5,-1` as numbers, `2:10` as a slice."""
    if given is None:
        return None
    try:
        if ":" in given:
            first, end = given.split(":")
            return slice(int(first) if first else None, int(end) if end else None)
        return [int(part) for part in given.split(",")]
    except ValueError as error:
        fix = "Write whole numbers with commas between, as in 3,5,-1, or FIRST:END."
        raise BadInput("positions", given, fix) from error
