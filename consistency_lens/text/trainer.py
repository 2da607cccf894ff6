"""`ConsistencyLensTrainer`: the dual-path objective, after a warm start from text that costs no other model.

Shapes: B rows, G rollouts per row, N = B * G, H columns (P and the horizon), T tokens of a text, d hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..base.comparing import Applied, TokenSwap, compare_vectors
from ..base.engines.engine import in_one_call
from ..base.engines.shards import fill, gathered
from ..base.robust.memory import FirstWeights
from ..base.trainer import LensTrainer
from ..base.training_data import TrainingData
from ..errors import BadInput
from ..frozen import Edit
from ..objectives import (
    fve,
    kl_of,
    log_probability_of,
    nll_of,
)
from ..schedules import Schedule
from .arguments import ConsistencyLensArguments
from .controls import after_prompt, nll_after
from .data import open_contexts, training_data
from .dealing import dealt, partners
from .modeling import ConsistencyLens, ConsistencyLensOutput
from .parts.generation import Noise, Words, leave_one_out
from .parts.sites import At, of_row
from .readability import nll_with_gradient, surprise_in_place
from .starting.source import TextSource

REFERENCE = "reference.safetensors"


@dataclass(frozen=True)
class Rows:
    """What one step is about: activations, where they are judged, and the texts they start from if any are needed."""

    comparison: TokenSwap | None  # None where the frozen model is not asked
    original: Tensor  # [N, d]
    at: At  # of which site each is
    pair: Tensor  # [N]
    texts: Words | None  # [N, T]


class ConsistencyLensTrainer(LensTrainer):
    """Trains a `ConsistencyLens`: to write and read starting texts, then on what its own words do to the frozen model.

    The stage is a function of the step, and so is all noise: a resumed run goes on as if it had never stopped.
    """

    args: ConsistencyLensArguments
    lens: ConsistencyLens

    def open_data(self, given: Any, eval_dataset: Any, args: Any) -> TrainingData:
        self.sites = list(self.lens.config.sites or [])
        self.activations = open_contexts(given, eval_dataset, self.frozen, self.sites)
        self.means = torch.stack([self.activations.mean(site) for site in self.sites])
        self.variances = [float(self.activations.statistics[f"{site}.variance"].sum()) for site in self.sites]
        for site, variance in zip(self.sites, self.variances, strict=True):
            if not variance > 0:
                fix = "Read another site, or more than one text: nothing can be said of what is always the same."
                raise BadInput("train_dataset", site, fix, why="all activations of the training rows are equal")
        return training_data(self.activations, eval_dataset, self.frozen, self.sites, args)

    def take_up(self) -> None:
        self.means = self.means.to(self.args.device if self.engine.spreads_weights else self.frozen.device)
        self.texts = TextSource(
            self.args, self.lens.config, self.frozen, self.train_dataset, self.engine.spreads_weights
        )
        self.reference: dict[str, Tensor] = {}

    def begin_again(self, first: FirstWeights, resumed: Path | None) -> None:
        self.reference = {}
        super().begin_again(first, resumed)

    def weigh(self, args: ConsistencyLensArguments) -> Mapping[str, Schedule]:
        return args.schedules()

    @property
    def is_warming_up(self) -> bool:
        return self.state.global_step < self.args.num_warm_steps

    @in_one_call
    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """`Â = E(D(A))`, `A* = Â + (A' - Â')`, `L = kl KL(M(A) || M(A*)) + mse |A - Â|² + lm L_LM + ...`"""
        inputs = self.placed(inputs)
        if self.is_warming_up:
            return self.compute_warm_loss(model, inputs)
        self.leave_warm_start()
        rows = self.rows(inputs)
        out = model(rows.original, at=rows.at, **self.manner(rows))
        terms = {**self.terms_of_function(rows, out), **self.terms_of_vectors(out.restored, rows.original, rows.at)}
        loss = self.settle({**terms, **self.terms_of_words(rows, out, terms)})
        return (loss, out) if return_outputs else loss

    def compute_warm_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """The decoder learns to write a starting text, the encoder to read it; the frozen model does not judge yet."""
        original, at = self.lens.read(inputs).float(), self.lens.at(inputs)
        words = self.texts.of(inputs, self.state.max_steps)
        if self.args.quote:
            out = model(original, words=words.words, estimator="none", at=at)
            return self.settle(self.terms_of_vectors(out.restored, original, at))
        if self.args.warm_sure and self.state.global_step >= self.args.num_guessing_steps:
            if self.state.global_step == self.args.num_guessing_steps:
                self.remember_decoder()
            words = words.supported(self.score_by_reference(original, words.words, at), self.texts.doubt)
        out = model(original, words=words.words, at=at)
        ids, mask = words.words.written(self.lens.config.stop_id)
        vectors = self.terms_of_vectors(out.restored, original, at)
        return self.settle({"start": nll_of(out.logits, ids, mask), **vectors})

    def placed(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Of a lens of several sites: which of them each row is about in this step, with a partner at the same one."""
        if len(self.sites) == 1:
            return inputs
        at = dealt(inputs["doc_id"], len(self.sites), self.args.seed * 1_000_003 + self.batch_number)
        pair = partners(inputs["doc_id"], at)
        return {**inputs, "site": at.to(inputs["doc_id"].device), "pair": pair.to(inputs["pair"].device)}

    # ---- what an evaluation measures

    def baseline(self, applied: Applied, batch: Mapping[str, Any]) -> list[Edit]:
        mean = self.mean_of(self.lens.at(batch))
        return [edit.at(mean) for edit in applied.edits]

    def mean_of(self, at: At) -> Tensor:
        """The mean activation of a site, `[d]`, or of the site of each row, `[B, d]`."""
        return self.means[at] if isinstance(at, int) else self.means[at.to(self.means.device)]

    def measure_rows(self, applied: Applied, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """With how near the vector is, `original` and `restored` `[B, d]`, and what is known of the text itself."""
        swap, original, at = applied.comparison, self.lens.read(batch).float(), self.lens.at(batch)
        assert isinstance(swap, TokenSwap)
        restored = applied.edits[0].tensor  # of all rows, whichever site each is of
        rows = super().measure_rows(applied, batch) | compare_vectors(restored, original)
        rows |= self.lens.traits(applied.code, batch, swap.prefix, self.frozen, self.args.seed)
        return rows | {"restored": restored, "original": original, "mean": self.mean_of(at).expand_as(original)}

    def summarise(self, rows: Mapping[str, Tensor], described: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        means = super().summarise(rows, described)
        means["fve"] = float(fve(rows["restored"], rows["original"], rows["mean"]))
        means["distinct"] = len({row["explanation"] for row in described}) / len(described)
        return {name: value for name, value in means.items() if name not in ("squared_error", "ce")}

    # ---- what the equation is made of

    def manner(self, rows: Rows) -> dict[str, Any]:
        """How the lens writes and reads in training."""
        if self.args.quote:
            return {"words": rows.texts, "estimator": "none"}
        return {"noise": self.noise, "estimator": self.args.estimator}

    def terms_of_function(self, rows: Rows, out: ConsistencyLensOutput) -> dict[str, Tensor]:
        """`KL(M(A) || M(A*))` with `A* = Â + (A' - Â')`; where it weighs nothing, the frozen model is not asked."""
        if rows.comparison is None or self.schedules["kl"].is_off:
            return {}
        vectors = out.edits[0].tensor
        put_back = vectors + self.error_elsewhere(rows, vectors)
        return {"kl": rows.comparison.kl(rows.comparison.edited([edit.at(put_back) for edit in out.edits]))}

    def terms_of_vectors(self, restored: Tensor, original: Tensor, at: At) -> dict[str, Tensor]:
        """`|A - Â|²` over the variance of the activations of the site (1 - FVE)."""
        return {"mse": (restored - original).square().sum(-1) / of_row(self.variances, at, original)}

    def rows(self, inputs: Mapping[str, Any]) -> Rows:
        """The batch with each row once per rollout; a rollout's A' is the same rollout of its partner."""
        times = self.rollouts
        asked = not (self.schedules["kl"].is_off and self.schedules["ground"].is_off)
        comparison = TokenSwap.of(self.frozen, inputs, self.args.kl_horizon) if asked else None
        original, at, pair = self.lens.read(inputs).float(), self.lens.at(inputs), inputs["pair"]
        words = self.texts.of(inputs, self.state.max_steps).words if self.args.quote else None
        if times > 1:
            comparison, original = comparison and comparison.repeat(times), original.repeat_interleave(times, 0)
            pair = (pair.unsqueeze(1) * times + torch.arange(times, device=pair.device)).flatten()
            at = at if isinstance(at, int) else at.repeat_interleave(times, 0)
        return Rows(comparison, original, at, pair, words)

    def error_elsewhere(self, rows: Rows, restored: Tensor) -> Tensor | float:
        """`Δ = A' - Â'`: what the lens got wrong about another document's activation."""
        if self.args.delta == "off":
            return 0.0
        error = (rows.original - restored)[rows.pair]
        return error if self.args.delta == "grad" else error.detach()

    def terms_of_words(self, rows: Rows, out: ConsistencyLensOutput, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the objective asks of the text, and how the decoder learns what its choice of words did."""
        if self.args.quote:
            return {}
        words, found = out.code, {}
        self.note("distinct", words.distinct)  # falls where all inputs get one sentence
        if not self.schedules["lm"].is_off:
            if out.logits is None or self.args.estimator == "policy":
                found["lm"] = nll_after(after_prompt(self.lens.config, self.frozen, len(words)), words)
            else:
                found["lm"] = nll_with_gradient(self.frozen, self.lens.config, words, out.logits, self.noise)
        if rows.comparison is not None and not self.schedules["ground"].is_off:
            found["ground"] = surprise_in_place(rows.comparison.prefix, words, self.texts.quoted, self.texts.doubt)
        if self.args.estimator == "policy":
            found |= self.terms_of_policy(rows, out, {**terms, **found})
        return found

    def terms_of_policy(
        self, rows: Rows, out: ConsistencyLensOutput, terms: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """`- advantage * log D(t | A)`, and the distance to the decoder that the warm start left behind."""
        assert out.logits is not None
        step = self.state.global_step
        ids, mask = out.code.written(self.lens.config.stop_id)
        judged = [name for name in ("kl", "mse", "lm", "ground") if name in terms]
        reward = -torch.stack([self.schedules[name](step) * terms[name].detach() for name in judged]).sum(0)
        advantage = leave_one_out(reward.view(-1, self.args.rollouts)).flatten()
        log_probability = (log_probability_of(out.logits, ids) * mask).sum(1)
        found = {"policy": -advantage * log_probability}
        if not self.schedules["reference"].is_off:
            before = self.score_by_reference(rows.original, out.code, rows.at)
            found["reference"] = kl_of(out.logits, before, mask)
        return found

    @property
    def rollouts(self) -> int:
        return self.args.rollouts if self.args.estimator == "policy" and not self.args.quote else 1

    @property
    def batch_number(self) -> int:
        """Of this batch among all that were ever drawn: N processes and N times the accumulation draw the same."""
        turn = self.state.global_step * self.args.gradient_accumulation_steps + self.micro_step
        return turn * self.args.world_size + self.args.process_index

    @property
    def noise(self) -> Noise:
        return Noise((self.args.seed * 1_000_003 + self.batch_number) * 1_009, self.args.temperature)

    # ---- the two stages

    def leave_warm_start(self) -> None:
        """At the first step behind the warm start: remember the decoder as it is, if words are to stay near its
        own."""
        if self.state.global_step == self.args.num_warm_steps:
            self.reference = {}
            if self.args.estimator == "policy" and not self.schedules["reference"].is_off:
                self.remember_decoder()

    def remember_decoder(self) -> None:
        """Keep the decoder as it is at the end of a stage: the next one is measured against it."""
        decoder = {id(p) for p in self.lens.decoder.own_parameters().values()}
        decoder |= {id(p) for p in self.lens.decoder.map.parameters()}
        names = {name for name, p in self.trainable.items() if id(p) in decoder}
        self.reference = self.held(lambda: self.trainable, names)

    @torch.no_grad()
    def score_by_reference(self, activations: Tensor, words: Words, at: At = -1) -> Tensor:
        """What the decoder of the last stage's end thinks of a text."""
        if not self.reference:
            fix = "Resume from an earlier checkpoint, or with the settings that this one was saved with."
            raise BadInput("resume_from_checkpoint", self.args.resume_from_checkpoint, fix, f"it has no {REFERENCE}")
        with self.standing_in(lambda: self.trainable, self.reference):
            return self.lens.decoder.score(activations, words, at)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The warm start has a learning rate and a cosine of its own; the chosen schedule begins behind it.
        A scheduler that was given stays as it is."""
        if self.lr_scheduler is not None:
            return self.lr_scheduler
        warm = self.args.num_warm_steps
        scheduler = super().create_scheduler(max(1, num_training_steps - warm), optimizer)
        if not warm:
            return scheduler
        stages = []
        for group, after in zip(scheduler.optimizer.param_groups, scheduler.lr_lambdas, strict=True):
            peak = self.args.warm_learning_rate / max(group["initial_lr"], 1e-12)
            rise = Schedule("cosine", peak, 0.05 * peak, warm, warmup=min(20, warm // 10))
            stages.append(in_turn(warm, rise, after))
        scheduler.lr_lambdas = stages
        for group, stage in zip(scheduler.optimizer.param_groups, stages, strict=True):
            group["lr"] = group["initial_lr"] * stage(0)
        return scheduler

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if not self.reference or not (self.args.should_save or self.engine.spreads_weights):
            return
        with self.standing_in(lambda: self.trainable, self.reference):
            tensors = gathered({name: self.trainable[name] for name in self.reference})
        if self.args.should_save:
            save_file(tensors, Path(output_dir or self.args.output_dir) / REFERENCE)

    def load_beside(self, folder: Path) -> None:
        super().load_beside(folder)
        if not (folder / REFERENCE).exists():
            return
        tensors = load_file(folder / REFERENCE)
        self.reference = self.held(lambda: self.trainable, set(tensors))
        with torch.no_grad(), self.standing_in(lambda: self.trainable, self.reference):
            for name, tensor in tensors.items():
                fill(self.trainable[name], tensor)


def in_turn(until: int, first: Callable[[int], float], then: Callable[[int], float]) -> Callable[[int], float]:
    """One factor of the learning rate up to a step, another one, counted from there, behind it.

    A function, so that no checkpoint keeps it: what depends on the step alone has no state.
    """

    def factor(step: int) -> float:
        return first(step + 1) if step < until else then(step - until)

    return factor
