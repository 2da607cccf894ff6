"""`LensConfig`: what a lens is. It goes to the Hub, and nothing in it depends on the step it was saved at."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..errors import BadInput
from ..frozen import FrozenLM, Provenance
from .family_card import FamilyCard


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
    card = FamilyCard()

    sites: list[str] | None = None
    hidden_size: int = 0
    provenance: dict[str, Any] | None = None
    activation_norm: float = 1.0

    @property
    def origin(self) -> Provenance:
        """What the lens was made for."""
        assert self.provenance is not None, "a lens is made by its family's `from_subject`"
        return Provenance.from_dict(self.provenance)

    @property
    def only_site(self) -> str:
        """The site of a lens that reads exactly one."""
        if not self.sites or len(self.sites) != 1:
            raise BadInput("sites", list(self.sites or []), "This lens reads exactly one site.")
        return self.sites[0]

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
