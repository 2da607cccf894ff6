"""`AutoLens`: any lens by its name alone, with the frozen model it was made for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from extracting import saved_model
from lens_runs import SITE, stirred, tiny_lens
from tiny import shared_lm

import consistency_lens
from consistency_lens import AutoLens, BadInput, ConsistencyLens, FrozenLM, ProvenanceMismatch
from consistency_lens.finding import find_subject, is_demo

TEXT = "w1 w2 w3 w4"


@pytest.fixture(scope="module")
def subject() -> FrozenLM:
    return FrozenLM.from_pretrained(saved_model())


@pytest.fixture(scope="module")
def lens(subject: FrozenLM) -> ConsistencyLens:
    return stirred(tiny_lens(subject))


@pytest.fixture
def saved(lens: ConsistencyLens, tmp_path: Path) -> Path:
    lens.save_pretrained(tmp_path / "run" / "lens")
    return tmp_path / "run" / "lens"


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("place", ["lens", "run"])
@pytest.mark.parametrize("kind", ["model", "path", "text"])
def test_a_lens_comes_back_as_it_was(lens: ConsistencyLens, saved: Path, place: str, kind: str) -> None:
    given = {"model": lens.subject, "path": saved_model(), "text": str(saved_model())}[kind]
    found = AutoLens.from_pretrained(saved if place == "lens" else saved.parent, subject=given)
    assert type(found) is ConsistencyLens and found.subject is not None and not found.training
    assert found.explain(TEXT) == lens.eval().explain(TEXT)


def test_a_subject_that_lies_here_is_found_by_its_name(
    lens: ConsistencyLens, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(saved_model().parent)
    assert AutoLens.from_pretrained(saved).explain(TEXT) == lens.eval().explain(TEXT)


def test_a_subject_that_lies_elsewhere_has_to_be_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(saved)
    with pytest.raises(BadInput, match="subject='tiny-llama': the model came from a local folder") as caught:
        AutoLens.from_pretrained(saved)
    assert "--model_name_or_path FOLDER" in caught.value.fix


def test_another_subject_is_refused(saved: Path) -> None:
    with pytest.raises(ProvenanceMismatch, match="the lens"):
        AutoLens.from_pretrained(saved, subject=shared_lm("gpt2"))


def test_a_subject_on_the_hub_that_cannot_be_reached(subject: FrozenLM) -> None:
    origin = subject.provenance(SITE)
    on_hub = type(origin).from_dict(origin.to_dict() | {"model_id": "no/where", "weights": "commit:" + "0" * 40})
    with pytest.raises(BadInput, match="subject='no/where'") as caught:
        find_subject(on_hub)
    assert "online" in caught.value.fix


def test_the_demo_of_another_version_is_named(saved: Path) -> None:
    record = json.loads((saved / "config.json").read_text())["provenance"]
    change_config(saved, provenance=record | {"model_id": "subject-0123456789abcdef"})
    with pytest.raises(BadInput, match="another version of the demo world"):
        AutoLens.from_pretrained(saved)
    assert is_demo("subject-0123456789abcdef") and not is_demo("me/subject-0123456789abcdef")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "llama"}, "its config.json says model_type='llama'. Families we know: "),
        ({"provenance": None}, "its config.json names no frozen model"),
    ],
)
def test_a_folder_that_holds_no_lens(saved: Path, changes: dict[str, Any], said: str) -> None:
    change_config(saved, **changes)
    with pytest.raises(BadInput) as caught:
        AutoLens.from_pretrained(saved)
    assert said in str(caught.value)


@pytest.mark.parametrize("content", [None, "{", "empty"])
def test_a_place_without_a_configuration(tmp_path: Path, content: str | None) -> None:
    if content == "{":
        (tmp_path / "config.json").write_text(content)
    place = "no/where" if content is None else str(tmp_path)
    with pytest.raises(BadInput, match=f"lens='{place}'"):
        AutoLens.from_pretrained(place)


def test_a_lens_that_is_cut_off_says_what_is_missing(lens: ConsistencyLens, saved: Path) -> None:
    (saved / "encoder/model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"encoder/model\.safetensors"):
        AutoLens.from_pretrained(saved, subject=lens.subject)


@pytest.mark.parametrize("name", consistency_lens.__all__)
def test_every_public_name_is_there(name: str) -> None:
    found = vars(consistency_lens).get(name) or consistency_lens.__getattr__(name)
    assert found.__name__ == name and name in dir(consistency_lens)


def test_names_are_sorted_and_lead_home() -> None:
    assert consistency_lens.__all__ == sorted(consistency_lens.__all__)
    assert set(consistency_lens.__all__) == set(consistency_lens._HOMES)
    assert torch.nn.Module in ConsistencyLens.__mro__
