"""`run_lens.py` as one of several processes, on a CPU, with what only tests need, and a record of what it was.

    launched.py COMMANDS.json [--deepspeed]

The commands of the file, each a list of words, are run one after the other in the same processes.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "DS_ACCELERATOR": "cpu"}

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from transformers import TrainerCallback

torch.set_num_threads(1)
FSDP = os.environ.get("ACCELERATE_USE_FSDP") == "true"


def leave_out_the_compiler() -> None:
    """DeepSpeed compiles an op for shared memory at its first collective: minutes, and gloo does without."""
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None


def shard_on_the_cpu() -> None:
    """accelerate spreads weights on accelerators only, and elsewhere quietly runs plain data parallelism."""
    original = AcceleratorState.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        plugin = kwargs.get("fsdp_plugin")
        if plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            for shared in (AcceleratorState._shared_state, PartialState._shared_state):
                shared["distributed_type"] = DistributedType.FSDP
            AcceleratorState._shared_state["fsdp_plugin"] = plugin
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin

    AcceleratorState.__init__ = init


if "--deepspeed" in sys.argv:
    leave_out_the_compiler()
if FSDP:
    shard_on_the_cpu()

from consistency_lens import cli  # noqa: E402
from consistency_lens.base import trainer as base_trainer  # noqa: E402
from consistency_lens.base.engines.shards import shard_of  # noqa: E402


class Memory(threading.Thread):
    """The most that this process has held by itself: files that it only looks at are shared, and not counted."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0

    @property
    def now(self) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, self.now)
            time.sleep(0.005)


class Witness(TrainerCallback):
    """Writes down, in every process, what the training really ran on."""

    def __init__(self, trainer: base_trainer.LensTrainer, place: Path) -> None:
        self.trainer, self.place, self.seeds, self.weights = trainer, place, [], []
        place.mkdir(parents=True, exist_ok=True)
        self.memory, self.grown, self.gradients = Memory(), 0, {"held": 0, "whole": 0}
        self.before = self.memory.now
        self.memory.start()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.seeds:  # by now an engine has taken the weights over
            self.grown = self.memory.peak - self.before
        noise = getattr(self.trainer, "noise", None)  # only what samples has any
        self.seeds.append(state.global_step if noise is None else noise.seed)
        self.weights.append([round(schedule(state.global_step), 9) for schedule in self.trainer.schedules.values()])
        if (slow := os.environ.get("TEST_SLOW_FROM")) and state.global_step >= int(slow):
            (self.place / f"waiting-{args.process_index}").write_text(str(os.getpid()))
            time.sleep(2)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Between two passes of a step."""
        found = [p.grad for p in self.trainer.trainable.values() if p.grad is not None]
        self.gradients = {"held": sum(shard_of(g).numel() for g in found), "whole": sum(g.numel() for g in found)}

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parts = self.trainer.lens.parts()
        trained = next(iter(parts.get("maps", next(iter(parts.values()))).values()))
        frozen = max(self.trainer.frozen.model.parameters(), key=lambda p: shard_of(p).numel())
        record = {
            "world_size": args.world_size,
            "distributed_type": str(self.trainer.accelerator.distributed_type.value),
            "engine": self.trainer.engine.name,
            "kind": type(trained).__name__,
            "trained_held": shard_of(trained).numel(),
            "trained_whole": self.trainer.lens.config.hidden_size**2,
            "subject_kind": type(frozen).__name__,
            "subject_held": sum(shard_of(p).numel() for p in self.trainer.frozen.model.parameters()),
            "grown": self.grown,
            "gradients": self.gradients,
            "seeds": self.seeds,
            "weights": self.weights,
            "trained_dtype": str(trained.dtype),
            "dtype": str(self.trainer._prepare_input(torch.zeros(1)).dtype),
        }
        (self.place / f"witness-{args.process_index}.json").write_text(json.dumps(record))


if __name__ == "__main__":
    place = Path(sys.argv[1])
    train = base_trainer.LensTrainer.train

    def watched(self: base_trainer.LensTrainer, *args: Any, **kwargs: Any) -> Any:
        self.add_callback(Witness(self, Path(self.args.output_dir) / "witness"))
        return train(self, *args, **kwargs)

    base_trainer.LensTrainer.train = watched
    code = 0
    for number, words in enumerate(json.loads(place.read_text())):
        if number and torch.distributed.is_initialized():
            torch.distributed.barrier()
        code = code or cli.main(words)
    if torch.distributed.is_initialized() and code == 0:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    sys.exit(code)
