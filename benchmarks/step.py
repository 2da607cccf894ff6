"""A training step, part by part: its time against bare calls of transformers, its memory, the speed that it reaches.

    python benchmarks/step.py                                  # policy and parallel, a small model, two minutes
    python benchmarks/step.py --length 16 --context 128 --lm_weight 0.02 --memory
    python benchmarks/step.py --size gpt2 --rows 4 --trainable lora
    python benchmarks/step.py --size llama-3.1-8b --trainable lora --device cuda --dtype bfloat16 --rows 32

`bare` is the least that the objective asks for: nothing is sampled (a rollout takes the likeliest word), nothing is
checked, nothing is logged, and a loss is as plain as its part allows. `ours` is the same part through the lens, alone.
`step` is the trainer's: the objective, forward and backward, without data loading and the optimizer, which are no part
of the sums either. There are two sums: of the five parts that no lens of this kind can do without (rollout,
teacher-forced pass, encoder, prefix, edited pass), and of all the parts that this objective has.

`of peak` is how many operations a pass makes per second, by the count that `run_lens.py plan` uses, over those of one
large matrix product in the same round (or over `--peak_tflops`). `plan` is what that arithmetic says of the parts and
the step, told two speeds of the same rounds: of operations, that of the bare teacher-forced pass, which stands for
`--tflops` times `--utilization`; of memory, that of a matrix too large for caches times a vector.

With `--memory`, each part runs again in another process, and what it takes at most above weights and moments is
measured. Weights and contexts are random; what counts are the ratios.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch
from harness import Timing, arguments, interleaved, report, show
from peak import alone, held, peak_of
from random_runs import SITE, batch_of, random_rows, trainer_of
from sizes import DTYPES, SIZES, random_lm
from step_parts import FIVE, PARTS, Bare, Ours

from consistency_lens.base.adapters import without_adapters
from consistency_lens.text.modeling import ConsistencyLens
from consistency_lens.text.planning import Card, Sizes, Work, hours_of, operations_of
from consistency_lens.text.planning.sizing import sizes_of
from consistency_lens.text.trainer import ConsistencyLensTrainer

LONG = ("score", "read")  # passes that ought to reach a good share of the peak
PLANNED = {  # part -> its name in the arithmetic of `plan`
    "prefix": "prefix", "rollout": "rollout", "score": "teacher-forced", "read": "encoder", "clean": "clean",
    "edited": "edited", "reference": "reference", "language": "language", "ground": "grounding",
}  # fmt: skip


def prepare(options: argparse.Namespace, estimator: str) -> tuple[ConsistencyLensTrainer, dict[str, Any]]:
    """A trainer in the functional stage, and its batch."""
    frozen = random_lm(options.size, 2 * options.context, options.dtype, options.device)
    rows = random_rows(frozen, options.rows, options.context, options.horizon)
    settings = {"code_length": options.length, "trainable": options.trainable, "lora_rank": options.lora_rank}
    lens = ConsistencyLens.from_subject(frozen, str(frozen.site(SITE)), **settings)
    weights = {f"{name}_weight": str(vars(options)[f"{name}_weight"]) for name in ("lm", "ground")}
    trainer = trainer_of(
        lens, frozen, rows, estimator=estimator, rollouts=options.rollouts, kl_horizon=options.horizon,
        delta=options.delta, **(weights if estimator == "policy" else {}),
    )  # fmt: skip
    return trainer, batch_of(trainer)


def parts_of(trainer: ConsistencyLensTrainer) -> list[str]:
    left_out = set() if trainer.args.estimator == "policy" else {"reference"}
    left_out |= {part for part, term in (("language", "lm"), ("ground", "ground")) if trainer.schedules[term].is_off}
    return [part for part in PARTS if part not in left_out]


def compare(options: argparse.Namespace, estimator: str) -> dict[str, Any]:
    """All parts of one estimator and the whole step, in turn."""
    trainer, batch = prepare(options, estimator)
    lens, frozen = trainer.lens, trainer.frozen
    subject = without_adapters(copy.deepcopy(frozen.model)) if options.trainable == "lora" else frozen.model
    bare, ours, parts = Bare(subject, trainer, batch), Ours(trainer, batch), parts_of(trainer)
    models = [lens, bare.decoder, bare.encoder]

    def rid(work: Callable[[], None]) -> Callable[[], None]:
        def once() -> None:
            work()
            for model in models:
                model.zero_grad(set_to_none=True)

        return once

    matrix = torch.randn(2, side := 8192 if frozen.device.type == "cuda" else 768, side)
    matrix = matrix.to(frozen.device, frozen.dtype if options.trainable == "lora" else torch.float32)
    tall = torch.ones(16384, 4096, device=frozen.device, dtype=matrix.dtype)
    work = {
        "step": rid(ours.step),
        "optimizer": rid(ours.optimizer),
        "matmul": lambda: matrix[0] @ matrix[1],
        "reading": lambda: tall @ tall[0],
    }
    for part in parts:
        work[f"bare {part}"] = rid(vars(Bare)[part].__get__(bare))
        work[f"ours {part}"] = rid(vars(Ours)[part].__get__(ours))
    timings = interleaved(work, options.repeats, 1, options.device, options.budget)
    found = summary(estimator, parts, timings)
    measured = 2 * side**3 / timings["matmul"].median
    peak = measured if options.peak_tflops is None else 1e12 * options.peak_tflops
    sizes, asked = sizes_of(frozen.config, options.dtype, options.lora_rank), work_of(options, trainer)
    bandwidth = tall.numel() * tall.element_size() / timings["reading"].median
    return found | {
        "peak TFLOP/s": peak / 1e12,
        "of peak": speeds(operations_of(sizes, asked), timings, peak),
        "plan": planned(sizes, asked, timings, parts, bandwidth),
    }


def summary(estimator: str, parts: list[str], timings: dict[str, Timing]) -> dict[str, Any]:
    """Medians, and the step over the sums of the bare parts: of the medians, and of each round by itself."""
    ms = {name: 1e3 * timing.median for name, timing in timings.items()}
    rows = [
        {"name": part, "part": PARTS[part], "bare ms": ms[f"bare {part}"], "ours ms": ms[f"ours {part}"]}
        for part in parts
    ]
    step = timings["step"]
    found: dict[str, Any] = {
        "estimator": estimator, "parts": rows, "step ms": ms["step"], "optimizer ms": ms["optimizer"],
        "rollout share": ms["ours rollout"] / ms["step"], "rounds": len(step.seconds), "spread": step.spread,
    }  # fmt: skip
    for name, summed in (("five", FIVE), ("all", parts)):
        bare, ours = (sum(ms[f"{whose} {part}"] for part in summed) for whose in ("bare", "ours"))
        rounds = zip(step.seconds, *(timings[f"bare {part}"].seconds for part in summed), strict=True)
        by_round = median(whole / sum(single) for whole, *single in rounds)
        found[name] = {"bare ms": bare, "ours ms": ours, "ratio": ms["step"] / bare, "ratio by round": by_round}
    return found


def work_of(options: argparse.Namespace, trainer: ConsistencyLensTrainer) -> Work:
    """A step, as `plan` would be told of it."""
    policy = trainer.args.estimator == "policy"
    return Work(
        site_depth=trainer.lens.encoder.site.depth[0] + 1, trainable=options.trainable, dtype=options.dtype,
        autocast=False, rows=options.rows, rollouts=trainer.rollouts, length=options.length,
        prompt=len(trainer.lens.config.prompt_ids or []), context=options.context, horizon=options.horizon,
        rank=options.lora_rank, policy=policy, language=not trainer.schedules["lm"].is_off,
        grounded=not trainer.schedules["ground"].is_off, remembered=policy,
    )  # fmt: skip


def speeds(operations: Mapping[str, float], timings: Mapping[str, Timing], peak: float) -> dict[str, dict[str, float]]:
    """Long pass -> the share of the peak that it reaches, as plain calls and as ours."""
    return {
        part: {
            whose: operations[PLANNED[part]] / timings[f"{whose} {part}"].median / peak for whose in ("bare", "ours")
        }
        for part in LONG
    }


def planned(
    sizes: Sizes, work: Work, timings: Mapping[str, Timing], parts: list[str], bandwidth: float
) -> dict[str, Any]:
    """Milliseconds of each part and of the step by arithmetic, and the step's over what was measured."""
    speed = operations_of(sizes, work)[PLANNED["score"]] / timings["bare score"].median
    seconds = hours_of(sizes, work, Card(memory=0, speed=speed, bandwidth=bandwidth, link=1.0), 1, 0).seconds
    found = {part: 1e3 * seconds[PLANNED[part]] for part in parts}
    step = sum(found.values())
    return {
        "GB/s": bandwidth / 1e9, "parts": found, "step ms": step, "optimizer ms": 1e3 * seconds["optimizer"],
        "over measured": step / 1e3 / timings["step"].median,
    }  # fmt: skip


