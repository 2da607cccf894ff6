"""The plan of a text lens: what fits on which GPU and how long it takes, from a model's `config.json` alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from rich.markup import escape
from rich.table import Table

from ...activations import ExtractArguments, Extraction
from ...base.family_run import Plan
from ...frozen.sites import resolve_sites
from ...schedules import Schedule
from ..configuration import ConsistencyLensConfig
from ..options import LensOptions, PlanOptions
from .choose import Option, choose
from .hours import hours_of
from .memory import memory_of
from .sizing import sizes_of
from .work import Card, Sizes, Work

ROOM = 0.9  # of a GPU's memory; the rest is the driver's, and gaps between blocks
STEPS, WARM_STEPS = 12_000, 4_000  # where no recipe and no option says how many
CHOICES = {
    "trainable": "trainable",
    "quantization": "quantization",
    "activation_checkpointing": "checkpointing",
    "per_device_train_batch_size": "rows",
}


@dataclass(frozen=True)
class Asked:
    """What a plan starts from.

    Args:
        values: every option by its name, settled.
        given: those that options name, whatever a recipe says.
        cards: the GPUs.
    """

    values: Mapping[str, Any]
    given: Collection[str]
    cards: PlanOptions


def plan(config: Any, asked: Asked, rows: ExtractArguments) -> Plan:
    """Settle what options name, choose the rest.

    Args:
        config: of the model.
        asked: options, and which of them are settled.
        rows: how the rows are made.
    """
    values, cards = asked.values, asked.cards
    settings = {f.name: values[f.name] for f in fields(LensOptions) if f.name != "site"}
    ConsistencyLensConfig(**settings)  # which raises where they contradict each other
    dtype = str(config.dtype or "float32").removeprefix("torch.") if values["dtype"] == "auto" else values["dtype"]
    sizes = sizes_of(config, dtype, values["lora_rank"])
    context = Extraction.rules_of(rows, config.get_text_config().max_position_embeddings).max_length
    work = work_of(asked, sizes, dtype, context)
    card = card_of(cards)
    steps, warm_steps = steps_of(values)
    per_step = values["per_device_train_batch_size"] * values["gradient_accumulation_steps"]
    given = {choice: values[name] for name, choice in CHOICES.items() if name in asked.given}
    options, best = choose(sizes, work, card, steps, warm_steps, per_step, given)
    standing = Option(work, memory_of(sizes, work), hours_of(sizes, work, card, steps, warm_steps))
    record = {
        "model": values["model_name_or_path"],
        "sizes": asdict(sizes),
        "assumed": {**asdict(cards), "usable_share": ROOM, "steps": steps, "warm_steps": warm_steps},
        "as_it_stands": as_record(standing, cards) | {"fits": not _hindered(standing, card)},
        "recommended": as_record(best, cards),
        "ways": [as_record(option, cards) for option in options],
    }
    shown = tables_of(asked, sizes, card, options, standing, steps, warm_steps)
    if best.work.per_step != per_step:
        shown.append(
            f"\nA step has {best.work.per_step} activations, not {per_step}: each of {cards.gpus} GPUs takes the same "
            "number, of at least 2."
        )
    return Plan(record, shown, _notes(best, cards), **_stages(asked, best, steps, warm_steps))


def _stages(asked: Asked, best: Option, steps: int, warm_steps: int) -> dict[str, Any]:
    """The options of what is to be started, and under which engine."""
    work, values, cards = best.work, asked.values, asked.cards
    chosen = as_fields(best)
    if work.trainable == "lora":
        chosen["lora_rank"] = work.rank
    if values["max_steps"] <= 0:  # what was assumed
        chosen |= {"max_steps": steps, "warm_steps": warm_steps}
    first = None
    if work.spread:
        # No process holds the weights when the training is over, so nothing is trained or judged behind it.
        chosen |= {"tail_baseline": False} | ({"ema_decay": 0.0} if values["ema_decay"] else {})
        first = {"quantization": "none", "device_map": "auto"}
    engine = ("hsdp" if work.copies > 1 else "fsdp2") if work.spread else "ddp"
    return {
        "chosen": chosen,
        "data": first,
        "engine": engine,
        "processes": work.processes,
        "per_machine": cards.gpus_per_machine,
    }


def _notes(best: Option, cards: PlanOptions) -> list[str]:
    if cards.gpu_price is None:
        return []
    bill = cards.gpu_price * cards.gpus * (best.hours.total + best.hours.baseline)
    included = ", with the baseline" if best.hours.baseline else ""
    return [f"{bill:,.0f} at {cards.gpu_price:g} per GPU and hour{included}"]


def as_fields(option: Option) -> dict[str, Any]:
    """The choices, under their names on the command line."""
    work = option.work
    return {
        "trainable": work.trainable,
        "quantization": work.quantization,
        "activation_checkpointing": work.checkpointing,
        "per_device_train_batch_size": work.rows,
        "gradient_accumulation_steps": work.accumulation,
    }


def work_of(asked: Asked, sizes: Sizes, dtype: str, context: int) -> Work:
    """As the fields stand."""
    values = asked.values
    wanted = resolve_sites(values["site"] or values["sites"], sizes.depth)
    policy = values["estimator"] == "policy"
    return Work(
        site_depth=max(1, max(wanted).depth[0] + 1),
        sites=len(wanted),
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
        processes=asked.cards.gpus,
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


def steps_of(values: Mapping[str, Any]) -> tuple[int, int]:
    """Of both stages, and of the warm start among them."""
    steps = values["max_steps"]
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


def tables_of(
    asked: Asked, sizes: Sizes, card: Card, options: list[Option], standing: Option, steps: int, warm_steps: int
) -> list[Any]:
    """For people, in order."""
    cards, best, work = asked.cards, options[0], options[0].work
    machines = cards.gpus // cards.gpus_per_machine
    between = f", {cards.network_bandwidth:g} GB/s between the {machines} machines" if machines > 1 else ""
    name = escape(str(asked.values["model_name_or_path"]))
    assumed = (
        f"[bold]{name}[/]: {sizes.weights / 1e9:.3g} billion weights, {sizes.depth} blocks, d {sizes.width:,}, "
        f"{sizes.words:,} words; the encoder has {work.site_depth} blocks\n"
        f"T {work.length}, {work.rollouts} texts per activation, contexts of {work.context} tokens, horizon "
        f"{work.horizon}; {steps:,} steps, of them {warm_steps:,} warm start\n"
        f"{cards.gpus} x {cards.gpu_memory:g} GB, of which {ROOM:.0%} is used; {cards.tflops:g} TFLOP/s at "
        f"{cards.utilization:.0%}, {cards.memory_bandwidth:g} TB/s, {cards.link_bandwidth:g} GB/s between GPUs"
        f"{between}\n"
    )
    ways = Table(title="what fits, the recommended way first", title_justify="left", header_style="dim", box=None)
    for column in ("trainable", "subject", "weights", "blocks", "batch", "GB", "hours", "with the baseline"):
        ways.add_column(column, justify="right" if column in ("GB", "hours", "with the baseline") else "left")
    hindered = f", which {why}" if (why := _hindered(standing, card)) else ""
    for option in options:
        ways.add_row(*cells(option), style="bold" if option is best else "")
    ways.add_section()
    ways.add_row(*cells(standing))
    seconds = {**best.hours.seconds, "a step": sum(best.hours.seconds.values()), "a warm step": best.hours.warm}
    return [
        assumed,
        ways,
        f"The last row is what the fields say as they stand{hindered}.\n",
        two_columns(f"memory of each GPU, {best.memory.when}", "GB", best.memory.items, 1e9),
        two_columns("time of a step", "ms", seconds, 1e-3),
    ]


def _hindered(option: Option, card: Card) -> str:
    """Why it cannot be done, if it cannot."""
    if option.work.trainable == "full" and option.work.quantization != "none":
        return "cannot be trained: the frozen model is packed"
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
