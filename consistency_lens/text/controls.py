"""What a text code is measured against: rival texts, spoiled texts, and what can be said of a text by itself.

A lens may score well because its words carry the activation, because any words would do, or because decoder and
encoder share a code that only looks like words. Each function here tells one of these from the others.

Shapes: B rows, T tokens of a text, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from ..base.lens import Batch
from ..frozen import FrozenLM, Prefix
from ..objectives import masked_mean
from .configuration import ConsistencyLensConfig
from .parts.generation import Noise, Words, roll_out
from .starting.warm_start import barred, packed, starting_words

logger = logging.getLogger(__name__)

CHOICES = 4  # contexts that retrieval chooses from

# Base models follow examples better than instructions.
REWORDING = (
    "He was glad to see the old house. In other words: Seeing the old home made him happy.\n"
    "The price of oil fell last year. In other words: Last year oil became cheaper.\n"
    "{} In other words:"
)


@torch.no_grad()
def rivals(
    config: ConsistencyLensConfig, batch: Batch, prefix: Prefix, frozen: FrozenLM, seed: int
) -> dict[str, Words]:
    """Texts that no decoder wrote, one per row and T tokens long where there are that many.

    - `empty_text`: nothing; the encoder is left with its start token.
    - `random_text`: tokens drawn evenly from those that a text may hold.
    - `other_text`: the end of the partner's context.
    - `own_continuation`: the token at P and what the model predicts next, greedily: what one gets without a lens.
    - `context_tail`: the end of the row's own context.

    Args:
        config: of the lens.
        batch: with `pair`, the partner of each row.
        prefix: the batch's contexts.
        frozen: the frozen model.
        seed: of the random texts; give each batch its own.
    """
    rows, length, device = len(prefix.input_ids), config.code_length, prefix.input_ids.device
    everything = torch.arange(frozen.vocab_size)
    allowed = everything[~barred(everything, config)]
    drawn = torch.randint(len(allowed), (rows, length), generator=torch.Generator().manual_seed(seed))
    blank = torch.full((rows, length), config.pad_id, device=device)
    tail = starting_words("context", prefix, config, frozen)
    return {
        "empty_text": Words(blank, torch.zeros_like(blank)),
        "random_text": Words(allowed[drawn].to(device), torch.ones_like(blank)),
        "other_text": tail.take(batch["pair"].to(device)),
        "own_continuation": starting_words("onward", prefix, config, frozen),
        "context_tail": tail,
    }


@torch.no_grad()
def tampered(config: ConsistencyLensConfig, code: Words, frozen: FrozenLM, seed: int) -> dict[str, Words]:
    """The same texts, spoiled.

    - `token_shuffle`: each text's tokens in a random order. A bag of words survives it, a sentence does not.
    - `truncation_k`: the first 1, 2, 4, ... tokens.
    - `paraphrase`: see `paraphrased`. Language survives it, a private code does not.

    Args:
        config: of the lens.
        code: the texts.
        frozen: the frozen model, which paraphrases.
        seed: of the shuffle; give each batch its own.
    """
    found = {"token_shuffle": shuffled(code, seed)}
    size = 1
    while size < code.ids.shape[1]:
        found[f"truncation_{size}"] = shortened(code, size, config.pad_id)
        size *= 2
    return found | {"paraphrase": paraphrased(config, code, frozen)}


@torch.no_grad()
def traits(
    config: ConsistencyLensConfig, code: Words, batch: Batch, prefix: Prefix, frozen: FrozenLM, seed: int
) -> dict[str, Tensor]:
    """What can be said of each text without its encoder: `[B]` in float32, on the CPU.

    - `text_nll`: nats per token under the frozen model, behind the decoder's prompt without the activation.
    - `sample_nll`: the same of the model's own samples at temperature 1, of the same length and from the tokens that
      a text may hold: how surprising its ordinary words are to it.
    - `excerpt_nll`: the same of what the model says, sampled likewise, behind the row's own context: an excerpt from
      the middle of something, as a text about a thought is, and surprising by its beginning alone.
    - `length`: tokens.
    - `repetition`: share of the text's bigrams that have come before in it.
    - `round_trip`: 1 where the printed text, tokenised again, is the same tokens.
    - `retrieval`: whether the model, shown a context and then the same prompt, finds the text likelier behind its
      own context than behind others (see `retrieved`).

    Args:
        config: of the lens.
        code: the texts.
        batch: with `doc_id`.
        prefix: the batch's contexts.
        frozen: the frozen model.
        seed: of the samples and of the choice of other contexts; give each batch its own.
    """
    alone = after_prompt(config, frozen, len(code))
    # Without the token that starts a text.
    behind = prefix.extended(alone.input_ids[:, 1:])
    found = {
        "text_nll": nll_after(alone, code),
        "sample_nll": nll_after(alone, sampled(config, alone, code, seed)),
        "excerpt_nll": nll_after(alone, sampled(config, prefix, code, seed)),
        "length": code.lengths.float(),
        "repetition": repetition_of(code),
        "round_trip": round_trip_of(frozen.tokenizer, code),
        "retrieval": retrieved(code, behind, batch["doc_id"], seed),
    }
    return {name: values.float().cpu() for name, values in found.items()}


def after_prompt(config: ConsistencyLensConfig, frozen: FrozenLM, rows: int) -> Prefix:
    """The decoder's prompt without the activation, once for each row: what a text by itself is judged behind. After
    BOS alone, the likeliest text is how documents open."""
    assert config.prompt_ids is not None
    prompt = torch.tensor([[i for i in config.prompt_ids if i != config.placeholder_id]])
    return frozen.prefix({"input_ids": prompt}).repeat(rows)


def shuffled(words: Words, seed: int) -> Words:
    """Each text's tokens in a random order; every order is as likely, the old one too."""
    keys = torch.rand(words.ids.shape, generator=torch.Generator().manual_seed(seed)).to(words.ids.device)
    order = keys.masked_fill(words.mask == 0, 2.0).argsort(dim=1)  # padding stays behind
    return Words(words.ids.gather(1, order), words.mask)


