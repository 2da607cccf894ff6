"""`nla_meta.yaml`: what a Natural Language Autoencoder says of itself, checked before any of it is used.

Two formats share the name of the file. That of the authors of the method names an `injection_scale`: the vector, at
that norm, overwrites the embedding of one character of the prompt. EasyNLA's names none: the vector is added behind
the second block, at the norm that is there. Both keep what the prompts say, and which tokens stand where.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...base.configuration import WIDEST
from ...errors import BadInput
from ...schema import Kind, maybe, number, one_of, read_yaml, record, text, whole

FILE = "nla_meta.yaml"
FIX = "Download it again, as its authors have published it."
CHARACTER, EXPLANATION = "{injection_char}", "{explanation}"
SQUARE_ROOT = "sqrt_d_model"  # a scale by name: the square root of the size of a vector
_MODEL = re.compile(r"[\w.-]+(/[\w.-]+)?")
_TOKEN, _LAYER = whole(0, 1 << 24), whole(0, 1023)


def _scale(value: Any, where: str) -> None:
    """A norm, the name of one, or none."""
    if isinstance(value, str):
        one_of(SQUARE_ROOT, "raw", "none")(value, where)
    else:
        maybe(number(above=0, most=1e9))(value, where)


_TEMPLATE = maybe(text(longest=1 << 14))
_PART = maybe(record({}, dict.fromkeys(["extraction_layer_index", "num_hidden_layers"], maybe(_LAYER))))
_TOKENS = record(
    {
        "injection_char": text(longest=16),
        **dict.fromkeys(["injection_token_id", "injection_left_neighbor_id", "injection_right_neighbor_id"], _TOKEN),
    }
)
_EXTRACTION = record(
    {},
    {
        "d_model": whole(1, WIDEST),
        "layer_index": _LAYER,
        "base_model": text(longest=300),
        **dict.fromkeys(["injection_scale", "mse_scale"], _scale),
    },
)
SIDECAR: Kind = record(
    {"kind": one_of("nla_model", "nla_dataset")},
    {
        "d_model": whole(1, WIDEST),
        "base_checkpoint": text(longest=300),
        "extraction_layer_index": maybe(_LAYER),
        "extraction": maybe(_EXTRACTION),
        "tokens": maybe(_TOKENS),
        "prompt_templates": maybe(record({}, dict.fromkeys(["av", "actor", "ar", "critic"], _TEMPLATE))),
        **dict.fromkeys(["ar", "critic"], _PART),
    },
)


@dataclass(frozen=True)
class Sidecar:
    """What was read in the files of the two parts.

    Args:
        place: where, for messages.
        verbaliser, reconstructor: the records; often one and the same.
    """

    place: str
    verbaliser: Mapping[str, Any]
    reconstructor: Mapping[str, Any]

    @classmethod
    def of(cls, place: str, verbaliser: Path, reconstructor: Path) -> Sidecar:
        first, second = (read_yaml(path, SIDECAR, "lens", place, FIX) for path in (verbaliser, reconstructor))
        return cls(place, first, second)

    @property
    def model_id(self) -> str:
        """The model that it was made for; '' where what stands there can be none on the Hub."""
        found = self.verbaliser.get("base_checkpoint") or _extraction(self.verbaliser).get("base_model") or ""
        return found if _MODEL.fullmatch(found) else ""

    @property
    def size(self) -> int:
        """Of the vectors."""
        found = self.verbaliser.get("d_model") or _extraction(self.verbaliser).get("d_model")
        if found is None:
            raise self.unfit("", "it does not say d_model")
        return int(found)

    @property
    def layer(self) -> int:
        """The block whose output is read and restored."""
        stored = {layer for each in (self.verbaliser, self.reconstructor) for layer in _layers(each)}
        if len(stored) != 1:
            raise self.unfit("", f"it names {'no layer' if not stored else f'the layers {sorted(stored)}'}")
        return int(stored.pop())

    @property
    def scale(self) -> float | None:
        """The norm at which the vector overwrites an embedding; None where it is added further up."""
        found = _extraction(self.verbaliser).get("injection_scale")
        if found == SQUARE_ROOT:
            return float(self.size**0.5)
        return None if found in (None, "raw", "none") else float(found)

    @property
    def prompt(self) -> str:
        """What the verbaliser is asked, with `{injection_char}` where the vector enters."""
        return self._template(self.verbaliser, "av", "actor", CHARACTER)

    @property
    def reading(self) -> str:
        """What the reconstructor reads, with `{explanation}` in it."""
        return self._template(self.reconstructor, "ar", "critic", EXPLANATION)

    def prompt_ids(self, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], int]:
        """The prompt as the tokenizer's chat template puts it, and the token where the vector enters; raise unless
        these are the tokens that the parts were trained with."""
        if self.verbaliser.get("tokens") is None:
            raise self.unfit("", "it says no tokens")
        stored = self.verbaliser["tokens"]
        character, token = stored["injection_char"], stored["injection_token_id"]
        if tokenizer(character, add_special_tokens=False)["input_ids"] != [token]:
            raise self.unfit(repr(character), f"the tokenizer does not make the one token {token} of it")
        if tokenizer.chat_template is None:
            fix = "Load the model with the tokenizer that was published with it."
            raise BadInput("subject", self.place, fix, why="its tokenizer has no chat template, and the prompt is one")
        how = {} if self.scale is not None else {"enable_thinking": False}
        asked = [{"role": "user", "content": self.prompt.replace(CHARACTER, character)}]
        shown = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, **how)
        ids = tokenizer(shown, add_special_tokens=False)["input_ids"]
        if ids.count(token) != 1:
            raise self.unfit(repr(character), f"its token stands {ids.count(token)} times in the prompt")
        at = ids.index(token)
        beside = [stored["injection_left_neighbor_id"], stored["injection_right_neighbor_id"]]
        if [*ids[at - 1 : at], *ids[at + 1 : at + 2]] != beside:
            found = [*ids[max(0, at - 1) : at], *ids[at + 1 : at + 2]]
            raise self.unfit(repr(character), f"beside it stand the tokens {found}, and {beside} were trained with")
        return ids, token

    def unfit(self, what: str, why: str) -> BadInput:
        return BadInput("lens", self.place, FIX, why=f"{FILE}: {what + ': ' if what else ''}{why}")

    def _template(self, stored: Mapping[str, Any], name: str, older: str, hole: str) -> str:
        templates = stored.get("prompt_templates") or {}
        found = templates.get(name) or templates.get(older) or ""
        if found.count(hole) != 1:
            raise self.unfit(f"prompt_templates.{name}", f"{hole} has to stand in it once")
        return str(found)


def _extraction(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    return stored.get("extraction") or {}


def _layers(stored: Mapping[str, Any]) -> list[int]:
    """The block, under every name that it goes by."""
    parts = [stored.get(name) or {} for name in ("ar", "critic")]
    names = ("extraction_layer_index", "num_hidden_layers")  # the second is its older name
    found = [stored.get("extraction_layer_index"), _extraction(stored).get("layer_index")]
    found += [next((part[name] for name in names if part.get(name) is not None), None) for part in parts]
    return [layer for layer in found if layer is not None]
