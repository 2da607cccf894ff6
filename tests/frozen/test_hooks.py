"""Hooks do their work inside the `with` and are gone after it, whatever happens."""

from __future__ import annotations

import pytest
import torch
from tiny import padded_batch
from torch import nn

from consistency_lens.errors import BadInput
from consistency_lens.frozen import Edit, FrozenLM, Site, editing, reading
from consistency_lens.frozen.hooks import Write

ROWS, WIDTH, SIZE = 4, 12, 32
STAGES = ("embed", "resid_pre.1", "attn_out.1", "resid_mid.1", "mlp_in.1", "mlp_out.1", "resid_post.1")


def hooked(model: nn.Module) -> list[str]:
    """Names of the modules that carry a hook of any kind."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [name for name, module in model.named_modules() if any(vars(module)[kind] for kind in kinds)]


@pytest.fixture(autouse=True)
def no_hook_is_left(lm: FrozenLM) -> None:
    yield
    assert hooked(lm.model) == []


def write(site: str, value: torch.Tensor, column: int | None = -1, add: bool = False) -> Write:
    columns = None if column is None else torch.full((ROWS, 1), column % WIDTH)
    return Write(Site.parse(site), value, columns, add)


def run(lm: FrozenLM) -> torch.Tensor:
    return lm.model(**lm.inputs(padded_batch()), use_cache=False).logits


@pytest.mark.parametrize("site", STAGES)
def test_hooks_exist_only_inside(lm: FrozenLM, site: str) -> None:
    clean = run(lm)
    with editing(lm.model, [write(site, torch.ones(ROWS, 1, SIZE))]):
        assert len(hooked(lm.model)) == 1
        assert not torch.equal(run(lm), clean)
    assert hooked(lm.model) == []
    with reading(lm.model, [Site.parse(site)]) as found:
        assert len(hooked(lm.model)) == 1
        assert torch.equal(run(lm), clean)
    assert hooked(lm.model) == [] and found[site].shape == (ROWS, WIDTH, SIZE)
    assert torch.equal(run(lm), clean)


@pytest.mark.parametrize("cut", [False, True])
def test_hooks_go_away_on_the_users_exception(lm: FrozenLM, cut: bool) -> None:
    class Mine(BaseException):
        pass

    writes = [write(site, torch.ones(ROWS, 1, SIZE)) for site in STAGES]
    with pytest.raises(Mine):
        with editing(lm.model, writes), reading(lm.model, [w.site for w in writes], cut=cut):
            assert len(hooked(lm.model)) > 1
            raise Mine
    assert hooked(lm.model) == []


@pytest.mark.parametrize("site", STAGES)
def test_hooks_go_away_when_a_value_does_not_fit(lm: FrozenLM, site: str) -> None:
    with pytest.raises((RuntimeError, IndexError)):
        with editing(lm.model, [write(site, torch.ones(ROWS, 1, SIZE + 1))]):
            run(lm)
    assert hooked(lm.model) == []
    with pytest.raises(BadInput):
        lm.logits(padded_batch(), Edit(site, torch.ones(ROWS, SIZE + 1)))
    assert hooked(lm.model) == []


def test_hooks_go_away_when_a_later_site_cannot_be_found(lm: FrozenLM) -> None:
    with pytest.raises(AttributeError):
        with editing(lm.model, [write(site, torch.ones(ROWS, 1, SIZE)) for site in ("mlp_in.0", "mlp_in.99")]):
            pass
    assert hooked(lm.model) == []


def test_hooks_go_away_when_the_model_itself_fails(lm: FrozenLM) -> None:
    too_high = {"input_ids": torch.full((ROWS, WIDTH), 10_000)}
    with pytest.raises(IndexError):
        lm.read(too_high, ["embed", "resid_post.2"])
    with pytest.raises(IndexError):
        lm.logits(too_high, Edit("resid_post.2", torch.ones(SIZE)))
    assert hooked(lm.model) == []


@pytest.mark.parametrize("site", STAGES)
def test_an_inner_reader_sees_what_an_outer_writer_wrote(lm: FrozenLM, site: str) -> None:
    value = torch.randn(ROWS, 1, SIZE)
    with editing(lm.model, [write(site, value)]), reading(lm.model, [Site.parse(site)]) as found:
        run(lm)
    assert torch.equal(found[site][:, -1:], value)
    with reading(lm.model, [Site.parse(site)]) as found, editing(lm.model, [write(site, value)]):
        run(lm)
    assert torch.equal(found[site], lm.read(padded_batch(), site)[site])


def test_writes_happen_in_their_order_and_inside_out(lm: FrozenLM) -> None:
    one, two = torch.full((ROWS, 1, SIZE), 1.0), torch.full((ROWS, 1, SIZE), 2.0)
    site = "resid_post.1"

    def at_last(*nested: list[Write]) -> float:
        with (
            editing(lm.model, nested[0]),
            editing(lm.model, nested[1]),
            reading(lm.model, [Site.parse(site)]) as found,
        ):
            run(lm)
        (seen,) = found[site][:, -1].unique().tolist()
        return seen

    set_one, add_two = write(site, one), write(site, two, add=True)
    assert at_last([set_one, add_two], []) == at_last([set_one], [add_two]) == 3.0
    assert at_last([add_two, set_one], []) == at_last([add_two], [set_one]) == 1.0
    assert at_last([set_one, write(site, two)], []) == 2.0


def test_the_same_columns_twice_add_up(lm: FrozenLM) -> None:
    columns = torch.tensor([[3, 3, 5]]).expand(ROWS, -1)
    value = torch.ones(ROWS, 3, SIZE)
    site = Site("resid_post", 0)
    clean = lm.read(padded_batch(), site)["resid_post.0"]
    with editing(lm.model, [Write(site, value, columns, True)]), reading(lm.model, [site]) as found:
        run(lm)
    added = found["resid_post.0"] - clean
    torch.testing.assert_close(added[:, [3, 5, 6]].mean(-1), torch.tensor([2.0, 1.0, 0.0]).expand(ROWS, -1))


def test_reading_keeps_gradients(lm: FrozenLM) -> None:
    value = torch.randn(ROWS, 1, SIZE, requires_grad=True)
    with editing(lm.model, [write("resid_post.0", value)]):
        with reading(lm.model, [Site("resid_post", 2)], cut=True) as found:
            run(lm)
    found["resid_post.2"][:, -1].sum().backward()
    assert value.grad.abs().min() > 0


def test_cut_ends_the_body_and_leaves_an_outer_reader_what_was_reached(lm: FrozenLM) -> None:
    sites = [Site("resid_post", 0), Site("resid_post", 3)]
    after = False
    with reading(lm.model, sites) as outer:
        with reading(lm.model, [Site("resid_post", 1)], cut=True) as inner:
            run(lm)
            after = True
        assert list(inner) == ["resid_post.1"] and list(outer) == ["resid_post.0"]
    assert not after


def test_an_outer_cut_ends_the_outer_body(lm: FrozenLM) -> None:
    """An inner reader must not take the outer one's cut for its own and let the outer body go on."""
    went_on = False
    with reading(lm.model, [Site("resid_post", 1)], cut=True) as outer:
        with reading(lm.model, [Site("resid_post", 3)], cut=True) as inner:
            run(lm)
        went_on = True
    assert not went_on and list(outer) == ["resid_post.1"] and list(inner) == []


def test_a_write_does_not_change_the_value_or_what_was_read(lm: FrozenLM) -> None:
    value = torch.ones(ROWS, 1, SIZE)
    for site in STAGES:
        with reading(lm.model, [Site.parse(site)]) as found:
            run(lm)
            before = found[site].clone()
            with editing(lm.model, [write(site, value)]):
                run(lm)
        assert torch.equal(found[site], before) and torch.equal(value, torch.ones(ROWS, 1, SIZE))
