"""A lens with adapters as one with plain weights, for those who load it."""

from __future__ import annotations

import logging
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from ...errors import BadInput
from .backbone import clone, cut
from .two_parts import TwoParts

logger = logging.getLogger(__name__)

Lens = TypeVar("Lens", bound=TwoParts)


@torch.no_grad()
def merged(lens: Lens) -> Lens:
    """A new lens whose adapters are part of its weights; the old one stays as it is."""
    frozen, config = lens.subject, lens.config
    adapted = [part for part in (lens.decoder, lens.encoder) if part.trainable == "lora"]
    if not adapted:
        kinds = (config.trainable, config.encoder_trainable)
        raise BadInput("trainable", kinds, "Save the lens as it is.", why="it has no adapters to merge")
    if frozen is None:
        raise BadInput("subject", None, "Load the lens with its FrozenLM.", why="the adapters sit on its weights")
    if frozen.quantization != "none":
        fix = "Publish the lens as it is."
        raise BadInput("quantization", frozen.quantization, fix, why="adapters cannot become part of packed weights")
    changes = {"trainable" if part.name == "decoder" else "encoder_trainable": "full" for part in adapted}
    settings = config.to_dict() | {"encoder_trainable": config.encoder_trainable} | changes
    lms: dict[str, PreTrainedModel] = {}
    for part in (lens.decoder, lens.encoder):
        lms[part.name] = part.lm
        if part in adapted:
            lms[part.name] = cut(clone(frozen, part.adapter), config, part.name)
    new = type(lens)(type(config).from_dict(settings), lms["decoder"], lms["encoder"], lens.tokenizer)
    new.subject = frozen
    for part, source in ((new.decoder, lens.decoder), (new.encoder, lens.encoder)):
        part.map.load_state_dict(source.map.state_dict())
    before, after = (_gigabytes(each) for each in (lens, new))
    logger.info("merged: %.3g GB in the place of %.3g GB, loads without peft", after, before)
    return new.to(lens.device).eval()


def _gigabytes(lens: TwoParts) -> float:
    return sum(p.numel() * p.element_size() for file in lens.files().values() for p in file.values()) / 1e9
