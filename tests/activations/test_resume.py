"""Killed at any moment and started again with --resume, a run ends in the very bytes of an undisturbed one."""

from __future__ import annotations

import json
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from extracting import (
    changed_at,
    extract_to,
    extraction_of,
    notes_in,
    options,
    random_texts,
    rows_of,
    run,
    saved_model,
    shards,
    signal_at,
    write_jsonl,
    written,
)
from tiny import tiny_lm

from consistency_lens.activations import Activations
from consistency_lens.activations.storage import PROGRESS
from consistency_lens.errors import BadInput

TEXTS = random_texts(900, shortest=3, longest=90)
SMALL = random_texts(40)


def words_for(folder: Path, corpus: Path, **more: Any) -> list[str]:
    given = {"train_file": corpus, "sites": ["embed", "resid_post.1"], "min_position": 4, "documents_per_shard": 30}
    given |= {"model_name_or_path": saved_model(), "output_dir": folder, "test_fraction": 0.2}
    return ["extract", "--use_cpu", *options(**(given | more))]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("corpus") / "texts.jsonl", TEXTS)


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "rows"
    code, said = run(words_for(folder, corpus), folder.parent / "log")
    assert code == 0, said
    assert len(shards(folder)) > 80
    return folder


def test_kills_at_random_moments_leave_no_trace(tmp_path: Path, corpus: Path, undisturbed: Path) -> None:
    folder, draw = tmp_path / "rows", random.Random(0)
    done = 0
    for attempt in range(5):
        number, delay = draw.randint(20, 50), draw.uniform(0.0001, 0.01)
        # A batch size of its own each time: it does not decide the rows, only how fast they come.
        words = words_for(folder, corpus, resume=True) if attempt else words_for(folder, corpus)
        code, said = run(words, tmp_path / f"log{attempt}", signal_at, number, str(folder), signal.SIGKILL, delay)
        assert code == -signal.SIGKILL, said
        assert done < len(shards(folder)) < len(shards(undisturbed)), "killed in the midst of the work"
        assert not (folder / "extraction.json").exists()
        done = len(shards(folder))
        kept = [shard for note in notes_in(folder) for shard in note.shards]
        assert len(kept) >= done - 3, "at most the chunk at work is lost"
        for shard in kept:
            shard.verify(folder)
            assert (undisturbed / shard.file).read_bytes() == (folder / shard.file).read_bytes()
    finished = {name: at for name, at in changed_at(folder).items() if name in {shard.file for shard in kept}}
    code, said = run(words_for(folder, corpus, resume=True), tmp_path / "log")
    assert code == 0, said
    assert written(folder) == written(undisturbed)
    assert (folder / "README.md").read_bytes() == (undisturbed / "README.md").read_bytes(), "its command is the first"
    assert finished.items() <= changed_at(folder).items(), "what was finished is not made again"
    assert not list(folder.rglob("*.part"))
    rows, whole = rows_of(Activations.load(folder)), rows_of(Activations.load(undisturbed))
    assert list(rows) == list(whole) and len(rows) > 3000, "none lost and, as keys are unique, none twice"


def check_kill_at(number: int, tmp_path: Path, expected: dict[str, bytes], **more: Any) -> bool:
    """Kill at the `number`-th change, resume, compare; False where the run ended before."""
    corpus = write_jsonl(tmp_path / "texts.jsonl", SMALL)
    folder = tmp_path / f"killed-{number}"
    if more.get("overwrite"):
        shutil.copytree(tmp_path / "before", folder)
    words = words_for(folder, corpus, documents_per_shard=20, **more)
    code, said = run(words, tmp_path / "log", signal_at, number, str(folder))
    if code == 0:
        return False
    assert code == -signal.SIGKILL, said
    code, said = run(words_for(folder, corpus, documents_per_shard=20, resume=True), tmp_path / "log")
    assert code == 0, f"killed at {number}: {said}"
    assert written(folder) == expected, f"killed at {number}"
    assert not [path for path in folder.rglob("*.part") if "README" not in path.name]
    shutil.rmtree(folder)
    return True


@pytest.fixture
def small(tmp_path: Path) -> dict[str, bytes]:
    corpus = write_jsonl(tmp_path / "texts.jsonl", SMALL)
    code, said = run(words_for(tmp_path / "whole", corpus, documents_per_shard=20), tmp_path / "log")
    assert code == 0, said
    return written(tmp_path / "whole")


@pytest.mark.parametrize("number", [1, 3, 4, 7, 15, 26, 38])
def test_a_kill_between_two_writes_leaves_no_trace(number: int, tmp_path: Path, small: dict[str, bytes]) -> None:
    assert check_kill_at(number, tmp_path, small)


