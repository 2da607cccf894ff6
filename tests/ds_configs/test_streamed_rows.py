"""Two real processes read the rows that they train on: with the frozen model whole, and spread over them."""

from __future__ import annotations

from pathlib import Path

import pytest
from extracting import extract_to, random_texts, saved_model, write_jsonl
from launching import PROCESSES, STEPS, engine_words, launch, logged, same, witness, words_for

from consistency_lens.activations import Corpus, CorpusArguments
from consistency_lens.frozen import FrozenLM

pytestmark = pytest.mark.distributed
pytest.importorskip("deepspeed")


@pytest.mark.parametrize("engine", ["ddp", "zero3"])
def test_losses_are_those_of_one_process(engine: str, tmp_path: Path) -> None:
    texts = write_jsonl(tmp_path / "texts.jsonl", random_texts(90, shortest=8, longest=20))
    few = Corpus.load(CorpusArguments(train_file=[str(texts)], max_documents=40))
    extract_to(tmp_path / "rows", few, FrozenLM.from_pretrained(saved_model()), continuation_length=4)
    given = ["--train_file", str(texts), "--stream_activations", "--stream_buffer", "30", "--tail_baseline", "false"]
    twice = ["--gradient_accumulation_steps", str(PROCESSES)]
    launch("alone", [words_for(tmp_path / "rows", tmp_path / "alone", *given, *twice)], tmp_path / "launch-alone")
    words = words_for(tmp_path / "rows", tmp_path / engine, *given, *engine_words(engine))
    launch(engine, [words], tmp_path / f"launch-{engine}")
    terms = ["loss", "loss/start", "loss/mse", "loss/kl", "eval_fve"]
    expected, found = (logged(tmp_path / name, *terms) for name in ("alone", engine))
    assert (
        len(found["loss"]) == STEPS and [process["engine"] for process in witness(tmp_path / engine)] == [engine] * 2
    )
    same(found, expected)
