"""Peak memory of training: adapters on one backbone against separate copies of the model.

    python benchmarks/memory.py                                   # a model of 134 million weights, three minutes
    python benchmarks/memory.py --size qwen3-0.6b --rows 32 --device cuda --dtype bfloat16
    python benchmarks/memory.py --size llama-3.1-8b --rows 32 --device cuda --dtype bfloat16
    python benchmarks/memory.py --ways lora "lora, 4-bit" --dtype bfloat16     # what packing the frozen model saves

Each way runs whole steps, optimizer included, in a process of its own; counted is everything: weights, gradients,
Adam's moments, activations. The ways:
- `lora`: subject, decoder and encoder are one set of weights with two adapters;
- `lora, 4-bit`: the same with these weights packed by bitsandbytes;
- `three copies`: the frozen model, and two clones of it that are trained;
- `three copies, cut`: the same with the encoder cut above the site, which is our `trainable=full`;
- `three LoRA copies`: the frozen model, and two clones of it with an adapter each: what sharing alone saves.
Clones that are trained are float32, whatever the model is. `plan` is what the arithmetic of `run_lens.py plan` says.
"""

from __future__ import annotations

import argparse
import copy
import gc
from typing import Any

import torch
from harness import arguments, report, show
from peak import alone, held, peak_of
from random_runs import SITE, batch_of, random_rows, trainer_of
from sizes import DTYPES, SIZES, config_of, random_lm

from consistency_lens.base.adapters import add_adapter
from consistency_lens.frozen import FrozenLM
from consistency_lens.text.configuration import ConsistencyLensConfig
from consistency_lens.text.modeling import ConsistencyLens
from consistency_lens.text.planning import Work, memory_of
from consistency_lens.text.planning.sizing import sizes_of

WAYS = ("lora", "lora, 4-bit", "three copies", "three copies, cut", "three LoRA copies")
PLANNED = {"lora": "lora", "lora, 4-bit": "lora", "three copies, cut": "full"}  # way -> `trainable`


def lens_of(way: str, frozen: FrozenLM, length: int, rank: int = 16) -> ConsistencyLens:
    site = str(frozen.site(SITE))
    settings = {"code_length": length, "lora_rank": rank, "lora_alpha": rank}
    if way in PLANNED:
        return ConsistencyLens.from_subject(frozen, site, trainable=PLANNED[way], **settings)
    kind = "full" if way == "three copies" else "lora"
    config = ConsistencyLensConfig.for_subject(frozen, site, trainable=kind, **settings)
    clones = []
    for part in ("decoder", "encoder"):
        clone = copy.deepcopy(frozen.model)
        if kind == "full":
            clone = clone.float()
        else:
            add_adapter(clone, part, config.lora_rank, config.lora_alpha)
        clones.append(clone)
    return ConsistencyLens(config, clones[0], clones[1], frozen.tokenizer).to(frozen.device)


def peak(options: argparse.Namespace, way: str) -> dict[str, Any]:
    """In a process of its own, after steps of a small model: libraries take what they keep."""
    if options.threads:
        torch.set_num_threads(options.threads)
    steps_of(argparse.Namespace(**vars(options) | {"size": "pilot", "rows": 2}), way)
    return steps_of(options, way)


def steps_of(options: argparse.Namespace, way: str) -> dict[str, Any]:
    """Load, make two steps, say what that took."""
    gc.collect()
    before = held(options.device)
    quantization = "4bit" if "4-bit" in way else "none"
    frozen = random_lm(options.size, 2 * options.context, options.dtype, options.device, quantization)
    subject = held(options.device) - before  # what loading took for a moment is no part of a step
    with peak_of(options.device) as found:
        lens = lens_of(way, frozen, options.length, options.lora_rank)
        rows = random_rows(frozen, options.rows, options.context, options.horizon)
        trainer = trainer_of(
            lens, frozen, rows, estimator=options.estimator, rollouts=options.rollouts, kl_horizon=options.horizon,
            lm_weight=str(options.lm_weight),
        )  # fmt: skip
        if options.checkpointing:
            lens.checkpoint_activations()
        batch, optimizer = batch_of(trainer), trainer.create_optimizer()
        for _ in range(2):  # in the second one Adam's moments are there while activations are
            trainer.training_step(lens, batch)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    weights = {id(p): p for p in (*frozen.model.parameters(), *lens.parameters())}.values()
    trained = [p for part in lens.parts().values() for p in part.values() if p.requires_grad]
    return {
        "way": way,
        "weights, millions": round(sum(p.numel() for p in weights) / 1e6, 1),
        "trained, millions": round(sum(p.numel() for p in trained) / 1e6, 1),
        "peak MB": round(subject + found.mb),
        "plan MB": planned(options, way, frozen) if way in PLANNED else None,
    }


def planned(options: argparse.Namespace, way: str, frozen: FrozenLM) -> int:
    """The same by arithmetic."""
    policy = options.estimator == "policy"
    work = Work(
        site_depth=frozen.site(SITE).depth[0] + 1, trainable=PLANNED[way], dtype=options.dtype, autocast=False,
        quantization="4bit" if "4-bit" in way else "none", checkpointing=options.checkpointing, rows=options.rows,
        rollouts=options.rollouts if policy else 1, length=options.length, prompt=6, context=options.context,
        horizon=options.horizon, rank=options.lora_rank, policy=policy, language=options.lm_weight > 0,
        remembered=policy,
    )  # fmt: skip
    config = config_of(options.size, 2 * options.context)
    return round(memory_of(sizes_of(config, options.dtype, options.lora_rank), work).peak / 1e6)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every way, in a process of its own."""
    results = [alone(peak, options, way) for way in options.ways]
    for row in results:
        row["lora / this"] = results[0]["peak MB"] / row["peak MB"] if options.ways[0] == "lora" else None
        row["plan / measured"] = row["plan MB"] / row["peak MB"] if row["plan MB"] else None
    return results


def new_parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__)
    parser.add_argument("--size", choices=SIZES, default="mid")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the frozen model")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[w for w in WAYS if w != "lora, 4-bit"])
    parser.add_argument("--estimator", choices=["policy", "parallel"], default="policy")
    parser.add_argument("--rows", type=int, default=8, help="B, activations per step")
    parser.add_argument("--rollouts", type=int, default=4, help="texts per activation, for policy")
    parser.add_argument("--length", type=int, default=8, help="T, tokens of a text")
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--horizon", type=int, default=0)
    parser.add_argument("--lora_rank", type=int, default=16)
    parser.add_argument("--lm_weight", type=float, default=0.0, help="above 0, texts are judged by themselves, too")
    parser.add_argument("--checkpointing", action="store_true", help="recompute blocks in the backward pass")
    return parser


def main() -> None:
    options = new_parser().parse_args()
    results = measure(options)
    title = f"peak memory of a step, {options.size}, {options.estimator}, B {options.rows}, T {options.length}"
    show(title, list(results[0]), [list(row.values()) for row in results])
    report(options.json, options.device, {k: v for k, v in vars(options).items() if k != "json"}, results)


if __name__ == "__main__":
    main()
