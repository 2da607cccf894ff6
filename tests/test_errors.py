"""Bad input: each mistake gets one line that names field, value and fix, before the weights where that can be, and
exit code 2; what was already written stays."""

from __future__ import annotations

import ctypes
import json
import pickle
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extracting import (
    ROOT,
    changed_at,
    model_without_weights,
    notes_in,
    options,
    random_texts,
    run,
    saved_model,
    shards,
    write_jsonl,
    written,
)

from consistency_lens import cli
from consistency_lens.activations import Activations
from consistency_lens.errors import BadInput

TEXTS = random_texts(60, shortest=20)


def words_for(corpus: Path, **more: Any) -> list[str]:
    """A request that only lacks the weights: an error that shows all the same came before them."""
    given = {"train_file": corpus, "model_name_or_path": model_without_weights(), "min_position": 4}
    return ["extract", "--use_cpu", *options(**(given | {"output_dir": corpus.parent / "rows"} | more))]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "texts.jsonl", TEXTS)


def error_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_nothing_but_the_weights_is_missing(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = error_of(words_for(corpus), capsys)
    assert f"model_name_or_path='{model_without_weights()}'" in said and "no file named model.safetensors" in said
    left = [path.name for path in (corpus.parent / "rows").rglob("*") if path.is_file()]
    assert left == ["lock"]
    again = error_of(words_for(corpus), capsys)
    assert again.splitlines()[-1] == said.splitlines()[-1], "not that the folder is in use, or not empty"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sites": "resid_pst.1"}, "site='resid_pst.1'. "),
        ({"sites": "resid_post.4"}, "site='resid_post.4'. The model has 4 layers: use 0 to 3, or -4 to -1."),
        ({"sites": "mlp_out.-5"}, "site='mlp_out.-5'. The model has 4 layers"),
        ({"sites": "resid_post.4/3"}, "site='resid_post.4/3'. Write a fraction"),
        ({"batch_size": 0}, "batch_size=0. Use 1 or more."),
        ({"documents_per_shard": 0}, "documents_per_shard=0. Use 1 or more."),
        ({"positions_per_document": 0}, "positions_per_document=0. Use 1 or more."),
        ({"continuation_length": 0}, "continuation_length=0. Use 1 or more."),
        ({"min_position": -1}, "min_position=-1. Use 0 or more."),
        ({"seed": -1}, "seed=-1. Use 0 or more."),
        ({"max_length": 129}, "max_length=129. The model takes at most 128 tokens."),
        ({"max_length": 5}, "Use --max_length 6 or more, or a lower --min_position than 4."),
        ({"max_length": 1, "min_position": 0}, "Use --max_length 2 or more."),
        ({"test_fraction": 0.96}, "validation_fraction=(0.05, 0.96). Both fractions together stay below 1."),
        ({"test_fraction": -0.1}, "validation_fraction=(0.05, -0.1). Both"),
        ({"min_position": 90}, "min_position=90: no document has the 92 tokens that it takes. Use a smaller"),
        ({"train_file": "nowhere.jsonl"}, "train_file='nowhere.jsonl'. Give the path of a file that exists."),
        ({"train_file": __file__}, "Give files of one kind: .txt, .json, .jsonl, .parquet, .arrow, .csv."),
        ({"model_name_or_path": "no/where"}, "model_name_or_path='no/where': "),
        (
            {"overwrite": True, "resume": True},
            "resume=True: overwrite is set too. Use either --resume or --overwrite.",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_request_that_cannot_work(
    corpus: Path, capsys: pytest.CaptureFixture[str], given: dict[str, Any], said: str
) -> None:
    assert said in error_of(words_for(corpus, **given), capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max_documents", "0"], "max_documents=0. Use 1 or more"),
        (["--text_column", "texts"], "text_column='texts'. Did you mean 'text'? The source has text."),
        (["--text_column", "label"], "text_column='label'. The source has text."),
        (["--keep_columns", "tex"], "keep_columns='tex'. Did you mean 'text'?"),
        (["--batchsize", "3"], "option='--batchsize'. Did you mean '--batch_size'? --help_all lists all options."),
        (["--batchsize=3"], "option='--batchsize'. Did you mean '--batch_size'?"),
        (["more"], "option='more'."),
        (["--dataset_name", "x"], "Use either --train_file or --dataset_name."),
        (["--dataset_revision", "main"], "dataset_revision='main'. Leave it out: local files have none."),
    ],
)
def test_an_option_that_cannot_work(
    corpus: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert said in error_of([*words_for(corpus), *words], capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["extrct"],
            "command='extrct'. Did you mean 'extract'? Use one of extract, train, evaluate, explain, explore, plan, ",
        ),
        (["extract", "--dataset_name", "x"], "model_name_or_path=None. Name a Hub model, a folder, or 'demo'"),
        (["extract", "--model_name_or_path", "."], "model_name_or_path='.': "),
        (["--batch_size", "3", "extract"], "command='extract'. Write it before all options: run_lens.py extract --"),
        (["--config", "demmo"], "config='demmo'. Give the path of a YAML file, or one of our recipes: demo, "),
    ],
)
def test_a_command_that_cannot_work(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert said in error_of(words, capsys)


def test_no_corpus(capsys: pytest.CaptureFixture[str]) -> None:
    said = error_of(["extract", *options(model_name_or_path=model_without_weights())], capsys)
    assert "dataset_name=None. Name a Hub dataset (--dataset_name) or local files (--train_file)." in said


def test_a_dataset_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["extract", *options(model_name_or_path=model_without_weights(), dataset_name="no/where")]
    assert "dataset_name='no/where': " in error_of(words, capsys)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "content"), [("a.txt", ""), ("a.jsonl", ""), ("b.jsonl", "\n\n\n"), ("b.csv", "text\n")]
)
def test_a_corpus_without_documents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, streaming: bool
) -> None:
    (tmp_path / name).write_text(content)
    said = error_of([*words_for(tmp_path / name), f"--streaming={streaming}"], capsys)
    assert "it is empty. Give a " in said and name in said


