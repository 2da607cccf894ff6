"""Lenses go to the Hub and come back through the real client."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from extracting import saved_model
from huggingface_hub import HfApi, constants
from lens_runs import stirred, tiny_lens
from tiny import tiny_lm

from consistency_lens import (
    AutoLens,
    BadInput,
    ConsistencyLens,
    FrozenLM,
    LensDecoder,
    LensEncoder,
    ProvenanceMismatch,
    hub,
)
from consistency_lens.card import RESULTS
from consistency_lens.finding import find_subject
from consistency_lens.frozen import Provenance

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from hub_client import HubClient
from hub_server import READ_TOKEN, TOKEN, Blob, Hub

KINDS = ["full", "lora", "projections"]


def lens_of(kind: str, seed: int = 0) -> ConsistencyLens:
    return stirred(tiny_lens(tiny_lm(), trainable=kind), seed=seed).eval()


def says(lens: Any) -> tuple[list[str], list[list[float]]]:
    """Words and restored vectors: equal lists are bit-equal vectors."""
    vectors = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    batch = {"activations": {lens.config.sites[0]: vectors}}
    code = lens.compress(batch, seed=4)
    return [row["explanation"] for row in lens.explain(code)], lens.restore(code, batch)[0].value.tolist()


def files(server: Hub, name: str, kind: str = "model", branch: str = "main") -> dict[str, Blob]:
    repo = server.repos[kind, name]
    return repo.commits[repo.heads[branch]]


# ---- these functions run in the client's process


def push(kind: str, name: str, seed: int = 0, **more: Any) -> Any:
    lens = lens_of(kind, seed)
    return lens.push_to_hub(name, **more), says(lens)


def pull(name: str, auto: bool = False, **more: Any) -> Any:
    loader = AutoLens if auto else ConsistencyLens
    return says(loader.from_pretrained(name, subject=tiny_lm(), **more))


@pytest.mark.parametrize("kind", KINDS)
def test_a_lens_goes_to_the_hub_and_comes_back_bit_for_bit(online: tuple[Hub, HubClient], kind: str) -> None:
    server, client = online
    address, said = client(push, kind, f"me/round-{kind}")
    assert f"me/round-{kind}" in address and len(set(said[0])) > 1
    assert client(pull, f"me/round-{kind}") == client(pull, f"me/round-{kind}", True) == said
    weights = {name for name, blob in files(server, f"me/round-{kind}").items() if blob.large}
    inside = {"full": "model", "lora": "adapter_model"}.get(kind)
    parts = {f"{part}/{inside}.safetensors" for part in ("decoder", "encoder")} if inside else set()
    assert weights == {"model.safetensors"} | parts


def test_a_lens_of_another_kind_takes_its_place_whole(online: tuple[Hub, HubClient]) -> None:
    server, client = online
    client(push, "lora", "me/changed")
    _, said = client(push, "full", "me/changed", 1)
    assert not any("adapter" in name for name in files(server, "me/changed"))
    assert client(pull, "me/changed") == said


def test_the_plain_card_of_another_lens_keeps_words_and_drops_numbers(online: tuple[Hub, HubClient]) -> None:
    server, client = online
    client(push, "projections", "me/plain")
    card = files(server, "me/plain")["README.md"].data.decode()
    assert "# plain" in card and 'AutoLens.from_pretrained("me/plain", subject=' in card
    assert "trained elsewhere" in card and "license: unknown" in card and "## Numbers" not in card
    repo = server.repos["model", "me/plain"]
    numbers = (
        "<!-- generated: numbers -->\n## Numbers\n0.99\n<!-- /generated -->\n\nBy hand.\n\n<!-- generated: limits -->"
    )
    mine = card.replace("license: unknown\n", "license: unknown\nmine: kept\nmodel-index: [{name: old}]\n", 1)
    mine = mine.replace("<!-- generated: limits -->", numbers)
    measured = ["report/report.json", "report/kl.png", "samples.parquet", "history.json", "training.json", "mine.txt"]
    measured.append(RESULTS)
    tree = repo.commits[repo.heads["main"]] | dict.fromkeys(measured, Blob(b"of the old lens", large=False))
    repo.commit("main", tree | {"README.md": Blob(mine.encode(), large=False)}, "by hand, and measured")
    client(push, "projections", "me/plain", 1)
    there = files(server, "me/plain")
    card = there["README.md"].data.decode()
    assert "\nBy hand.\n" in card and "\nmine: kept\n" in card and "# plain" in card
    assert "model-index" not in card and "## Numbers" not in card
    assert set(measured) & set(there) == {"mine.txt"}


def test_a_name_that_leads_out_of_the_cache_is_refused(online: tuple[Hub, HubClient]) -> None:
    server, client = online
    client(push, "projections", "me/climbing")
    repo = server.repos["model", "me/climbing"]
    climbing = {"../../../../planted.json": Blob(b"{}", large=False)}
    repo.commit("main", repo.commits[repo.heads["main"]] | climbing, "hostile")
    with pytest.raises(BadInput, match="lens='me/climbing'"):
        client(pull, "me/climbing")
    assert not list(client.home.parent.rglob("planted*"))


def revise(name: str) -> Any:
    said = [push("projections", name, seed, revision=branch)[1] for seed, branch in ((0, None), (1, "next"))]
    commit = AutoLens.from_pretrained(name, subject=tiny_lm(), revision="next")
    assert says(commit) == said[1]
    return said, pull(name), pull(name, revision="next")


def test_branches_are_kept_apart(online: tuple[Hub, HubClient]) -> None:
    _, client = online
    (first, second), main, branch = client(revise, "me/branches")
    assert first == main != second == branch
    with pytest.raises(BadInput, match="lens='me/branches': it has no such revision"):
        client(pull_at, "me/branches", "nowhere")


def pull_at(name: str, revision: str) -> Any:
    return pull(name, True, revision=revision)


def push_private(name: str) -> Any:
    return push("projections", name, private=True)


def pull_with(name: str, ambient: str | None, given: str | None) -> Any:
    before = os.environ.pop("HF_TOKEN")
    try:
        if ambient:
            os.environ["HF_TOKEN"] = ambient
        return pull(name, True, token=given)
    finally:
        os.environ["HF_TOKEN"] = before


def test_a_private_lens_is_for_those_with_a_token(online: tuple[Hub, HubClient]) -> None:
    server, client = online
    _, said = client(push_private, "me/private")
    assert server.repos["model", "me/private"].private
    assert client(pull_with, "me/private", READ_TOKEN, None) == said
    assert client(pull_with, "me/private", None, READ_TOKEN) == said
    server.repos["model", "me/secret"] = server.repos["model", "me/private"]  # in no cache
    with pytest.raises(BadInput, match="no such repository, or it is private"):
        client(pull_with, "me/secret", None, None)


def push_private_subject(name: str) -> dict[str, Any]:
    """What a lens says of a frozen model that only some may see, by its commit."""
    hub.create(name, private=True)
    hub.upload(Path(saved_model()), name, "a frozen model")
    origin = FrozenLM.from_pretrained(saved_model()).provenance("resid_post.1").to_dict()
    return origin | {"model_id": name, "weights": f"commit:{HfApi().model_info(name).sha}"}


def subject_with(origin: dict[str, Any], token: str | None) -> str:
    before = os.environ.pop("HF_TOKEN")
    try:
        return find_subject(Provenance.from_dict(origin), token=token).model_id
    finally:
        os.environ["HF_TOKEN"] = before


def weights_at(name: str, revision: str | None) -> str:
    return FrozenLM.from_pretrained(name, revision=revision).provenance("resid_post.1").weights


def test_a_subject_on_the_hub_is_known_by_its_commit(online: tuple[Hub, HubClient]) -> None:
    """Whatever it was asked for by."""
    _, client = online
    said = client(push_private_subject, "me/subject")["weights"]
    assert client(weights_at, "me/subject", None) == client(weights_at, "me/subject", "main") == said
    assert client(weights_at, "me/subject", said.removeprefix("commit:")) == said


@pytest.mark.parametrize("published", [False, True])
def test_the_token_opens_a_private_subject_too(online: tuple[Hub, HubClient], published: bool) -> None:
    """That has a name of its own on the Hub, or was published beside the lens."""
    _, client = online
    name = f"me/hidden-{published}"
    origin = client(push_private_subject, name)
    if published:
        commit = origin["weights"].removeprefix("commit:")
        origin |= {"model_id": "subject-0123456789abcdef", "published": f"{name}@{commit}"}
    with pytest.raises(BadInput, match="subject="):
        client(subject_with, origin, None)
    assert client(subject_with, origin, READ_TOKEN) == origin["model_id"]


def pull_without_tokenizer_code(name: str) -> Any:
    lens = ConsistencyLens.from_pretrained(name)
    return says(lens)


def test_nothing_that_could_hold_code_is_even_downloaded(online: tuple[Hub, HubClient]) -> None:
    server, client = online
    _, said = client(push, "full", "me/laced")
    repo = server.repos["model", "me/laced"]
    tree = dict(repo.commits[repo.heads["main"]])
    lethal = Blob(b"cos\nsystem\n(S'false'\ntR.", large=True)
    names = [
        "pytorch_model.bin",
        "decoder/pytorch_model.bin",
        "optimizer.pt",
        "code.py",
        "x.pkl",
        "last-checkpoint/o.pt",
    ]
    tree |= dict.fromkeys(names, lethal)
    tree["tokenization_x.py"] = Blob(b"raise SystemExit('run')", large=False)
    tokens = json.loads(tree["tokenizer_config.json"].data)
    tokens["auto_map"] = {"AutoTokenizer": [None, "tokenization_x.X"]}
    tree["tokenizer_config.json"] = Blob(json.dumps(tokens).encode(), large=False)
    repo.commit("main", tree, "laced")
    asked = len(server.served)
    assert client(pull_without_tokenizer_code, "me/laced") == said
    fetched = {
        path.partition("/resolve/")[2].partition("/")[2] for _, path, _ in server.served[asked:] if "/resolve/" in path
    }
    assert "model.safetensors" in fetched and not fetched & {*names, "tokenization_x.py"}


def push_parts(name: str) -> Any:
    lens = lens_of("lora")
    lens.decoder.push_to_hub(name)
    lens.encoder.push_to_hub(name)
    frozen = tiny_lm()
    decoder, encoder = (part.from_pretrained(name, subject=frozen) for part in (LensDecoder, LensEncoder))
    again = ConsistencyLens(decoder.config, decoder.lm, encoder.lm, frozen.tokenizer).eval()
    again.decoder, again.encoder = decoder, encoder
    whole = ConsistencyLens.from_pretrained(name, subject=tiny_lm())
    return says(lens), says(again), says(whole)


def test_parts_that_are_pushed_one_by_one_make_a_lens(online: tuple[Hub, HubClient]) -> None:
    _, client = online
    whole, parts, loaded = client(push_parts, "me/parts")
    assert whole == parts == loaded


def test_a_lens_on_the_hub_refuses_another_subject(online: tuple[Hub, HubClient]) -> None:
    _, client = online
    client(push, "projections", "me/picky")
    with pytest.raises(ProvenanceMismatch, match=r"the model[\s\S]*the lens"):
        client(pull_for_another, "me/picky")


def pull_for_another(name: str) -> Any:
    return AutoLens.from_pretrained(name, subject=tiny_lm("qwen3"))


def test_what_is_no_lens_is_refused_before_its_weights(online: tuple[Hub, HubClient]) -> None:
    server, client = online
    client(push, "full", "me/llama")
    repo = server.repos["model", "me/llama"]
    tree = repo.commits[repo.heads["main"]] | {"config.json": Blob(b'{"model_type": "llama"}', large=False)}
    repo.commit("main", tree, "no lens")
    asked = len(server.served)
    with pytest.raises(BadInput, match=r"lens='me/llama': its config.json names no frozen model"):
        client(pull, "me/llama")
    assert not any("safetensors" in path for _, path, _ in server.served[asked:])
    repo.commit("main", {}, "empty")
    with pytest.raises(BadInput, match=r"lens='me/llama': the repository holds no config\.json"):
        client(pull, "me/llama")


def test_what_was_loaded_once_loads_with_the_hub_switched_off(online: tuple[Hub, HubClient]) -> None:
    """As it is in the process of the tests."""
    _, client = online
    _, said = client(push, "lora", "me/kept")
    assert client(pull, "me/kept", True) == said
    here = Path(constants.HF_HUB_CACHE) / "models--me--kept"
    shutil.copytree(client.home / "hub" / here.name, here, symlinks=True)
    assert pull("me/kept", True) == said
    with pytest.raises(BadInput, match="Unset HF_HUB_OFFLINE"):
        pull("me/never-loaded", True)


@pytest.mark.slow
def test_what_was_loaded_once_loads_where_nobody_answers(online: tuple[Hub, HubClient]) -> None:
    """Nobody listens on port 9."""
    _, client = online
    _, said = client(push, "lora", "me/alone")
    assert client(pull, "me/alone", True) == said
    cut_off = HubClient("http://127.0.0.1:9", client.home, HF_TOKEN=TOKEN)
    try:
        assert cut_off(pull, "me/alone", True) == said
        with pytest.raises(BadInput, match="Check the connection"):
            cut_off(pull, "me/never-loaded", True)
    finally:
        cut_off.close()
