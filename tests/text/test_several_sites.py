"""A lens that reads any of several sites: at one of them it is the lens of that site, and rows do not mix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lens_runs import (
    NORMS,
    PROMPT,
    SITES,
    arguments,
    gradients,
    lens_of_layers,
    of_one_site,
    rows_of_layers,
    stirred,
    tiny_lens,
    tiny_rows,
)
from tiny import padded_batch, shared_lm, tiny_lm

from consistency_lens.base.comparing import apply_lens
from consistency_lens.errors import BadInput
from consistency_lens.text.dealing import dealt, partners
from consistency_lens.text.modeling import ConsistencyLens
from consistency_lens.text.parts.generation import Noise
from consistency_lens.text.parts.sites import SiteMaps, numbered
from consistency_lens.text.trainer import ConsistencyLensTrainer
from consistency_lens.text.view import AROUND, TextView

TOLD = Noise(3, 0.7)
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def activations(rows: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {site: norm * torch.randn(rows, 32, generator=generator) for site, norm in zip(SITES, NORMS, strict=True)}


@pytest.mark.parametrize("injection", ["embedding", "residual"])
@pytest.mark.parametrize("trainable", ["full", "lora", "projections"])
@pytest.mark.parametrize("number", [0, 2])
def test_at_one_site_it_is_the_lens_of_that_site(trainable: str, injection: str, number: int) -> None:
    """The same words and vectors, bit for bit, and the same gradients; no other site's map learns anything."""
    settings = {"trainable": trainable, "injection": injection}
    several = stirred(lens_of_layers(tiny_lm(), **settings))
    one, given = of_one_site(several, number, **settings), activations()[SITES[number]]
    batch = {"activations": {SITES[number]: given}}
    codes = [lens.compress(batch) for lens in (several, one)]
    assert torch.equal(codes[0].ids, codes[1].ids)
    (ours,), (theirs,) = (lens.restore(codes[0], batch) for lens in (several, one))
    assert torch.equal(ours.tensor, theirs.tensor) and str(ours.site) == str(theirs.site) == SITES[number]
    for lens, at in ((several, number), (one, -1)):
        lens.zero_grad(set_to_none=True)
        out = lens(given, noise=TOLD, estimator="parallel", at=at)
        (out.restored.square().mean() + out.logits.logsumexp(-1).mean()).backward()
    names = {id(p): name for name, p in several.named_parameters()}
    found = gradients({names[id(p)]: p for part in several.parts().values() for p in part.values()})
    expected = gradients({name: p for part in one.parts().values() for name, p in part.items()})
    assert expected and max(g.abs().max() for g in expected.values()) > 1e-4
    for name, gradient in expected.items():
        own = found[name][number] if ".map." in name else found[name]
        torch.testing.assert_close(own, gradient, **CLOSE)
        if ".map." in name:
            others = [n for n in range(len(SITES)) if n != number]
            assert not found[name][others].any()


@pytest.mark.parametrize("injection", ["embedding", "residual"])
def test_rows_of_different_sites_equal_rows_one_by_one(injection: str) -> None:
    """Words, logits, vectors, and what the model then predicts."""
    lm = shared_lm("llama")
    lens = stirred(lens_of_layers(lm, injection=injection))
    contexts, at = padded_batch((5, 3, 4, 6, 2, 5)), torch.tensor([2, 0, 1, 1, 0, 2])
    batch = {**contexts, "activations": activations(), "site": at}
    together = apply_lens(lens, lm, batch)
    logits = lens.decoder.score(lens.read(batch), together.code, at)
    assert len(together.edits) == len(SITES)
    for row in range(len(at)):
        site = SITES[at[row]]
        one = {name: tensor[row : row + 1] for name, tensor in contexts.items()}
        one["activations"] = {site: batch["activations"][site][row : row + 1]}
        alone = apply_lens(lens, lm, one)
        length = int(alone.code.lengths[0])
        assert torch.equal(alone.code.ids[0, :length], together.code.ids[row, :length])
        torch.testing.assert_close(alone.edits[0].tensor[0], together.edits[0].tensor[row], **CLOSE)
        torch.testing.assert_close(alone.kl[0], together.kl[row], rtol=1e-3, atol=1e-5)
        apart = lens.decoder.score(one["activations"][site], alone.code, int(at[row]))
        torch.testing.assert_close(apart[0, :length], logits[row, :length], rtol=1e-3, atol=1e-4)
    assert together.kl.min() > 1e-3


