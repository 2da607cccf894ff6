"""Whatever is loaded of a folder of activations is what was written: every file that makes a number has a checksum."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extracting import extract_to, extraction_of, random_texts, shards, written
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tiny import shared_lm

from consistency_lens.activations import Activations, CorruptShard

SITE = "resid_post.1"
TEXTS = random_texts(40)
STATISTICS = "statistics.safetensors"
LAYOUT = ["extraction.json", STATISTICS, "dataset_dict.json"]
LAYOUT += [f"{split}/{name}" for split in ("train", "test") for name in ("state.json", "dataset_info.json")]
BOUNDED = settings(max_examples=30, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored") / "rows"
    extract_to(folder, TEXTS)
    return folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record, indent=2))


def as_before_there_were_checksums(folder: Path) -> None:
    """The records of a folder, as the first version wrote them."""

    def forget(record: dict[str, Any]) -> None:
        for name in ("files", "checksum"):
            del record[name]
        del record["provenance"]["configuration"]

    change(folder / "extraction.json", forget)
    change(folder / ".progress/plan.json", lambda plan: plan.pop("configuration"))


def files_of(state: dict[str, Any]) -> list[dict[str, str]]:
    return state["_data_files"]


STATES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another split's": lambda state: files_of(state)[0].update(filename="../test/data-00000.arrow"),
    "doubled": lambda state: files_of(state).extend(files_of(state)),
    "one less": lambda state: files_of(state).pop(),
    "another order": lambda state: files_of(state).reverse(),
    "none": lambda state: state.pop("_data_files"),
}
NUMBERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "scaled": lambda values: values * 2,
    "NaN": lambda values: values * np.nan,
    "infinite": lambda values: values / 0,
    "negative": lambda values: -np.abs(values) - 1,
}


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("how", STATES)
def test_a_list_of_other_files_is_refused(copy: Path, how: str, older: bool) -> None:
    if older:
        as_before_there_were_checksums(copy)
    change(copy / "train/state.json", STATES[how])
    for verify in (True, False):
        with pytest.raises(CorruptShard, match=r"train/state.json is .*|train/state.json names other files") as caught:
            Activations.load(copy, verify=verify)
        assert "\n" not in str(caught.value) and "--resume" in str(caught.value)


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("name", [f"{SITE}.mean", f"{SITE}.variance"])
@pytest.mark.parametrize("how", NUMBERS)
def test_other_statistics_are_refused(copy: Path, how: str, name: str) -> None:
    arrays = load_file(copy / STATISTICS)
    save_file(arrays | {name: NUMBERS[how](arrays[name])}, copy / STATISTICS)
    with pytest.raises(CorruptShard, match=f"{STATISTICS} is changed"):
        Activations.load(copy)
    as_before_there_were_checksums(copy)
    if how in ("NaN", "infinite") or (how == "negative" and name.endswith("variance")):
        with pytest.raises(CorruptShard, match=f"{STATISTICS} holds"):
            Activations.load(copy)


def test_shards_that_are_named_twice_are_refused(copy: Path) -> None:
    """By both lists at once, in a folder without checksums."""
    as_before_there_were_checksums(copy)
    change(copy / "extraction.json", lambda record: record["shards"].extend(record["shards"][:1]))
    change(copy / "train/state.json", lambda state: files_of(state).extend(files_of(state)[:1]))
    with pytest.raises(CorruptShard, match=r"extraction.json is changed"):
        Activations.load(copy)


@pytest.fixture(scope="module")
def scratch(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(folder, tmp_path_factory.mktemp("scratch") / "rows")


@BOUNDED
@given(st.sampled_from(LAYOUT), st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_no_changed_bit_changes_a_number(scratch: Path, name: str, where: float, bit: int) -> None:
    before, whole = Activations.load(scratch, verify=False), (scratch / name).read_bytes()
    content = bytearray(whole)
    content[int(where * len(content))] ^= 1 << bit
    (scratch / name).write_bytes(content)
    try:
        found = Activations.load(scratch, verify=False)
    except CorruptShard as error:
        assert str(scratch / name) in str(error)
    else:  # as 1e-05 and 1E-05
        assert name == "extraction.json" and found.metadata == before.metadata
    finally:
        (scratch / name).write_bytes(whole)


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"shards": []}', "[" * 10**5])
def test_metadata_that_say_nothing_are_refused(copy: Path, content: str) -> None:
    (copy / "extraction.json").write_text(content)
    with pytest.raises(CorruptShard, match=r"extraction\.json is damaged"):
        Activations.load(copy)


@pytest.mark.parametrize("name", LAYOUT[1:])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(CorruptShard, match=f"{name} is missing"):
        Activations.load(copy)


def test_what_was_made_before_there_were_checksums_still_loads(copy: Path, folder: Path) -> None:
    as_before_there_were_checksums(copy)
    found, now = Activations.load(copy), Activations.load(folder)
    assert "files" not in found.metadata and found.splits["train"].to_list() == now.splits["train"].to_list()
    found.require_model(shared_lm("llama"))
    before = written(copy)
    extract_to(copy, TEXTS, resume=True)
    assert written(copy) == before, "it is complete, and stays as it is"


@pytest.mark.parametrize("name", LAYOUT)
def test_going_on_writes_again_what_was_damaged(copy: Path, folder: Path, name: str) -> None:
    (copy / name).write_bytes((copy / name).read_bytes()[:-3])
    extraction = extraction_of(TEXTS, copy, resume=True)
    kept = {path: path.stat().st_mtime_ns for path in shards(copy)}
    extraction.run(shared_lm("llama"))
    assert written(copy) == written(folder)
    assert kept == {path: path.stat().st_mtime_ns for path in shards(copy)}, "no shard is made again"
