"""What the arithmetic is about: a model's sizes, the work of one step, the card that does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Bytes of one weight in a block; 4-bit with the scales of its groups of 64, themselves quantised.
BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
QUANTISED = {"8bit": 1.0, "fp8": 1.0, "4bit": 0.5 + 1 / 64 + 4 / (64 * 256)}


@dataclass(frozen=True)
class Sizes:
    """A language model in numbers.

    Args:
        weights: all of them; tables that are tied count once.
        in_blocks: those in blocks.
        linear: those of linear layers in blocks, which quantisation packs and adapters sit on.
        table: of the embedding.
        head: of the output, 0 where it is the embedding's.
        depth: blocks.
        width: d.
        words: V.
        keys: numbers that the key-value cache holds per token and block.
        heads: the same where each query head had keys and values of its own.
        sides: inputs plus outputs of a block's linear layers: an adapter of rank r has r times as many weights.
        kept: bytes that the backward pass needs per token and block: of a block that is `full`y trained, that carries
            a `lora`, or that is frozen and only passed through (`judge`).
    """

    weights: int
    in_blocks: int
    linear: int
    table: int
    head: int
    depth: int
    width: int
    words: int
    keys: int
    heads: int
    sides: int
    kept: Mapping[str, float]


@dataclass(frozen=True)
class Work:
    """What a process does in one step, as the fields of a run say it.

    Args:
        site_depth: how many blocks the encoder has: those up to the site, of several up to the deepest.
        trainable: `full`, `lora` or `projections`.
        dtype: of the frozen model.
        quantization: of the frozen model.
        autocast: whether what is trained computes in bfloat16 (`bf16`).
        checkpointing: whether decoder and encoder recompute their blocks.
        rows: B, activations per process and pass.
        accumulation: passes per step.
        rollouts: G; 1 where the estimator is not policy.
        length: T.
        prompt: tokens that the decoder is asked with.
        context: tokens of a context.
        horizon: k.
        rank: of adapters.
        policy: whether the estimator is policy.
        language: whether texts are judged by themselves (`lm_weight`).
        grounded: whether they are judged after the context (`ground_weight`).
        remembered: whether the decoder of an earlier stage is kept beside the present one.
        average: whether a moving average is kept (`ema_decay`).
        processes: that share the work.
        shards: over how many of them weights, gradients and moments are spread (ZeRO-3, FSDP2); 1 where each holds
            all. Where they are fewer than `processes`, each group of so many holds a copy.
        sites: any of how many the lens reads; each has a map of its own.
    """

    site_depth: int
    trainable: str = "lora"
    dtype: str = "bfloat16"
    quantization: str = "none"
    autocast: bool = True
    checkpointing: bool = False
    rows: int = 8
    accumulation: int = 1
    rollouts: int = 4
    length: int = 16
    prompt: int = 6
    context: int = 128
    horizon: int = 8
    rank: int = 16
    policy: bool = True
    language: bool = False
    grounded: bool = False
    remembered: bool = True
    average: bool = False
    processes: int = 1
    shards: int = 1
    sites: int = 1

    @property
    def texts(self) -> int:
        """N."""
        return self.rows * self.rollouts

    @property
    def columns(self) -> int:
        """P and the horizon."""
        return 1 + self.horizon

    @property
    def per_step(self) -> int:
        """Activations of a step, over all processes."""
        return self.rows * self.accumulation * self.processes

    @property
    def spread(self) -> bool:
        return self.shards > 1

    @property
    def copies(self) -> int:
        """Of the weights, over all processes."""
        return self.processes // self.shards


@dataclass(frozen=True)
class Card:
    """
    Args:
        memory: bytes that may be used.
        speed: operations per second that long passes reach: the peak times the share of it that is reached.
        bandwidth: bytes per second from its memory; what a rollout waits for.
        link: bytes per second between cards of one machine.
        share: of all the memory it has, what `memory` is.
        machine: cards in one.
        network: bytes per second from a card to one of another machine.
    """

    memory: float
    speed: float
    bandwidth: float
    link: float
    share: float = 1.0
    machine: int = 8
    network: float = 40e9

    def between(self, cards: int) -> float:
        """Bytes per second of what goes around so many, that fill machines."""
        return self.link if cards <= self.machine else self.network