def test_the_tag_of_a_site_changes_the_words() -> None:
    """The same vector, told to be of another layer."""
    lens = lens_of_layers(shared_lm("llama"))
    given, at = activations()[SITES[1]], torch.full((6,), 1)
    before = lens.decoder.score(given, lens.decoder.write(given, Noise(None), at), at)
    with torch.no_grad():
        assert isinstance(lens.decoder.map, SiteMaps)
        lens.decoder.map.bias[0] += torch.randn(32, generator=torch.Generator().manual_seed(1))
    words = lens.decoder.write(given, Noise(None), at)
    assert torch.equal(lens.decoder.score(given, words, at), before)  # the other tag is no business of this one
    assert (lens.decoder.score(given, words, torch.zeros_like(at)) - before).abs().max() > 1e-3


@pytest.mark.parametrize("trainable", ["full", "lora", "projections"])
def test_it_is_saved_and_loaded_whole(trainable: str, tmp_path: Path) -> None:
    lens = stirred(lens_of_layers(tiny_lm(), trainable=trainable))
    lens.save_pretrained(tmp_path)
    loaded = ConsistencyLens.from_pretrained(tmp_path, subject=tiny_lm())
    assert loaded.config.sites == SITES and loaded.config.site_norms == NORMS
    batch = {"activations": activations(), "site": torch.tensor([0, 1, 2, 2, 1, 0])}
    code = lens.compress(batch)
    assert torch.equal(loaded.compress(batch).ids, code.ids)
    for ours, theirs in zip(lens.restore(code, batch), loaded.restore(code, batch), strict=True):
        assert torch.equal(ours.tensor, theirs.tensor) and torch.equal(ours.rows, theirs.rows)


def test_a_damaged_one_is_refused_before_any_weights(tmp_path: Path) -> None:
    lens_of_layers(shared_lm("llama")).save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    for changed in ({"sites": [*SITES[:2], SITES[1]]}, {"site_norms": NORMS[:2]}, {"site_norms": None}):
        (tmp_path / "config.json").write_text(json.dumps(said | changed))
        with pytest.raises(BadInput, match=r"site_norms.*one for each of its 3 sites"):
            ConsistencyLens.from_pretrained(tmp_path, subject=shared_lm("llama"))


def test_scales_that_do_not_go_with_the_sites_are_refused() -> None:
    for norms in ([1.0], [1.0, 2.0, 3.0, 4.0]):
        with pytest.raises(BadInput, match=r"^site_norms=.*one for each of resid_post.0"):
            lens_of_layers(shared_lm("llama"), site_norms=norms)
    with pytest.raises(BadInput, match=r"^site_norms=0.0"):
        lens_of_layers(shared_lm("llama"), site_norms=[1.0, 0.0, 1.0])
    with pytest.raises(BadInput, match=r"^site_norms="):
        tiny_lens(shared_lm("llama"), site_norms=[1.0, 2.0])
    with pytest.raises(BadInput, match=r"^site='embed'"):
        ConsistencyLens.from_subject(shared_lm("llama"), ["embed", SITES[0]], prompt=PROMPT)
    # A lens keeps its sites in the order of the forward pass: scales in another one would be those of other sites.
    turned = [*reversed(SITES)]
    with pytest.raises(BadInput, match=r"^site_norms=.*given for resid_post.2.*order of the forward pass"):
        ConsistencyLens.from_subject(shared_lm("llama"), turned, prompt=PROMPT, site_norms=[3.0, 2.0, 1.0])
    rows = rows_of_layers()
    lens = ConsistencyLens.from_subject(shared_lm("llama"), turned, rows, prompt=PROMPT)
    assert lens.config.sites == SITES and lens.config.site_norms == [rows.norm(site) for site in SITES]


def test_each_row_gets_a_site_and_a_partner_at_the_same_one() -> None:
    documents = torch.tensor([4, 4, 4, 9, 9, 1, 7, 7, 2, 3, 5, 6])
    counts = torch.zeros(len(documents), 3)
    for seed in range(200):
        at = dealt(documents, 3, seed)
        assert torch.equal(at, dealt(documents, 3, seed)) and at.bincount().tolist() == [4, 4, 4]
        pair = partners(documents, at)
        assert torch.equal(at[pair], at) and (documents[pair] != documents).all()
        counts[torch.arange(len(at)), at] += 1
    assert counts.min() > 40 and counts.max() < 95  # of 200: a third each


@pytest.mark.parametrize("documents", [[0, 1], [0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 1], [0, 1, 2, 3, 4]])
def test_a_batch_too_small_for_all_sites_has_fewer(documents: list[int]) -> None:
    """No row is left without a partner; over several batches each site has its turn."""
    given, met = torch.tensor(documents), set()
    for seed in range(40):
        at = dealt(given, 3, seed)
        pair = partners(given, at)
        assert torch.equal(at[pair], at) and (given[pair] != given).all()
        met |= {*at.tolist()}
    assert met == {0, 1, 2}


