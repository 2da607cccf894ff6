"""The decoder writes what it scores, the encoder reads as the frozen model does, and neither sees what it must not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from lens_runs import PROMPT, SITE, gradients, stirred, tiny_lens, tiny_rows
from tiny import padded_batch, shared_lm, tiny_lm
from torch import Tensor

from consistency_lens.errors import BadInput
from consistency_lens.frozen import FrozenLM
from consistency_lens.text.configuration import ConsistencyLensConfig
from consistency_lens.text.modeling import ConsistencyLens
from consistency_lens.text.parts.generation import Noise, Words

CLOSE = {"rtol": 1e-4, "atol": 2e-5}
CASES = ["llama", "gpt2", "gpt_neox", "gemma2", "gemma3-vision", "gemma3-window", "qwen2-window", "phi3", "olmo2"]
KINDS = ["full", "lora", "projections"]
BOS, EOS = 1, 2
TOLD = Noise(3, 0.7)


def activations(rows: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(rows, 32, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["embedding", "residual"])
def injection(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=KINDS)
def trainable(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def lens(trainable: str, injection: str) -> ConsistencyLens:
    """On a frozen model of its own: adapters are put on it."""
    return stirred(tiny_lens(tiny_lm(), trainable=trainable, injection=injection))


@pytest.mark.parametrize("case", CASES)
def test_what_is_scored_is_what_was_written(case: str, trainable: str, injection: str) -> None:
    """Token by token with a cache, with and without a graph through time; all at once; and so by all estimators."""
    lens = stirred(tiny_lens(tiny_lm(case), trainable=trainable, injection=injection))
    given = activations()
    words, slow = lens.decoder.write_with_gradient(given, TOLD)
    assert torch.equal(lens.decoder.write(given, TOLD).ids, words.ids)
    fast = lens.decoder.score(given, words)
    ids, mask = words.written(EOS)
    kept = mask.bool()
    torch.testing.assert_close(fast[kept], slow[kept], **CLOSE)
    chosen = torch.stack([TOLD.choose(t, fast[:, t]) for t in range(ids.shape[1])], dim=1)
    assert torch.equal(chosen[kept], ids[kept])
    assert len({tuple(row) for row in words.ids.tolist()}) > 1, "every row has the same text"
    restored = [lens(given, noise=TOLD, estimator=e).restored for e in ("sequential", "parallel", "policy")]
    torch.testing.assert_close(restored[1], restored[0], **CLOSE)
    torch.testing.assert_close(restored[2], restored[0], **CLOSE)


def backward(lens: ConsistencyLens, estimator: str, noise: Noise = TOLD) -> dict[str, Tensor]:
    lens.zero_grad(set_to_none=True)
    restored = lens(activations(), noise=noise, estimator=estimator).restored
    weight = torch.randn(restored.shape, generator=torch.Generator().manual_seed(1))
    (restored * weight).sum().backward()
    return gradients({name: p for part in lens.parts().values() for name, p in part.items()})


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        scale = other[name].abs().max().clamp_min(1e-3)
        torch.testing.assert_close(one[name] / scale, other[name] / scale, rtol=0, atol=1e-3, msg=name)


def test_one_token_has_no_time_to_go_through(trainable: str, injection: str) -> None:
    lens = stirred(tiny_lens(tiny_lm(), trainable=trainable, injection=injection, code_length=1))
    found = backward(lens, "parallel")
    assert any(name.startswith("decoder.map") and g.abs().max() > 1e-4 for name, g in found.items())
    same(found, backward(lens, "sequential"))


def slow_twin(lens: ConsistencyLens, through_time: bool) -> dict[str, Tensor]:
    """Step by step, with the one-hot product written out; without the path through time, each choice enters the next
    step as a plain token."""
    lens.zero_grad(set_to_none=True)
    decoder, encoder = lens.decoder, lens.encoder
    step, ids, choices = decoder._steps(activations()), [], []
    for t in range(lens.config.code_length):
        last = None
        if t:
            last = choices[-1] @ decoder.table if through_time else decoder.embed(ids[-1])
        logits = step(last)
        ids.append(TOLD.choose(t, logits))
        soft = TOLD.soften(t, logits)
        hard = torch.nn.functional.one_hot(ids[-1], soft.shape[-1]).to(soft)
        choices.append(hard + soft - soft.detach())
    words = Words.ended_by(torch.stack(ids, 1), EOS, lens.config.pad_id)
    start = encoder.embed(torch.full_like(words.ids[:, :1], lens.config.start_id))
    restored = encoder(words, torch.cat([start, torch.stack(choices, 1) @ encoder.table], 1))
    weight = torch.randn(restored.shape, generator=torch.Generator().manual_seed(1))
    (restored * weight).sum().backward()
    return gradients({name: p for part in lens.parts().values() for name, p in part.items()})


def test_both_gumbel_estimators_have_the_gradient_of_the_one_hot_product(lens: ConsistencyLens) -> None:
    """`sequential` all of it, `parallel` all but the path through time."""
    parallel, sequential = backward(lens, "parallel"), backward(lens, "sequential")
    same(parallel, slow_twin(lens, through_time=False))
    same(sequential, slow_twin(lens, through_time=True))
    name = "decoder.map.weight"
    assert (parallel[name] - sequential[name]).abs().max() > 1e-3 * sequential[name].abs().max()


def test_policy_lets_no_gradient_from_the_encoder_to_the_words(lens: ConsistencyLens) -> None:
    found = backward(lens, "policy")
    assert found and not any(name.startswith("decoder") for name in found if "lora_" not in name)
    assert all(bool((found[name] == 0).all()) for name in found if ".decoder." in name)


# Where it begins.


@pytest.mark.parametrize("case", CASES)
def test_an_untrained_encoder_reads_as_the_subject_does(case: str, trainable: str) -> None:
    """Its first layers alone, and both maps the identity: the state of the last token of `<bos>` and the text."""
    frozen = tiny_lm(case)
    lens = tiny_lens(frozen, trainable=trainable)
    for part in (lens.decoder, lens.encoder):
        assert torch.equal(part.map.weight, torch.eye(32)) and not part.map.bias.any()
    ids = padded_batch((6,) * 4)["input_ids"]
    mask = (torch.arange(6) < torch.tensor([[6], [3], [1], [0]])).long()
    restored = lens.encoder(Words(ids * mask, mask))
    for row, length in enumerate(mask.sum(1).tolist()):
        read = frozen.read({"input_ids": torch.tensor([[BOS, *ids[row, :length].tolist()]])}, SITE)[SITE]
        torch.testing.assert_close(restored[row], read[0, -1], **CLOSE)


@pytest.mark.parametrize("site", ["resid_pre.0", "resid_pre.2", "attn_out.0", "mlp_out.1", "resid_post.3"])
def test_every_site_can_be_read(site: str, trainable: str) -> None:
    frozen = tiny_lm()
    lens = ConsistencyLens.from_subject(frozen, site, code_length=5, prompt=PROMPT, trainable=trainable)
    words = Words(torch.tensor([[5, 6, 7, 8, 9]]), torch.ones(1, 5, dtype=torch.long))
    read = frozen.read({"input_ids": torch.tensor([[BOS, 5, 6, 7, 8, 9]])}, site)[site]
    torch.testing.assert_close(lens.encoder(words)[0], read[0, -1], **CLOSE)


def test_embeddings_are_no_site_of_a_text_lens(lm: FrozenLM) -> None:
    with pytest.raises(BadInput, match="single tokens"):
        ConsistencyLens.from_subject(lm, "embed")


def test_the_encoder_has_no_layers_above_its_site(lm: FrozenLM) -> None:
    lens = tiny_lens(lm)
    assert lens.encoder.lm.config.num_hidden_layers == 2 and lm.num_layers == 4
    assert not any(".3." in name or ".2." in name for name, _ in lens.encoder.lm.named_parameters())


# What the decoder is told.


def test_a_prompt_without_its_placeholder_is_refused(lens: ConsistencyLens) -> None:
    """However the configuration came to be so: an injection that never took place goes unnoticed otherwise."""
    for broken in ([1, 5, 6], [1, lens.config.placeholder_id, lens.config.placeholder_id]):
        lens.config.prompt_ids = broken
        for call in (lens.decoder.write, lens.decoder.write_with_gradient):
            with pytest.raises(BadInput, match="exactly once"):
                call(activations(), TOLD)
    with pytest.raises(BadInput, match="exactly once"):
        ConsistencyLensConfig(prompt_ids=[1, 5, 6], placeholder_id=7)


def test_the_activation_decides_what_is_written(lens: ConsistencyLens) -> None:
    words = Words(torch.full((2, 5), 7), torch.ones(2, 5, dtype=torch.long))
    one, other = (lens.decoder.score(activations(2, seed), words) for seed in (0, 1))
    assert (one - other).abs().max() > 1e-2
    assert torch.equal(one, lens.decoder.score(activations(2, 0), words))


def test_embedding_injection_enters_at_the_norm_of_embeddings(trainable: str) -> None:
    lens = stirred(tiny_lens(tiny_lm(), trainable=trainable))
    (embedded, writes), column = (
        lens.decoder._prompt(activations()),
        lens.config.prompt_ids.index(lens.config.placeholder_id),
    )
    assert not writes
    norms = embedded[:, column].norm(dim=-1)
    torch.testing.assert_close(norms, torch.full_like(norms, lens.config.embedding_norm))
    plain = lens.decoder.embed(torch.tensor(lens.config.prompt_ids))
    others = [i for i in range(len(plain)) if i != column]
    assert torch.equal(embedded[:, others], plain[others].expand(4, -1, -1))


# What is never written, and where a text ends.


def ended(lens: ConsistencyLens) -> Iterator[Words]:
    for seed in range(60):
        yield lens.decoder.write(activations(8, seed), Noise(seed))


@pytest.mark.parametrize("case", ["llama", "gpt2"])
def test_special_tokens_are_never_written_and_no_text_is_empty(case: str) -> None:
    lens = stirred(tiny_lens(shared_lm(case)))
    assert sorted(lens.config.never_ids) == [0, 1, 3] and lens.config.stop_id == EOS
    ids, lengths = [], []
    for words in ended(lens):
        ids += words.ids[words.mask.bool()].tolist()
        lengths += words.lengths.tolist()
    assert set(range(4)).isdisjoint(ids) and len(set(ids)) > 60
    assert min(lengths) >= 1 and set(lengths) >= {3, 5}


def test_ids_beyond_the_tokenizer_are_never_written() -> None:
    lens = tiny_lens(tiny_lm("llama", vocab_size=101))
    assert lens.config.never_ids == [0, 1, 3, 96, 97, 98, 99, 100]
    assert all(int(words.ids.max()) < 96 for words in ended(lens))


@pytest.mark.parametrize("estimator", ["policy", "parallel"])
def test_nothing_behind_the_end_of_a_text_is_heard(lens: ConsistencyLens, estimator: str) -> None:
    ids = torch.tensor([[5, 6, 0, 0, 0], [7, 8, 9, 0, 0]])
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    noisy = torch.where(mask.bool(), ids, torch.tensor([[11, 12, 13, 14, 15]]))
    one = lens(activations(2), words=Words(ids, mask), noise=TOLD, estimator=estimator)
    other = lens(activations(2), words=Words(noisy, mask), noise=TOLD, estimator=estimator)
    assert torch.equal(one.restored, other.restored)
    alone = lens.encoder(Words(ids[:1, :2], mask[:1, :2]))
    torch.testing.assert_close(one.restored[:1], alone, **CLOSE)


def test_what_is_shown_is_what_the_encoder_hears(lens: ConsistencyLens) -> None:
    """The printed text, tokenised again, restores the same vector."""
    words = lens.decoder.write(activations(), TOLD)
    shown = [row["explanation"] for row in lens.explain(words)]
    again = lens.reread(shown)
    for row, length in enumerate(words.lengths.tolist()):
        assert again.ids[row, : int(again.lengths[row])].tolist() == words.ids[row, :length].tolist()
    torch.testing.assert_close(lens.encoder(again), lens.encoder(words), **CLOSE)


def test_the_scale_of_a_lens_is_that_of_the_rows_it_is_given(lm: FrozenLM) -> None:
    rows = tiny_rows()
    lens = ConsistencyLens.from_subject(lm, SITE, rows, prompt=PROMPT)
    vectors = torch.as_tensor(rows.splits["train"].with_format("torch")[SITE][:]).double()
    expected = float(vectors.square().sum(-1).mean().sqrt())
    assert lens.config.activation_norm == pytest.approx(expected, rel=1e-5) != 1.0
