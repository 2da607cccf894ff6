"""One lens at several rates: numbers of vectors, their size and their bits are drawn in training and chosen at use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_wire_trainer import trainer_of
from wire_runs import NAMES, batch_of, wire_lens

from consistency_lens.errors import BadInput
from consistency_lens.soft.code import sent_bytes
from consistency_lens.soft.configuration import LatentWireConfig
from consistency_lens.soft.report.rates import Rate, rates_of
from consistency_lens.soft.serving.identity import identity_of


def test_each_step_draws_a_ratio_below_what_the_schedule_allows(tmp_path: Path) -> None:
    args = trainer_of(tmp_path, train_ratios=[1.0, 2.0, 4.0]).args
    drawn = [args.ratio_at(0, turn) for turn in range(60)]
    assert drawn == [args.ratio_at(7, turn) for turn in range(60)], "of (seed, turn) alone"
    assert min(drawn.count(ratio) for ratio in (1.0, 2.0, 4.0)) > 8
    args = trainer_of(tmp_path, train_ratios=[1.0, 4.0], train_ratio="linear(1, 4, 30)").args
    assert {args.ratio_at(0, turn) for turn in range(20)} == {1.0}
    assert {args.ratio_at(10, turn) for turn in range(20)} == {1.0, 2.0}
    assert {args.ratio_at(30, turn) for turn in range(20)} == {1.0, 4.0}
    assert trainer_of(tmp_path).args.ratio_at(3, 3) is None
    with pytest.raises(BadInput, match="train_ratios="):
        trainer_of(tmp_path, train_ratios=[0.5])
    with pytest.raises(BadInput, match="train_ratios="):
        trainer_of(tmp_path, lens=wire_lens(slots=3, pooling="learned"), train_ratios=[2.0])


def test_code_length_and_bits_are_chosen_at_use() -> None:
    lens, batch = wire_lens(ratio=1.0, bits=4), batch_of(6)
    lengths = batch["tokens"]["words"]["passage_mask"].sum(1)
    assert lens.encode(batch, code_length=2).counts == [2] * 6
    assert lens.encode(batch, code_length=5).counts == lengths.clamp(max=5).tolist()
    exact, rounded = (lens.encode(batch, bits=bits).vectors for bits in (16, 4))
    assert torch.equal(rounded, lens.encode(batch).vectors) and not torch.equal(exact, rounded)
    with pytest.raises(BadInput, match="not both"):
        lens.encode(batch, ratio=2.0, code_length=2)
    with pytest.raises(BadInput, match="fixed"):
        wire_lens(slots=3, pooling="learned").encode(batch, code_length=2)


def test_a_smaller_vector_is_the_first_coordinates_and_arrives_as_such(tmp_path: Path) -> None:
    lens, batch = wire_lens(ratio=2.0, nested=[16, 8], bits=8, group=8), batch_of(6)
    whole, small = lens.encode(batch), lens.encode(batch, size=8)
    assert small.vectors.shape[-1] == 8 and torch.equal(small.vectors, whole.vectors[..., :8])
    wires = lens.wire(small, identity_of(lens.compressor))
    assert [len(wire.to_bytes()) for wire in wires] == [sent_bytes(n, 8, 8, 8) for n in small.counts]
    assert [row["bytes"] for row in lens.describe(small)] == [len(wire.to_bytes()) for wire in wires]
    arrived = lens.from_wire(wires)
    for name in NAMES:
        ours, theirs = (lens.soft_tokens(code, batch, name).tensor for code in (arrived, small))
        assert torch.equal(ours, theirs) and not torch.equal(ours, lens.soft_tokens(whole, batch, name).tensor)
    with pytest.raises(BadInput, match="8 numbers"):
        wire_lens(ratio=2.0).from_wire(wires)
    with pytest.raises(BadInput, match="32 or 16 or 8"):
        lens.encode(batch, size=9)
    trainer = trainer_of(tmp_path, lens=lens)
    sizes = []
    for step in range(40):
        trainer.state.global_step = step
        sizes.append(trainer.size)
    assert set(sizes) == {32, 16, 8}
    with pytest.raises(BadInput, match="nested"):
        LatentWireConfig(slots=2, d_z=8, nested=[8])


def test_the_first_coordinates_hold_most_of_the_start() -> None:
    lens, batch = wire_lens(ratio=1.0, nested=[16]), batch_of(6)
    code = lens.encode(batch)
    first, rest = (part.square().sum() for part in (code.vectors[..., :16], code.vectors[..., 16:]))
    assert first > 1.5 * rest
    unturned = wire_lens(ratio=1.0)
    for name in NAMES:  # the same soft tokens, in other coordinates
        ours, theirs = (each.soft_tokens(each.encode(batch), batch, name).tensor for each in (lens, unturned))
        assert torch.allclose(ours, theirs, atol=0.02)


def test_adapters_train_in_the_place_of_layers(tmp_path: Path) -> None:
    lens, batch = wire_lens(slots=2, compressor_lora_rank=4), batch_of(6)
    plain = wire_lens(slots=2)
    with torch.no_grad():
        assert torch.allclose(lens.compress(batch).vectors, plain.compress(batch).vectors, atol=1e-5)
    trained = [name for name, p in lens.compressor.lm.named_parameters() if p.requires_grad]
    assert trained and all(".lora_" in name for name in trained)
    before = {name: p.detach().clone() for name, p in lens.named_parameters()}
    trainer = trainer_of(tmp_path / "run", lens=lens, max_steps=6, learning_rate=1e-2)
    trainer.train()
    moved = {name for name, p in lens.named_parameters() if not torch.equal(p, before[name])}
    assert any(".lora_B." in name for name in moved)
    assert all(".lora_" in name for name in moved if name.startswith("compressor.lm"))
    lens.save_pretrained(tmp_path / "lens")
    again = type(lens).from_pretrained(tmp_path / "lens", subject=lens.models)
    assert torch.equal(again.compress(batch).vectors, lens.eval().compress(batch).vectors)
    for settings in ({"compressor_lora_rank": 0}, {"compressor_lora_rank": 4, "start": "byte"}):
        with pytest.raises(BadInput, match="compressor_lora_rank"):
            LatentWireConfig(slots=2, **settings)


def test_a_report_measures_other_rates_than_the_lens_has() -> None:
    found = rates_of(LatentWireConfig(ratio=2.0, bits=4), (2.0,))
    assert [rate.name for rate in found] == ["fp16", "int8", "int6", "4x int4", "4x fp16"]
    assert found[-1] == Rate(16, 4.0) and "one vector for 4 tokens" in found[-1].definition
    assert [rate.name for rate in rates_of(LatentWireConfig(slots=8, bits=16), (4.0,))][-1] == "M=2 fp16"
    assert all(not rate.size for rate in rates_of(LatentWireConfig(slots=8, pooling="learned")))
