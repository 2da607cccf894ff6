"""Ids of an example are those of its parts: for any text, any tokenizer, one BOS at most, and EOS where it ends."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from passage_models import byte_tokenizer, passage_models, piece_tokenizer
from tiny import tiny_tokenizer
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from consistency_lens.activations.passages import PassageTokenizer, PromptFormat
from consistency_lens.errors import BadInput

MODELS = PassageTokenizer.of(passage_models())
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=24)
BOUNDED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def row_of(passage: str = "w1 w2 w3", prompt: str = "w4", answer: str = "w5", **other: Any) -> dict[str, Any]:
    return {"passage": passage, "prompt": prompt, "answers": [answer], "task": "answer", "ends": True} | other


@BOUNDED
@given(st.lists(ANY_TEXT, min_size=1, max_size=3))
@example(["the", " answer", "\n"])
@example(["a ", " b", "  "])
@example(["é", "\u0301漢", "👩‍👩‍👧"])
@pytest.mark.parametrize("name", ["bytes", "pieces"])
def test_parts_together_say_the_whole_text(name: str, parts: list[str]) -> None:
    model = MODELS[name]
    # A start of its own, so that what a tokenizer takes away at the beginning of a text is none of the parts.
    ids = model.encode("ab")
    for part in parts:
        ids = ids + model.encode_after(part)
    assert model.tokenizer.decode(ids) == "ab" + "".join(parts)


@BOUNDED
@given(ANY_TEXT, ANY_TEXT.filter(str.strip), st.sampled_from(["answer", "cloze", "recall"]))
@pytest.mark.parametrize("name", ["bytes", "pieces"])
def test_prompt_and_answer_say_what_a_reader_sees(name: str, prompt: str, answer: str, task: str) -> None:
    prompts, model = PromptFormat(), MODELS[name]
    ids = prompts.ids(row_of("ab", prompt, answer, task=task), model)
    together = ids["passage_ids"] + ids["prompt_ids"] + ids["answer_ids"][:-1]
    expected = "ab" + prompts.opening.get(task, "") + prompt + prompts.anchor.get(task, "") + answer
    assert model.tokenizer.decode(together) == expected
    assert ids["answer_ids"][-1] == model.eos_id


@pytest.mark.parametrize("name", MODELS)
def test_prompt_and_answer_are_the_same_with_any_passage(name: str) -> None:
    one, other = (PromptFormat().ids(row_of(passage), MODELS[name]) for passage in ("w1", "w2 w3 \n"))
    assert one["passage_ids"] != other["passage_ids"]
    assert (one["prompt_ids"], one["answer_ids"]) == (other["prompt_ids"], other["answer_ids"])


def test_a_space_before_the_answer_belongs_to_the_answer() -> None:
    model = MODELS["bytes"]
    ids = PromptFormat().ids(row_of(prompt="what?", answer="the"), model)
    whole = model.encode("\nQuestion: what?\nAnswer: the")
    assert ids["prompt_ids"] + ids["answer_ids"] == [*whole, model.eos_id]
    assert model.tokenizer.decode(ids["answer_ids"][:-1]) == " the"


def test_the_bos_is_what_the_tokenizer_does_unless_asked_otherwise() -> None:
    assert {name: len(model.bos_ids) for name, model in MODELS.items()} == {"words": 1, "bytes": 0, "pieces": 1}
    without = tiny_tokenizer()
    without.backend_tokenizer.post_processor = byte_tokenizer().backend_tokenizer.post_processor
    assert PassageTokenizer("x", without).bos_ids == []
    assert PassageTokenizer("x", without, bos="always").bos_ids == [1]
    assert PassageTokenizer("x", tiny_tokenizer(), bos="never").bos_ids == []


@pytest.mark.parametrize("text", ["<bos> w1", "<bos> <bos> w1", "w1"])
def test_there_are_never_two_bos(text: str) -> None:
    assert MODELS["words"].encode(text) == [5]


@pytest.mark.parametrize("text", ["<s>", "</s>", "<s>a</s>"])
def test_names_of_special_tokens_in_data_are_plain_text(text: str) -> None:
    model = MODELS["pieces"]
    assert not {1, 2} & set(model.encode(text) + model.encode_after(text))
    assert model.tokenizer.decode(model.encode("ab") + model.encode_after(text)) == "ab" + text
    assert set(model.encode(text, special=True)) & {1, 2}, "the text of a configuration may hold them"


def test_special_tokens_of_an_anchor_are_read_as_such() -> None:
    prompts = PromptFormat(opening={"answer": "</s>"}, anchor={})
    ids = prompts.ids(row_of(prompt="</s>"), MODELS["pieces"])["prompt_ids"]
    assert ids[0] == 2 and 2 not in ids[1:]


def test_an_answer_ends_with_eos_only_where_it_is_complete() -> None:
    model = MODELS["words"]
    assert PromptFormat().ids(row_of(), model)["answer_ids"] == [9, 2]
    assert PromptFormat().ids(row_of(ends=False), model)["answer_ids"] == [9]
    cut = PromptFormat(max_answer_tokens=2)
    assert cut.ids(row_of(answer="w5 w6 w7"), model)["answer_ids"] == [9, 10]


def test_something_stands_before_every_answer() -> None:
    row = row_of(prompt="", task="continuation")
    assert PromptFormat().ids(row, MODELS["words"])["prompt_ids"] == [], "the BOS predicts the first token"
    with pytest.raises(BadInput, match=r"prompt='': bytes has no BOS.* first token\. Give continuation an opening"):
        PromptFormat().ids(row, MODELS["bytes"])


def test_a_space_that_a_byte_level_tokenizer_adds_is_for_beginnings_alone() -> None:
    backend = Tokenizer.from_str(byte_tokenizer().backend_tokenizer.to_str())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    model = PassageTokenizer("x", PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>"))
    for text in ("the", ", the", " the", "9", "\n\nthe"):
        assert model.tokenizer.decode(model.encode("ab") + model.encode_after(text)) == " ab" + text


@pytest.mark.parametrize("part", ["passage", "answer"])
def test_a_part_that_makes_no_token_is_refused(part: str) -> None:
    lossy = tiny_tokenizer()
    lossy.backend_tokenizer.normalizer = normalizers.Replace("~", " ")
    with pytest.raises(BadInput, match=rf"{part}_ids='.*the tokenizer of x makes no token of it"):
        PromptFormat().ids(row_of(**{part: "~"}), PassageTokenizer("x", lossy))


@pytest.mark.parametrize("tokenizer", [tiny_tokenizer, piece_tokenizer])
def test_tokenizers_without_an_end_are_refused(tokenizer: Any) -> None:
    backend = tokenizer().backend_tokenizer
    with pytest.raises(BadInput, match=r"tokenizer='m': it has no EOS token\. Set the tokenizer's eos_token"):
        PassageTokenizer("x", PreTrainedTokenizerFast(tokenizer_object=backend), model_id="m")


def test_a_bos_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BadInput, match=r"bos='always': the tokenizer of tiny-bytes has no BOS token"):
        PassageTokenizer.of(passage_models(), bos="always")
    with pytest.raises(BadInput, match=r"bos='sometimes'\. Use one of auto, always, never"):
        PassageTokenizer.of(passage_models(), bos="sometimes")
    with pytest.raises(BadInput, match="Name at least one model"):
        PassageTokenizer.of({})


def test_texts_for_unknown_tasks_are_refused() -> None:
    with pytest.raises(BadInput, match=r"anchor='anwser': no such task\. Give a text for answer"):
        PromptFormat(anchor={"anwser": "x"})
    with pytest.raises(BadInput, match=r"max_answer_tokens=0\. Use 1 or more"):
        PromptFormat(max_answer_tokens=0)


def test_each_model_learns_the_accepted_answer_that_is_its_own() -> None:
    row = row_of() | {"answers": ["w5 w6", "w6 w5"]}
    prompts = PromptFormat(answer_choice={"bytes": 1, "words": 7})
    said = {name: model.tokenizer.decode(prompts.ids(row, model)["answer_ids"][:-1]) for name, model in MODELS.items()}
    assert {name: text.strip() for name, text in said.items()} == {
        "words": "w6 w5",
        "bytes": "w6 w5",
        "pieces": "w5 w6",
    }
    assert prompts.ids(row_of(), MODELS["words"]) == PromptFormat().ids(row_of(), MODELS["words"])
    assert PromptFormat(**prompts.to_dict()) == prompts
    with pytest.raises(BadInput, match="answer_choice"):
        PromptFormat(answer_choice={"bytes": -1})
