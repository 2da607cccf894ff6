"""Generation under edits equals the whole-sequence way, token by token; what ends a row; what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from architectures import tiny_causal_lm
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import padded_batch, shared_lm, tiny_lm, tiny_tokenizer

from consistency_lens.errors import BadInput
from consistency_lens.frozen import Decoding, Edit, FrozenLM
from consistency_lens.frozen.generation.stepping import growing_cache

SIZE, LENGTHS, STEPS = 32, (6, 3, 4), 7
CASES = ["gpt2", "llama", "mistral-window", "gemma3-window"]
Batch = Mapping[str, torch.Tensor]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def computed(read: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """A function of what is read that differs by column."""
    return sum(torch.tanh(hidden @ random(SIZE, SIZE, seed=3) / 3) for hidden in read.values())


def soft(count: int = 2, **where: Any) -> Edit:
    return Edit("embed", 0.3 * random(count, SIZE, seed=8), mode="prepend", **where)


# What is written; the slow twin is `FrozenLM.logits` with the same edits over the sequence as it has grown.
EDITS: dict[str, list[Edit]] = {
    "nothing": [],
    "at the last column": [Edit("resid_post.1", random(3, SIZE))],
    "at chosen columns": [Edit("mlp_out.2", random(3, 2, SIZE), torch.tensor([[2, 5], [3, 5], [4, 3]]))],
    "a vector at all columns": [Edit("resid_post.1", 2 * random(SIZE), None, "add")],
    "a vector per row at all columns": [Edit("resid_pre.2", random(3, 1, SIZE), None, "add")],
    "the mean at all columns": [Edit("attn_out.1", random(SIZE), None)],
    "computed at all columns": [Edit("mlp_out.2", computed, None, reads=("mlp_in.0", "resid_pre.2"))],
    "computed at P": [Edit("mlp_out.2", computed, -1, reads=("mlp_in.2",))],
    "soft tokens": [soft()],
    "soft tokens behind the first token": [soft(3, positions=1)],
    "all together": [
        soft(),
        soft(1, positions=2),
        Edit("embed", random(SIZE, seed=5), None, "add"),
        Edit("resid_post.0", random(3, SIZE, seed=6), -2),
        Edit("mlp_out.1", computed, None, "add", reads=("mlp_in.1",)),
        Edit("resid_post.2", random(SIZE, seed=7), None, "add"),
    ],
}


def longer(batch: Batch, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.cat([batch["input_ids"], ids], dim=1),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, ids.shape[1]), value=1),
    }


def slowly(lm: FrozenLM, batch: Batch, edits: Sequence[Edit], ids: torch.Tensor) -> torch.Tensor:
    """Logits `[B, T, V]` that each of the given tokens follows, each by a pass over the whole sequence so far."""
    width, found = batch["input_ids"].shape[1], []
    fixed = [
        replace(edit, positions=edit.positions % width)
        if edit.mode != "prepend" and isinstance(edit.positions, int)
        else edit
        for edit in edits
    ]
    for t in range(ids.shape[1]):
        found.append(lm.logits(longer(batch, ids[:, :t]), fixed, keep=1)[:, 0])
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("case", CASES)
def test_each_token_is_that_of_the_whole_sequence(case: str, name: str) -> None:
    lm, batch, edits = shared_lm(case), padded_batch(LENGTHS), EDITS[name]
    said = lm.generate(batch, edits, max_new_tokens=STEPS, stop_ids=[])
    logits = slowly(lm, batch, edits, said.ids)
    assert torch.equal(said.ids, logits.argmax(-1))
    wanted = logits.log_softmax(-1).gather(-1, said.ids.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(said.logprobs, wanted, rtol=1e-4, atol=1e-4)
    assert said.ids.shape == (3, STEPS) and said.mask.all() and not said.ended.any()
    if edits:
        plain = slowly(lm, batch, [], said.ids)
        assert (plain - logits).abs().amax((1, 2)).min() > 1e-2, "edits that change nothing compare nothing"


@pytest.mark.parametrize("name", ["nothing", "computed at all columns", "all together"])
def test_without_a_cache_the_same_is_said(lm: FrozenLM, name: str) -> None:
    batch, how = padded_batch(LENGTHS), Decoding(max_new_tokens=STEPS, do_sample=True, seed=5)
    fast, slow = (lm.generate(batch, EDITS[name], decoding=how, use_cache=cached) for cached in (True, False))
    assert torch.equal(fast.ids, slow.ids) and torch.equal(fast.mask, slow.mask)
    torch.testing.assert_close(fast.logprobs, slow.logprobs, rtol=1e-4, atol=1e-4)


def fits_any_rows(edit: Edit) -> bool:
    """Whether it has no value per row, and no column that short rows lack."""
    per_row = isinstance(edit.value, torch.Tensor) and edit.value.shape[0] == 3
    return not per_row and (edit.mode != "prepend" or edit.positions in (0, 1))


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 9), min_size=1, max_size=4),
    names=st.sets(st.sampled_from(sorted(EDITS))),
    seed=st.integers(0, 100),
    top_p=st.sampled_from([0.5, 1.0]),
)
def test_with_and_without_a_cache_any_rows_say_the_same(
    lengths: list[int], names: set[str], seed: int, top_p: float
) -> None:
    lm, batch = shared_lm("mistral-window"), padded_batch(tuple(lengths), seed=seed)
    edits = [edit for name in sorted(names) for edit in EDITS[name] if fits_any_rows(edit)]
    how = Decoding(max_new_tokens=5, do_sample=True, top_p=top_p, seed=seed)
    fast, slow = (lm.generate(batch, edits, decoding=how, use_cache=cached) for cached in (True, False))
    assert torch.equal(fast.ids, slow.ids) and torch.equal(fast.mask, slow.mask)


def test_what_is_written_at_new_tokens_may_be_given_apart(lm: FrozenLM) -> None:
    batch = padded_batch((6, 6, 6))
    own = [Edit("resid_post.1", random(3, 6, SIZE), None), Edit("mlp_out.2", computed, None, reads=("mlp_in.2",))]
    new = [
        Edit("resid_post.0", random(3, SIZE, seed=4), None, "add"),
        Edit("mlp_out.3", computed, reads=("mlp_in.3",)),
    ]
    columns, found = torch.arange(6).expand(3, -1), {}
    for name, new_edits in {"none": [], "other": new}.items():
        for cached in (True, False):
            said = lm.generate(batch, own, new_edits, max_new_tokens=STEPS, stop_ids=[], use_cache=cached)
            for t in range(STEPS):
                behind = torch.arange(6, 6 + t).expand(3, -1)
                edits = [replace(edit, positions=columns) for edit in own]
                edits += [replace(edit, positions=behind) for edit in new_edits] if t else []
                logits = lm.logits(longer(batch, said.ids[:, :t]), edits, keep=1)[:, 0]
                assert torch.equal(said.ids[:, t], logits.argmax(-1))
            found[name, cached] = said.ids
    assert torch.equal(found["none", True], found["none", False])
    assert not torch.equal(found["none", True], found["other", True])


@pytest.mark.parametrize("case", ["gpt2", "mistral-window"])
def test_a_row_says_the_same_in_any_batch(case: str) -> None:
    """Neither its padding, nor the rows beside it, nor its place among them change what is drawn for it."""
    lm, batch = shared_lm(case), padded_batch((6, 3, 4, 1))
    how = Decoding(max_new_tokens=STEPS, do_sample=True, temperature=0.8, top_k=40, top_p=0.95, seed=11)
    edits = [soft(), EDITS["a vector at all columns"][0]]
    all_rows = lm.generate(batch, edits, decoding=how)
    for row, length in enumerate((6, 3, 4, 1)):
        alone = lm.generate({"input_ids": batch["input_ids"][row : row + 1, -length:]}, edits, None, how, [row])
        own = all_rows.ids[row][all_rows.mask[row].bool()]
        assert torch.equal(alone.ids[0], own)
    turned = lm.generate({k: v.flip(0) for k, v in batch.items()}, edits, decoding=how, rows=[3, 2, 1, 0])
    assert torch.equal(turned.ids.flip(0), all_rows.ids)
    assert not torch.equal(lm.generate(batch, edits, decoding=how, seed=12).ids, all_rows.ids)


def test_a_choice_among_one_is_the_likeliest(lm: FrozenLM) -> None:
    batch = padded_batch(LENGTHS)
    greedy = lm.generate(batch, max_new_tokens=STEPS, stop_ids=[])
    one = lm.generate(batch, max_new_tokens=STEPS, stop_ids=[], do_sample=True, top_k=1)
    assert torch.equal(greedy.ids, one.ids)
    ids, sure = lm.prefix(batch).continue_greedily(STEPS)
    assert torch.equal(greedy.ids, ids)
    torch.testing.assert_close(greedy.logprobs.exp(), sure, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_without_edits_it_says_what_transformers_says(case: str) -> None:
    lm, batch, length = shared_lm(case), padded_batch(LENGTHS), 12
    free = lm.generate(batch, max_new_tokens=length, stop_ids=[])
    stops = [int(free.ids[0, 3]), int(free.ids[1, 5])]
    for least in (0, 5):
        mine = lm.generate(batch, max_new_tokens=length, min_new_tokens=least, stop_ids=stops)
        theirs = lm.model.generate(
            **batch,
            do_sample=False,
            max_new_tokens=length,
            min_new_tokens=least,
            eos_token_id=stops,
            pad_token_id=lm.tokenizer.pad_token_id,
        )
        assert torch.equal(mine.ids, theirs[:, batch["input_ids"].shape[1] :])


def test_a_compiled_model_says_the_same(lm: FrozenLM) -> None:
    batch, compiled = padded_batch(LENGTHS), tiny_lm("llama").compile(backend="eager")
    mine, theirs = (one.generate(batch, EDITS["all together"], max_new_tokens=4) for one in (compiled, lm))
    assert torch.equal(mine.ids, theirs.ids)


def test_a_row_ends_with_its_stop_token_and_is_padded_behind(lm: FrozenLM) -> None:
    batch = padded_batch(LENGTHS)
    free = lm.generate(batch, max_new_tokens=STEPS, stop_ids=[])
    stop = int(free.ids[0, 2])
    said = lm.generate(batch, max_new_tokens=STEPS, stop_ids=[stop, 95])
    for row in range(3):
        places = (free.ids[row] == stop) | (free.ids[row] == 95)
        length = int(places.int().argmax()) + 1 if places.any() else STEPS
        assert said.ended[row] == places.any()
        assert said.mask[row].sum() == length
        assert torch.equal(said.ids[row, :length], free.ids[row, :length])
        assert (said.ids[row, length:] == lm.tokenizer.pad_token_id).all()
        assert (said.logprobs[row, length:] == 0).all()
    own = [ids[mask.bool() & (ids != stop)] for ids, mask in zip(said.ids, said.mask, strict=True)]
    assert said.ended.tolist()[0] and said.texts(lm.tokenizer)[0] == lm.tokenizer.decode(own[0])


def test_the_pass_stops_when_all_rows_have_ended(lm: FrozenLM) -> None:
    batch = padded_batch((6,))
    stop = int(lm.generate(batch, max_new_tokens=2, stop_ids=[]).ids[0, 1])
    said = lm.generate(batch, max_new_tokens=100, stop_ids=[stop])
    assert said.ids.shape[1] <= 2 and said.ended.all()


def test_no_row_ends_before_its_least_length(lm: FrozenLM) -> None:
    batch = padded_batch((6, 5, 4, 3))
    stops = list(range(4, 96, 2))  # half of all words: free rows end early
    how = Decoding(max_new_tokens=12, do_sample=True, seed=3, stop_ids=stops)
    free, late = (lm.generate(batch, decoding=how, min_new_tokens=least) for least in (0, 4))
    assert free.mask.sum(1).min() < 4 <= late.mask.sum(1).min()
    assert not torch.isin(late.ids[:, :4], torch.tensor(stops)).any()
    # What the ban leaves out is still part of the distribution that the log-probabilities are of.
    logits = slowly(lm, batch, [], late.ids[:, :1])
    wanted = logits.log_softmax(-1).gather(-1, late.ids[:, :1].unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(late.logprobs[:, :1], wanted, rtol=1e-4, atol=1e-4)


def test_a_row_ends_with_the_token_that_completes_a_stop_string(lm: FrozenLM) -> None:
    batch = padded_batch(LENGTHS)
    free = lm.generate(batch, max_new_tokens=STEPS, stop_ids=[])
    words = lm.tokenizer.decode(free.ids[1, 2:4])  # two tokens, with what is between them
    said = lm.generate(batch, max_new_tokens=STEPS, stop_ids=[], stop_strings=words)
    assert said.mask[1].sum() == 4 and said.ended[1]
    assert said.texts(lm.tokenizer)[1] == lm.tokenizer.decode(free.ids[1, :2], skip_special_tokens=True) + " "
    for row in (0, 2):
        has = words in lm.tokenizer.decode(free.ids[row])
        assert said.ended[row] == has and (has or said.mask[row].all())
    late = lm.generate(batch, max_new_tokens=STEPS, stop_ids=[], stop_strings=words, min_new_tokens=6)
    assert late.mask[1].sum() == 6


def test_what_ends_a_row_by_default_is_what_tokenizer_and_model_name() -> None:
    lm = tiny_lm("llama")
    assert lm.generate(padded_batch((3,)), max_new_tokens=1).decoding.stop_ids == [2]
    lm.model.generation_config.eos_token_id = [7, 2, 9]
    assert lm.generate(padded_batch((3,)), max_new_tokens=1).decoding.stop_ids == [2, 7, 9]


def test_a_model_without_a_cache_that_grows_is_read_whole() -> None:
    lm = FrozenLM(tiny_causal_lm("mamba"), tiny_tokenizer())
    assert growing_cache(lm) is None
    batch = {"input_ids": padded_batch((5, 5))["input_ids"]}
    edit = Edit("resid_post.1", random(SIZE), None, "add")
    said = lm.generate(batch, edit, max_new_tokens=4, stop_ids=[])
    for t in range(4):
        together = {"input_ids": torch.cat([batch["input_ids"], said.ids[:, :t]], dim=1)}
        assert torch.equal(said.ids[:, t], lm.logits(together, edit, keep=1)[:, 0].argmax(-1))


def test_nothing_is_left_behind(lm: FrozenLM) -> None:
    def fails(read: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if read["mlp_in.1"].shape[1] == 1:
            raise RuntimeError("not of a new token")
        return read["mlp_in.1"]

    batch, clean = padded_batch(LENGTHS), lm.logits(padded_batch(LENGTHS))
    values = random(SIZE).requires_grad_()
    said = lm.generate(batch, Edit("resid_post.1", values, None, "add"), max_new_tokens=2)
    assert not said.logprobs.requires_grad
    with pytest.raises(RuntimeError, match="not of a new token"):
        lm.generate(batch, Edit("mlp_out.1", fails, None, reads=("mlp_in.1",)), max_new_tokens=3)
    assert torch.equal(lm.logits(batch), clean)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())


def test_rows_go_on_up_to_the_longest_context(lm: FrozenLM) -> None:
    batch = padded_batch((lm.max_length - 5, 5))
    said = lm.generate(batch, soft(), max_new_tokens=4, stop_ids=[])
    assert said.ids.shape == (2, 4)
    with pytest.raises(BadInput, match="takes at most 128") as caught:
        lm.generate(batch, soft(), max_new_tokens=5)
    assert caught.value.field == "input_ids and max_new_tokens"


WRONG: dict[str, tuple[Callable[[FrozenLM, Batch], Any], str, str]] = {
    "padding on the right": (
        lambda lm, batch: lm.generate({name: each.flip(1) for name, each in batch.items()}),
        "attention_mask",
        "Pad on the left",
    ),
    "values for the prompt's columns alone": (
        lambda lm, batch: lm.generate(batch, Edit("resid_post.1", random(3, 6, SIZE), None)),
        "value",
        r"new_edits=\[\]",
    ),
    "nothing behind the soft tokens": (
        lambda lm, batch: lm.generate(batch, soft(positions=3)),
        "positions",
        "no token follows",
    ),
    "an edit for another model": (
        lambda lm, batch: lm.generate(batch, Edit("embed", random(SIZE), None, lm="other")),
        "lm",
        "this one is named 'base'",
    ),
    "soft tokens at new tokens": (lambda lm, batch: lm.generate(batch, (), soft()), "mode", "in `edits`"),
    "a column among new tokens": (
        lambda lm, batch: lm.generate(batch, (), Edit("embed", random(SIZE), 3)),
        "positions",
        "each new token",
    ),
    "an edit of the future": (
        lambda lm, batch: lm.generate(batch, (), Edit("embed", computed, None, reads=("mlp_out.1",))),
        "reads",
        "Read embed itself",
    ),
    "too few row numbers": (lambda lm, batch: lm.generate(batch, rows=[0, 1]), "rows", "each of the 3 rows"),
    "negative row numbers": (lambda lm, batch: lm.generate(batch, rows=[0, 1, -1]), "rows", "from 0 on"),
    "an unknown stop token": (lambda lm, batch: lm.generate(batch, stop_ids=[96]), "stop_ids", "96 tokens"),
    "no tokens": (lambda lm, batch: lm.generate(batch, max_new_tokens=0), "max_new_tokens", "at least one"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_generated_is_refused_by_name(lm: FrozenLM, name: str) -> None:
    attempt, field, message = WRONG[name]
    with pytest.raises(BadInput, match=message) as caught:
        attempt(lm, padded_batch(LENGTHS))
    assert caught.value.field == field


def test_a_padding_token_behind_the_vocabulary_is_never_read() -> None:
    lm, ids = tiny_lm("llama"), padded_batch((5, 5, 5, 5))["input_ids"]
    stop = [int(lm.generate({"input_ids": ids}, max_new_tokens=1, stop_ids=[]).ids[0, 0])]
    expected = lm.generate({"input_ids": ids}, max_new_tokens=STEPS, stop_ids=stop)
    lm.tokenizer.add_special_tokens({"pad_token": "<added>"})
    assert lm.tokenizer.pad_token_id == lm.vocab_size and bool((expected.mask[0] == 0).any())
    found = lm.generate({"input_ids": ids}, max_new_tokens=STEPS, stop_ids=stop)
    assert torch.equal(found.mask, expected.mask) and int(found.ids.max()) < lm.vocab_size
    assert torch.equal(found.ids * found.mask, expected.ids * expected.mask)
