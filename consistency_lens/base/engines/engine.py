"""Which engine spreads the work over processes, what a lens needs under it, and what it refuses.

Under ZeRO-3 and FSDP2 no process holds all weights: the engine puts a module's weights together for the length of its
forward call. So lens and frozen model become one module, `Together`, and all of a step happens inside one call of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import wraps
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from accelerate.parallelism_config import ParallelismConfig
from torch import Tensor, nn
from transformers import TrainingArguments

from ...errors import BadInput
from ...frozen import FrozenLM
from ...frozen.anatomy.parts import blocks_of
from ...schema import read_json
from ..modeling import LensModel
from ..saving.checkpoint import ENGINE, ENGINE_KIND, OTHER

FEATURES = "features"


@dataclass(frozen=True)
class Engine:
    """
    Args:
        name: `alone`, `ddp`, `zero1`, `zero2`, `zero3`, `fsdp2`, or `features`: the lens deals out its own weights,
            and every process reads all rows.
        processes: over which the work is spread.
        copies: of the weights that FSDP2 spreads, each over as many processes as the others (ds_configs/hsdp.yaml).
    """

    name: str
    processes: int
    copies: int = 1

    @classmethod
    def of(cls, args: Any) -> Engine:
        """What the arguments and the launcher ask for; raise where it would quietly be something else."""
        processes = args.world_size
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched != processes:
            fix, why = "Give --use_cpu where there is no GPU.", f"of {launched} processes each believes it is alone"
            raise BadInput("use_cpu", args.use_cpu, fix, why)
        copies = _copies_of(args)
        if args.deepspeed_plugin is not None:
            stage = args.deepspeed_plugin.zero_stage
            if stage not in (1, 2, 3):
                fix = "Use stage 1, 2 or 3; for none of them, leave DeepSpeed out and use ds_configs/ddp.yaml."
                raise BadInput("deepspeed", stage, fix, why="zero_optimization.stage")
            return cls(f"zero{stage}", processes)
        if args.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("true", "1"):
            asked = (args.fsdp_config or {}).get("version", 2) if args.fsdp else os.environ.get("FSDP_VERSION", "1")
            if str(asked) != "2":
                raise BadInput("fsdp_version", asked, "Use 2, as in ds_configs/fsdp2.yaml.")
            return cls("fsdp2", processes, copies or 1)
        if copies is not None:
            fix = "Use ds_configs/hsdp.yaml, or leave it out."
            raise BadInput("parallelism_config", copies, fix, why="it is for weights that FSDP2 spreads")
        return cls((args.own_engine or "ddp") if processes > 1 else "alone", processes)

    @property
    def is_deepspeed(self) -> bool:
        return self.name.startswith("zero")

    @property
    def spreads_weights(self) -> bool:
        """Whether each process holds a part of the lens's weights only."""
        return self.spreads_model or self.name == FEATURES

    @property
    def spreads_model(self) -> bool:
        """Whether it holds a part of the frozen model's only, too."""
        return self.name in ("zero3", "fsdp2")

    @property
    def keeps_shards(self) -> bool:
        """Whether those parts are `DTensor`s."""
        return self.name in ("fsdp2", FEATURES)

    @property
    def readers(self) -> int:
        """How many processes read rows of their own."""
        return 1 if self.name == FEATURES else self.processes

    def require(self, lens: LensModel, frozen: FrozenLM, args: Any) -> None:
        """Raise where the engine would compute something else than a single process does."""
        _require_dtype(self, lens, frozen, args)
        if args.auto_find_batch_size and self.name != "alone":
            fix = "Leave it out, and lower per_device_train_batch_size by hand."
            why = f"under {self.name} the other processes would wait for the one that is out of memory"
            raise BadInput("auto_find_batch_size", True, fix, why)
        if not self.spreads_weights:
            return
        if frozen.quantization != "none" and self.spreads_model:
            fix = "Use ds_configs/zero2.json or ddp.yaml: a quantised model is small enough to be whole."
            raise BadInput("quantization", frozen.quantization, fix, why=f"{self.name} cannot spread packed weights")
        if args.ema_decay:
            fix = "Use 0, or ds_configs/zero2.json."
            raise BadInput("ema_decay", args.ema_decay, fix, why=f"{self.name} spreads what would be averaged")

    def require_same(self, folder: Path) -> None:
        """Raise where a checkpoint was written under another engine, or by another number of processes: each holds a
        part of the optimizer's state, and what a process draws and reads depends on their number."""
        if not (folder / ENGINE).is_file():
            return
        written = Engine(**read_json(folder / ENGINE, ENGINE_KIND, "resume_from_checkpoint", folder.name, OTHER))
        if written != self:
            fix = f"Resume with {written.described}, or begin a new run from the lens that lies in it."
            why = f"it was written by {written.described}, this is {self.described}"
            raise BadInput("resume_from_checkpoint", folder.name, fix, why)

    @property
    def described(self) -> str:
        many = f"{self.name} with {self.processes} process{'es' if self.processes > 1 else ''}"
        return f"{many} and {self.copies} copies of the weights" if self.copies > 1 else many

    def save(self, folder: Path) -> None:
        (folder / ENGINE).write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")


