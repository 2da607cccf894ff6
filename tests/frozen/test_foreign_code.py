"""Code that lies beside a model is not run unless whoever names the model permits it, and nobody is asked."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_lm, tiny_model, tiny_tokenizer

from consistency_lens.cli import load_recipe, parse
from consistency_lens.cli.opening import load_model, open_config, open_model, open_subject
from consistency_lens.cli.parsing.recipes import as_recipe
from consistency_lens.errors import BadInput
from consistency_lens.finding import find_subject
from consistency_lens.frozen import FrozenLM
from consistency_lens.text.parts.backbone import clone

HOSTILE = "from pathlib import Path\nPath({marker!r}).touch()\n"
USEFUL = """
from transformers import LlamaConfig, LlamaForCausalLM

class Config(LlamaConfig):
    model_type = "foreign"

class Model(LlamaForCausalLM):
    config_class = Config
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose files would leave a mark beside it if any of them were run; whoever asks hears yes."""
    path = tmp_path / "foreign"
    tiny_model("llama").save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    (path / "foreign.py").write_text(HOSTILE.format(marker=str(tmp_path / "ran")))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    return path


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def foreign_model(folder: Path) -> None:
    kinds = {"AutoConfig": "foreign.Config", "AutoModelForCausalLM": "foreign.Model"}
    change(folder / "config.json", model_type="foreign", auto_map=kinds)


def foreign_tokenizer(folder: Path) -> None:
    kinds = {"AutoTokenizer": ["foreign.Tokenizer", None]}
    change(folder / "tokenizer_config.json", tokenizer_class="ForeignTokenizer", auto_map=kinds)


def by_subject(folder: Path) -> None:
    find_subject(tiny_lm().provenance("embed"), folder)


@pytest.mark.parametrize("make", [foreign_model, foreign_tokenizer])
@pytest.mark.parametrize("load", [FrozenLM.from_pretrained, by_subject, lambda path: open_model(str(path), None)])
def test_it_is_refused_in_one_line(
    folder: Path,
    make: Callable[[Path], None],
    load: Callable[[Path], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(folder)
    with pytest.raises(BadInput, match="holds code of its own, which is not run") as caught:
        load(folder)
    assert (caught.value.field, "\n" in str(caught.value)) == ("model_name_or_path", False)
    assert not (folder.parent / "ran").exists()
    assert "custom code" not in capsys.readouterr().out
    assert len(sys.stdin.read()) == 18, "nobody was asked"


def test_a_known_architecture_is_loaded_without_its_code(folder: Path) -> None:
    change(folder / "config.json", auto_map={"AutoConfig": "foreign.Config", "AutoModelForCausalLM": "foreign.Model"})
    assert FrozenLM.from_pretrained(folder).config.model_type == open_config(str(folder), None).model_type == "llama"
    assert not (folder.parent / "ran").exists()


def permitted(path: Path) -> Any:
    words = ["extract", "--family", "sparse", "--model_name_or_path", str(path), "--dataset_name", "demo"]
    return parse([*words, "--trust_remote_code"])


def test_whoever_names_the_model_may_permit_its_code(folder: Path, tmp_path: Path) -> None:
    with (folder / "foreign.py").open("a") as file:
        file.write(USEFUL)
    foreign_model(folder)
    request = permitted(folder)
    assert not (tmp_path / "ran").exists()
    assert open_subject(request.subject)[0].model_type == "foreign" and (tmp_path / "ran").exists()
    (tmp_path / "ran").unlink()
    frozen = load_model(str(folder), request.subject)
    assert type(frozen.model).__module__.startswith("transformers_modules.") and frozen.attention == "eager"
    ids = torch.arange(3, 11)[None]
    plain = tiny_model("llama").eval()
    plain.set_attn_implementation("eager")
    assert torch.equal(frozen.model(ids).logits, plain(ids).logits)
    origin = frozen.provenance("mlp_out.0")
    assert find_subject(origin, folder, trust_remote_code=True).provenance("mlp_out.0") == origin
    with pytest.raises(BadInput, match="could not be loaded"):
        clone(frozen)


def test_no_lens_and_no_recipe_permits_it(folder: Path, tmp_path: Path) -> None:
    foreign_model(folder)
    origin = replace(tiny_lm().provenance("embed"), model_id=str(folder))
    for given in (False, True):
        with pytest.raises(BadInput, match="holds code of its own, which is not run"):
            find_subject(origin, trust_remote_code=given)
    assert "trust_remote_code" not in as_recipe(permitted(folder).values)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("trust_remote_code: true\n")
    with pytest.raises(BadInput, match="a recipe cannot permit it"):
        load_recipe(str(recipe))
    assert not (tmp_path / "ran").exists()
