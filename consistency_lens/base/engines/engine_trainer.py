"""`EngineTrainer`: transformers' `Trainer` where an engine may have spread the weights over processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType
from accelerate.utils import TorchDynamoPlugin
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer import SCHEDULER_NAME

from ...errors import BadInput
from ...frozen import FrozenLM, FrozenModels
from ...frozen.loading.compiling import compile_blocks
from ..modeling import LensModel
from ..saving.checkpoint import require_complete
from ..training_data import TrainingData
from ..watching.callbacks import swapped
from .engine import FEATURES, Engine, Together, reshard, spread_zero3, unshard
from .shards import exchange, held_state, is_spread, restore_state, shard_of


class EngineTrainer(Trainer):
    """Hands the lens, or lens and frozen model together, to an engine; saves and restores what is the engine's.

    `lens`, `frozen`, `data` and `engine` are set before this class is initialised (`place`).
    """

    lens: LensModel
    frozen: FrozenLM  # the first of `models`
    models: FrozenModels
    engine: Engine
    data: TrainingData

    def place(self, args: Any) -> nn.Module:
        """What is to be trained, as the engine wants it."""
        self.engine = Engine.of(args)
        if self.engine.spreads_model and len(self.models) > 1:
            fix = "Use ds_configs/zero2.json or ddp.yaml: the frozen models then lie whole on each process."
            raise BadInput("engine", self.engine.name, fix, why="it would spread the weights of several frozen models")
        for frozen in self.models.values():
            self.engine.require(self.lens, frozen, args)
        self._is_inside = False
        if args.torch_compile:
            every = [lm for each in self.models.values() for lm in Together(self.lens, each).language_models]
            for model in dict.fromkeys(every):
                compile_blocks(model, backend=args.torch_compile_backend, mode=args.torch_compile_mode)
        if not self.engine.spreads_weights:
            return self.lens
        return Together(self.lens, self.frozen if self.engine.spreads_model else None)

    def _wrap_model(self, model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        """What the lens itself has dealt out is given to no other engine: accelerate leaves alone what is wrapped."""
        if self.engine.name != FEATURES:
            return super()._wrap_model(model, *args, **kwargs)
        return Together(self.lens) if model is self.model else model

    def require_engine(self) -> None:
        """Raise where it is another engine than was named: on a CPU, FSDP quietly becomes plain data parallelism."""
        if self.engine.name == "fsdp2" and self.accelerator.distributed_type != DistributedType.FSDP:
            fix = "Use ds_configs/ddp.yaml or --deepspeed ds_configs/zero3.json."
            raise BadInput("fsdp", True, fix, why="FSDP2 needs a GPU; here it would be plain data parallelism")
        if self.engine.name == "fsdp2":
            plugin = self.accelerator.state.fsdp_plugin
            if plugin.mixed_precision_policy is not None:  # accelerate would have the loss in bfloat16, too
                wider = {"reduce_dtype": torch.float32, "output_dtype": None}
                plugin.mixed_precision_policy = replace(plugin.mixed_precision_policy, **wider)

    def as_one(self, act: Callable[[], Any]) -> Any:
        """Do something with lens and model; where their weights are spread, inside one call of what holds them."""
        if not self.engine.spreads_weights or self._is_inside:
            return act()
        self._is_inside = True
        try:
            return self.model_wrapped(act)
        finally:
            self._is_inside = False
            if self.engine.name == "fsdp2" and not torch.is_grad_enabled():
                reshard(self.model_wrapped)  # otherwise a backward pass does

    def save_lens(self, folder: Path) -> None:
        """The lens by itself. All processes have to call; the main one writes."""
        self.let_go()
        if self.engine.spreads_weights or self.is_world_process_zero():
            self.lens.save_pretrained(folder)

    def let_go(self) -> None:
        """Let go of all that the engine has gathered, so that each process holds its own part and nothing else."""
        if self.engine.name == "fsdp2":
            reshard(self.model_wrapped)
        elif self.engine.name == "zero3" and self.model_wrapped is not self.model:
            wrapped: Any = self.model_wrapped
            wrapped.optimizer.empty_partition_cache()

    def held(self, parameters: Callable[[], Mapping[str, nn.Parameter]], names: set[str]) -> dict[str, Tensor]:
        """Copies of what this process holds of some parameters."""
        with self._shards():
            return {name: shard_of(p).clone() for name, p in parameters().items() if name in names}

    @contextmanager
    def standing_in(
        self, parameters: Callable[[], Mapping[str, nn.Parameter]], values: Mapping[str, Tensor]
    ) -> Iterator[None]:
        """Inside, these values stand where the parameters were; as `held` gave them."""
        if not self.engine.spreads_weights:
            with swapped(parameters(), values):
                yield
            return
        with self._shards():
            exchange(parameters(), values)
        try:
            yield
        finally:
            with self._shards():
                exchange(parameters(), values)

    @contextmanager
    def _shards(self) -> Iterator[None]:
        """Inside, parameters are what each process holds, also in the midst of a call."""
        self.let_go()
        yield
        if self._is_inside and self.engine.name == "fsdp2":  # ZeRO-3 gathers what is looked up by itself
            unshard(self.model_wrapped)

    def gradient_norms(self, parts: Mapping[str, Mapping[str, nn.Parameter]]) -> dict[str, Tensor]:
        """Part -> norm of its gradients. DeepSpeed has them no more: its step is over, and knows of one norm only."""
        if self.engine.is_deepspeed:
            norm: Any = self.model_wrapped.get_global_grad_norm()
            return {} if norm is None else {"all": torch.as_tensor(norm).float()}
        norms = {}
        for part, parameters in parts.items():
            gradients = [p.grad for p in parameters.values() if p.grad is not None]
            if gradients:
                norm = torch.nn.utils.get_total_norm(gradients)
                norms[part] = norm.full_tensor() if is_spread(norm) else norm
        return norms

    # ---- what transformers does otherwise

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        """With --torch_compile accelerate would compile the lens as a whole, anew for each length, up to the limit.
        And of a stream one process would read and hand out what takes all to read, where the model is spread. Until
        the last pass of a step, FSDP2 would keep the gradients of all weights on each process."""
        made = super()._build_accelerator_args(**kwargs)
        made["gradient_accumulation_plugin"].sync_each_batch |= self.engine.name == "fsdp2"
        if self.data.streams:
            made["dataloader_config"].dispatch_batches = False
        return made | {"dynamo_plugin": TorchDynamoPlugin(backend="no")}

    def _prepare_input(self, data: Any) -> Any:
        """To the device; transformers would cast every number to the dtype of DeepSpeed, and activations with them."""
        return data.to(self.args.device) if isinstance(data, Tensor) else super()._prepare_input(data)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """transformers would first put together all that an engine holds, the frozen model too."""
        if not (self.engine.is_deepspeed or self.engine.spreads_weights):
            super().save_model(output_dir, _internal_call)
            return
        self._save(output_dir)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """The engine's own state, without frozen weights: the frozen model is in no checkpoint."""
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        if self.args.should_save:
            self.engine.save(Path(output_dir))
        if self.engine.is_deepspeed:
            wrapped: Any = self.model_wrapped
            wrapped.save_checkpoint(output_dir, exclude_frozen_parameters=True)
        elif self.engine.keeps_shards:
            # Each its own: what accelerate would write it cannot read where a parameter had no gradient yet.
            torch.save(held_state(self._adam), Path(output_dir) / self._own_state)
        else:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self.engine.keeps_shards:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        folder = Path(checkpoint)
        restore_state(self._adam, torch.load(folder / self._own_state, map_location="cpu", weights_only=True))
        self.lr_scheduler.load_state_dict(torch.load(folder / SCHEDULER_NAME, weights_only=True))

    @property
    def _own_state(self) -> str:
        return f"optimizer_{self.args.process_index}.pt"

    @property
    def _adam(self) -> Any:
        """The optimizer itself, inside of accelerate's."""
        wrapped: Any = self.optimizer
        return wrapped.optimizer

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """transformers would ask DeepSpeed for frozen weights, too, which no checkpoint holds."""
        folder = resume_from_checkpoint
        if self.engine.name == "zero3" and self.model_wrapped is self.model:
            wanted: Any = self.args.hf_deepspeed_config
            spread_zero3(self.model, wanted.dtype(), self.args.device, wanted.config)
        made = super()._prepare_for_training(max_steps, train_dataloader, None if self.engine.is_deepspeed else folder)
        if self.engine.name == "fsdp2":  # else what lies outside the blocks could not be let go of in a call
            self.model_wrapped.set_reshard_after_forward(True)
        if folder is not None and self.engine.is_deepspeed:
            wrapped: Any = self.model_wrapped
            path, _ = wrapped.load_checkpoint(folder, load_module_strict=False)
            if path is None:
                fix = "Resume from an earlier checkpoint."
                raise BadInput("resume_from_checkpoint", folder, fix, why="DeepSpeed's part of it is missing")
            self._load_optimizer_and_scheduler(folder)
            self.load_beside(Path(folder))
        return made

    def load_beside(self, folder: Path) -> None:
        """What a checkpoint holds beside weights and optimizer."""

    def require_resumable(self, folder: Path) -> None:
        """Raise where a checkpoint was cut off, or belongs to another engine."""
        require_complete(folder)
        self.engine.require_same(folder)