def peaks(options: argparse.Namespace, estimator: str) -> dict[str, float]:
    """In a process of its own: megabytes that each part takes at most above what is there all the time."""
    if options.threads:
        torch.set_num_threads(options.threads)
    found, before = {}, held(options.device)
    trainer, batch = prepare(options, estimator)
    ours = Ours(trainer, batch)
    ours.optimizer()  # makes the moments
    trainer.lens.zero_grad(set_to_none=True)
    found["always"] = held(options.device) - before
    for part in [*parts_of(trainer), "optimizer", "step"]:
        with peak_of(options.device) as most:
            vars(Ours)[part].__get__(ours)()
        found[part] = most.mb
        trainer.lens.zero_grad(set_to_none=True)
    return found


def tell(options: argparse.Namespace, result: dict[str, Any]) -> None:
    memory, plan = result.get("memory", {}), result["plan"]
    columns = ["part", "bare ms", "ours ms", "ours / bare", "plan ms", *(["MB"] if memory else [])]
    table = [
        [row["part"], row["bare ms"], row["ours ms"], row["ours ms"] / row["bare ms"], plan["parts"][row["name"]],
         memory.get(row["name"])]
        for row in result["parts"]
    ]  # fmt: skip
    for name, said in (("five", "sum of rollout to edited, five parts"), ("all", "sum")):
        found = result[name]
        table.append([said, found["bare ms"], found["ours ms"], found["ours ms"] / found["bare ms"], None, None])
    table.append(
        ["the whole step", None, result["step ms"], result["all"]["ratio"], plan["step ms"], memory.get("step")]
    )
    optimizer = [None, result["optimizer ms"], None, plan["optimizer ms"], memory.get("optimizer")]
    table.append(["the optimizer, besides", *optimizer])
    if memory:
        table.append(["weights and moments, always there", None, None, None, None, memory["always"]])
    table = [[name, *(round(x) if x and x > 99 else x for x in cells)][: len(columns)] for name, *cells in table]
    reached = ", ".join(f"{part} {speed['ours']:.0%}" for part, speed in result["of peak"].items())
    note = (
        f"{result['rounds']} interleaved rounds, medians; spread of the step {result['spread']:.0%}. The rollout is "
        f"{result['rollout share']:.0%} of a step.\nStep over the bare parts, round by round: "
        f"{result['all']['ratio by round']:.3f}; over the first five alone {result['five']['ratio by round']:.3f}.\n"
        f"Of the peak ({result['peak TFLOP/s']:.3g} TFLOP/s): {reached}. The plan of the step is "
        f"{plan['over measured']:.2f} of what was measured."
    )
    title = f"{result['estimator']}, {options.size}, {options.trainable}, B {options.rows}, T {options.length}"
    show(title, columns, table, note)


