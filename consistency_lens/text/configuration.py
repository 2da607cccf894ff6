"""`ConsistencyLensConfig`: which subject, how long the words are, what the decoder is asked, where A enters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedTokenizerBase

from ..base.configuration import LensConfig, require_norm
from ..errors import BadInput
from ..frozen import FrozenLM, FrozenModels
from ..frozen.sites import resolve_sites
from ..schema import Kind, Unfit, many, maybe, one_of, record, scale, text, whole
from .card import TEXT_CARD

PLACEHOLDER = "<A>"
TRAINABLE = ("projections", "lora", "full")
INJECTIONS = ("embedding", "residual")
LONGEST = 1 << 16  # tokens of a prompt or of a text: longer ones no model of ours takes
_PLACES = ("_name_or_path", "name_or_path")
_TOKEN = whole(0, 1 << 24)
# Of the frozen model's configuration what decides how large a model is built from it.
_SIZES = {
    **dict.fromkeys(["num_hidden_layers", "n_layer", "num_layers", "n_layers"], maybe(whole(1, 1024))),
    **dict.fromkeys(["num_attention_heads", "num_key_value_heads", "n_head"], maybe(whole(1, 4096))),
    **dict.fromkeys(["hidden_size", "n_embd", "d_model", "intermediate_size", "n_inner"], maybe(whole(1, 1 << 20))),
    **dict.fromkeys(["vocab_size"], whole(1, 1 << 24)),
    **dict.fromkeys(["max_position_embeddings", "n_positions"], maybe(whole(1, 1 << 28))),
}
_SUBJECT = record(
    {"model_type": text(r"[\w.-]{1,64}", "the name of an architecture")},
    {**_SIZES, "text_config": maybe(record({}, _SIZES))},
)


@strict
class ConsistencyLensConfig(LensConfig):
    r"""
    Args:
        subject (`dict`): configuration of the frozen model, from which both parts are built.
        code_length (`int`): T, the most tokens that an explanation may have.
        prompt (`str`): what the decoder is asked; `<A>` in it is where the activation enters.
        prompt_ids (`list[int]`): the prompt as tokens, `placeholder_id` where the activation enters.
        placeholder_id (`int`): a token that occurs once in `prompt_ids`.
        start_id, stop_id, pad_id (`int`): what a text starts with for the encoder, ends with, is filled up with.
        never_ids (`list[int]`): tokens that the decoder never writes: special ones, and ids beyond the tokenizer.
        injection (`str`): `embedding` overwrites the placeholder's embedding with the mapped activation, at the norm
            of the model's embeddings; `residual` adds it to the placeholder after the first two layers, at the norm
            that is there.
        embedding_norm (`float`): mean norm of the frozen model's embeddings.
        trainable (`str`): `full`: both parts are clones of the model; `lora`: both are adapters on the model's own
            weights; `projections`: the frozen model's weights untouched, only the maps are trained.
        encoder_trainable (`str`): the same for the encoder alone; default as the decoder.
        lora_rank, lora_alpha (`int`): of the adapters, on all linear layers of the blocks.
        site_norms (`list[float]`): of a lens that reads any of several sites, what `activation_norm` is of a single
            one: the scale of each, in the order of `sites`.
    """

    model_type = "consistency_lens"
    medium = "text"
    card = TEXT_CARD

    subject: dict[str, Any] | None = None
    code_length: int = 8
    prompt: str = f"short explanation of {PLACEHOLDER} :"
    prompt_ids: list[int] | None = None
    placeholder_id: int = 0
    start_id: int = 0
    stop_id: int = 0
    pad_id: int = 0
    never_ids: list[int] | None = None
    injection: str = "embedding"
    embedding_norm: float = 1.0
    trainable: str = "full"
    encoder_trainable: str | None = None
    lora_rank: int = 16
    lora_alpha: int = 32
    site_norms: list[float] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.code_length < 1:
            raise BadInput("code_length", self.code_length, "Give the explanation at least one token.")
        if self.trainable not in TRAINABLE:
            raise BadInput("trainable", self.trainable, f"Use one of {', '.join(TRAINABLE)}.")
        if self.encoder_trainable not in (None, *TRAINABLE):
            raise BadInput("encoder_trainable", self.encoder_trainable, f"Use one of {', '.join(TRAINABLE)}.")
        for name in ("lora_rank", "lora_alpha"):
            if vars(self)[name] < 1:
                raise BadInput(name, vars(self)[name], "Use 1 or more.")
        require_norm("embedding_norm", self.embedding_norm)
        several = self.site_norms is not None or len(self.sites or []) > 1
        if several and len(self.site_norms or []) != len(self.sites or []):
            fix = f"Give one for each of {', '.join(self.sites or [])}."
            raise BadInput("site_norms", self.site_norms, fix, why="a lens of several sites has a scale for each")
        for norm in self.site_norms or []:
            require_norm("site_norms", norm)
        if self.injection not in INJECTIONS:
            raise BadInput("injection", self.injection, f"Use one of {', '.join(INJECTIONS)}.")
        if self.prompt.count(PLACEHOLDER) != 1:
            raise BadInput("prompt", self.prompt, f"Write {PLACEHOLDER} once, where the activation enters.")
        if self.prompt_ids is not None and self.prompt_ids.count(self.placeholder_id) != 1:
            raise BadInput("prompt_ids", self.prompt_ids, "The placeholder has to occur exactly once.")
        if self.subject is not None:
            self.subject = _without_places(self.subject)
        if self.encoder_trainable is None:
            self.encoder_trainable = self.trainable
        super().__post_init__(**kwargs)

    @classmethod
    def kinds(cls) -> dict[str, Kind]:
        return {
            **super().kinds(),
            "subject": maybe(_SUBJECT),
            "code_length": whole(1, LONGEST),
            "prompt": text(longest=LONGEST),
            "prompt_ids": maybe(many(_TOKEN, most=LONGEST, least=1)),
            **dict.fromkeys(["placeholder_id", "start_id", "stop_id", "pad_id"], _TOKEN),
            "never_ids": maybe(many(_TOKEN)),
            "injection": one_of(*INJECTIONS),
            "embedding_norm": scale(),
            "trainable": one_of(*TRAINABLE),
            "encoder_trainable": maybe(one_of(*TRAINABLE)),
            "lora_rank": whole(1, 1 << 16),
            "lora_alpha": whole(1, 1 << 16),
            "site_norms": maybe(many(scale(), most=4096, least=1)),
        }

    @classmethod
    def require_consistent(cls, saved: Mapping[str, Any]) -> None:
        """Tokens are those of the frozen model, and scales those of the sites."""
        sites, norms = saved.get("sites") or [], saved.get("site_norms")
        if len(sites) != (len(norms) if norms else 1) or len(set(sites)) != len(sites):
            raise Unfit("site_norms", norms, f"one for each of its {len(sites)} sites, no two of them the same")
        subject = saved.get("subject") or {}
        sizes = {**subject, **(subject.get("text_config") or {})}
        vocabulary = sizes.get("vocab_size")
        for name in ("prompt_ids", "never_ids", "placeholder_id", "start_id", "stop_id", "pad_id"):
            given = saved.get(name) or 0
            highest = max(given, default=0) if isinstance(given, list) else given
            if vocabulary is not None and highest >= vocabulary:
                raise Unfit(name, highest, f"tokens of its frozen model, which has {vocabulary}")

    @classmethod
    def for_subject(cls, frozen: FrozenLM, site: str | Sequence[str], **settings: Any) -> ConsistencyLensConfig:
        """The configuration of a lens for a site of a frozen model, or for any of several; `settings` are the fields
        that are free."""
        sites = [str(each) for each in resolve_sites(site, frozen.num_layers)]
        for each in sites:
            require_site(each)
        named = [str(frozen.site(each)) for each in ([site] if isinstance(site, str) else site)]
        if settings.get("site_norms") and named != sites:
            fix = f"Name the sites in the order of the forward pass: {', '.join(sites)}."
            raise BadInput("site_norms", settings["site_norms"], fix, why=f"they are given for {', '.join(named)}")
        if len(sites) > 1:
            settings.setdefault("site_norms", [1.0] * len(sites))
        require_injection(str(settings.get("injection", cls.injection)), frozen.num_layers)
        tokens = frozen.tokenizer
        start_id, stop_id = ends_of(tokens, frozen.model_id)
        special = {i for i in tokens.all_special_ids if i != stop_id} | set(range(len(tokens), frozen.vocab_size))
        special |= {i for i, token in tokens.added_tokens_decoder.items() if token.special and i != stop_id}
        prompt = str(settings.get("prompt", cls.prompt))
        if prompt.count(PLACEHOLDER) != 1:
            raise BadInput("prompt", prompt, f"Write {PLACEHOLDER} once, where the activation enters.")
        # Tokenised apart: what stands beside the placeholder must not merge with it.
        before, after = (tokens(part.strip(), add_special_tokens=False)["input_ids"] for part in _cut(prompt))
        placeholder_id = next(i for i in range(frozen.vocab_size) if i not in {start_id, *before, *after})
        config = cls(
            sites=sites,
            hidden_size=frozen.hidden_size,
            provenance=frozen.provenance(*sites).to_dict(),
            subject=frozen.model.config.to_dict(),
            prompt_ids=[start_id, *before, placeholder_id, *after],
            placeholder_id=placeholder_id,
            start_id=start_id,
            stop_id=stop_id,
            pad_id=_first(tokens.pad_token_id, stop_id),
            never_ids=sorted(i for i in special if i < frozen.vocab_size),
            embedding_norm=_embedding_norm(frozen),
            **settings,
        )
        config.require_room(frozen.max_length)
        return config

    def require_subject(self, frozen: Any, ignore: tuple[str, ...] = ()) -> None:
        super().require_subject(frozen, ignore)
        self.require_room(FrozenModels.of(frozen).first.max_length)

    def require_room(self, room: int) -> None:
        """Raise where the prompt and the longest text do not fit into what the model takes."""
        asked = len(self.prompt_ids or [])
        if asked + self.code_length > room:
            why = f"the model takes {room} tokens, and the prompt has {asked}"
            raise BadInput("code_length", self.code_length, f"Use at most {max(0, room - asked)}.", why)

    @property
    def code_in_words(self) -> str:
        return f"at most {self.code_length} tokens of text"

    def kind_of(self, part: str) -> str:
        """How much of the frozen model's weights `decoder` or `encoder` makes its own."""
        return self.trainable if part == "decoder" else str(self.encoder_trainable)

    @property
    def weight_files(self) -> list[str]:
        """What has to lie in the folder of a lens."""
        names = {"full": "model.safetensors", "lora": "adapter_model.safetensors"}
        kinds = [(part, self.kind_of(part)) for part in self.part_folders]
        return [*super().weight_files, *(f"{part}/{names[kind]}" for part, kind in kinds if kind in names)]

    @property
    def part_folders(self) -> tuple[str, ...]:
        return ("decoder", "encoder")

    @property
    def relation(self) -> str:
        return "finetune" if "full" in map(self.kind_of, self.part_folders) else "adapter"

    @property
    def has_adapters(self) -> bool:
        return "lora" in map(self.kind_of, self.part_folders)

    @property
    def origin_site(self) -> str:
        """Of a lens that reads one, its site; of several the deepest, which is read where none is named."""
        assert self.sites is not None
        return self.sites[-1]

    @property
    def norms(self) -> list[float]:
        """The scale of each site."""
        return [self.activation_norm] if self.site_norms is None else self.site_norms


