"""Where the parts of a frozen LLM lie: the only file that knows how architectures name them.

The blocks are found in the module tree. Where attention and the MLP write is either a row of `ANATOMY`, written by
hand, or `proving.prove` finds it by a short pass of the model itself; a site that is neither is refused.
"""

from __future__ import annotations

from typing import Literal, NamedTuple
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ...errors import BadInput
from ..sites import GRAMMAR, Site

# "stream" is the input of a module that the block uses again behind it: an edit changes that very tensor.
Side = Literal["input", "output", "stream"]
INNER = ("attn_out", "resid_mid", "mlp_in", "mlp_out")  # the stages within a block, in the order of the pass
PARALLEL = "attention and the MLP run in parallel: no residual stream lies between them"
_NO_LIMIT = 2**20  # columns, where a configuration names no longest context: rotary, ALiBi and state-space models


class Anatomy(NamedTuple):
    """A row by hand: dotted paths from the model, and from one block."""

    layers: str
    attn_out: str  # the module whose output is what attention adds to the residual stream
    mlp_in: str = "mlp"  # the module whose input is what the MLP sees
    mlp_out: str = "mlp"  # the module whose output is what the MLP adds to the residual stream
    resid_mid: str = "post_attention_layernorm"  # the first module to see the stream between attention and MLP


_LLAMA_LIKE = Anatomy("model.layers", "self_attn")
# A norm after attention and MLP: what reaches the residual stream is the norm's output.
_NORM_AFTER = Anatomy(
    "model.layers",
    "post_attention_layernorm",
    mlp_out="post_feedforward_layernorm",
    resid_mid="pre_feedforward_layernorm",
)
# These override the search.
ANATOMY: dict[str, Anatomy] = {
    "gpt2": Anatomy("transformer.h", "attn", resid_mid="ln_2"),
    "gpt_neox": Anatomy("gpt_neox.layers", "attention"),
    "llama": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE,
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "phi3": _LLAMA_LIKE,
    "gemma2": _NORM_AFTER,
    # With a vision tower, which text alone never enters.
    "gemma3": _NORM_AFTER._replace(layers="model.language_model.layers"),
    "gemma3_text": _NORM_AFTER,
    "olmo2": _NORM_AFTER._replace(resid_mid="mlp"),  # no norm before
}


class Port(NamedTuple):
    """The module a site lives at, and on which side of it."""

    module: nn.Module
    side: Side
    block: nn.Module | None = (
        None  # whose input says how many rows there are, where vectors come as [rows * columns, d]
    )


class Place(NamedTuple):
    """Where a stage lies within a block.

    Args:
        path: of the module, from the block.
        side: of the module.
        flat: whether the vectors come without rows there, as `[rows * columns, d]`.
    """

    path: str
    side: Side
    flat: bool = False


class ProvenBlock(NamedTuple):
    """What a short pass has shown about one block.

    Args:
        ports: stage -> where it lies.
        scale: what the block multiplies the outputs of attention and MLP by before it adds them.
        refused: stage -> why it is not offered, for each that is not among `ports`.
        gap: the part of what the block adds that the best pair of modules leaves unexplained.
    """

    ports: dict[str, Place]
    scale: tuple[float, float]
    refused: dict[str, str]
    gap: float


_PATHS: WeakKeyDictionary[PreTrainedModel, str] = WeakKeyDictionary()
_PROVEN: WeakKeyDictionary[PreTrainedModel, list[ProvenBlock]] = WeakKeyDictionary()


def blocks_path(model: PreTrainedModel) -> str:
    """The dotted path of the list of transformer blocks.

    It is the list of `num_hidden_layers` modules that lies nearest to the token embedding, so that a vision tower of
    the same depth is not taken for the language model.
    """
    row = ANATOMY.get(model.config.model_type)
    if row is not None:
        return row.layers
    if model not in _PATHS:
        _PATHS[model] = _find_blocks(model)
    return _PATHS[model]


def _find_blocks(model: PreTrainedModel) -> str:
    count = model.config.get_text_config().num_hidden_layers
    place = next(name for name, module in model.named_modules() if module is model.get_input_embeddings())
    while place:
        place = place.rpartition(".")[0]
        lists = [
            f"{place}.{name}".strip(".")
            for name, module in model.get_submodule(place).named_modules()
            if isinstance(module, nn.ModuleList) and len(module) == count
        ]
        if lists:
            return min(lists, key=lambda name: name.count("."))
    raise BadInput(
        "model_type",
        model.config.model_type,
        "Use a model that keeps its transformer blocks in one list, or add a row to ANATOMY in "
        "consistency_lens/frozen/anatomy/parts.py.",
        why=f"no list of {count} modules (num_hidden_layers) lies beside its token embedding",
    )


def blocks_of(model: PreTrainedModel) -> nn.ModuleList:
    """The model's transformer blocks, first to last."""
    blocks = model.get_submodule(blocks_path(model))
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def remember(model: PreTrainedModel, proven: list[ProvenBlock]) -> None:
    """Keep what was proven about a model for as long as the model lives."""
    _PROVEN[model] = proven


