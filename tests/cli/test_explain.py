"""`explain` reads words, a file, stdin or a dataset, and writes a table, JSON or a file that survives a kill."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from extracting import random_texts, run, saved_model, write_jsonl
from lens_runs import tiny_lens

from consistency_lens import AutoLens, BadInput, FrozenLM, cli
from consistency_lens.cli.commands.explain import parse_positions
from consistency_lens.cli.explained import ExplainedFile

TEXTS = random_texts(5, shortest=4, longest=8)


@pytest.fixture(scope="module")
def lens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain") / "lens"
    tiny_lens(FrozenLM.from_pretrained(saved_model())).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows(lens: Path) -> list[dict[str, Any]]:
    """What Python says of each text by itself: the command takes one after the other, so that it can be resumed."""
    lens_in_python = AutoLens.from_pretrained(lens, saved_model())
    explained = [lens_in_python.explain(text, [1, -1]) for text in TEXTS]
    found = [{"doc_id": i, **row} for i, each in enumerate(explained) for row in each]
    return json.loads(json.dumps(found))


def words_for(lens: Path, *words: str) -> list[str]:
    """The model stands in front: the lens comes from a folder, and cannot find it."""
    return ["explain", "--use_cpu", "--model_name_or_path", str(saved_model()), "--lens", str(lens), *words]


def explain(lens: Path, *words: str) -> int:
    return cli.main(words_for(lens, "--positions=1,-1", *words))


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_texts_come_as_words_a_file_stdin_or_a_dataset(
    lens: Path,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = tmp_path / "texts.txt"
    plain.write_text("".join(f"{text}\n" for text in TEXTS))
    table = write_jsonl(tmp_path / "texts.jsonl", TEXTS)
    monkeypatch.setattr(sys, "stdin", io.StringIO(plain.read_text()))
    for words in (TEXTS, ["-"], [str(plain)], [str(table)], ["--train_file", str(table)]):
        assert explain(lens, *words, "--json") == 0
        assert lines(capsys.readouterr().out) == rows, words
    assert explain(lens, str(table), "--max_documents", "2", "--json") == 0
    assert lines(capsys.readouterr().out) == rows[:4]
    assert explain(lens, *TEXTS[:2]) == 0
    said = capsys.readouterr().out
    assert "text 0" in said and "text 1" in said and "with the edits" in said


def test_a_table_has_one_type_in_each_column(
    lens: Path, rows: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.parquet"
    assert explain(lens, *TEXTS, "-o", str(file)) == 0
    assert f"10 rows in {file}" in capsys.readouterr().err
    found = pq.read_table(file).to_pylist()
    for row in found:
        for side in ("before", "after"):
            row[side] = [[each["token"], each["probability"]] for each in row[side]]
    assert found == rows and [entry.name for entry in tmp_path.iterdir()] == ["rows.parquet"]


def test_a_text_that_is_too_short_among_others_is_passed_over(
    lens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = write_jsonl(tmp_path / "texts.jsonl", ["", *TEXTS[:1]])
    assert explain(lens, str(texts), "--json") == 0
    found = capsys.readouterr()
    assert {row["doc_id"] for row in lines(found.out)} == {
        1
    } and "1 texts were passed over, the first for" in found.err
    assert cli.main(words_for(lens, "w1 w2", "--positions", "7")) == 2, "alone it is refused"


def die_at(number: int, path: str) -> None:
    """From now on count how often this process opens the file to append to it; die at the `number`-th."""
    seen = 0

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event == "open" and str(arguments[0]) == path and arguments[1] == "a":
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


def test_a_killed_explain_goes_on_where_it_was(lens: Path, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    texts, file, part = write_jsonl(tmp_path / "texts.jsonl", TEXTS), tmp_path / "o.jsonl", tmp_path / ".o.jsonl.part"
    words = words_for(lens, "--positions=1,-1", str(texts), "-o", str(file))
    code, said = run(words, tmp_path / "log", die_at, 4, str(part))
    assert code == -signal.SIGKILL and not file.exists(), said
    kept = part.read_bytes()
    assert kept.count(b"\n") == 4, "what it is made of, and three texts"
    # Only what is not finished is done: a finished text that is changed stays as it is.
    changed = kept.replace(b'"doc_id": 0', b'"doc_id": 77')
    part.write_bytes(changed + b'{"doc_id": 3, "ro')
    assert cli.main(words) == 0
    expected = [{**row, "doc_id": row["doc_id"] or 77} for row in rows]
    assert lines(file.read_text()) == expected and not part.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], 'Write what to explain: explain --lens RUN "some text"'),
        (["w1", "--dataset_name", "x"], "both name what to explain"),
        (["w1 w2", "-o", "{0}/rows.csv"], "Give it the ending .parquet or .jsonl."),
        (["w1 w2", "-o", "{0}/no/rows.jsonl"], "Name a folder that is there."),
        (["w1 w2", "-o", "{0}/there.jsonl"], "it is there already"),
        (["w1 w2", "-o", "{0}/begun.jsonl"], "is unfinished there"),
        (["w1 w2", "--positions", "1:2:3"], "or FIRST:END"),
    ],
)
def test_what_cannot_be_is_refused(
    lens: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.jsonl").write_text("")
    (tmp_path / ".begun.jsonl.part").write_text('{"lens": "another"}\n')
    given = [word.format(tmp_path) for word in words]
    assert cli.main(words_for(lens, *given)) == 2
    assert said in capsys.readouterr().err


def test_positions() -> None:
    assert parse_positions("3,5,-1") == [3, 5, -1] and parse_positions("2:-1") == slice(2, -1)
    assert parse_positions(":4") == slice(None, 4) and parse_positions(None) is None


def test_a_damaged_beginning_is_refused(tmp_path: Path) -> None:
    file = ExplainedFile(tmp_path / "o.jsonl", {})
    file.part.write_text('{}\n{"doc_id": -1, "rows": 3}\n')
    with pytest.raises(BadInput, match="Remove it: explain then begins anew"):
        file.finish()
