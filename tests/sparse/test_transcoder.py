"""`CrosslayerTranscoder` against its equations written out, folded, calibrated, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import padded_batch, shared_lm
from torch import Tensor
from transcoders import activations, small_lens

from consistency_lens.errors import BadInput
from consistency_lens.frozen import ProvenanceMismatch
from consistency_lens.sparse.coding.entries import Entries
from consistency_lens.sparse.coding.nonlinear import topk_mask
from consistency_lens.sparse.modeling import CrosslayerTranscoder

KINDS: dict[str, dict[str, Any]] = {
    "jumprelu": {},
    "relu": {"nonlinearity": "relu", "standardisation": "dimension"},
    "topk": {"nonlinearity": "topk", "k": 3, "skip": True},
    "batchtopk": {"nonlinearity": "batchtopk", "k": 3, "tied_decoder": True},
    "across layers": {"nonlinearity": "batchtopk", "k": 3, "across_layers": True, "standardisation": "none"},
    "per layer": {"crosslayer": False, "skip": True},
    "window": {"layers": "1:3", "tied_decoder": True, "skip": True},
    "sae": {"layers": [2], "read_stage": "resid_post", "write_stage": "resid_post"},
}


@pytest.fixture(params=KINDS)
def lens(request: pytest.FixtureRequest) -> CrosslayerTranscoder:
    return small_lens(**KINDS[request.param])


def read_for(lens: CrosslayerTranscoder, tokens: int = 40) -> Tensor:
    return activations(tokens, len(lens.config.window), seed=3)


def written_out(lens: CrosslayerTranscoder, read: Tensor) -> tuple[list[Tensor], Tensor]:
    """Features and reconstruction from the parameters by their names, one equation after the other."""
    weights, config = dict(lens.named_parameters()), lens.config
    count, size = len(config.window), config.hidden_size
    x = (read - weights["standardiser.mean"]) / weights["standardiser.scale"]
    pres = [x[:, i] @ weights[f"sources.{i}.W_enc"].T + weights[f"sources.{i}.b_enc"] for i in range(count)]
    features = []
    everything = torch.stack(pres)
    for i, pre in enumerate(pres):
        match config.nonlinearity:
            case "relu":
                f = pre.relu()
            case "jumprelu":
                f = pre * (pre > weights[f"sources.{i}.log_threshold"].exp())
            case "topk":
                kept = pre.argsort(dim=1, descending=True)[:, :3]
                f = torch.zeros_like(pre).scatter(1, kept, pre.gather(1, kept)).relu()
            case _:
                rivals = everything if config.across_layers else pre
                least = rivals.flatten().sort(descending=True).values[3 * rivals.numel() // rivals.shape[-1] - 1]
                f = pre * (pre >= least) * (pre > 0)
        features.append(f)
    written = []
    for target in range(count):
        y = weights["targets.b_dec"][target].expand(len(read), -1)
        for i in range(target + 1) if config.crosslayer else [target]:
            if config.tied_decoder:
                decoder = weights[f"targets.W_dec.{target}"]
            else:
                step = (target - i) * size
                decoder = weights[f"sources.{i}.W_dec"][:, step : step + size]
            y = y + features[i] @ decoder
        if config.skip:
            y = y + x[:, target] @ weights["targets.W_skip"][target].T
        written.append(y)
    scale = weights["targets.standardiser.scale"]
    return features, torch.stack(written, 1) * scale + weights["targets.standardiser.mean"]


def test_it_computes_its_equations(lens: CrosslayerTranscoder) -> None:
    read = read_for(lens)
    features, written = written_out(lens, read)
    for limit in (0.0, 1.0):
        found = lens(read, limit=limit)
        assert all(isinstance(a, Entries) == (limit == 1.0) for a in found.active)
        for own, expected in zip(found.active, features, strict=True):
            torch.testing.assert_close(own.dense() if isinstance(own, Entries) else own, expected)
        assert found.code.counts().tolist() == [(f > 0).sum(0).tolist() for f in features]
        for own, expected in zip(found.code.entries, features, strict=True):
            torch.testing.assert_close(own.dense(), expected)
            assert len(own.values) == int((expected > 0).sum()) and not own.values.requires_grad
        undone = lens.targets.standardiser.undo(found.reconstruction)
        torch.testing.assert_close(undone, written, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(lens.reconstruct(read), written, rtol=1e-5, atol=1e-4)
    assert float(written.detach().std()) > 0.1


def test_dense_and_sparse_have_the_same_gradients(lens: CrosslayerTranscoder) -> None:
    read = read_for(lens)
    trained = [p for part in lens.parts().values() for p in part.values()]

    def slopes(limit: float) -> list[Tensor]:
        loss = lens(read, limit=limit).reconstruction.square().mean()
        return list(torch.autograd.grad(loss, trained))

    for dense, few in zip(slopes(0.0), slopes(1.0), strict=True):
        torch.testing.assert_close(few, dense, rtol=1e-4, atol=1e-6)
        assert torch.isfinite(dense).all() and float(dense.abs().sum()) > 0


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_bfloat16_products_train_float32_weights(lens: CrosslayerTranscoder, limit: float) -> None:
    read = read_for(lens)
    trained = [p for part in lens.parts().values() for p in part.values()]

    def slopes() -> list[Tensor]:
        return list(torch.autograd.grad(lens(read, limit=limit).reconstruction.square().mean(), trained))

    expected = slopes()
    with torch.autocast("cpu", torch.bfloat16):
        found = slopes()
    for own, exact in zip(found, expected, strict=True):
        assert own.dtype == torch.float32
        # A TopK may choose another feature of two that are equal to three digits.
        assert float(torch.cosine_similarity(own.flatten(), exact.flatten(), dim=0)) > 0.95


def test_folded_weights_give_the_same(lens: CrosslayerTranscoder) -> None:
    read = read_for(lens)
    folded = lens.fold()
    assert folded.config.standardisation == "none" and folded.config.nonlinearity == lens.config.nonlinearity
    assert torch.equal(folded.standardiser(read), read)
    before, after = lens.reconstruct(read).detach(), folded.reconstruct(read).detach()
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5 * float(before.abs().max()))
    assert torch.equal(folded(read).code.counts(), lens(read).code.counts())


def test_saved_and_loaded(lens: CrosslayerTranscoder, tmp_path: Path) -> None:
    read = read_for(lens)
    lens.save_pretrained(tmp_path)
    again = CrosslayerTranscoder.from_pretrained(tmp_path, shared_lm("llama"))
    assert torch.equal(again.reconstruct(read), lens.reconstruct(read))
    assert not again.training and again.subject is shared_lm("llama")
    assert CrosslayerTranscoder.from_pretrained(tmp_path).config.window == lens.config.window
    with pytest.raises(ProvenanceMismatch):
        CrosslayerTranscoder.from_pretrained(tmp_path, shared_lm("gpt2"))


def test_what_is_trained_and_what_is_not(lens: CrosslayerTranscoder) -> None:
    parts = lens.parts()
    named = {name for part in parts.values() for name in part}
    fixed = {name for name, parameter in lens.named_parameters() if not parameter.requires_grad}
    assert named | fixed == {name for name, _ in lens.named_parameters()} and not named & fixed
    assert all("standardiser" in name for name in fixed)
    held = {id(p) for piece in lens.pieces().values() for p in piece.parameters()}
    assert held == {id(p) for p in lens.parameters()}


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "across layers"])
def test_calibrated_thresholds_keep_the_number_of_active_features(kind: str) -> None:
    lens = small_lens(**KINDS[kind] | {"features": 64})
    parts = [activations(4000, seed=seed) for seed in (3, 4)]
    shipped = lens.calibrated(parts)
    assert shipped.config.nonlinearity == "jumprelu" and shipped.config.k is None
    unseen = activations(4000, seed=9)
    for read, chosen, slack in ((torch.cat(parts), parts, 0.005), (unseen, [unseen], 0.05)):
        wanted = sum(lens(part).code.counts().sum(1) for part in chosen)
        torch.testing.assert_close(shipped(read).code.counts().sum(1) / wanted, torch.ones(4), rtol=0, atol=slack)
    assert shipped.replaced({})  # which a lens whose layers compete cannot


def test_a_calibration_needs_a_k_and_data() -> None:
    with pytest.raises(BadInput, match="no k to calibrate"):
        small_lens().calibrated([activations()])
    with pytest.raises(BadInput, match="at least one batch"):
        small_lens(**KINDS["topk"]).calibrated([])


def test_codes_and_rows_for_people() -> None:
    lens, frozen = small_lens("llama", "1:3", nonlinearity="topk", k=3), shared_lm("llama")
    read = frozen.read(padded_batch((6,)), lens.config.read_sites)
    code = lens.compress({"activations": {site: value[0] for site, value in read.items()}})
    assert len(code) == 6 and code.l0.tolist() == [3.0, 3.0]
    stacked = torch.stack([read[site][0] for site in lens.config.read_sites], 1)
    pre = lens.standardiser(stacked)[:, 0] @ lens.layers_in_order[0].W_enc.T + lens.layers_in_order[0].b_enc
    rows = lens.describe(code.take(torch.tensor([4])))
    own = [(layer, feature) for layer, feature, _ in rows[0]["features"] if layer == 1]
    assert sorted(f for _, f in own) == topk_mask(pre, 3)[4].nonzero().flatten().tolist()
    assert rows[0]["active"] == 6 and rows[0]["explanation"].count("/") == 6
    with pytest.raises(BadInput, match="reads this site"):
        lens.compress({"activations": {"resid_mid.1": read["resid_mid.1"][0]}})
