"""`NaturalLanguageAutoencoder`: a pair of models that others have trained, as a text lens that can be measured.

The verbaliser writes `<explanation>...</explanation>` behind a chat prompt; what stands between the tags is the text.
The reconstructor reads it within a sentence of its own and restores a direction: it was trained on vectors of one
norm, so that the length of a restored vector is no part of the text. It gets one norm for all rows.

Shapes: N rows, T tokens of a text, d hidden size.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from ...errors import BadInput
from ...frozen import FrozenLM
from ..configuration import PLACEHOLDER, ConsistencyLensConfig
from ..controls import printed, reread
from ..modeling import ConsistencyLens
from ..parts.decoder_encoder import LensDecoder, LensEncoder
from ..parts.generation import Noise, Words
from ..parts.sites import At
from .sidecar import CHARACTER, EXPLANATION, Sidecar
from .weights import Part, reconstructor, verbaliser

LENGTH = 200  # tokens of what the verbaliser writes, tags among them: as its authors let it write
OPEN, CLOSE = "<explanation>", "</explanation>"
_READ_ONLY = "a lens of others is measured and used, and neither trained nor saved"


class NaturalLanguageAutoencoder(ConsistencyLens):
    """See the file.

    Args:
        config: whose prompt, injection and norms are those of the verbaliser.
        writes, reads: the two models.
        tokenizer: of the frozen model.
        sidecar: what they say of themselves.
        norm: of restored vectors; `scale_to` sets another.
    """

    def __init__(
        self,
        config: ConsistencyLensConfig,
        writes: Part,
        reads: Part,
        tokenizer: PreTrainedTokenizerBase,
        sidecar: Sidecar,
        norm: float,
    ) -> None:
        super().__init__(config, writes.lm, reads.lm, tokenizer)
        self.decoder = _Verbaliser(config, writes.lm, tokenizer)
        self.encoder = _Reconstructor(config, reads, tokenizer, sidecar, norm)
        self.requires_grad_(False)

    @classmethod
    def open(
        cls, sidecar: Sidecar, writes: Path, reads: Path, frozen: FrozenLM, code_length: int = LENGTH
    ) -> NaturalLanguageAutoencoder:
        """Raise unless both parts fit the model, its tokenizer and each other.

        Args:
            sidecar: of the two.
            writes, reads: folders of the verbaliser and of the reconstructor.
            frozen: the model that they were made for.
            code_length: the most tokens that the verbaliser writes.
        """
        if sidecar.size != frozen.hidden_size or sidecar.layer >= frozen.num_layers:
            why = f"it is of vectors of size {sidecar.size} at block {sidecar.layer}"
            has = f"{frozen.model_id} has {frozen.num_layers} blocks of size {frozen.hidden_size}"
            raise BadInput("subject", frozen.model_id, "Give the model that it was made for.", f"{why}; {has}")
        ids, token = sidecar.prompt_ids(frozen.tokenizer)
        config = _configured(sidecar, frozen, ids, token, code_length)
        norm = _usual_norm(frozen, ids, config.only_site)
        parts = verbaliser(writes, frozen), reconstructor(reads, frozen, sidecar.layer + 1)
        lens = cls(config, *parts, frozen.tokenizer, sidecar, norm)
        lens.subject = frozen
        return lens.to(frozen.device).eval()

    def scale_to(self, norm: float) -> None:
        """Restore directions at this norm, such as that of training activations."""
        self.encoder.norm = norm

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        fix = "Keep the files that it was read from."
        raise BadInput("save_directory", str(save_directory), fix, why=_READ_ONLY)


class _Verbaliser(LensDecoder):
    def __init__(self, config: ConsistencyLensConfig, lm: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(config, lm)
        self.tokenizer = tokenizer
        self.opening = tokenizer(OPEN, add_special_tokens=False)["input_ids"]

    @torch.no_grad()
    def write(self, activations: Tensor, noise: Noise, at: At = -1) -> Words:
        """What stands between the tags, in the tokens that a reader of the printed text would find."""
        written = printed(self.tokenizer, super().write(activations, noise, at))
        return reread(self.config, self.tokenizer, [between(text) for text in written]).to(activations.device)

    def score(self, activations: Tensor, words: Words, at: At = -1) -> Tensor:
        """Behind the opening tag."""
        opening = torch.tensor(self.opening, device=words.ids.device).expand(len(words), -1)
        whole = Words(torch.cat([opening, words.ids], 1), torch.cat([torch.ones_like(opening), words.mask], 1))
        return super().score(activations, whole, at)[:, len(self.opening) :]


class _Reconstructor(LensEncoder):
    def __init__(
        self,
        config: ConsistencyLensConfig,
        part: Part,
        tokenizer: PreTrainedTokenizerBase,
        sidecar: Sidecar,
        norm: float,
    ) -> None:
        super().__init__(config, part.lm)
        assert part.head is not None
        self.map.weight.data = part.head.float()
        self.tokenizer, self.template, self.norm = tokenizer, sidecar.reading, norm
        self.started_text = sidecar.scale is not None  # with the token that begins a text, where there is one

    def forward(self, words: Words, embedded: Tensor | None = None, at: At = -1) -> Tensor:
        if embedded is not None:
            raise BadInput("estimator", "straight-through", "Train a lens of your own.", why=_READ_ONLY)
        texts = [self.template.replace(EXPLANATION, text) for text in printed(self.tokenizer, words)]
        ids = self.tokenizer(texts, add_special_tokens=self.started_text)["input_ids"]
        last = torch.tensor([len(row) - 1 for row in ids], device=words.ids.device)
        # Padded on the right: nothing looks to the right.
        padded = pad_sequence([torch.tensor(row) for row in ids], batch_first=True).to(words.ids.device)
        return F.normalize(self.restored(self.embed(padded), last, at), dim=-1) * self.norm


def between(text: str) -> str:
    """What stands between the tags; up to the end where the closing one is missing, and all without the first."""
    found = re.search(rf"{OPEN}(.*?)(?:{CLOSE}|$)", text, re.DOTALL)
    return (found[1] if found else text).strip()


def _configured(
    sidecar: Sidecar, frozen: FrozenLM, ids: list[int], token: int, code_length: int
) -> ConsistencyLensConfig:
    """A text lens with the verbaliser's prompt; the maps stay the identity, but for the reconstructor's head."""
    overwrites = sidecar.scale is not None
    injection = "embedding" if overwrites else "residual"
    plain = ConsistencyLensConfig.for_subject(
        frozen, f"resid_post.{sidecar.layer}", injection=injection, code_length=code_length, trainable="full"
    )
    prompt = sidecar.prompt.replace(PLACEHOLDER, "").replace(CHARACTER, PLACEHOLDER)
    asked = {"prompt": prompt, "prompt_ids": ids, "placeholder_id": token}
    norm = {"embedding_norm": sidecar.scale} if overwrites else {}
    config: ConsistencyLensConfig = ConsistencyLensConfig.from_dict(plain.to_dict() | asked | norm)
    config.require_room(frozen.max_length)
    around = len(frozen.tokenizer(sidecar.reading)["input_ids"])
    if around + code_length > frozen.max_length:
        fix = f"Use at most {max(0, frozen.max_length - around)}."
        why = f"the model takes {frozen.max_length} tokens, and what is read round a text has {around}"
        raise BadInput("code_length", code_length, fix, why)
    return config


@torch.no_grad()
def _usual_norm(frozen: FrozenLM, ids: list[int], site: str) -> float:
    """The middle one of the norms at the tokens of its own prompt: what serves until rows are there to be asked."""
    found = frozen.read({"input_ids": torch.tensor([ids])}, site)[site]
    return float(found.float().norm(dim=-1).median())
