"""How one model's tokenizer reads the parts of an example: one BOS at most, and parts that continue each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...errors import BadInput
from ...frozen import FrozenLM, FrozenModels
from ...frozen.loading.provenance import hash_tokenizer

Models = FrozenLM | Sequence[FrozenLM] | Mapping[str, FrozenLM]
BOS_POLICIES = ("auto", "always", "never")
_ANCHORS = ("\n", ".", "a", "1")


def require_text(text: Any, name: str = "text") -> str:
    """The text, if it is one that has bytes: a tokenizer says nothing of what is wrong with another."""
    if not isinstance(text, str):
        raise BadInput(name, text, "Give a str.", why=f"its type is {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        why, fix = "half of a surrogate pair", "Give text that can be written as UTF-8."
        raise BadInput(name, text[error.start : error.end], fix, why=why) from error
    return text


class PassageTokenizer:
    """The tokenizer of one model.

    The ids of an example are those of its parts, one after another: so a prompt and an answer have the same ids
    whether the passage stands in front of them as text, as soft tokens, or not at all.

    Args:
        name: of the model in a batch.
        tokenizer: of the model.
        max_length: how many tokens the model takes; None for any number.
        bos: `auto`: a BOS comes first where the tokenizer itself puts one there; `always`; `never`.
        model_id: of the model, for error messages.
    """

    def __init__(
        self,
        name: str,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None = None,
        bos: str = "auto",
        model_id: str = "",
    ) -> None:
        if bos not in BOS_POLICIES:
            raise BadInput("bos", bos, f"Use one of {', '.join(BOS_POLICIES)}.")
        if tokenizer.eos_token_id is None:
            fix = "Set the tokenizer's eos_token: answers end with it."
            raise BadInput("tokenizer", model_id or name, fix, why="it has no EOS token")
        own: int | None = tokenizer.bos_token_id
        if bos == "always" and own is None:
            fix = "Use --bos auto, or set the tokenizer's bos_token."
            raise BadInput("bos", bos, fix, why=f"the tokenizer of {model_id or name} has no BOS token")
        self.name, self.tokenizer, self.max_length, self.bos, self.model_id = (
            name,
            tokenizer,
            max_length,
            bos,
            model_id,
        )
        puts_one = own is not None and tokenizer("a")["input_ids"][:1] == [own]
        self.bos_ids: list[int] = (
            [own] if own is not None and (bos == "always" or (bos == "auto" and puts_one)) else []
        )
        self.eos_id: int = tokenizer.eos_token_id
        self.pad_id: int = self.eos_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self._around: dict[str, list[int]] = {}  # ids of the few texts that a configuration puts around the data
        self._last: tuple[str, list[int]] = ("", [])
        self._anchors = [(anchor, self.encode(anchor)) for anchor in _ANCHORS]
        after = self._after_an_anchor("b", False)
        self._adds_a_space = after is not None and after != self.encode("b")

    @classmethod
    def of(cls, models: Models, bos: str = "auto") -> dict[str, PassageTokenizer]:
        """Name -> tokenizer of that model."""
        models = models if isinstance(models, Mapping) else FrozenModels.of(models)
        if not models:
            raise BadInput("models", {}, "Name at least one model.")
        return {
            name: cls(name, frozen.tokenizer, frozen.max_length, bos, frozen.model_id)
            for name, frozen in models.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """What two tokenisations have to agree in."""
        return {"model_id": self.model_id, "tokenizer": hash_tokenizer(self.tokenizer), "bos": bool(self.bos_ids)}

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Ids of a text that begins a sequence, without the BOS.

        Args:
            text: of a data set, where the name of a special token is a word like any other.
            special: read such names as special tokens: for text that a configuration puts around the data.
        """
        ids = self.tokenizer(
            require_text(text),
            add_special_tokens=False,
            split_special_tokens=not special,
            verbose=False,
            truncation=False,
        )["input_ids"]
        start = 0
        while self.bos_ids and not special and ids[start : start + 1] == self.bos_ids:
            start += 1  # a vocabulary of whole words knows it as a word, too
        return list(ids[start:])

    def encode_passage(self, text: str) -> list[int]:
        """Ids of a passage. The last one is kept: questions about one passage stand together in most sources."""
        if text != self._last[0]:
            self._last = text, self.encode(text)
        return self._last[1]

    def encode_after(self, text: str, special: bool = False) -> list[int]:
        """Ids of a text that follows other text.

        Tokenizers of the SentencePiece kind put a space in front of whatever begins; here nothing begins.
        """
        if special:
            if text not in self._around:
                self._around[text] = self._following(text, special)
            return self._around[text]
        return self._following(text, special)

    def _following(self, text: str, special: bool) -> list[int]:
        after = self._after_an_anchor(text, special) if self._adds_a_space else None
        return self.encode(text, special) if after is None else after

    def _after_an_anchor(self, text: str, special: bool) -> list[int] | None:
        """Ids of the text behind the first anchor that it does not merge with."""
        for anchor, own in self._anchors:
            ids = self.encode(anchor + text, special)
            if ids[: len(own)] == own:
                return ids[len(own) :]
        return None
