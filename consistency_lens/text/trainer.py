"""`ConsistencyLensTrainer`: the dual-path objective, after a warm start from text that costs no other model.

Shapes: B rows, G rollouts per row, N = B * G, H columns (P and the horizon), T tokens of a text, d hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..base.engines import any_process, in_one_call
from ..base.fidelity import Bench
from ..base.memory import FirstWeights
from ..base.shards import fill, gathered
from ..base.trainer import LensTrainer
from ..errors import BadInput
from ..frozen import Prefix
from ..objectives import direction_error_of, entropy_of, kl_of, masked_mean, nll_of, norm_error_of
from ..schedules import Schedule
from .arguments import ConsistencyLensArguments
from .controls import after_prompt, nll_after, nll_of_tokens, noised
from .generation import Noise, Words, leave_one_out, log_probability_of
from .modeling import ConsistencyLens, ConsistencyLensOutput
from .prepared import PreparedTexts
from .readability import nll_with_gradient
from .starting import StartingTexts
from .warm_start import Doubt, quoted_of

REFERENCE = "reference.safetensors"
MISQUOTED = 4.6  # nats: as if a context would hold another token once in a hundred times


@dataclass(frozen=True)
class Rows:
    """What one step is about: activations, where they are judged, and the texts they start from if any are needed."""

    bench: Bench
    original: Tensor  # [N, d]
    pair: Tensor  # [N]
    texts: Words | None  # [N, T]


class ConsistencyLensTrainer(LensTrainer):
    """Trains a `ConsistencyLens`: to write and read starting texts, then on what its own words do to the subject.

    The stage is a function of the step, and so is all noise: a resumed run goes on as if it had never stopped.
    """

    args: ConsistencyLensArguments
    lens: ConsistencyLens

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.args.anchor == "frozen" and (self.engine.is_deepspeed or self.engine.spreads_weights):
            fix = "Use ds_configs/ddp.yaml, or another anchor."
            raise BadInput("anchor", "frozen", fix, why=f"{self.engine.name} settles at the start what is trained")
        self.doubt = Doubt(self.args.warm_sure, self._vague_id())
        self.reference: dict[str, Tensor] = {}
        self._prepared: PreparedTexts | None = None
        if self.args.anchor == "projections":
            for parameter in self.lens.encoder.own_parameters().values():
                parameter.requires_grad_(False)

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
        if self.is_warming_up:
            return self.compute_warm_loss(model, inputs)
        self.leave_warm_start()
        rows = self.rows(inputs)
        out = model(rows.original, **self.manner(rows))
        restored = out.restored + self.error_elsewhere(rows, out.restored)
        edited = rows.bench.edited(out.edits[0].at(restored))
        terms = {"kl": rows.bench.kl(edited), **self.terms_of_vectors(out.restored, rows.original)}
        loss = self.settle({**terms, **self.terms_of_words(rows, out, terms)})
        return (loss, out) if return_outputs else loss

    def compute_warm_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """The decoder learns to write a starting text, the encoder to read it; the subject does not judge yet."""
        original = inputs["activations"][self.site].float()
        words = self.starting_texts(inputs)
        if self.args.quote:
            out = model(original, words=words.words, estimator="none")
            return self.settle(self.terms_of_vectors(out.restored, original))
        if self.args.warm_sure and self.state.global_step >= self.args.num_guessing_steps:
            if self.state.global_step == self.args.num_guessing_steps or not self.reference:
                self.remember_decoder()
            words = words.supported(self.score_by_reference(original, words.words), self.doubt)
        out = model(original, words=words.words)
        ids, mask = words.words.written(self.lens.config.stop_id)
        return self.settle({"start": nll_of(out.logits, ids, mask), **self.terms_of_vectors(out.restored, original)})

    # ---- what the equation is made of

    def manner(self, rows: Rows) -> dict[str, Any]:
        """How the lens writes and listens in training."""
        if self.args.quote:
            return {"words": rows.texts, "estimator": "none"}
        heard = self.misheard if self.args.anchor == "paraphrase" else None
        return {"noise": self.noise, "estimator": self.args.estimator, "heard": heard, "beside": rows.texts}

    def terms_of_vectors(self, restored: Tensor, original: Tensor) -> dict[str, Tensor]:
        """`|A - Â|²` over the variance of the activations (1 - FVE), and its direction and norm by themselves."""
        found = {"mse": (restored - original).square().sum(-1) / self.variance}
        if not self.schedules["direction"].is_off:
            found["direction"] = direction_error_of(restored, original)
        if not self.schedules["norm"].is_off:
            found["norm"] = norm_error_of(restored, original)
        return found

    def rows(self, inputs: Mapping[str, Any]) -> Rows:
        """The batch with each row once per rollout; a rollout's A' is the same rollout of its partner."""
        bench, times = Bench.of(self.frozen, inputs, self.args.kl_horizon), self.rollouts
        original, pair = inputs["activations"][self.site].float(), inputs["pair"]
        words = self.starting_texts(inputs).words if self.args.anchor == "replay" or self.args.quote else None
        if times > 1:
            bench, original = bench.repeat(times), original.repeat_interleave(times, 0)
            pair = (pair.unsqueeze(1) * times + torch.arange(times, device=pair.device)).flatten()
        return Rows(bench, original, pair, words)

    def starting_texts(self, inputs: Mapping[str, Any]) -> StartingTexts:
        """Those of these rows."""
        if not self.prepares:
            return self._texts_of(inputs)
        if self._prepared is None:
            alone = self.engine.spreads_weights  # then all processes make the same passes, and so all texts
            self._prepared = PreparedTexts.of(
                self.train_dataset,
                self._texts_of,
                self.lens.config.pad_id,
                recipe=self._recipe_of_texts(),
                share=(0, 1) if alone else (self.args.process_index, self.args.world_size),
                main=self.is_world_process_zero(),
                any_process=lambda flag: any_process(flag, self.args.device),
            )
        keys = zip(inputs["doc_id"].tolist(), inputs["position"].tolist(), strict=True)
        return self._prepared.find(list(keys), self.lens.device)

    @property
    def prepares(self) -> bool:
        """Whether every row will be wanted about as often as it costs to make all texts at once, in good order."""
        if not isinstance(self.train_dataset, Dataset):
            return False
        kept = self.args.quote or self.args.anchor == "replay"
        steps = self.state.max_steps if kept else self.args.num_warm_steps
        return (
            2 * steps * self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
            > len(self.train_dataset)
        )

    def _recipe_of_texts(self) -> dict[str, Any]:
        config = self.lens.config
        names = ("code_length", "stop_id", "never_ids", *(["prompt"] if self.args.warm_start == "summary" else []))
        return {
            "kind": self.args.warm_start,
            "doubt": asdict(self.doubt),
            "subject": config.origin.to_dict(),
            **{name: config.to_dict()[name] for name in names},
        }

    def _texts_of(self, contexts: Mapping[str, Tensor]) -> StartingTexts:
        kind = self.args.warm_start
        return StartingTexts.of(kind, contexts, self.lens.config, self.frozen, self.doubt, self.any_process)

    def _vague_id(self) -> int | None:
        """The token of `warm_vague`, as it stands behind another word."""
        word = self.args.warm_vague
        if word is None:
            return None
        ids = min(
            (self.frozen.tokenizer(form, add_special_tokens=False)["input_ids"] for form in (f" {word}", word)),
            key=len,
        )
        if len(ids) != 1 or ids[0] in {self.lens.config.stop_id, *(self.lens.config.never_ids or [])}:
            fix = "Use a word that is one token of this model, such as 'something', or leave it out."
            raise BadInput("warm_vague", word, fix, why=f"it is {len(ids)} tokens or a special one")
        return int(ids[0])

    def any_process(self, flag: bool) -> bool:
        """Whether it is true here; where weights are spread, on any process, since all make the same passes."""
        return any_process(flag, self.args.device) if self.engine.spreads_weights else flag

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
        _, mask = words.written(self.lens.config.stop_id)
        self.note("distinct", len(words.ids.unique(dim=0)) / len(words))  # falls where all inputs get one sentence
        if not self.schedules["lm"].is_off:
            if out.logits is None or self.args.estimator == "policy":
                found["lm"] = nll_after(after_prompt(self.lens.config, self.frozen, len(words)), words)
            else:
                found["lm"] = nll_with_gradient(self.frozen, self.lens.config, words, out.logits, self.noise)
        if not self.schedules["ground"].is_off:
            found["ground"] = self.surprise_in_place(rows.bench.prefix, words)
        if not self.schedules["entropy"].is_off and out.logits is not None:
            found["entropy"] = -entropy_of(out.logits, mask)
        if out.beside is not None:
            original = rows.original[:: self.rollouts]
            found["replay"] = (out.beside - original).square().sum(-1) / self.variance
        if self.args.estimator == "policy":
            found |= self.terms_of_policy(rows, out, {**terms, **found})
        return found

    def surprise_in_place(self, prefix: Prefix, words: Words) -> Tensor:
        """`- mean_t log M(t_t | x_0..x_{P-q}, t_<t)`: the text where it belongs, in its row's own context and in the
        place of the q tokens that it begins with quoting. What the subject would not say there is made up.

        Quoted tokens the context itself judges: the right one is no surprise, and a wrong one is more of a surprise
        than M's own words can be, since what it says is false. A general word says nothing false, wherever M knows
        better: it costs what a word costs that is just sure enough to be said.
        """
        quoted = min(quoted_of(self.args.warm_start, self.lens.config.code_length), prefix.input_ids.shape[1] - 1)
        surprise = nll_of_tokens(prefix.shortened(quoted), words)
        if quoted:
            said, read = words.ids[:, :quoted], prefix.input_ids[:, -quoted:]
            of_quotes = (surprise[:, :quoted] + MISQUOTED).masked_fill(said == read, 0.0)
            surprise = torch.cat([of_quotes, surprise[:, quoted:]], dim=1)
        if self.doubt.word is not None:
            surprise = surprise.masked_fill(words.ids == self.doubt.word, -math.log(max(self.doubt.below, 1e-3)))
        short = prefix.mask.sum(1) <= quoted  # nothing is left of these
        return masked_mean(surprise, words.mask).masked_fill(short, 0.0)

    def terms_of_policy(
        self, rows: Rows, out: ConsistencyLensOutput, terms: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """`- advantage * log D(t | A)`, and the distance to the decoder that the warm start left behind."""
        assert out.logits is not None
        step = self.state.global_step
        ids, mask = out.code.written(self.lens.config.stop_id)
        judged = [name for name in ("kl", "mse", "direction", "norm", "lm", "ground") if name in terms]
        reward = -torch.stack([self.schedules[name](step) * terms[name].detach() for name in judged]).sum(0)
        advantage = leave_one_out(reward.view(-1, self.args.rollouts)).flatten()
        log_probability = (log_probability_of(out.logits, ids) * mask).sum(1)
        found = {"policy": -advantage * log_probability}
        if self.reference:
            before = self.score_by_reference(rows.original, out.code)
            found["reference"] = kl_of(out.logits, before, mask)
        return found

    @property
    def rollouts(self) -> int:
        return self.args.rollouts if self.args.estimator == "policy" and not self.args.quote else 1

    @property
    def noise(self) -> Noise:
        """Of this batch among all that were ever drawn: N processes and N times the accumulation draw the same."""
        turn = self.state.global_step * self.args.gradient_accumulation_steps + self.micro_step
        batch = turn * self.args.world_size + self.args.process_index
        return Noise((self.args.seed * 1_000_003 + batch) * 1_009, self.args.temperature)

    def misheard(self, words: Words) -> Words:
        """Words dropped and replaced at random: a code that hangs on exact tokens does not pay."""
        half = self.args.anchor_share / 2
        return noised(words, drop=half, replace=half, seed=self.noise.seed or 0, pad_id=self.lens.config.pad_id)

    # ---- the two stages

    def leave_warm_start(self) -> None:
        """At the first step behind the warm start: remember the decoder as it is, and freeze what is to stay."""
        if self.args.anchor == "frozen":
            for parameter in (*self.lens.encoder.own_parameters().values(), *self.lens.encoder.map.parameters()):
                parameter.requires_grad_(False)
        if self.args.estimator == "policy" and self.state.global_step == self.args.num_warm_steps:
            self.remember_decoder()

    def remember_decoder(self) -> None:
        """Keep the decoder as it is at the end of a stage: the next one is measured against it."""
        decoder = {id(p) for p in self.lens.decoder.own_parameters().values()}
        decoder |= {id(p) for p in self.lens.decoder.map.parameters()}
        names = {name for name, p in self.trainable.items() if id(p) in decoder}
        self.reference = self.held(lambda: self.trainable, names)

    @torch.no_grad()
    def score_by_reference(self, activations: Tensor, words: Words) -> Tensor:
        """What the decoder of the last stage's end thinks of a text."""
        with self.standing_in(lambda: self.trainable, self.reference):
            return self.lens.decoder.score(activations, words)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The warm start has a learning rate and a cosine of its own; the chosen schedule begins behind it."""
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