def test_a_text_file_of_blank_lines_has_no_document_that_is_long_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "blank.txt").write_text("\n" * 700)
    assert "min_position=4: no document has the 6 tokens" in error_of(words_for(tmp_path / "blank.txt"), capsys)


def test_a_file_that_is_not_what_its_name_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.jsonl").write_text('{"text": "half a li')
    said = error_of(words_for(tmp_path / "broken.jsonl"), capsys)
    assert "broken.jsonl" in said and "it cannot be read as json" in said and "Mend the file" in said


def test_a_column_of_numbers_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "numbers.jsonl"
    path.write_text("".join(json.dumps({"text": i}) + "\n" for i in range(10)))
    said = "text_column='text': document 0 holds a int. Name a column of strings."
    assert said in error_of(words_for(path), capsys)


def test_texts_that_are_all_too_short_are_found_before_the_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_jsonl(tmp_path / "short.jsonl", random_texts(1000, shortest=1, longest=4))
    assert "min_position=4: no document has the 6 tokens" in error_of(words_for(path), capsys)
    assert not (tmp_path / "rows").exists()


def test_long_texts_may_come_late(tmp_path: Path) -> None:
    texts = random_texts(600, shortest=1, longest=4) + TEXTS
    path = write_jsonl(tmp_path / "late.jsonl", texts)
    code, said = run(words_for(path, model_name_or_path=saved_model()), tmp_path / "log")
    assert code == 0, said
    found = Activations.load(tmp_path / "rows")
    assert found.metadata["documents_too_short"] == 600
    assert min(row["doc_id"] for row in found.splits["train"]) >= 600


def test_without_a_document_to_train_on(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "one.jsonl", TEXTS[:1])
    words = words_for(path, model_name_or_path=saved_model(), test_fraction=0.5, validation_fraction=0.499999)
    code, said = run(words, tmp_path / "log")
    assert code == 2 and "no document was left for training. Use more documents or smaller fractions." in said


# -- the output folder


