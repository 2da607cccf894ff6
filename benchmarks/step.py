"""A training step against the sum of its bare parts, each run alone as plain calls of transformers.

    python benchmarks/step.py                                  # policy and parallel, a small model, two minutes
    python benchmarks/step.py --size gpt2 --rows 4 --trainable lora
    python benchmarks/step.py --size llama-3.1-8b --trainable lora --device cuda --dtype bfloat16 --rows 32

`bare` is the least that the objective asks for: nothing is sampled (a rollout takes the likeliest word), nothing is
checked, nothing is logged, and a loss is as plain as its part allows. `ours` is the same part through the lens, alone.
`step` is the trainer's: the objective, forward and backward, without data loading and the optimizer, which are no part
of the sum either. Weights and contexts are random; what counts are the ratios.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from harness import Timing, arguments, interleaved, report, show
from random_runs import SITE, batch_of, random_rows, trainer_of
from sizes import DTYPES, SIZES, random_lm
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from consistency_lens.base.fidelity import Bench
from consistency_lens.frozen.sites import blocks_of, truncate
from consistency_lens.objectives import nll_of
from consistency_lens.text.modeling import ConsistencyLens
from consistency_lens.text.trainer import ConsistencyLensTrainer


class Bare:
    """The parts of a step without this package: models, ids, caches and one forward hook."""

    def __init__(self, subject: PreTrainedModel, trainer: ConsistencyLensTrainer, batch: dict[str, Any]) -> None:
        lens, config = trainer.lens, trainer.lens.config
        self.times, self.horizon, self.subject = trainer.rollouts, trainer.args.kl_horizon, subject
        self.decoder = own_copy(lens.decoder.lm, "decoder") if config.trainable == "lora" else lens.decoder.lm
        self.encoder = own_copy(lens.encoder.lm, "encoder") if config.trainable == "lora" else lens.encoder.lm
        if config.trainable == "lora":
            truncate(self.encoder, lens.encoder.site.depth[0] + 1)
        self.block = blocks_of(subject)[lens.encoder.site.depth[0]]
        self.context = batch["input_ids"]
        self.ahead = torch.cat([self.context[:, -1:], batch["continuation_ids"][:, : self.horizon]], 1)
        self.value = torch.randn(len(self.context) * self.times, config.hidden_size).to(lens.device, subject.dtype)
        self.prompt = torch.tensor([config.prompt_ids], device=lens.device).expand(len(self.value), -1)
        generator = torch.Generator().manual_seed(0)
        self.text = torch.randint(
            1, config.subject["vocab_size"], (len(self.value), config.code_length), generator=generator
        )
        self.text = self.text.to(lens.device)

    def prefix(self) -> None:
        with torch.no_grad():
            self.cache = DynamicCache(config=self.subject.config)
            self.subject.base_model(self.context[:, :-1], past_key_values=self.cache, use_cache=True)

    def clean(self) -> None:
        with torch.no_grad():
            logits = self.subject(self.ahead, past_key_values=grown(self.cache), use_cache=True).logits
            self.target = logits.float().log_softmax(-1)

    def rollout(self) -> None:
        cache, inputs = DynamicCache(config=self.decoder.config), self.prompt
        with torch.no_grad():
            for _ in range(self.text.shape[1]):
                logits = self.decoder(inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
                inputs = logits[:, -1].argmax(-1, keepdim=True)

    def scored(self) -> Tensor:
        inputs, count = torch.cat([self.prompt, self.text[:, :-1]], 1), self.text.shape[1]
        return self.decoder(inputs, use_cache=False, logits_to_keep=count).logits.float()

    def score(self) -> None:
        F.cross_entropy(self.scored().flatten(0, 1), self.text.flatten()).backward()

    def reference(self) -> None:
        with torch.no_grad():
            self.scored()

    def read(self) -> None:
        inputs = torch.cat([self.prompt[:, :1], self.text], 1)
        state = self.encoder.base_model(inputs, use_cache=False).last_hidden_state[:, -1]
        state.float().square().sum().backward()

    def repeated(self) -> tuple[Tensor, DynamicCache]:
        cache = grown(self.cache)
        if self.times > 1:
            cache.batch_repeat_interleave(self.times)
        return self.ahead.repeat_interleave(self.times, 0), cache

    def edited(self) -> None:
        value = self.value.requires_grad_()
        ahead, cache = self.repeated()

        def replace(module: Any, args: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            hidden = torch.cat([value.unsqueeze(1), hidden[:, 1:]], 1)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        hook = self.block.register_forward_hook(replace)
        found = self.subject(ahead, past_key_values=cache, use_cache=True).logits.float().log_softmax(-1)
        hook.remove()
        target = self.target.repeat_interleave(self.times, 0)
        F.kl_div(found, target, log_target=True, reduction="sum").backward()

    def ground(self) -> None:
        with torch.no_grad():
            ahead, cache = self.repeated()
            logits = self.subject(
                torch.cat([ahead[:, :1], self.text], 1), past_key_values=cache, use_cache=True
            ).logits
            F.cross_entropy(logits[:, :-1].float().flatten(0, 1), self.text.flatten())


class Ours:
    """The same parts through the lens and its judge, and the whole step."""

    def __init__(self, trainer: ConsistencyLensTrainer, batch: dict[str, Any]) -> None:
        self.trainer, self.batch, self.lens = trainer, batch, trainer.lens
        self.original = batch["activations"][trainer.site].float().repeat_interleave(trainer.rollouts, 0)
        self.words = self.lens.decoder.write(self.original, trainer.noise)
        self.restored = torch.randn_like(self.original)

    def prefix(self) -> None:
        self.run = self.trainer.frozen.prefix(self.batch)

    def clean(self) -> None:
        with torch.no_grad():
            logits = self.run.logits(horizon=self.trainer.args.kl_horizon)
        self.bench = Bench(self.run, logits, torch.ones_like(logits[..., 0], dtype=torch.long))

    def rollout(self) -> None:
        self.lens.decoder.write(self.original, self.trainer.noise)

    def score(self) -> None:
        nll_of(self.lens.decoder.score(self.original, self.words), self.words.ids).mean().backward()

    def reference(self) -> None:
        self.trainer.score_by_reference(self.original, self.words)

    def read(self) -> None:
        self.lens.encoder(self.words).float().square().sum().backward()

    def repeated(self) -> Bench:
        return self.bench.repeat(self.trainer.rollouts) if self.trainer.rollouts > 1 else self.bench

    def edited(self) -> None:
        bench = self.repeated()
        edit = self.lens._edit(self.restored.requires_grad_())
        bench.kl(bench.edited(edit)).sum().backward()

    def ground(self) -> None:
        after = (
            self.repeated().prefix.followed_by(self.words.ids, self.words.mask).logits(horizon=self.words.ids.shape[1])
        )
        nll_of(after[:, :-1], self.words.ids, self.words.mask)

    def step(self) -> None:
        self.trainer.training_step(self.lens, self.batch)


def own_copy(lm: PreTrainedModel, adapter: str) -> PreTrainedModel:
    """The model with one adapter, always on."""
    lm = copy.deepcopy(lm)
    lm.enable_adapters()
    lm.set_adapter(adapter)
    lm.delete_adapter([name for name in lm.peft_config if name != adapter])
    return lm


def grown(cache: DynamicCache) -> DynamicCache:
    """One that may grow while the first stays as it is: layers grow by concatenation."""
    other = copy.copy(cache)
    other.layers = [copy.copy(layer) for layer in cache.layers]
    return other


PARTS = {
    "prefix": "prefix: B contexts but their last token",
    "clean": "clean pass: P and the horizon",
    "rollout": "rollout: T cached steps",
    "score": "teacher-forced pass, forward and backward",
    "read": "encoder, forward and backward",
    "edited": "edited pass, forward and backward",
    "reference": "reference: teacher-forced pass, forward",
    "ground": "grounding: T tokens after the context",
}


def parts_of(trainer: ConsistencyLensTrainer) -> list[str]:
    left_out = set() if trainer.args.estimator == "policy" else {"reference"}
    left_out |= {"ground"} if trainer.schedules["ground"].is_off else set()
    return [part for part in PARTS if part not in left_out]


def compare(options: argparse.Namespace, estimator: str) -> dict[str, Any]:
    """All parts of one estimator and the whole step, in turn."""
    frozen = random_lm(options.size, 2 * options.context, options.dtype, options.device)
    subject = copy.deepcopy(frozen.model) if options.trainable == "lora" else frozen.model
    rows = random_rows(frozen, options.rows, options.context, options.horizon)
    settings = {"code_length": options.length, "trainable": options.trainable}
    lens = ConsistencyLens.from_subject(frozen, str(frozen.site(SITE)), **settings)
    trainer = trainer_of(
        lens, frozen, rows, estimator=estimator, rollouts=options.rollouts, kl_horizon=options.horizon,
        delta=options.delta, ground_weight=str(options.ground_weight if estimator == "policy" else 0.0),
    )  # fmt: skip
    batch = batch_of(trainer)
    bare, ours, parts = Bare(subject, trainer, batch), Ours(trainer, batch), parts_of(trainer)
    models = [lens, bare.decoder, bare.encoder]

    def rid(work: Callable[[], None]) -> Callable[[], None]:
        def once() -> None:
            work()
            for model in models:
                model.zero_grad(set_to_none=True)

        return once

    work = {"step": rid(ours.step)}
    for part in parts:
        work[f"bare {part}"] = rid(vars(Bare)[part].__get__(bare))
        work[f"ours {part}"] = rid(vars(Ours)[part].__get__(ours))
    timings = interleaved(work, options.repeats, 1, options.device, options.budget)
    return summary(estimator, parts, timings)


def summary(estimator: str, parts: list[str], timings: dict[str, Timing]) -> dict[str, Any]:
    """Medians, and the step over the sum of the bare parts: of the medians, and of each round by itself."""
    ms = {name: 1e3 * timing.median for name, timing in timings.items()}
    rows = [{"part": PARTS[part], "bare ms": ms[f"bare {part}"], "ours ms": ms[f"ours {part}"]} for part in parts]
    bare, ours = (sum(row[f"{whose} ms"] for row in rows) for whose in ("bare", "ours"))
    step = timings["step"]
    rounds = list(zip(step.seconds, *(timings[f"bare {part}"].seconds for part in parts), strict=True))
    return {
        "estimator": estimator, "parts": rows, "bare ms": bare, "ours ms": ours, "step ms": ms["step"],
        "ratio": ms["step"] / bare, "ratio by round": median(whole / sum(alone) for whole, *alone in rounds),
        "rounds": len(rounds), "spread": step.spread,
    }  # fmt: skip


def tell(options: argparse.Namespace, result: dict[str, Any]) -> None:
    table = [[*row.values(), row["ours ms"] / row["bare ms"]] for row in result["parts"]]
    table += [["sum", result["bare ms"], result["ours ms"], result["ours ms"] / result["bare ms"]]]
    table += [["the whole step", None, result["step ms"], result["ratio"]]]
    table = [[name, *(round(x) if x and x > 99 else x for x in numbers)] for name, *numbers in table]
    note = (
        f"{result['rounds']} interleaved rounds, medians; spread of the step {result['spread']:.0%}.\n"
        f"Step over sum of bare parts, round by round: {result['ratio by round']:.3f}"
    )
    title = f"{result['estimator']}, {options.size}, {options.trainable}, B {options.rows}, T {options.length}"
    show(title, ["part", "bare ms", "ours ms", "ours / bare"], table, note)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--size", choices=SIZES, default="pilot")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--trainable", choices=["full", "lora"], default="full")
    parser.add_argument("--estimators", nargs="+", choices=["policy", "parallel"], default=["policy", "parallel"])
    parser.add_argument("--rows", type=int, default=48, help="B, activations per step")
    parser.add_argument("--rollouts", type=int, default=4, help="texts per activation, for policy")
    parser.add_argument("--length", type=int, default=8, help="T, tokens of a text")
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--horizon", type=int, default=8)
    parser.add_argument("--delta", choices=["off", "stopgrad", "grad"], default="stopgrad")
    parser.add_argument(
        "--ground_weight", type=float, default=0.0, help="above 0, policy judges texts after the context"
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--budget", type=float, default=45, help="seconds per estimator; no round is begun after them")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    results = [compare(options, estimator) for estimator in options.estimators]
    for result in results:
        tell(options, result)
    report(options.json, options.device, {k: v for k, v in vars(options).items() if k != "json"}, results)


if __name__ == "__main__":
    main()
