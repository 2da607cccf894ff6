"""A transcoder in the place of all MLPs inside one pass, against the model run layer by layer through plain edits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import padded_batch, shared_lm
from torch import Tensor
from torch.nn import functional
from transcoders import small_lens

from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, FrozenModels
from consistency_lens.sparse.modeling import CrosslayerTranscoder

KINDS: dict[str, dict[str, Any]] = {
    "crosslayer": {},
    "mlp_in": {"read_stage": "mlp_in"},
    "tied": {"nonlinearity": "topk", "k": 4, "tied_decoder": True, "skip": True},
    "per layer": {"crosslayer": False, "nonlinearity": "relu"},
    "window": {"layers": "1:3", "skip": True},
    "sae": {"layers": [1, 2], "read_stage": "mlp_out", "crosslayer": False},
}
BATCH = padded_batch((9, 5))


def one_by_one(lens: CrosslayerTranscoder, batch: dict[str, Tensor]) -> list[Edit]:
    """The same edits as plain tensors, found from below: each pass knows the values of the layers beneath."""
    frozen, edits = shared_lm("llama"), []
    mask = batch["attention_mask"]
    own = ((mask.cumsum(1) <= 1) | (mask == 0)).unsqueeze(-1)
    for target, site in enumerate(lens.config.written_sites):
        # The site that is asked for is read as an edit that changes nothing lets it flow.
        sites = lens.config.read_sites[: target + 1]
        flowing = read_under(batch, edits, [*sites, site])
        rows = [flowing[s].flatten(0, 1) for s in sites]
        rows += [torch.zeros_like(rows[0])] * (len(lens.config.window) - len(rows))
        written = lens.reconstruct(torch.stack(rows, 1))[:, target].view(flowing[site].shape)
        edits.append(Edit(site, torch.where(own, flowing[site], written), None))
    assert frozen.num_layers == 4
    return edits


def read_under(batch: dict[str, Tensor], edits: list[Edit], sites: list[str]) -> dict[str, Tensor]:
    """What flows at some sites in a pass with edits."""
    found: dict[str, Tensor] = {}

    def keep(site: str) -> Edit:
        def value(read: Any) -> Tensor:
            found[site] = read[site]
            return read[site]

        return Edit(site, value, None, reads=(site,))

    shared_lm("llama").logits(batch, [*edits, *map(keep, dict.fromkeys(sites))])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_equals_layer_by_layer(kind: str) -> None:
    lens, frozen = small_lens(**KINDS[kind]), shared_lm("llama")
    with torch.no_grad():
        found = frozen.logits(BATCH, lens.restore(None, BATCH))
        expected = frozen.logits(BATCH, one_by_one(lens, BATCH))
    seen = BATCH["attention_mask"].bool()
    torch.testing.assert_close(found[seen], expected[seen], rtol=1e-4, atol=1e-4)
    clean = frozen.logits(BATCH)
    first = BATCH["attention_mask"].cumsum(1) == 1
    torch.testing.assert_close(found[first & seen], clean[first & seen])  # keeps its own MLPs
    later = (BATCH["attention_mask"].cumsum(1) > 1) & seen
    assert float((found - clean)[later].abs().amax(-1).min()) > 1e-2


@pytest.mark.parametrize("kind", ["crosslayer", "tied", "per layer"])
def test_gradients_flow_through_the_model_to_all_weights(kind: str) -> None:
    lens, frozen = small_lens(**KINDS[kind]), shared_lm("llama")
    trained = [p for part in lens.parts().values() for p in part.values()]

    def slopes(edits: list[Edit]) -> list[Tensor]:
        logits = frozen.logits(BATCH, edits)[BATCH["attention_mask"].bool()]
        weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(5))
        return list(torch.autograd.grad((logits.log_softmax(-1) * weight).sum(), trained))

    for own, expected in zip(slopes(lens.replaced(BATCH)), slopes(one_by_one(lens, BATCH)), strict=True):
        assert float(expected.abs().sum()) > 0
        torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_edits_serve_several_passes() -> None:
    """What a pass leaves behind does not meet the next one."""
    lens, frozen = small_lens(), shared_lm("llama")
    other = padded_batch((9, 5), seed=3)
    edits = lens.replaced(BATCH)
    with torch.no_grad():
        first = frozen.logits(BATCH, edits)
        second = frozen.logits(other, edits)
        assert torch.equal(frozen.logits(BATCH, edits), first)
        assert torch.equal(frozen.logits(other, lens.replaced(other)), second)
        # Some of the edits alone are replacements of these sites alone.
        alone = frozen.logits(BATCH, edits[2])
        assert not torch.equal(alone, first) and torch.equal(alone, frozen.logits(BATCH, lens.replaced(BATCH)[2]))


def test_a_factor_changes_one_feature_everywhere() -> None:
    lens, frozen = small_lens(nonlinearity="relu"), shared_lm("llama")
    changed = small_lens(nonlinearity="relu")
    with torch.no_grad():  # the same lens with a decoder row twice as long
        decoder = changed.layers_in_order[1].W_dec
        assert decoder is not None
        decoder[5] *= 2.0
        found = frozen.logits(BATCH, lens.replaced(BATCH, {(1, 5): 2.0}))
        seen = BATCH["attention_mask"].bool()
        torch.testing.assert_close(found[seen], frozen.logits(BATCH, changed.replaced(BATCH))[seen])
        assert not torch.allclose(found, frozen.logits(BATCH, lens.replaced(BATCH)))


def test_a_change_in_the_model_adds_what_the_feature_writes() -> None:
    lens, frozen = small_lens("llama", "1:3", nonlinearity="relu"), shared_lm("llama")
    with torch.no_grad():
        site = "resid_mid.1"
        read = frozen.read(BATCH, site)[site]
        source = lens.layers_in_order[0]
        x = (read - lens.standardiser.mean[0]) / lens.standardiser.scale[0]
        f = (x @ source.W_enc[7] + source.b_enc[7]).relu()
        f = f * (BATCH["attention_mask"].cumsum(1) > 1)
        assert source.W_dec is not None and float(f.sum()) > 0
        row = source.W_dec[7].view(2, -1) * lens.targets.standardiser.scale
        edits = [Edit(f"mlp_out.{1 + i}", -1.0 * f.unsqueeze(-1) * row[i], None, "add") for i in range(2)]
        expected = frozen.logits(BATCH, edits)
        found = frozen.logits(BATCH, lens.changed({(1, 7): 0.0}, BATCH))
        seen = BATCH["attention_mask"].bool()
        torch.testing.assert_close(found[seen], expected[seen], rtol=1e-4, atol=1e-4)
        assert torch.equal(frozen.logits(BATCH, lens.changed({(1, 7): 1.0}, BATCH))[seen], frozen.logits(BATCH)[seen])


def test_texts() -> None:
    lens = small_lens(nonlinearity="relu")
    text = "w1 w2 w3"
    rows = lens.features(text, top=3)
    assert [row["token"] for row in rows] == ["w1", "w2", "w3"] and all(len(row["features"]) == 3 for row in rows)
    layer, feature, _ = rows[-1]["features"][0]
    for inside in ("model", "lens"):
        gone = lens.ablate(text, [(layer, feature)], inside)
        assert gone.kl > 0 and gone.before != gone.after
        assert gone == lens.amplify(text, {(layer, feature): 0.0}, inside)
        assert lens.amplify(text, {(layer, feature): 1.0}, inside).kl == 0.0


def test_it_is_compared_by_whole_passes_without_first_tokens() -> None:
    lens, frozen = small_lens(), shared_lm("llama")
    found = lens.comparison(FrozenModels.of(frozen), BATCH).measure(lens.replaced(BATCH))
    clean, edited = frozen.logits(BATCH), frozen.logits(BATCH, lens.replaced(BATCH))
    for row, length in enumerate((9, 5)):
        own = slice(9 - length + 1, None)
        p, q = (logits[row, own].log_softmax(-1) for logits in (clean, edited))
        torch.testing.assert_close(found["kl"][row], (p.exp() * (p - q)).sum(-1).mean(), rtol=1e-4, atol=1e-5)


def test_rows_of_some_tokens() -> None:
    lens = small_lens(nonlinearity="topk", k=2)
    every = lens.explain("w1 w2 w3")
    assert lens.explain("w1 w2 w3", [-1, 1]) == [every[2], every[0]]
    (first,) = lens.explain("w1 w2 w3", [0])
    assert first["token"] == "<bos>" and first["active"] == 8
    assert lens.explain(small_code(lens)) == lens.describe(small_code(lens))
    with pytest.raises(BadInput, match="4 tokens"):
        lens.explain("w1 w2 w3", [4])


def small_code(lens: CrosslayerTranscoder) -> Any:
    read = shared_lm("llama").read(BATCH, lens.config.read_sites)
    return lens.compress({"activations": {site: value[0] for site, value in read.items()}})


def test_what_cannot_be_changed() -> None:
    lens = small_lens("llama", "1:3")
    with pytest.raises(BadInput, match="layers") as caught:
        lens.replaced({}, {(0, 1): 0.0})
    assert caught.value.field == "layer"
    with pytest.raises(BadInput) as caught:
        lens.changed({(1, 24): 0.0})
    assert caught.value.field == "feature"
    with pytest.raises(BadInput) as caught:
        lens.amplify("w1 w2", {}, inside="head")
    assert caught.value.field == "inside"
    lens.subject = None
    with pytest.raises(BadInput) as caught:
        lens.features("w1 w2")
    assert caught.value.field == "subject"
    compete = small_lens(nonlinearity="batchtopk", k=2, across_layers=True)
    with pytest.raises(BadInput, match="layers above are not known yet"):
        compete.replaced(BATCH)


def test_padding_and_first_tokens_do_not_compete_in_a_batchtopk() -> None:
    frozen, ids = shared_lm("llama"), BATCH["input_ids"][:1]
    lens = small_lens(nonlinearity="batchtopk", k=3)
    wide = {"input_ids": functional.pad(ids, (30, 0)), "attention_mask": functional.pad(torch.ones_like(ids), (30, 0))}
    batches = [{"input_ids": ids}, wide]
    alone, padded = (frozen.logits(each, lens.replaced(each), keep=ids.shape[1]) for each in batches)
    torch.testing.assert_close(alone, padded, atol=1e-4, rtol=1e-4)
    read = frozen.read(batches[0], [*lens.config.read_sites, *lens.config.written_sites])
    rows = torch.stack([read[site][0, 1:] for site in lens.config.read_sites], 1)
    written = lens.replaced(batches[0])[0].value(read)[0, 1:]
    torch.testing.assert_close(written, lens.reconstruct(rows)[:, 0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("way", ["replaced", "changed"])
def test_a_text_is_generated_with_the_lens_in_place_at_new_tokens_too(way: str) -> None:
    lens, frozen = small_lens(), shared_lm("llama")

    def edits(batch: dict[str, Tensor] | None = None, **options: bool) -> list[Edit]:
        factors = {(1, 3): 20.0, (2, 5): 20.0}
        return lens.replaced(batch, **options) if way == "replaced" else lens.changed(factors, batch, **options)

    given: dict[str, Any] = {"edits": edits(BATCH), "new_edits": edits(first=False), "max_new_tokens": 4}
    cached, whole = (frozen.generate(BATCH, **given, stop_ids=[], use_cache=cache) for cache in (True, False))
    assert torch.equal(cached.ids, whole.ids)
    assert not torch.equal(cached.logprobs, frozen.generate(BATCH, **{**given, "new_edits": []}, stop_ids=[]).logprobs)
    grown = torch.cat([BATCH["input_ids"], cached.ids], 1)
    mask = torch.cat([BATCH["attention_mask"], cached.mask], 1)
    longer = {"input_ids": grown, "attention_mask": mask}
    logits = frozen.logits(longer, edits(longer), keep=5)[:, :-1]
    expected = logits.log_softmax(-1).gather(-1, cached.ids.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(cached.logprobs, expected, atol=1e-4, rtol=1e-4)
    for first in (edits(BATCH), edits()):
        with pytest.raises(BadInput, match="first=False"):
            frozen.generate({"input_ids": BATCH["input_ids"][:, -5:]}, first, max_new_tokens=2, stop_ids=[])