def test_a_folder_below_a_file(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (corpus, corpus / "below"):
        said = error_of(words_for(corpus, output_dir=folder), capsys)
        assert f"output_dir='{folder}': " in said and "Choose a folder that you may write to." in said
    assert corpus.read_text().count("\n") == len(TEXTS)


def obey_permissions() -> None:
    """Also as root: of the new program's powers, leave out the ones that pass over the permissions of files."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.parametrize("below", ["", "rows"])
def test_a_folder_that_one_may_not_write_to(corpus: Path, tmp_path: Path, below: str) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    folder = tmp_path / "locked" / below
    done = subprocess.run(
        [sys.executable, ROOT / "run_lens.py", *words_for(corpus, output_dir=folder)],
        preexec_fn=obey_permissions,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert f"output_dir='{folder}': " in done.stderr and "Permission denied" in done.stderr
    assert "Choose a folder that you may write to." in done.stderr and "Traceback" not in done.stderr


# -- a full disk

GROWING = [*random_texts(300, shortest=6, longest=8), *random_texts(60, seed=1, shortest=80, longest=90)]


def growing(corpus: Path, folder: Path, **more: Any) -> list[str]:
    """Late documents have far more rows: the bill, made of the first ones, does not foresee them."""
    settings = {
        "positions_per_document": 60,
        "documents_per_shard": 60,
        "sites": ["embed", "resid_post.1", "mlp_out.2"],
    }
    return words_for(corpus, model_name_or_path=saved_model(), output_dir=folder, **(settings | more))


@pytest.fixture(scope="module")
def with_room(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """The growing corpus, and the files of a run with room for them."""
    place = tmp_path_factory.mktemp("room")
    corpus = write_jsonl(place / "texts.jsonl", GROWING)
    code, said = run(growing(corpus, place / "rows"), place / "log")
    assert code == 0, said
    return corpus, written(place / "rows")


def check_full_disk(folder: Path, code: int, said: str, expected: dict[str, bytes]) -> None:
    """A clear error, and all finished shards as they will be."""
    assert code == 2 and "Traceback" not in said, said
    assert "output_dir=" in said and "no room left to write " in said
    assert "Free some space and start again with --resume: all finished shards are kept." in said
    notes = notes_in(folder)
    assert 2 <= len(notes) < 6
    for shard in (shard for note in notes for shard in note.shards):
        shard.verify(folder)
        assert (folder / shard.file).read_bytes() == expected[shard.file]
    assert not list(folder.rglob("*.part")) and not (folder / "extraction.json").exists()


def limit_file_size(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_file_that_may_not_grow(tmp_path: Path, with_room: tuple[Path, dict[str, bytes]]) -> None:
    corpus, expected = with_room
    sizes = sorted(len(content) for content in expected.values())
    limit = sizes[-1] - 4096
    code, said = run(growing(corpus, tmp_path / "rows"), tmp_path / "log", limit_file_size, limit)
    check_full_disk(tmp_path / "rows", code, said, expected)
    finished = {str(path): path.stat().st_mtime_ns for path in shards(tmp_path / "rows")}
    code, said = run(growing(corpus, tmp_path / "rows", resume=True), tmp_path / "log")
    assert code == 0, said
    assert written(tmp_path / "rows") == expected
    assert all(Path(name).stat().st_mtime_ns == at for name, at in finished.items())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2100k", "tmpfs", disk], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"this machine lets nobody mount a small disk: {done.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk(tmp_path: Path, small_disk: Path, with_room: tuple[Path, dict[str, bytes]]) -> None:
    corpus, expected = with_room
    assert sum(map(len, expected.values())) > 2.6e6
    code, said = run(growing(corpus, small_disk / "rows"), tmp_path / "log")
    check_full_disk(small_disk / "rows", code, said, expected)
    before = changed_at(small_disk / "rows")
    code, said = run(growing(corpus, small_disk / "rows", resume=True), tmp_path / "log")
    assert code == 2 and "--resume" in said and "no room left" in said
    assert changed_at(small_disk / "rows") == before
    subprocess.run(["mount", "-o", "remount,size=40m", small_disk], check=True)
    code, said = run(growing(corpus, small_disk / "rows", resume=True), tmp_path / "log")
    assert code == 0, said
    assert written(small_disk / "rows") == expected


def test_what_the_bill_foresees_is_refused_at_once(
    tmp_path: Path, small_disk: Path, with_room: tuple[Path, dict[str, bytes]]
) -> None:
    corpus = write_jsonl(tmp_path / "long.jsonl", GROWING[300:] * 20)
    code, said = run(growing(corpus, small_disk / "rows"), tmp_path / "log")
    assert code == 2 and "MB are needed and " in said and "Use another disk, fewer documents" in said, said
    assert not list((small_disk / "rows").rglob("*.arrow"))


# -- the error itself


def test_an_error_says_field_value_reason_and_fix() -> None:
    error = BadInput("batch_size", 0, "Use 1 or more.", why="nothing fits into it.")
    assert str(error) == "batch_size=0: nothing fits into it. Use 1 or more."
    assert str(BadInput("dtype", "float8", "Use float16.")) == "dtype='float8'. Use float16."
    assert isinstance(error, ValueError)
    assert str(BadInput("size", np.float64(2), "Halve it.")).startswith("size=")


def test_an_error_survives_the_way_between_processes() -> None:
    error = BadInput("batch_size", 0, "Use 1 or more.", why="too small")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.field, copy.value) == (BadInput, str(error), "batch_size", 0)