@pytest.mark.slow
def test_no_write_is_one_at_which_a_kill_leaves_a_trace(tmp_path: Path, small: dict[str, bytes]) -> None:
    number = 1
    while check_kill_at(number, tmp_path, small):
        number += 1 if number < 12 else 3  # what a chunk writes, it writes again for each of them
    assert number > 90


@pytest.mark.slow
def test_an_overwriting_run_may_be_killed_too(tmp_path: Path, small: dict[str, bytes]) -> None:
    corpus = write_jsonl(tmp_path / "texts.jsonl", SMALL)
    old = words_for(tmp_path / "before", corpus, documents_per_shard=7, seed=5)
    assert run(old, tmp_path / "log")[0] == 0
    # Before the old extraction is gone, --resume refuses, for it is another one; from then on it ends well.
    number, went_on = 1, 0
    while True:
        folder = tmp_path / f"killed-{number}"
        shutil.copytree(tmp_path / "before", folder)
        words = words_for(folder, corpus, documents_per_shard=20)
        code, said = run([*words, "--overwrite"], tmp_path / "log", signal_at, number, str(folder))
        if code == 0:
            break
        assert code == -signal.SIGKILL, said
        code, said = run([*words, "--resume"], tmp_path / "log")
        if code == 0:
            went_on += 1
        else:
            assert code == 2 and "resume=" in said and "before" in said, said
            code, said = run([*words, "--overwrite"], tmp_path / "log")
            assert code == 0, said
        assert written(folder) == small
        shutil.rmtree(folder)
        number += 5
    assert went_on > 10


def stop_early(folder: Path, keep: int) -> None:
    """As a kill leaves it after so many chunks."""
    for note in notes_in(folder)[keep:]:
        note.file(folder).unlink()
        for shard in note.shards:
            (folder / shard.file).unlink()
    for name in ("extraction.json", "statistics.safetensors", "dataset_dict.json", "README.md"):
        (folder / name).unlink()


@pytest.fixture
def stopped(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """A folder as a kill leaves it, and what it should become."""
    extract_to(tmp_path / "rows", SMALL, batch_size=40)
    whole = written(tmp_path / "rows")
    stop_early(tmp_path / "rows", 1)
    return tmp_path / "rows", whole


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 1),
        ("min_position", 5),
        ("max_length", 40),
        ("positions_per_document", 3),
        ("continuation_length", 4),
        ("test_fraction", 0.1),
        ("documents_per_shard", 8),
        ("sites", ["resid_post.2"]),
        ("storage_dtype", "float16"),
    ],
)
def test_other_settings_are_refused_with_both_sides(
    stopped: tuple[Path, dict[str, bytes]], name: str, value: Any
) -> None:
    folder, _ = stopped
    before = changed_at(folder)
    with pytest.raises(BadInput, match="Start with the same settings as before, or use --overwrite") as caught:
        extract_to(folder, SMALL, **{name: value, "resume": True})
    lines = str(caught.value).splitlines()
    head = next(line.split() for line in lines if line.split()[-2:] == ["now", "before"])
    assert head == ["now", "before"]
    marked = [line.split() for line in lines if line.startswith("!")]
    assert [line[1] for line in marked] == [name]
    shown = value if not isinstance(value, list) else f'["{value[0]}"]'
    assert marked[0][2] == str(shown) != marked[0][3]
    assert changed_at(folder) == before


def test_another_model_is_refused(stopped: tuple[Path, dict[str, bytes]]) -> None:
    with pytest.raises(BadInput, match=r"(?m)^! +weights +sha256:\w+ +sha256:\w+$"):
        extract_to(stopped[0], SMALL, tiny_lm("qwen2"), resume=True)


def test_another_corpus_is_refused(tmp_path: Path) -> None:
    first, second = (write_jsonl(tmp_path / name, SMALL) for name in ("a.jsonl", "b.jsonl"))
    folder = tmp_path / "rows"
    assert run(words_for(folder, first), tmp_path / "log")[0] == 0
    write_jsonl(first, SMALL[::-1])
    for path in (first, second):
        code, said = run(words_for(folder, path, resume=True), tmp_path / "log")
        assert code == 2 and "! " in said and "files" in said and "Traceback" not in said, said


def test_a_saved_dataset_that_changed_in_place_is_another_corpus(tmp_path: Path) -> None:
    from consistency_lens.activations import Corpus, CorpusArguments

    identities = []
    for texts in (SMALL, SMALL, SMALL[::-1]):
        extraction_of(texts).corpus.source.save_to_disk(str(tmp_path / "saved"))
        identities.append(Corpus.load(CorpusArguments(dataset_name=str(tmp_path / "saved"))).identity)
    assert identities[0] == identities[1] != identities[2]


