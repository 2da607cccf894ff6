"""`LensConfig`: what a lens is. It goes to the Hub, and nothing in it depends on the step it was saved at."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Self

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import CONFIG_NAME

from .. import hub
from ..errors import BadInput
from ..frozen import FrozenLM, FrozenModels, Provenance
from ..frozen.loading.provenance import NAME, PROVENANCE
from ..frozen.sites import SITE
from ..schema import (
    LARGEST_SCALE,
    LEAST_SCALE,
    Kind,
    Unfit,
    flag,
    many,
    maybe,
    named,
    no_other,
    one_of,
    plain,
    read_json,
    record,
    require,
    scale,
    text,
    whole,
)
from .family_card import FamilyCard

ONE_MODEL = "base"  # the name of the only model of a lens that names none
WIDEST = 1 << 20  # of a hidden state
SAVE_AGAIN = "Save it again with the version that made it, or fetch it again."
# transformers looks for whatever stands there in torch.
DTYPES = one_of("float64", "float32", "bfloat16", "float16")
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
    **dict.fromkeys(["transformers_version", "problem_type"], maybe(_WORD)),
    **dict.fromkeys(["dtype", "torch_dtype"], maybe(DTYPES)),
    **dict.fromkeys(["output_hidden_states", "output_attentions", "return_dict", "is_encoder_decoder"], flag),
    **dict.fromkeys(["use_cache", "tie_word_embeddings"], flag),
    "architectures": maybe(many(_WORD, most=8)),
    "chunk_size_feed_forward": whole(),
    "_name_or_path": text(longest=200),
}


_FIELDS_OF_THE_LIBRARY = {field.name for field in fields(PreTrainedConfig)}


@strict
class LensConfig(PreTrainedConfig):
    r"""
    Args:
        sites (`list[str]`): what the lens reads, in numbers (`resid_post.20`).
        writes (`list[str]`): where it writes; default where it reads.
        hidden_size (`int`): of the first model; also what DeepSpeed sizes its buckets by.
        provenance (`dict`): of the first model: id, weights, tokenizer, dtype. A lens used with another is refused.
        model_names (`list[str]`): of a lens of several models their names in order; None for one model.
        other_models (`dict[str, dict]`): the provenance of each model but the first, by name.
        activation_norm (`float`): mean norm of the training activations: rows are stored raw, scale lives here.
    """

    model_type = "lens"
    medium = ""  # of the code: the family's folder, and its key in the table of families
    card = FamilyCard()
    # Files of the family beside the weights, and patterns of those in a repository that loading a lens has no use for.
    own_files: ClassVar[tuple[str, ...]] = ()
    other_files: ClassVar[tuple[str, ...]] = ()

    sites: list[str] | None = None
    writes: list[str] | None = None
    hidden_size: int = 0
    provenance: dict[str, Any] | None = None
    model_names: list[str] | None = None
    other_models: dict[str, dict[str, Any]] | None = None
    activation_norm: float = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        require_norm("activation_norm", self.activation_norm)
        names, others = self.model_names or [ONE_MODEL], self.other_models or {}
        if sorted(names[1:]) != sorted(others) or names[0] in others:
            fix = "Name the model of `provenance` first, then each of `other_models` once."
            raise BadInput("model_names", self.model_names, fix, why=f"other_models has {sorted(others)}")
        super().__post_init__(**kwargs)

    @property
    def written(self) -> list[str]:
        """The sites that the lens writes."""
        return list((self.sites if self.writes is None else self.writes) or [])

    @classmethod
    def kinds(cls) -> dict[str, Kind]:
        """What the fields of a saved one may hold, beside those of `OF_A_LENS`; a family adds its own."""
        return {
            "activation_norm": scale(),
            "writes": maybe(many(SITE, most=4096)),
            "model_names": maybe(many(NAME, most=64, least=1)),
            "other_models": maybe(named(PROVENANCE, most=64)),
        }

    @classmethod
    def record(cls) -> Kind:
        """What a saved one may hold. A field of another name is refused: transformers would set it on the object, in
        the place of whatever has that name there."""
        own = {field.name: plain for field in fields(cls) if field.name not in _FIELDS_OF_THE_LIBRARY}
        known = {**own, **_OF_THE_LIBRARY, **cls.kinds()}
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
        cls.require_record(read_json(file, plain, "lens", str(place), SAVE_AGAIN), place)
        return super().from_pretrained(file.parent, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As of any configuration. What a lens is loaded with beside it stays with whoever loads it: `AutoModel` asks
        for the unused ones back, and would set a field of that name otherwise."""
        beside = {name: kwargs.pop(name) for name in ("subject",) if name in kwargs}
        found = super().from_dict(config_dict, **kwargs)
        return (found[0], found[1] | beside) if kwargs.get("return_unused_kwargs") else found

    @classmethod
    def require_record(cls, saved: Any, place: str | os.PathLike[str]) -> dict[str, Any]:
        """What a saved one says, as it is; raise unless a lens of this family can say that."""
        require(saved, cls.record(), "lens", str(place), SAVE_AGAIN, CONFIG_NAME)
        try:
            cls.require_consistent(saved)
        except Unfit as error:
            raise BadInput("lens", str(place), SAVE_AGAIN, why=f"{CONFIG_NAME}: {error}") from error
        return dict(saved)

    @classmethod
    def require_consistent(cls, saved: Mapping[str, Any]) -> None:
        """Raise `Unfit` where two fields of a saved configuration, each of its kind, do not go together."""

    @property
    def origin(self) -> Provenance:
        """The first model that the lens was made for."""
        assert self.provenance is not None, "a lens is made by its family's `from_subject`"
        return Provenance.from_dict(self.provenance)

    @property
    def origins(self) -> dict[str, Provenance]:
        """All models that the lens was made for, by name and in order."""
        first, *names = self.model_names or [ONE_MODEL]
        return {first: self.origin} | {name: Provenance.from_dict((self.other_models or {})[name]) for name in names}

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
    def own_tokenizer(self) -> bool:
        """Whether it reads with a tokenizer that is none of its models', and lies in its folder."""
        return False

    @property
    def part_origins(self) -> dict[str, Provenance]:
        """Of parts that start from a model beside those that the lens was made for: part -> that model. It is not
        needed any more."""
        return {}

    @property
    def relation(self) -> str:
        """To the model, as the Hub calls it: an `adapter` is nothing without its weights, a `finetune` holds a copy
        of them that was trained further."""
        return "adapter"

    @property
    def has_adapters(self) -> bool:
        """Whether adapters lie on the frozen model's own weights, so that no other lens can be trained there."""
        return False

    @classmethod
    def fields_of(cls, origins: Mapping[str, Provenance]) -> dict[str, Any]:
        """The fields that record these models: `provenance`, and of several also their names and the others."""
        (first, *names), records = origins, {name: origin.to_dict() for name, origin in origins.items()}
        if not names:
            return {"provenance": records[first]}
        others = {name: records[name] for name in names}
        return {"provenance": records[first], "model_names": [first, *names], "other_models": others}

    def require_subject(
        self, frozen: FrozenLM | Sequence[FrozenLM] | Mapping[str, FrozenLM], ignore: tuple[str, ...] = ()
    ) -> None:
        """Raise unless these are the models, tokenizers and sites that the lens was made for; both sides are shown.

        The only model of a lens may go by any name.
        """
        models = FrozenModels.of(frozen)
        if len(self.origins) > 1:
            models.require_same(self.origins, ignore=ignore)
            return
        models.only.provenance(*(self.sites or [])).require_same(self.origin, "the model", "the lens", ignore)


def require_norm(name: str, norm: float) -> None:
    """Raise unless activations can be divided by it."""
    if not LEAST_SCALE <= norm <= LARGEST_SCALE:
        fix = f"It has to be a number from {LEAST_SCALE:g} to {LARGEST_SCALE:g}: zeros, say, cannot be scaled."
        raise BadInput(name, norm, fix)
