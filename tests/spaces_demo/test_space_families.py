"""The page with lenses of every family, over loopback: each says itself what is shown and what can be changed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

gradio_client = pytest.importorskip("gradio_client", reason="the Space needs the extra 'space'")
from family_pages import SOFT, SPARSE, TEXT, folder_of, lenses_of, page_of, subjects  # noqa: E402

from consistency_lens import BadInput, view_of  # noqa: E402

import app  # noqa: E402  isort: skip
import tables  # noqa: E402  isort: skip
from lenses import subject_of  # noqa: E402  isort: skip
from links import Choice  # noqa: E402  isort: skip
from space_runs import HOSTILE, last  # noqa: E402  isort: skip
from views import read, scan  # noqa: E402  isort: skip

WORDS = "w1 w2 w3 w4 w5 w6"
NAMES = (SPARSE, SOFT, TEXT)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with page_of(lenses_of(*NAMES)) as url:
        yield url


@pytest.fixture
def client(address: str) -> Any:
    return gradio_client.Client(address, verbose=False)


def named(html: str) -> list[str]:
    return re.findall(r"data-name='([^']+)'", html)


def test_features_are_turned_over_the_network(client: Any) -> None:
    strip, near, said = client.predict(SPARSE, WORDS, api_name="/read")
    assert strip.count("<button") == 6 and "Token 6" in near and "alert" not in said
    near, _ = client.predict(3, api_name="/open")
    sliders = [name for name in named(near) if "/" in name]
    assert "Token 3" in near and len(sliders) > 4 and near.count("type='range'") == len(sliders)
    assert "<legend>Features of layer 0</legend>" in near
    before, said = client.predict(json.dumps({}), api_name="/change")
    after, said = client.predict(json.dumps({sliders[0]: 0}), api_name="/change")
    assert "alert" not in said and "0.000" in before and "0.000" not in after
    assert f"{sliders[0]} × 0" in after and "How it goes on" in after


def test_every_model_answers_from_the_code_over_the_network(client: Any) -> None:
    strip, near, said = client.predict(SOFT, WORDS, api_name="/read")
    assert strip.count("<button") == 3 and "Slot 3: <q>w5 w6</q>" in near and "alert" not in said
    assert named(near) == ["prompt", "task", "ratio", "bits", "dropped", "swapped"]
    given = {"prompt": "w9 w8", "bits": "4", "dropped": ["1"], "swapped": "2"}
    answers, said = client.predict(json.dumps(given), api_name="/change")
    assert "alert" not in said and "2 vectors of 32 numbers at 4 bits" in answers
    assert all(f"<th scope='row'>{name}</th>" in answers for name in ("words", "turned"))
    assert "from neither" in answers and "UTF-8" in answers


def test_a_change_that_nobody_offered_is_a_message(client: Any) -> None:
    *_, said = client.predict("{}", api_name="/change")
    assert "role='alert'" in said and "nothing to read" in said
    for name, given in [
        (SPARSE, '{"0/99999": 0}'),
        (SPARSE, '{"inside": "elsewhere"}'),
        (SOFT, '{"dropped": ["1", "2", "3"]}'),
        (SOFT, "[1]"),
        (SOFT, "{"),
        (SOFT, "[" * 5000),
        (SOFT, json.dumps({"prompt": "x" * 20_000})),
        (TEXT, '{"times": 1}'),
    ]:
        client.predict(name, WORDS, api_name="/read")
        *_, said = client.predict(given, api_name="/change")
        assert "role='alert'" in said and "Traceback" not in said, (name, given[:40])


def test_markup_in_a_prompt_and_a_text_stays_text(client: Any) -> None:
    strip, near, _ = client.predict(SOFT, f"{WORDS} {HOSTILE}", api_name="/read")
    answers, said = client.predict(json.dumps({"prompt": HOSTILE}), api_name="/change")
    for html in (strip, near, answers, said):
        assert "<script" not in html and "<img" not in html


def test_words_are_edited_where_there_are_words_alone(client: Any) -> None:
    client.predict(SPARSE, WORDS, api_name="/read")
    *_, said = client.predict(3, "w9 w8", 1.0, 0.0, 4, 0, api_name="/steer")
    assert "role='alert'" in said and "holds no words" in said
    client.predict(TEXT, WORDS, api_name="/read")
    html, said = client.predict(3, "w9 w8", 1.0, 0.0, 4, 0, api_name="/steer")
    assert "At token 3" in html


def test_lenses_that_cut_a_text_alike_are_compared(client: Any) -> None:
    client.predict(SPARSE, WORDS, api_name="/read")
    _, table, *_ = client.predict(SPARSE, TEXT, api_name="/compare")
    assert [line[1] for line in table["data"]] == WORDS.split()
    *_, said = client.predict(SPARSE, SOFT, api_name="/compare")
    assert "different pieces" in said


def test_tables_and_files_have_the_columns_that_a_family_gives() -> None:
    import io

    import pyarrow.parquet as parquet

    found = lenses_of(*NAMES)
    for name, cosine in [(SPARSE, False), (SOFT, False), (TEXT, True)]:
        view = view_of(found.get(name))
        rows = view.rows(WORDS, view.positions(WORDS))
        table = scan.table_of(rows, "cosine")
        assert ("cosine" in table["headers"]) == cosine
        assert all(len(line) == len(table["headers"]) for line in table["data"])
        stored = parquet.read_table(io.BytesIO(tables.as_parquet(rows, {"text": WORDS})))
        assert stored["kl"].to_pylist() == [row["kl"] for row in rows] and ("cosine" in stored.column_names) == cosine
        assert tables.as_csv(rows).decode("utf-8-sig").count("\n") == len(rows) + 1


def test_the_headline_is_of_the_lens_and_words_are_offered_by_one_that_writes_them() -> None:
    found = lenses_of(*NAMES)
    heads = {name: app.headline(found.get(name)) for name in NAMES}
    assert "24 features" in heads[SPARSE] and "words and turned read it" in heads[SOFT]
    assert "at most 5 tokens of text" in heads[TEXT]
    assert [view_of(found.get(name)).speaks for name in NAMES] == [False, False, True]
    assert len(found.kinds) == 3 and len(lenses_of(SPARSE).kinds) == 1


def test_a_passage_is_read_slot_by_slot() -> None:
    from desk import Desk, Scans

    found = lenses_of(*NAMES)
    desk = Desk(found, Scans(found), *([None] * 8))  # type: ignore[arg-type]
    choice, rows, strip, near, _ = last(read.reading(desk, Choice(SOFT, WORDS, 2)))
    assert (choice.position, len(rows)) == (2, 3) and "Slot 2" in near and "Slots of the text" in strip
    assert "slot 1, w1 w2, KL" in strip


def test_subjects_are_named_by_place_or_by_name() -> None:
    assert subject_of([]) is None and subject_of(["outputs/x"]) == "outputs/x"
    assert subject_of(["a=x", "b=y=z"]) == {"a": "x", "b": "y=z"} and subject_of(["a=x"]) == {"a": "x"}
    for words in (["x", "y"], ["a=x", "y"], ["=x"], ["a="]):
        with pytest.raises(BadInput, match="NAME=FOLDER"):
            subject_of(words)
    assert set(subjects()) == {"base", "words", "turned"} and folder_of(SPARSE).name == SPARSE
