"""What stands in files that are about to be sent: paths of this machine, who works on it, tokens."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from extracting import saved_model
from hypothesis import given, settings
from hypothesis import strategies as st
from lens_runs import tiny_lens
from safetensors.numpy import save_file

from consistency_lens import AutoLens, FrozenLM, hub
from consistency_lens.base.saving.lens_files import lens_files
from consistency_lens.base.saving.pushing import forget_places
from consistency_lens.errors import BadInput
from consistency_lens.leaks import Watch, find
from consistency_lens.text.configuration import ConsistencyLensConfig

TOKEN = "hf_" + "aB3" * 12
SECRET = "my-own-secret"
HOME = "/ho" + "me/clara"
WATCH = Watch((SECRET,), (HOME, "/sc" + "ratch/run"), "clara", "mill")


def as_json(path: Path, text: str) -> str:
    path.with_suffix(".json").write_text(json.dumps({"a": [1, {"b": f"x {text} y"}]}))
    return "a[1].b"


def as_key(path: Path, text: str) -> str:
    path.with_suffix(".json").write_text(json.dumps({"a": {text: 1}}))
    return "a name in a"


def as_broken_json(path: Path, text: str) -> str:
    path.with_suffix(".json").write_text(f"{{\n{text}")
    return "line 2"


def as_card(path: Path, text: str) -> str:
    path.with_suffix(".md").write_text(f"# x\n\n`{text}`\n")
    return "line 3"


def as_recipe(path: Path, text: str) -> str:
    path.with_suffix(".yaml").write_text(f"a: 1\nb: {text}\n")
    return "line 2"


def as_column(path: Path, text: str) -> str:
    parquet.write_table(pa.table({"n": [1, 2], "said": ["", f"({text})"]}), path.with_suffix(".parquet"))
    return "column said"


def as_nested_column(path: Path, text: str) -> str:
    rows = pa.table({"before": [[{"token": text, "probability": 0.5}], []]})
    parquet.write_table(rows, path.with_suffix(".parquet"))
    return "column before"


def as_schema(path: Path, text: str) -> str:
    table = pa.table({"n": [1]}).replace_schema_metadata({"from": text})
    parquet.write_table(table, path.with_suffix(".parquet"))
    return "its metadata from"


def as_tensors(path: Path, text: str) -> str:
    save_file({"a": np.zeros(2)}, path.with_suffix(".safetensors"), metadata={"made": text})
    return "__metadata__.made"


def as_picture(path: Path, text: str) -> str:
    path.with_suffix(".png").write_bytes(b"\x89PNG\x00\xff" + text.encode() + b"\x00\xff")
    return "line 1"


KINDS: list[Callable[[Path, str], str]] = [
    *[as_json, as_key, as_broken_json, as_card, as_recipe, as_column, as_nested_column, as_schema, as_tensors],
    as_picture,
]
LEAKS = [f"{HOME}/models/x", "/sc" + "ratch/run/y.txt", TOKEN, SECRET, "/Users/" + "clara/x", "clara@mill"]


def found_in(folder: Path) -> Any:
    return find({path.name: path for path in sorted(folder.iterdir())}, WATCH)


@pytest.mark.parametrize("write", KINDS)
@pytest.mark.parametrize("leak", LEAKS)
def test_it_is_found_in_every_kind_of_file_and_its_field_is_named(
    write: Callable[[Path, str], str], leak: str, tmp_path: Path
) -> None:
    where = write(tmp_path / "x", leak)
    (path,) = tmp_path.iterdir()
    found = found_in(tmp_path)
    assert (found.file, found.field) == (path.name, where)
    assert TOKEN not in str(found) and SECRET not in str(found)


@pytest.mark.parametrize("write", KINDS)
@pytest.mark.parametrize(
    "text",
    [
        *[
            "and/or",
            "https://huggingface.co/clara/lens",
            "someone/a-lens",
            "/usr/bin/env python",
            "hf_quantizer_config",
        ],
        *["resid_post.1/2", "~/x/y", "./home/x", "clara", "/no/such/place/at/all", "a \\ b", "1/2/3", "</p></div>"],
    ],
)
def test_what_only_looks_like_it_passes(write: Callable[[Path, str], str], text: str, tmp_path: Path) -> None:
    write(tmp_path / "x", text)
    assert found_in(tmp_path) is None


def test_a_path_that_exists_on_this_machine_is_found_wherever_it_lies(tmp_path: Path) -> None:
    place = tmp_path / "models" / "some model"
    place.mkdir(parents=True)
    assert "a path of this machine" in WATCH.seen_in(f"loaded from {tmp_path / 'models'}.")
    assert "a path of this machine" in WATCH.seen_in(f"loaded from {tmp_path / 'gone'}"), "lately it lay there"


def test_under_a_field_for_places_every_absolute_path_counts(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"subject": {"_name_or_path": "/of/another/machine"}}))
    assert "x.json: subject._name_or_path holds the place" in str(found_in(tmp_path))
    (tmp_path / "x.json").write_text(json.dumps({"subject": {"_name_or_path": "someone/model"}}))
    assert found_in(tmp_path) is None


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.text("abcXYZ019_.-+@=~", min_size=1, max_size=12), min_size=1, max_size=4),
    before=st.sampled_from(["", " ", "(", '"', "path=", "file:" + "//", "x: ", "`", "\u3000", "=", "['"]),
    after=st.sampled_from(["", " ", ")", '"', ".", ",", "\n", ":", "'"]),
)
def test_every_path_below_home_is_found_whatever_stands_around_it(parts: list[str], before: str, after: str) -> None:
    assert WATCH.seen_in(f"{before}{HOME}/{'/'.join(parts)}{after}")


# What we write ourselves, and what we send


@pytest.mark.parametrize("trainable", ["projections", "lora", "full"])
def test_no_file_of_a_lens_says_where_its_subject_lay(trainable: str, tmp_path: Path) -> None:
    lens = tiny_lens(FrozenLM.from_pretrained(saved_model()), trainable=trainable)
    lens.save_pretrained(tmp_path)
    files = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*") if path.is_file()}
    assert find(files, Watch(homes=(str(saved_model().parent),))) is None
    assert not any(str(saved_model()) in path.read_bytes().decode("utf-8", "replace") for path in files.values())


def test_a_lens_of_before_is_refused_by_name_and_clean_once_it_is_saved_again(tmp_path: Path) -> None:
    tiny_lens(FrozenLM.from_pretrained(saved_model())).save_pretrained(tmp_path / "old")
    said = json.loads((tmp_path / "old/config.json").read_text())
    said["subject"] |= {"_name_or_path": str(saved_model()), "text_config": {"_name_or_path": str(saved_model())}}
    (tmp_path / "old/config.json").write_text(json.dumps(said))
    files = lens_files(tmp_path / "old", ConsistencyLensConfig.from_pretrained(tmp_path / "old"))
    with pytest.raises(BadInput, match=r"config\.json: subject\._name_or_path holds the place of something") as caught:
        hub.require_clean(files, "me/lens")
    assert (caught.value.field, caught.value.value) == ("repo_id", "me/lens")
    AutoLens.from_pretrained(tmp_path / "old", subject=str(saved_model())).save_pretrained(tmp_path / "new")
    again = ConsistencyLensConfig.from_pretrained(tmp_path / "new")
    hub.require_clean(lens_files(tmp_path / "new", again), "me/lens")


def test_nothing_is_sent_that_holds_the_token_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("my token is my-other-secret-token\n")
    with pytest.raises(BadInput, match=r"README\.md: line 1 holds a token") as caught:
        hub.upload(tmp_path, "me/lens", "x", token="my-other-secret-token")
    assert "my-other" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "of-the-environment")
    (tmp_path / "README.md").write_text("my token is of-the-environment\n")
    with pytest.raises(BadInput, match="holds a token"):
        hub.require_clean({"README.md": tmp_path / "README.md"}, "me/lens")


def test_a_checkpoint_that_is_sent_keeps_names_and_no_places(tmp_path: Path) -> None:
    state = {"best_model_checkpoint": str(tmp_path / "run/checkpoint-4"), "global_step": 4, "log": ["a/b", {"x": "/"}]}
    original, sent = tmp_path / "state.json", tmp_path / "sent.json"
    original.write_text(json.dumps(state))
    os.link(original, sent)
    forget_places(sent)
    assert json.loads(sent.read_text()) == state | {"best_model_checkpoint": "checkpoint-4", "log": ["a/b", {"x": ""}]}
    assert json.loads(original.read_text()) == state, "the file of the run stays as it is"


def test_who_works_at_the_root_can_still_send_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container: the current folder, or home, is the root, and every path of every text begins there."""
    monkeypatch.chdir(os.sep)
    monkeypatch.setenv("HOME", os.sep)
    assert Watch().homes == () and not Watch().seen_in("see /wiki/Foo and /no-such/place/at-all")
