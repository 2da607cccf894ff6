"""Extraction against its limit and against the tutorial way, and its memory at ten times the rows.

    python benchmarks/extraction.py                          # a few minutes on two CPU cores
    python benchmarks/extraction.py --size qwen3-0.6b --device cuda --dtype bfloat16

The limit is a bare forward pass of the plain model, cut to the same layers, over the same batches, already tokenised
and padded. The tutorial way is what most notebooks do: whole documents, `output_hidden_states=True`, Python lists,
`torch.save`. All run in turn in one process, on random weights and random words; what counts are the ratios.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from harness import arguments, interleaved, ratios, report, show
from sizes import DTYPES, SIZES, random_lm

from consistency_lens.activations import Corpus, CorpusArguments, ExtractArguments, Extraction
from consistency_lens.activations.contexts.rows import Prepared, prepare
from consistency_lens.activations.documents import by_length, right_padded
from consistency_lens.frozen import FrozenLM
from consistency_lens.frozen.anatomy.parts import blocks_of

SITE = "resid_post.2/3"


def corpus_of(num_documents: int, tokens: int, vocabulary: int) -> Corpus:
    """Documents of random words, most of them near the given length, some much shorter."""
    rng = random.Random(0)
    lengths = [max(24, round(tokens * rng.triangular(0.2, 1.0, 0.9))) for _ in range(num_documents)]
    texts = [" ".join(f"w{rng.randrange(vocabulary - 8)}" for _ in range(length)) for length in lengths]
    return Corpus(Dataset.from_dict({"text": texts}), CorpusArguments(), "random words")


def extraction_of(frozen: FrozenLM, corpus: Corpus, folder: Path, batch_size: int) -> Extraction:
    arguments = ExtractArguments(
        output_dir=str(folder), sites=[SITE], batch_size=batch_size, storage_dtype="float32", overwrite=True
    )
    return Extraction(corpus, frozen.tokenizer, frozen.model.config, arguments)


def ours(extraction: Extraction, frozen: FrozenLM) -> None:
    extraction.open()
    extraction.run(frozen)


@torch.no_grad()
def bare(extraction: Extraction, frozen: FrozenLM, batches: list[torch.Tensor]) -> None:
    """The plain model with the blocks above the site taken off."""
    blocks = blocks_of(frozen.model)
    above = [blocks.pop(-1) for _ in range(len(blocks) - frozen.site(SITE).layer - 1)]
    try:
        for ids in batches:
            frozen.model.base_model(input_ids=ids.to(frozen.device), use_cache=False)
        if frozen.device.type == "cuda":
            torch.cuda.synchronize()
    finally:
        blocks.extend(reversed(above))


@torch.no_grad()
def tutorial(extraction: Extraction, frozen: FrozenLM, folder: Path, batch_size: int) -> None:
    layer, rules = frozen.site(SITE).layer + 1, extraction.rules
    documents = [p for prepared in prepared_chunks(extraction) for own in prepared.values() for p in own]
    texts = {d.doc_id: d.text for _, chunk in extraction.corpus.chunks(1000) for d in chunk}
    rows = []
    for start in range(0, len(documents), batch_size):
        batch = documents[start : start + batch_size]
        encoded = frozen.tokenizer(
            [texts[p.doc_id] for p in batch],
            padding=True,
            truncation=True,
            max_length=rules.max_length,
            return_tensors="pt",
        ).to(frozen.device)
        hidden = frozen.model(
            input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"], output_hidden_states=True
        ).hidden_states[layer]
        for i, p in enumerate(batch):
            for position in p.positions:
                rows.append(
                    {"ids": p.ids[: position + 1].tolist(), "activation": hidden[i, position].float().tolist()}
                )
    torch.save(rows, folder / "rows.pt")


def prepared_chunks(extraction: Extraction) -> Iterator[dict[str, list[Prepared]]]:
    for _, documents in extraction.corpus.chunks(extraction.arguments.documents_per_shard):
        yield prepare(documents, extraction.tokenizer, extraction.rules)


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All three ways in turn; tokens per second count the tokens up to the last position read, for all of them."""
    frozen = random_lm(options.size, 2 * options.tokens, options.dtype, options.device)
    corpus = corpus_of(options.documents, options.tokens, frozen.vocab_size)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        extraction = extraction_of(frozen, corpus, folder / "ours", options.batch_size)
        batches, tokens = [], 0
        for prepared in prepared_chunks(extraction):
            for own in prepared.values():
                tokens += sum(p.length for p in own)
                groups = by_length(own, options.batch_size)
                batches += [torch.from_numpy(right_padded([own[i] for i in group])) for group in groups]
        timings = interleaved(
            {
                "bare forward, cut, same batches": lambda: bare(extraction, frozen, batches),
                "ours, corpus to Arrow": lambda: ours(extraction, frozen),
                "tutorial, lists and torch.save": lambda: tutorial(extraction, frozen, folder, options.batch_size),
            },
            rounds=options.rounds,
            warmup=1,
            device=options.device,
        )
    rows = [
        {"way": name, "tokens/s": round(tokens / timing.median), "of the limit": 1 / ratio, "spread": timing.spread}
        for (name, timing), ratio in zip(timings.items(), ratios(timings).values(), strict=True)
    ]
    title = f"Extraction at {extraction.sites[0]} of {options.size}, {options.documents} documents, {tokens:,} tokens"
    show(title, list(rows[0]), [list(row.values()) for row in rows])
    return rows


def memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Peak memory of a whole extraction in a process of its own, at N and at 10 N documents."""
    peaks = {}
    for documents in (options.memory_documents, 10 * options.memory_documents):
        command = [sys.executable, __file__, "--peak_of", str(documents), "--tokens", str(options.tokens)]
        result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        peaks[documents] = int(result.stdout.split()[-1]) / 1024
    least = min(peaks.values())
    rows = [{"documents": n, "peak MB": peak, "growth %": 100 * (peak / least - 1)} for n, peak in peaks.items()]
    show(
        "Peak memory of a whole extraction (pilot size, one process each)",
        list(rows[0]),
        [[*r.values()] for r in rows],
    )
    return rows


def peak_of(documents: int, tokens: int) -> None:
    """In a process of its own: print the peak resident size in kB."""
    frozen = random_lm("pilot", 2 * tokens)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "corpus"
        save_corpus(path, documents, tokens, frozen.vocab_size)
        corpus = Corpus.load(CorpusArguments(dataset_name=str(path)))  # memory-mapped, as a large one would be
        ours(extraction_of(frozen, corpus, Path(scratch) / "rows", 32), frozen)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def save_corpus(path: Path, documents: int, tokens: int, vocabulary: int) -> None:
    """In a child, so that making the texts does not count."""
    pid = os.fork()
    if pid == 0:
        corpus_of(documents, tokens, vocabulary).source.save_to_disk(str(path))
        os._exit(0)
    os.waitpid(pid, 0)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--documents", type=int, default=192)
    parser.add_argument("--tokens", type=int, default=128, help="length of most documents")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory_documents", type=int, default=2000, help="0 leaves the memory part out")
    parser.add_argument("--peak_of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.peak_of:
        peak_of(options.peak_of, options.tokens)
        return
    results = compare(options)
    if options.memory_documents and options.device == "cpu":
        results += memory(options)
    report(options.json, options.device, {k: v for k, v in vars(options).items() if k != "json"}, results)


if __name__ == "__main__":
    main()
