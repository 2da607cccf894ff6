"""Several lenses on one frozen model: one copy of its weights, and each lens as if it were alone."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from pathlib import Path

import pytest
import torch
from lens_runs import SITE, arguments, copies, stirred, tiny_lens, tiny_rows, trainer_of
from tiny import padded_batch, tiny_lm

from consistency_lens import AutoLens, BadInput, ConsistencyLens, ConsistencyLensTrainer, FrozenLM
from consistency_lens.text.parts.generation import Noise

SITES = {"zero": "resid_post.0", "one": SITE, "three": "resid_post.3"}
TEXTS = ["w1 w2 w3 w4", "w9 w8 w7"]


def said(lens: ConsistencyLens) -> list[list[tuple[object, ...]]]:
    """What a lens explains, and the KL of its reconstructions: equal to the last bit where nothing else is on."""
    names = ("position", "explanation", "kl", "cosine", "after")
    return [[tuple(row[name] for name in names) for row in rows] for rows in lens.explain(TEXTS)]


@pytest.fixture(scope="module", params=["llama", "gemma3-vision"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Path]]:
    """Three lenses of three layers, each of which was made on a model of its own."""
    folder, found = tmp_path_factory.mktemp("lenses"), {}
    for seed, (name, site) in enumerate(SITES.items()):
        frozen = tiny_lm(request.param)
        settings = {"lora_rank": 4 + 4 * seed, "prompt": "w1 <A> w2", "code_length": 4}
        lens = ConsistencyLens.from_subject(frozen, site, trainable="lora", **settings)
        stirred(lens, seed=seed).save_pretrained(folder / name)
        found[name] = folder / name
    return request.param, found


def alone(case: str, places: Mapping[str, Path]) -> dict[str, list[list[tuple[object, ...]]]]:
    return {name: said(AutoLens.from_pretrained(place, subject=tiny_lm(case))) for name, place in places.items()}


def addresses(lens: ConsistencyLens) -> set[int]:
    """Where the tensors lie that are its own."""
    return {p.data_ptr() for part in lens.parts().values() for p in part.values()}


def logits_of(frozen: FrozenLM) -> torch.Tensor:
    return frozen.logits(padded_batch())


def test_all_are_one_copy_and_each_says_what_it_says_alone(saved: tuple[str, dict[str, Path]]) -> None:
    case, places = saved
    expected = alone(case, places)
    assert len({str(rows) for rows in expected.values()}) == 3
    for order in list(permutations(places))[:: 1 if case == "llama" else 5]:
        frozen = tiny_lm(case)
        before = logits_of(frozen)
        weights = {p.data_ptr() for p in frozen.model.parameters()}
        lenses = {name: AutoLens.from_pretrained(places[name], subject=frozen) for name in order}
        own = {name: addresses(lens) for name, lens in lenses.items()}
        assert {name: said(lens) for name, lens in lenses.items()} == expected
        for lens in lenses.values():
            assert lens.decoder.lm is lens.encoder.lm is frozen.model
        assert not set.intersection(*own.values())
        # Beside their own tensors, all lenses together hold the model's, each of which lies where it lay.
        everything = {p.data_ptr() for lens in lenses.values() for p in lens.parameters()}
        assert everything - set().union(*own.values()) == weights
        assert torch.equal(logits_of(frozen), before)


def test_memory_grows_by_the_adapters_alone(saved: tuple[str, dict[str, Path]]) -> None:
    case, places = saved
    frozen = tiny_lm(case)

    def size() -> int:
        return sum(p.numel() * p.element_size() for p in frozen.model.parameters())

    for place in places.values():
        before = size()
        lens = AutoLens.from_pretrained(place, subject=frozen)
        maps = lens.parts()["maps"].values()
        of_parts = sum(p.numel() * p.element_size() for part in lens.parts().values() for p in part.values())
        assert size() - before == of_parts - sum(p.numel() * p.element_size() for p in maps)


@pytest.mark.parametrize("gone", list(SITES))
def test_unloading_one_leaves_the_others(saved: tuple[str, dict[str, Path]], gone: str) -> None:
    case, places = saved
    expected, frozen = alone(case, places), tiny_lm(case)
    modules, before = [name for name, _ in frozen.model.named_modules()], logits_of(frozen)
    lenses = {name: AutoLens.from_pretrained(place, subject=frozen) for name, place in places.items()}
    count = len(list(frozen.model.parameters()))
    lenses[gone].unload()
    lenses[gone].unload()  # nothing lies there any more
    assert len(list(frozen.model.parameters())) < count
    kept = {name: lens for name, lens in lenses.items() if name != gone}
    assert {name: said(lens) for name, lens in kept.items()} == {name: expected[name] for name in kept}
    for act in (lambda: lenses[gone].explain(TEXTS), lambda: lenses[gone].files(), lambda: lenses[gone].parts()):
        with pytest.raises(BadInput, match="was taken off its frozen model"):
            act()
    # It comes back, also beside the others.
    assert said(AutoLens.from_pretrained(places[gone], subject=frozen)) == expected[gone]
    for lens in kept.values():
        lens.unload()
    assert torch.equal(logits_of(frozen), before)
    again = [name for name, _ in frozen.model.named_modules() if "lora" not in name and "base_layer" not in name]
    assert again == modules


def test_after_the_last_one_no_trace_is_left(saved: tuple[str, dict[str, Path]]) -> None:
    case, places = saved
    frozen = tiny_lm(case)
    modules = [(name, type(module)) for name, module in frozen.model.named_modules()]
    lenses = [AutoLens.from_pretrained(place, subject=frozen) for place in places.values()]
    for lens in lenses:
        lens.unload()
    assert [(name, type(module)) for name, module in frozen.model.named_modules()] == modules
    assert not any(p.requires_grad for p in frozen.model.parameters())


def test_files_do_not_say_who_else_was_there(saved: tuple[str, dict[str, Path]], tmp_path: Path) -> None:
    case, places = saved
    frozen = tiny_lm(case)
    for name, place in places.items():
        AutoLens.from_pretrained(place, subject=frozen).save_pretrained(tmp_path / name)
        for file in (path.relative_to(place) for path in place.rglob("*") if path.is_file()):
            assert (tmp_path / name / file).read_bytes() == (place / file).read_bytes(), (name, file)


def test_a_merged_lens_has_its_own_adapters(saved: tuple[str, dict[str, Path]]) -> None:
    case, places = saved
    frozen = tiny_lm(case)
    first, second = (AutoLens.from_pretrained(places[name], subject=frozen) for name in ("zero", "three"))
    lone = AutoLens.from_pretrained(places["three"], subject=tiny_lm(case)).merge_for_release()
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    merged = second.merge_for_release()
    assert torch.equal(merged(vectors, noise=Noise(1)).restored, lone(vectors, noise=Noise(1)).restored)
    assert said(first) == said(AutoLens.from_pretrained(places["zero"], subject=tiny_lm(case)))


def test_gradients_reach_one_lens_alone(saved: tuple[str, dict[str, Path]]) -> None:
    case, places = saved
    frozen = tiny_lm(case)
    first, second = (AutoLens.from_pretrained(places[name], subject=frozen) for name in ("zero", "one"))
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    second(vectors, noise=Noise(1, 0.7), estimator="parallel").restored.square().sum().backward()
    of = {
        lens: [p for part in lens.parts().values() for p in part.values() if p.grad is not None]
        for lens in (first, second)
    }
    assert not of[first] and len(of[second]) > 10


def test_training_beside_another_lens_is_refused(tmp_path: Path) -> None:
    frozen = tiny_lm()
    other = stirred(tiny_lens(frozen, trainable="lora"))
    for kind in ("lora", "projections"):
        lens = tiny_lens(frozen, trainable=kind)
        with pytest.raises(BadInput, match="carries the decoder of another lens") as caught:
            trainer_of(tmp_path, frozen, lens)
        assert "unload()" in caught.value.fix
    lens.unload()
    frozen = tiny_lm()
    other, lens = (tiny_lens(frozen, trainable="lora") for _ in range(2))
    other.unload()
    with pytest.raises(BadInput, match="its adapter is called decoder_2"):
        trainer_of(tmp_path, frozen, lens)
    lens.unload()
    lens = tiny_lens(frozen, trainable="lora")
    before = copies(lens.parts()["decoder"])
    trainer_of(tmp_path, frozen, lens, warm_steps=1, max_steps=2).train()
    after = lens.parts()["decoder"]
    assert any(not torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_model_init_takes_the_lens_before_off(tmp_path: Path) -> None:
    """As for `hyperparameter_search`: each training has a new lens on the one frozen model."""
    frozen = tiny_lm()

    def begin() -> ConsistencyLens:
        return tiny_lens(frozen, trainable="lora")

    given = arguments(tmp_path, warm_steps=1, max_steps=1)
    trainer = ConsistencyLensTrainer(args=given, train_dataset=tiny_rows(), model_init=begin, frozen=frozen)
    trainer.train()
    count = len(list(frozen.model.parameters()))
    trainer.train()
    assert len(list(frozen.model.parameters())) == count and trainer.lens.decoder.adapter == "decoder"