def shortened(words: Words, length: int, pad_id: int) -> Words:
    """The first tokens of each text."""
    mask = words.mask.clone()
    mask[:, length:] = 0
    return Words(torch.where(mask.bool(), words.ids, pad_id), mask)


def paraphrased(config: ConsistencyLensConfig, words: Words, frozen: FrozenLM) -> Words:
    """Each text as the model itself says it in other words: greedily, at most T tokens, up to the end of the line.

    The model is shown two examples and then the text (`REWORDING`). It may not say three tokens in a row as the text
    has them: a copy would survive whatever the code is. A weak model still rewrites badly, and what is lost then is
    lost to it and not to the code, so that survival is a lower bound; texts of one or two tokens may come back as they
    were.
    """
    before, after = (
        torch.tensor(frozen.tokenizer(part, add_special_tokens=False)["input_ids"], device=words.ids.device).long()
        for part in REWORDING.split("{}")
    )
    start = torch.tensor([config.start_id], device=words.ids.device)
    rows = [torch.cat([start, before, ids[:n], after]) for ids, n in zip(words.ids, words.lengths, strict=True)]
    width = max(map(len, rows))
    padded = torch.stack([F.pad(row, (width - len(row), 0), value=config.pad_id) for row in rows])
    mask = torch.stack([torch.arange(width) >= width - len(row) for row in rows]).long()
    steps = frozen.prefix({"input_ids": padded, "attention_mask": mask}).steps()
    said: list[Tensor] = []

    def step(last: Tensor | None) -> Tensor:
        logits = steps(last)
        if last is not None:
            said.append(last)
        if len(said) >= 2 and words.ids.shape[1] >= 3:
            again = (words.ids[:, :-2] == said[-2].unsqueeze(1)) & (words.ids[:, 1:-1] == said[-1].unsqueeze(1))
            again &= words.mask[:, 2:].bool()
            row, column = again.nonzero(as_tuple=True)
            logits[row, words.ids[row, column + 2]] = -torch.inf
        return logits

    ids = roll_out(step, config.code_length, Noise(None))
    lines = [i for i in ids.unique().tolist() if "\n" in frozen.tokenizer.decode([i])]
    ends = barred(ids, config) | torch.isin(ids, torch.tensor(lines, device=ids.device, dtype=ids.dtype))
    return packed(ids, ends.cumsum(1) == 0, config.pad_id)


