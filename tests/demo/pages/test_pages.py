"""Stories on two pages: what they state, what they need and when; and the architecture that turns a page."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from consistency_lens.demo.pages.model import PagedLlamaConfig, PagedLlamaForCausalLM, sees
from consistency_lens.demo.pages.writing import (
    LATE_SHARE,
    PAGE,
    QUIET,
    SEAL,
    page_dataset,
    short_story,
    stories,
    story,
)
from consistency_lens.demo.stories import WINDOW, Story
from consistency_lens.demo.tokenizer import vocabulary
from consistency_lens.demo.words import FACT_WORDS, wordings
from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, FrozenLM

LENGTH, LOWER, SITE = 6, 2, "resid_post.1"


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    torch.manual_seed(0)
    config = PagedLlamaConfig(
        page_length=LENGTH,
        lower_layers=LOWER,
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    return FrozenLM(PagedLlamaForCausalLM(config), tiny_tokenizer(), "pages-tiny")


def ids_of(rows: int = 3, length: int = 17, seed: int = 0) -> torch.Tensor:
    return torch.randint(4, 60, (rows, length), generator=torch.Generator().manual_seed(seed))


def require_true(row: Story, page: int) -> None:
    words = row.words
    assert words[page - 2] == "." and set(words) <= set(vocabulary())
    for fact in row.facts:
        assert words[fact.stated_at - 1] in wordings(fact.kind, fact.value) and fact.stated_at < page - 1
    for spot in row.fact_positions:
        fact = row.facts[spot.fact]
        assert words[spot.position] == fact.value and spot.position >= page - 1
        assert not set(words[max(page - 1, spot.position - WINDOW) : spot.position]) & set(
            wordings(fact.kind, fact.value)
        )
    stated = {(fact.kind, fact.value) for fact in row.facts}
    assert {FACT_WORDS[word] for word in words if word in FACT_WORDS} == stated


def test_a_story_says_what_is_true_of_it() -> None:
    told = stories(300, seed=3)
    for row in told:
        require_true(row, PAGE)
        assert len(row.words) < 2 * PAGE
    assert sum(len(row.facts) >= 3 for row in told) > 250 and len({row.text for row in told}) == 300
    assert told[7] == story(3, 7) != story(4, 7)
    quiet = [not any(word in FACT_WORDS for word in row.words[SEAL : SEAL + QUIET]) for row in told]
    assert abs(sum(quiet) / len(quiet) - LATE_SHARE) < 0.1
    late = [spot.position - SEAL for row in told for spot in row.fact_positions]
    assert sum(20 <= distance <= 60 for distance in late) > 0.5 * len(late)


def test_short_stories_are_short_and_true() -> None:
    for number in range(100):
        for groups, page in ((1, 14), (2, 27)):
            row = short_story(0, number, groups, page)
            require_true(row, page)
            assert len(row.words) < 2 * page and len(row.facts) == groups
    alone = [len(short_story(0, number, 1, 14).words) == 15 for number in range(100)]
    assert 30 < sum(alone) < 70


def test_rows_are_the_stories() -> None:
    found, told = page_dataset(3, seed=1, start=5), stories(3, 1, 5)
    assert found["text"] == [row.text for row in told] and found["doc_id"] == [5, 6, 7]
    assert [[fact["value"] for fact in facts] for facts in found["facts"]] == [
        [f.value for f in r.facts] for r in told
    ]
    with pytest.raises(BadInput, match="at least one"):
        stories(0, 0)


def test_who_sees_whom_is_what_the_words_say() -> None:
    lower, upper = sees(torch.arange(17).unsqueeze(0), LENGTH, 17)
    for query in range(17):
        for key in range(query + 1):
            page, before = query // LENGTH == key // LENGTH, query // LENGTH == key // LENGTH + 1
            seal = query % LENGTH == LENGTH - 1
            assert bool(lower[0, query, key]) == page
            wanted = query == key if seal else page or (before and key % LENGTH == LENGTH - 1)
            assert bool(upper[0, query, key]) == wanted


@torch.no_grad()
def test_the_seal_is_all_that_the_next_page_knows(lm: FrozenLM) -> None:
    ids, others = ids_of(), ids_of(seed=1)
    mixed = torch.cat([others[:, :LENGTH], ids[:, LENGTH:]], dim=1)
    seal = lm.read({"input_ids": ids}, SITE)[SITE][:, LENGTH - 1]
    clean, strange = lm.logits({"input_ids": ids}), lm.logits({"input_ids": mixed})
    assert float((clean - strange)[:, LENGTH : 2 * LENGTH].abs().max()) > 0.1
    put_back = lm.logits({"input_ids": mixed}, Edit(SITE, seal, LENGTH - 1))
    assert torch.allclose(put_back[:, LENGTH - 1 :], clean[:, LENGTH - 1 :], atol=1e-5)
    # What stands two pages back has left nothing.
    assert torch.allclose(clean[:, 2 * LENGTH :], strange[:, 2 * LENGTH :], atol=1e-5)


@torch.no_grad()
def test_caches_and_padding_change_nothing(lm: FrozenLM) -> None:
    """The single-token swap against whole passes: P in the page, at its seal, and behind it."""
    for last in (LENGTH - 2, LENGTH - 1, LENGTH, 2 * LENGTH - 1, 2 * LENGTH + 1):
        whole = ids_of()[:, : last + 1]
        rows = [whole[0], whole[1, 1:], whole[2, 2:]]
        ids = torch.nn.utils.rnn.pad_sequence(rows, True, 0, padding_side="left")
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], True, 0, padding_side="left")
        more = ids_of(length=4, seed=2)
        prefix = lm.prefix({"input_ids": ids, "attention_mask": mask}).followed_by(more)
        vector = torch.randn(3, 32, generator=torch.Generator().manual_seed(3))
        for edits in ([], [vector]):
            fast = prefix.logits([Edit(SITE, each) for each in edits], horizon=4)
            for row, own in enumerate(rows):
                batch = {"input_ids": torch.cat([own, more[row]]).unsqueeze(0)}
                slow = lm.logits(batch, [Edit(SITE, each[row : row + 1], len(own) - 1) for each in edits])
                assert torch.allclose(fast[row], slow[0, len(own) - 1 :], atol=1e-4)
        said = prefix.continue_greedily(3)[0]
        for row, own in enumerate(rows):
            alone = lm.prefix({"input_ids": own.unsqueeze(0)}).continue_greedily(3)[0]
            assert said[row].tolist() == alone[0].tolist()


def test_it_loads_like_any_model(lm: FrozenLM, tmp_path) -> None:
    lm.model.save_pretrained(tmp_path)
    config, model = AutoConfig.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (config.page_length, config.lower_layers, type(model)) == (LENGTH, LOWER, PagedLlamaForCausalLM)
    with torch.no_grad():
        assert torch.equal(model(ids_of()).logits, lm.model(ids_of()).logits)
        shorter = model(ids_of(), page_length=4).logits
    assert not torch.allclose(shorter, lm.model(ids_of()).logits)
    added = torch.zeros(3, 1, 17, 17)
    with torch.no_grad():
        assert torch.equal(model(ids_of(), attention_mask=added).logits, model(ids_of()).logits)
        added[:, :, 1:, 0] = torch.finfo(added.dtype).min
        hidden = model(ids_of(), attention_mask=added).logits
        other = ids_of().clone()
        other[:, 0] = other[:, 0] % 50 + 5
        assert torch.equal(hidden[:, 1:], model(other, attention_mask=added).logits[:, 1:]), "nobody sees the first"
    cache = model(ids_of(), use_cache=True).past_key_values
    for mask, past in ((added[:, 0], None), (added[:, :, :1], cache)):
        with pytest.raises(BadInput, match="which of them see each other is settled"):
            model(ids_of()[:, :1] if past else ids_of(), attention_mask=mask, past_key_values=past)
