"""`LensConfig`: what a lens is. It goes to the Hub, and nothing in it depends on the step it was saved at."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import CONFIG_NAME

from .. import hub
from ..errors import BadInput
from ..frozen import FrozenLM, Provenance
from ..frozen.provenance import PROVENANCE
from ..frozen.sites import SITE
from ..schema import Kind, Unfit, flag, many, maybe, no_other, number, one_of, read_json, record, text, whole

WIDEST = 1 << 20  # of a hidden state
SAVE_AGAIN = "Save it again with the version that made it, or fetch it again."
_WORD = text(r"[\w.+-]{1,64}", "a name of at most 64 letters")
# Of every lens: what settles which one it is.
OF_A_LENS: dict[str, Kind] = {
    "model_type": _WORD,
    "sites": many(SITE, most=4096, least=1),
    "hidden_size": whole(1, WIDEST),
    "provenance": PROVENANCE,
}
# What transformers writes beside our own fields.
_OF_THE_LIBRARY: dict[str, Kind] = {
    **dict.fromkeys(["transformers_version", "dtype", "torch_dtype", "problem_type"], maybe(_WORD)),
    **dict.fromkeys(["output_hidden_states", "output_attentions", "return_dict", "is_encoder_decoder"], flag),
    **dict.fromkeys(["use_cache", "tie_word_embeddings"], flag),
    "architectures": maybe(many(_WORD, most=8)),
    "chunk_size_feed_forward": whole(),
    "_name_or_path": text(longest=200),
}


@strict
class LensConfig(PreTrainedConfig):
    r"""
    Args:
        sites (`list[str]`): where the lens reads and writes, in numbers (`resid_post.20`).
        hidden_size (`int`): of the subject; also what DeepSpeed sizes its buckets by.
        provenance (`dict`): of the subject: id, weights, tokenizer, dtype. A lens used with another one is refused.
        activation_norm (`float`): mean norm of the training activations: rows are stored raw, scale lives here.
    """

    model_type = "lens"
    medium = ""  # of the code: "text", "sparse" or "soft"

    sites: list[str] | None = None
    hidden_size: int = 0
    provenance: dict[str, Any] | None = None
    activation_norm: float = 1.0

    @classmethod
    def kinds(cls) -> dict[str, Kind]:
        """What the fields of a saved one may hold, beside those of `OF_A_LENS`; a family adds its own."""
        return {"activation_norm": number(above=0)}

    @classmethod
    def record(cls) -> Kind:
        """What a saved one may hold. A field of another name is refused: transformers would set it on the object, in
        the place of whatever has that name there."""
        known = {**_OF_THE_LIBRARY, **cls.kinds()}
        return record(OF_A_LENS, {**known, "model_type": one_of(cls.model_type)}, rest=no_other)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, place: str | os.PathLike[str], revision: str | None = None, token: str | None = None, **kwargs: Any
    ) -> Self:
        """The configuration of a lens, from its folder or from the Hub, checked field by field before any of it is
        used."""
        file = Path(place) / CONFIG_NAME
        if not Path(place).is_dir():
            file = hub.download_file(str(place), CONFIG_NAME, revision, token)
        said = read_json(file, cls.record(), "lens", str(place), SAVE_AGAIN)
        try:
            cls.require_consistent(said)
        except Unfit as error:
            raise BadInput("lens", str(place), SAVE_AGAIN, why=f"{CONFIG_NAME}: {error}") from error
        return super().from_pretrained(file.parent, **kwargs)

    @classmethod
    def require_consistent(cls, said: Mapping[str, Any]) -> None:
        """Raise `Unfit` where two fields of a saved configuration, each of its kind, do not go together."""

    @property
    def origin(self) -> Provenance:
        """What the lens was made for."""
        assert self.provenance is not None, "a lens is made by its family's `from_subject`"
        return Provenance.from_dict(self.provenance)

    @property
    def code_in_words(self) -> str:
        """The size of a code, for people: "at most 8 tokens of text"."""
        raise NotImplementedError

    @property
    def weight_files(self) -> list[str]:
        """What has to lie in the folder of a lens; a family with parts adds theirs."""
        return ["model.safetensors"]

    @property
    def part_folders(self) -> tuple[str, ...]:
        """Where parts have their weights; a family with parts says so."""
        return ()

    @property
    def relation(self) -> str:
        """To the subject, as the Hub calls it: an `adapter` is nothing without its weights, a `finetune` holds a copy
        of them that was trained further."""
        return "adapter"

    def require_subject(self, frozen: FrozenLM, ignore: tuple[str, ...] = ()) -> None:
        """Raise unless this is the model, tokenizer and site that the lens was made for; both sides are shown."""
        frozen.provenance(*(self.sites or [])).require_same(self.origin, "the model", "the lens", ignore)
