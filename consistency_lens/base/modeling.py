"""`LensModel`: a `Lens` as a model of transformers: how it is built, loaded, trained and published."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from ..errors import BadInput
from ..frozen import FrozenLM, FrozenModels, Provenance
from ..frozen.loading.provenance import hash_tokenizer
from ..frozen.loading.whole import refusing_damage
from ..hub import Reach
from .comparing import Comparison, TokenSwap
from .configuration import LensConfig
from .explaining import ExplainingLens
from .lens import Batch
from .saving.lens_files import MEASURED, config_in, load_files, open_folder

OF_THE_MODEL = ("dtype", "torch_dtype", "device_map", "quantization_config")


class LensModel(ExplainingLens):
    """Compress, restore, explain; the frozen model is never inside. Each family has one."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """`AutoConfig` and `AutoModel` of transformers know a family once its class is there: the last one that
        names its configuration itself, and so no lens of another project that is read into it."""
        names_it = "config_class" in vars(cls)
        super().__init_subclass__(**kwargs)
        if names_it:
            AutoConfig.register(cls.config_class.model_type, cls.config_class, exist_ok=True)
            AutoModel.register(cls.config_class, cls, exist_ok=True)

    @classmethod
    def build(cls, config: Any, frozen: Any, tokenizer: PreTrainedTokenizerBase) -> Self:
        """The modules for a configuration, weights as they come.

        Args:
            config: of the lens.
            frozen: the `FrozenLM`, the `FrozenModels` of a lens of several, or None.
            tokenizer: of the first model.
        """
        raise NotImplementedError

    @classmethod
    def require_files(cls, config: Any, folder: Path, models: FrozenModels | None) -> None:
        """Raise where the weights in a folder have other sizes than the configuration says, before any are made."""

    def comparison(self, models: FrozenModels, batch: Batch, horizon: int = 0) -> Comparison:
        """How edits of this lens are compared with the clean model: at P, unless the family says otherwise."""
        return TokenSwap.of(models.only, batch, horizon)

    def on_card(self) -> dict[str, Any]:
        """What the family's own part of the card shows beside the report."""
        return {}

    def parts(self) -> dict[str, dict[str, nn.Parameter]]:
        """All that may be trained: part -> name in the model -> parameter."""
        raise NotImplementedError

    def state_dict(self, *args: Any, prefix: str = "", **kwargs: Any) -> Any:
        """Each weight once, also where parts and model are one model: DeepSpeed, which leaves what is frozen out of
        its checkpoints, does so under a weight's first name alone."""
        found = super().state_dict(*args, prefix=prefix, **kwargs)
        first = {name for name, _ in self.named_parameters()}
        for name, _ in self.named_parameters(remove_duplicate=False):
            if name not in first:
                found.pop(f"{prefix}{name}", None)
        return found

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """What `state_dict` gives: a weight's first name stands for the others."""
        first = {id(parameter): name for name, parameter in self.named_parameters()}
        every = {name: first[id(parameter)] for name, parameter in self.named_parameters(remove_duplicate=False)}
        shared = {name: state_dict[known] for name, known in every.items() if known in state_dict}
        return super().load_state_dict({**shared, **state_dict}, *args, **kwargs)

    def pieces(self) -> dict[str, nn.Module]:
        """Modules that hold all weights between them, for an engine that spreads weights over processes; language
        models under names that end in `lm`. One that serves two parts comes under both names."""
        raise BadInput("engine", type(self).__name__, "Use ds_configs/zero2.json or ddp.yaml: it cannot be spread.")

    def unload(self) -> None:
        """Take off the frozen model what this lens has put on it, and leave what other lenses have; from then on it
        explains nothing. Without adapters nothing lies there."""

    def checkpoint_activations(self) -> None:
        """From now on, recompute in the backward pass what the forward pass made."""
        raise BadInput("activation_checkpointing", True, f"{type(self).__name__} does not support it; leave it off.")

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """What `Trainer` calls. transformers' own would reach into the model, and recompute without adapters."""
        if activation_checkpointing_kwargs or every_n_layers != 1 or offload:
            fix = "Leave them out: a lens recomputes each block, under the adapter of its forward pass."
            raise BadInput("activation_checkpointing_kwargs", activation_checkpointing_kwargs, fix)
        self.checkpoint_activations()

    def prepare_upload(self, folder: Path, repo: str, revision: str | None, token: str | None) -> None:
        """A plain card, with what people wrote on the one that is there: its numbers are those of another lens."""
        # Cards know the arguments of trainings, and a lens is loaded without them.
        from .saving.lens_card import TrainingRecord, write_plain_card
        from .saving.published_card import card_there

        sizes = {name: sum(p.numel() for p in part.values()) for name, part in self.parts().items()}
        there = card_there(repo, token, revision)
        write_plain_card(folder, self.config, TrainingRecord(name=repo, sizes=sizes), there)

    @property
    def outdated(self) -> list[str]:
        return [*super().outdated, *MEASURED, *self.config.own_files]

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        lens_id_or_path: str | os.PathLike[str],
        subject: FrozenLM | Sequence[FrozenLM] | Mapping[str, FrozenLM] | None = None,
        revision: str | None = None,
        token: str | None = None,
        config: LensConfig | None = None,
        *,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        subfolder: str = "",
        ignore: Sequence[str] = (),
        **of_auto_model: Any,
    ) -> Self:
        """A lens from the Hub or from a folder. Where the frozen model shall be loaded with it, `AutoLens` does both.

        Args:
            lens_id_or_path: Hub id or local folder.
            subject: the frozen LLM the lens was made for, or several by name. Any other is refused. A lens with
                weights of its own can do without, but then `explain` takes codes and no texts.
            revision: branch, tag or commit on the Hub.
            token: for a private lens. Default: of this machine.
            config: in the place of the saved one, as `AutoModel` gives it.
            cache_dir: where downloads are kept. Default: the cache of this machine.
            local_files_only: take what the cache holds, and ask no Hub.
            subfolder: of the folder or repository, in which the lens lies.
            ignore: what of the frozen model may differ from the one that the lens was made for: `dtype`,
                `quantization`. Its numbers are then no longer those of its card.
            of_auto_model: what `AutoModel` hands on unasked: a lens runs no code, and loads its adapters itself.
        """
        require_unasked(of_auto_model)
        reach = Reach(cache_dir=cache_dir, local_files_only=local_files_only)
        folder = open_folder(lens_id_or_path, cls.config_class, revision, token, subfolder, **reach)
        config = config or config_in(folder, cls.config_class)
        models = None if subject is None else FrozenModels.of(subject)
        if models is not None:
            config.require_subject(models, tuple(ignore))
        # That of the model is the same one, or the model would have been refused.
        own = config.own_tokenizer
        tokenizer = _tokenizer(folder, own) if models is None or own else models.first.tokenizer
        if own:
            require_recorded(tokenizer, config.part_origins.values(), folder)
        cls.require_files(config, folder, models)
        lens = cls.build(config, models if models is None or len(models) > 1 else models.only, tokenizer)
        lens.models = models
        load_files(lens.files(), folder)
        return lens.eval()


