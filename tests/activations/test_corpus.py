"""Where texts come from: what settles them, what is read of them, and what a source may do wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Audio, Dataset, DatasetDict, Features, Image, IterableDataset, Value, Video
from datasets import List as ListOf
from extracting import ROOT, random_texts, write_jsonl

from consistency_lens.activations import Corpus, CorpusArguments
from consistency_lens.errors import BadInput

TEXTS = random_texts(600)


def texts_of(corpus: Corpus, size: int = 64) -> list[str]:
    return [document.text for _, chunk in corpus.chunks(size) for document in chunk]


def open_corpus(**given: Any) -> Corpus:
    return Corpus.load(CorpusArguments(**given))


def in_memory(source: Any, **given: Any) -> Corpus:
    return Corpus(source, CorpusArguments(**given), "mine")


# -- identity

ELSEWHERE = """
import json, sys
from datasets import Dataset, load_dataset
from consistency_lens.activations import Corpus, CorpusArguments
place, texts = sys.argv[1], json.loads(sys.stdin.read())
memory = Dataset.from_dict({"text": texts, "kept": [{"a": [i / 7, None]} for i in range(len(texts))]})
lock = __import__("threading").Lock()  # cannot be pickled: `datasets` draws a random fingerprint
made = memory.map(lambda row: {"text": row["text"] + ("" if lock else "!")})
found = [Corpus.load(CorpusArguments(**given)) for given in (
    {"train_file": [place + "/texts.jsonl"]}, {"train_file": [place + "/texts.jsonl"], "streaming": True},
    {"dataset_name": place + "/folder"}, {"dataset_name": place + "/folder", "streaming": True},
    {"dataset_name": place + "/saved"}, {"dataset_name": place + "/splits", "split": "test"},
)]
found += [Corpus(source, CorpusArguments(keep_columns=["kept"]), "mine") for source in (
    memory, memory.select([3, 1, 2]), memory.shuffle(seed=3), made, memory.to_iterable_dataset()
)]
print(json.dumps([corpus.identity for corpus in found]))
"""


def test_a_source_opened_again_elsewhere_is_the_same_corpus(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("texts.jsonl", "folder/train.jsonl"):
        write_jsonl(tmp_path / name, TEXTS)
    Dataset.from_dict({"text": TEXTS}).save_to_disk(str(tmp_path / "saved"))
    DatasetDict({"test": Dataset.from_dict({"text": TEXTS})}).save_to_disk(str(tmp_path / "splits"))
    found = []
    for seed in ("1", "2"):  # of Python's own hashes, and a modification time of its own
        os.utime(tmp_path / "texts.jsonl", (1e9 + int(seed), 1e9 + int(seed)))
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", ELSEWHERE, tmp_path],
            input=json.dumps(TEXTS),
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        found.append(json.loads(done.stdout))
    first, second = found
    assert first == second
    hashes = [str(identity.get("files", identity.get("texts"))) for identity in first]
    assert all(value.startswith("sha256:") for value in hashes)
    memory, selected, shuffled = hashes[6:9]
    assert len({memory, selected, shuffled}) == 3
    assert first[0] == first[1] and first[2] == first[3], "a stream of the same files has the same rows"


def jsonl(place: Path, texts: list[str]) -> Corpus:
    return open_corpus(train_file=[str(write_jsonl(place / "texts.jsonl", texts))])


def folder(place: Path, texts: list[str], streaming: bool = False) -> Corpus:
    (place / "folder").mkdir(exist_ok=True)
    write_jsonl(place / "folder/train.jsonl", texts)
    return open_corpus(dataset_name=str(place / "folder"), streaming=streaming)


def saved(place: Path, texts: list[str]) -> Corpus:
    path = place / str(len(list(place.iterdir()))) / "saved"
    Dataset.from_dict({"text": texts}).save_to_disk(str(path))
    return open_corpus(dataset_name=str(path))


SOURCES: dict[str, Callable[[Path, list[str]], Corpus]] = {
    "jsonl": jsonl,
    "folder": folder,
    "folder-streamed": lambda place, texts: folder(place, texts, streaming=True),
    "saved": saved,
    "memory": lambda place, texts: in_memory(Dataset.from_dict({"text": texts})),
    "selected": lambda place, texts: in_memory(Dataset.from_dict({"text": ["w0", *texts]}).select(range(1, 601))),
    "stream": lambda place, texts: in_memory(Dataset.from_dict({"text": texts}).to_iterable_dataset()),
}


@pytest.mark.parametrize("name", SOURCES)
def test_other_texts_are_another_corpus(tmp_path: Path, name: str) -> None:
    first = SOURCES[name](tmp_path, TEXTS).identity
    assert SOURCES[name](tmp_path, TEXTS).identity == first
    for other in (["w1 w1", *TEXTS[1:]], TEXTS[::-1], ["".join(TEXTS[:2]), "", *TEXTS[2:]]):
        identity = SOURCES[name](tmp_path, other).identity
        assert identity.keys() == first.keys() and identity != first


def test_a_kept_column_is_part_of_the_corpus() -> None:
    first, second = (in_memory(Dataset.from_dict({"text": ["a"], "n": [n]}), keep_columns=["n"]) for n in (1, 2))
    assert first.identity != second.identity


def test_what_is_not_read_is_no_part_of_it() -> None:
    first, second = (in_memory(Dataset.from_dict({"text": ["a", t]}), max_documents=1) for t in "bc")
    assert first.identity == second.identity


def test_files_in_another_order_are_another_corpus(tmp_path: Path) -> None:
    paths = []
    for name, text in (("a", "w1"), ("b", "w2")):  # the same name twice
        (tmp_path / name).mkdir()
        paths.append(str(write_jsonl(tmp_path / name / "x.jsonl", [text])))
    first, second = open_corpus(train_file=paths), open_corpus(train_file=paths[::-1])
    assert texts_of(first) == texts_of(second)[::-1] and first.identity != second.identity


# -- what is read


def with_pictures() -> Dataset:
    """Bytes that no image library can decode, beside the texts."""
    pytest.importorskip("PIL")
    kinds = Features({"text": Value("string"), "picture": Image(), "n": Value("int64")})
    rows = {"text": TEXTS, "picture": [{"bytes": b"no image", "path": None}] * len(TEXTS), "n": range(len(TEXTS))}
    return Dataset.from_dict(rows, features=kinds)


@pytest.mark.parametrize("streamed", [False, True])
def test_only_the_columns_that_are_needed_are_read(streamed: bool) -> None:
    rows = with_pictures()
    corpus = in_memory(rows.to_iterable_dataset() if streamed else rows, keep_columns=["n"])
    documents = [document for _, chunk in corpus.chunks(64) for document in chunk]
    assert [d.text for d in documents] == TEXTS and [d.kept for d in documents] == [{"n": i} for i in range(600)]
    assert corpus.source.column_names == ["text", "n"]


@pytest.mark.parametrize("kind", ["numpy", "torch", "arrow", "pandas"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_format_of_the_source_does_not_matter(kind: str, streamed: bool) -> None:
    if kind == "pandas":
        pytest.importorskip("pandas")
    rows = Dataset.from_dict({"text": TEXTS, "n": [[i, 2] for i in range(600)]})
    source = (rows.to_iterable_dataset() if streamed else rows).with_format(kind)
    documents = [d for _, chunk in in_memory(source, keep_columns=["n"]).chunks(100) for d in chunk]
    assert [d.text for d in documents] == TEXTS
    assert [d.kept["n"] for d in documents] == [[i, 2] for i in range(600)] and type(documents[0].kept["n"]) is list


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("limit", [None, 1, 100, 599, 600, 10_000])
def test_chunks_are_numbered_whichever_are_wanted(streamed: bool, limit: int | None) -> None:
    rows = Dataset.from_dict({"text": TEXTS})
    corpus = in_memory(rows.to_iterable_dataset() if streamed else rows, max_documents=limit)
    expected = list(enumerate(TEXTS[:limit]))
    every = {index: [(d.doc_id, d.text) for d in chunk] for index, chunk in corpus.chunks(70)}
    assert [document for chunk in every.values() for document in chunk] == expected
    odd = {index: [(d.doc_id, d.text) for d in chunk] for index, chunk in corpus.chunks(70, lambda i: i % 2 == 1)}
    assert odd == {index: chunk for index, chunk in every.items() if index % 2}


# -- what a source may do wrong


def refused(make: Callable[[], Any]) -> str:
    with pytest.raises(BadInput) as caught:
        make()
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Image(), "Image"),
        (Audio(), "Audio"),
        (Video(), "Video"),
        (Image(decode=False), "Image"),
        (ListOf(Image()), ""),
    ],
)
def test_media_are_not_kept(kind: Any, name: str) -> None:
    source = IterableDataset.from_generator(iter, features=Features({"text": Value("string"), "media": kind}))
    said = refused(lambda: in_memory(source, keep_columns=["media"]))
    assert f"keep_columns='media': it holds {name}" in said and "Name columns of plain values" in said


def broken_at(number: int) -> Iterator[dict[str, str]]:
    for text in TEXTS[:number]:
        yield {"text": text}
    raise ConnectionError("the line went dead")


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("number", [0, 100])
def test_a_stream_that_breaks_says_where(number: int, typed: bool) -> None:
    features = Features({"text": Value("string")}) if typed else None
    source = IterableDataset.from_generator(broken_at, gen_kwargs={"number": number}, features=features)
    said = refused(lambda: texts_of(in_memory(source)))
    assert f"the stream breaks at document {number}: " in said and "the line went dead" in said


def test_a_file_that_breaks_in_the_middle(tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    (tmp_path / "b.jsonl").write_text('{"text": "w1"}\n{"text": "w2", \n')
    given = {"train_file": [str(good), str(tmp_path / "b.jsonl")], "streaming": True}
    said = refused(lambda: texts_of(open_corpus(**given)))
    assert "the stream breaks at document 600: " in said and "b.jsonl" in said
    assert texts_of(open_corpus(**given, max_documents=600)) == TEXTS


def test_a_table_whose_strings_are_no_text(tmp_path: Path) -> None:
    texts = pa.array([b"w1 w2", b"w3", b"w4 \x8a", b"w5"]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    said = refused(lambda: texts_of(open_corpus(train_file=[str(tmp_path / "a.parquet")])))
    assert "a document from 0 to 3 cannot be read: UnicodeDecodeError" in said and "Mend the source" in said


def test_a_document_without_the_column(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": "b"}, {"story": "c"}]
    source = IterableDataset.from_generator(lambda: iter(rows))
    said = refused(lambda: texts_of(in_memory(source)))
    assert "column='text': document 2 has only story. Mend the source" in said


def test_a_dataset_with_a_loading_script(tmp_path: Path) -> None:
    (tmp_path / "scripted").mkdir()
    (tmp_path / "scripted/scripted.py").write_text("import datasets")
    said = refused(lambda: open_corpus(dataset_name=str(tmp_path / "scripted")))
    assert "dataset_name=" in said and "Dataset scripts are no longer supported" in said and "data files" in said


def test_a_folder_whose_files_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "half a li')
    said = refused(lambda: open_corpus(dataset_name=str(tmp_path)))
    assert "dataset_name=" in said and "Check its files" in said


def test_a_saved_dataset_that_lost_a_file(tmp_path: Path) -> None:
    Dataset.from_dict({"text": TEXTS}).save_to_disk(str(tmp_path))
    next(tmp_path.glob("*.arrow")).unlink()
    assert "it cannot be read" in refused(lambda: open_corpus(dataset_name=str(tmp_path)))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_split_that_is_not_there(tmp_path: Path, streaming: bool) -> None:
    write_jsonl(tmp_path / "train.jsonl", TEXTS)
    said = refused(lambda: open_corpus(dataset_name=str(tmp_path), split="splitless", streaming=streaming))
    assert said.startswith("split='splitless': ") and "train" in said
    said = refused(lambda: open_corpus(dataset_name="no/split-here", streaming=streaming))
    assert said.startswith("dataset_name='no/split-here': "), "a word in the message decides nothing"


# -- the Hub

CLIENT = """
import json, sys
from huggingface_hub import HfApi
from consistency_lens.activations import Corpus, CorpusArguments
from consistency_lens.errors import BadInput

