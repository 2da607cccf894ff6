"""A whole run that cannot work is refused before the first pass: there are no weights that could make one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from datasets import Dataset
from extracting import extraction_of, model_without_weights, random_texts, write_jsonl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import shared_lm
from whole_runs import PROMPT, ROWS

from consistency_lens import BadInput, cli
from consistency_lens.activations import Corpus, CorpusArguments
from consistency_lens.activations.contexts.rows import Prepared
from consistency_lens.text.planning.foreseen import too_long

REST = [word for word in ROWS if word not in ("--sites", "resid_post.1")]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("texts") / "texts.jsonl", random_texts(60, shortest=8, longest=24))


@pytest.fixture(scope="module")
def long_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("texts") / "texts.jsonl", random_texts(60, shortest=150, longest=200))


def refusal(
    place: Path, texts: Path, capsys: pytest.CaptureFixture[str], *more: str, model: Path | None = None
) -> str:
    """What a whole run in this folder says; it has stored nothing."""
    where = ["--model_name_or_path", str(model or model_without_weights()), "--train_file", str(texts)]
    folders = ["--output_dir", str(place / "run"), "--activations_dir", str(place / "rows")]
    given = ["--use_cpu", "--prompt", PROMPT, "--code_length", "3", "--kl_horizon", "2", *REST]
    if "--sites" not in more:
        given += ["--sites", "resid_post.1"]
    assert cli.main([*where, *folders, *given, *more]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and not list(place.rglob("*.arrow")) and not (place / "rows").exists()
    return said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--sites", "embed"], "site='embed': embeddings are single tokens. Name a site of a layer"),
        (["--site", "resid_post.2"], "site='resid_post.2'. Use one of resid_post.1, or extract this site too"),
        (["--warm_vague", "w1 w2"], "warm_vague='w1 w2': it is 2 tokens or a special one"),
        (["--warm_vague", "<eos>"], "warm_vague='<eos>': it is 1 tokens or a special one"),
        (["--quantization", "4bit"], "trainable='full': the frozen model is quantised: 4bit. Use trainable=lora"),
        (["--quantization", "8bit", "--trainable", "lora", "--encoder_trainable", "full"], "quantised: 8bit"),
        (["--code_length", "126"], "code_length=126: the model takes 128 tokens, and the prompt has 4"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_lens_that_cannot_be_made(
    tmp_path: Path, texts: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert said in refusal(tmp_path, texts, capsys, *more)


def test_a_tokenizer_without_an_end(tmp_path: Path, texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = shutil.copytree(model_without_weights(), tmp_path / "model")
    file = model / "tokenizer_config.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"eos_token": None, "pad_token": None}))
    assert "Give the tokenizer a token that ends a text (eos_token)" in refusal(tmp_path, texts, capsys, model=model)


def test_a_residual_injection_into_one_layer(tmp_path: Path, texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = shutil.copytree(model_without_weights(), tmp_path / "model")
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 1}))
    more = ["--sites", "resid_post.0", "--injection", "residual"]
    assert "injection='residual': it adds" in refusal(tmp_path, texts, capsys, *more, model=model)


def test_contexts_that_leave_no_room_for_a_text(
    tmp_path: Path, long_texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(tmp_path, long_texts, capsys)
    assert "max_length=128: the model takes 128 tokens, a context has 1" in said and "--max_length 124 or less" in said


def test_contexts_behind_which_the_model_cannot_go_on(
    tmp_path: Path, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(tmp_path, texts, capsys, "--warm_start", "evidence", "--warm_foresight", "120")
    assert "warm_foresight=120: a context has" in said and "the model takes 128. Use at most" in said


def test_a_long_text_behind_many_short_ones_is_found_before_the_first_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [*random_texts(700, shortest=8, longest=24), *random_texts(20, seed=1, shortest=150, longest=200)]
    said = refusal(tmp_path, write_jsonl(tmp_path / "texts.jsonl", texts), capsys)
    assert "max_length=128: the model takes 128 tokens, a context has 1" in said and "--max_length 124 or less" in said


def test_a_long_text_of_a_stream_is_found_before_it_is_read(tmp_path: Path) -> None:
    """A stream cannot be read twice: there, before the pass of its own chunk."""
    texts = [*random_texts(300, shortest=8, longest=24), " ".join(["w1"] * 100)]
    source = Dataset.from_dict({"text": texts}).to_iterable_dataset()
    extraction = extraction_of(Corpus(source, CorpusArguments(), "words"), tmp_path / "rows", documents_per_shard=100)
    extraction.require_each(partial(_require_short, 30))
    extraction.open()
    with pytest.raises(BadInput, match="document 300"):
        extraction.run(shared_lm("llama"))


def _require_short(most: int, prepared: Sequence[Prepared]) -> None:
    for each in prepared:
        if each.length > most:
            raise BadInput("max_length", most, "Cut it.", why=f"document {each.doc_id}")


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 400), st.integers(3, 300), st.integers(0, 40))
def test_a_length_that_is_proposed_is_one_that_works(room: int, asked: int, first: int) -> None:
    said = str(too_long(512, room, asked, room, first))
    proposed = said.partition("--max_length ")[2].partition(" ")[0]
    if proposed:
        assert int(proposed) >= first + 2 and int(proposed) - 1 + asked <= room
    else:
        assert "Use a shorter prompt or code_length" in said
