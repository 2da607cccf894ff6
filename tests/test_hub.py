"""Lenses go to the Hub and come back through the real client; and what is said when they cannot."""

from __future__ import annotations

import json
import logging
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
from consistency_lens.auto import find_subject
from consistency_lens.frozen import Provenance

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from hub_client import HubClient
from hub_server import PART, READ_TOKEN, TOKEN, Blob, Hub, Trouble

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


# ---- there and back; these functions run in the client's process


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
    """What a lens says of a subject that only some may see, by its commit."""
    hub.create(name, private=True)
    hub.upload(Path(saved_model()), name, "a subject")
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
    with pytest.raises(BadInput, match=r"lens='me/llama': its config.json names no subject"):
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


# ---- when it does not work


def upload_two(name: str, folder: str, token: str | None = None) -> str:
    return hub.upload(Path(folder), hub.create(name, token), "two files", token)


@pytest.fixture
def two_files(tmp_path: Path) -> str:
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode() * 5000)
    (tmp_path / "note.txt").write_text("small")
    return str(tmp_path)


def sent(server: Hub, since: int) -> list[str]:
    return [path for method, path, status in server.served[since:] if method == "PUT" and status == 200]


def test_a_dropped_connection_is_taken_up_again(online: tuple[Hub, HubClient], two_files: str) -> None:
    server, client = online
    server.trouble.append(Trouble("PUT /_large", 0, times=1))
    client(upload_two, "me/dropped", two_files)
    assert set(files(server, "me/dropped")) == {"a.safetensors", "b.safetensors", "note.txt"}
    assert files(server, "me/dropped")["b.safetensors"].data == b"b" * 5000 and not server.trouble[0].times


def test_of_a_file_in_parts_a_part_that_was_dropped_is_sent_again(
    online: tuple[Hub, HubClient], tmp_path: Path
) -> None:
    server, client = online
    data = b"".join(bytes([i]) * PART for i in (1, 2)) + b"the rest"
    (tmp_path / "large.safetensors").write_bytes(data)
    server.trouble.append(Trouble("PUT /_parts/[^/]+/2", 0, times=1))
    began = len(server.served)
    client(upload_two, "me/parts-of-a-file", str(tmp_path))
    assert files(server, "me/parts-of-a-file")["large.safetensors"].data == data and not server.trouble[0].times
    tried = [path.rpartition("/")[2] for method, path, _ in server.served[began:] if "/_parts/" in path]
    assert tried == ["1", "2", "2", "3"]


def test_what_has_arrived_is_not_sent_again(online: tuple[Hub, HubClient], two_files: str) -> None:
    server, client = online
    blob = Blob(b"a" * 5000, large=True)
    server.large.pop(blob.oid, None), server.large.pop(Blob(b"b" * 5000, large=True).oid, None)
    server.trouble.append(Trouble(f"PUT /_large/(?!{blob.oid})", 403, "signature expired"))
    began = len(server.served)
    with pytest.raises(BadInput, match="repo_id='me/resumed': the Hub says 403"):
        client(upload_two, "me/resumed", two_files)
    assert sent(server, began) == [f"/_large/{blob.oid}"] and "note.txt" not in files(server, "me/resumed")
    server.trouble.clear()
    began = len(server.served)
    client(upload_two, "me/resumed", two_files)
    assert len(sent(server, began)) == 1 and blob.oid not in sent(server, began)[0]
    assert len(files(server, "me/resumed")) == 3


CASES = [
    ("POST /api/repos/create", 401, "Invalid token", "The token is not valid (any more): make one with write access"),
    ("POST /api/repos/create", 403, "no rights", "Use a token with write access to me, or a repository of your own."),
    ("POST /api/repos/create", 402, "payment required", "me has no room left"),
    ("commit/main", 403, "Private repository storage limit reached", "me has no room left: delete what is not needed"),
    ("commit/main", 413, "Payload too large", "Upload less at once"),
    (
        "commit/main",
        412,
        "A commit has happened since",
        "Somebody else changed it in the meantime. Run the same again",
    ),
    ("PUT /_large", 507, "Insufficient storage", "me has no room left"),
    ("preupload", 400, "bad file name", "Mend what it names."),
    ("POST /api/repos/create", 429, "slow down", "Wait a few minutes. Run the same again"),
    ("POST /api/repos/create", 503, "maintenance", "The Hub has trouble; wait a while. Run the same again"),
]


