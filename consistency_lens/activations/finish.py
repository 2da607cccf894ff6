"""The end of an extraction: shards become a dataset with metadata, statistics and a card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from ..card import render_card, write_card
from ..errors import BadInput
from ..frozen import Provenance
from ..frozen.loading.licence import UNKNOWN, Licence, licence_of
from .documents import SPLITS
from .manifest import sealed
from .statistics import SiteStatistics, count_near_duplicates, described
from .storage import (
    METADATA,
    STATISTICS,
    ChunkNote,
    naming_a_full_disk,
    write_arrays,
    write_json,
)

if TYPE_CHECKING:
    from .chunked import ChunkedExtraction
    from .corpus import Corpus

FORMAT, CARD = 1, "README.md"


def finish(extraction: ChunkedExtraction, notes: Sequence[ChunkNote], provenance: Provenance) -> None:
    """Write everything but the shards; `extraction.json` comes last and says that the folder is complete."""
    folder, dtype = extraction.folder.path, notes[0].dtype
    statistics, duplicates = _gathered(extraction, notes)
    shards = [shard for note in notes for shard in note.shards]
    counts = {
        split: {
            "documents": sum(note.documents[split] for note in notes),
            extraction.UNIT: sum(shard.rows for shard in shards if shard.split == split),
        }
        for split in extraction.laid_out(shards, dtype)
    }
    write_arrays(folder / STATISTICS, described(statistics))
    metadata: dict[str, Any] = {
        "format": FORMAT,
        "provenance": provenance.to_dict(),
        "corpus": extraction.corpus.identity,
        "rules": asdict(extraction.rules),
        "dtype": dtype,
        "splits": counts,
        "tokens": sum(note.tokens for note in notes),
        "documents_too_short": sum(note.too_short for note in notes),
        "near_duplicates": duplicates,
        "highest_token_id": max(note.highest_id for note in notes),
        "norms": {site: found.norm_quantiles() for site, found in statistics.items()},
        "shards": [asdict(shard) for shard in shards],
        **extraction.more_metadata(notes, statistics),
    }
    package, name = extraction.CARD
    facts = _card_facts(extraction, metadata) | extraction.more_facts(metadata)
    with naming_a_full_disk(folder / CARD):
        write_card(folder, render_card(files(package).joinpath(name).read_text("utf-8"), facts), CARD)
    write_json(folder / METADATA, sealed(folder, metadata))


def _gathered(
    extraction: ChunkedExtraction, notes: Sequence[ChunkNote]
) -> tuple[dict[str, SiteStatistics], dict[str, int]]:
    """What all chunks together say of the training split at each site, and how many documents nearly repeat one."""
    folder, sites = extraction.folder.path, extraction.sites
    statistics = {site: SiteStatistics.empty(extraction.hidden_size) for site in sites}
    sketches, splits_of = [], []
    for note in notes:  # one at a time: what is kept of each is a few bytes per document
        arrays = note.arrays(folder)
        for site in sites:
            statistics[site] = statistics[site].merge(SiteStatistics.from_arrays(arrays, site))
        sketches.append(arrays["sketches"])
        splits_of.append(arrays["splits"])
    if not statistics[sites[0]].count:
        raise BadInput(
            "validation_fraction",
            (extraction.rules.validation_fraction, extraction.rules.test_fraction),
            "Use more documents or smaller fractions.",
            why="no document was left for training",
        )
    return statistics, count_near_duplicates(np.concatenate(sketches), np.concatenate(splits_of), SPLITS)


def _card_facts(extraction: ChunkedExtraction, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says of any extraction."""
    provenance, licence = metadata["provenance"], _licence(extraction.corpus)
    return {
        "pretty_name": f"Activations of {provenance['model_id']} on {extraction.corpus.name}",
        "license": licence.id,
        "license_note": licence.note,
        "license_name": licence.name,
        "license_link": licence.link,
        "corpus": ", ".join(f"{key} {value}" for key, value in metadata["corpus"].items() if value is not None),
        "corpus_id": extraction.corpus.hub_id,
        "model": provenance["model_id"],
        "revision": provenance["weights"],
        "tokenizer_hash": provenance["tokenizer"],
        "sites": extraction.sites,
        "dtype": metadata["dtype"],
        "quantization": provenance["quantization"],
        "versions": provenance["versions"],
        "splits": metadata["splits"],
        "norms": metadata["norms"],
        "near_duplicates": metadata["near_duplicates"],
        "location": extraction.folder.path.name,
        "command": extraction.command,
    }


def _licence(corpus: Corpus) -> Licence:
    """That of the texts: whoever has the contexts has them."""
    if corpus.hub_id is None:
        return Licence(UNKNOWN, f"{corpus.name} is not on the Hub: whoever has made these texts knows their terms.")
    return licence_of(corpus.hub_id, corpus.identity.get("commit"), "dataset")
