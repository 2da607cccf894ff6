"""What an engine refuses, and what it is handed; no other process is needed for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from extracting import ROOT
from lens_runs import arguments, tiny_lens, trainer_of
from tiny import shared_lm, tiny_lm

from consistency_lens.base.engines.engine import Engine, Together, while_spreading
from consistency_lens.base.engines.shards import exchange, fill, gathered, is_spread, shard_of, writes
from consistency_lens.base.saving.checkpoint import is_complete
from consistency_lens.errors import BadInput


def test_processes_that_each_believe_they_are_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = arguments(tmp_path)
    assert Engine.of(args) == Engine("alone", 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadInput, match=r"use_cpu=True: of 2 processes each believes it is alone"):
        Engine.of(args)


@pytest.mark.parametrize("version", ["1", "two", "2"])
def test_fsdp_on_a_cpu_and_its_first_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", version)
    said = "FSDP2 needs a GPU; here it would be plain data" if version == "2" else f"fsdp_version='{version}'. Use 2"
    with pytest.raises(BadInput, match=said):
        trainer_of(tmp_path)


def test_copies_of_spread_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As accelerate's launcher says them; rows and weights are all that a lens deals out."""
    args = arguments(tmp_path)
    for name, value in (("USE_FSDP", "true"), ("USE_PARALLELISM_CONFIG", "true")):
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert Engine.of(args) == Engine("fsdp2", 1, copies=1)
    monkeypatch.setenv("PARALLELISM_CONFIG_DP_REPLICATE_SIZE", "2")
    monkeypatch.setenv("PARALLELISM_CONFIG_DP_SHARD_SIZE", "3")
    with pytest.raises(BadInput, match=r"num_processes=1: 2 copies, each over 3\. Make .*dp_replicate_size times"):
        Engine.of(args)
    monkeypatch.setenv("PARALLELISM_CONFIG_TP_SIZE", "2")
    with pytest.raises(BadInput, match=r"parallelism_config_tp_size=2\. Use 1: .*hsdp\.yaml"):
        Engine.of(args)
    monkeypatch.setenv("PARALLELISM_CONFIG_TP_SIZE", "many")
    with pytest.raises(BadInput, match=r"parallelism_config=None: .*'many'\. Use the fields of ds_configs/hsdp\.yaml"):
        Engine.of(args)


@pytest.mark.parametrize(("processes", "fsdp", "said"), [
    ("4", "true", r"parallelism_config_dp_shard_size=1\. For whole weights, use ds_configs/ddp\.yaml"),
    ("1", "false", r"parallelism_config=1: it is for weights that FSDP2 spreads\. Use ds_configs/hsdp\.yaml"),
])  # fmt: skip
def test_copies_of_whole_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: str, fsdp: str, said: str
) -> None:
    args = arguments(tmp_path)
    monkeypatch.setattr(type(args), "world_size", property(lambda self: int(processes)))
    environment = {"WORLD_SIZE": processes, "ACCELERATE_USE_FSDP": fsdp, "FSDP_VERSION": "2"}
    environment |= {"ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": processes}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=said):
        Engine.of(args)


def test_what_needs_whole_weights(tmp_path: Path) -> None:
    lm = tiny_lm()
    lens = tiny_lens(lm)
    with pytest.raises(BadInput, match=r"ema_decay=0\.9: .*Use 0, or ds_configs/zero2\.json"):
        Engine("fsdp2", 2).require(lens, lm, arguments(tmp_path, ema_decay=0.9))
    lm.quantization = "8bit"
    with pytest.raises(BadInput, match=r"quantization='8bit': fsdp2 cannot spread packed weights"):
        Engine("fsdp2", 2).require(lens, lm, arguments(tmp_path))
    Engine("ddp", 2).require(lens, lm, arguments(tmp_path, ema_decay=0.9))


