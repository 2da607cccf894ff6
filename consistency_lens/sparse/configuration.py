"""`CrosslayerTranscoderConfig`: which layers, how many features, which of them are active, and where they write."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from huggingface_hub.dataclasses import strict

from ..base.configuration import LensConfig
from ..errors import BadInput
from ..frozen import FrozenLM
from ..frozen.sites import LAYERED
from ..schema import Kind, flag, many, maybe, one_of, scale, whole
from .card import TRANSCODER_CARD
from .coding.nonlinear import NONLINEARITIES

STANDARDISATIONS = ("site", "dimension", "none")
_CHOOSES = ("topk", "batchtopk")
CONTEXTS, FIRING = "contexts.parquet", "firing.safetensors"  # files beside the weights, and in a checkpoint


@strict
class CrosslayerTranscoderConfig(LensConfig):
    r"""
    Args:
        depth (`int`): how many layers the frozen model has.
        chosen_layers (`list[int]`): which of them are read and written, in increasing order.
        features (`int`): F, features per layer.
        crosslayer (`bool`): whether features of a layer write to all chosen layers from their own on, or to their own
            alone (per-layer transcoders; with one layer and `read_stage` equal to `write_stage`, an SAE).
        read_stage (`str`): what the encoders read: `resid_mid.L`, the residual stream before the MLP and its norm.
        write_stage (`str`): what the decoders reconstruct: `mlp_out.L`.
        nonlinearity (`str`): `relu`; `jumprelu`, with a learnable threshold per feature; `topk`, the k largest of each
            token and layer; `batchtopk`, as many as k per token and layer in the mean over a batch.
        k (`int`): of `topk` and `batchtopk`, per layer.
        across_layers (`bool`): whether `batchtopk` lets layers compete, so that k is the mean over them.
        threshold (`float`): of each feature before training, with `jumprelu`.
        bandwidth (`float`): width of the window around a threshold in which it gets a gradient.
        skip (`bool`): whether a linear map of a layer's own input is added to each reconstruction.
        tied_decoder (`bool`): whether a target has one decoder for all layers below it: feature j of any layer writes
            the same vector there.
        standardisation (`str`): of what is read and written: by its mean and, per site, one scale (`site`) or one for
            each coordinate (`dimension`); or not at all (`none`).
    """

    model_type = "crosslayer_transcoder"
    medium = "sparse"
    card = TRANSCODER_CARD
    own_files = (CONTEXTS,)
    other_files = ("*/W_enc_*.safetensors", "*/W_dec_*.safetensors", FIRING)  # exports, and of a training

    depth: int = 1
    chosen_layers: list[int] | None = None
    features: int = 1024
    crosslayer: bool = True
    read_stage: str = "resid_mid"
    write_stage: str = "mlp_out"
    nonlinearity: str = "jumprelu"
    k: int | None = None
    across_layers: bool = False
    threshold: float = 0.03
    bandwidth: float = 1.0
    skip: bool = False
    tied_decoder: bool = False
    standardisation: str = "site"

    def __post_init__(self, **kwargs: Any) -> None:
        if self.chosen_layers is None:
            self.chosen_layers = list(range(self.depth))
        require_layers(self.chosen_layers, self.depth)
        if self.features < 1:
            raise BadInput("features", self.features, "Give each layer at least one feature.")
        for name, known in (("nonlinearity", NONLINEARITIES), ("standardisation", STANDARDISATIONS)):
            if vars(self)[name] not in known:
                raise BadInput(name, vars(self)[name], f"Use one of {', '.join(known)}.")
        self._require_stages()
        self._require_k()
        for name in ("threshold", "bandwidth"):
            if not vars(self)[name] > 0:
                raise BadInput(name, vars(self)[name], "Use a number above 0.")
        if self.tied_decoder and not self.crosslayer:
            why = "without crosslayer each target is written by one layer alone"
            raise BadInput("tied_decoder", True, "Leave it out, or set crosslayer.", why=why)
        super().__post_init__(**kwargs)

    @classmethod
    def kinds(cls) -> dict[str, Kind]:
        """Of a saved one; what they mean for one another is checked when it is made."""
        return {
            **super().kinds(),
            "depth": whole(1, 4096),
            "chosen_layers": maybe(many(whole(0, 4096), most=4096)),
            "features": whole(1, 1 << 26),
            **dict.fromkeys(["crosslayer", "across_layers", "skip", "tied_decoder"], flag),
            **dict.fromkeys(["read_stage", "write_stage"], one_of(*LAYERED)),
            "nonlinearity": one_of(*NONLINEARITIES),
            "k": maybe(whole(1, 1 << 26)),
            **dict.fromkeys(["threshold", "bandwidth"], scale()),
            "standardisation": one_of(*STANDARDISATIONS),
        }

    def _require_stages(self) -> None:
        for name in ("read_stage", "write_stage"):
            if vars(self)[name] not in LAYERED:
                raise BadInput(name, vars(self)[name], f"Use one of {', '.join(LAYERED)}.")
        if LAYERED.index(self.read_stage) > LAYERED.index(self.write_stage):
            why = f"a block computes {self.write_stage} before it"
            raise BadInput("read_stage", self.read_stage, "Read a stage below the one that is written.", why=why)
        if self.crosslayer and self.read_stage == self.write_stage and len(self.window) > 1:
            why = f"a layer would read {self.write_stage} as other layers have just written it"
            raise BadInput("crosslayer", True, "Set crosslayer to false, or read a stage below.", why=why)

    def _require_k(self) -> None:
        if self.nonlinearity not in _CHOOSES:
            if self.k is not None:
                fix = f"Leave it out, or use {' or '.join(_CHOOSES)}."
                raise BadInput("k", self.k, fix, why=f"{self.nonlinearity} has no fixed number of active features")
        elif self.k is None or not 1 <= self.k <= self.features:
            raise BadInput("k", self.k, f"Use 1 to {self.features}, the number of features per layer.")
        if self.across_layers and self.nonlinearity != "batchtopk":
            raise BadInput(
                "across_layers", True, "Use nonlinearity='batchtopk', the only one in which layers compete."
            )

    @classmethod
    def for_subject(
        cls, frozen: FrozenLM, layers: str | Sequence[int] = "all", **settings: Any
    ) -> CrosslayerTranscoderConfig:
        """The configuration of a lens for layers of a frozen model.

        Args:
            frozen: the frozen model.
            layers: `all`, a window such as `8:18` (18 is not in it), or a list of numbers.
            settings: the fields that are free.
        """
        depth = frozen.num_layers
        chosen = parse_layers(layers, depth)
        hidden = {"depth": depth, "chosen_layers": chosen, "hidden_size": frozen.hidden_size}
        config = cls(**hidden, **settings)
        missing = [site for site in config.all_sites if site not in frozen.sites]
        if missing:
            stage = missing[0].partition(".")[0]
            name = "read_stage" if stage == config.read_stage else "write_stage"
            fix = "Use read_stage='resid_pre' or 'mlp_in'." if name == "read_stage" else "Use another model or stage."
            raise BadInput(name, stage, fix, why=f"{frozen.model_id} does not offer {missing[0]}")
        places = {"sites": config.read_sites, "writes": config.written_sites}
        provenance = frozen.provenance(*config.read_sites).to_dict()
        return cls(**hidden, **settings, **places, provenance=provenance)

    @property
    def window(self) -> list[int]:
        """The chosen layers."""
        assert self.chosen_layers is not None
        return self.chosen_layers

    @property
    def read_sites(self) -> list[str]:
        return [f"{self.read_stage}.{layer}" for layer in self.window]

    @property
    def written_sites(self) -> list[str]:
        return [f"{self.write_stage}.{layer}" for layer in self.window]

    @property
    def all_sites(self) -> list[str]:
        """What is read and what is written, each once."""
        return list(dict.fromkeys([*self.read_sites, *self.written_sites]))

    def reach(self, source: int) -> int:
        """How many targets the features of the chosen layer at this index write to."""
        return len(self.window) - source if self.crosslayer else 1

    @property
    def code_in_words(self) -> str:
        active = "the active" if self.k is None else f"about {self.k} active"
        return f"{active} ones of {self.features} features per layer and token, in {len(self.window)} layers"


def parse_layers(layers: str | Sequence[int], depth: int) -> list[int]:
    """`all`, a window `8:18` or a list, as numbers of layers of a model of this depth."""
    if not isinstance(layers, str):
        chosen = list(layers)
    elif layers.strip() == "all":
        chosen = list(range(depth))
    else:
        found = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", layers)
        if not found:
            raise BadInput("layers", layers, "Write all, a window such as 8:18, or a list of numbers.")
        chosen = list(range(int(found[1]), int(found[2])))
    require_layers(chosen, depth, "layers", layers)
    return chosen


def require_layers(chosen: Sequence[int], depth: int, field: str = "chosen_layers", given: Any = None) -> None:
    """Raise unless these are layers of a model of this depth, each once and in order."""
    given = list(chosen) if given is None else given
    if not chosen:
        raise BadInput(field, given, "Choose at least one layer.")
    if list(chosen) != sorted(set(chosen)):
        raise BadInput(field, given, "Name each layer once, in increasing order.")
    if chosen[0] < 0 or chosen[-1] >= depth:
        raise BadInput(field, given, f"The model has {depth} layers: use 0 to {depth - 1}.")
