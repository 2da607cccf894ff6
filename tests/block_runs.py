"""What the tests of blocks share: extractions with small settings, here and in another process."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from extracting import corpus_of, signal_at
from tiny import shared_lm

from consistency_lens.activations import Corpus
from consistency_lens.activations.blocks import BlockArguments, BlockExtraction, Blocks
from consistency_lens.activations.manifest import sealed
from consistency_lens.frozen import FrozenLM

SITES = ["resid_pre.0", "mlp_out.1", "resid_post.2"]


def block_extraction(
    corpus: Corpus | Sequence[str], folder: Path | str = "nowhere", lm: FrozenLM | None = None, **arguments: Any
) -> BlockExtraction:
    """Small settings, each of which `arguments` may replace."""
    lm = lm or shared_lm("llama")
    small = {"sites": SITES, "documents_per_shard": 16, "tokens_per_block": 100, "batch_size": 4}
    held_out = {"validation_fraction": 0.2, "test_fraction": 0.2}
    given = BlockArguments(output_dir=str(folder), **(small | held_out | arguments))
    corpus = corpus if isinstance(corpus, Corpus) else corpus_of(corpus)
    return BlockExtraction(corpus, lm.tokenizer, lm.config, given)


def extract_blocks(
    folder: Path, corpus: Corpus | Sequence[str], lm: FrozenLM | None = None, **arguments: Any
) -> Blocks:
    """Run an extraction to its end and load it."""
    return Blocks.load(block_extraction(corpus, folder, lm, **arguments).run(lm or shared_lm("llama")))


def written_blocks(folder: Path) -> dict[str, bytes]:
    """Name -> content of all that an extraction writes, but the card, which names the folder."""
    paths = [
        path for path in folder.rglob("*") if path.is_file() and path.name != "lock" and "README" not in path.name
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def elsewhere(act: Callable[..., None], *arguments: Any) -> int:
    """Call a function in a process of its own, forked off a server that has imported our libraries; its exit code."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["consistency_lens.activations.blocks", "transformers.models.llama.modeling_llama"])
    process = server.Process(target=_begin, args=(act, arguments))
    process.start()
    process.join(120)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def _begin(act: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    act(*arguments)


def killed(folder: Path, texts: Sequence[str], number: int, **arguments: Any) -> int:
    """Run an extraction in a process that ends itself with SIGKILL at its `number`-th change; its exit code."""
    return elsewhere(_extract, str(folder), list(texts), number, arguments)


def _extract(folder: str, texts: list[str], number: int, arguments: dict[str, Any]) -> None:
    extraction, lm = block_extraction(texts, folder, **arguments), shared_lm("llama")
    signal_at(number, folder)
    extraction.run(lm)


def change_metadata(folder: Path, **values: Any) -> None:
    """Write other values into `extraction.json`, checksum and all."""
    path = folder / "extraction.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(sealed(folder, {k: v for k, v in record.items() if k != "checksum"} | values)))
