"""Starting texts against what each of them is said to be, row by row."""

from __future__ import annotations

import pytest
import torch
from tiny import VOCABULARY, padded_batch, shared_lm

from consistency_lens.errors import BadInput
from consistency_lens.frozen import FrozenLM, Prefix
from consistency_lens.text.configuration import ConsistencyLensConfig
from consistency_lens.text.parts.generation import Words
from consistency_lens.text.starting.warm_start import WARM_STARTS, Doubt, starting_words

LENGTHS = (12, 7, 1, 9)
KINDS = [kind for kind in WARM_STARTS if kind != "none"]
PAD, BOS, EOS = 0, 1, 2


@pytest.fixture
def config(lm: FrozenLM) -> ConsistencyLensConfig:
    return ConsistencyLensConfig.for_subject(lm, "resid_post.1", code_length=6, prompt="w1 w2 <A> w3")


def texts(words: Words) -> list[list[int]]:
    assert words.ids.shape == words.mask.shape
    assert bool((words.mask.diff(dim=1) <= 0).all()), "a gap in a text"
    assert bool((words.ids[words.mask == 0] == PAD).all())
    return [row[:n].tolist() for row, n in zip(words.ids, words.lengths, strict=True)]


def own_tokens(batch: dict[str, torch.Tensor]) -> list[list[int]]:
    return [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]


def said(prefix: Prefix, length: int, ends: tuple[int, ...] = (0, 1, 2, 3)) -> list[list[int]]:
    """The continuation, ended by hand."""
    found = []
    for ids in prefix.continue_greedily(length)[0].tolist():
        stops = [i for i in range(length) if ids[i] in ends]
        found.append(ids[: min(stops, default=length)])
    return found


def test_context_is_the_end_of_what_was_read(lm: FrozenLM, config: ConsistencyLensConfig) -> None:
    batch = padded_batch(LENGTHS)
    words = starting_words("context", lm.prefix(batch), config, lm)
    assert texts(words) == [row[-6:] for row in own_tokens(batch)]
    assert words.ids.shape == (4, 6)
    assert starting_words("context", lm.prefix(batch), config, lm, length=40).ids.shape == (4, 40)


def test_context_leaves_special_tokens_out(lm: FrozenLM, config: ConsistencyLensConfig) -> None:
    batch = padded_batch((8, 8))
    batch["input_ids"][:, [0, 5]] = torch.tensor([BOS, EOS])
    rows = [[i for i in row if i > 3] for row in own_tokens(batch)]
    assert texts(starting_words("context", lm.prefix(batch), config, lm, length=4)) == [row[-4:] for row in rows]
    assert texts(starting_words("context", lm.prefix(batch), config, lm, length=40)) == rows


def test_continuation_is_what_the_subject_says(lm: FrozenLM, config: ConsistencyLensConfig) -> None:
    prefix = lm.prefix(padded_batch(LENGTHS))
    assert texts(starting_words("continuation", prefix, config, lm)) == said(prefix, 6)


@pytest.mark.parametrize("length", [1, 2, 5, 6])
def test_span_is_half_read_and_half_said(lm: FrozenLM, config: ConsistencyLensConfig, length: int) -> None:
    batch = padded_batch(LENGTHS)
    prefix, half = lm.prefix(batch), length // 2
    read = [row[-half:] if half else [] for row in own_tokens(batch)]
    spoken = said(prefix, length - half)
    assert all(spoken)
    assert texts(starting_words("span", prefix, config, lm, length=length)) == [
        a + b for a, b in zip(read, spoken, strict=True)
    ]


@pytest.mark.parametrize("length", [1, 2, 6])
def test_onward_is_one_token_read_and_the_rest_said(lm: FrozenLM, config: ConsistencyLensConfig, length: int) -> None:
    batch = padded_batch(LENGTHS)
    prefix = lm.prefix(batch)
    spoken = said(prefix, length - 1) if length > 1 else [[] for _ in LENGTHS]
    assert texts(starting_words("onward", prefix, config, lm, length=length)) == [
        [row[-1], *more] for row, more in zip(own_tokens(batch), spoken, strict=True)
    ]


def test_the_subject_stops_before_it_guesses(lm: FrozenLM, config: ConsistencyLensConfig) -> None:
    prefix = lm.prefix(padded_batch(LENGTHS))
    ids, probability = prefix.continue_greedily(6)
    limit = float(probability.median())
    expected = [
        [int(i) for i in row[: int((chance < limit).long().argmax()) if bool((chance < limit).any()) else 6]]
        for row, chance in zip(ids, probability, strict=True)
    ]
    assert len({len(row) for row in expected}) > 1
    found = texts(starting_words("continuation", prefix, config, lm, doubt=Doubt(limit)))
    assert [row for row, other in zip(found, expected, strict=True) if other] == [row for row in expected if row]
    assert all(found), "no text is empty"
    vague = texts(starting_words("continuation", prefix, config, lm, doubt=Doubt(limit, 9)))
    for row, said, chance in zip(vague, ids.tolist(), probability.tolist(), strict=True):
        told = [token if p >= limit else 9 for token, p in zip(said, chance, strict=True)]
        told = told[: next((i for i in range(5) if told[i : i + 2] == [9, 9]), 6)]  # two in a row end it
        while told and told[-1] == 9:
            told.pop()
        assert row == told or not told
    assert texts(starting_words("onward", prefix, config, lm, doubt=Doubt(1.0))) == [
        [int(i)] for i in prefix.input_ids[:, -1]
    ]


