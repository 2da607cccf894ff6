"""Starting texts of many rows: the tail is counted right, and what an activation does not support is cut."""

from __future__ import annotations

import pytest
import torch
from tiny import VOCABULARY, padded_batch

from consistency_lens.frozen import FrozenLM
from consistency_lens.text.configuration import ConsistencyLensConfig
from consistency_lens.text.parts.generation import Words
from consistency_lens.text.starting.texts import StartingTexts
from consistency_lens.text.starting.warm_start import NO_DOUBT, Doubt, starting_words


@pytest.fixture
def config(lm: FrozenLM) -> ConsistencyLensConfig:
    return ConsistencyLensConfig.for_subject(lm, "resid_post.1", code_length=6, prompt="w1 <A> w2")


@pytest.mark.parametrize("kind", ["context", "continuation", "onward", "span", "summary"])
def test_equals_the_texts_of_a_prefix(kind: str, lm: FrozenLM, config: ConsistencyLensConfig) -> None:
    batch = padded_batch()
    found = StartingTexts.of(kind, batch, config, lm)
    expected = starting_words(kind, lm.prefix(batch), config, lm)
    assert torch.equal(found.words.ids, expected.ids) and torch.equal(found.words.mask, expected.mask)
    longest = {"context": 6, "onward": 1, "span": 3}.get(kind, 0)
    assert found.tail.tolist() == [min(longest, n) for n in (12, 7, 1, 9)]
    taken = found.take(torch.tensor([2, 0]))
    assert torch.equal(taken.words.ids, expected.ids[[2, 0]]) and taken.tail.tolist() == found.tail[[2, 0]].tolist()


def logits_for(ids: list[int], chances: list[float]) -> torch.Tensor:
    """Logits under which each token has the given probability, the others share the rest."""
    rest = torch.tensor([(1 - p) / (VOCABULARY - 1) for p in chances])
    table = rest.unsqueeze(1).repeat(1, VOCABULARY)
    table[torch.arange(len(ids)), ids] = torch.tensor(chances)
    return table.log().unsqueeze(0)


@pytest.mark.parametrize(
    ("chances", "tail", "kept"),
    [
        ([0.9, 0.9, 0.9, 0.9, 0.9, 0.9], 3, [10, 11, 12, 13, 14, 15]),
        ([0.9, 0.1, 0.9, 0.9, 0.9, 0.9], 3, [12, 13, 14, 15]),  # behind the last doubt before P
        ([0.9, 0.9, 0.9, 0.9, 0.1, 0.9], 3, [10, 11, 12, 13]),  # up to the first doubt after P
        ([0.1, 0.1, 0.1, 0.1, 0.1, 0.1], 3, [12]),  # P's own token stays
        ([0.1, 0.9, 0.1, 0.9, 0.9, 0.9], 1, [10, 11]),  # up to the first doubt
        ([0.1, 0.9, 0.1, 0.9, 0.9, 0.9], 0, [10, 11]),  # nothing is quoted: the first token stays
    ],
)
def test_only_what_the_decoder_is_sure_of_is_kept(chances: list[float], tail: int, kept: list[int]) -> None:
    ids = list(range(10, 16))
    whole = StartingTexts(Words(torch.tensor([ids]), torch.ones(1, 6, dtype=torch.long)), torch.tensor([tail]), 0)
    cut = whole.supported(logits_for(ids, chances), Doubt(0.5))
    assert cut.words.ids[0, : int(cut.words.lengths)].tolist() == kept
    assert int(cut.tail) == len([i for i in kept if i < 10 + tail])
    assert whole.supported(logits_for(ids, chances), NO_DOUBT) is whole


@pytest.mark.parametrize(
    ("chances", "tail", "kept"),
    [
        ([0.9, 0.9, 0.9, 0.9, 0.9, 0.9], 3, [10, 11, 12, 13, 14, 15]),
        ([0.9, 0.1, 0.9, 0.1, 0.9, 0.9], 3, [10, 7, 12, 7, 14, 15]),
        ([0.9, 0.9, 0.1, 0.9, 0.9, 0.9], 3, [10, 11, 7, 13, 14, 15]),  # P's own token, too
        ([0.9, 0.9, 0.9, 0.1, 0.1, 0.9], 3, [10, 11, 12]),  # two in a row end the text
        ([0.1, 0.9, 0.9, 0.9, 0.9, 0.1], 3, [7, 11, 12, 13, 14]),  # no text ends with it
        ([0.1, 0.1, 0.1, 0.1, 0.1, 0.1], 1, [7]),  # unless it knows nothing
        ([0.1, 0.1, 0.9, 0.9, 0.9, 0.9], 1, [7]),
    ],
)
def test_a_general_word_takes_the_place_of_a_guess(chances: list[float], tail: int, kept: list[int]) -> None:
    ids = list(range(10, 16))
    whole = StartingTexts(Words(torch.tensor([ids]), torch.ones(1, 6, dtype=torch.long)), torch.tensor([tail]), 0)
    vague = whole.supported(logits_for(ids, chances), Doubt(0.5, 7))
    assert vague.words.ids[0, : int(vague.words.lengths)].tolist() == kept
    assert int(vague.words.ids[0, int(vague.words.lengths) :].sum()) == 0
    assert int(vague.tail) == min(tail, len(kept))
