"""Steering: change the words of an explanation, and the model's mind is changed by what the encoder makes of that.

Shapes: B rows, K columns after P, T tokens of a text, V vocabulary, d hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...base.comparing import likeliest
from ...errors import BadInput
from ...frozen import Edit, FrozenLM, Prefix
from ...frozen.sites import require_whole
from ...objectives import kl_of, masked_mean
from ..controls import token_lists
from ..parts.generation import Noise, Words, roll_out
from ..parts.sites import At
from ..parts.two_parts import TwoParts

REACH = 64  # tokens after P over which side effects are measured, at most


@dataclass(frozen=True)
class Steered:
    """What changing the words did to the frozen model.

    Args:
        text: that the frozen model read.
        position: P, the token at whose activation the difference was added.
        token: the one at P.
        old_explanation: what the difference starts from.
        new_explanation: what it leads to.
        strength: factor on the difference.
        size: norm of what was added over the norm of the activation.
        before, after: likeliest next tokens at P with their probabilities, without and with the edit.
        kl: from what the frozen model predicts next at P without the edit to what it says with it, in nats.
        continuation_before, continuation_after: what the model says after P, both from the same noise: where the
            edit changes no choice, the words are the same.
        off_target: what the edit does where it has no business: the mean KL from the model without the edit to the
            subject with it, over the next 64 tokens after P but for those that ask for a changed word. A token counts
            unless the model without the edit expects there, as its likeliest next token, one that stands in only one
            of the two explanations. Both read the same tokens: those of the text, or where the text ends at P,
            `continuation_before`. P itself never counts. What the model expects *with* the edit plays no part in
            the choice, so that saying the new word in a wrong place counts in full; another word for the same thing
            is not known to be one, and counts as well. None where no token is left to count.
        off_target_tokens: how many tokens that is the mean of.
    """

    text: str
    position: int
    token: str
    old_explanation: str
    new_explanation: str
    strength: float
    size: float
    before: list[tuple[str, float]]
    after: list[tuple[str, float]]
    kl: float
    continuation_before: str
    continuation_after: str
    off_target: float | None
    off_target_tokens: int


class Steering(TwoParts):
    """A lens whose encoder turns a change of words into a change of the model's mind."""

    @torch.no_grad()
    def steer(
        self,
        text: str,
        position: int,
        new_explanation: str,
        strength: float = 1.0,
        old_explanation: str | None = None,
        continuation_length: int = 20,
        temperature: float = 1.0,
        seed: int = 0,
        top: int = 5,
    ) -> Steered:
        """Change the words of an explanation, and see the frozen model change its mind.

        The encoder turns the change into a difference of activations, E(new) - E(old), which is added at the site, at
        this token of the text.

        Args:
            text: what the frozen model reads.
            position: token at whose activation to add; negative ones are counted from the right.
            new_explanation: what the activation shall be about.
            strength: factor on the difference; 0 changes nothing, bit for bit.
            old_explanation: what to change it from; default what the lens says there.
            continuation_length: how many tokens the frozen model then says, without the edit and with it.
            temperature: of these continuations; 0 for the likeliest words.
            seed: of these continuations.
            top: how many of the likeliest next tokens to give.
        """
        frozen = self.subject
        if frozen is None:
            raise BadInput("subject", None, "Load the lens with subject=FrozenLM.from_pretrained(...) to steer it.")
        _require_numbers(strength, temperature, continuation_length)
        ids, p = _place(frozen, text, position, continuation_length)
        site, at = (self.config.sites or [])[self.looks_at], self.looks_at
        read = frozen.read({"input_ids": ids}, site)[site][:, p]
        if old_explanation is None:
            code = self.compress({"activations": {site: read}})
            old_explanation = str(self.describe(code)[0]["explanation"])
        else:
            _require_readable(self, "old_explanation", old_explanation)
        if new_explanation != old_explanation:  # what the lens itself says is always taken back
            _require_readable(self, "new_explanation", new_explanation)
        added = strength * difference(self, [new_explanation], [old_explanation], at)
        if not added.square().sum().isfinite():  # what a norm inside the frozen model would compute
            raise BadInput("strength", strength, "Take a smaller one.", why="so large an edit cannot be computed with")
        edit = Edit(site, added, mode="add")
        prefix = frozen.prefix({"input_ids": ids[:, : p + 1]})
        spoken = [_say(self, prefix, edits, continuation_length, temperature, seed) for edits in ([], [edit])]
        later = ids[:, p + 1 :] if p + 1 < ids.shape[1] else spoken[0].ids[:, : int(spoken[0].lengths)]
        later = later[:, :REACH]
        prefix = prefix.followed_by(later)
        before, after = (prefix.logits(edits, horizon=later.shape[1]) for edits in ([], [edit]))
        counts = unrelated(before[:, 1:], changed_tokens(self, [new_explanation], [old_explanation]))
        spill = kl_per_column(before, after)
        sentences = [frozen.tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in map(_own, spoken)]
        return Steered(
            text=text,
            position=p,
            token=frozen.tokenizer.decode(ids[0, p]),
            old_explanation=old_explanation,
            new_explanation=new_explanation,
            strength=strength,
            size=float(added.norm() / read.float().norm()),
            before=likeliest(frozen.tokenizer, before[0, 0], top),
            after=likeliest(frozen.tokenizer, after[0, 0], top),
            kl=float(spill[0, 0]),
            continuation_before=sentences[0],
            continuation_after=sentences[1],
            off_target=float(masked_mean(spill[:, 1:], counts)) if counts.any() else None,
            off_target_tokens=int(counts.sum()),
        )


