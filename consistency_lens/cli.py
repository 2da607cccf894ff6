"""The command line: dataclasses with help texts, a YAML recipe for defaults, options that override it."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import torch
import yaml
from accelerate import PartialState
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import AutoConfig, AutoTokenizer, HfArgumentParser

from .activations import Activations, Corpus, CorpusArguments, CorruptShard, ExtractArguments, Extraction
from .errors import BadInput
from .frozen import FrozenLM, ProvenanceMismatch
from .frozen.frozen_lm import ATTENTION, DTYPES, QUANTIZATION

logger = logging.getLogger(__name__)
console = Console()

DEMO = "demo"
DEMO_DOCUMENTS = 6000
# What a recipe says of its texts: of no use where the command line names a file instead of a dataset, or one instead
# of a file.
SOURCE = (
    *["dataset_name", "dataset_config", "dataset_revision", "split", "train_file", "sample_by"],
    *["text_column", "keep_columns"],
)
COMMANDS = {"extract": "read a corpus at some sites of a model, and store the rows as Arrow"}


@dataclass
class SubjectArguments:
    """The frozen LLM under study."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id, local folder, or 'demo' for the offline subject."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model on the Hub."})
    dtype: str = field(default="auto", metadata={"help": "auto: as in the checkpoint.", "choices": list(DTYPES)})
    quantization: str = field(
        default="none", metadata={"help": "Through bitsandbytes.", "choices": list(QUANTIZATION)}
    )
    attn_implementation: str = field(
        default="auto",
        metadata={"help": "auto: the fastest that is installed and supported.", "choices": list(ATTENTION)},
    )
    device_map: str | None = field(
        default=None,
        metadata={"help": "As in transformers ('auto' splits a large model). Default: this process's device."},
    )


@dataclass
class RunArguments:
    """The run itself."""

    use_cpu: bool = field(default=False, metadata={"help": "Compute on the CPU even where there is a GPU."})


ARGUMENTS = (SubjectArguments, CorpusArguments, ExtractArguments, RunArguments)


