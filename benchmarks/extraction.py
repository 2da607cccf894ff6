"""Extraction against its limit and against the tutorial way, and its memory at ten times the rows.

    python benchmarks/extraction.py                          # a few minutes on two CPU cores
    python benchmarks/extraction.py --size qwen3-0.6b --device cuda --dtype bfloat16

The limit is a bare forward pass of the plain model, cut to the same layers, over the same batches, already tokenised
and padded. The tutorial way is what most notebooks do: whole documents, `output_hidden_states=True`, Python lists,
`torch.save`. All run in turn in one process, on random weights and random words; what counts are the ratios.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from harness import Harness, random_lm

from consistency_lens.activations import Corpus, CorpusArguments, ExtractArguments, Extraction
from consistency_lens.activations.reader import ChunkReader, right_padded
from consistency_lens.frozen import FrozenLM
from consistency_lens.frozen.sites import blocks_of

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
    documents = [p for _, prepared in prepared_chunks(extraction) for own in prepared.values() for p in own]
    texts = {p.document.doc_id: p.document.text for p in documents}
    rows = []
    for start in range(0, len(documents), batch_size):
        batch = documents[start : start + batch_size]
        encoded = frozen.tokenizer(
            [texts[p.document.doc_id] for p in batch],
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


def prepared_chunks(extraction: Extraction):
    from consistency_lens.activations.rows import prepare

    for index, documents in extraction.corpus.chunks(extraction.arguments.documents_per_shard):
        yield index, prepare(documents, extraction.tokenizer, extraction.rules)


def compare(harness: Harness, options: argparse.Namespace) -> None:
    frozen = random_lm(options.size, options.device, options.dtype)
    corpus = corpus_of(options.documents, options.tokens, frozen.vocab_size)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        extraction = extraction_of(frozen, corpus, folder / "ours", options.batch_size)
        reader = ChunkReader(frozen, extraction.sites, options.batch_size)
        batches, tokens = [], 0
        for _, prepared in prepared_chunks(extraction):
            for own in prepared.values():
                tokens += sum(p.length for p in own)
                batches += [right_padded([own[i] for i in indices])[0] for indices in reader.batches(own)]
        harness.compare(
            f"extraction at {extraction.sites[0]}, {options.size}, {options.documents} documents, {tokens:,} tokens",
            {
                "bare forward, cut, same batches": lambda: bare(extraction, frozen, batches),
                "ours: corpus to Arrow": lambda: ours(extraction, frozen),
                "tutorial: hidden states, lists, torch.save": lambda: tutorial(
                    extraction, frozen, folder, options.batch_size
                ),
            },
            repeats=options.repeats,
            units={"tokens/s": tokens},
        )


def memory(harness: Harness, options: argparse.Namespace) -> None:
    """Peak memory of a whole extraction in a process of its own, at N and at 10 N documents."""
    peaks = []
    for documents in (options.memory_documents, 10 * options.memory_documents):
        command = [sys.executable, __file__, "--peak_of", str(documents), "--tokens", str(options.tokens)]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(int(result.stdout.split()[-1]))
    small, large = (peak / 1024 for peak in peaks)
    harness.record(
        "peak memory of a whole extraction (pilot size, a process each)",
        [
            {"documents": options.memory_documents, "peak MB": round(small, 1), "growth": ""},
            {
                "documents": 10 * options.memory_documents,
                "peak MB": round(large, 1),
                "growth": f"{100 * (large / small - 1):+.1f} %",
            },
        ],
    )


def peak_of(documents: int, tokens: int) -> None:
    """Only in a process of its own: print the peak resident size in kB."""
    frozen = random_lm("pilot", "cpu", "float32")
    path = Path(tempfile.mkdtemp()) / "corpus"
    corpus_of(documents, tokens, frozen.vocab_size).source.save_to_disk(str(path))  # read back memory-mapped
    corpus = Corpus.load(CorpusArguments(dataset_name=str(path)))
    extraction = extraction_of(frozen, corpus, path.parent / "rows", 32)
    ours(extraction, frozen)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Harness.add_options(parser)
    parser.add_argument("--documents", type=int, default=192)
    parser.add_argument("--tokens", type=int, default=128, help="Length of most documents.")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory_documents", type=int, default=2000, help="0 leaves the memory part out.")
    parser.add_argument("--peak_of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        peak_of(options.peak_of, options.tokens)
        return
    harness = Harness(options)
    compare(harness, options)
    if options.memory_documents and options.device == "cpu":
        memory(harness, options)
    harness.finish()


if __name__ == "__main__":
    main()
