"""Code that lies in a model's repository is never run, and nobody is asked whether it may be."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_lm, tiny_model, tiny_tokenizer

from consistency_lens.cli.opening import open_config, open_model
from consistency_lens.errors import BadInput
from consistency_lens.finding import find_subject
from consistency_lens.frozen import FrozenLM

HOSTILE = "from pathlib import Path\nPath({marker!r}).touch()\n"


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
