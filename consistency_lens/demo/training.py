"""The plain loop that teaches the demo world to a small LM, and the measure of what it learned."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from consistency_lens.demo.stories import Story, short_tale, story

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

TRAINING_START = 1_000_000_000  # training stories are numbered from here, so that no data set of any size meets them
HELD_OUT_START = 2_000_000_000
BATCHES_PER_SORT = 40


@dataclass(frozen=True)
class SubjectConfig:
    """Everything that decides what the subject is; its hash names the cached folder.

    `curriculum` is what makes three minutes enough: `(until_step, groups)` trains on short tales of so many groups of
    facts first, where the word to find is one of thirty and not one of a hundred. For the same reason needed facts
    weigh more in the loss, and weights start larger than a big LM's would.
    """

    seed: int = 0
    num_layers: int = 4
    hidden_size: int = 128
    intermediate_size: int = 384
    num_heads: int = 8
    initializer_range: float = 0.08
    steps: int = 720
    curriculum: tuple[tuple[int, int], ...] = ((240, 1), (440, 2))
    batch_size: int = 32
    learning_rate: float = 3e-3
    warmup_steps: int = 60
    weight_decay: float = 0.01
    fact_weight: float = 5.0
    max_grad_norm: float = 1.0
    held_out_stories: int = 1000
    min_accuracy: float = 0.95


@dataclass
class SubjectReport:
    """How well the subject says the fact it needs, on stories it never saw; the world itself allows 100 %."""

    accuracy: float
    num_positions: int
    by_kind: dict[str, float] = field(default_factory=dict)
    count_by_kind: dict[str, int] = field(default_factory=dict)
    world_accuracy: float = 1.0
    loss: float = 0.0
    train_seconds: float = 0.0
    cpu_seconds: float = 0.0


def learning_rate_factor(step: int, config: SubjectConfig) -> float:
    """Linear warm-up, then half a cosine down to a twentieth."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def pad_batch(rows: list[list[int]], pad_id: int) -> dict[str, Tensor]:
    """Right-padded ids and their mask."""
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), pad_id)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def training_batches(config: SubjectConfig, tokenizer: PreTrainedTokenizerFast) -> Iterator[dict[str, Tensor]]:
    """Fresh stories for every step, batched with others of their length; each ends with <eos>."""
    generator = torch.Generator().manual_seed(config.seed)
    first = 0
    while first < config.steps:
        until, size = next((part for part in config.curriculum if first < part[0]), (config.steps, None))
        batches = min(BATCHES_PER_SORT, until - first, config.steps - first)
        number = TRAINING_START + first * config.batch_size
        numbers = range(number, number + batches * config.batch_size)
        rows = [short_tale(config.seed, number, size) if size else story(config.seed, number) for number in numbers]
        rows.sort(key=lambda row: len(row.words))
        for batch in torch.randperm(batches, generator=generator).tolist():
            part = rows[batch * config.batch_size : (batch + 1) * config.batch_size]
            ids = [[*row, tokenizer.eos_token_id] for row in tokenizer([row.text for row in part])["input_ids"]]
            padded = pad_batch(ids, tokenizer.pad_token_id)
            weight = padded["attention_mask"].float()
            for i, row in enumerate(part):
                weight[i, [spot.position + 1 for spot in row.fact_positions]] = config.fact_weight
            yield {**padded, "weight": weight}
        first += batches


def train(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, config: SubjectConfig, progress: bool) -> None:
    """One pass over fresh stories, loss on all tokens. Causal attention and right padding need no mask."""
    from tqdm.auto import tqdm

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, config))
    model.train()
    tokens = 0
    with tqdm(total=config.steps, desc="training the offline subject", unit="step", disable=not progress) as bar:
        for batch in training_batches(config, tokenizer):
            ids, mask = batch["input_ids"], batch["attention_mask"]
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
            each = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
            weight = batch["weight"][:, 1:].flatten()
            loss = (each * weight).sum() / mask[:, 1:].sum()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            tokens += int(mask.sum())
            bar.update()
            if bar.n % 10 == 0 and progress:
                speed = f"{tokens / bar.format_dict['elapsed'] / 1000:.1f}k"
                bar.set_postfix(loss=f"{loss.item():.3f}", tokens_per_s=speed, refresh=False)
    model.eval()


@torch.no_grad()
def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: list[Story], batch_size: int = 64
) -> SubjectReport:
    """Accuracy of the argmax at fact positions, in all and by kind, and the loss over all tokens."""
    right: dict[str, list[bool]] = {}
    loss_sum, tokens = 0.0, 0
    for first in range(0, len(rows), batch_size):
        part = rows[first : first + batch_size]
        batch = pad_batch(tokenizer([row.text for row in part])["input_ids"], tokenizer.pad_token_id)
        ids, mask = batch["input_ids"], batch["attention_mask"]
        logits = model(**batch).logits
        targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        losses = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), reduction="sum")
        loss_sum += losses.item()
        tokens += int((targets != -100).sum())
        predicted = logits.argmax(-1)
        for i, row in enumerate(part):
            for spot in row.fact_positions:
                hit = bool(predicted[i, spot.position] == ids[i, spot.position + 1])
                right.setdefault(row.facts[spot.fact].kind, []).append(hit)
    hits = [hit for kind in right.values() for hit in kind]
    return SubjectReport(
        accuracy=sum(hits) / max(1, len(hits)),
        num_positions=len(hits),
        by_kind={kind: sum(right[kind]) / len(right[kind]) for kind in sorted(right)},
        count_by_kind={kind: len(right[kind]) for kind in sorted(right)},
        loss=loss_sum / max(1, tokens),
    )