api, said = HfApi(), []
api.create_repo("me/texts", repo_type="dataset")
for text in ("old", "new"):
    content = json.dumps({"text": text}).encode()
    api.upload_file(path_or_fileobj=content, path_in_repo="train.jsonl", repo_id="me/texts", repo_type="dataset")
    commit = api.dataset_info("me/texts").sha
    first = commit if text == "old" else first
    for revision in (None, first):
        for streaming in (False, True):
            given = CorpusArguments(dataset_name="me/texts", dataset_revision=revision, streaming=streaming)
            corpus = Corpus.load(given)
            texts = [document.text for _, chunk in corpus.chunks(8) for document in chunk]
            said.append([corpus.identity["commit"] == (revision or commit), corpus.identity["commit"], texts])
try:
    Corpus.load(CorpusArguments(dataset_name="me/texts", dataset_revision="v7"))
except BadInput as error:
    said.append(str(error))
print(json.dumps(said))
"""


def test_on_the_hub_a_commit_settles_the_texts(tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    from hub_server import TOKEN, HubServer

    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    with HubServer() as hub:
        environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", CLIENT],
            cwd=ROOT,
            env=environment | {"no_proxy": "127.0.0.1,localhost"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    *found, unknown = json.loads(done.stdout)
    assert all(right for right, _, _ in found)
    assert [texts for _, _, texts in found] == [["old"]] * 4 + [["new"]] * 2 + [["old"]] * 2
    assert len({commit for _, commit, _ in found}) == 2
    assert "dataset_name='me/texts': Revision 'v7' doesn't exist" in unknown and "--dataset_revision" in unknown
