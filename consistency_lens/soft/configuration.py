"""`LatentWireConfig`: how many vectors of which size, what compresses, who reads them, and what stands around them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub.dataclasses import strict

from ..base.configuration import DTYPES, WIDEST, LensConfig
from ..errors import BadInput
from ..frozen import FrozenLM, FrozenModels, Provenance
from ..frozen.loading.provenance import NAME, PROVENANCE
from ..schema import Kind, flag, many, maybe, named, number, one_of, record, scale, text, whole
from .bytes.quantising import BITS, require_bits, require_group
from .card import WIRE_CARD

STARTS, POOLINGS, BOS = ("lm", "byte"), ("contiguous", "learned"), ("auto", "always", "never")
ACTIVATIONS = ("none", "gelu", "silu", "tanh")  # of adapters
_LEFT_OUT = ("_name_or_path", "name_or_path", "transformers_version", "id2label", "label2id")
_TEXTS = maybe(named(text(longest=1 << 12), most=64))
# Of the compressor's configuration what decides how large a model is built from it.
_BACKBONE = record(
    {"model_type": text(r"[\w.-]{1,64}", "the name of an architecture")},
    {
        **dict.fromkeys(["num_hidden_layers", "n_layer"], maybe(whole(1, 1024))),
        **dict.fromkeys(["num_attention_heads", "num_key_value_heads", "n_head"], maybe(whole(1, 4096))),
        **dict.fromkeys(["hidden_size", "n_embd", "intermediate_size", "n_inner"], maybe(whole(1, WIDEST))),
        "vocab_size": whole(1, 1 << 24),
        **dict.fromkeys(["dtype", "torch_dtype"], maybe(DTYPES)),
        **dict.fromkeys(["max_position_embeddings", "n_positions"], maybe(whole(1, 1 << 28))),
    },
)


@strict
class LatentWireConfig(LensConfig):
    r"""
    Args:
        slots (`int`): M, how many vectors stand for a passage; a passage of fewer tokens has one for each of them.
        ratio (`float`): tokens per vector, in the place of `slots`: a longer passage then has more vectors.
        d_z (`int`): size of a vector.
        nested (`list[int]`): smaller sizes of a vector that the lens serves, too: its first coordinates, alone. Each
            step of training draws one of all sizes.
        start (`str`): what the compressor starts from: `lm`, the first layers of a language model; `byte`, a new
            transformer over the bytes of the passage.
        compressor (`dict`): configuration of that language model.
        compressor_model (`str`): with `lm`, the receiver whose layers these were, and whose tokens the compressor
            reads; None where they were those of another model.
        compressor_origin (`dict`): the provenance of that other model. Its tokenizer lies in the lens's folder, and
            the model itself is not needed any more.
        compressor_lora_rank (`int`): rank of adapters on all linear layers of that model, which then stays as it was;
            None trains all of it.
        compressor_rms (`float`): root mean square of the compressor's embeddings, by which they are divided.
        causal (`bool`): whether a token of the passage is compressed without those behind it.
        pooling (`str`): `contiguous`: as many runs of neighbouring tokens as there are vectors, and the mean of a run
            is the query of its vector; `learned`: queries that are the same for all passages, with `slots`.
        receivers (`list[str]`): the names of the models that read the code, in order.
        widths (`list[int]`): hidden size of each.
        embedding_rms (`list[float]`): root mean square of each one's embeddings, as they enter its blocks.
        calibrate (`bool`): whether the vectors of each passage are brought to exactly that root mean square.
        activation (`str`): `none`: adapters are two linear layers; `gelu`, `silu` or `tanh` between them, beside the
            linear path and with a factor that starts at 0.
        modes (`list[str]`): tasks with a soft token of their own behind the vectors of a passage.
        preamble (`str`): text in front of the vectors, behind the BOS; they then stand inside a prompt.
        opening (`dict[str, str]`): task -> text between passage and prompt; None as `PromptFormat` has it.
        anchor (`dict[str, str]`): task -> text between prompt and answer; None as `PromptFormat` has it.
        max_answer_tokens (`int`): where answers are cut; None for whole ones.
        answer_choice (`dict[str, int]`): receiver -> which of the accepted answers it learns, from 0; those that are
            not named learn the first.
        bos (`str`): whether a BOS stands in front of the vectors: `auto`, as the tokenizer has it; `always`; `never`.
        bits (`int`): 16 (float16), 8, 6 or 4 for each coordinate of a vector; training counts on them, too.
        group (`int`): with 8, 6 and 4 bits, how many coordinates share a scale.
    """

    model_type = "latent_wire"
    medium = "soft"
    card = WIRE_CARD

    slots: int | None = None
    ratio: float | None = None
    d_z: int = 64
    nested: list[int] | None = None
    start: str = "lm"
    compressor: dict[str, Any] | None = None
    compressor_model: str | None = None
    compressor_origin: dict[str, Any] | None = None
    compressor_lora_rank: int | None = None
    compressor_rms: float = 1.0
    causal: bool = False
    pooling: str = "contiguous"
    receivers: list[str] | None = None
    widths: list[int] | None = None
    embedding_rms: list[float] | None = None
    calibrate: bool = True
    activation: str = "none"
    modes: list[str] | None = None
    preamble: str | None = None
    opening: dict[str, str] | None = None
    anchor: dict[str, str] | None = None
    max_answer_tokens: int | None = None
    answer_choice: dict[str, int] | None = None
    bos: str = "auto"
    bits: int = 16
    group: int = 32

    def __post_init__(self, **kwargs: Any) -> None:
        if self.compressor is not None:
            self.compressor = _without_places(self.compressor)
        for name, known in (("start", STARTS), ("pooling", POOLINGS), ("bos", BOS), ("activation", ACTIVATIONS)):
            if vars(self)[name] not in known:
                raise BadInput(name, vars(self)[name], f"Use one of {', '.join(known)}.")
        self._require_rate()
        for size in self.nested or []:
            if not 1 <= size < self.d_z:
                raise BadInput("nested", self.nested, f"Use sizes from 1 to {self.d_z - 1}, below d_z.")
        if self.compressor_lora_rank is not None and not (self.compressor_lora_rank >= 1 and self.start == "lm"):
            fix = "Use 1 or more, with start='lm': a new transformer has nothing that could stay as it was."
            raise BadInput("compressor_lora_rank", self.compressor_lora_rank, fix)
        require_bits(self.bits)
        require_group(self.group, self.d_z, self.bits)
        self._require_receivers()
        if len(set(self.modes or [])) != len(self.modes or []):
            raise BadInput("modes", self.modes, "Name each task once.")
        if self.max_answer_tokens is not None and self.max_answer_tokens < 1:
            raise BadInput("max_answer_tokens", self.max_answer_tokens, "Use 1 or more, or None.")
        super().__post_init__(**kwargs)

    @classmethod
    def kinds(cls) -> dict[str, Kind]:
        """Of a saved one; what they mean for one another is checked when it is made."""
        return {
            **super().kinds(),
            "slots": maybe(whole(1, 1 << 20)),
            "ratio": maybe(number(least=1)),
            "d_z": whole(1, (1 << 16) - 1),
            "nested": maybe(many(whole(1, (1 << 16) - 1), most=64)),
            "compressor_lora_rank": maybe(whole(1, 1 << 16)),
            "start": one_of(*STARTS),
            "compressor": maybe(_BACKBONE),
            "compressor_model": maybe(NAME),
            "compressor_origin": maybe(PROVENANCE),
            "compressor_rms": scale(),
            **dict.fromkeys(["causal", "calibrate"], flag),
            "pooling": one_of(*POOLINGS),
            "receivers": maybe(many(NAME, most=64)),
            "widths": maybe(many(whole(1, WIDEST), most=64)),
            "embedding_rms": maybe(many(scale(), most=64)),
            "modes": maybe(many(NAME, most=64)),
            "preamble": maybe(text(longest=1 << 12)),
            **dict.fromkeys(["opening", "anchor"], _TEXTS),
            "max_answer_tokens": maybe(whole(1, 1 << 20)),
            "answer_choice": maybe(named(whole(0, 1 << 20), most=64)),
            "bos": one_of(*BOS),
            "activation": one_of(*ACTIVATIONS),
            "bits": whole(min(BITS), max(BITS)),
            "group": whole(1, (1 << 16) - 1),
        }

    def _require_rate(self) -> None:
        if (self.slots is None) is (self.ratio is None):
            shown = {"slots": self.slots, "ratio": self.ratio}
            raise BadInput("slots", shown, "Give one of them: so many vectors, or so many tokens per vector.")
        if self.slots is not None and self.slots < 1:
            raise BadInput("slots", self.slots, "Use 1 or more.")
        if self.ratio is not None:
            require_ratio(self.ratio)
        if self.pooling == "learned" and self.slots is None:
            why = "there are as many learned queries as vectors, whatever the length"
            raise BadInput("pooling", "learned", "Give slots, or use pooling='contiguous'.", why=why)

    def _require_receivers(self) -> None:
        names = self.receivers or []
        if len(set(names)) != len(names):
            raise BadInput("receivers", names, "Name each model once.")
        for name in ("widths", "embedding_rms"):
            given = vars(self)[name] or []
            if len(given) != len(names):
                raise BadInput(name, given, f"Give one for each of the {len(names)} receivers.")
        for name in self.answer_choice or {}:
            if name not in names:
                raise BadInput("answer_choice", name, f"Name one of {', '.join(names) or 'the receivers'}.")
        self._require_source(names)

    def _require_source(self, names: Sequence[str]) -> None:
        for field in ("compressor_model", "compressor_origin"):
            if self.start == "byte" and vars(self)[field] is not None:
                require_no_source(field, vars(self)[field])
        if self.compressor_origin is not None and self.compressor_model is not None:
            why = "it starts from a receiver or from another model, not from both"
            raise BadInput("compressor_origin", self.compressor_origin, "Leave out one of the two.", why=why)
        if names and self.start == "lm" and self.compressor_origin is None and self.compressor_model not in names:
            raise BadInput("compressor_model", self.compressor_model, f"Name one of {', '.join(names)}.")

    @property
    def own_tokenizer(self) -> bool:
        return self.compressor_origin is not None

    @property
    def part_origins(self) -> dict[str, Provenance]:
        return {"compressor": Provenance.from_dict(self.compressor_origin)} if self.compressor_origin else {}

    @property
    def names(self) -> list[str]:
        """Of the receivers, in order."""
        return list(self.receivers or [])

    @property
    def sizes(self) -> list[int]:
        """Sizes of a vector that the lens serves, its own first."""
        return [self.d_z, *(self.nested or [])]

    def require_size(self, size: int | None) -> int:
        """One of these; None is its own."""
        if size is None:
            return self.d_z
        if size not in self.sizes:
            fix = f"Use {' or '.join(map(str, self.sizes))}."
            raise BadInput("size", size, fix, why="the lens was made for no other sizes of a vector")
        return size

    @property
    def weight_files(self) -> list[str]:
        return [*super().weight_files, "compressor/model.safetensors"]

    @property
    def part_folders(self) -> tuple[str, ...]:
        return ("compressor",)

    @property
    def code_in_words(self) -> str:
        many = "each token" if self.ratio == 1 else f"every {self.ratio:g} tokens" if self.ratio else ""
        count = f"one vector for {many}," if many else f"{self.slots} vectors"
        return f"{count} of {self.d_z} numbers, {self.bits} bits each"

    def require_subject(
        self, frozen: FrozenLM | Sequence[FrozenLM] | Mapping[str, FrozenLM], ignore: tuple[str, ...] = ()
    ) -> None:
        """As of every lens; and a single receiver goes by the name that the lens knows, too."""
        models = FrozenModels.of(frozen)
        models.require_names(self.names)
        super().require_subject(models, ignore)


def require_ratio(ratio: float) -> None:
    """Raise unless so many tokens can stand for one vector."""
    if not 1 <= ratio < math.inf:
        raise BadInput("ratio", ratio, "Use 1 (a vector for each token) or more.")


def require_no_source(field: str, given: Any) -> None:
    """Raise where a compressor of bytes is given a model to start from."""
    why = "a compressor of bytes reads with no model's tokenizer"
    raise BadInput(field, given, "Leave it out, or use start='lm'.", why=why)


def _without_places(found: Any) -> Any:
    """A configuration without where its model lay, by what it was loaded, and labels that no language model has."""
    if not isinstance(found, dict):
        return found
    return {name: _without_places(value) for name, value in found.items() if name not in _LEFT_OUT}
