"""What the tests of extraction share: corpora, extractions in this process, and `run_lens.py` in another one."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from tiny import VOCABULARY, shared_lm, tiny_model, tiny_tokenizer

from consistency_lens.activations import Activations, Corpus, CorpusArguments, ExtractArguments, Extraction
from consistency_lens.activations.folder import ExtractionFolder
from consistency_lens.activations.storage import ChunkNote
from consistency_lens.frozen import FrozenLM

ROOT = Path(__file__).resolve().parents[1]
WORDS = VOCABULARY - 5  # the last word is left out, for tests that give it a meaning
RARE = f"w{WORDS}"


def random_texts(count: int, seed: int = 0, shortest: int = 3, longest: int = 60) -> list[str]:
    """Documents of random words; with `<bos>` each has one token more than it has words."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest + 1, count)
    return [" ".join(f"w{word}" for word in rng.integers(0, WORDS, length)) for length in lengths]


def corpus_of(texts: Sequence[str], **columns: Any) -> Corpus:
    """In memory; `columns` are kept."""
    source = Dataset.from_dict({"text": list(texts)} | columns)
    return Corpus(source, CorpusArguments(keep_columns=list(columns)), "random words")


def extraction_of(
    corpus: Corpus | Sequence[str], folder: Path | str = "nowhere", lm: FrozenLM | None = None, **arguments: Any
) -> Extraction:
    """Small settings, each of which `arguments` may replace."""
    lm = lm or shared_lm("llama")
    small = {"sites": ["resid_post.1"], "min_position": 4, "documents_per_shard": 16, "batch_size": 8}
    held_out = {"validation_fraction": 0.2, "test_fraction": 0.2}
    given = ExtractArguments(output_dir=str(folder), **(small | held_out | arguments))
    corpus = corpus if isinstance(corpus, Corpus) else corpus_of(corpus)
    return Extraction(corpus, lm.tokenizer, lm.config, given)


def extract_to(
    folder: Path, corpus: Corpus | Sequence[str], lm: FrozenLM | None = None, **arguments: Any
) -> Activations:
    """Run an extraction to its end and load it."""
    extraction = extraction_of(corpus, folder, lm, **arguments)
    extraction.open()
    return Activations.load(extraction.run(lm or shared_lm("llama")))


def rows_of(activations: Activations) -> dict[tuple[int, int], dict[str, Any]]:
    """(document, position) -> its row with the split it is in; vectors as arrays of what Arrow holds."""
    found = {}
    for split, rows in activations.splits.items():
        vectors = {site: vectors_of(rows, site) for site in activations.sites}
        plain = rows.remove_columns(list(activations.sites)).to_list()
        for i, row in enumerate(plain):
            key = (row["doc_id"], row["position"])
            assert key not in found, "a row is there twice"
            found[key] = row | {"split": split} | {site: vectors[site][i] for site in vectors}
    return found


def vectors_of(rows: Dataset, site: str) -> np.ndarray:
    """A column as it lies in Arrow, `[N, d]`: the formats of `datasets` would turn float16 into float32."""
    column = rows.data.column(site).combine_chunks()
    return column.flatten().to_numpy().copy().reshape(len(rows), -1)


def written(folder: Path) -> dict[str, bytes]:
    """Name -> content of all that rows depend on: shards, layout, metadata and statistics; not the card."""
    wanted = [p for p in folder.rglob("*") if p.is_file() and p.suffix in (".arrow", ".json", ".safetensors")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in wanted if p.name not in ("plan.json", "command.json")}


def notes_in(folder: Path) -> list[ChunkNote]:
    return ExtractionFolder(folder, resume=True, overwrite=False).notes()


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/data-*.arrow"))


def changed_at(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def write_jsonl(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@cache
def _models() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="consistency-lens-models-")


@cache
def saved_model() -> Path:
    """A llama with its tokenizer, in a folder."""
    folder = Path(_models().name) / "tiny-llama"
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@cache
def model_without_weights() -> Path:
    """All that is needed to check a request, and nothing that could answer it."""
    folder = Path(_models().name) / "weightless"
    tiny_model("llama").config.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def options(**values: Any) -> list[str]:
    """`batch_size=3` as `--batch_size 3`."""
    known = {f.name for f in fields(ExtractArguments)} | {"train_file", "model_name_or_path", "dtype", "dataset_name"}
    assert set(values) <= known
    words = []
    for name, value in values.items():
        words += [f"--{name}"] if value is True else [f"--{name}", *map(str, np.atleast_1d(value))]
    return words


class Run(NamedTuple):
    """`run_lens.py` in a process of its own."""

    process: Any
    log: Path

    def end(self, timeout: float = 900) -> tuple[int, str]:
        """Exit code, negative for a signal, and what was printed."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, "it hangs"
        return self.process.exitcode, self.log.read_text()


def start(words: Sequence[str], log: Path, first: Callable[..., None] | None = None, *arguments: Any) -> Run:
    """Start `run_lens.py words...`; `first(*arguments)` is called in that process before.

    The process is forked off a server that has imported our libraries: the same as `python run_lens.py`, less the
    seconds of importing torch and what draws.
    """
    server = multiprocessing.get_context("forkserver")
    libraries = [
        "consistency_lens.cli.commands.command",
        "consistency_lens.cli.runs",
        "matplotlib.backends.backend_agg",
    ]
    server.set_forkserver_preload([*libraries, "extracting"])
    process = server.Process(target=_main, args=(list(words), str(log), first, arguments))
    process.start()
    return Run(process, log)


def run(words: Sequence[str], log: Path, first: Callable[..., None] | None = None, *arguments: Any) -> tuple[int, str]:
    return start(words, log, first, *arguments).end()


def signal_at(number: int, folder: str, what: signal.Signals = signal.SIGKILL, delay: float = 0.0) -> None:
    """From now on count the files that this process opens for writing, swaps in or removes under the folder; at the
    `number`-th it sends itself a signal, or so many seconds later: a moment that no clock of another process would
    hit, however busy the machine is."""
    # Started in the background, a test run ignores SIGINT, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    seen = 0

    def count(_path: str) -> None:
        nonlocal seen
        seen += 1
        if seen == number and delay:
            threading.Timer(delay, os.kill, (os.getpid(), what)).start()
        elif seen == number:
            os.kill(os.getpid(), what)

    at_each_change(folder, count)


def at_each_change(folder: str, act: Callable[[str], object]) -> None:
    """From now on call this with each file that this process opens for writing, swaps in or removes under a folder."""

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in ("os.rename", "os.remove", "os.mkdir") or (
            event == "open" and isinstance(arguments[1], str) and any(letter in arguments[1] for letter in "wx+")
        )
        if changes and str(arguments[0]).startswith(folder):
            act(str(arguments[0]))

    sys.addaudithook(audit)


def _main(words: list[str], log: str, first: Callable[..., None] | None, arguments: Sequence[Any]) -> None:
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    torch.set_num_threads(1)
    if first:
        first(*arguments)
    sys.argv = ["run_lens.py", *words]
    runpy.run_path(str(ROOT / "run_lens.py"), run_name="__main__")