def _copies_of(args: TrainingArguments) -> int | None:
    """Of spread weights, where accelerate is asked for a number; raise where rows are not all that is dealt out."""
    asked = args.parallelism_config
    if asked is None and os.environ.get("ACCELERATE_USE_PARALLELISM_CONFIG", "false").lower() == "true":
        try:
            asked = ParallelismConfig()
        except ValueError as error:
            raise BadInput(
                "parallelism_config", None, "Use the fields of ds_configs/hsdp.yaml.", str(error)
            ) from error
    if asked is None:
        return None
    for name in ("tp_size", "cp_size", "sp_size"):
        if (size := vars(asked).get(name, 1)) > 1:  # an older accelerate does not know all
            fix = "Use 1: a lens deals out rows and weights, as in ds_configs/hsdp.yaml, and nothing else."
            raise BadInput(f"parallelism_config_{name}", size, fix)
    copies, shards = asked.dp_replicate_size, asked.dp_shard_size
    if copies * shards != args.world_size:
        fix = "Make parallelism_config_dp_replicate_size times parallelism_config_dp_shard_size as many as there are."
        raise BadInput("num_processes", args.world_size, fix, why=f"{copies} copies, each over {shards}")
    if copies > 1 and shards == 1:
        raise BadInput("parallelism_config_dp_shard_size", 1, "For whole weights, use ds_configs/ddp.yaml.")
    return int(copies)


def _require_dtype(engine: Engine, lens: LensModel, frozen: FrozenLM, args: Any) -> None:
    """DeepSpeed and FSDP2 cast every weight they hold: with bf16 a model in float32 would no longer be the one that
    made the rows."""
    if engine.is_deepspeed:
        wanted = args.deepspeed_plugin.hf_ds_config.dtype()
    elif engine.name == "fsdp2" and (args.bf16 or args.fp16):
        wanted = torch.bfloat16 if args.bf16 else torch.float16
    else:
        return
    inside = engine.spreads_weights or any(p is q for p in lens.parameters() for q in _some(frozen))
    if inside and wanted != frozen.dtype:
        name = str(frozen.dtype).removeprefix("torch.")
        fix = "Use --bf16 with a frozen model in bfloat16 (--dtype bfloat16, the rows as well), or neither."
        raise BadInput("dtype", name, fix, why=f"{engine.name} would cast the frozen model to {wanted}")


def _some(frozen: FrozenLM) -> list[nn.Parameter]:
    return [frozen.model.get_input_embeddings().weight]


