"""What the tests of training a transcoder share: stored tokens of a tiny model, and short runs on them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from block_runs import extract_blocks
from datasets import Dataset, DatasetDict
from extracting import random_texts
from short_runs import SHORT
from tiny import shared_lm

from consistency_lens.activations.blocks import Blocks
from consistency_lens.sparse.arguments import CrosslayerTranscoderArguments
from consistency_lens.sparse.modeling import CrosslayerTranscoder
from consistency_lens.sparse.trainer import CrosslayerTranscoderTrainer

TEXTS = random_texts(60, shortest=6, longest=24)
STEPS = 6


@cache
def _home() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="consistency-lens-blocks-", ignore_cleanup_errors=True)


@cache
def blocks() -> Blocks:
    return extract_blocks(Path(_home().name) / "blocks", TEXTS, sites=["resid_mid.*", "mlp_out.*"])


@cache
def one_block() -> Blocks:
    """The same tokens, those of each split in one block, as plain documents are cut."""
    sizes = {"documents_per_shard": 256, "tokens_per_block": 4096}
    return extract_blocks(Path(_home().name) / "one", TEXTS, sites=["resid_mid.*", "mlp_out.*"], **sizes)


def plain_documents() -> DatasetDict:
    """What a stranger may have of them: a row for each document, with its activations."""
    made = {}
    for split, documents in one_block().splits.items():
        rows = []
        for document in (documents[i] for i in range(len(documents))):
            vectors = zip(one_block().sites, document["activations"].unbind(1), strict=True)
            row = {"doc_id": int(document["doc_id"]), "input_ids": document["input_ids"].tolist()}
            rows.append(row | {site: values.tolist() for site, values in vectors})
        made[split] = Dataset.from_list(rows)
    return DatasetDict(made)


def transcoder(layers: Any = "all", **settings: Any) -> CrosslayerTranscoder:
    given = {"features": 48, "nonlinearity": "topk", "k": 4} | settings
    return CrosslayerTranscoder.from_subject(shared_lm("llama"), layers, **given)


def arguments(folder: Path | str, **changes: Any) -> CrosslayerTranscoderArguments:
    given: dict[str, Any] = {
        "output_dir": str(folder),
        **SHORT,
        "max_steps": STEPS,
        "per_device_train_batch_size": 64,
        "dead_after": 100,
        "revive_steps": 3,
    }
    return CrosslayerTranscoderArguments(**(given | changes))


def trainer(
    folder: Path | str, lens: CrosslayerTranscoder | None = None, data: Any = None, **changes: Any
) -> CrosslayerTranscoderTrainer:
    return CrosslayerTranscoderTrainer(
        lens or transcoder(), arguments(folder, **changes), data or blocks(), frozen=shared_lm("llama")
    )


def logged(made: CrosslayerTranscoderTrainer, name: str) -> list[float]:
    return [entry[name] for entry in made.state.log_history if name in entry]