@torch.no_grad()
def difference(lens: TwoParts, new: Sequence[str], old: Sequence[str], at: At = -1) -> Tensor:
    """E(new) - E(old) of each pair of explanations at a site, `[B, d]`; exactly 0 where they are the same."""
    return lens.encoder(lens.reread(new), at=at).float() - lens.encoder(lens.reread(old), at=at).float()


def changed_tokens(lens: TwoParts, new: Sequence[str], old: Sequence[str]) -> Tensor:
    """`[B, V]`, true for the tokens that stand in only one of the two explanations."""
    assert lens.subject is not None
    found = torch.zeros(len(new), lens.subject.vocab_size, dtype=torch.bool)
    for row, texts in enumerate(zip(token_lists(lens.reread(new)), token_lists(lens.reread(old)), strict=True)):
        found[row, sorted(set(texts[0]) ^ set(texts[1]))] = True
    return found


def unrelated(before: Tensor, changed: Tensor) -> Tensor:
    """`[B, K]`, true where the likeliest of the logits `[B, K, V]` is none of the changed tokens `[B, V]`."""
    return ~changed.to(before.device).gather(1, before.argmax(-1))


def kl_per_column(before: Tensor, after: Tensor) -> Tensor:
    """KL from one to the other at each column: logits `[B, K, V]` to `[B, K]`."""
    return kl_of(before.flatten(0, 1), after.flatten(0, 1)).view(before.shape[:2])


def _say(lens: TwoParts, prefix: Prefix, edits: list[Edit], length: int, temperature: float, seed: int) -> Words:
    """What the frozen model says after P, up to its own end; at temperature 0, the likeliest tokens."""
    steps = prefix.steps(edits)
    ids = roll_out(
        lambda last: steps(last).float() / (temperature or 1.0), length, Noise(seed if temperature else None)
    )
    return Words.ended_by(ids, lens.config.stop_id, lens.config.pad_id)


def _own(words: Words) -> list[int]:
    return token_lists(words)[0]


def _place(frozen: FrozenLM, text: str, position: int, more: int) -> tuple[Tensor, int]:
    """The text's tokens `[1, S]`, and the position counted from the left."""
    ids = frozen.tokenizer(text, return_tensors="pt")["input_ids"].to(frozen.device)
    length = ids.shape[1]
    if length < 2:
        raise BadInput("text", text, "Give at least one word.")
    frozen.require_length(length, "text")
    _require_known(frozen.tokenizer, "text", text)
    require_whole(position)
    if not -length <= position < length:
        fix = f"The text has {length} tokens: use 0 to {length - 1}, or negative ones."
        raise BadInput("position", position, fix)
    p = position % length
    frozen.require_length(p + 1 + more, "text up to the position, with its continuation")
    return ids, p


def _require_numbers(strength: float, temperature: float, continuation_length: int) -> None:
    if not math.isfinite(strength):
        raise BadInput("strength", strength, "Give a finite number; 0 changes nothing, 1 adds the difference once.")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise BadInput("temperature", temperature, "Give 0 for the likeliest words, or a positive number to sample.")
    if continuation_length < 1:
        raise BadInput("continuation_length", continuation_length, "Let the frozen model say at least one token.")


def _require_known(tokenizer: PreTrainedTokenizerBase, field: str, text: str) -> None:
    """Raise where a word is none of the tokenizer's."""
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown == tokenizer.eos_token_id:  # GPT-2's: it spells everything in bytes
        return
    for word in text.split():
        if unknown in tokenizer(word, add_special_tokens=False)["input_ids"]:
            raise BadInput(field, word, "Use words of the model's vocabulary.", why="the tokenizer does not know it")


def _require_readable(lens: TwoParts, field: str, text: str) -> None:
    """Raise unless the encoder will read all that is written."""
    if not text.strip():
        raise BadInput(field, text, "Write what the explanation should say.")
    _require_known(lens.tokenizer, field, text)
    ids = lens.tokenizer(text, add_special_tokens=False)["input_ids"]
    special = {lens.config.stop_id, *(lens.config.never_ids or [])}.intersection(ids)
    if special:
        raise BadInput(field, lens.tokenizer.decode(sorted(special)), "Leave it out: it is no word.")
    if len(ids) > lens.config.code_length:
        fix = f"This lens reads {lens.config.code_length} tokens: shorten it."
        raise BadInput(field, text, fix, why=f"it has {len(ids)} tokens")
