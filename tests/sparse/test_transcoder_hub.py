"""Exports and contexts on the Hub, and what others have put there: through the real client, on loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from extracting import saved_model
from test_feature_contexts import batches, documents

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from hub_client import HubClient, command
from hub_server import Hub

from consistency_lens import AutoLens, BadInput, FrozenLM
from consistency_lens.sparse.features.describing import describe_features
from consistency_lens.sparse.modeling import CrosslayerTranscoder
from consistency_lens.sparse.use.circuit_tracer import names_of

TEXT = "w1 w2 w3"


def tree(server: Hub, name: str) -> set[str]:
    repo = server.repos["model", name]
    return set(repo.commits[repo.heads["main"]])


@pytest.fixture(scope="module")
def lens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frozen = FrozenLM.from_pretrained(saved_model())
    made = CrosslayerTranscoder.from_subject(frozen, features=16)
    describe_features(made, batches(documents(20), 8))
    made.save_pretrained(tmp_path_factory.mktemp("lens") / "mine")
    return tmp_path_factory.getbasetemp() / "lens0/mine"


def seen(place: str, subject: str | None) -> tuple[str, list[Any], bool]:
    """What a lens is, the features of a text, and whether it knows their contexts."""
    found: Any = AutoLens.from_pretrained(place, subject=subject)
    rows = found.features(TEXT, top=3)
    return found.config.nonlinearity, [row["features"] for row in rows], found.contexts is not None


def test_contexts_go_with_a_lens_and_exports_lie_beside_it(
    online: tuple[Hub, HubClient], lens: Path, tmp_path: Path
) -> None:
    server, client = online
    model = ["--model_name_or_path", str(saved_model()), "--use_cpu"]
    code, said = client(command, ["publish", "--lens", str(lens), "--repo_id", "me/clt", "--use_cpu"])
    assert code == 0 and "contexts.parquet" in tree(server, "me/clt"), said
    words = ["export", "--to", "circuit-tracer", str(tmp_path / "out"), "--lens", str(lens), *model]
    words += ["--repo_id", "me/clt"]
    code, said = client(command, words)
    assert code == 0, said
    pages = {f"features/layer_{i}.bin" for i in range(4)} | {"features/index.json.gz"}
    sent = {f"circuit-tracer/{name}" for name in {*names_of(4), *pages}}
    assert sent <= tree(server, "me/clt") and "model.safetensors" in tree(server, "me/clt")
    here = seen(str(lens), str(saved_model()))
    assert client(seen, "me/clt", str(saved_model())) == here and here[2]
    home = client.home / "hub/models--me--clt/snapshots"
    assert not list(home.rglob("W_enc_*")), "a lens is loaded without its export"
    kind, features, known = client(seen, "hf://me/clt/circuit-tracer", str(saved_model()))
    assert (kind, known) == ("jumprelu", False)
    assert [[f[:2] for f in row] for row in features] == [[f[:2] for f in row] for row in here[1]]
    code, said = client(command, [*words, "--subfolder", "other/place"])
    assert code == 0 and "other/place/config.yaml" in tree(server, "me/clt"), said


def test_a_published_transcoder_is_found_and_names_its_model(
    online: tuple[Hub, HubClient], lens: Path, tmp_path: Path
) -> None:
    server, client = online
    words = ["export", "--to", "circuit-tracer", str(tmp_path / "out"), "--lens", str(lens), "--use_cpu"]
    words += ["--model_name_or_path", str(saved_model()), "--repo_id", "me/raw", "--subfolder", "clt"]
    code, said = client(command, words)
    assert code == 0, said
    repo = server.repos["model", "me/raw"]
    files = {name.removeprefix("clt/"): blob for name, blob in repo.commits[repo.heads["main"]].items()}
    server.repos["model", "me/raw"].commit("main", files, "as others have it: at the root")
    kind, _, _ = client(seen, "me/raw", str(saved_model()))
    assert kind == "jumprelu"
    with pytest.raises(BadInput) as caught:  # its own model is not there
        client(seen, "me/raw", None)
    assert caught.value.field in ("subject", "model_name_or_path")
    with pytest.raises(BadInput, match="there is no such repository"):
        client(seen, "me/nothing", str(saved_model()))
    with pytest.raises(BadInput, match="there is no such repository"):
        client(seen, "hf://me/nothing/clt", str(saved_model()))
