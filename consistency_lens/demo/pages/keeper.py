"""The model that keeps a page in one activation: trained once on this machine and then cached."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from consistency_lens.demo.pages.model import PagedLlamaConfig, PagedLlamaForCausalLM
from consistency_lens.demo.pages.writing import PAGE, PAGES, short_story, stories, story
from consistency_lens.demo.subject import REPORT_FILE, folder_named, publish
from consistency_lens.demo.tokenizer import build_tokenizer, vocabulary
from consistency_lens.demo.training import (
    HELD_OUT_START,
    TRAINING_START,
    SubjectConfig,
    SubjectReport,
    learning_rate_factor,
    measure,
    pad_batch,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LOWER = 2  # layers that look at one page
STATE_SITE = f"resid_post.{LOWER - 1}"  # at a seal: all that the next page knows of this one


@dataclass(frozen=True)
class KeeperConfig(SubjectConfig):
    """Everything that decides what the model is; its hash names the cached folder. `version` is that of the
    architecture and of the training below."""

    steps: int = 1400
    curriculum: tuple[tuple[int, int], ...] = ((300, 1), (420, 2))
    hidden_size: int = 96
    intermediate_size: int = 256
    lower_layers: int = LOWER
    page_per_group: int = 13  # tokens of a short page for each group on it; such stories cost little
    min_accuracy: float = 0.9
    version: int = 1


def keeper_hash(config: KeeperConfig) -> str:
    """A name for one model: another configuration or another world makes another one."""
    short = [
        short_story(config.seed, number, groups, PAGE).text for number in range(8) for _, groups in config.curriculum
    ]
    world = [PAGE, sorted(vocabulary()), [story(config.seed, number).text for number in range(32)], short]
    digest = hashlib.sha256(json.dumps([asdict(config), world], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def keeper_id(config: KeeperConfig) -> str:
    """What the model is called, by lenses and by its folder."""
    return f"{PAGES}{keeper_hash(config)}"


def keeper_path(config: KeeperConfig | None = None, *, progress: bool = True) -> Path:
    """The folder of the model, trained first where this machine has none.

    `from_pretrained` of transformers takes it wherever `consistency_lens.demo.pages.model` has been imported.
    """
    config = config or KeeperConfig()
    folder = folder_named(keeper_id(config))
    if not folder.is_dir():
        model, tokenizer, report = train_keeper(config, progress=progress)
        known = {"config": asdict(config), "report": asdict(report)}
        publish(folder, model, tokenizer, REPORT_FILE, known)
    return folder


def load_report(folder: Path) -> SubjectReport:
    """What was measured when the model was trained."""
    return SubjectReport(**json.loads((folder / REPORT_FILE).read_text())["report"])


def paged_config(config: KeeperConfig, tokenizer: PreTrainedTokenizerFast) -> PagedLlamaConfig:
    """What the model is, trained or not."""
    return PagedLlamaConfig(
        page_length=PAGE,
        lower_layers=config.lower_layers,
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        max_position_embeddings=tokenizer.model_max_length,
        initializer_range=config.initializer_range,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def train_keeper(
    config: KeeperConfig, *, progress: bool = True
) -> tuple[PagedLlamaForCausalLM, PreTrainedTokenizerFast, SubjectReport]:
    """Train and measure; raise where the model does not know what its stories say."""
    tokenizer = build_tokenizer()
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = PagedLlamaForCausalLM(paged_config(config, tokenizer))
    _train(model, tokenizer, config, progress)
    report = measure(model, tokenizer, stories(config.held_out_stories, config.seed, HELD_OUT_START))
    report.train_seconds = round(time.perf_counter() - wall, 1)
    report.cpu_seconds = round(time.process_time() - cpu, 1)
    if report.accuracy < config.min_accuracy:
        raise RuntimeError(
            f"The model of pages says {report.accuracy:.1%} of {report.num_positions} needed facts, below the "
            f"{config.min_accuracy:.0%} it must reach; nothing was cached. Train longer (steps={config.steps}) or "
            f"with another seed (seed={config.seed})."
        )
    return model, tokenizer, report


def _batches(config: KeeperConfig, tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The length of a page and fresh stories for every step; each ends with <eos>, and what is needed weighs more."""
    for step in range(config.steps):
        groups = next((groups for until, groups in config.curriculum if step < until), None)
        page = PAGE if groups is None else 1 + groups * config.page_per_group
        first = TRAINING_START + step * config.batch_size
        numbers = range(first, first + config.batch_size)
        rows = [short_story(config.seed, i, groups, page) if groups else story(config.seed, i) for i in numbers]
        ids = [[*row, tokenizer.eos_token_id] for row in tokenizer([row.text for row in rows])["input_ids"]]
        padded = pad_batch(ids, tokenizer.pad_token_id)
        weight = padded["attention_mask"].float()
        for i, row in enumerate(rows):
            weight[i, [spot.position + 1 for spot in row.fact_positions]] = config.fact_weight
        yield page, {**padded, "weight": weight}


def _train(
    model: PagedLlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, config: KeeperConfig, progress: bool
) -> None:
    """One pass over fresh stories, loss on all tokens. Padding on the right needs no mask."""
    from tqdm.auto import tqdm

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, config))
    model.train()
    steps = tqdm(
        _batches(config, tokenizer), "training the model of pages", config.steps, unit="step", disable=not progress
    )
    for page, batch in steps:
        ids = batch["input_ids"]
        logits = model(input_ids=ids[:, :-1], use_cache=False, page_length=page).logits
        each = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        loss = (each * batch["weight"][:, 1:].flatten()).sum() / batch["attention_mask"][:, 1:].sum()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
    model.eval()
