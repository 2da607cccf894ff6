"""Blocks of tokens against rows and against the bare forward pass, and their memory at ten times the corpus.

    python benchmarks/blocks.py --threads 1                     # GPT-2 size, 24 sites x 768, some minutes on a CPU
    python benchmarks/blocks.py --size qwen3-0.6b --device cuda --dtype bfloat16 --memory_documents 0

Three questions. How many tokens a second come out of stored blocks, a batch of shuffled tokens at a time, and how many
out of stored rows, collated? What is left of a forward pass that reads all sites when its tokens are also shuffled?
Does memory grow with the corpus? Ways take turns in one process, on random weights and random numbers; files are in
the cache of the operating system, for both.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from extraction import save_corpus
from harness import arguments, interleaved, report, show
from sizes import DTYPES, SIZES, random_lm
from torch.utils.data import DataLoader, RandomSampler

from consistency_lens.activations import ActivationCollator, Corpus, CorpusArguments
from consistency_lens.activations.blocks import BlockArguments, BlockExtraction, Blocks, BlockStream, ShuffledTokens
from consistency_lens.activations.blocks.documents import BlockRules
from consistency_lens.activations.blocks.encoding import encode
from consistency_lens.activations.blocks.files import write_block
from consistency_lens.activations.contexts.rows import Prepared
from consistency_lens.activations.contexts.table import table_of
from consistency_lens.activations.documents import Tokens, by_length, right_padded
from consistency_lens.activations.storage import features_of
from consistency_lens.frozen import FrozenLM

STAGES = ("resid_mid", "mlp_out")  # twelve layers of GPT-2: 24 sites


def blocks_of_noise(
    folder: Path, sites: list[str], size: int, options: argparse.Namespace, dtype: str
) -> ShuffledTokens:
    """Stored blocks of random numbers: what a number is does not matter to whoever copies it."""
    documents = [Tokens(i, np.zeros(options.length, np.int32)) for i in range(options.block // options.length)]
    shards = []
    for number in range(options.blocks):
        values = torch.randn(options.block // options.length * options.length, len(sites), size)
        owners = np.zeros(len(values), np.int64)
        shards.append(write_block(folder, "train", 0, number, documents, encode(values, dtype, sites, owners)))
    metadata = {
        "provenance": {"model_id": "", "weights": "", "tokenizer": "", "sites": sites, "dtype": "float32"},
        "rules": vars(BlockRules(min_position=0)),
        "dtype": dtype,
        "hidden_size": size,
        "shards": [vars(shard) for shard in shards],
    }
    return Blocks(folder, metadata, {}).tokens(blocks_per_window=options.window)


def rows_of_noise(sites: list[str], size: int, options: argparse.Namespace) -> Callable[[], Iterator[Any]]:
    """Rows as an extraction stores them, one of each document, and as a training takes them: shuffled and collated."""
    features = features_of(
        sites, size, "float16", Corpus(Dataset.from_dict({"text": [""]}), CorpusArguments(), "").features
    )
    prepared = [
        Prepared(i, np.zeros(options.length, np.int32), np.array([options.length - 2]), {})
        for i in range(options.rows)
    ]
    vectors = {site: torch.randn(options.rows, size) for site in sites}
    rows = Dataset(table_of(prepared, vectors, features, 1)).with_format("torch")
    collate = ActivationCollator(sites, pair=False, dtype=torch.float16)
    return lambda: iter(DataLoader(rows, options.rows, sampler=RandomSampler(rows), collate_fn=collate))


def gather(options: argparse.Namespace, frozen: FrozenLM, sites: list[str]) -> list[dict[str, Any]]:
    """Shuffled tokens out of stored blocks, against rows."""
    size, batch = frozen.hidden_size, options.batch
    with tempfile.TemporaryDirectory() as scratch:
        stored = {
            dtype: blocks_of_noise(Path(scratch) / dtype, sites, size, options, dtype) for dtype in ("float16", "int8")
        }
        rows, half = rows_of_noise(sites, size, options), stored["float16"]
        held = len(half.order.epoch(0).windows[0]) * (options.block // options.length * options.length)
        if held < batch:
            raise SystemExit(f"a window has {held} tokens, fewer than a batch: use a larger --block or --window")

        def epoch(tokens: ShuffledTokens) -> None:
            for start in range(0, len(tokens) // batch * batch, batch):
                tokens.__getitems__(range(start, start + batch))

        tokens_of = {name: len(half) // batch * batch for name in ("float16", "int8")}
        steps: dict[str, Callable[[], object]] = {
            "rows, shuffled and collated": lambda: next(rows()),
            "blocks, a gather from the window at hand": lambda: half.__getitems__(range(batch)),
            "blocks, a whole epoch, read from files": lambda: epoch(half),
            "blocks of int8, a whole epoch": lambda: epoch(stored["int8"]),
        }
        counts = dict(zip(steps, [options.rows, batch, *tokens_of.values()], strict=True))
        half.__getitems__(range(batch))
        timings = interleaved({name: steps[name] for name in list(steps)[:2]}, options.rounds, 1)
        timings |= interleaved({name: steps[name] for name in list(steps)[2:]}, options.rounds, 1)
    speeds = {name: counts[name] / timing.median for name, timing in timings.items()}
    first = next(iter(speeds.values()))
    found = [
        {"way": name, "tokens/s": round(speed), "times rows": speed / first, "spread": timings[name].spread}
        for name, speed in speeds.items()
    ]
    show(f"Batches of {batch} tokens of {len(sites)} sites x {size}", list(found[0]), [[*r.values()] for r in found])
    return found


def random_corpus(frozen: FrozenLM, documents: int, length: int) -> Corpus:
    rng = np.random.default_rng(0)
    lengths = np.maximum(rng.triangular(0.2 * length, 0.9 * length, length, documents).astype(int), 4)
    texts = [" ".join(f"w{word}" for word in rng.integers(0, frozen.vocab_size - 8, n)) for n in lengths]
    return Corpus(Dataset.from_dict({"text": texts}), CorpusArguments(), "random words")


def stream_of(frozen: FrozenLM, corpus: Corpus, sites: list[str], options: argparse.Namespace) -> BlockStream:
    given = BlockArguments(
        sites=sites, min_position=0, tokens_per_block=options.stream_block, batch_size=options.documents_per_pass,
        validation_fraction=0.0, test_fraction=0.0,
    )  # fmt: skip
    return BlockExtraction(corpus, frozen.tokenizer, frozen.model.config, given).stream(frozen)


def streaming(options: argparse.Namespace, frozen: FrozenLM, sites: list[str]) -> list[dict[str, Any]]:
    """Shuffled tokens out of the model, against the bare pass over the same batches that reads the same sites."""
    stream = stream_of(frozen, random_corpus(frozen, options.documents, options.length), sites, options)
    source, reader = stream.source(), stream.reader
    count = int(source.sizes.sum())
    passes = []
    for number in range(len(source.sizes)):
        documents = source.documents(number)
        batches = by_length(documents, reader.batch_size)
        passes += [torch.from_numpy(right_padded([documents[i] for i in own])) for own in batches]

    def bare() -> None:
        for ids in passes:
            frozen.read({"input_ids": ids}, sites)

    tokens, epochs = stream.tokens(blocks_per_window=options.window), itertools.count()

    def shuffled() -> None:
        tokens.set_epoch(next(epochs))
        for start in range(0, count, options.batch):
            tokens.__getitems__(range(start, min(start + options.batch, count)))

    timings = interleaved(
        {"bare pass that reads the sites": bare, "streamed, shuffled, in batches": shuffled},
        options.rounds, 1, options.device,
    )  # fmt: skip
    first = next(iter(timings.values())).seconds
    found = []
    for name, timing in timings.items():
        shares = [one / other for one, other in zip(first, timing.seconds, strict=True)]
        row = {"way": name, "tokens/s": round(count / timing.median), "of the bare pass": median(shares)}
        found.append(row | {"least": min(shares), "most": max(shares), "spread": timing.spread})
    show(f"{count:,} tokens at {len(sites)} sites of {options.size}", list(found[0]), [[*r.values()] for r in found])
    return found


def memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Peak memory of blocks, stored and read or streamed, in a process of its own, at N and at 10 N documents."""
    found = []
    for way in ("stored", "streamed"):
        peaks = {}
        for documents in (options.memory_documents, 10 * options.memory_documents):
            command = [sys.executable, __file__, "--peak_of", way, str(documents), "--length", str(options.length)]
            result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            peaks[documents] = int(result.stdout.split()[-1]) / 1024
        least = min(peaks.values())
        found += [
            {"way": way, "documents": n, "peak MB": peak, "growth %": 100 * (peak / least - 1)}
            for n, peak in peaks.items()
        ]
    show("Peak memory (pilot size, one process each)", list(found[0]), [[*row.values()] for row in found])
    return found


