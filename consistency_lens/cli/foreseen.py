"""What of a training can be known without the weights of the model is refused before the first pass of it."""

from __future__ import annotations

from typing import Any

from ..activations import Extraction
from ..errors import BadInput
from ..frozen.anatomy import longest_context
from ..frozen.loading import quantization_of
from ..text.configuration import ends_of, require_place
from ..text.source import vague_id
from .opening import prompt_length, require_room
from .parsing import Request


def require_lens(request: Request, config: Any, tokenizer: Any, site: str) -> None:
    """Raise where no lens of this site can be made, or none as it is wanted."""
    lens, subject = request.lens, request.subject
    require_room(config, tokenizer, lens)
    require_place(site, config.get_text_config().num_hidden_layers, lens.injection)
    _, stop = ends_of(tokenizer, str(subject.model_name_or_path))
    vague_id(request.values["warm_vague"], tokenizer, {stop, *tokenizer.all_special_ids})
    kinds = (lens.trainable, lens.encoder_trainable or lens.trainable)
    packed = quantization_of(config) if subject.quantization == "none" else subject.quantization
    if "full" in kinds and packed != "none":
        fix = "Use trainable=lora: a quantised subject cannot be cloned and trained."
        raise BadInput("trainable", "full", fix, why=f"the subject is quantised: {packed}")


def require_context(request: Request, extraction: Extraction) -> None:
    """Raise where one of the first contexts is so long that the model cannot read it with a prompt and a text behind
    it, as judging asks."""
    room = longest_context(extraction.config)
    asked = prompt_length(extraction.tokenizer, request.lens) - 2 + request.lens.code_length
    longest = max(prepared.length for prepared in extraction.sample)
    if longest + asked > room:
        raise too_long(extraction.rules.max_length, longest, asked, room, extraction.rules.min_position)


def too_long(given: int | None, longest: int, asked: int, room: int, first: int) -> BadInput:
    """The refusal of contexts of so many tokens by a model that takes `room`, `asked` of which are not theirs."""
    most = room - asked + 1
    fix = f"Extract with --max_length {most} or less."
    if most < first + 2:
        fix = f"Use a shorter prompt or code_length: contexts begin at --min_position {first}."
    why = f"the model takes {room} tokens, a context has {longest}, prompt and text {asked}"
    return BadInput("max_length", given, fix, why)
