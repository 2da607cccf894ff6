"""The end of an extraction of blocks: metadata, statistics and a card; `extraction.json` comes last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from ...card import render_card, write_card
from ...frozen import Provenance
from ..contexts.rows import SPLITS
from ..finish import CARD, FORMAT, card_facts, gathered, write_statistics
from ..manifest import sealed
from ..storage import METADATA, ChunkNote, naming_a_full_disk, write_json

if TYPE_CHECKING:
    from .extract import BlockExtraction

KIND = "blocks"


def finish(extraction: BlockExtraction, notes: Sequence[ChunkNote], provenance: Provenance) -> None:
    """Write what stands beside the blocks."""
    folder = extraction.folder.path
    statistics, duplicates = gathered(extraction, notes)
    shards = [shard for note in notes for shard in note.shards]
    write_statistics(folder, statistics)
    metadata: dict[str, Any] = {
        "kind": KIND,
        "format": FORMAT,
        "provenance": provenance.to_dict(),
        "corpus": extraction.corpus.identity,
        "rules": asdict(extraction.rules),
        "dtype": notes[0].dtype,
        "hidden_size": extraction.hidden_size,
        "splits": {
            split: {
                "documents": sum(note.documents[split] for note in notes),
                "tokens": sum(shard.rows for shard in shards if shard.split == split),
            }
            for split in SPLITS
        },
        "tokens": sum(note.tokens for note in notes),
        "documents_too_short": sum(note.too_short for note in notes),
        "near_duplicates": duplicates,
        "highest_token_id": max(note.highest_id for note in notes),
        "norms": {site: found.norm_quantiles() for site, found in statistics.items()},
        "shards": [asdict(shard) for shard in shards],
    }
    if metadata["dtype"] == "int8":
        # Of the variance over training tokens, what rounding to int8 has cost at each site.
        lost = np.sum([note.arrays(folder)["lost"] for note in notes], axis=0)
        metadata["lost_to_int8"] = {
            site: float(lost[number] / max(found.squares.sum(), 1e-300))
            for number, (site, found) in enumerate(statistics.items())
        }
    template = files("consistency_lens.activations.blocks").joinpath("blocks_card_template.md").read_text("utf-8")
    own = {"rules": metadata["rules"], "lost_to_int8": metadata.get("lost_to_int8", {})}
    card = render_card(template, card_facts(extraction, metadata) | own)
    with naming_a_full_disk(folder / CARD):
        write_card(folder, card, CARD)
    write_json(folder / METADATA, sealed(folder, metadata))
