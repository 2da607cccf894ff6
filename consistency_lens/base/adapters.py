"""Adapters on one shared backbone: the frozen model and the parts of all its lenses are one set of weights.

Between passes all adapters are off, so the backbone *is* the model; a part switches its own on for the length of a
forward pass. Each lens has adapters of its own, under names that no other one has. The only file that imports peft.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import BadInput
from ..frozen.anatomy.parts import blocks_of
from ..frozen.hooks import taking_turns
from ..frozen.loading.compiling import noticing_hooks

_NUMBERED = re.compile(r"_\d+$")


def add_adapter(
    model: PreTrainedModel,
    name: str,
    rank: int,
    alpha: int,
    layers: int | None = None,
    seed: int = 0,
    headless: bool = False,
) -> str:
    """Put a fresh LoRA on all linear layers of the first `layers` blocks; it changes nothing until it is trained, and
    is left off. A `headless` model, of blocks alone, gets it on all its linear layers.

    Returns:
        What it is called: its name, with a number behind it where another lens on the same model has that name.
    """
    from peft import LoraConfig

    taken = model.peft_config if is_adapted(model) else {}
    if name in taken:
        name = next(each for each in (f"{name}_{number}" for number in count(2)) if each not in taken)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # Of a second adapter beside the first, and of one deleted while it is active: both are meant.
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(seed)
        model.add_adapter(config, name)
        blocks = [model] if headless else blocks_of(model)[:layers]
        wanted = {id(layer) for block in blocks for layer in _layers(block)}
        for layer in _layers(model):
            if id(layer) not in wanted:  # above, or in a tower that text never enters
                layer.delete_adapter(name)
    if len(wanted) < len(_layers(model)):  # whoever loads the file shall make no more of them than there are
        names = {key for key, module in model.named_modules() if id(module) in wanted}
        model.peft_config[name].target_modules = names
    for parameter in adapter_parameters(model, name).values():
        parameter.data = parameter.data.float()  # the weights stay in their dtype, what is trained does not
    _switch(model, None)
    for other in model.peft_config:  # adding one makes peft freeze the others
        for parameter in adapter_parameters(model, other).values():
            parameter.requires_grad_(True)
    return name


@torch.no_grad()
def remove_adapter(model: PreTrainedModel, name: str) -> None:
    """Take one adapter off; the others stay as they are. After the last one the model has no trace of any."""
    if len(model.peft_config) == 1:
        without_adapters(model)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of one that was active last: all are off
        for path, layer in _layers_by_path(model):
            if name in layer.lora_A:
                layer.delete_adapter(name)
            if not layer.lora_A:
                model.set_submodule(path, layer.get_base_layer())
    del model.peft_config[name]
    _switch(model, None)


def require_alone(model: PreTrainedModel, own: Iterable[nn.Parameter]) -> None:
    """Raise where a model that a lens shall be trained on carries adapters of another one: what they hold would be
    seen by the optimizer, spread by engines and kept in checkpoints."""
    mine = {id(parameter) for parameter in own}
    for name in model.peft_config if is_adapted(model) else ():
        if not any(id(parameter) in mine for parameter in adapter_parameters(model, name).values()):
            fix = "Take the other lens off first (its unload()), or load the frozen model again."
            raise BadInput("frozen", model.config.name_or_path, fix, why=f"it carries the {name} of another lens")
        if _NUMBERED.search(name):
            fix = "Unload this lens, too, and load it again."
            why = f"its adapter is called {name}, after one that is gone; checkpoints know adapters by name"
            raise BadInput("frozen", model.config.name_or_path, fix, why)


def keep_on(model: PreTrainedModel, name: str) -> None:
    """Let an adapter stay on: of a model that nobody else reads with."""
    _switch(model, name)


def adapter_parameters(model: PreTrainedModel, name: str) -> dict[str, nn.Parameter]:
    """The trainable tensors of one adapter, by their name in the model."""
    # A module of the model may have the adapter's name, too.
    own = re.compile(rf"\.lora_[A-Za-z_]+\.{name}\.")
    return {key: p for key, p in model.named_parameters() if own.search(key)}


def adapter_file(model: PreTrainedModel, name: str) -> dict[str, nn.Parameter]:
    """The same tensors under the names that peft's own files have."""
    own = re.compile(rf"(\.lora_[A-Za-z_]+)\.{name}\.")
    parameters = adapter_parameters(model, name)
    return {"base_model.model." + own.sub(r"\1.", key): p for key, p in parameters.items()}


@torch.no_grad()
def without_adapters(model: PreTrainedModel, merged: str | None = None) -> PreTrainedModel:
    """Take all adapters off, after adding one of them, if named, to the weights it sits on. The model is changed."""
    if not is_adapted(model):
        return model
    for name, layer in _layers_by_path(model):
        if merged in layer.lora_A:
            layer.merge(adapter_names=[merged])
        model.set_submodule(name, layer.get_base_layer())
    model._hf_peft_config_loaded = False
    del model.peft_config
    return model


@contextmanager
def speaking(model: PreTrainedModel, name: str | None, checkpointing: bool = False) -> Iterator[None]:
    """Inside, the backbone runs with this adapter alone (None: as it is), and recomputes its blocks in the backward
    pass if `checkpointing`."""
    with taking_turns(model):
        before = name if name is None else _active(model)
        if name != before:
            _switch(model, name)
        if checkpointing:
            _recompute_blocks(model, True)
        try:
            yield
        finally:
            if checkpointing:
                _recompute_blocks(model, False)
            if name != before:
                _switch(model, before)


def enable_checkpointing(model: PreTrainedModel) -> None:
    """Let blocks be recomputed in the backward pass, under the adapter of their forward pass."""
    if not model.supports_gradient_checkpointing:
        raise BadInput("activation_checkpointing", True, f"{type(model).__name__} does not support it; leave it off.")

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _recomputing(model, _active(model))

    model.activation_checkpointing_enable({"use_reentrant": False, "context_fn": contexts})


def _recompute_blocks(model: PreTrainedModel, mode: bool) -> None:
    """Blocks look at their own `training` to decide. What is inside them stays in eval mode: no dropout."""
    for block in blocks_of(model):
        block.training = mode


@contextmanager
def _recomputing(model: PreTrainedModel, name: str | None) -> Iterator[None]:
    before = _active(model)
    with noticing_hooks(model):
        if name == before:
            yield
            return
        _switch(model, name)
        try:
            yield
        finally:
            _switch(model, before)


def _iterate(model: nn.Module) -> Iterator[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return (module for module in model.modules() if isinstance(module, BaseTunerLayer))


def _layers(model: nn.Module) -> list[Any]:
    return list(_iterate(model))


def _layers_by_path(model: nn.Module) -> list[tuple[str, Any]]:
    layers = set(_layers(model))
    return [(path, module) for path, module in model.named_modules() if module in layers]


def _active(model: PreTrainedModel) -> str | None:
    first = next(_iterate(model), None) if is_adapted(model) else None
    return None if first is None or first.disable_adapters else first.active_adapters[0]


def is_adapted(model: PreTrainedModel) -> bool:
    return bool(model._hf_peft_config_loaded)


def _switch(model: PreTrainedModel, name: str | None) -> None:
    """Turn on one adapter and no other. peft ties this to `requires_grad`, which is not its business here."""
    layers = _layers(model)
    wanted = [(p, p.requires_grad) for layer in layers for p in layer.parameters()]
    for layer in layers:
        layer.enable_adapters(name is not None)
        if name is not None:
            layer.set_adapter(name)
    for parameter, flag in wanted:
        parameter.requires_grad_(flag)
