"""`run_lens.py plan`: what fits on which GPU and how long it takes, from a model's `config.json` alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from ...activations import rules_of
from ...budget import Card, Option, Sizes, Work, choose, hours_of, memory_of
from ...errors import BadInput
from ...frozen.sites import Site, resolve_sites
from ...schedules import Schedule
from ...text.configuration import ConsistencyLensConfig
from ...text.options import LensOptions, PlanOptions
from ...text.planning.sizing import sizes_of
from ..opening import config_of, console
from ..parsing.request import Request
from .plan_commands import as_fields, commands_of

ROOM = 0.9  # of a GPU's memory; the rest is the driver's, and gaps between blocks
STEPS, WARM_STEPS = 12_000, 4_000  # where no recipe and no option says how many
CHOICES = {
    "trainable": "trainable",
    "quantization": "quantization",
    "activation_checkpointing": "checkpointing",
    "per_device_train_batch_size": "rows",
}


def plan(request: Request) -> None:
    """Settle what options name, choose the rest."""
    asked, values = request.plan, request.values
    require_sound(request)
    config = config_of(request.subject)
    dtype = str(config.dtype or "float32").removeprefix("torch.") if values["dtype"] == "auto" else values["dtype"]
    sizes = sizes_of(config, dtype, values["lora_rank"])
    context = rules_of(request.extraction, config.get_text_config().max_position_embeddings).max_length
    work = work_of(request, sizes, dtype, context)
    card = card_of(asked)
    steps, warm_steps = steps_of(request)
    per_step = values["per_device_train_batch_size"] * values["gradient_accumulation_steps"]
    given = {choice: values[name] for name, choice in CHOICES.items() if name in request.given}
    options, best = choose(sizes, work, card, steps, warm_steps, per_step, given)
    standing = Option(work, memory_of(sizes, work), hours_of(sizes, work, card, steps, warm_steps))
    commands = commands_of(request, best, steps, warm_steps)
    record = {
        "model": values["model_name_or_path"],
        "sizes": asdict(sizes),
        "assumed": {**asdict(asked), "usable_share": ROOM, "steps": steps, "warm_steps": warm_steps},
        "as_it_stands": as_record(standing, asked) | {"fits": not _hindered(standing, card)},
        "recommended": as_record(best, asked),
        "commands": commands,
        "ways": [as_record(option, asked) for option in options],
    }
    if request.explanation.json:
        sys.stdout.write(json.dumps(record, indent=1) + "\n")
        return
    show(request, sizes, card, options, standing, steps, warm_steps)
    if best.work.per_step != per_step:
        console.print(
            f"\nA step has {best.work.per_step} activations, not {per_step}: each of {asked.gpus} GPUs takes the same "
            "number, of at least 2.",
            highlight=False,
        )
    show_commands(request, best, commands)


def require_sound(request: Request) -> None:
    """Raise where training would refuse the fields, whatever this machine is: it need not be the one that trains."""
    for name in ("deepspeed", "fsdp"):
        if value := request.values[name]:
            fix = "Leave it out: plan says which engine to use, and whether weights have to be spread."
            raise BadInput(name, value, fix)
    request.training(output_dir="plan", bf16=False, fp16=False, tf32=None, deepspeed=None, fsdp=None)
    settings = asdict(request.part(LensOptions))
    ConsistencyLensConfig(**{name: value for name, value in settings.items() if name != "site"})


def work_of(request: Request, sizes: Sizes, dtype: str, context: int) -> Work:
    """As the fields stand."""
    values = request.values
    wanted = resolve_sites(values["site"] or values["sites"], sizes.depth)
    if len(wanted) != 1:
        raise BadInput("site", None, f"Name one of {', '.join(map(str, wanted))}.", why="a lens reads one site")
    policy = values["estimator"] == "policy"
    return Work(
        site_depth=max(1, Site.parse(wanted[0]).depth[0] + 1),
        trainable=values["trainable"],
        dtype=dtype,
        quantization=values["quantization"],
        autocast=bool(values["bf16"]) or dtype != "float32",
        checkpointing=bool(values["activation_checkpointing"]),
        rows=values["per_device_train_batch_size"],
        accumulation=values["gradient_accumulation_steps"],
        rollouts=values["rollouts"] if policy else 1,
        length=values["code_length"],
        prompt=1 + len(values["prompt"].split()),
        context=context,
        horizon=values["kl_horizon"],
        rank=values["lora_rank"],
        policy=policy,
        language=_is_on(values, "lm_weight"),
        grounded=_is_on(values, "ground_weight"),
        remembered=policy or values["warm_sure"] > 0,
        average=values["ema_decay"] > 0,
        processes=request.plan.gpus,
    )


def _is_on(values: Mapping[str, Any], name: str) -> bool:
    return not Schedule.parse(values[name], field=name).is_off


def card_of(asked: PlanOptions) -> Card:
    return Card(
        memory=ROOM * asked.gpu_memory * 1e9,
        speed=asked.tflops * asked.utilization * 1e12,
        bandwidth=asked.memory_bandwidth * 1e12,
        link=asked.link_bandwidth * 1e9,
        share=ROOM,
        machine=asked.gpus_per_machine,
        network=asked.network_bandwidth * 1e9,
    )


def steps_of(request: Request) -> tuple[int, int]:
    """Of both stages, and of the warm start among them."""
    values, steps = request.values, request.values["max_steps"]
    warm = 0 if values["warm_start"] == "none" else values["warm_steps"]
    if steps > 0:
        return steps, min(warm, steps)
    return STEPS, WARM_STEPS if warm else 0


def as_record(option: Option, asked: PlanOptions) -> dict[str, Any]:
    hours = option.hours.total
    return {
        **as_fields(option),
        "weights": "spread" if option.work.spread else "whole",
        "copies_of_weights": option.work.copies,
        "activations_per_step": option.work.per_step,
        "memory_gb": option.memory.peak / 1e9,
        "memory": option.memory.items,
        "worst_moment": option.memory.when,
        "seconds_per_step": option.hours.seconds,
        "warm_seconds_per_step": option.hours.warm,
        "tokens_per_second": option.hours.tokens,
        "hours": hours,
        "baseline_hours": option.hours.baseline,
        "price": None if asked.gpu_price is None else asked.gpu_price * asked.gpus * (hours + option.hours.baseline),
    }


def show(
    request: Request, sizes: Sizes, card: Card, options: list[Option], standing: Option, steps: int, warm_steps: int
) -> None:
    asked, best, work = request.plan, options[0], options[0].work
    machines = asked.gpus // asked.gpus_per_machine
    between = f", {asked.network_bandwidth:g} GB/s between the {machines} machines" if machines > 1 else ""
    name = escape(str(request.values["model_name_or_path"]))
    console.print(
        f"[bold]{name}[/]: {sizes.weights / 1e9:.3g} billion weights, {sizes.depth} blocks, d {sizes.width:,}, "
        f"{sizes.words:,} words; the encoder has {work.site_depth} blocks\n"
        f"T {work.length}, {work.rollouts} texts per activation, contexts of {work.context} tokens, horizon "
        f"{work.horizon}; {steps:,} steps, of them {warm_steps:,} warm start\n"
        f"{asked.gpus} x {asked.gpu_memory:g} GB, of which {ROOM:.0%} is used; {asked.tflops:g} TFLOP/s at "
        f"{asked.utilization:.0%}, {asked.memory_bandwidth:g} TB/s, {asked.link_bandwidth:g} GB/s between GPUs"
        f"{between}\n",
        highlight=False,
    )
    ways = Table(title="what fits, the recommended way first", title_justify="left", header_style="dim", box=None)
    for column in ("trainable", "subject", "weights", "blocks", "batch", "GB", "hours", "with the baseline"):
        ways.add_column(column, justify="right" if column in ("GB", "hours", "with the baseline") else "left")
    hindered = f", which {why}" if (why := _hindered(standing, card)) else ""
    for option in options:
        ways.add_row(*cells(option), style="bold" if option is best else "")
    ways.add_section()
    ways.add_row(*cells(standing))
    console.print(ways)
    console.print(f"The last row is what the fields say as they stand{hindered}.\n", highlight=False)
    console.print(two_columns(f"memory of each GPU, {best.memory.when}", "GB", best.memory.items, 1e9))
    seconds = {**best.hours.seconds, "a step": sum(best.hours.seconds.values()), "a warm step": best.hours.warm}
    console.print(two_columns("time of a step", "ms", seconds, 1e-3))


def show_commands(request: Request, best: Option, commands: list[str]) -> None:
    asked, values = request.plan, request.values
    console.print()
    for command in commands:
        console.print(command, style="bold", soft_wrap=True, highlight=False, markup=False)
    if len(commands) > 1 and asked.gpus > asked.gpus_per_machine:
        console.print("The first one reads the rows, with the model over the GPUs of one machine.", highlight=False)
    if not (values["dataset_name"] or values["train_file"] or values["activations"]):
        console.print("Name the texts as well: --dataset_name or --train_file.", highlight=False)
    if asked.gpu_price is not None:
        bill = asked.gpu_price * asked.gpus * (best.hours.total + best.hours.baseline)
        included = ", with the baseline" if best.hours.baseline else ""
        console.print(f"{bill:,.0f} at {asked.gpu_price:g} per GPU and hour{included}", highlight=False)
    console.print("This is arithmetic: docs/costs.md says which of it has been measured.", style="dim")


def _hindered(option: Option, card: Card) -> str:
    """Why it cannot be done, if it cannot."""
    if option.work.trainable == "full" and option.work.quantization != "none":
        return "cannot be trained: the subject is packed"
    return "" if option.memory.peak <= card.memory else "does not fit"


def cells(option: Option) -> list[str]:
    work, hours = option.work, option.hours
    batch = f"{work.rows} x {work.accumulation}" + (f" x {work.processes} GPUs" if work.processes > 1 else "")
    return [
        work.trainable,
        work.dtype if work.quantization == "none" else work.quantization,
        f"over {work.shards}" if work.spread else "whole",
        "recomputed" if work.checkpointing else "kept",
        batch,
        f"{option.memory.peak / 1e9:.1f}",
        f"{hours.total:.1f}",
        f"{hours.total + hours.baseline:.1f}",
    ]


def two_columns(title: str, unit: str, items: dict[str, float], scale: float) -> Table:
    table = Table(title=title, title_justify="left", header_style="dim", box=None)
    table.add_column("")
    table.add_column(unit, justify="right")
    for name, size in items.items():
        table.add_row(name, f"{size / scale:,.2f}")
    return table