def peak_of(way: str, documents: int, length: int) -> None:
    """In a process of its own: print the peak resident size in kB."""
    frozen = random_lm("pilot", 2 * length)
    with tempfile.TemporaryDirectory() as scratch:
        save_corpus(Path(scratch) / "corpus", documents, length, frozen.vocab_size)
        corpus = Corpus.load(CorpusArguments(dataset_name=str(Path(scratch) / "corpus")))
        given = BlockArguments(output_dir=f"{scratch}/blocks", sites=[f"{stage}.*" for stage in STAGES])
        extraction = BlockExtraction(corpus, frozen.tokenizer, frozen.model.config, given)
        held = extraction.stream(frozen) if way == "streamed" else Blocks.load(extraction.run(frozen))
        tokens = held.tokens(blocks_per_window=2)
        for start in range(0, len(tokens), 4096):
            tokens.__getitems__(range(start, min(start + 4096, len(tokens))))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def new_parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__)
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--length", type=int, default=128, help="tokens of a document (default: 128)")
    parser.add_argument("--batch", type=int, default=4096, help="tokens of a batch (default: 4096)")
    parser.add_argument("--block", type=int, default=4096, help="tokens of a stored block (default: 4096)")
    parser.add_argument("--blocks", type=int, default=16, help="stored blocks (default: 16); 0 leaves them out")
    parser.add_argument("--window", type=int, default=8, help="blocks shuffled together (default: 8)")
    parser.add_argument("--rows", type=int, default=512, help="rows that are collated (default: 512)")
    parser.add_argument("--documents", type=int, default=24, help="streamed (default: 24); 0 leaves streaming out")
    parser.add_argument("--stream_block", type=int, default=1024, help="tokens of a streamed block (default: 1024)")
    parser.add_argument("--documents_per_pass", type=int, default=8, help="streamed together (default: 8)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory_documents", type=int, default=500, help="0 leaves the memory part out")
    parser.add_argument("--peak_of", nargs=2, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    options = new_parser().parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.peak_of:
        peak_of(options.peak_of[0], int(options.peak_of[1]), options.length)
        return
    frozen = random_lm(options.size, 2 * options.length, options.dtype, options.device)
    sites = [f"{stage}.{layer}" for layer in range(frozen.num_layers) for stage in STAGES]
    results = gather(options, frozen, sites) if options.blocks else []
    if options.documents:
        results += streaming(options, frozen, sites)
    if options.memory_documents and options.device == "cpu":
        results += memory(options)
    report(options.json, options.device, {k: v for k, v in vars(options).items() if k != "json"}, results)


if __name__ == "__main__":
    main()
