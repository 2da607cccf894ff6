"""`CrosslayerTranscoderTrainer`: a transcoder learns to write what the MLPs write.

Shapes: N tokens of a batch, L chosen layers, d hidden size, F features per layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..base.comparing import Applied, WholePass
from ..base.engines.engine import FEATURES, in_one_call
from ..base.robust.memory import FirstWeights
from ..base.trainer import LensTrainer
from ..base.training_data import TrainingData
from ..errors import BadInput
from ..frozen import Edit
from ..schedules import Schedule
from .arguments import CrosslayerTranscoderArguments
from .coding.calibrating import count_ratios, scale_thresholds
from .coding.sharing import Shards
from .modeling import CrosslayerTranscoder
from .report.ablating import mean_ablated
from .report.fidelity import clean_values, errors_of, explained_variance, spread_of, sums_and_squares
from .training.data import Texts, TranscoderData, collator_of, open_data
from .training.firing import forget_moments, revive
from .training.holding import HeldSparsity
from .training.objective import terms
from .training.state import TrainingState
from .transcoder import TranscoderOutput
from .use.replacing import kept_columns

# Revival is over by then: what is revived later has no time to learn.
LAST_REVIVAL = 0.8
SETTLED_ON = 65_536  # tokens of each process, at most, on which the target L0 is met at the end


class AfterStep(TrainerCallback):
    """Counts what fired, and revives what is dead, behind the optimizer's step and before anything is saved."""

    def __init__(self, trainer: CrosslayerTranscoderTrainer) -> None:
        self.trainer = trainer

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.after_step()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.settle_l0()


