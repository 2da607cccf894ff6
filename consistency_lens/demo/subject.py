"""The offline model: a small Llama that knows the demo world, trained once on this machine and then cached."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from consistency_lens.demo.probe import SiteProbe, probe_sites
from consistency_lens.demo.stories import stories
from consistency_lens.demo.tokenizer import build_tokenizer
from consistency_lens.demo.training import HELD_OUT_START, SubjectConfig, SubjectReport, measure, train
from consistency_lens.frozen import FrozenLM

WORLD_FILES = ("words.py", "grammar.py", "stories.py", "tokenizer.py", "training.py")
REPORT_FILE = "subject.json"
# Whether a small model finds the facts in time hangs a little on its first weights.
ATTEMPTS = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SubjectCard:
    """What is written beside the weights: what the frozen model is, what it can do, where it keeps what it needs."""

    config: SubjectConfig
    report: SubjectReport
    sites: list[SiteProbe]


def subject_hash(config: SubjectConfig) -> str:
    """A name for one frozen model: another configuration or another world makes another one."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    for name in WORLD_FILES:
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:16]


def cache_folder(config: SubjectConfig) -> Path:
    """Where a frozen model lives, beside the models that come from the Hub."""
    return folder_named(f"subject-{subject_hash(config)}")


def folder_named(model_id: str) -> Path:
    """The same of a frozen model that may be of another configuration, or of another version of the world."""
    return Path(constants.HF_HOME) / "consistency_lens" / model_id


def subject_path(config: SubjectConfig | None = None, *, progress: bool = True) -> Path:
    """The folder of the frozen model, trained first where this machine has none; any `from_pretrained` takes it."""
    config = config or SubjectConfig()
    folder = cache_folder(config)
    if not folder.is_dir():
        model, tokenizer, card = train_subject(config, progress=progress)
        publish(folder, model, tokenizer, REPORT_FILE, asdict(card))
    return folder


def load_card(folder: Path) -> SubjectCard:
    """What was measured when the frozen model was trained."""
    stored = json.loads((folder / REPORT_FILE).read_text())
    curriculum = tuple(tuple(part) for part in stored["config"].pop("curriculum"))
    return SubjectCard(
        config=SubjectConfig(**stored["config"], curriculum=curriculum),
        report=SubjectReport(**stored["report"]),
        sites=[SiteProbe(**row) for row in stored["sites"]],
    )


def train_subject(
    config: SubjectConfig, *, progress: bool = True
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, SubjectCard]:
    """Train, measure and probe; raise where the frozen model fails to know what its stories say."""
    tokenizer = build_tokenizer()
    held_out = stories(config.held_out_stories, config.seed, HELD_OUT_START)
    wall, cpu = time.perf_counter(), time.process_time()
    for attempt in range(ATTEMPTS):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed + attempt * 1_000_003)
            model = new_model(config, tokenizer)
            train(model, tokenizer, config, progress)
        report = measure(model, tokenizer, held_out)
        if report.accuracy >= config.min_accuracy:
            break
        logger.warning("The frozen model says %.1f %% of the facts it needs: too few.", 100 * report.accuracy)
    else:
        raise RuntimeError(
            f"The offline model says {report.accuracy:.1%} of {report.num_positions} needed facts after {ATTEMPTS} "
            f"attempts, below the {config.min_accuracy:.0%} it must reach; nothing was cached. Train longer "
            f"(steps={config.steps}) or with another seed (seed={config.seed})."
        )
    report.train_seconds = round(time.perf_counter() - wall, 1)
    report.cpu_seconds = round(time.process_time() - cpu, 1)
    frozen = FrozenLM(model, tokenizer, f"subject-{subject_hash(config)}")
    return model, tokenizer, SubjectCard(config, report, probe_sites(frozen, held_out, seed=config.seed))


def new_model(config: SubjectConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama of the size the configuration asks for."""
    return LlamaForCausalLM(model_config(config, tokenizer))


def model_config(config: SubjectConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """What the frozen model is, trained or not."""
    return LlamaConfig(
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


def publish(
    folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, name: str, known: Mapping[str, Any]
) -> None:
    """Write elsewhere and rename: what has the final name is whole, whoever is killed, whoever comes first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as making:
        made = Path(making) / folder.name
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        (made / name).write_text(json.dumps(known, indent=2) + "\n")
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # no other process was first, so this is a real failure
                raise
