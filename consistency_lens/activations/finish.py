"""The end of an extraction: shards become a dataset with metadata, statistics and a card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any, ClassVar

import numpy as np

from ..card import render_card, write_card
from ..errors import BadInput
from ..frozen import Provenance
from ..frozen.loading.licence import UNKNOWN, Licence, licence_of
from .corpus import Corpus
from .documents import SPLITS
from .folder import ExtractionFolder
from .manifest import sealed
from .statistics import SiteStatistics, count_near_duplicates, described
from .storage import (
    METADATA,
    STATISTICS,
    ChunkNote,
    Shard,
    naming_a_full_disk,
    write_arrays,
    write_json,
)

FORMAT, CARD = 1, "README.md"


class Finishing:
    """The end of an extraction. A subclass has read a corpus at some sites, and says what was stored of it."""

    UNIT: ClassVar[str]  # what is counted of a split
    CARD: ClassVar[tuple[str, str]]  # package and name of the card's template
    corpus: Corpus
    folder: ExtractionFolder
    sites: list[str]
    hidden_size: int
    rules: Any
    command: str

    def laid_out(self, shards: Sequence[Shard], dtype: str) -> list[str]:
        """Write what turns shards into a data set; returns the splits that it has."""
        raise NotImplementedError

    def more_metadata(self, notes: Sequence[ChunkNote], statistics: Mapping[str, SiteStatistics]) -> dict[str, Any]:
        """What `extraction.json` says of this kind of data alone."""
        return {}

    def more_facts(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """What the card says of this kind of data alone."""
        raise NotImplementedError

    def finish(self, notes: Sequence[ChunkNote], provenance: Provenance) -> None:
        """Write everything but the shards; `extraction.json` comes last and says that the folder is complete."""
        folder, dtype = self.folder.path, notes[0].dtype
        statistics, duplicates = self._gathered(notes)
        shards = [shard for note in notes for shard in note.shards]
        counts = {
            split: {
                "documents": sum(note.documents[split] for note in notes),
                self.UNIT: sum(shard.rows for shard in shards if shard.split == split),
            }
            for split in self.laid_out(shards, dtype)
        }
        write_arrays(folder / STATISTICS, described(statistics))
        metadata: dict[str, Any] = {
            "format": FORMAT,
            "provenance": provenance.to_dict(),
            "corpus": self.corpus.identity,
            "rules": asdict(self.rules),
            "dtype": dtype,
            "splits": counts,
            "tokens": sum(note.tokens for note in notes),
            "documents_too_short": sum(note.too_short for note in notes),
            "near_duplicates": duplicates,
            "highest_token_id": max(note.highest_id for note in notes),
            "norms": {site: found.norm_quantiles() for site, found in statistics.items()},
            "shards": [asdict(shard) for shard in shards],
            **self.more_metadata(notes, statistics),
        }
        package, name = self.CARD
        facts = self._card_facts(metadata) | self.more_facts(metadata)
        with naming_a_full_disk(folder / CARD):
            write_card(folder, render_card(files(package).joinpath(name).read_text("utf-8"), facts), CARD)
        write_json(folder / METADATA, sealed(folder, metadata))

    def _gathered(self, notes: Sequence[ChunkNote]) -> tuple[dict[str, SiteStatistics], dict[str, int]]:
        """What all chunks say of the training split at each site, and how many documents nearly repeat one."""
        folder, sites = self.folder.path, self.sites
        statistics = {site: SiteStatistics.empty(self.hidden_size) for site in sites}
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
                (self.rules.validation_fraction, self.rules.test_fraction),
                "Use more documents or smaller fractions.",
                why="no document was left for training",
            )
        return statistics, count_near_duplicates(np.concatenate(sketches), np.concatenate(splits_of), SPLITS)

    def _card_facts(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """What a card says of any self."""
        provenance, licence = metadata["provenance"], _licence(self.corpus)
        return {
            "pretty_name": f"Activations of {provenance['model_id']} on {self.corpus.name}",
            "license": licence.id,
            "license_note": licence.note,
            "license_name": licence.name,
            "license_link": licence.link,
            "corpus": ", ".join(f"{key} {value}" for key, value in metadata["corpus"].items() if value is not None),
            "corpus_id": self.corpus.hub_id,
            "model": provenance["model_id"],
            "revision": provenance["weights"],
            "tokenizer_hash": provenance["tokenizer"],
            "sites": self.sites,
            "dtype": metadata["dtype"],
            "quantization": provenance["quantization"],
            "versions": provenance["versions"],
            "splits": metadata["splits"],
            "norms": metadata["norms"],
            "near_duplicates": metadata["near_duplicates"],
            "location": self.folder.path.name,
            "command": self.command,
        }


def _licence(corpus: Corpus) -> Licence:
    """That of the texts: whoever has the contexts has them."""
    if corpus.hub_id is None:
        return Licence(UNKNOWN, f"{corpus.name} is not on the Hub: whoever has made these texts knows their terms.")
    return licence_of(corpus.hub_id, corpus.identity.get("commit"), "dataset")
