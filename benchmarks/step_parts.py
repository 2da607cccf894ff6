"""The parts of a training step: as plain calls of transformers, and through the lens and its judge."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from consistency_lens.base.comparing import TokenSwap
from consistency_lens.frozen import Edit
from consistency_lens.frozen.anatomy.parts import blocks_of, truncate
from consistency_lens.objectives import nll_of
from consistency_lens.text.controls import after_prompt, nll_after
from consistency_lens.text.trainer import ConsistencyLensTrainer


class Bare:
    """The parts of a step without this package: models, ids, caches and one forward hook."""

    def __init__(self, subject: PreTrainedModel, trainer: ConsistencyLensTrainer, batch: dict[str, Any]) -> None:
        lens, config = trainer.lens, trainer.lens.config
        self.times, self.horizon, self.subject = trainer.rollouts, trainer.args.kl_horizon, subject
        self.decoder = own_copy(lens.decoder.lm, "decoder") if config.trainable == "lora" else lens.decoder.lm
        self.encoder = own_copy(lens.encoder.lm, "encoder") if config.trainable == "lora" else lens.encoder.lm
        if config.trainable == "lora":
            truncate(self.encoder, lens.encoder.site.depth[0] + 1)
        self.block = blocks_of(subject)[lens.encoder.site.depth[0]]
        self.context = batch["input_ids"]
        self.ahead = torch.cat([self.context[:, -1:], batch["continuation_ids"][:, : self.horizon]], 1)
        self.value = torch.randn(len(self.context) * self.times, config.hidden_size).to(lens.device, subject.dtype)
        self.prompt = torch.tensor([config.prompt_ids], device=lens.device).expand(len(self.value), -1)
        generator = torch.Generator().manual_seed(0)
        self.text = torch.randint(
            1, config.subject["vocab_size"], (len(self.value), config.code_length), generator=generator
        )
        self.text = self.text.to(lens.device)

    def prefix(self) -> None:
        with torch.no_grad():
            self.cache = DynamicCache(config=self.subject.config)
            self.subject.base_model(self.context[:, :-1], past_key_values=self.cache, use_cache=True)

    def clean(self) -> None:
        with torch.no_grad():
            logits = self.subject(self.ahead, past_key_values=grown(self.cache), use_cache=True).logits
            self.target = logits.float().log_softmax(-1)

    def rollout(self) -> None:
        cache, inputs = DynamicCache(config=self.decoder.config), self.prompt
        with torch.no_grad():
            for _ in range(self.text.shape[1]):
                logits = self.decoder(inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
                inputs = logits[:, -1].argmax(-1, keepdim=True)

    def scored(self) -> Tensor:
        inputs, count = torch.cat([self.prompt, self.text[:, :-1]], 1), self.text.shape[1]
        return self.decoder(inputs, use_cache=False, logits_to_keep=count).logits.float()

    def score(self) -> None:
        F.cross_entropy(self.scored().flatten(0, 1), self.text.flatten()).backward()

    def reference(self) -> None:
        with torch.no_grad():
            self.scored()

    def read(self) -> None:
        inputs = torch.cat([self.prompt[:, :1], self.text], 1)
        state = self.encoder.base_model(inputs, use_cache=False).last_hidden_state[:, -1]
        state.float().square().sum().backward()

    def repeated(self) -> tuple[Tensor, DynamicCache]:
        cache = grown(self.cache)
        if self.times > 1:
            cache.batch_repeat_interleave(self.times)
        return self.ahead.repeat_interleave(self.times, 0), cache

    def edited(self) -> None:
        value = self.value.requires_grad_()
        ahead, cache = self.repeated()

        def replace(module: Any, args: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            hidden = torch.cat([value.unsqueeze(1), hidden[:, 1:]], 1)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        hook = self.block.register_forward_hook(replace)
        found = self.subject(ahead, past_key_values=cache, use_cache=True).logits.float().log_softmax(-1)
        hook.remove()
        target = self.target.repeat_interleave(self.times, 0)
        F.kl_div(found, target, log_target=True, reduction="sum").backward()

    def language(self) -> None:
        with torch.no_grad():
            cache = DynamicCache(config=self.subject.config)
            self.subject.base_model(self.prompt[:1, :-1], past_key_values=cache, use_cache=True)
            cache.batch_repeat_interleave(len(self.prompt))
            inputs = torch.cat([self.prompt[:, -1:], self.text], 1)
            logits = self.subject(inputs, past_key_values=cache, use_cache=True).logits
            F.cross_entropy(logits[:, :-1].float().flatten(0, 1), self.text.flatten())

    def ground(self) -> None:
        with torch.no_grad():
            ahead, cache = self.repeated()
            logits = self.subject(
                torch.cat([ahead[:, :1], self.text], 1), past_key_values=cache, use_cache=True
            ).logits
            F.cross_entropy(logits[:, :-1].float().flatten(0, 1), self.text.flatten())


class Ours:
    """The same parts through the lens and its judge, and the whole step."""

    def __init__(self, trainer: ConsistencyLensTrainer, batch: dict[str, Any]) -> None:
        self.trainer, self.batch, self.lens = trainer, batch, trainer.lens
        self.original = trainer.lens.read(batch).float().repeat_interleave(trainer.rollouts, 0)
        self.words = self.lens.decoder.write(self.original, trainer.noise)
        self.restored = torch.randn_like(self.original)
        self.adam = trainer.create_optimizer()
        self.gradients = [(p, torch.zeros_like(p)) for p in trainer.trainable.values() if p.requires_grad]

    def prefix(self) -> None:
        self.run = self.trainer.frozen.prefix(self.batch)

    def clean(self) -> None:
        with torch.no_grad():
            logits = self.run.logits(horizon=self.trainer.args.kl_horizon)
        self.comparison = TokenSwap(logits, torch.ones_like(logits[..., 0], dtype=torch.long), self.run)

    def rollout(self) -> None:
        self.lens.decoder.write(self.original, self.trainer.noise)

    def score(self) -> None:
        nll_of(self.lens.decoder.score(self.original, self.words), self.words.ids).mean().backward()

    def reference(self) -> None:
        self.trainer.score_by_reference(self.original, self.words)

    def read(self) -> None:
        self.lens.encoder(self.words).float().square().sum().backward()

    def repeated(self) -> TokenSwap:
        return self.comparison.repeat(self.trainer.rollouts) if self.trainer.rollouts > 1 else self.comparison

    def edited(self) -> None:
        comparison = self.repeated()
        edit = Edit(self.lens.config.sites[0], self.restored.requires_grad_())
        comparison.kl(comparison.edited(edit)).sum().backward()

    def language(self) -> None:
        nll_after(after_prompt(self.lens.config, self.trainer.frozen, len(self.words)), self.words)

    def ground(self) -> None:
        nll_after(self.repeated().prefix, self.words)

    def optimizer(self) -> None:
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        self.adam.step()

    def step(self) -> None:
        self.trainer.training_step(self.lens, self.batch)


def own_copy(lm: PreTrainedModel, adapter: str) -> PreTrainedModel:
    """The model with one adapter, always on."""
    lm = copy.deepcopy(lm)
    lm.enable_adapters()
    lm.set_adapter(adapter)
    lm.delete_adapter([name for name in lm.peft_config if name != adapter])
    return lm


def grown(cache: DynamicCache) -> DynamicCache:
    """One that may grow while the first stays as it is: layers grow by concatenation."""
    other = copy.copy(cache)
    other.layers = [copy.copy(layer) for layer in cache.layers]
    return other


PARTS = {
    "prefix": "prefix: B contexts but their last token",
    "rollout": "rollout: T cached steps",
    "score": "teacher-forced pass, forward and backward",
    "read": "encoder, forward and backward",
    "clean": "clean pass: P and the horizon",
    "edited": "edited pass, forward and backward",
    "reference": "reference: teacher-forced pass, forward",
    "language": "texts by themselves: T tokens after the prompt",
    "ground": "grounding: T tokens after the context",
}
FIVE = ("rollout", "score", "read", "prefix", "edited")  # what no lens of this kind can do without