def _without_places(record: Any) -> Any:
    """A configuration without where its model lay on the machine that loaded it: that is in it for the library."""
    if not isinstance(record, dict):
        return record
    return {name: _without_places(value) for name, value in record.items() if name not in _PLACES}


def require_site(site: str) -> None:
    """Raise where there is nothing to say of a site."""
    if site == "embed":
        fix = "Name a site of a layer, such as resid_post.1."
        raise BadInput("site", site, fix, why="embeddings are single tokens")


def require_injection(injection: str, layers: int) -> None:
    """Raise where the activation cannot enter a model of so many layers so."""
    if injection == "residual" and layers < 2:
        why = "it adds the activation behind the second layer, and the model has one"
        raise BadInput("injection", "residual", "Use embedding.", why)


def ends_of(tokenizer: PreTrainedTokenizerBase, model: str) -> tuple[int, int]:
    """The tokens that a text starts and ends with; raise where a tokenizer has none."""
    start_id = _first(tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    stop_id = _first(tokenizer.eos_token_id, tokenizer.pad_token_id)
    if start_id is None or stop_id is None:
        raise BadInput("tokenizer", model, "Give the tokenizer a token that ends a text (eos_token).")
    return start_id, stop_id


def _first(*ids: int | None) -> Any:
    return next((i for i in ids if i is not None), None)


def _cut(prompt: str) -> tuple[str, str]:
    before, _, after = prompt.partition(PLACEHOLDER)
    return before, after


@torch.no_grad()
def _embedding_norm(frozen: FrozenLM) -> float:
    # As the embedding gives them out: some scale their table. A part at a time: tables may be large.
    ids = torch.arange(min(len(frozen.tokenizer), frozen.vocab_size), device=frozen.device)
    norms = [frozen.model.get_input_embeddings()(part).float().norm(dim=-1) for part in ids.split(8192)]
    return float(torch.cat(norms).mean())
