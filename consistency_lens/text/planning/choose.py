"""Which way of training fits a card, and which to take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...errors import BadInput
from .hours import Hours, hours_of
from .memory import Memory, memory_of
from .work import Card, Sizes, Work

SMALL = 200_000_000  # below it, two whole copies cost little, and leave training free
BATCHES = (256, 128, 64, 32, 16, 8, 4, 2)


@dataclass(frozen=True)
class Option:
    """One way to do it: what it takes."""

    work: Work
    memory: Memory
    hours: Hours


def choose(
    sizes: Sizes,
    work: Work,
    card: Card,
    steps: int,
    warm_steps: int,
    per_step: int,
    given: Mapping[str, Any],
) -> tuple[list[Option], Option]:
    """The fastest option of each way that fits, the recommended way first; and that option again.

    Args:
        work: everything that is no choice here.
        per_step: activations per step, over all processes.
        given: of `trainable`, `quantization`, `checkpointing`, `rows`, those that are settled.

    Raises:
        BadInput: nothing fits.
    """
    if given.get("trainable") == "full" and given.get("quantization", "none") != "none":
        fix = "Use --trainable lora, or leave --quantization out: packed weights cannot be trained."
        raise BadInput("trainable", "full", fix, why=f"the model is packed, quantization={given['quantization']}")
    found, least = [], None
    for way in _ways(sizes, work, card, given):
        options = [Option(w, memory_of(sizes, w), hours_of(sizes, w, card, steps, warm_steps))
                   for w in _batches(way, per_step, given)]  # fmt: skip
        smallest = min(options, key=lambda option: option.memory.peak)
        if least is None or smallest.memory.peak < least.memory.peak:
            least = smallest
        fitting = [option for option in options if option.memory.peak <= card.memory]
        if fitting:
            found.append(min(fitting, key=lambda option: (option.hours.total, option.memory.peak)))
    if not found:
        assert least is not None
        raise _nothing_fits(card, least, given)
    return found, found[0]


def _ways(sizes: Sizes, work: Work, card: Card, given: Mapping[str, Any]) -> Iterator[Work]:
    """In the order in which one would take them: plain models before packed ones, whole weights before spread, and
    those spread within a machine before those spread over all."""
    kinds = ("full", "lora") if sizes.weights < SMALL else ("lora", "full")
    for shards in _shards(work.processes, card.machine):
        for quantization in (given["quantization"],) if "quantization" in given else ("none", "8bit", "4bit"):
            for trainable in (given["trainable"],) if "trainable" in given else kinds:
                packed = quantization != "none"
                if packed and (trainable == "full" or shards > 1):
                    continue  # packed weights can be neither trained nor spread
                average = work.average and shards == 1  # engines that spread refuse it
                yield replace(work, trainable=trainable, quantization=quantization, shards=shards, average=average)


def _shards(processes: int, machine: int) -> list[int]:
    """Over how many weights can be spread: none, the cards of each machine, all."""
    whole_machines = processes % machine == 0
    return sorted({1, processes} | ({machine} if whole_machines else set()))


def _batches(way: Work, per_step: int, given: Mapping[str, Any]) -> Iterator[Work]:
    """With and without recomputed blocks, every batch that makes up a step."""
    each = max(2, -(-per_step // way.processes))
    fitting = {each, *(rows for rows in BATCHES if rows < each)}
    sizes: Sequence[int] = (given["rows"],) if "rows" in given else sorted(fitting, reverse=True)
    for checkpointing in (given["checkpointing"],) if "checkpointing" in given else (False, True):
        for rows in sizes:
            yield replace(way, checkpointing=checkpointing, rows=rows, accumulation=-(-each // rows))


def _nothing_fits(card: Card, least: Option, given: Mapping[str, Any]) -> BadInput:
    knobs = []
    if given.get("trainable", "lora") != "lora":
        knobs.append("--trainable lora")
    if given.get("quantization", "4bit") != "4bit":
        knobs.append("--quantization 4bit")
    if given.get("checkpointing", True) is not True:
        knobs.append("--activation_checkpointing")
    if given.get("rows", 2) > 2:
        knobs.append("a lower --per_device_train_batch_size")
    largest = sorted(least.memory.items.items(), key=lambda item: -item[1])[:3]
    shown = ", ".join(f"{name} {size / 1e9:.1f} GB" for name, size in largest)
    if given.get("quantization", "none") == "none":
        knobs.append("more --gpus, over which weights are spread")
    knobs.append("a lower --code_length, --rollouts or --max_length")
    why = (
        f"the least that these fields allow takes {least.memory.peak / 1e9:.1f} GB, of {card.memory / 1e9:.1f} that "
        f"may be used: {shown}"
    )
    whole = round(card.memory / card.share / 1e9, 1)
    return BadInput("gpu_memory", whole, f"Nothing fits. What helps: {'; '.join(knobs)}.", why)
