"""The file or folder that is named is read, with what it holds now, whatever its name and its dates."""

from __future__ import annotations

import codecs
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from datasets import Dataset
from extracting import ROOT, write_jsonl
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from consistency_lens.activations import Corpus, CorpusArguments
from consistency_lens.errors import BadInput


def read(**named: Any) -> list[str]:
    return texts_of(Corpus.load(CorpusArguments(**named)))


def texts_of(corpus: Corpus) -> list[str]:
    return [document.text for _, chunk in corpus.chunks(64) for document in chunk]


ODD = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=20)
SIGNS = st.text("[]*?{}!~#%.:-ab1", min_size=1, max_size=8)


@given(name=SIGNS | ODD, streaming=st.booleans())
@example(name="part[1]", streaming=False)
@example(name="part[1]", streaming=True)
@example(name="*", streaming=False)
@example(name="a::b", streaming=False)
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_the_file_that_is_named_is_read(name: str, streaming: bool) -> None:
    with TemporaryDirectory() as place:
        for decoy in ("a", "1", "b1", re.sub(r"\[(.).*?\]", r"\1", name).strip("*?")):
            (Path(place) / f"{decoy}.txt").write_text("another one")
        path = Path(place) / f"{name}.txt"
        path.write_text("the one that is named")
        if "::" in name:
            with pytest.raises(BadInput, match="Rename it"):
                read(train_file=[str(path)], streaming=streaming)
        else:
            assert read(train_file=[str(path)], streaming=streaming) == ["the one that is named"]


def test_a_name_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("part[1].txt", "named"), ("part1.txt", "another")):
        Path(name).write_text(text)
    assert read(train_file=["part[1].txt"]) == ["named"]


@pytest.mark.parametrize("name", ["fold[1]", "fold?", "fold*", "fold::1"])
def test_a_folder_is_never_taken_for_another(tmp_path: Path, name: str) -> None:
    for folder in (name, "fold1"):
        (tmp_path / folder / "below").mkdir(parents=True)
        write_jsonl(tmp_path / folder / "below/train.jsonl", [folder])
    for path in (tmp_path / name, tmp_path / name / "below"):
        with pytest.raises(BadInput, match="in a path for a pattern") as caught:
            read(dataset_name=str(path))
        assert "Rename the folder, or name its files with --train_file." in str(caught.value)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_other_contents_of_the_same_date_are_read(tmp_path: Path, kind: str, streaming: bool) -> None:
    path, found = tmp_path / "train.jsonl", []
    named: dict[str, Any] = {"train_file": [str(path)]} if kind == "file" else {"dataset_name": str(tmp_path)}
    for text in ("old", "new", "old"):
        write_jsonl(path, [text])
        os.utime(path, (1e9, 1e9))
        corpus = Corpus.load(CorpusArguments(**named, streaming=streaming))
        found.append((corpus.identity["files"], texts_of(corpus)))
    assert [texts for _, texts in found] == [["old"], ["new"], ["old"]]
    assert found[0] == found[2] != found[1]


def test_the_same_contents_of_another_date_are_prepared_once(tmp_path: Path) -> None:
    path, prepared = write_jsonl(tmp_path / "train.jsonl", ["a text of its own"]), []
    for date in (1e9, 2e9):
        os.utime(path, (date, date))
        source = Corpus.load(CorpusArguments(train_file=[str(path)])).source
        assert isinstance(source, Dataset)
        prepared.append([file["filename"] for file in source.cache_files])
    assert prepared[0] == prepared[1] != []


WITH_MARK = {
    "txt": b"one\ntwo\n",
    "jsonl": b'{"text": "one"}\n{"text": "two"}\n',
    "csv": b"text,n\none,1\ntwo,2\n",
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", WITH_MARK)
def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path, kind: str, streaming: bool) -> None:
    paths = [tmp_path / f"{name}.{kind}" for name in "ab"]
    for path in paths:
        path.write_bytes(codecs.BOM_UTF8 + WITH_MARK[kind])
    for named in ({"train_file": [str(path) for path in paths]}, {"dataset_name": str(tmp_path)}):
        assert read(**named, streaming=streaming) == ["one", "two", "one", "two"]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"it is a folder\. Name the files in it, or give the folder as --dataset_name"):
        read(train_file=[str(tmp_path)])


@pytest.mark.parametrize("streaming", [False, True])
def test_a_number_among_the_texts(tmp_path: Path, streaming: bool) -> None:
    path = tmp_path / "mixed.jsonl"
    path.write_text('{"text": "a"}\n{"text": 3}\n')
    with pytest.raises(BadInput, match=r"text_column='text': not all its values are strings\. Make every value a"):
        read(train_file=[str(path)], streaming=streaming)


FULL = """
import resource, sys
from datasets import config
from consistency_lens.activations import Corpus, CorpusArguments
from consistency_lens.errors import BadInput
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for named in ({"train_file": [sys.argv[1] + "/train.txt"]}, {"dataset_name": sys.argv[1]}):
    try:
        Corpus.load(CorpusArguments(**named))
    except BadInput as error:
        print(error)
"""


def test_no_room_for_the_cache_is_no_fault_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/train.txt").write_text("\n".join(f"line {i}" for i in range(20_000)))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FULL, tmp_path / "texts"],
        env=os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all("HF_DATASETS_CACHE=" in line and "no room left" in line for line in lines), lines
    assert "Mend" not in done.stdout