def test_summary_is_said_behind_the_prompt(lm: FrozenLM, config: ConsistencyLensConfig) -> None:
    batch = padded_batch(LENGTHS)
    prefix = lm.prefix(batch)
    asked = torch.tensor([[4 + 7, 4 + 5]]).expand(4, -1)
    longer = {
        "input_ids": torch.cat([batch["input_ids"], asked], 1),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 2), value=1),
    }
    words = starting_words("summary", prefix, config, lm, summary_prompt="w7 w5")
    assert texts(words) == said(lm.prefix(longer), 6) != said(prefix, 6)
    # By default the decoder's own prompt, with a word of the tokenizer's where the activation would enter.
    named = ConsistencyLensConfig.for_subject(lm, "resid_post.1", code_length=6, prompt="w7 <A>")
    default = texts(starting_words("summary", prefix, named, lm))
    assert default == texts(starting_words("summary", prefix, config, lm, summary_prompt="w7 this"))


def test_what_is_said_ends_where_the_subject_stops(lm: FrozenLM, config: ConsistencyLensConfig) -> None:
    """With the third token of a row as a special one, or as the one that ends a text."""
    prefix = lm.prefix(padded_batch(LENGTHS))
    third = int(prefix.continue_greedily(6)[0][0, 2])
    settings = config.to_dict()
    for change in ({"stop_id": third}, {"never_ids": [*settings["never_ids"], third]}):
        ended = ConsistencyLensConfig.from_dict(settings | change)
        found = texts(starting_words("continuation", prefix, ended, lm))
        ends = (ended.stop_id, *(ended.never_ids or []))
        expected = said(prefix, 6, ends=ends)
        assert len(expected[0]) <= 2
        assert [row for row in found if len(row) > 1] == [row for row in expected if len(row) > 1]
        assert all(third not in row for row in found)


def test_no_text_is_empty(lm: FrozenLM, config: ConsistencyLensConfig) -> None:
    """With nothing to say, a text is the last token of the context; where that is special, the likeliest other."""
    batch = padded_batch(LENGTHS)
    batch["input_ids"][2, -1] = EOS  # the row of one token: nothing of it may be said
    prefix = lm.prefix(batch)
    said_first = set(prefix.continue_greedily(1)[0][:, 0].tolist())
    settings = config.to_dict()
    never = sorted({*settings["never_ids"], *said_first})
    silent = ConsistencyLensConfig.from_dict(settings | {"never_ids": never})
    logits = prefix.logits()[:, 0].clone()
    logits[:, [*never, EOS]] = -torch.inf
    likeliest = logits.argmax(-1).tolist()
    last = [row[-1] for row in own_tokens(batch)]
    expected = [[likeliest[i] if i == 2 or last[i] in never else last[i]] for i in range(4)]
    assert texts(starting_words("continuation", prefix, silent, lm)) == expected
    assert texts(starting_words("context", prefix, silent, lm))[2] == expected[2]
    assert texts(starting_words("span", prefix, silent, lm))[2] == expected[2]


@pytest.mark.parametrize("case", ["gpt2", "gemma3-window", "qwen3-window"])
@pytest.mark.parametrize("kind", KINDS)
def test_texts_hold_nothing_special(case: str, kind: str) -> None:
    frozen = shared_lm(case)
    config = ConsistencyLensConfig.for_subject(frozen, "resid_post.1", code_length=5, prompt="w1 <A>")
    batch = padded_batch((12, 7, 1, 9, 1))
    batch["input_ids"][::2, -1] = torch.tensor([EOS, BOS, PAD])
    words = starting_words(kind, frozen.prefix(batch), config, frozen)
    assert all(row and all(3 < i < VOCABULARY for i in row) for row in texts(words))


def test_the_prefix_stays_as_it_is(lm: FrozenLM, config: ConsistencyLensConfig) -> None:
    prefix = lm.prefix(padded_batch(LENGTHS))
    before = prefix.logits()
    for kind in KINDS:
        starting_words(kind, prefix, config, lm)
    assert torch.equal(prefix.logits(), before)


# What cannot work.


@pytest.mark.parametrize("kind", ["none", "poem"])
def test_a_kind_without_texts_is_refused(lm: FrozenLM, config: ConsistencyLensConfig, kind: str) -> None:
    with pytest.raises(BadInput, match="Use one of context, continuation, onward, span, summary") as caught:
        starting_words(kind, lm.prefix(padded_batch()), config, lm)
    assert (caught.value.field, caught.value.value) == ("warm_start", kind)


def test_a_text_of_no_tokens_is_refused(lm: FrozenLM, config: ConsistencyLensConfig) -> None:
    with pytest.raises(BadInput, match="length=0"):
        starting_words("context", lm.prefix(padded_batch()), config, lm, length=0)


def test_an_empty_summary_prompt_is_refused(lm: FrozenLM, config: ConsistencyLensConfig) -> None:
    with pytest.raises(BadInput, match="at least one word"):
        starting_words("summary", lm.prefix(padded_batch()), config, lm, summary_prompt=" ")
