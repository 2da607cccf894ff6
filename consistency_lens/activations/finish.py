"""The end of an extraction: shards become a dataset with metadata, statistics and a card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..card import render_card, write_card
from ..errors import BadInput
from ..frozen import Provenance
from ..frozen.loading.licence import UNKNOWN, Licence, licence_of
from .contexts.rows import SPLITS
from .manifest import sealed
from .statistics import SiteStatistics, count_near_duplicates
from .storage import (
    METADATA,
    STATISTICS,
    ChunkNote,
    features_of,
    naming_a_full_disk,
    write_arrays,
    write_json,
    write_layout,
)

if TYPE_CHECKING:
    from .chunked import ChunkedExtraction
    from .contexts.extract import Extraction
    from .corpus import Corpus

FORMAT, CARD = 1, "README.md"
MEANINGS = {
    "doc_id": "number of the document in the corpus",
    "input_ids": "the context: all tokens up to and with the position that was read",
    "continuation_ids": "the tokens that really come next",
    "position": "P: index of the last of input_ids, counted from 0",
}


def finish(extraction: Extraction, notes: Sequence[ChunkNote], provenance: Provenance) -> None:
    """Write everything but the shards; `extraction.json` comes last and says that the folder is complete."""
    folder, sites = extraction.folder.path, extraction.sites
    statistics, duplicates = gathered(extraction, notes)
    shards = [shard for note in notes for shard in note.shards]
    dtype = notes[0].dtype
    features = features_of(sites, extraction.hidden_size, dtype, extraction.corpus.features)
    splits = write_layout(folder, features, shards)
    counts = {
        split: {
            "documents": sum(note.documents[split] for note in notes),
            "rows": sum(shard.rows for shard in shards if shard.split == split),
        }
        for split in splits
    }
    write_statistics(folder, statistics)
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
        "norms": {site: s.norm_quantiles() for site, s in statistics.items()},
        "shards": [asdict(shard) for shard in shards],
    }
    with naming_a_full_disk(folder / CARD):
        write_card(folder, _card(extraction, metadata), CARD)
    write_json(folder / METADATA, sealed(folder, metadata))


def gathered(
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


def write_statistics(folder: Path, statistics: Mapping[str, SiteStatistics]) -> None:
    """Mean and variance of the training split, under the names of the sites."""
    write_arrays(
        folder / STATISTICS,
        {
            f"{site}.{name}": value
            for site, s in statistics.items()
            for name, value in (("mean", s.mean), ("variance", s.variance))
        },
    )


def _card(extraction: Extraction, metadata: dict[str, Any]) -> str:
    width = extraction.hidden_size
    kinds = {"doc_id": "int64", "input_ids": "list of int32", "continuation_ids": "list of int32", "position": "int32"}
    columns = [{"name": name, "type": kinds[name], "meaning": meaning} for name, meaning in MEANINGS.items()]
    columns += [
        {
            "name": site,
            "type": f"{width} x {metadata['dtype']}",
            "meaning": f"the activation at {site} and P, as it was",
        }
        for site in extraction.sites
    ]
    columns += [
        {"name": name, "type": str(kind), "meaning": "carried along from the corpus"}
        for name, kind in extraction.corpus.features.items()
    ]
    template = files("consistency_lens.activations").joinpath("dataset_card_template.md").read_text("utf-8")
    return render_card(template, card_facts(extraction, metadata) | {"columns": columns})


def card_facts(extraction: ChunkedExtraction, metadata: Mapping[str, Any]) -> dict[str, Any]:
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
