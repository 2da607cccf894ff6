"""The language model whose first layers a compressor starts from: one of the receivers, or any other.

Another one is needed once, to begin with: then its layers are weights of the lens, and its tokenizer lies in the
folder of the lens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedTokenizerBase

from ...errors import BadInput
from ...frozen import FrozenLM, FrozenModels
from ...frozen.loading.source import find_source

FIELD = "compressor_model"
_WORDS = ("weights", "tokenizer", "quantization", "configuration")  # of two records of one and the same model


def source_of(given: Any, models: FrozenModels) -> FrozenLM:
    """The model that a compressor starts from; one of the receivers wherever it is the same as that.

    Args:
        given: the name of a receiver, another model or where it lies, or None for the first receiver.
        models: the receivers.
    """
    if given is None:
        return models.first
    if isinstance(given, str) and given in models:
        return models[given]
    if not isinstance(given, str | Path | FrozenLM):
        fix = "Give the name of a receiver, or another language model, its Hub id or its folder."
        raise BadInput(FIELD, type(given).__name__, fix)
    source = given if isinstance(given, FrozenLM) else load_other(given, list(models))
    require_words(source)
    return next((model for model in models.values() if model is source or _same(model, source)), source)


def require_findable(place: str, names: list[str], **how: Any) -> None:
    """Raise unless this is the name of a receiver, or a language model lies there; no weights are read.

    Args:
        place: what was given.
        names: of the receivers.
        how: `token` and `trust_remote_code`, as `FrozenLM.from_pretrained` takes them.
    """
    if place in names:
        return
    with _naming(place, names):
        find_source(place, **how)


def load_other(place: str | Path, names: list[str], **how: Any) -> FrozenLM:
    """A model that is no receiver, on the CPU; the arguments are those of `require_findable`."""
    with _naming(place, names):
        return FrozenLM.from_pretrained(place, **how)


def require_words(source: FrozenLM) -> None:
    """Raise where a compressor could not read with a model's tokenizer, or has no embeddings to begin with."""
    name, table = source.model_id, source.model.get_input_embeddings()
    fix, why = "Start from another model.", ""
    if not isinstance(source.tokenizer, PreTrainedTokenizerBase):
        fix, why = "Give the model with its tokenizer.", "it has no tokenizer"
    elif source.tokenizer.eos_token_id is None:
        fix, why = "Set the tokenizer's eos_token.", "its tokenizer has no EOS token"
    elif source.config.model_type not in CONFIG_MAPPING:
        why = f"a lens runs no code of others, and transformers knows no {source.config.model_type}"
    elif not isinstance(table, nn.Embedding):
        why = "it has no table of embeddings"
    elif table.embedding_dim != source.hidden_size:
        why = f"its embeddings have {table.embedding_dim} coordinates, its blocks {source.hidden_size}"
    if why:
        raise BadInput(FIELD, name, fix, why=why)


def record_of(source: FrozenLM, models: FrozenModels) -> dict[str, Any]:
    """The fields of a configuration that say where the compressor came from."""
    if models.get(source.name) is source:
        return {FIELD: source.name}
    return {"compressor_origin": source.provenance("embed").to_dict()}


def _same(one: FrozenLM, other: FrozenLM) -> bool:
    ours, theirs = (vars(each.provenance("embed")) for each in (one, other))
    return all(ours[name] == theirs[name] for name in _WORDS)


@contextmanager
def _naming(place: str | Path, names: list[str]) -> Iterator[None]:
    """Within it, what is wrong with a model is said of the field that names it."""
    try:
        yield
    except BadInput as error:
        if error.field != "model_name_or_path":
            raise
        raise BadInput(FIELD, error.value, error.fix, error.why) from error
    except (OSError, ValueError) as error:
        fix = f"Name one of {', '.join(names)}, or the Hub id or the folder of another language model."
        raise BadInput(
            FIELD, str(place), fix, why=f"none of the receivers, and no model lies there: {error}"
        ) from error