def new_parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__)
    parser.add_argument("--size", choices=SIZES, default="pilot")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--trainable", choices=["full", "lora"], default="full")
    parser.add_argument("--lora_rank", type=int, default=16)
    parser.add_argument("--estimators", nargs="+", choices=["policy", "parallel"], default=["policy", "parallel"])
    parser.add_argument("--rows", type=int, default=48, help="B, activations per step")
    parser.add_argument("--rollouts", type=int, default=4, help="texts per activation, for policy")
    parser.add_argument("--length", type=int, default=8, help="T, tokens of a text")
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--horizon", type=int, default=8)
    parser.add_argument("--delta", choices=["off", "stopgrad", "grad"], default="stopgrad")
    parser.add_argument("--lm_weight", type=float, default=0.0, help="above 0, policy judges texts by themselves, too")
    parser.add_argument(
        "--ground_weight", type=float, default=0.0, help="above 0, policy judges texts after the context"
    )
    parser.add_argument("--memory", action="store_true", help="measure the memory of each part, too")
    parser.add_argument("--peak_tflops", type=float, help="of the device; default: that of a large matrix product")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--budget", type=float, default=45, help="seconds per estimator; no round is begun after them")
    return parser


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every estimator, one after the other."""
    if options.threads:
        torch.set_num_threads(options.threads)
    results = []
    for estimator in options.estimators:
        results.append(compare(options, estimator))
        if options.memory:
            results[-1]["memory"] = alone(peaks, options, estimator)
    return results


def main() -> None:
    options = new_parser().parse_args()
    results = measure(options)
    for result in results:
        tell(options, result)
    report(options.json, options.device, {k: v for k, v in vars(options).items() if k != "json"}, results)


if __name__ == "__main__":
    main()
