"""The adapter of a model: its scale, and the linear start."""

from __future__ import annotations

import pytest
import torch
from tiny import shared_lm, tiny_tokenizer
from torch.nn.functional import gelu, silu
from wire_runs import turned_tokenizer, wire_lens, wire_models

from consistency_lens.soft.parts.receiver import Receiver, embedding_table, principal, ridge, rms_of, shared_words


@pytest.mark.parametrize("case", ["llama", "gemma2", "gemma3", "gpt2"])
def test_soft_tokens_have_the_root_mean_square_of_embeddings(case: str) -> None:
    """Of what enters the blocks: Gemma's table times sqrt(d), as its embedding module gives it out."""
    lm = shared_lm(case)
    table = embedding_table(lm)
    ids = torch.tensor([[5, 9, 31]])
    torch.testing.assert_close(table[ids], lm.model.get_input_embeddings()(ids))
    scale = lm.hidden_size**0.5 if case.startswith("gemma") else 1.0
    assert rms_of(table) == pytest.approx(scale * rms_of(lm.model.get_input_embeddings().weight.detach()), rel=1e-2)
    receiver = Receiver(6, lm.hidden_size, rms_of(table))
    receiver.initialise(0)
    code = 7 * torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    vectors = receiver(code, mask).detach()
    for row, count in enumerate((4, 2)):
        assert rms_of(vectors[row, :count]) == pytest.approx(rms_of(table), rel=1e-4)
    torch.testing.assert_close(receiver(code[1:, :2], mask[1:, :2])[0].detach(), vectors[1, :2])
    plain = Receiver(6, lm.hidden_size, rms_of(table), calibrate=False)
    plain.load_state_dict(receiver.state_dict())
    ratio = plain(code, mask).detach() / vectors
    torch.testing.assert_close(ratio[0], ratio[0, :1, :1].expand_as(ratio[0]), rtol=1e-3, atol=1e-4)


def test_a_row_without_vectors_has_finite_soft_tokens_and_gradients() -> None:
    receiver = Receiver(3, 4, 0.5)
    code = torch.zeros(1, 2, 3, requires_grad=True)
    vectors = receiver(code, torch.zeros(1, 2).bool())
    vectors.sum().backward()
    assert vectors.isfinite().all() and code.grad is not None and code.grad.isfinite().all()


@pytest.mark.parametrize("name", ["gelu", "silu", "tanh"])
def test_an_activation_changes_nothing_until_it_is_trained(name: str) -> None:
    plain, bent = Receiver(6, 8, 0.5, calibrate=False), Receiver(6, 8, 0.5, calibrate=False, activation=name)
    for receiver in (plain, bent):
        receiver.initialise(0)
    code, mask = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0)), torch.ones(2, 4).bool()
    vectors = bent(code, mask)
    assert torch.equal(vectors, plain(code, mask)), "at the start it is two linear layers"
    vectors.square().sum().backward()
    assert bent.bend is not None and bent.bend.grad is not None and bool((bent.bend.grad != 0).all())
    with torch.no_grad():
        bent.bend.copy_(torch.linspace(-1, 1, 8))
        hidden = bent.first(code)
        by_hand = bent.second(hidden + bent.bend * {"gelu": gelu, "silu": silu, "tanh": torch.tanh}[name](hidden))
    torch.testing.assert_close(bent(code, mask), 0.5 * by_hand)


def test_words_are_shared_by_what_they_write() -> None:
    one, other = tiny_tokenizer(), turned_tokenizer()
    first, second = shared_words(one, other)
    assert one.convert_ids_to_tokens(first) == other.convert_ids_to_tokens(second)
    assert len(first) == 92 and not set(first) & set(one.all_special_ids) and first == sorted(first)


def test_ridge_finds_a_map_and_says_what_it_explains() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(size, generator=generator) for size in ((200, 5), (7, 5), (7,)))
    found, offset, explained = ridge(x, x @ weight.T + bias, strength=1e-9)
    torch.testing.assert_close(found, weight, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(offset, bias, rtol=1e-4, atol=1e-4)
    assert explained == pytest.approx(1)
    noise = torch.randn(200, 7, generator=generator)
    assert ridge(x, noise)[2] < 0.2
    shrunk = ridge(x, x @ weight.T + bias, strength=1.0)[0]
    assert shrunk.norm() < 0.9 * weight.norm()


def test_fewer_coordinates_keep_the_principal_ones() -> None:
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 5, 3, 0.1, 0.1, 0.1])
    kept = principal(x, 3)
    torch.testing.assert_close(kept @ kept.T, torch.eye(3), rtol=1e-5, atol=1e-5)
    assert (x - x @ kept.T @ kept).norm() < 0.05 * x.norm()
    assert torch.equal(principal(x, 8)[:6], torch.eye(6)) and principal(x, 8).shape == (8, 6)


def test_another_model_reads_through_the_map_between_tables() -> None:
    """The tables of the two models are one table, turned: the ridge map finds the turn."""
    lens = wire_lens(calibrate=False)
    tables = {name: embedding_table(model) for name, model in wire_models().items()}
    first, second = shared_words(*(model.tokenizer for model in wire_models().values()))
    code = tables["words"][first] / lens.compressor.config.compressor_rms
    mask = torch.ones(1, len(code)).bool()
    for name, ids in (("words", first), ("turned", second)):
        found = lens.receiver(name)(code[None], mask)[0]
        off = (found - tables[name][ids]).norm() / tables[name][ids].norm()
        assert off < (1e-5 if name == "words" else 0.05), (name, off)