def proven_of(model: PreTrainedModel) -> list[ProvenBlock]:
    """What was proven about each block; nothing for an architecture with a row by hand."""
    return _PROVEN.get(model, [])


def needs_proof(model: PreTrainedModel) -> bool:
    """Tell whether nothing is known yet about where the model's attention and MLP write."""
    return model.config.model_type not in ANATOMY and model not in _PROVEN


def locate(model: PreTrainedModel, site: Site) -> Port:
    """Find the module behind a resolved site; raise where the site is not proven for this model."""
    if site.stage == "embed":
        return _embedding(model)
    block = model.get_submodule(f"{blocks_path(model)}.{site.layer}")
    row = ANATOMY.get(model.config.model_type)
    match site.stage:
        case "resid_pre":
            return Port(block, "input")
        case "resid_post":
            return Port(block, "output")
        case "attn_out" | "resid_mid" | "mlp_in" | "mlp_out":
            place = _proven(model, site).ports[site.stage] if row is None else _by_hand(model, row, site)
            return Port(block.get_submodule(place.path), place.side, block if place.flat else None)
        case _:
            raise BadInput("site", str(site), f"{GRAMMAR}.", why="no one has said where this stage lives")


def _has_embedding(model: PreTrainedModel) -> bool:
    """Whether the embedding's vectors are of the residual stream's size; some encoders project them first."""
    width = model.get_input_embeddings().weight.shape[-1]
    return width in (0, model.config.get_text_config().hidden_size)  # 0: spread over processes


def _embedding(model: PreTrainedModel) -> Port:
    if not _has_embedding(model):
        why = f"the embedding of {model.config.model_type} has another size than its residual stream"
        raise BadInput("site", "embed", "Use resid_pre.0, what enters the first block.", why=why)
    return Port(model.get_input_embeddings(), "output")


def _by_hand(model: PreTrainedModel, row: Anatomy, site: Site) -> Place:
    """Where a site lies by its row of `ANATOMY`."""
    if site.stage == "resid_mid" and _in_parallel(model):
        raise BadInput("site", str(site), f"Use resid_pre.{site.layer}.", why=PARALLEL)
    match site.stage:
        case "attn_out":
            return Place(row.attn_out, "output")
        case "resid_mid":
            return Place(row.resid_mid, "stream")
        case "mlp_in":
            return Place(row.mlp_in, "input")
        case _:
            return Place(row.mlp_out, "output")


def _in_parallel(model: PreTrainedModel) -> bool:
    """Whether an architecture with a row by hand feeds its MLP what its attention is fed."""
    return bool(model.config.to_dict().get("use_parallel_residual"))


def _proven(model: PreTrainedModel, site: Site) -> ProvenBlock:
    """What is known of the site's block; raise unless the site is among it."""
    fix = "Use embed, resid_pre.L or resid_post.L, or add a row to ANATOMY in frozen/anatomy/parts.py."
    if model not in _PROVEN:
        why = f"nothing is proven yet about {model.config.model_type}"
        raise BadInput("site", str(site), f"Wrap the model in a FrozenLM, which proves its sites. {fix}", why=why)
    assert isinstance(site.layer, int)
    block = _PROVEN[model][site.layer]
    if site.stage not in block.ports:
        raise BadInput(
            "site", str(site), fix, why=f"not proven for {model.config.model_type}: {block.refused[site.stage]}"
        )
    return block


def offered(model: PreTrainedModel) -> list[str]:
    """The names of all sites that can be read and edited, in the order of the forward pass."""
    row, names = ANATOMY.get(model.config.model_type), ["embed"] if _has_embedding(model) else []
    for layer in range(len(blocks_of(model))):
        if row is None:
            inner = [stage for stage in INNER if model in _PROVEN and stage in _PROVEN[model][layer].ports]
        else:
            inner = [stage for stage in INNER if stage != "resid_mid" or not _in_parallel(model)]
        names += [f"{stage}.{layer}" for stage in ("resid_pre", *inner, "resid_post")]
    return names


def longest_context(config: PreTrainedConfig) -> int:
    """How many columns a model was made for, by its text configuration; about a million where it names none."""
    stated = config.get_text_config().to_dict()
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    return next((stated[name] for name in names if isinstance(stated.get(name), int)), _NO_LIMIT)


def truncate(model: PreTrainedModel, layers: int) -> PreTrainedModel:
    """Cut off all blocks above the first `layers`, in place: for who reads below and never needs the logits."""
    blocks, path = blocks_of(model), blocks_path(model)
    del blocks[layers:]
    _PATHS[model] = path
    config = model.config.get_text_config()
    config.num_hidden_layers = layers
    kinds = config.to_dict().get("layer_types")  # which blocks see a window, where the architecture has any
    if kinds is not None:
        config.layer_types = kinds[:layers]
    return model
