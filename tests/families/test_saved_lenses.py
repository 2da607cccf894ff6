"""A lens of every family, saved, found and published: what comes back is what went, and nothing else does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from family_rows import ROWS, Row, know_all, require_equal, weights
from transformers import AutoConfig, AutoModel

from consistency_lens.auto import FAMILIES, AutoLens
from consistency_lens.base.comparing import apply_lens
from consistency_lens.errors import BadInput
from consistency_lens.frozen import ProvenanceMismatch

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from hub_client import HubClient
from hub_server import Hub


def test_every_family_has_a_row(row: Row) -> None:
    others = {"toy", "layers"}  # the tests' own family, and the text family once more, with several sites
    assert ROWS.keys() - others <= FAMILIES.keys() <= ROWS.keys()
    config, model, trainer = (row.family.load(part) for part in ("config", "model", "trainer"))
    assert config.model_type == row.family.model_type and model.config_class is config
    assert trainer.__annotations__["args"] == row.family.load("arguments").__name__
    assert type(row.lens()) is model


def test_it_comes_back_as_it_was(row: Row, tmp_path: Path) -> None:
    lens = row.lens().eval()
    with torch.no_grad():
        for number, weight in enumerate(weights(lens).values()):
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)), alpha=0.02)
    lens.save_pretrained(tmp_path / "run/lens")
    for place in (tmp_path / "run", tmp_path / "run/lens"):
        found = AutoLens.from_pretrained(place, subject=row.models())
        assert type(found) is type(lens) and not found.training and found.models is not None
        require_equal(found, lens)
    theirs = AutoModel.from_pretrained(tmp_path / "run/lens", subject=row.models())
    assert type(theirs) is type(lens) and type(AutoConfig.from_pretrained(tmp_path / "run/lens")) is type(lens.config)
    require_equal(theirs, lens)
    batch, models = row.batch(), found.models
    before, after = (apply_lens(each, models, batch) for each in (lens, found))
    assert torch.equal(before.edited, after.edited) and lens.describe(before.code) == found.describe(after.code)
    found.save_pretrained(tmp_path / "again")
    for name in ("config.json", *lens.config.weight_files):
        assert (tmp_path / "run/lens" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def unknown_field(config: dict[str, Any]) -> None:
    config["forward"] = 1


def no_size(config: dict[str, Any]) -> None:
    config["hidden_size"] = "many"


def other_family(config: dict[str, Any]) -> None:
    config["model_type"] = "llama"


def no_origin(config: dict[str, Any]) -> None:
    config["provenance"] = None


@pytest.mark.parametrize("damage", [unknown_field, no_size, other_family, no_origin])
def test_a_record_that_no_lens_can_have_is_refused(row: Row, damage: Callable[[Any], None], tmp_path: Path) -> None:
    row.lens().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    damage(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match=r"^lens="):
        AutoLens.from_pretrained(tmp_path, subject=row.models())


def test_weights_that_are_cut_off_or_gone_are_named(row: Row, tmp_path: Path) -> None:
    row.lens().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    content = file.read_bytes()
    for length in (len(content) - 1, 9, 0):
        file.write_bytes(content[:length])
        with pytest.raises(BadInput, match=r"model\.safetensors cannot be read"):
            AutoLens.from_pretrained(tmp_path, subject=row.models())
    file.unlink()
    with pytest.raises(BadInput, match=r"model\.safetensors is missing"):
        AutoLens.from_pretrained(tmp_path, subject=row.models())


def test_another_model_is_refused_with_both_sides(row: Row, tmp_path: Path) -> None:
    row.lens().save_pretrained(tmp_path)
    with pytest.raises(ProvenanceMismatch, match="the lens"):
        AutoLens.from_pretrained(tmp_path, subject=row.strangers())
    with pytest.raises(ProvenanceMismatch, match="the lens"):
        row.trainer(tmp_path, frozen=row.strangers())
    config = json.loads((tmp_path / "config.json").read_text())
    records = [config["provenance"], *(config["other_models"] or {}).values()]
    records[-1]["tokenizer"] = "another"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ProvenanceMismatch, match="tokenizer"):
        AutoLens.from_pretrained(tmp_path, subject=row.models())


def push_and_load(family: str) -> str:
    """In the process of the client: to the Hub and back by its name alone, the models given."""
    know_all()
    row = ROWS[family]
    lens = row.lens().eval()
    address = lens.push_to_hub(f"me/{family}-pushed")
    require_equal(AutoLens.from_pretrained(f"me/{family}-pushed", subject=row.models()), lens)
    return address


def test_it_goes_to_the_hub_and_comes_back(row: Row, online: tuple[Hub, HubClient]) -> None:
    server, client = online
    assert f"me/{row.name}-pushed" in client(push_and_load, row.name)
    repo = server.repos["model", f"me/{row.name}-pushed"]
    there = set(repo.commits[repo.heads["main"]])
    assert there >= {"config.json", "README.md", *row.lens().config.weight_files}
    assert not [name for name in there if name.endswith((".py", ".bin", ".pt", ".pkl"))]
