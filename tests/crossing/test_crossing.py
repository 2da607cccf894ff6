"""One family reads another, with lenses of which it is known what they must find."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from fake_lenses import SITE, VectorCode, VectorLens
from tiny import padded_batch, shared_lm
from torch.nn.functional import cosine_similarity
from transcoders import small_lens

from consistency_lens.crossing import features_kept, words_of_feature
from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, FrozenLM
from consistency_lens.sparse.modeling import CrosslayerTranscoder

TEXTS = ["w1 w2 w3 w4 w5", "w9 w8 w7", "w30 w31 w32 w33"]


@pytest.fixture(scope="module")
def frozen() -> FrozenLM:
    return shared_lm("llama")


@pytest.fixture(scope="module")
def transcoder(frozen: FrozenLM) -> CrosslayerTranscoder:
    return small_lens("llama", frozen=frozen)


def words(frozen: FrozenLM, share: float = 1.0) -> VectorLens:
    """A lens whose words hold this share of an activation, the rest being a vector that is the same for all."""
    lens = VectorLens(frozen, torch.full((frozen.hidden_size,), 0.3), share)
    lens.subject = frozen
    return lens


def strongest(transcoder: CrosslayerTranscoder, layer: int) -> tuple[int, float, int, int]:
    """The feature of a layer that is strongest on these texts: itself, its value, and where."""
    found = [
        (value, feature, text, row["position"])
        for text, own in enumerate(TEXTS)
        for row in transcoder.features(own, top=96)
        for at, feature, value in row["features"]
        if at == layer
    ]
    value, feature, text, position = max(found)
    return feature, value, text, position


def test_what_a_feature_writes_is_what_the_model_gains_by_it(
    frozen: FrozenLM, transcoder: CrosslayerTranscoder
) -> None:
    """Its direction is the change of the stream where the feature is doubled inside the model; the words say it."""
    feature, value, text, position = strongest(transcoder, 1)
    found = words_of_feature(words(frozen), transcoder, 1, feature, TEXTS)
    batch = {"input_ids": frozen.tokenizer(TEXTS[text], return_tensors="pt")["input_ids"]}
    before, after = (
        frozen.read(batch, SITE, edits=edits)[SITE][0, position]
        for edits in ([], transcoder.changed({(1, feature): 2.0}, batch))
    )
    gained = after - before
    code = words(frozen).compress({"activations": {SITE: torch.stack([gained, -gained])}})
    said, opposite = (row["explanation"] for row in words(frozen).describe(code))
    assert (found.written, found.opposite) == (said, opposite)
    assert found.cosine == pytest.approx(1, abs=1e-5)
    first = found.contexts[0]
    assert (first["text"], first["position"]) == (text, position) and first["value"] == pytest.approx(value)
    assert first["context"].split()[-1] == TEXTS[text].split()[position - 1]
    row = words(frozen).explain(TEXTS[text], positions=position)[0]
    assert (first["explanation"], first["kl"]) == (row["explanation"], pytest.approx(row["kl"], abs=1e-5))
    values = [row["value"] for row in found.contexts]
    assert values == sorted(values, reverse=True) and len({row["text"] for row in found.contexts}) == len(values)
    # Words that hold nothing of an activation do not point where the feature writes.
    assert abs(words_of_feature(words(frozen, 0.0), transcoder, 1, feature).cosine) < 0.9


def test_of_a_feature_below_the_site_all_that_reaches_it_counts(
    frozen: FrozenLM, transcoder: CrosslayerTranscoder
) -> None:
    from consistency_lens.sparse.features.logit_effect import written_by

    written = written_by(transcoder, 0, torch.tensor([3]))[0]  # to the layers 0, 1, 2 and 3
    by_hand = (written[0] + written[1])[None]
    said = words(frozen).describe(words(frozen).compress({"activations": {SITE: by_hand}}))[0]["explanation"]
    assert len(written) == 4 and words_of_feature(words(frozen), transcoder, 0, 3).written == said


def test_words_that_hold_all_keep_every_feature(frozen: FrozenLM, transcoder: CrosslayerTranscoder) -> None:
    found = features_kept(words(frozen), transcoder, TEXTS)
    spots = [(text, position) for text, own in enumerate(TEXTS) for position in range(1, len(own.split()) + 1)]
    assert [(row.text, row.position) for row in found] == spots
    for row in found:
        assert row.token == TEXTS[row.text].split()[row.position - 1]
        assert row.kept == pytest.approx(1, abs=1e-4) and row.control < 0.95 and not row.new
        assert row.features and all(each["layer"] > 1 for each in row.features)
        for each in row.features:
            assert each["after"] == pytest.approx(each["before"], rel=1e-2, abs=1e-4)
    half, nothing = (
        [row.kept for row in features_kept(words(frozen, share), transcoder, TEXTS)] for share in (0.7, 0.0)
    )
    assert sum(nothing) < sum(half) < len(found)


def test_equal_texts_are_read_once(frozen: FrozenLM, transcoder: CrosslayerTranscoder) -> None:
    """The control takes the words of another token: those of the same token of an equal text would be its own."""
    first, again = "w1 w2 w3", "w9 w8 w7"
    given = [first, first, again, first, again]
    found = features_kept(words(frozen, 0.5), transcoder, given, positions=[-1, 3])
    assert [(row.text, row.position) for row in found] == [(0, 3), (2, 3)]
    alone = features_kept(words(frozen, 0.5), transcoder, [first, again], positions=-1)
    assert [(row.kept, row.control) for row in found] == [(row.kept, row.control) for row in alone]
    assert all(row.kept != row.control for row in found)
    with pytest.raises(BadInput, match="at least two tokens"):
        features_kept(words(frozen), transcoder, [first, first], positions=-1)
    feature, _, text, _ = strongest(transcoder, 1)
    several, whole = (
        words_of_feature(words(frozen), transcoder, 1, feature, own).contexts
        for own in ([TEXTS[text], *TEXTS, TEXTS[text]], [TEXTS[text], *(own for own in TEXTS if own != TEXTS[text])])
    )
    assert several[0]["text"] == 0 and [row["context"] for row in several] == [row["context"] for row in whole]


def test_batches_change_nothing(frozen: FrozenLM, transcoder: CrosslayerTranscoder) -> None:
    """But for the control, which takes the words of another token of its batch."""
    whole = features_kept(words(frozen, 0.5), transcoder, TEXTS, positions=[1, -1])
    for batch_size in (2, 5):
        for row, other in zip(
            features_kept(words(frozen, 0.5), transcoder, TEXTS, [1, -1], batch_size=batch_size), whole, strict=True
        ):
            assert (row.text, row.position, row.explanation) == (other.text, other.position, other.explanation)
            assert row.kept == pytest.approx(other.kept, abs=1e-4)
    (one,) = (row for row in whole if (row.text, row.position) == (1, 1))
    # The slow twin: the one context, the activation by hand, and the features of what the model then reads.
    lens, ids = words(frozen, 0.5), frozen.tokenizer("w9", return_tensors="pt")["input_ids"]
    read = frozen.read({"input_ids": ids}, SITE)[SITE][:, -1]
    restored = 0.5 * read + 0.5 * lens.mean
    sites = transcoder.config.read_sites
    clean = frozen.read({"input_ids": ids}, sites)
    edited = frozen.read({"input_ids": ids}, sites, edits=Edit(SITE, restored))
    before, after = (
        {
            (at, which): value
            for at, which, value in transcoder.compress(
                {"activations": {site: found[site][:, -1] for site in sites}}
            ).rows(96)[0]["features"]
            if at > 1
        }
        for found in (clean, edited)
    )
    kept = sum(min(value, after.get(name, 0.0)) for name, value in before.items()) / sum(before.values())
    assert one.kept == pytest.approx(kept, abs=1e-4)
    assert {(each["layer"], each["feature"]) for each in one.new} <= after.keys() - before.keys()


def test_reading_under_edits_is_what_the_edited_model_computes() -> None:
    """What is read above an edit, put into a clean pass, makes that pass the edited one."""
    frozen = shared_lm("llama")
    edit = Edit("resid_post.0", torch.ones(4, 32))
    read = frozen.read(padded_batch(), "resid_post.2", edits=edit)["resid_post.2"]
    own = padded_batch()["attention_mask"].bool()
    clean = frozen.read(padded_batch(), "resid_post.2")["resid_post.2"]
    assert not torch.allclose(read[:, -1], clean[:, -1]) and torch.equal(
        read[:, :-1][own[:, :-1]], clean[:, :-1][own[:, :-1]]
    )
    assert torch.equal(
        frozen.logits(padded_batch(), Edit("resid_post.2", read, None))[:, -1],
        frozen.logits(padded_batch(), edit)[:, -1],
    )
    with pytest.raises(BadInput, match="edits='prepend'"):
        frozen.read(padded_batch(), "resid_post.2", edits=Edit("embed", torch.zeros(4, 2, 32), 0, "prepend"))


def test_what_cannot_be_read_together_is_refused(frozen: FrozenLM, transcoder: CrosslayerTranscoder) -> None:
    lens = words(frozen)

    def refused(said: str, act: Any, *given: Any, **more: Any) -> None:
        with pytest.raises(BadInput, match=said):
            act(*given, **more)

    refused("layer=2: it writes above", words_of_feature, lens, transcoder, 2, 0)
    refused("layer=9", words_of_feature, lens, transcoder, 9, 0)
    refused("feature=24", words_of_feature, lens, transcoder, 0, 24)
    refused("different models", words_of_feature, words(shared_lm("gpt2")), transcoder, 0, 0)
    refused("transcoder=", features_kept, lens, small_lens("llama", [0, 1], frozen=frozen), TEXTS)
    refused("at least two tokens", features_kept, lens, transcoder, TEXTS[0], 1)
    refused("batch_size=1", features_kept, lens, transcoder, TEXTS, batch_size=1)
    lens.subject = None
    refused("subject=None", features_kept, lens, transcoder, TEXTS)


def test_the_direction_does_not_depend_on_what_the_feature_is_worth(
    frozen: FrozenLM, transcoder: CrosslayerTranscoder
) -> None:
    """A lens in words is given it as long as its activations are."""
    seen: list[torch.Tensor] = []

    class Watched(VectorLens):
        def compress(self, batch: Mapping[str, Any], seed: int | None = None) -> VectorCode:
            seen.append(batch["activations"][SITE])
            return super().compress(batch, seed)

    lens = Watched(frozen, torch.zeros(frozen.hidden_size))
    lens.subject, lens.config.activation_norm = frozen, 7.0
    words_of_feature(lens, transcoder, 1, 5)
    assert seen[0].norm(dim=1).tolist() == pytest.approx([7.0, 7.0], rel=1e-4)
    assert float(cosine_similarity(seen[0][0], seen[0][1], dim=0)) == pytest.approx(-1)