def sampled(config: ConsistencyLensConfig, prefix: Prefix, like: Words, seed: int) -> Words:
    """What the frozen model says behind its contexts at temperature 1, each as long as another text."""
    steps = prefix.steps()

    def step(last: Tensor | None) -> Tensor:
        logits = steps(last)
        never = barred(torch.arange(logits.shape[1], device=logits.device), config)
        return logits.masked_fill(never, -torch.inf)

    ids = roll_out(step, like.ids.shape[1], Noise(seed))
    return Words(torch.where(like.mask.bool(), ids, config.pad_id), like.mask)


def nll_after(prefix: Prefix, words: Words) -> Tensor:
    """Nats per token of each text behind its context, `[B]`; 0 for an empty one."""
    return masked_mean(nll_of_tokens(prefix, words), words.mask)


def nll_of_tokens(prefix: Prefix, words: Words) -> Tensor:
    """Nats of each token of each text behind its context, `[B, T]`; what stands behind a text's end means nothing."""
    logits = prefix.followed_by(words.ids, words.mask).logits(horizon=words.ids.shape[1])[:, :-1].float()
    return F.cross_entropy(logits.flatten(0, 1), words.ids.flatten(), reduction="none").view_as(words.ids)


def retrieved(words: Words, prefix: Prefix, doc_id: Tensor, seed: int) -> Tensor:
    """Whether a text is likelier behind its own context than behind those of three rows of other documents, `[B]`.

    How likely a text is by itself is the same for all four, and drops out. Where the own context ties with others for
    the first place, the row counts as its share of it, so that chance is .25 also for texts that say nothing. Rows
    that find fewer than three others in the batch are NaN.
    """
    if len(words) < CHOICES:
        return torch.full((len(words),), torch.nan)
    doc_id = doc_id.cpu()
    chance = torch.rand(len(words), len(words), generator=torch.Generator().manual_seed(seed))
    chance[doc_id.unsqueeze(1) == doc_id.unsqueeze(0)] = -1.0
    found, others = chance.topk(CHOICES - 1, dim=1)
    nll = [nll_after(prefix, words), *(nll_after(prefix.take(rows), words) for rows in others.T)]
    together = torch.stack(nll, dim=1).cpu()
    first = together == together.min(1, keepdim=True).values
    return torch.where((found >= 0).all(1), first[:, 0] / first.sum(1), torch.nan)


def repetition_of(words: Words) -> Tensor:
    """Share of each text's bigrams that have come before in it, `[B]`; 0 where there are none."""
    first, second, real = words.ids[:, :-1], words.ids[:, 1:], words.mask[:, 1:].bool()
    same = (first.unsqueeze(1) == first.unsqueeze(2)) & (second.unsqueeze(1) == second.unsqueeze(2))
    again = same.tril(-1).any(2) & real
    return again.sum(1) / real.sum(1).clamp_min(1)


def token_lists(words: Words) -> list[list[int]]:
    """The tokens of each text."""
    return [ids[:n] for ids, n in zip(words.ids.tolist(), words.lengths.tolist(), strict=True)]


def printed(tokenizer: PreTrainedTokenizerBase, words: Words) -> list[str]:
    """Each text for people: all of what the encoder reads, nothing tidied up."""
    return [tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in token_lists(words)]


def round_trip_of(tokenizer: PreTrainedTokenizerBase, words: Words) -> Tensor:
    """1 where the printed text, tokenised again, is the same tokens, `[B]`."""
    again = tokenizer(printed(tokenizer, words), add_special_tokens=False)["input_ids"]
    return torch.tensor([float(a == b) for a, b in zip(again, token_lists(words), strict=True)])


def reread(config: ConsistencyLensConfig, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Words:
    """Texts that people typed or changed, as the encoder reads them: at most T tokens, none that is special."""
    length, never = config.code_length, {config.stop_id, *(config.never_ids or [])}
    # Tokenizers refuse a list of no texts.
    tokenized = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    rows = [[i for i in ids if i not in never] for ids in tokenized]
    cut = sum(len(row) > length for row in rows)
    if cut:
        logger.debug("%d of %d texts are longer than %d tokens: what follows is not read", cut, len(rows), length)
    ids = torch.tensor([row[:length] + [config.pad_id] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row[:length]) + [0] * (length - len(row)) for row in rows])
    return Words(ids.view(-1, length).long(), mask.view(-1, length).long())
