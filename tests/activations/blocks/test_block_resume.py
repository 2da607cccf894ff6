"""Killed at any moment and resumed, or shared by two processes, an extraction ends in the same bytes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from block_runs import block_extraction, extract_blocks, killed, written_blocks
from extracting import changed_at, notes_in, random_texts
from tiny import shared_lm, tiny_lm
from two_processes import in_two_processes

from consistency_lens.activations.blocks import Blocks
from consistency_lens.errors import BadInput

TEXTS = random_texts(60, shortest=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "blocks"
    extract_blocks(folder, TEXTS, storage_dtype="int8")
    return written_blocks(folder)


@pytest.mark.parametrize("number", [2, 5, 9, 16, 33, 47])
def test_a_kill_between_two_writes_leaves_no_trace(number: int, tmp_path: Path, whole: dict[str, bytes]) -> None:
    folder = tmp_path / "blocks"
    assert killed(folder, TEXTS, number, storage_dtype="int8") == -signal.SIGKILL
    with pytest.raises(BadInput, match=r"the extraction is not finished|no extraction lies there"):
        Blocks.load(folder)
    kept = {shard.file: changed_at(folder)[shard.file] for note in notes_in(folder) for shard in note.shards}
    extract_blocks(folder, TEXTS, storage_dtype="int8", resume=True)
    assert written_blocks(folder) == whole
    assert kept.items() <= changed_at(folder).items(), "what was finished is not made again"


@pytest.mark.slow
def test_no_write_is_one_at_which_a_kill_leaves_a_trace(tmp_path: Path) -> None:
    few, number = TEXTS[:10], 1
    extract_blocks(tmp_path / "whole", few, storage_dtype="int8")
    whole = written_blocks(tmp_path / "whole")
    while killed(folder := tmp_path / str(number), few, number, storage_dtype="int8"):
        extract_blocks(folder, few, storage_dtype="int8", resume=True)
        assert written_blocks(folder) == whole, number
        number += 1
    assert number > 40


def test_a_damaged_block_is_made_again_and_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "blocks"
    extract_blocks(folder, TEXTS)
    before, times = written_blocks(folder), changed_at(folder)
    path = next(folder.glob("train/data-00001-*"))
    path.write_bytes(path.read_bytes()[:-1])
    extract_blocks(folder, TEXTS, resume=True)
    assert str(path) in caplog.text
    assert written_blocks(folder) == before
    changed = {name for name, at in changed_at(folder).items() if at != times[name] and "data-" in name}
    assert changed and all("/data-00001-" in name for name in changed)


def test_overwriting_leaves_nothing_behind(tmp_path: Path, whole: dict[str, bytes]) -> None:
    extract_blocks(tmp_path / "blocks", random_texts(20), tokens_per_block=30)
    assert {*written_blocks(tmp_path / "blocks")} - {*whole}, "some that are in the way"
    extract_blocks(tmp_path / "blocks", TEXTS, storage_dtype="int8", overwrite=True)
    assert written_blocks(tmp_path / "blocks") == whole


@pytest.mark.parametrize(
    ("name", "value"),
    [("min_position", 0), ("tokens_per_block", 50), ("storage_dtype", "bfloat16"), ("sites", ["embed"]), ("seed", 1)],
)
def test_other_settings_are_refused_with_both_sides(tmp_path: Path, name: str, value: object) -> None:
    lm = shared_lm("llama")
    extraction = block_extraction(TEXTS, tmp_path / "blocks")
    extraction.open()
    extraction.folder.begin(extraction.plan(lm.provenance(*extraction.sites)))
    extraction.folder.release()
    with pytest.raises(BadInput, match="Start with the same settings as before, or use --overwrite") as caught:
        block_extraction(TEXTS, tmp_path / "blocks", **{name: value, "resume": True}).run(lm)
    assert [line.split()[1] for line in str(caught.value).splitlines() if line.startswith("!")] == [name]


def test_another_model_is_refused(tmp_path: Path) -> None:
    extract_blocks(tmp_path / "blocks", TEXTS)
    with pytest.raises(BadInput, match=r"(?m)^! +weights +sha256:\w+ +sha256:\w+$"):
        extract_blocks(tmp_path / "blocks", TEXTS, tiny_lm("qwen2"), resume=True)


def _extract(rank: int, folder: str) -> None:
    block_extraction(TEXTS, folder, storage_dtype="int8").run(shared_lm("llama"))
    assert os.environ["RANK"] == str(rank)


@pytest.mark.distributed
def test_two_processes_write_what_one_writes(tmp_path: Path, whole: dict[str, bytes]) -> None:
    in_two_processes(_extract, str(tmp_path / "blocks"))
    assert written_blocks(tmp_path / "blocks") == whole
