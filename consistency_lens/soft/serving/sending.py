"""From a text to wires: one for each window of its tokens. No receiver is needed, the compressor alone.

Shapes: W windows, P tokens of the longest, M vectors of the longest code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...activations.passages.tokens import PassageTokenizer, require_text
from ...errors import BadInput
from ...frozen.anatomy.parts import longest_context
from ..bytes.wire import Wire
from ..parts.windows import counts_of
from .identity import identity_of

if TYPE_CHECKING:
    from ..modeling import LatentWire

FOLLOWS = "follows"  # in the meta of a wire that goes on with the text of the one before it
WINDOW = 512  # tokens; what a wire is trained on is shorter than that
_AT_ONCE = 8  # windows
_CHARACTER = 4  # bytes that one of UTF-8 has at most


@torch.no_grad()
def wires_of_text(
    lens: LatentWire,
    text: str,
    *,
    ratio: float | None = None,
    code_length: int | None = None,
    bits: int | None = None,
    window: int | None = None,
    size: int | None = None,
) -> list[Wire]:
    """The code of a text, quantised and packed.

    Args:
        lens: with or without its models.
        text: of any length.
        ratio: tokens for each vector, in the place of the configuration's rate.
        code_length: vectors of the whole text, in the place of a rate; at most one for each token.
        bits: for each coordinate, in the place of the configuration's: 16, 8, 6 or 4.
        window: tokens that are compressed together at most; a longer text has a wire for each of several windows of
            nearly equal length. Default: 512, or the compressor's longest context where that is shorter.
        size: of a vector, one of those that the lens serves.
    """
    if ratio is not None and code_length is not None:
        raise BadInput("code_length", code_length, "Leave out ratio or code_length: each alone settles the rate.")
    (ids,) = tokens_of(lens, [text])
    lengths = _lengths(ids, _window(lens, window), in_bytes=lens.config.start == "byte")
    counts = _counts(lens, lengths, ratio, code_length)
    name, config, kept = identity_of(lens.compressor), lens.config, lens.config.require_size(size)
    found: list[Wire] = []
    for first in range(0, len(lengths), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        start = int(lengths[:first].sum())
        batch, mask = _batch(ids, lengths[part], start)
        given = None if counts is None else counts[part].to(lens.device)
        vectors, there = lens.compressor(batch.to(lens.device), mask.to(lens.device), counts=given)
        for row, own in zip(vectors.float().cpu(), there.cpu(), strict=True):
            meta = {FOLLOWS: True} if found else {}
            used = config.bits if bits is None else bits
            found.append(Wire.of(row[own][:, :kept], used, config.group, name, meta))
    return found


def tokens_of(lens: LatentWire, texts: Sequence[str]) -> list[list[int]]:
    """What the compressor reads of each text: tokens, or bytes."""
    for text in texts:
        if not require_text(text).strip():
            raise BadInput("text", text, "Give a text: an empty one has no code.")
    config = lens.config
    if config.start == "byte":
        return [list(text.encode("utf-8")) for text in texts]
    assert lens.tokenizer is not None
    origin = config.part_origins.get("compressor")
    name = origin.model_id if origin else config.compressor_model or "the compressor"
    # Where a BOS stands concerns the receivers: of another model's tokenizer nobody has said anything.
    reader = PassageTokenizer(name, lens.tokenizer, bos="auto" if origin else config.bos)
    found = [reader.encode_passage(text) for text in texts]
    for text, ids in zip(texts, found, strict=True):
        if not ids:
            fix = "Give another text: nothing of this one reaches the compressor."
            raise BadInput("text", text, fix, why=f"the tokenizer of {name} makes no token of it")
        if max(ids) >= (known := lens.compressor.lm.get_input_embeddings().num_embeddings):
            fix = "Save or download the lens again: its files do not belong together."
            raise BadInput("tokenizer", name, fix, why=f"it has a token {max(ids)}, and the compressor knows {known}")
    return found


def require_room(lens: LatentWire, passages: Iterable[str]) -> None:
    """Raise where a passage has more tokens than the compressor takes, before a training meets it."""
    limit = longest_context(lens.compressor.lm.config)
    # What has no more bytes than that has no more tokens.
    long = list(dict.fromkeys(text for text in passages if len(text.encode("utf-8")) > limit))
    for text, ids in zip(long, tokens_of(lens, long), strict=True):
        if len(ids) > limit:
            fix = "Make them of fewer --passage_words, or start the compressor from a model of a longer context."
            why = f"it has {len(ids)} tokens, and the compressor takes at most {limit}"
            raise BadInput("passage", f"{text[:60]}...", fix, why=why)


def _window(lens: LatentWire, given: int | None) -> int:
    limit = longest_context(lens.compressor.lm.config)
    if given is None:
        return min(WINDOW, limit)
    if not isinstance(given, int) or not 1 <= given <= limit:
        raise BadInput("window", given, f"Use 1 to {limit} tokens, the compressor's longest context.")
    return given


def _lengths(ids: list[int], window: int, in_bytes: bool) -> Tensor:
    """Tokens of each window, nearly equal, `[W]`; of bytes, no window ends within a character."""
    room = max(1, window - _CHARACTER) if in_bytes else window
    ends = _shares(len(ids), -(-len(ids) // room)).cumsum(0).tolist()
    if in_bytes:  # back to where a character begins
        begins = (
            next(end - back for back in range(_CHARACTER) if ids[end - back] & 0xC0 != 0x80) for end in ends[:-1]
        )
        ends = [*sorted({*begins} - {0}), len(ids)]
    return torch.tensor(ends).diff(prepend=torch.tensor([0]))


def _counts(lens: LatentWire, lengths: Tensor, ratio: float | None, code_length: int | None) -> Tensor | None:
    """Vectors of each window, `[W]`; None where they are not to be chosen."""
    config, tokens = lens.config, int(lengths.sum())
    if config.pooling == "learned":
        if ratio is not None or code_length not in (None, (config.slots or 0) * len(lengths)):
            name, value = ("ratio", ratio) if code_length is None else ("code_length", code_length)
            fix = f"Leave it out: its learned queries give {config.slots} vectors for each window."
            raise BadInput(name, value, fix)
        return None
    if code_length is None:
        return counts_of(lengths, *(config.slots, config.ratio) if ratio is None else (None, ratio))
    if not isinstance(code_length, int) or not len(lengths) <= code_length <= tokens:
        why = f"the text has {tokens} tokens" + (f" in {len(lengths)} windows" if len(lengths) > 1 else "")
        raise BadInput("code_length", code_length, f"Use {len(lengths)} to {tokens}.", why=why)
    # In windows that are cut alike, none has more vectors than tokens.
    return torch.minimum(_shares(code_length, len(lengths)), lengths)


def _shares(whole: int, parts: int) -> Tensor:
    """A whole number in parts that differ by one at most, the larger ones first, `[parts]`."""
    base, more = divmod(whole, parts)
    return torch.tensor([base + (part < more) for part in range(parts)])


def _batch(ids: list[int], lengths: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Windows as rows, padded on the right: ids and mask `[W, P]`."""
    rows, at = [], start
    for length in lengths.tolist():
        rows.append(torch.tensor(ids[at : at + length]))
        at += length
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return padded, (torch.arange(padded.shape[1]) < lengths[:, None]).long()
