"""`FeatureContexts`: a table with one row per feature, which lies beside the weights as `contexts.parquet`.

Each row says how often the feature is active, its label and how well that predicts it, the tokens that it makes
likelier and less likely, a sample of its values, and its strongest contexts. Nothing of it is needed to compute
anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from ...errors import BadInput
from ...files import replacing
from ...schema import number, plain, record, require, text, whole
from ..configuration import CONTEXTS, CrosslayerTranscoderConfig

_ABOUT = b"consistency_lens"
_SIDES = pa.list_(pa.struct({"token": pa.string(), "logit": pa.float32()}))
_CONTEXT = pa.struct(
    {
        "doc_id": pa.int64(),
        "position": pa.int32(),
        "value": pa.float32(),
        "at": pa.int32(),
        "tokens": pa.list_(pa.string()),
        "values": pa.list_(pa.float32()),
    }
)
SCHEMA = pa.schema(
    {
        "layer": pa.int32(),
        "feature": pa.int32(),
        "active": pa.int64(),
        "density": pa.float64(),
        "mean": pa.float32(),
        "max": pa.float32(),
        "label": pa.string(),
        "score": pa.float32(),
        "precision": pa.float32(),
        "recall": pa.float32(),
        "promotes": _SIDES,
        "suppresses": _SIDES,
        "writes": pa.list_(pa.float32()),
        "sample": pa.list_(pa.float32()),
        "contexts": pa.list_(_CONTEXT),
    }
)
_STORED = record(
    {
        "weights": text(r"[0-9a-f]{16}", "16 hexadecimal digits"),
        "split": text(longest=64),
        "tokens": whole(1),
        "documents": whole(1),
        "often": whole(0),
        "median_score": number(0, 1),
        "median_of_others": number(0, 1),
    },
    rest=plain,
)
_AGAIN = "Run evaluate again, which makes it, or take it away."


class FeatureContexts:
    """
    Args:
        table: of `SCHEMA`, layer by layer, each with all its features in order.
        about: `tokens` and `documents` that were read, of which `split`; how many features were active
            `often` (20 times), the median score of their labels, and that of labels of other features on them
            (`median_of_others`); `weights`, which says whose features these are.
        window: the layers.
        features: of each layer.
    """

    def __init__(self, table: pa.Table, about: Mapping[str, Any], window: Sequence[int], features: int) -> None:
        self.table, self.about = table, about
        self.window, self.features = list(window), features

    @cached_property
    def labels(self) -> list[str]:
        """Of all features, in the order of the table."""
        found: list[str] = self.table["label"].to_pylist()
        return found

    def row(self, layer: int, feature: int) -> int:
        if layer not in self.window:
            raise BadInput("layer", layer, f"The lens has features in layers {self.window}.")
        if not 0 <= feature < self.features:
            raise BadInput("feature", feature, f"Each layer has {self.features}: use 0 to {self.features - 1}.")
        return self.window.index(layer) * self.features + feature

    def label(self, layer: int, feature: int) -> str:
        """The label of a feature; '' for one that was never active."""
        return self.labels[self.row(layer, feature)]

    def score(self, layer: int, feature: int) -> float:
        """How well its label predicts a feature, F1."""
        return float(self.table["score"][self.row(layer, feature)].as_py())

    def of(self, layer: int, feature: int) -> dict[str, Any]:
        """All that is known of a feature, under the names of `SCHEMA`."""
        return self.take([self.row(layer, feature)])[0]

    def take(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """The same of several, by their places in the table."""
        found: list[dict[str, Any]] = self.table.take(pa.array(rows, pa.int64())).to_pylist()
        return found

    def ranked(self, count: int = 10, least: int = 20) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The features whose labels predict them best, and those whose labels do worst, of all that were active at
        least so many times; no two of the best have one label."""
        scores, active = self.table["score"].to_pylist(), self.table["active"].to_pylist()
        rows = [row for row, times in enumerate(active) if times >= least]
        rows.sort(key=lambda row: (-scores[row], -active[row], row))
        best: list[int] = []
        for row in rows:
            if len(best) < min(count, len(rows) // 2) and self.labels[row] not in {self.labels[b] for b in best}:
                best.append(row)
        worst = [row for row in reversed(rows) if row not in best][:count]
        return self.take(best), self.take(worst)

    def save(self, folder: Path) -> None:
        """Write the file, swapped in whole."""
        table = self.table.replace_schema_metadata({_ABOUT: json.dumps(dict(self.about))})
        with replacing(folder / CONTEXTS) as part:
            parquet.write_table(table, part, compression="zstd")

    @classmethod
    def load(cls, folder: Path, config: CrosslayerTranscoderConfig, weights: str) -> FeatureContexts | None:
        """What lies beside the weights of a lens; None where nothing does. Raise where it is damaged, or of others.

        Args:
            folder: of the lens.
            config: of the lens.
            weights: its `fingerprint`.
        """
        path = folder / CONTEXTS
        if not path.is_file():
            return None
        try:
            table = parquet.read_table(path)
            about = json.loads((table.schema.metadata or {}).get(_ABOUT, b"null"))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise BadInput("lens", folder.name, _AGAIN, f"{CONTEXTS} cannot be read: {error}") from error
        require(about, _STORED, "lens", folder.name, _AGAIN, CONTEXTS)
        if not table.schema.equals(SCHEMA) or len(table) != len(config.window) * config.features:
            raise BadInput("lens", folder.name, _AGAIN, f"{CONTEXTS} is no table of this lens's features")
        if about["weights"] != weights:
            raise BadInput("lens", folder.name, _AGAIN, f"{CONTEXTS} was made with other weights")
        pairs = [[layer for layer in config.window for _ in range(config.features)], [*range(config.features)]]
        if table["layer"].to_pylist() != pairs[0] or table["feature"].to_pylist() != pairs[1] * len(config.window):
            raise BadInput("lens", folder.name, _AGAIN, f"{CONTEXTS} has its rows in another order")
        return cls(table.replace_schema_metadata(None), about, config.window, config.features)


def words_of(decode: Callable[[list[int]], str]) -> Callable[[int], str]:
    """A token by its id, each decoded once."""
    known: dict[int, str] = {}

    def word(token: int) -> str:
        if token not in known:
            known[token] = decode([token])
        return known[token]

    return word