class CrosslayerTranscoderTrainer(LensTrainer):
    """As `LensTrainer`; `train_dataset` are `Blocks`, the path of a folder of them, a `BlockStream`, or documents as
    `Blocks.from_dataset` takes them."""

    args: CrosslayerTranscoderArguments
    lens: CrosslayerTranscoder
    source: TranscoderData
    progress: TrainingState

    # ---- what it is given

    def open_data(self, given: Any, eval_dataset: Any, args: Any) -> TrainingData:
        seed = args.seed if args.data_seed is None else args.data_seed
        self.source = open_data(given, eval_dataset, self.lens.config, self.frozen, seed, args.blocks_per_window)
        batch, tokens = args.train_batch_size * args.world_size, len(self.source.tokens)
        if args.dataloader_drop_last and tokens < batch:
            fix = f"Use at most {tokens // args.world_size}, or extract more tokens."
            raise BadInput("per_device_train_batch_size", args.per_device_train_batch_size, fix, f"there are {tokens}")
        if self.lens.config.across_layers and args.evaluates:
            fix = "Train with eval_strategy='no' and give it thresholds afterwards, with lens.calibrated(...)."
            raise BadInput("across_layers", True, fix, why="inside a pass, layers above are not known yet")
        return self.source.training_data(self.frozen)

    def weigh(self, args: CrosslayerTranscoderArguments) -> Mapping[str, Schedule]:
        return args.schedules()

    def place(self, args: Any) -> nn.Module:
        """With `shard_features`, each process keeps its features."""
        placed = super().place(args)
        if self.engine.name == FEATURES:
            self.lens.spread(Shards(args.process_index, args.world_size))
        return placed

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Where features are spread, every process reads every token."""
        if self.engine.name != FEATURES:
            return super().get_train_dataloader()
        reading: dict[str, Any] = {
            "num_workers": self.args.dataloader_num_workers,
            "drop_last": self.args.dataloader_drop_last,
        }
        tokens: Any = self.train_dataset
        return DataLoader(tokens, self.args.train_batch_size, collate_fn=self.data_collator, **reading)

    def require_engine(self) -> None:
        super().require_engine()
        if self.args.shard_features and self.engine.name not in (FEATURES, "alone"):
            why = f"{self.engine.name} spreads weights or moments, too"
            raise BadInput("shard_features", True, "Use ds_configs/ddp.yaml.", why)
        if self.args.revive_steps and (self.engine.is_deepspeed or self.engine.spreads_weights):
            fix = "Use 0, or ds_configs/ddp.yaml."
            why = f"{self.engine.name} spreads the weights or moments that a revival changes"
            raise BadInput("revive_steps", self.args.revive_steps, fix, why)

    def take_up(self) -> None:
        """A lens that was never standardised is standardised by the statistics of all training tokens."""
        if self.lens.models is None:
            self.lens.models = self.models
        read = self.lens.standardiser
        if bool((read.scale == 1).all()) and bool((read.mean == 0).all()):
            self.lens.standardise(*self.source.moments())
        self.start_counting()
        if not any(isinstance(callback, AfterStep) for callback in self.callback_handler.callbacks):
            self.add_callback(AfterStep(self))

    def start_counting(self) -> None:
        config, target = self.lens.config, self.args.target_l0
        held = None if target is None else HeldSparsity(target, self.schedules["sparsity"].start)
        self.progress = TrainingState(len(config.window), config.features, held, self.args.device)
        self.begin_step()

    def begin_step(self) -> None:
        """Nothing has been read since the last step."""
        shape = (len(self.lens.config.window), self.lens.config.features)
        self.fired = torch.zeros(shape, dtype=torch.int64, device=self.args.device)
        self.tokens_read = 0
        self.last: tuple[Tensor, Tensor] | None = None

    def begin_again(self, first: FirstWeights, resumed: Path | None) -> None:
        self.start_counting()
        super().begin_again(first, resumed)

    def size_of(self, inputs: Mapping[str, Any]) -> tuple[int, Tensor]:
        """A row is a token."""
        count = len(inputs["activations"])
        return count, torch.tensor(count)

    # ---- the loss

    @in_one_call
    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """`mse |y - ŷ|² + λ Σ tanh(c |W_dec| f) + α Σ_dead relu(θ - x) |W_dec| + β AuxK + kl KL(M || M_replaced)`"""
        read, written = self.source.split(inputs["activations"])
        output = model(read)
        self.count(output, read, written)
        found = terms(self.lens, output, read, written, self.dead, self.args.sparsity_steepness, self.args.auxiliary_k)
        self.note("train_mse", found["mse"].detach())
        self.note("train_sparsity", found["sparsity"].detach())
        loss = self.settle({**found, **self.terms_of_passes()})
        return (loss, output) if return_outputs else loss

    def weight_of(self, term: str) -> float:
        """λ rises over the ramp, or is what holds the target L0; the KL weighs something in the last steps alone."""
        if term != "sparsity":
            waits = term == "kl" and self.state.global_step < (1 - self.args.kl_share) * self.state.max_steps
            return 0.0 if waits else super().weight_of(term)
        if self.progress.held is not None:
            return self.progress.held.weight
        ramp = self.args.sparsity_ramp * self.state.max_steps
        return super().weight_of(term) * (min(1.0, self.state.global_step / ramp) if ramp else 1.0)

    @property
    def dead(self) -> Tensor | None:
        """`[L, F]`, or None where no term asks."""
        asked = not (self.schedules["preactivation"].is_off and self.schedules["auxiliary"].is_off)
        return self.progress.firing.dead(self.args.dead_after) if asked else None

    def terms_of_passes(self) -> dict[str, Tensor]:
        """`KL(M || M_replaced)` on whole training documents; where it weighs nothing, the model is not asked."""
        if not self.weight_of("kl"):
            return {}
        if self.texts is None:
            self.texts = Texts(self.source.texts)
        turn = self.state.global_step * self.args.gradient_accumulation_steps + self.micro_step
        count, readers = self.args.kl_documents, self.engine.readers
        first = count * (self.args.process_index % readers)
        rng = np.random.default_rng([self.args.seed, turn])
        chosen = rng.integers(0, len(self.texts), count * readers)[first : first + count]
        batch = collator_of(self.frozen).padded([self.texts[int(i)] for i in chosen])
        batch = {name: tensor.to(self.frozen.device) for name, tensor in batch.items()}
        passes = WholePass.of(self.frozen, batch, mask=~kept_columns(batch, batch["input_ids"]))
        return {"kl": passes.kl(passes.edited(self.lens.replaced(batch)))}

    texts: Texts | None = None

    # ---- behind each step

    @torch.no_grad()
    def count(self, output: TranscoderOutput, read: Tensor, written: Tensor) -> None:
        self.fired[:, self.lens.shards.own(self.lens.config.features)] += output.code.counts()
        self.tokens_read += len(read)
        self.last = (read, written)

    def after_step(self) -> None:
        """Firing counts of all processes, the next λ, and at times a revival."""
        counts = self.accelerator.reduce(self.fired, "sum")
        tokens = self.tokens_read * self.engine.readers
        layers = counts.sum(1).double() / tokens
        for layer, l0 in zip(self.lens.config.window, layers, strict=True):
            self.note(f"l0/layer_{layer}", l0)
        if self.progress.held is not None:
            self.note("held_lambda", self.progress.held.weight)
        self.note("l0", self.progress.advance(counts, tokens))
        dead = self.progress.firing.dead(self.args.dead_after)
        self.note("dead", dead.double().mean())
        step, every = self.state.global_step, self.args.revive_steps
        if every and step % every == 0 and step <= LAST_REVIVAL * self.state.max_steps:
            self.revive(dead)
        self.begin_step()

    def settle_l0(self) -> None:
        """A controller leaves the number of active features near its target; the thresholds are scaled to meet it."""
        target = self.args.target_l0
        if target is None or self.lens.config.nonlinearity != "jumprelu" or self.engine.spreads_weights:
            return
        was_training = self.lens.training
        self.lens.eval()
        counts, seen = count_ratios(self.lens, self._some_read())
        self.lens.train(was_training)
        totals = torch.cat([counts.histogram[0], counts.active, torch.tensor([seen])]).to(self.args.device)
        totals = self.accelerator.reduce(totals, "sum").cpu()
        counts.histogram, counts.active = totals[None, :-2], totals[-2:-1]
        before = int(counts.active) / (int(totals[-1]) * len(self.lens.config.window))
        factor = scale_thresholds(self.lens, counts, int(totals[-1]), target)
        self.log({"l0_before_settling": before, "threshold_factor": factor})

    def _some_read(self) -> Iterator[Tensor]:
        """What the lens reads on some tens of thousands of training tokens."""
        seen = 0
        for inputs in self.get_train_dataloader():
            yield self.source.split(inputs["activations"])[0]
            seen += len(inputs["activations"])
            if seen >= SETTLED_ON:
                return

    def revive(self, dead: Tensor) -> None:
        """Dead features get what the living ones get wrong, on this step's tokens of all processes."""
        assert self.last is not None
        read, written = (self.accelerator.gather(values) for values in self.last)
        revive(self.lens, dead, read, written, seed=self.args.seed + self.state.global_step)
        assert self.optimizer is not None
        forget_moments(self.optimizer, self.lens, dead)
        self.progress.firing.idle[dead] = 0
        self.note("revived", float(dead.sum()))

    # ---- what an evaluation measures

    def baseline(self, applied: Applied, batch: Mapping[str, Any]) -> list[Edit]:
        return mean_ablated(self.lens, batch, self.source.means[self.source.written])

    def measure_rows(self, applied: Applied, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """With what explained variance and L0 are sums of: `errors`, `squares` and `active` `[B, L]`, `sums`
        `[B, L, d]`, and `tokens` `[B, 1]`."""
        read, written, lengths = clean_values(self.lens, self.frozen, batch)
        code: Any = applied.code
        sums, squares = sums_and_squares(written, lengths)
        return super().measure_rows(applied, batch) | {
            "errors": errors_of(self.lens.reconstruct(read), written, lengths),
            "sums": sums,
            "squares": squares,
            "active": code.sums(code.active()),
            "tokens": lengths[:, None],
        }

    def summarise(self, rows: Mapping[str, Tensor], described: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """With `ev`, `l0` and `dead`, of all layers together and of each, and `replacement_model_accuracy`."""
        means = super().summarise(rows, described)
        tokens = rows["tokens"][:, 0].double()
        spread = spread_of(rows["sums"], rows["squares"], tokens)
        each, active = explained_variance(rows["errors"], spread), rows["active"].double().sum(0) / tokens.sum()
        dead = self.progress.firing.dead(self.args.dead_after).double().mean(1)
        means |= {
            "replacement_model_accuracy": means["top1"],
            "ev": float(1 - rows["errors"].double().sum() / spread.sum()),
            "l0": float(active.mean()),
            "dead": float(dead.mean()),
        }
        for i, layer in enumerate(self.lens.config.window):
            means |= {f"ev/layer_{layer}": float(each[i]), f"l0/layer_{layer}": float(active[i])}
        return means

    # ---- save and resume

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self.progress.save(Path(output_dir or self.args.output_dir))

    def load_beside(self, folder: Path) -> None:
        super().load_beside(folder)
        self.progress.load(folder)