@pytest.mark.parametrize(("what", "status", "message", "fix"), CASES)
def test_what_the_hub_refuses_says_what_to_do(
    online: tuple[Hub, HubClient], two_files: str, what: str, status: int, message: str, fix: str
) -> None:
    server, client = online
    server.large.clear()
    server.trouble.append(Trouble(what, status, f"{message} (of {{token}})"))
    with pytest.raises(BadInput) as caught:
        client(upload_two, f"me/refused-{status}", two_files)
    said = str(caught.value)
    assert fix in said and f"the Hub says {status}" in said and "repo_id='me/refused" in said
    assert message in said and TOKEN not in said, "what the server sent back is shown, the token not"
    assert "***" in said or "_large" in what  # storage is sent no token


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (OSError(28, "No space left on device", "/cache/blob"), "Make room on this machine's disk."),
        (PermissionError(13, "Permission denied", "/cache/blob"), "Mend what it names."),
    ],
)
def test_trouble_with_the_disk_is_not_blamed_on_the_hub(error: OSError, fix: str) -> None:
    with pytest.raises(BadInput) as caught, hub.plainly("lens", "me/lens"):
        try:
            raise error
        except OSError as cause:
            raise RuntimeError("the download ended early") from cause
    assert fix in str(caught.value) and str(error.strerror) in str(caught.value)


def test_a_repository_of_somebody_else(online: tuple[Hub, HubClient], two_files: str) -> None:
    _, client = online
    with pytest.raises(BadInput, match="Use a token with write access to you, or a repository of your own"):
        client(upload_two, "you/lens", two_files)
    with pytest.raises(BadInput, match="Use a token with write access to me"):
        client(upload_two, "me/reading", two_files, READ_TOKEN)


def test_an_id_that_is_none(online: tuple[Hub, HubClient]) -> None:
    _, client = online
    with pytest.raises(BadInput, match="write an id as in owner/name"):
        client(pull, "me/a/b", True)
    with pytest.raises(BadInput, match=r"lens='me/nothing': there is no such repository, or it is private"):
        client(pull, "me/nothing", True)


def test_without_a_token_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    lens = lens_of("projections")
    with pytest.raises(BadInput, match="hub_token=None: the Hub takes nothing without a token"):
        lens.push_to_hub("me/lens")


# ---- tokens


def test_tokens_are_taken_out_of_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_machine")
    shaped = "hf_" + "aB3" * 11
    text = f"a given-one, hf_of_this_machine, {shaped}; me:{shaped}@huggingface.co; Authorization: Bearer xyz.abc"
    clean = hub.redacted(text, "given-one", None)
    assert clean == "a ***, ***, ***; me:***@huggingface.co; Authorization: Bearer ***"
    assert hub.redacted("hf_hub_download(repo)") == "hf_hub_download(repo)"


def upload_watched(name: str, folder: str, token: str) -> tuple[str, str, str]:
    """The error, all that is logged down to the last detail, and the trace as it would be printed."""
    import io
    import traceback

    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    logging.getLogger("huggingface_hub").addHandler(handler)
    try:
        upload_two(name, folder, token)
    except BadInput as error:
        return str(error), stream.getvalue(), "".join(traceback.format_exception(error))
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger("huggingface_hub").removeHandler(handler)
    return "", stream.getvalue(), ""


@pytest.mark.parametrize(("what", "status"), [("create", 401), ("commit/main", 400), ("create", 500)])
def test_a_token_that_the_server_sends_back_is_shown_nowhere(
    online: tuple[Hub, HubClient], two_files: str, what: str, status: int
) -> None:
    server, client = online
    server.trouble.append(Trouble(what, status, "you sent Bearer {token} to us: {token}"))
    for text in client(upload_watched, "me/echo", two_files, TOKEN):
        assert TOKEN not in text
    assert "***" in client(upload_watched, "me/echo", two_files, TOKEN)[0]
