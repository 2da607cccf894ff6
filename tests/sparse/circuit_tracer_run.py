"""Opens exports with circuit-tracer, in an environment of its own: features, an attribution graph, its scores.

    python circuit_tracer_run.py SETTINGS.json

The settings name a model that TransformerLens knows, token ids, folders of exports, and a file for the features. What
is found is one JSON object on the last line.
"""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import torch
from circuit_tracer import ReplacementModel, attribute
from circuit_tracer.frontend.feature_models import Model
from circuit_tracer.graph import compute_graph_scores
from circuit_tracer.utils.create_graph_files import create_graph_files
from safetensors.torch import save_file


def main(settings: dict[str, Any]) -> dict[str, Any]:
    ids, found = torch.tensor(settings["ids"]), {}
    for name, folder in settings["exports"].items():
        model = ReplacementModel.from_pretrained(settings["model"], folder, device=torch.device("cpu"))
        logits, features = model.get_activations(ids)
        graph = attribute(ids, model, max_n_logits=4, batch_size=64)
        replacement, completeness = compute_graph_scores(graph)
        found[name] = {
            "transcoder": type(model.transcoders).__name__,
            "nodes": len(graph.selected_features),
            "edges": int((graph.adjacency_matrix != 0).sum()),
            "finite": bool(graph.adjacency_matrix.isfinite().all()),
            "replacement": replacement,
            "completeness": completeness,
        }
        if name == "lens":
            save_file({"features": features.contiguous(), "logits": logits[0].contiguous()}, settings["features"])
            graph.to_pt(f"{settings['graph']}.pt")
            create_graph_files(f"{settings['graph']}.pt", slug="lens", output_path=settings["graph"])
            found["graph_files"] = sorted(path.name for path in Path(settings["graph"]).iterdir())
            found["page"] = page(Path(folder), *settings["feature"]).model_dump()
    return found


def page(folder: Path, layer: int, feature: int) -> Model:
    """A page of a feature, by its index, checked by circuit-tracer's own schema."""
    index = json.loads(gzip.decompress((folder / "features/index.json.gz").read_bytes()))[str(layer)]
    first, behind = index["offsets"][feature : feature + 2]
    found = (folder / "features" / index["filename"]).read_bytes()[first:behind]
    return Model(**json.loads(zlib.decompress(found[4 : 4 + int.from_bytes(found[:4], "little")])))


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
