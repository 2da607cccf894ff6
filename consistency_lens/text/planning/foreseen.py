"""What of a training can be known without the weights of the model is refused before the first pass of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...activations import Extraction
from ...activations.contexts.rows import Prepared
from ...errors import BadInput
from ...frozen.anatomy.parts import longest_context
from ...frozen.loading.load import quantization_of
from ..configuration import PLACEHOLDER, ends_of
from ..starting.foresight import Foresight
from ..starting.source import require_evidence, vague_id


def require_model(values: Mapping[str, Any], config: Any, tokenizer: Any) -> None:
    """Raise where no lens of this model can be made with these options, or none that could be trained."""
    length, room = values["code_length"], longest_context(config)
    if length < 1:
        raise BadInput("code_length", length, "Give the explanation at least one token.")
    used = prompt_length(values["prompt"], tokenizer)
    if used + length > room:
        why = f"the model takes {room} tokens, and the prompt has {used}"
        raise BadInput("code_length", length, f"Use at most {max(0, room - used)}.", why)
    require_evidence(values, spread=False)
    _, stop = ends_of(tokenizer, str(values["model_name_or_path"]))
    vague_id(values["warm_vague"], tokenizer, {stop, *tokenizer.all_special_ids})
    packed = quantization_of(config) if values["quantization"] == "none" else values["quantization"]
    if "full" in (values["trainable"], values["encoder_trainable"]) and packed != "none":
        fix = "Use trainable=lora: a quantised model cannot be cloned and trained."
        raise BadInput("trainable", "full", fix, why=f"the frozen model is quantised: {packed}")


def require_contexts(values: Mapping[str, Any], extraction: Extraction, room: int) -> None:
    """Raise where a context is so long that a model that takes `room` tokens cannot read it with a prompt and a text
    behind it, as evaluation asks, or cannot go on behind it as far as `warm_foresight`. Where `max_length` leaves that
    room, no document is looked at."""
    rules, used = extraction.rules, prompt_length(values["prompt"], extraction.tokenizer) - 2 + values["code_length"]
    ahead = values["warm_foresight"]

    def fits(prepared: Sequence[Prepared]) -> None:
        longest = max((each.length for each in prepared), default=0)
        if longest + used > room:
            raise too_long(rules.max_length, longest, used, room, rules.min_position)
        if ahead:
            Foresight(ahead).require_room(longest, room)

    if rules.max_length - 1 + max(used, ahead) > room:
        extraction.require_each(fits)


def prompt_length(prompt: str, tokenizer: Any) -> int:
    """Tokens of the decoder's prompt, with what a text starts with and the placeholder."""
    if prompt.count(PLACEHOLDER) != 1:
        raise BadInput("prompt", prompt, f"Write {PLACEHOLDER} once, where the activation enters.")
    before, _, after = prompt.partition(PLACEHOLDER)
    return 2 + sum(len(tokenizer(text.strip(), add_special_tokens=False)["input_ids"]) for text in (before, after))


def too_long(given: int | None, longest: int, used: int, room: int, first: int) -> BadInput:
    """The refusal of contexts of so many tokens by a model that takes `room`, `used` of which are not theirs."""
    most = room - used + 1
    fix = f"Extract with --max_length {most} or less."
    if most < first + 2:
        fix = f"Use a shorter prompt or code_length: contexts begin at --min_position {first}."
    why = f"the model takes {room} tokens, a context has {longest}, prompt and text {used}"
    return BadInput("max_length", given, fix, why)
