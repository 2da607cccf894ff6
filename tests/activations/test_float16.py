"""float16 where every value survives it, float32 everywhere as soon as one does not; nothing is lost in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from extracting import (
    RARE,
    corpus_of,
    extract_to,
    extraction_of,
    notes_in,
    random_texts,
    rows_of,
    shards,
    vectors_of,
    written,
)
from tiny import tiny_lm

from consistency_lens.activations.precision import fits_float16
from consistency_lens.activations.storage import PROGRESS
from consistency_lens.errors import BadInput
from consistency_lens.frozen import FrozenLM

TEXTS = random_texts(60, shortest=8, longest=30)
LAST = 59
# The rare word only in the last document, hence only in the last of four chunks of 16.
PLANTED = [*TEXTS[:LAST], " ".join([RARE] * 20)]


def half_lm(dtype: torch.dtype, rare: float | None = None) -> FrozenLM:
    """In half precision; `rare` multiplies the embedding of the rare word."""
    lm = tiny_lm("llama")
    lm.model.to(dtype)
    if rare is not None:
        rare_id = lm.tokenizer(RARE)["input_ids"][-1]
        lm.model.get_input_embeddings().weight.data[rare_id] *= rare
    return lm


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_is_stored_in_half_the_space(tmp_path: Path, dtype: torch.dtype) -> None:
    half = extract_to(tmp_path / "half", TEXTS, half_lm(dtype))
    full = extract_to(tmp_path / "full", TEXTS, half_lm(dtype), storage_dtype="float32")
    assert (half.metadata["dtype"], full.metadata["dtype"]) == ("float16", "float32")
    assert (half.dtype, full.dtype) == (torch.float16, torch.float32)
    for split in full.splits:
        stored, exact = (vectors_of(a.splits[split], "resid_post.1") for a in (half, full))
        assert stored.dtype == np.float16
        np.testing.assert_allclose(stored, exact, rtol=2**-11, atol=2**-24)
        if dtype == torch.float16:
            np.testing.assert_array_equal(stored, exact)


def test_a_float32_model_is_stored_as_float32(tmp_path: Path) -> None:
    found = extract_to(tmp_path / "rows", TEXTS)
    assert found.metadata["dtype"] == "float32"
    assert vectors_of(found.splits["train"], "resid_post.1").dtype == np.float32


@pytest.mark.parametrize("storage_dtype", ["auto", "float16"])
def test_one_value_beyond_float16_in_a_late_chunk_makes_all_rows_float32(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, storage_dtype: str
) -> None:
    lm = half_lm(torch.bfloat16, rare=1e6)
    late = extract_to(tmp_path / "late", PLANTED, lm, storage_dtype=storage_dtype)
    assert "all are stored as float32" in caplog.text
    asked = extract_to(tmp_path / "asked", PLANTED, lm, storage_dtype="float32")
    assert len(shards(tmp_path / "late")) > 4
    assert written(tmp_path / "late") == written(tmp_path / "asked")
    rows = rows_of(late)
    outliers = {doc_id for (doc_id, _), row in rows.items() if np.abs(row["resid_post.1"]).max() > 65504}
    assert outliers == {LAST}
    assert {note.dtype for note in notes_in(tmp_path / "late")} == {"float32"}
    assert all(np.isfinite(row["resid_post.1"]).all() for row in rows_of(asked).values())


def test_without_the_planted_document_the_same_model_stays_float16(tmp_path: Path) -> None:
    found = extract_to(tmp_path / "rows", TEXTS[:LAST], half_lm(torch.bfloat16, rare=1e6))
    assert found.metadata["dtype"] == "float16"


def test_the_kept_columns_survive_the_change_to_float32(tmp_path: Path) -> None:
    corpus = corpus_of(PLANTED, number=list(range(len(PLANTED))))
    rows = rows_of(extract_to(tmp_path / "rows", corpus, half_lm(torch.bfloat16, rare=1e6)))
    assert {doc_id: row["number"] for (doc_id, _), row in rows.items()} == {i: i for i in range(len(PLANTED))}
    assert {row["resid_post.1"].dtype for row in rows.values()} == {np.dtype(np.float32)}


def test_what_is_not_a_number_raises_and_names_document_and_site(tmp_path: Path) -> None:
    extraction = extraction_of(PLANTED, tmp_path / "rows", lm := half_lm(torch.bfloat16, rare=float("nan")))
    extraction.open()
    with pytest.raises(BadInput, match=rf"dtype='bfloat16'.* at resid_post\.1 in document {LAST} is .*Start afresh"):
        extraction.run(lm)
    kept = notes_in(tmp_path / "rows")
    assert [note.index for note in kept] == [0, 1, 2]
    for shard in (shard for note in kept for shard in note.shards):
        shard.verify(tmp_path / "rows")
    assert not list((tmp_path / "rows").rglob("*.part")) and not (tmp_path / "rows" / "extraction.json").exists()


def test_a_float16_model_that_overflows_raises(tmp_path: Path) -> None:
    lm = half_lm(torch.float16, rare=1e6)
    assert not lm.model.get_input_embeddings().weight.isfinite().all()
    extraction = extraction_of(PLANTED, tmp_path / "rows", lm)
    extraction.open()
    with pytest.raises(BadInput, match=f"document {LAST}"):
        extraction.run(lm)


def test_a_run_stopped_while_changing_to_float32_goes_on_to_the_same_end(tmp_path: Path) -> None:
    lm = half_lm(torch.bfloat16, rare=1e6)
    extract_to(tmp_path / "whole", PLANTED, lm)
    # As a kill would leave it: the last chunk is float32, one is still missing, the others are float16.
    half = extract_to(tmp_path / "stopped", TEXTS, lm)
    assert half.metadata["dtype"] == "float16"
    plan = (tmp_path / "whole" / PROGRESS / "plan.json").read_bytes()
    (tmp_path / "stopped" / PROGRESS / "plan.json").write_bytes(plan)
    (tmp_path / "stopped" / "extraction.json").unlink()
    for index in (1, 3):
        notes_in(tmp_path / "stopped")[-1 if index == 3 else 1].file(tmp_path / "stopped").unlink()
    for name in ("train", "validation", "test"):
        for path in (tmp_path / "stopped" / name).glob("data-00003.arrow"):
            path.write_bytes((tmp_path / "whole" / name / path.name).read_bytes())
    last = tmp_path / "whole" / PROGRESS / "00003"
    for suffix in (".safetensors", ".json"):
        (tmp_path / "stopped" / PROGRESS / f"00003{suffix}").write_bytes(last.with_suffix(suffix).read_bytes())
    assert [note.dtype for note in notes_in(tmp_path / "stopped")] == ["float16", "float16", "float32"]
    extract_to(tmp_path / "stopped", PLANTED, lm, resume=True)
    assert written(tmp_path / "stopped") == written(tmp_path / "whole")


@pytest.mark.parametrize(
    ("vectors", "fits"),
    [
        ([[65504.0, 1.0]], True),
        ([[-65504.0, 0.0]], True),
        ([[65505.0, 0.0]], False),
        ([[1.0, 0.0], [7e4, 0.0]], False),
        ([[0.0, 0.0]], True),
        ([[1e-9, 1.0]], True),  # a coordinate that vanishes beside the others
        ([[1e-9, 1e-9]], False),  # a vector that vanishes whole
        ([[1.0, 1.0], [2e-7, 1e-7]], False),
    ],
)
def test_what_fits(vectors: list[list[float]], fits: bool) -> None:
    assert fits_float16(torch.tensor(vectors)) is fits


def test_nothing_always_fits() -> None:
    assert fits_float16(torch.zeros(0, 4))