def require_recorded(tokenizer: PreTrainedTokenizerBase, origins: Iterable[Provenance], folder: Path) -> None:
    """Raise where a lens that reads with its own tokenizer brings another one along: its codes would be others."""
    if (found := hash_tokenizer(tokenizer)) not in (recorded := [origin.tokenizer for origin in origins]):
        fix = "Save or download the lens again: its files do not belong together."
        raise BadInput("tokenizer", found[:19], fix, why=f"{folder.name} was made with {recorded[0][:19]}")


def require_unasked(of_auto_model: Mapping[str, Any]) -> None:
    """Raise where somebody has asked for what no lens is loaded with."""
    for name, value in of_auto_model.items():
        if value and name in OF_THE_MODEL:
            fix = "Load both with AutoLens.from_pretrained, or give it to FrozenLM.from_pretrained."
            raise BadInput(name, value, fix, why="it is the frozen model that is loaded so, and that is not done here")
        if value and name != "adapter_kwargs":
            raise BadInput(name, value, "Leave it out.", why="a lens is not loaded with it")


def _tokenizer(folder: Path, own: bool) -> PreTrainedTokenizerBase:
    """One that the library knows: code that lies beside a lens is not run."""
    fix = "Save or download it again: it reads with a tokenizer that none of its models has."
    with refusing_damage(folder.name, "lens", fix if own else "Give the frozen model: its own tokenizer will do."):
        # Without a configuration at hand it would read the lens's, and warn that it knows no such model.
        return AutoTokenizer.from_pretrained(folder, config=PreTrainedConfig(), trust_remote_code=False)