def test_the_batch_size_may_change(stopped: tuple[Path, dict[str, bytes]]) -> None:
    folder, whole = stopped
    found = rows_of(extract_to(folder, SMALL, batch_size=3, resume=True))
    assert list(found) == list(rows_of(extract_to(folder.parent / "whole", SMALL)))
    assert set(written(folder)) == set(whole)


def test_a_complete_folder_stays_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    extract_to(tmp_path / "rows", SMALL)
    before = changed_at(tmp_path / "rows")
    extract_to(tmp_path / "rows", SMALL, resume=True)
    assert changed_at(tmp_path / "rows") == before


@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed"])
@pytest.mark.parametrize("complete", [True, False])
def test_a_damaged_shard_is_made_again_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str, complete: bool
) -> None:
    folder = tmp_path / "rows"
    extract_to(folder, SMALL)
    whole, shard = written(folder), folder / "train" / "data-00001.arrow"
    if not complete:
        stop_early(folder, 2)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    if damage == "removed":
        shard.unlink()
    else:
        shard.write_bytes(content if damage == "flipped" else content[:-7])
    before = changed_at(folder)
    extract_to(folder, SMALL, resume=True)
    assert written(folder) == whole
    assert f"{shard} is" in caplog.text
    after = changed_at(folder)
    changed = {name for name in before if after[name] != before[name]}
    assert {name for name in changed if name.endswith(".arrow")} <= {
        f"{split}/data-00001.arrow" for split in ("train", "validation", "test")
    }


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    extract_to(tmp_path / "rows", SMALL)
    before = changed_at(tmp_path / "rows")
    with pytest.raises(BadInput, match="Use --resume to go on, --overwrite to start afresh, or another folder"):
        extract_to(tmp_path / "rows", SMALL)
    with pytest.raises(BadInput, match="either --resume or --overwrite"):
        extract_to(tmp_path / "rows", SMALL, resume=True, overwrite=True)
    assert changed_at(tmp_path / "rows") == before


@pytest.mark.parametrize(("how", "fix"), [("resume", "Use an empty folder"), ("overwrite", "Empty it yourself")])
def test_a_foreign_folder_is_left_alone(tmp_path: Path, how: str, fix: str) -> None:
    (tmp_path / "train").mkdir()
    for name in ("thesis.tex", "train/data-00000.arrow", "README.md"):
        (tmp_path / name).write_text("years of work")
    before = changed_at(tmp_path)
    with pytest.raises(BadInput, match=fix):
        extraction_of(SMALL, tmp_path, **{how: True}).open()
    with pytest.raises(BadInput, match="it is not empty"):
        extraction_of(SMALL, tmp_path).open()
    assert changed_at(tmp_path) == before


def test_overwriting_removes_what_is_ours_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    extract_to(folder, random_texts(100), documents_per_shard=5)
    foreign = [folder / name for name in ("notes.txt", "train/notes.txt", "mine/data-00000.arrow")]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    with (folder / "README.md").open("a") as card:
        card.write("\nMy own words.\n")
    extract_to(folder, SMALL, overwrite=True)
    assert all(path.read_text() == "mine" for path in foreign)
    assert "My own words." in (folder / "README.md").read_text()
    foreign[-1].unlink()
    extract_to(tmp_path / "fresh", SMALL)
    assert written(folder) == written(tmp_path / "fresh")


def test_a_failed_start_blocks_no_second_one(tmp_path: Path) -> None:
    extraction_of(SMALL, tmp_path / "rows").open()  # and then the weights could not be loaded
    extract_to(tmp_path / "rows", SMALL)
    extraction_of(SMALL, tmp_path / "rows", overwrite=True).open()
    extraction_of(SMALL, tmp_path / "rows", overwrite=True).open()
    extract_to(tmp_path / "rows", SMALL, resume=True)


@pytest.mark.parametrize("field", ["tokens", "too_short", "highest_id", "index"])
def test_a_note_that_was_changed_is_not_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture, field: str) -> None:
    """It would lead to other numbers on the card, and in what is checked."""
    folder = tmp_path / "rows"
    extract_to(folder, SMALL)
    whole = written(folder)
    stop_early(folder, 2)
    note = folder / PROGRESS / "00001.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {field: 7}))
    extract_to(folder, SMALL, resume=True)
    assert written(folder) == whole
    assert f"{note} is changed (its checksum differs). It is made again now." in caplog.text
