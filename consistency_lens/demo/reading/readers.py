"""Two small models that answer questions about notes: other sizes, other vocabularies, other order of words.

`left` puts a <bos> in front and answers as the note says it; `right` has no <bos>, numbers its words the other way
round, and answers the other way round. Both also read notes that were cut short, so that they guess as well as can be
where a fact is missing; and notes with their words in any order, so that they find a word by what it says and not by
its neighbour.

Shapes: B rows, S tokens.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from consistency_lens.demo.reading.notes import ANSWERED, ASKED, PAIRS, Note, note, note_words
from consistency_lens.demo.subject import folder_named, publish
from consistency_lens.demo.tokenizer import SPECIAL
from consistency_lens.demo.training import HELD_OUT_START, TRAINING_START
from consistency_lens.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

REPORT_FILE = "reader.json"


@dataclass(frozen=True)
class ReaderConfig:
    """Everything that decides what a reader is; its hash names the cached folder.

    `version` is that of the training below.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    bos: bool
    turned: bool
    seed: int = 0
    steps: int = 600
    batch_size: int = 64
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    cut_share: float = 0.3  # of the notes, which are cut to so many of their words as chance will have it
    mixed_share: float = 0.5  # of the notes, whose words stand in any order
    held_out: int = 1000
    min_accuracy: float = 0.97
    version: int = 1


READERS = {
    "left": ReaderConfig(hidden_size=96, num_layers=4, num_heads=4, bos=True, turned=False),
    "right": ReaderConfig(hidden_size=128, num_layers=3, num_heads=4, bos=False, turned=True, seed=1),
}


def reader_named(name: str) -> ReaderConfig:
    if name not in READERS:
        raise BadInput("reader", name, f"Use one of {', '.join(READERS)}.")
    return READERS[name]


def reader_hash(config: ReaderConfig) -> str:
    """A name for one reader: another configuration or another world makes another one."""
    world = [note_words(), [note(config.seed, number).text for number in range(8)]]
    digest = hashlib.sha256(json.dumps([asdict(config), world], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def reader_path(config: ReaderConfig, *, progress: bool = True) -> Path:
    """The folder of the reader, trained first where this machine has none; any `from_pretrained` takes it."""
    folder = folder_named(f"reader-{reader_hash(config)}")
    if not folder.is_dir():
        began = time.perf_counter()
        model, tokenizer, accuracy = train_reader(config, progress=progress)
        known = {"config": asdict(config), "accuracy": accuracy, "seconds": round(time.perf_counter() - began, 1)}
        publish(folder, model, tokenizer, REPORT_FILE, known)
    return folder


def reader_tokenizer(config: ReaderConfig) -> PreTrainedTokenizerFast:
    """One word, one token."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *note_words()] if config.bos else [*reversed(note_words()), "<eos>", "<unk>", "<pad>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    if config.bos:
        tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A", pair="<bos> $A $B:1", special_tokens=[("<bos>", vocabulary["<bos>"])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>" if config.bos else None,
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_max_length=64,
    )


def train_reader(
    config: ReaderConfig, *, progress: bool = True
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, float]:
    """Train and measure; raise where the reader does not answer what notes say."""
    from tqdm.auto import tqdm

    tokenizer = reader_tokenizer(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = new_reader(config, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    decay = (config.warmup_steps, max(1, config.steps - config.warmup_steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / decay[0], max(0.02, 1 - (step - decay[0]) / decay[1]))
    )
    model.train()
    for step in tqdm(range(config.steps), desc="training a reader of notes", unit="step", disable=not progress):
        ids, answers = batch_of(config, tokenizer, step)
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits[:, -answers:]
        nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -answers:].flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
    accuracy = measure(model.eval(), config, tokenizer)
    if accuracy < config.min_accuracy:
        raise RuntimeError(
            f"The reader answers {accuracy:.1%} of the questions about notes, below the {config.min_accuracy:.0%} it "
            f"must reach; nothing was cached. Train longer (steps={config.steps}) or with another seed."
        )
    return model, tokenizer, accuracy


def new_reader(config: ReaderConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama of the size the configuration asks for."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=3 * config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            max_position_embeddings=64,
            initializer_range=0.08,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def batch_of(config: ReaderConfig, tokenizer: PreTrainedTokenizerFast, step: int) -> tuple[Tensor, int]:
    """Fresh notes, one question about each, `[B, S]`, and how many tokens an answer has. The notes of a step are cut
    alike, so that nothing is padded."""
    rng = random.Random(f"reader/{config.seed}/{step}")
    first = TRAINING_START + step * config.batch_size
    kept = rng.randrange(2 * len(PAIRS)) if rng.random() < config.cut_share else None
    start = rng.choice((0, kept)) if kept is not None else 0  # of what is cut, the beginning or the end is left
    rows = []
    for i in range(config.batch_size):
        about = note(config.seed, first + i)
        words = about.text.split()
        if rng.random() < config.mixed_share:
            rng.shuffle(words)
        words = words[start:] if start else words[:kept]
        question = rng.choice(list(PAIRS))
        rows.append(" ".join([*words, ASKED, question, ANSWERED, about.answer(question, config.turned)]))
    return _ids(tokenizer, rows), 3


def _ids(tokenizer: PreTrainedTokenizerFast, rows: list[str]) -> Tensor:
    return torch.tensor([[*ids, tokenizer.eos_token_id] for ids in tokenizer(rows)["input_ids"]])


@torch.no_grad()
def measure(model: LlamaForCausalLM, config: ReaderConfig, tokenizer: PreTrainedTokenizerFast) -> float:
    """Share of answers about held-out notes that are right word by word, teacher-forced."""
    notes: Iterator[Note] = (note(config.seed, HELD_OUT_START + i) for i in range(config.held_out))
    questions = list(PAIRS)
    rows = [
        " ".join([each.text, ASKED, question, ANSWERED, each.answer(question, config.turned)])
        for each, question in zip(notes, questions * (config.held_out // len(questions) + 1), strict=False)
    ]
    ids = _ids(tokenizer, rows)
    predicted = model(input_ids=ids[:, :-1]).logits[:, -3:].argmax(-1)
    return float((predicted == ids[:, -3:]).all(1).float().mean())