def test_a_text_is_explained_at_each_of_its_layers() -> None:
    lm = shared_lm("llama")
    lens = stirred(lens_of_layers(lm))
    lens.subject = lm
    text = "w1 w2 w3 w4 w5"
    plain, every = lens.explain(text, [2, 4]), lens.explain(text, [2, 4], layers="all")
    assert [(row["position"], row["site"]) for row in every] == [(p, site) for p in (2, 4) for site in SITES]
    assert [{k: v for k, v in row.items() if k != "site"} for row in every if row["site"] == SITES[-1]] == [*plain]
    for named in ("0,resid_post.2", ["resid_post.0", "2"], [0, 2]):
        assert [*lens.explain(text, [2, 4], layers=named)] == [row for row in every if row["site"] != SITES[1]]
    several = lens.explain([text, "w6 w7"], layers=1)
    assert [row["site"] for rows in several for row in rows] == [SITES[1]] * 7
    assert every.tokens == plain.tokens and "resid_post.1" in every._repr_html_()


def test_a_lens_of_one_site_may_be_asked_for_all() -> None:
    lm = shared_lm("llama")
    lens = tiny_lens(lm)
    lens.subject = lm
    rows = lens.explain("w1 w2 w3", layers="all")
    assert [row.pop("site") for row in rows] == [SITES[1]] * 3 and [*rows] == [*lens.explain("w1 w2 w3")]


@pytest.mark.parametrize("layers", ["7", "resid_mid.1", "all,1", "", []])
def test_layers_that_it_does_not_read_are_refused(layers: Any) -> None:
    with pytest.raises(BadInput, match=r"^layers=.*Name some of resid_post.0, resid_post.1, resid_post.2, or all"):
        numbered(SITES, layers)
    lens = lens_of_layers(shared_lm("llama"))
    lens.subject = shared_lm("llama")
    with pytest.raises(BadInput, match=r"^layers="):
        lens.explain("w1 w2", layers=layers)


def test_layers_of_a_code_are_refused() -> None:
    lens = lens_of_layers(shared_lm("llama"))
    with pytest.raises(BadInput, match=r"^layers=.*leave layers out"):
        lens.explain(lens.reread(["w1"]), layers="all")
    with pytest.raises(BadInput, match=r"^layers='1'.*several at that layer"):
        numbered(["resid_mid.1", "resid_post.1"], "1")


def test_the_explorer_shows_a_grid_of_tokens_and_layers() -> None:
    lm = shared_lm("llama")
    lens = stirred(lens_of_layers(lm))
    lens.subject = lm
    text = " ".join(f"w{i}" for i in range(12))
    view = TextView(lens)
    grid = view.near(text, 2).parts[-1]
    assert grid.kind == "grid" and list(grid.headers) == ["token", *SITES]
    assert [row[0].split()[0] for row in grid.rows] == [str(p) for p in range(1, 3 + AROUND)]
    row = next(row for row in lens.explain(text, 2, layers="0"))
    assert grid.rows[1][1].startswith(f"{row['explanation']} · ")
    assert SITES[-1] in view.about()


def test_words_steer_at_the_layer_that_is_looked_at() -> None:
    lm = shared_lm("llama")
    lens = stirred(lens_of_layers(lm), by=0.2)
    lens.subject = lm
    found = {n: lens.looking_at(n).steer("w1 w2 w3 w4", 2, "w5 w6", continuation_length=2) for n in (0, 2)}
    for number, steered in found.items():
        row = lens.explain("w1 w2 w3 w4", 2, layers=str(number))[0]
        assert steered.old_explanation == row["explanation"] and steered.kl > 0
    assert found[0].kl != found[2].kl
    for number in (3, -4):
        with pytest.raises(BadInput, match=rf"^site={number}. Use 0 to 2, for resid_post.0"):
            lens.looking_at(number)


def test_rows_that_lack_a_site_are_refused_before_a_step(tmp_path: Path) -> None:
    lm = shared_lm("llama")
    with pytest.raises(BadInput, match=r"^site='resid_post.0'.*extract this site too"):
        ConsistencyLensTrainer(lens_of_layers(lm), arguments(tmp_path), tiny_rows(), frozen=lm)
    plain = rows_of_layers().splits["train"].remove_columns("resid_post.1")
    with pytest.raises(BadInput, match=r"resid_post.1"):
        ConsistencyLensTrainer(lens_of_layers(lm), arguments(tmp_path), plain, frozen=lm)
