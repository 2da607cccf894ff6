"""Each control against what it claims, and the fast formulas against whole passes written out."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
from tiny import VOCABULARY, padded_batch, shared_lm, tiny_lm
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from consistency_lens.frozen import FrozenLM, Prefix
from consistency_lens.text import controls
from consistency_lens.text.configuration import ConsistencyLensConfig
from consistency_lens.text.parts.decoder_encoder import LensEncoder
from consistency_lens.text.parts.generation import Noise, Words
from consistency_lens.text.readability import nll_with_gradient
from consistency_lens.text.starting.warm_start import starting_words

LENGTHS = (12, 7, 3, 9, 5, 8)
ROWS, LENGTH, PAD = len(LENGTHS), 6, 0
PROMPT = [1, 5, 6, 7]  # <bos> w1 w2 w3


@pytest.fixture
def config(lm: FrozenLM) -> ConsistencyLensConfig:
    return ConsistencyLensConfig.for_subject(lm, "resid_post.1", code_length=LENGTH, prompt="w1 w2 <A> w3")


@pytest.fixture
def batch() -> dict[str, Any]:
    return padded_batch(LENGTHS) | {"doc_id": torch.arange(ROWS), "pair": torch.arange(ROWS).roll(1)}


@pytest.fixture
def code() -> Words:
    return words([10, 11, 12, 13, 14, 15], [20, 21, 22], [30], [], [40, 41, 40, 41, 40, 41], [50, 51])


def words(*rows: list[int], length: int = LENGTH) -> Words:
    ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
    return Words(ids, torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows]))


def texts(found: Words) -> list[list[int]]:
    assert bool((found.mask.diff(dim=1) <= 0).all()), "a gap in a text"
    assert bool((found.ids[found.mask == 0] == PAD).all())
    return [row[:n].tolist() for row, n in zip(found.ids, found.lengths, strict=True)]


def log_likelihood(lm: FrozenLM, context: list[int], text: list[int]) -> float:
    """Of a text behind a context, by one whole pass without padding or cache."""
    scores = lm.logits({"input_ids": torch.tensor([context + text])})[0].log_softmax(-1)
    return sum(float(scores[len(context) + i - 1, token]) for i, token in enumerate(text))


def contexts(batch: dict[str, Any]) -> list[list[int]]:
    return [ids[m.bool()].tolist() for ids, m in zip(batch["input_ids"], batch["attention_mask"], strict=True)]


# Rivals.


def test_rivals_are_what_their_names_say(lm: FrozenLM, config: ConsistencyLensConfig, batch: dict[str, Any]) -> None:
    prefix = lm.prefix(batch)
    found = controls.rivals(config, batch, prefix, lm, seed=0)
    assert set(found) == {"empty_text", "random_text", "other_text", "own_continuation", "context_tail"}
    assert all(text.ids.shape == text.mask.shape == (ROWS, LENGTH) for text in found.values())
    assert texts(found["empty_text"]) == [[]] * ROWS
    tails = [row[-LENGTH:] for row in contexts(batch)]
    assert texts(found["context_tail"]) == tails
    assert texts(found["other_text"]) == [tails[i] for i in batch["pair"].tolist()]
    onward = starting_words("onward", prefix, config, lm)
    assert texts(found["own_continuation"]) == texts(onward), "P's token comes first: the encoder always reads it"


def test_random_text_is_drawn_evenly_from_what_a_text_may_hold(config: ConsistencyLensConfig, lm: FrozenLM) -> None:
    batch = padded_batch((2,) * 2000) | {"pair": torch.arange(2000)}
    prefix = lm.prefix(batch)
    drawn = controls.rivals(config, batch, prefix, lm, seed=3)["random_text"]
    counts = Counter(drawn.ids.flatten().tolist())
    assert set(counts) == set(range(VOCABULARY)) - {0, 1, 2, 3} and bool(drawn.mask.all())
    expected = 2000 * LENGTH / (VOCABULARY - 4)
    assert max(counts.values()) < 1.5 * expected and min(counts.values()) > 0.5 * expected
    again, other = (controls.rivals(config, batch, prefix, lm, seed=seed)["random_text"] for seed in (3, 4))
    assert torch.equal(again.ids, drawn.ids) and not torch.equal(other.ids, drawn.ids)


@pytest.mark.parametrize("case", ["gpt2", "gemma2", "qwen3-window"])
def test_an_encoder_reads_its_start_token_where_the_text_is_empty(case: str) -> None:
    frozen = tiny_lm(case)
    config = ConsistencyLensConfig.for_subject(frozen, "resid_post.1", trainable="projections")
    batch = padded_batch((5, 3)) | {"pair": torch.tensor([1, 0])}
    empty = controls.rivals(config, batch, frozen.prefix(batch), frozen, seed=0)["empty_text"]
    with torch.no_grad():
        heard = LensEncoder(config, frozen.model)(empty)
    alone = frozen.read({"input_ids": torch.tensor([[config.start_id]])}, "resid_post.1")["resid_post.1"]
    torch.testing.assert_close(heard, alone[:, 0].expand(2, -1), rtol=1e-4, atol=1e-4)


# Tampering.


def test_a_shuffle_keeps_each_texts_own_tokens(code: Words) -> None:
    orders = set()
    for seed in range(40):
        found = controls.shuffled(code, seed)
        assert torch.equal(found.mask, code.mask)
        assert [sorted(row) for row in texts(found)] == [sorted(row) for row in texts(code)]
        orders.add(tuple(texts(found)[1]))
    assert len(orders) == 6, "three tokens have six orders"
    assert torch.equal(controls.shuffled(code, 5).ids, controls.shuffled(code, 5).ids)


@pytest.mark.parametrize(("length", "sizes"), [(1, []), (2, [1]), (6, [1, 2, 4]), (8, [1, 2, 4]), (9, [1, 2, 4, 8])])
def test_truncation_keeps_the_first_tokens(
    lm: FrozenLM, config: ConsistencyLensConfig, length: int, sizes: list[int]
) -> None:
    rows = [list(range(10, 10 + length)), [20], []]
    found = controls.tampered(config, words(*rows, length=length), lm, seed=0)
    cut = {name: texts(text) for name, text in found.items() if name.startswith("truncation")}
    assert cut == {f"truncation_{size}": [row[:size] for row in rows] for size in sizes}
    assert set(found) - set(cut) == {"token_shuffle", "paraphrase"}


def paraphrased_slowly(lm: FrozenLM, config: ConsistencyLensConfig, text: list[int]) -> list[int]:
    """One text, whole passes, three tokens in a row barred by hand."""
    before, after = (
        lm.tokenizer(part, add_special_tokens=False)["input_ids"] for part in controls.REWORDING.split("{}")
    )
    said: list[int] = []
    for _ in range(config.code_length):
        logits = lm.logits({"input_ids": torch.tensor([[1, *before, *text, *after, *said]])}, keep=1)[0, 0]
        for i in range(len(text) - 2):
            if said[-2:] == text[i : i + 2]:
                logits[text[i + 2]] = -torch.inf
        said.append(int(logits.argmax()))
    ends = [i for i, token in enumerate(said) if token < 4]
    return said[: min(ends, default=len(said))]


@pytest.mark.parametrize("case", ["llama", "gpt2", "gemma3-window"])
def test_a_paraphrase_is_what_the_subject_says_after_the_examples(case: str, code: Words) -> None:
    frozen = shared_lm(case)
    config = ConsistencyLensConfig.for_subject(frozen, "resid_post.1", code_length=LENGTH, prompt="w1 <A>")
    expected = [paraphrased_slowly(frozen, config, text) for text in texts(code)]
    assert texts(controls.paraphrased(config, code, frozen)) == expected


def test_a_paraphrase_is_no_copy(lm: FrozenLM, config: ConsistencyLensConfig) -> None:
    """Given as a text what the frozen model would say anyway, it has to say something else."""
    wanted = texts(controls.paraphrased(config, words([], length=LENGTH), lm))[0]
    for _ in range(6):  # what it says depends on the text: look for one that it would copy
        said = paraphrased_slowly(lm, config, wanted)
        triples = {tuple(wanted[i : i + 3]) for i in range(len(wanted) - 2)}
        assert not triples & {tuple(said[i : i + 3]) for i in range(len(said) - 2)}
        assert texts(controls.paraphrased(config, words(wanted), lm))[0] == said
        wanted = said


def test_a_paraphrase_ends_with_its_line(code: Words) -> None:
    """With a tokenizer whose word w30 is written as the end of a line."""
    plain, frozen = shared_lm("llama"), tiny_lm("llama")
    config = ConsistencyLensConfig.for_subject(plain, "resid_post.1", code_length=LENGTH, prompt="w1 <A>")
    whole = texts(controls.paraphrased(config, code, plain))
    ending = whole[0][2]
    vocabulary = {word: i for word, i in plain.tokenizer.get_vocab().items() if i != ending} | {"\n": ending}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    frozen.tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")
    expected = [row[: row.index(ending)] if ending in row else row for row in whole]
    assert len(expected[0]) <= 2
    assert texts(controls.paraphrased(config, code, frozen)) == expected


# Traits.


@pytest.mark.parametrize("case", ["llama", "gpt2", "gemma3-window", "qwen3-window"])
def test_text_nll_equals_whole_passes(case: str, code: Words, batch: dict[str, Any]) -> None:
    frozen = shared_lm(case)
    config = ConsistencyLensConfig.for_subject(frozen, "resid_post.1", code_length=LENGTH, prompt="w1 w2 <A> w3")
    found = controls.traits(config, code, batch, frozen.prefix(batch), frozen, seed=0)["text_nll"]
    slow = [-log_likelihood(frozen, PROMPT, text) / max(1, len(text)) for text in texts(code)]
    torch.testing.assert_close(found, torch.tensor(slow), rtol=1e-4, atol=1e-4)
    # What is published is what the objective asks for.
    logits = torch.randn(*code.ids.shape, frozen.vocab_size, generator=torch.Generator().manual_seed(0))
    asked = nll_with_gradient(frozen, config, code, logits, Noise(0))
    torch.testing.assert_close(found, asked, rtol=1e-4, atol=1e-4)


def test_traits_are_float32_on_the_cpu(
    lm: FrozenLM, config: ConsistencyLensConfig, code: Words, batch: dict[str, Any]
) -> None:
    found = controls.traits(config, code, batch, lm.prefix(batch), lm, seed=0)
    names = ["text_nll", "sample_nll", "excerpt_nll", "length", "repetition", "round_trip", "retrieval"]
    assert list(found) == names
    assert all(x.shape == (ROWS,) and x.dtype == torch.float32 and x.device.type == "cpu" for x in found.values())
    assert found["length"].tolist() == [6, 3, 1, 0, 6, 2]
    assert found["round_trip"].tolist() == [1.0] * ROWS


def test_samples_are_the_subjects_own(lm: FrozenLM, config: ConsistencyLensConfig) -> None:
    """Their first tokens are distributed as the frozen model says, without those that no text may hold."""
    rows = 20_000
    like = words(*([[9, 9]] * rows), length=2)
    prompt = lm.prefix({"input_ids": torch.tensor([PROMPT])})
    found = controls.sampled(config, prompt.repeat(rows), like, seed=0)
    expected = prompt.logits()[0, 0].clone()
    expected[:4] = -torch.inf
    frequency = torch.bincount(found.ids[:, 0], minlength=VOCABULARY) / rows
    torch.testing.assert_close(frequency, expected.softmax(-1), rtol=0, atol=0.012)
    # The second token, given the likeliest first one.
    first = int(frequency.argmax())
    second = found.ids[found.ids[:, 0] == first, 1]
    given = lm.logits({"input_ids": torch.tensor([[*PROMPT, first]])})[0, -1].clone()
    given[:4] = -torch.inf
    frequency = torch.bincount(second, minlength=VOCABULARY) / len(second)
    torch.testing.assert_close(frequency, given.softmax(-1), rtol=0, atol=0.03)


def test_samples_are_as_long_as_the_texts(
    lm: FrozenLM, config: ConsistencyLensConfig, code: Words, batch: dict[str, Any]
) -> None:
    prompt = lm.prefix({"input_ids": torch.tensor([PROMPT])}).repeat(ROWS)
    found = controls.sampled(config, prompt, code, seed=7)
    assert [len(row) for row in texts(found)] == [len(row) for row in texts(code)]
    slow = [-log_likelihood(lm, PROMPT, text) / max(1, len(text)) for text in texts(found)]
    fast = controls.traits(config, code, batch, lm.prefix(batch), lm, seed=7)["sample_nll"]
    torch.testing.assert_close(fast, torch.tensor(slow), rtol=1e-4, atol=1e-4)


def test_excerpts_are_said_behind_the_context_and_judged_without_it(
    lm: FrozenLM, config: ConsistencyLensConfig, code: Words, batch: dict[str, Any]
) -> None:
    said = controls.sampled(config, lm.prefix(batch), code, seed=7)
    slow = [-log_likelihood(lm, PROMPT, text) / max(1, len(text)) for text in texts(said)]
    found = controls.traits(config, code, batch, lm.prefix(batch), lm, seed=7)
    torch.testing.assert_close(found["excerpt_nll"], torch.tensor(slow), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found["excerpt_nll"], found["sample_nll"])


def test_repetition_counts_bigrams_that_came_before(code: Words) -> None:
    found = controls.repetition_of(words([7, 7, 7, 7], [7, 8, 7, 8, 9], [1, 2, 3], [5], [], [4, 4], length=5))
    assert found.tolist() == pytest.approx([2 / 3, 1 / 4, 0, 0, 0, 0])
    for row, value in zip(texts(code), controls.repetition_of(code).tolist(), strict=True):
        bigrams = list(pairwise(row))
        assert value == pytest.approx(sum(b in bigrams[:i] for i, b in enumerate(bigrams)) / max(1, len(bigrams)))


def byte_pair_tokenizer() -> PreTrainedTokenizerFast:
    """`ab` can be written as one token or as two, and is read as one."""
    vocabulary = {"<pad>": 0, "a": 1, "b": 2, "ab": 3, "Ġ": 4, "Ġa": 5}
    backend = Tokenizer(models.BPE(vocabulary, [("a", "b"), ("Ġ", "a")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")


def test_a_text_that_is_read_otherwise_than_it_was_written_is_seen() -> None:
    tokenizer = byte_pair_tokenizer()
    found = words([3, 5], [1, 2], [5, 2], [2, 1], [], length=2)
    assert controls.printed(tokenizer, found) == ["ab a", "ab", " ab", "ba", ""]
    assert controls.round_trip_of(tokenizer, found).tolist() == [1, 0, 0, 1, 1]


# Retrieval.


def likelihoods(lm: FrozenLM, batch: dict[str, Any], code: Words) -> Tensor:
    """`[text, context]`: each text behind each context and the prompt, by whole passes."""
    return torch.tensor(
        [[log_likelihood(lm, context + PROMPT[1:], text) for context in contexts(batch)] for text in texts(code)]
    )


@pytest.mark.parametrize("case", ["llama", "gpt2", "gemma3-window", "qwen3-window"])
def test_retrieval_equals_whole_passes(case: str, code: Words, batch: dict[str, Any]) -> None:
    """Among four rows there is no choice of others, so the slow formula knows them."""
    frozen, rows = shared_lm(case), torch.tensor([0, 1, 4, 5])
    four, texts_of_four = {name: column[rows] for name, column in batch.items()}, code.take(rows)
    config = ConsistencyLensConfig.for_subject(frozen, "resid_post.1", code_length=LENGTH, prompt="w1 w2 <A> w3")
    slow = (likelihoods(frozen, four, texts_of_four).argmax(1) == torch.arange(4)).float()
    for seed in range(3):
        fast = controls.traits(config, texts_of_four, four, frozen.prefix(four), frozen, seed)["retrieval"]
        assert torch.equal(fast, slow)


def test_a_text_is_found_by_the_context_that_says_it(lm: FrozenLM, batch: dict[str, Any]) -> None:
    """The likeliest of some texts behind a context is, for the right rows, a hit, and for the wrong ones a miss."""
    prefix = lm.prefix(batch)
    ids, _ = prefix.continue_greedily(LENGTH)
    said = Words(ids, torch.ones_like(ids))
    assert controls.retrieved(said, prefix, batch["doc_id"], seed=0).tolist() == [1.0] * ROWS
    elsewhere = controls.retrieved(said, prefix.take(batch["pair"]), batch["doc_id"], seed=0)
    assert elsewhere.mean() < 0.5


def test_texts_that_say_nothing_are_at_chance(lm: FrozenLM, batch: dict[str, Any]) -> None:
    empty = words(*([[]] * ROWS))
    assert controls.retrieved(empty, lm.prefix(batch), batch["doc_id"], seed=0).tolist() == [0.25] * ROWS


def test_random_texts_are_at_chance(lm: FrozenLM) -> None:
    rows = 1200
    batch = padded_batch((6,) * rows)
    ids = torch.randint(4, VOCABULARY, (rows, 4), generator=torch.Generator().manual_seed(1))
    found = controls.retrieved(Words(ids, torch.ones_like(ids)), lm.prefix(batch), torch.arange(rows), seed=0)
    assert 0.2 < float(found.mean()) < 0.3


class Recording(Prefix):
    """A prefix that notes which rows were taken."""

    def take(self, rows: Tensor) -> Prefix:
        self.taken.append(rows)
        return super().take(rows)


def test_the_other_contexts_are_three_of_other_documents(lm: FrozenLM, batch: dict[str, Any]) -> None:
    doc_id = torch.tensor([0, 0, 1, 2, 3, 3])
    code = words(*([[10]] * ROWS))
    seen = set()
    for seed in range(5):
        prefix = Recording(lm, batch)
        prefix.taken = []
        assert controls.retrieved(code, prefix, doc_id, seed).isfinite().all()
        others = torch.stack(prefix.taken, dim=1)
        assert others.shape == (ROWS, 3)
        assert all(len(set(row)) == 3 for row in others.tolist())
        assert bool((doc_id[others] != doc_id.unsqueeze(1)).all())
        seen.add(tuple(others.flatten().tolist()))
    assert len(seen) > 1


def test_rows_without_three_others_are_not_judged(lm: FrozenLM, batch: dict[str, Any]) -> None:
    code, prefix = words(*([[10]] * ROWS)), lm.prefix(batch)
    doc_id = torch.tensor([0, 0, 0, 0, 1, 2])
    assert controls.retrieved(code, prefix, doc_id, 0).isnan().tolist() == [True] * 4 + [False] * 2
    few = torch.arange(3)
    assert controls.retrieved(code.take(few), prefix.take(few), few, 0).isnan().all()


# Words from people.


def test_typed_words_are_read_up_to_t_tokens_and_without_special_ones(
    lm: FrozenLM, config: ConsistencyLensConfig
) -> None:
    typed = ["w10 w11", "", "w1 <eos> w2 nonsense <bos> w3", " ".join(f"w{i}" for i in range(9))]
    found = controls.reread(config, lm.tokenizer, typed)
    assert texts(found) == [[14, 15], [], [5, 6, 7], [4, 5, 6, 7, 8, 9]]
    assert found.ids.shape == (4, LENGTH) and found.ids.dtype == torch.long
    assert controls.reread(config, lm.tokenizer, []).ids.shape == (0, LENGTH)
    assert controls.reread(config, lm.tokenizer, ["", ""]).lengths.tolist() == [0, 0]


def test_what_is_printed_is_read_again(lm: FrozenLM, config: ConsistencyLensConfig, code: Words) -> None:
    found = controls.reread(config, lm.tokenizer, controls.printed(lm.tokenizer, code))
    assert torch.equal(found.ids, code.ids) and torch.equal(found.mask, code.mask)


def test_what_is_cut_is_said(lm: FrozenLM, config: ConsistencyLensConfig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", logger=controls.__name__):
        controls.reread(config, lm.tokenizer, ["w1", "w1 " * 7, "w2 " * 6])
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 3 texts are longer than 6 tokens: what follows is not read"
    ]


def test_a_prefix_is_not_changed_by_the_controls(
    lm: FrozenLM, config: ConsistencyLensConfig, code: Words, batch: dict[str, Any]
) -> None:
    prefix = lm.prefix(batch)
    before = prefix.logits()
    controls.rivals(config, batch, prefix, lm, 0)
    first, second = (controls.traits(config, code, batch, prefix, lm, 0) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(prefix.logits(), before)
