"""Pages of features as circuit-tracer's interface reads them, beside an export.

    features/index.json.gz   of each layer the name of its file and where each feature begins: F + 1 offsets
    features/layer_{i}.bin   of each feature the length of what follows, 4 bytes little-endian, then deflated JSON

The interface asks for the bytes of one feature at a time, and numbers features by Cantor's pairing of layer and
feature.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..features.contexts import FeatureContexts

FOLDER, INDEX = "features", "index.json.gz"
BINS = 20  # of a histogram
_AT_ONCE = 1024  # features


def write_dashboards(known: FeatureContexts, folder: Path, name: str) -> Path:
    """Write them all; returns the folder `features` within this one.

    Args:
        known: what the features stand for.
        folder: of the export.
        name: of the lens.
    """
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    index = {}
    for number, layer in enumerate(known.window):
        offsets, file = [0], f"layer_{layer}.bin"
        with (place / file).open("wb") as sink:
            for start in range(0, known.features, _AT_ONCE):
                rows = range(start, min(start + _AT_ONCE, known.features))
                for row in known.take([number * known.features + each for each in rows]):
                    packed = zlib.compress(json.dumps(page_of(row, name), ensure_ascii=False).encode())
                    sink.write(len(packed).to_bytes(4, "little") + packed)
                    offsets.append(sink.tell())
        index[str(layer)] = {"filename": file, "offsets": offsets}
    (place / INDEX).write_bytes(gzip.compress(json.dumps(index).encode(), mtime=0))
    return place


def read_page(folder: Path, layer: int, feature: int) -> dict[str, Any]:
    """One page as the interface reads it: by the bytes that the index names."""
    index = json.loads(gzip.decompress((folder / FOLDER / INDEX).read_bytes()))[str(layer)]
    first, behind = index["offsets"][feature : feature + 2]
    with (folder / FOLDER / index["filename"]).open("rb") as source:
        source.seek(first)
        found = source.read(behind - first)
    page: dict[str, Any] = json.loads(zlib.decompress(found[4 : 4 + int.from_bytes(found[:4], "little")]))
    return page


def page_of(row: dict[str, Any], name: str) -> dict[str, Any]:
    """One feature under the names of that interface; its label stands over its contexts."""
    values: Sequence[float] = row["sample"]
    label = f"{row['label']} (F1 {row['score']:.2f})" if row["label"] else "never active"
    counts, _ = np.histogram(values, BINS, (0.0, max(row["max"], 1e-9)))
    examples = [
        {
            "tokens_acts_list": context["values"],
            "train_token_ind": context["at"],
            "is_repeated_datapoint": False,
            "tokens": context["tokens"],
        }
        for context in row["contexts"]
    ]
    return {
        "transcoder_id": name,
        "index": row["feature"],
        "examples_quantiles": [{"quantile_name": f"Top activations: {label}", "examples": examples}],
        "top_logits": [side["token"] for side in row["promotes"]],
        "bottom_logits": [side["token"] for side in row["suppresses"]],
        "act_min": 0.0,
        "act_max": row["max"],
        "quantile_values": np.quantile(values, np.arange(1, 100) / 100).tolist() if values else [],
        "histogram": counts.astype(float).tolist(),
        "activation_frequency": row["density"],
    }


def cantor(layer: int, feature: int) -> int:
    """The number of a feature in that interface."""
    both = layer + feature
    return both * (both + 1) // 2 + feature
