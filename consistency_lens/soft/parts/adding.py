"""Another receiver for a wire that exists: its compressor stays, and the new adapter starts from shared words.

Shapes: n words, d_z size of a vector.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...base.saving.lens_files import config_in, open_folder
from ...errors import BadInput
from ...frozen import FrozenLM, FrozenModels
from ..configuration import LatentWireConfig
from ..modeling import LatentWire
from .receiver import Receiver, embedding_table, rms_of
from .starting import fit_to_words

logger = logging.getLogger(__name__)
_PART = 4096  # words that are compressed together


def with_receiver(lens: LatentWire, frozen: FrozenLM, seed: int = 0, choice: int | None = None) -> LatentWire:
    """A lens of one model more. It shares its other weights with `lens`, so that it reads the wires of `lens`, too.

    Where the compressor reads tokens, the new adapter is a ridge map from the codes of single words to the new model's
    embeddings of the same words. `trained_alone` leaves only that adapter to be trained, which
    `LatentWireTrainer` then does.

    Args:
        lens: with its models at hand.
        frozen: the new model, of a name of its own.
        seed: of the adapter, where no words are shared.
        choice: which of the accepted answers it learns, from 0. Default: the first.
    """
    if lens.models is None:
        raise BadInput("subject", None, "Load the lens with its models: AutoLens.from_pretrained(lens).")
    models = FrozenModels([*lens.models.values(), frozen])
    table, old = embedding_table(frozen), lens.config
    own = {
        "receivers": [*old.names, frozen.name],
        "widths": [*(old.widths or []), frozen.hidden_size],
        "embedding_rms": [*(old.embedding_rms or []), rms_of(table)],
        "answer_choice": {**(old.answer_choice or {}), **({} if choice is None else {frozen.name: choice})} or None,
        **LatentWireConfig.fields_of(models.provenance({name: ["embed"] for name in models})),
    }
    config = LatentWireConfig.from_dict(old.to_dict() | own)
    new = LatentWire(config, lens.compressor.lm, lens.tokenizer)
    new.compressor = lens.compressor
    new.receivers = nn.ModuleList([*lens.receivers, new.receivers[-1]])
    new.models = models
    receiver = new.receiver(frozen.name)
    receiver.initialise(seed + len(models))
    _start(new, receiver, frozen, table / receiver.rms)
    return new.to(lens.device).train(lens.training)


def with_one_of(place: str, models: FrozenModels, choices: Mapping[str, int], token: str | None = None) -> LatentWire:
    """A saved wire with the one of these models that it does not know yet, whose adapter alone is trained.

    Args:
        place: of the wire, a folder or an id on the Hub.
        models: its own, and one more.
        choices: which of the accepted answers the new one learns, where that is not the first.
        token: for the Hub.
    """
    folder = open_folder(place, LatentWireConfig, token=token)
    known = config_in(folder, LatentWireConfig).names
    new = [name for name in models if name not in known]
    if len(new) != 1:
        fix = f"Name the models of {place} ({', '.join(known)}), and one more."
        raise BadInput("add_to", list(models), fix, why=f"{len(new)} of them are new to it")
    if others := sorted(set(choices) - set(new)):
        raise BadInput("answer_choice", others[0], f"Name {new[0]}, which is the one that learns.")
    own = FrozenModels([models[name] for name in known if name in models])
    lens = LatentWire.from_pretrained(folder, subject=own)
    return trained_alone(with_receiver(lens, models[new[0]], choice=choices.get(new[0])), new[0])


def trained_alone(lens: LatentWire, name: str) -> LatentWire:
    """The same lens, of which only the adapter of one model is trained: the wires of the others stay readable."""
    lens.requires_grad_(False)
    lens.receiver(name).requires_grad_(True)
    return lens


@torch.no_grad()
def _start(lens: LatentWire, receiver: Receiver, frozen: FrozenLM, table: Tensor) -> None:
    if receiver.modes is not None:
        receiver.modes.copy_(table.mean(0).expand_as(receiver.modes))
    if lens.config.start == "byte" or lens.config.pooling != "contiguous":
        logger.warning("%s: without a code for each single token, its adapter starts at random", frozen.name)
        return
    assert lens.tokenizer is not None
    origin = lens.config.part_origins.get("compressor")
    source = origin.model_id if origin else str(lens.config.compressor_model)
    known, device = lens.compressor.lm.get_input_embeddings().num_embeddings, lens.compressor.down.weight.device

    def code_of(ids: Tensor) -> Tensor:
        parts = ids.to(device)[:, None].split(_PART)
        return torch.cat([lens.compressor(part, torch.ones_like(part))[0][:, 0] for part in parts])

    fit_to_words(receiver, code_of, known, lens.tokenizer, source, frozen, table)
