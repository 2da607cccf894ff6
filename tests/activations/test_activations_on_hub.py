"""Rows go to the Hub and come back, through the real client; so do the texts they are made of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from extracting import ROOT, extract_to, random_texts, write_jsonl

from consistency_lens.activations import Activations

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from hub_server import TOKEN, HubServer

TEXTS = random_texts(70)

CLIENT = """
import json, sys
from datasets import load_dataset
from huggingface_hub import HfApi
from consistency_lens.activations import Activations, Corpus, CorpusArguments
from consistency_lens.errors import BadInput

folder, texts, result = sys.argv[1:]
api = HfApi()
said = {}
for name in ("rows", "texts", "other"):
    api.create_repo(f"me/{name}", repo_type="dataset")
api.upload_folder(folder_path=folder, repo_id="me/rows", repo_type="dataset")
api.upload_file(path_or_fileobj=texts, path_in_repo="texts.jsonl", repo_id="me/texts", repo_type="dataset")

local = Activations.load(folder)

def compared(splits):
    own = local.splits
    assert all(rows.features == own[split].features for split, rows in splits.items())
    return {split: rows.to_list() == own[split].to_list() for split, rows in splits.items()}

said["splits"] = compared(load_dataset("me/rows"))
loaded = Activations.load("me/rows")
said["loaded"] = [loaded.metadata == local.metadata, loaded.provenance == local.provenance,
                  all((loaded.statistics[name] == local.statistics[name]).all() for name in local.statistics),
                  loaded.splits["test"].to_list() == local.splits["test"].to_list()]
said["streamed"] = next(iter(load_dataset("me/rows", split="train", streaming=True))) == local.splits["train"][0]

local.splits.push_to_hub("me/pushed")
said["pushed"] = compared(load_dataset("me/pushed"))

said["commit"] = api.dataset_info("me/rows").sha
api.delete_file("extraction.json", "me/rows", repo_type="dataset")
said["revision"] = Activations.load("me/rows", revision=said["commit"]).metadata == local.metadata
for name in ("me/rows", "me/other", "me/nothing"):
    try:
        Activations.load(name)
    except BadInput as error:
        said[name] = str(error)

said["texts"] = {}
for streaming in (False, True):
    corpus = Corpus.load(CorpusArguments(dataset_name="me/texts", streaming=streaming, max_documents=20))
    documents = [d for _, chunk in corpus.chunks(7) for d in chunk]
    said["texts"][str(streaming)] = [corpus.hub_id, corpus.name, corpus.num_documents, [d.text for d in documents]]
said["bad"] = {}
for given in ({"dataset_name": "me/nothing"}, {"dataset_name": "me/texts", "split": "valid"},
              {"dataset_name": "me/texts", "text_column": "txt"}):
    try:
        Corpus.load(CorpusArguments(**given))
    except BadInput as error:
        said["bad"][error.field] = str(error)
json.dump(said, open(result, "w"))
"""


@pytest.fixture(scope="session")
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored") / "rows"
    extract_to(folder, TEXTS, sites=["embed", "resid_post.1"])
    return folder


@pytest.fixture(scope="module")
def said(hub: HubServer, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a client saw. It has a process and a cache of its own, for here the Hub is switched off."""
    place = tmp_path_factory.mktemp("client")
    corpus = write_jsonl(place / "texts.jsonl", TEXTS)
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(place / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, folder, corpus, place / "result.json"],
        cwd=ROOT,
        env=environment | {"no_proxy": "127.0.0.1,localhost"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.stderr}\n{hub.hub.served[-10:]}"
    return json.loads((place / "result.json").read_text())


def test_an_uploaded_folder_is_a_dataset(said: dict[str, Any]) -> None:
    assert said["splits"] == {"train": True, "validation": True, "test": True}
    assert said["streamed"] is True


def test_every_file_of_the_folder_arrived(said: dict[str, Any], hub: HubServer, folder: Path) -> None:
    repo = hub.hub.repos["dataset", "me/rows"]
    there = {path: blob.data for path, blob in repo.commits[said["commit"]].items()}
    here = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert here.items() <= there.items()
    assert {blob.large for path, blob in repo.commits[said["commit"]].items() if path.endswith(".arrow")} == {True}


def test_an_uploaded_folder_loads_with_all_that_it_knows(said: dict[str, Any]) -> None:
    assert said["loaded"] == [True, True, True, True]
    assert said["revision"] is True


def test_the_splits_can_be_pushed(said: dict[str, Any], folder: Path) -> None:
    assert said["pushed"] == dict.fromkeys(Activations.load(folder).splits, True)


@pytest.mark.parametrize("name", ["me/rows", "me/other", "me/nothing"])
def test_what_is_no_extraction_on_the_hub_is_refused(said: dict[str, Any], name: str) -> None:
    assert said[name].startswith(f"activations='{name}': there is no such folder, and the Hub says: ")
    assert said[name].endswith("Give the folder of an extraction, or the id of one on the Hub.")


@pytest.mark.parametrize(("streaming", "number"), [("False", 20), ("True", 20)])
def test_a_corpus_may_lie_on_the_hub(said: dict[str, Any], streaming: str, number: int) -> None:
    assert said["texts"][streaming] == ["me/texts", "me/texts", number, TEXTS[:20]]


def test_a_wrong_corpus_on_the_hub_is_refused(said: dict[str, Any]) -> None:
    assert set(said["bad"]) == {"dataset_name", "split", "text_column"}
    assert "split='valid'" in said["bad"]["split"] and "dataset_name='me/nothing'" in said["bad"]["dataset_name"]
    assert "text_column='txt'. Did you mean 'text'?" in said["bad"]["text_column"]
