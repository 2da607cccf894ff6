"""What the tests of lenses share: a small extraction, small lenses, short runs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from extracting import extract_to, random_texts
from tiny import shared_lm, tiny_lm
from torch import Tensor, nn
from transformers import TrainerCallback

from consistency_lens.activations import Activations
from consistency_lens.frozen import FrozenLM
from consistency_lens.text.arguments import ConsistencyLensArguments
from consistency_lens.text.modeling import ConsistencyLens
from consistency_lens.text.trainer import ConsistencyLensTrainer

SITE = "resid_post.1"
SITES = ["resid_post.0", "resid_post.1", "resid_post.2"]  # of a lens that reads any of several
NORMS = [8.0, 11.0, 14.0]  # their scales, as that lens has them
PROMPT = "w1 w2 <A> w3"
WARM = 2  # steps of the warm start in a short run


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="consistency-lens-rows-")


@cache
def rows_folder(case: str) -> Path:
    """Where a few hundred rows of a tiny subject lie, with a continuation, some of them held out."""
    folder = Path(_folder().name) / case
    extract_to(folder, random_texts(60, shortest=8, longest=20), shared_lm(case), continuation_length=4)
    return folder


@cache
def tiny_rows(case: str = "llama") -> Activations:
    return Activations.load(rows_folder(case))


@cache
def layers_folder() -> Path:
    """The same rows of the tiny llama, with the activations of several sites."""
    folder, texts = Path(_folder().name) / "layers", random_texts(60, shortest=8, longest=20)
    extract_to(folder, texts, shared_lm("llama"), continuation_length=4, sites=SITES)
    return folder


@cache
def rows_of_layers() -> Activations:
    return Activations.load(layers_folder())


def lens_of_layers(frozen: FrozenLM, **settings: Any) -> ConsistencyLens:
    """A lens that reads any of several sites."""
    own = {"prompt": PROMPT, "code_length": 5, "site_norms": NORMS}
    return ConsistencyLens.from_subject(frozen, SITES, **(own | settings))


def of_one_site(several: ConsistencyLens, number: int, **settings: Any) -> ConsistencyLens:
    """The lens of that site alone, with the weights that the other one has there."""
    own: dict[str, Any] = {"prompt": PROMPT, "code_length": 5, "activation_norm": NORMS[number]} | settings
    lens = ConsistencyLens.from_subject(tiny_lm(), SITES[number], **own)
    shared = {name: p for part in several.parts().values() for name, p in part.items()}
    with torch.no_grad():
        for part in lens.parts().values():
            for name, parameter in part.items():
                parameter.copy_(shared[name][number] if ".map." in name else shared[name])
    return lens


def tiny_lens(frozen: FrozenLM, **settings: Any) -> ConsistencyLens:
    return ConsistencyLens.from_subject(frozen, SITE, **({"prompt": PROMPT, "code_length": 5} | settings))


@torch.no_grad()
def stirred(lens: ConsistencyLens, by: float = 0.05, seed: int = 0) -> ConsistencyLens:
    """The same lens, no longer at the identity it starts from."""
    generator = torch.Generator().manual_seed(seed)
    for part in lens.parts().values():
        for parameter in part.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=by)
    return lens


def arguments(folder: Path | str, **changes: Any) -> ConsistencyLensArguments:
    """A run of four steps, two of them warm start, that saves and reports nothing."""
    given: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": WARM + 2,
        "warm_steps": WARM,
        "per_device_train_batch_size": 6,
        "per_device_eval_batch_size": 8,
        "learning_rate": 1e-3,
        "rollouts": 2,
        "warm_sure": 0.0,  # a random subject is never sure
        "lm_weight": "0",
        "eval_rows": 16,
        "sample_rows": 8,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return ConsistencyLensArguments(**(given | changes))


def trainer_of(
    folder: Path | str, frozen: FrozenLM | None = None, lens: ConsistencyLens | None = None, **changes: Any
) -> ConsistencyLensTrainer:
    """A trainer on the rows of the tiny llama; `changes` are of its arguments."""
    frozen = frozen or tiny_lm()
    return ConsistencyLensTrainer(lens or tiny_lens(frozen), arguments(folder, **changes), tiny_rows(), frozen=frozen)


def first_batch(trainer: ConsistencyLensTrainer) -> dict[str, Any]:
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


def copies(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in parameters.items()}


def changed(parameters: Mapping[str, nn.Parameter], before: Mapping[str, Tensor]) -> set[str]:
    return {name for name, p in parameters.items() if not torch.equal(p, before[name])}


def gradients(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}


class AtStep(TrainerCallback):
    """Call `what()` at the beginning of one step."""

    def __init__(self, step: int, what: Any) -> None:
        self.step, self.what = step, what

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.what()
