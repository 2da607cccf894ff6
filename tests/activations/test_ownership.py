"""Who may write to a folder, and when what is there goes."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from extracting import extract_to, extraction_of, notes_in, random_texts, written
from safetensors.numpy import load_file, save_file
from tiny import shared_lm, tiny_lm

from consistency_lens.activations import Activations, CorruptShard
from consistency_lens.activations.statistics import SiteStatistics
from consistency_lens.errors import BadInput

TEXTS, OTHERS = random_texts(60), random_texts(60, seed=7)


def test_a_second_run_is_kept_out_and_let_in_afterwards(tmp_path: Path) -> None:
    lm, folder = shared_lm("llama"), tmp_path / "rows"
    first, second = extraction_of(TEXTS, folder), extraction_of(OTHERS, folder, overwrite=True)
    first.open()
    with pytest.raises(BadInput, match="another run is writing there"):
        second.open()
    first.run(lm)
    assert written(folder) == written(extract_to(tmp_path / "alone", TEXTS) and tmp_path / "alone")
    second.run(lm)
    assert written(folder) == written(extract_to(tmp_path / "other", OTHERS) and tmp_path / "other")


def test_a_run_that_fails_lets_the_next_one_in(tmp_path: Path) -> None:
    broken = tiny_lm("llama")
    broken.model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(BadInput, match="not a number"):
        extraction_of(TEXTS, tmp_path / "rows").run(broken)
    extract_to(tmp_path / "rows", TEXTS, overwrite=True)


def test_overwriting_waits_until_the_work_can_start(tmp_path: Path) -> None:
    extract_to(tmp_path / "rows", TEXTS)
    before = written(tmp_path / "rows")
    again = extraction_of(OTHERS, tmp_path / "rows", overwrite=True)
    again.open()  # here the weights would be loaded, and might not fit
    assert written(tmp_path / "rows") == before
    Activations.load(tmp_path / "rows")
    again.run(shared_lm("llama"))
    assert written(tmp_path / "rows") != before


def test_what_a_training_kept_beside_rows_goes_with_them(tmp_path: Path) -> None:
    extract_to(tmp_path / "rows", TEXTS)
    kept = [tmp_path / "rows/train" / name for name in ("starting-texts-1.safetensors", ".starting-texts-1.2.part")]
    for file in kept:
        file.touch()
    extract_to(tmp_path / "rows", OTHERS, overwrite=True)
    assert not any(file.exists() for file in kept)


def test_run_opens_the_folder_itself(tmp_path: Path) -> None:
    extraction_of(TEXTS, tmp_path / "rows").run(shared_lm("llama"))
    assert len(Activations.load(tmp_path / "rows").splits["train"]) > 0


@pytest.mark.parametrize("resume", [False, True])
def test_a_copy_without_notes_is_never_touched(tmp_path: Path, resume: bool) -> None:
    extract_to(tmp_path / "rows", TEXTS)
    shutil.rmtree(tmp_path / "rows" / ".progress")
    before = written(tmp_path / "rows")
    with pytest.raises(BadInput, match=r"resume=|output_dir="):
        extraction_of(OTHERS, tmp_path / "rows", resume=resume).run(shared_lm("llama"))
    assert written(tmp_path / "rows") == before


def test_an_empty_folder_stays_usable_after_a_failed_start(tmp_path: Path) -> None:
    extraction_of(TEXTS, tmp_path / "rows").open()  # and then the weights are not there
    extract_to(tmp_path / "rows", TEXTS)


@pytest.mark.parametrize("damage", ["changed", "truncated", "missing", "note"])
def test_damaged_notes_are_found_and_their_chunk_is_made_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    extract_to(tmp_path / "rows", TEXTS)
    before = written(tmp_path / "rows")
    note = notes_in(tmp_path / "rows")[1].file(tmp_path / "rows")
    arrays = note.with_suffix(".safetensors")
    match damage:
        case "changed":
            held = load_file(arrays)
            save_file({name: value + 3 if name.endswith("mean") else value for name, value in held.items()}, arrays)
        case "truncated":
            arrays.write_bytes(arrays.read_bytes()[:-20])
        case "missing":
            arrays.unlink()
        case _:
            note.write_text(note.read_text()[:-40])
    extract_to(tmp_path / "rows", TEXTS, resume=True)
    assert note.stem in caplog.text and "made again" in caplog.text
    assert written(tmp_path / "rows") == before


def test_a_note_that_vanishes_during_the_run_is_no_complete_folder(tmp_path: Path) -> None:
    extraction = extraction_of(TEXTS, tmp_path / "rows")
    extract_to(tmp_path / "rows", TEXTS)
    notes_in(tmp_path / "rows")[1].file(tmp_path / "rows").unlink()
    with pytest.raises(CorruptShard, match=r"chunks \[1\]"):
        extraction._all_notes()


def test_notes_stay_small(tmp_path: Path) -> None:
    """What a chunk is remembered by grows with the hidden size and the documents, not with the bins of a histogram."""
    extract_to(tmp_path / "rows", TEXTS)
    note = notes_in(tmp_path / "rows")[0]
    documents = sum(note.documents.values())
    assert sum(array.nbytes for array in note.arrays(tmp_path / "rows").values()) < 16 * 32 + 100 * documents + 200


def test_statistics_survive_the_way_through_arrays() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 4))
    statistics = SiteStatistics.of(vectors)
    back = SiteStatistics.from_arrays(statistics.to_arrays("embed"), "embed")
    assert back.norm_quantiles() == statistics.norm_quantiles()
    np.testing.assert_array_equal(back.variance, statistics.variance)


def test_the_model_has_to_be_the_one_that_was_prepared_for(tmp_path: Path) -> None:
    other = tiny_lm("llama", hidden_size=64, head_dim=16)
    with pytest.raises(BadInput, match="config='hidden size 32'"):
        extraction_of(TEXTS, tmp_path / "rows").run(other)
    tokenizer = copy.deepcopy(other.tokenizer)
    tokenizer.add_tokens(["new"])
    lm = tiny_lm("llama")
    lm.tokenizer = tokenizer
    with pytest.raises(BadInput, match="tokenizer="):
        extraction_of(TEXTS, tmp_path / "rows").run(lm)


def test_a_tokenizer_beyond_the_vocabulary_is_refused_before_the_weights(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"tokenizer=.*gives token \d+"):
        extraction_of(TEXTS, tmp_path / "rows", lm=tiny_lm("llama", vocab_size=20))


def test_a_float16_stream_never_overflows(tmp_path: Path) -> None:
    lm = tiny_lm("llama")
    lm.model.get_input_embeddings().weight.mul_(1e6)
    stream = extraction_of(TEXTS, lm=lm, sites=["embed"]).stream(lm, dtype="float16")
    with pytest.raises(BadInput, match="dtype='float16': an activation does not fit"):
        list(stream)
    with pytest.raises(BadInput, match="dtype='bfloat16'"):
        extraction_of(TEXTS).stream(shared_lm("llama"), dtype="bfloat16")


def test_a_stream_of_what_is_not_a_number_raises() -> None:
    lm = tiny_lm("llama")
    lm.model.get_input_embeddings().weight[5:] = torch.nan
    with pytest.raises(BadInput, match="not a number"):
        list(extraction_of(TEXTS, lm=lm).stream(lm))


def test_streams_can_be_copied_and_mixed_but_not_sent_to_a_worker() -> None:
    from datasets import interleave_datasets

    stream = extraction_of(TEXTS).stream(shared_lm("llama"))
    assert list(copy.deepcopy(stream)) == list(stream)
    mixed = list(interleave_datasets([stream, stream]))  # read by two threads, until one has no more
    assert mixed[::2] == list(stream) and mixed[1::2] == list(stream)[:-1]
    with pytest.raises(BadInput, match="num_workers"):
        pickle.loads(pickle.dumps(stream))


def test_a_folder_says_what_it_holds(tmp_path: Path) -> None:
    extract_to(tmp_path / "rows", TEXTS)
    folder = extraction_of(TEXTS, tmp_path / "rows", resume=True).folder
    metadata = json.loads((tmp_path / "rows" / "extraction.json").read_text())
    assert folder.complete and folder.stored_bytes == sum(shard["bytes"] for shard in metadata["shards"])