def test_a_checkpoint_of_another_engine(tmp_path: Path) -> None:
    Engine("zero2", 4).save(tmp_path)
    Engine("zero2", 4).require_same(tmp_path)
    for other in (Engine("zero2", 2), Engine("ddp", 4), Engine("alone", 1)):
        with pytest.raises(BadInput, match=r"written by zero2 with 4 processes.* Resume with zero2 with 4 processes"):
            other.require_same(tmp_path)
    Engine("fsdp2", 4, copies=2).save(tmp_path)
    with pytest.raises(BadInput, match=r"written by fsdp2 with 4 processes and 2 copies of the weights"):
        Engine("fsdp2", 4).require_same(tmp_path)


def test_a_checkpoint_is_whole_when_every_process_has_written(tmp_path: Path) -> None:
    Engine("ddp", 2).save(tmp_path)
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 4}))
    torch.save({}, tmp_path / "rng_state_0.pth")
    assert not is_complete(tmp_path)
    torch.save({}, tmp_path / "rng_state_1.pth")
    assert is_complete(tmp_path)
    (tmp_path / "global_step4").mkdir()
    shard = tmp_path / "global_step4/zero_pp_rank_0.pt"
    torch.save({"a": torch.ones(1000)}, shard)
    assert is_complete(tmp_path)
    shard.write_bytes(shard.read_bytes()[:2000])
    assert not is_complete(tmp_path)


@pytest.mark.parametrize("kind", ["full", "lora", "projections"])
def test_together_holds_each_module_once(kind: str) -> None:
    lm = tiny_lm()
    lens = tiny_lens(lm, trainable=kind)
    together = Together(lens, lm)
    modules = [module for piece in together.pieces.values() for module in piece.modules()]
    assert len(modules) == len({id(module) for module in modules}) == sum(1 for _ in together.modules()) - 2
    held = {id(p) for p in together.parameters()}
    assert held == {id(p) for p in lens.parameters()} | {id(p) for p in lm.model.parameters()}
    assert together._no_split_modules == ["LlamaDecoderLayer"]
    assert together(lambda: 7) == 7


def test_parts_wait_where_deepspeed_is_told_that_they_do() -> None:
    """What else its file says may be settled later only."""
    deepspeed = pytest.importorskip("deepspeed.runtime.config")
    given = json.loads((ROOT / "ds_configs/zero3.json").read_text())
    assert "auto" in given["zero_optimization"].values()
    plain = deepspeed.DeepSpeedConfig(while_spreading(given)).zero_config
    assert (plain.stage, plain.offload_param) == (3, None)
    given["zero_optimization"] |= {"offload_param": {"device": "cpu", "pin_memory": True}}
    told = deepspeed.DeepSpeedConfig(while_spreading(given)).zero_config
    assert (told.stage, told.offload_param.device, told.offload_param.pin_memory) == (3, "cpu", True)


def test_together_stays_without_dropout() -> None:
    lm = tiny_lm()
    together = Together(tiny_lens(lm), lm)
    together.train()
    assert together.training and not lm.model.training and not together.pieces["decoder_lm"].training
    assert together.pieces["decoder_map"].training


def test_whole_weights_go_through_the_same_doors() -> None:
    weight = torch.nn.Parameter(torch.arange(4.0))
    other = torch.full((4,), 9.0)
    assert not is_spread(weight) and writes({"w": weight})
    exchange({"w": weight}, {"w": other})
    assert weight.tolist() == [9.0] * 4 and other.tolist() == [0.0, 1.0, 2.0, 3.0]
    fill(weight, other)
    assert torch.equal(gathered({"w": weight})["w"], other) and shard_of(weight).data_ptr() == weight.data_ptr()


def test_a_family_that_cannot_be_spread_says_so() -> None:
    from consistency_lens.base.modeling import LensModel

    with pytest.raises(BadInput, match=r"engine=.*Use ds_configs/zero2\.json or ddp\.yaml"):
        LensModel.pieces(tiny_lens(shared_lm("llama")))


def test_a_dtype_that_would_change_the_subject(tmp_path: Path) -> None:
    lm = tiny_lm()
    args = arguments(tmp_path, bf16=True)
    with pytest.raises(BadInput, match=r"dtype='float32': fsdp2 would cast the frozen model to torch\.bfloat16"):
        Engine("fsdp2", 2).require(tiny_lens(lm), lm, args)
    Engine("ddp", 2).require(tiny_lens(lm), lm, args)