class Parser(HfArgumentParser):
    """One among several processes says what is wrong with the options that all were given."""

    def error(self, message: str) -> Any:
        _let_the_main_process_speak()
        super().error(message)

    def print_help(self, file: Any = None) -> None:
        if _rank() == 0:
            super().print_help(file)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. What a user can mend is said in one line, without a trace."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        command, subject, corpus, extraction, run = parse(argv)
        PartialState(cpu=run.use_cpu or not torch.accelerator.is_available())
        _set_up_logging()
        if command == "extract":
            extract(subject, corpus, extraction, shlex.join(["run_lens.py", *map(_without_folder, argv)]))
        return 0
    except (BadInput, ProvenanceMismatch, CorruptShard) as error:
        _let_the_main_process_speak()
        Console(stderr=True).print(f"[bold red]error[/]: {escape(str(error))}", soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        if _rank() == 0:
            Console(stderr=True).print("interrupted: what is finished is kept, --resume goes on from there")
        return 130


def parse(argv: Sequence[str]) -> tuple[str, SubjectArguments, CorpusArguments, ExtractArguments, RunArguments]:
    """Command and arguments: recipe first, then options. Where no model and no text is named, the offline demo."""
    words = list(argv)
    command = "extract"
    if words and not words[0].startswith("-"):
        command = words.pop(0)
        if command not in COMMANDS:
            raise BadInput("command", command, f"{_meant(command, COMMANDS)}Use one of {', '.join(COMMANDS)}.")
    parser = Parser(
        ARGUMENTS,
        prog="run_lens.py",
        allow_abbrev=False,
        usage=f"accelerate launch run_lens.py [{'|'.join(COMMANDS)}] [--config recipe.yaml] [--any_field value]",
        epilog="Recipes: " + ", ".join(recipe_names()) + ". demo is the default where no model and no text is named.",
    )
    parser.add_argument(
        "--config", default=None, help="Recipe: a YAML file of these fields, or the name of one of ours."
    )
    absent = object()
    known, unknown = parser.parse_known_args(words, Namespace(**dict.fromkeys([*_names(), "config"], absent)))
    if unknown:
        given = unknown[0].split("=")[0]
        if given in COMMANDS:
            raise BadInput("command", given, f"Write it before all options: run_lens.py {given} --...")
        raise BadInput(
            "option", given, f"{_meant(given, ['--' + name for name in _names()])}--help lists all options."
        )
    explicit = {name: value for name, value in vars(known).items() if value is not absent}
    named = explicit.keys() & {"model_name_or_path", "dataset_name", "train_file"}
    recipe = explicit.get("config") or (None if named else DEMO)
    if recipe:
        words = [*as_options(less(load_recipe(recipe), explicit)), *words]  # what comes later wins
    subject, corpus, extraction, run, *_ = parser.parse_args_into_dataclasses(words)
    return command, subject, corpus, extraction, run


def less(record: dict[str, Any], explicit: dict[str, Any]) -> dict[str, Any]:
    """A recipe without what the opposite of an explicit option would say beside it."""
    beaten: set[str] = set()
    for this, other in [("resume", "overwrite"), ("overwrite", "resume")]:
        if explicit.get(this) and other not in explicit:
            beaten.add(other)
    for this, other in [("dataset_name", "train_file"), ("train_file", "dataset_name")]:
        if this in explicit and other not in explicit and record.get(other):
            beaten.update(SOURCE)
    if record.get("dataset_name") not in (None, explicit.get("dataset_name", record.get("dataset_name"))):
        beaten |= {"dataset_config", "dataset_revision"}  # of the one that the recipe names
    return {name: value for name, value in record.items() if name not in beaten}


def load_recipe(name_or_path: str) -> dict[str, Any]:
    """The fields a recipe sets, as it says them; unknown ones raise."""
    path = Path(name_or_path)
    own = files("consistency_lens").joinpath("recipes", f"{name_or_path}.yaml")
    if not path.is_file() and not own.is_file():
        raise BadInput(
            "config",
            name_or_path,
            f"Give the path of a YAML file, or one of our recipes: {', '.join(recipe_names())}.",
        )
    text = (path if path.is_file() else own).read_text(encoding="utf-8")
    try:
        record = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise BadInput("config", name_or_path, "Mend the YAML.", why=str(error)) from error
    if not isinstance(record, dict):
        raise BadInput("config", name_or_path, "Write one 'field: value' on each line.", why="it is not a mapping")
    for key in record:
        if key not in _names():
            raise BadInput(
                "config", key, f"{_meant(str(key), _names())}--help lists all fields.", why="an unknown field"
            )
    return record


def as_options(record: dict[str, Any]) -> list[str]:
    """A recipe as command line options, so that types and choices are checked there; null and [] set nothing."""
    kinds = {name: kind for arguments in ARGUMENTS for name, kind in get_type_hints(arguments).items()}
    words = []
    for name, value in record.items():
        parts = get_args(kinds[name])
        kind = parts[0] if type(None) in parts else kinds[name]  # of `X | None`, X
        if isinstance(value, dict) or (isinstance(value, list) and get_origin(kind) is not list):
            raise BadInput("config", name, "Give a single value.", why=f"the recipe gives it {value!r}")
        if kind in (str, list[str]) and value is not None:
            for item in value if isinstance(value, list) else [value]:
                if not isinstance(item, str):
                    why = f"YAML reads {item!r} there, which is no text"
                    raise BadInput("config", name, f"Put the text in quotes, as in {name}: 'no'.", why)
        if isinstance(value, list):
            words += [f"--{name}", *value] if value else []
        elif value is not None:
            words.append(f"--{name}={value}")
    return words


def recipe_names() -> list[str]:
    folder = files("consistency_lens").joinpath("recipes")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def extract(subject: SubjectArguments, corpus: CorpusArguments, arguments: ExtractArguments, command: str) -> Path:
    """Corpus to Arrow. All checks that need no weights come before the weights."""
    state = PartialState()
    model_path = _model_path(subject)
    config, tokenizer = _open_model(model_path, subject.revision)
    extraction = Extraction(_open_corpus(corpus), tokenizer, config, arguments, command)
    extraction.open()
    frozen = _load_model(model_path, subject, state)
    bill = extraction.bill(frozen)
    if state.is_main_process:
        by = f"{state.num_processes} processes" if state.num_processes > 1 else "one process"
        logger.info("reading %s at %s, in %s", frozen.model_id, ", ".join(extraction.sites), by)
        console.print(bill)
    bill.require_room()
    folder = extraction.run(frozen)
    if state.is_main_process:
        _show(Activations.load(folder, verify=False), folder, tokenizer)
    return folder


def _model_path(subject: SubjectArguments) -> str:
    if subject.model_name_or_path is None:
        raise BadInput("model_name_or_path", None, f"Name a Hub model, a folder, or {DEMO!r} for the offline subject.")
    if subject.model_name_or_path != DEMO:
        return subject.model_name_or_path
    from .demo.probe import DEMO_SITE
    from .demo.show import accuracy_table, site_table
    from .demo.subject import load_card, subject_path

    state = PartialState()
    if state.is_main_process:  # the others find it in the cache
        card = load_card(subject_path())
        console.print(accuracy_table(card.report), site_table(card.sites, DEMO_SITE))
    state.wait_for_everyone()
    return str(subject_path(progress=False))


def _open_model(path: str, revision: str | None) -> tuple[Any, Any]:
    try:
        return AutoConfig.from_pretrained(path, revision=revision), AutoTokenizer.from_pretrained(
            path, revision=revision
        )
    except (OSError, ValueError) as error:
        raise _no_model(path, error) from error


def _load_model(path: str, subject: SubjectArguments, state: PartialState) -> FrozenLM:
    try:
        return FrozenLM.from_pretrained(
            path,
            revision=subject.revision,
            dtype=subject.dtype,
            quantization=subject.quantization,
            attn_implementation=subject.attn_implementation,
            device_map=subject.device_map or (None if state.device.type == "cpu" else {"": state.device}),
        )
    except OSError as error:
        raise _no_model(path, error) from error


def _no_model(path: str, error: Exception) -> BadInput:
    fix = "Check the id or the folder, and that this machine is online."
    return BadInput("model_name_or_path", path, fix, why=str(error))


def _open_corpus(arguments: CorpusArguments) -> Corpus:
    if arguments.dataset_name != DEMO:
        return Corpus.load(arguments)
    from .demo.stories import story_dataset

    number = arguments.max_documents or DEMO_DOCUMENTS
    return Corpus(story_dataset(number), arguments, "the demo world")


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


def _set_up_logging() -> None:
    level = logging.INFO if PartialState().is_main_process else logging.ERROR
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("consistency_lens").setLevel(level)


def _names() -> list[str]:
    return [f.name for arguments in ARGUMENTS for f in fields(arguments)]


def _meant(given: str, known: Any) -> str:
    near = get_close_matches(given, list(known), 1)
    return f"Did you mean {near[0]!r}? " if near else ""


def _without_folder(word: str) -> str:
    """Of a path outside the current folder only the last part: where things lie on this machine is on no card."""
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    path = os.path.normpath(value)
    if os.path.isabs(path) or path.split(os.sep)[0] == ".." or path.startswith("~"):
        value = os.path.basename(path) or os.sep
        value = "~" if value.startswith("~") else value  # ~alice
    return f"{option}{equals}{value}"


def _rank() -> int:
    """Of this process; also before there is a `PartialState` to ask."""
    return int(os.environ.get("RANK", "0"))


def _let_the_main_process_speak() -> None:
    """Wait before an error is shown: where the main process fails alike, the launcher ends this one meanwhile."""
    if _rank() > 0:
        time.sleep(5)