class Together(nn.Module):
    """Lens and frozen model as one module, each weight once, and one call for all that is done with them.

    The engine finds every module in here exactly once, also where decoder, encoder and model are one set of weights.
    """

    def __init__(self, lens: LensModel, frozen: FrozenLM | None = None) -> None:
        super().__init__()
        pieces = lens.pieces() | ({"subject": frozen.model} if frozen else {})
        seen: set[int] = set()
        self.pieces = nn.ModuleDict()
        for name, piece in pieces.items():
            if id(piece) not in seen:
                seen.add(id(piece))
                self.pieces[name] = piece
        self.config = lens.config  # DeepSpeed sizes its buckets by it
        self._lens = [lens]  # in a list, and so no module of this one
        # What FSDP2 gathers together: one block at a time, and what lies outside the blocks.
        self._no_split_modules = sorted({type(blocks_of(model)[0]).__name__ for model in self.language_models})

    @property
    def language_models(self) -> list[Any]:
        """The frozen model and those of the lens, each once."""
        return [piece for name, piece in self.pieces.items() if name.endswith("lm") or name == "subject"]

    def forward(self, act: Callable[[], Any]) -> Any:
        return act()

    def train(self, mode: bool = True) -> Together:
        """As the lens has it: no dropout, and a key-value cache."""
        self.training = mode
        self._lens[0].train(mode)
        return self

    def activation_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        self._lens[0].activation_checkpointing_enable(*args, **kwargs)


def in_one_call(method: Callable[..., Any]) -> Callable[..., Any]:
    """For a method `(trainer, model, ...)`: where weights are spread, it runs inside one call of what the engine has
    wrapped, on the lens itself."""

    @wraps(method)
    def inside(trainer: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        if not trainer.engine.spreads_weights:
            return method(trainer, model, *args, **kwargs)
        return trainer.as_one(lambda: method(trainer, trainer.lens, *args, **kwargs))

    return inside


def reshard(model: nn.Module) -> None:
    """Let go of what FSDP2 has gathered; what it looks up afterwards are the parts that each process holds."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def unshard(model: nn.Module) -> None:
    """Gather again what lies outside the blocks; blocks do so by themselves."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(model, FSDPModule):
        model.unshard()


def spread_zero3(model: Together, dtype: torch.dtype, device: torch.device, given: Mapping[str, Any]) -> None:
    """Spread weights that wait on the CPU over the processes, block by block.

    DeepSpeed would first bring the whole model to each device. What lies on the CPU is a view of the checkpoint's
    files, shared by the processes of a machine; the first process's weights are sent to the others, which would make
    a whole copy of their own by writing there.

    Args:
        model: lens and frozen model.
        dtype: that the engine computes in; it casts all weights to it.
        device: of this process.
        given: DeepSpeed's configuration; whether parts wait on the host (`offload_param`) hangs on it.
    """
    import deepspeed

    for parameter in model.parameters():  # and no buffer: positions are in float32 in a model of bfloat16, too
        parameter.data = parameter.data.to(dtype)
    stage = while_spreading(given)
    for module in (*(block for lm in model.language_models for block in blocks_of(lm)), model):
        if torch.distributed.get_rank() > 0:
            for parameter in module.parameters():
                if not parameter.requires_grad:
                    parameter.data = torch.empty_like(parameter.data)
        deepspeed.zero.Init(module=module, config_dict_or_path=stage, dtype=dtype)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)


def while_spreading(given: Mapping[str, Any]) -> dict[str, Any]:
    """Of DeepSpeed's configuration what decides where parts lie; much of the rest is `auto` until training begins."""
    host = {name: value for name, value in given["zero_optimization"].items() if name == "offload_param"}
    disk = {name: value for name, value in given.items() if name == "aio"}
    return {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3} | host} | disk


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether it is true on any process: where weights are spread all must make the same passes."""
    if not torch.distributed.is_initialized():
        return flag
    found = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return bool(found)


def mean_over_processes(values: Tensor) -> Tensor:
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
        values /= torch.distributed.get_world_size()
    return values


def in_turn_of_processes(mine: list[Any], processes: int) -> list[Any]:
    """What each process has made of every nth of some things, in the order of the things; the same on all."""
    if processes == 1:
        return mine
    everyone: list[list[Any]] = [[] for _ in range(processes)]
    torch.distributed.all_gather_object(everyone, mine)
    rounds = zip_longest(*everyone)
    return [made for turn in rounds for made in turn if made is not None]
