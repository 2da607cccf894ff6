"""`LensModel`: what all lenses do. They compress activations into a code, and restore the code into edits.

Shapes: B rows, d hidden size.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import CONFIG_NAME, ModelOutput

from ..errors import BadInput
from ..frozen import Edit, FrozenLM, Prefix
from .configuration import LensConfig
from .explaining import explain_text

Batch = Mapping[str, Any]


class Code:
    """What a lens made of the activations of some rows. Each family has its own."""

    def take(self, rows: Tensor) -> Self:
        """The codes of these rows, in this order; a row may come several times or not at all."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError


@dataclass
class LensOutput(ModelOutput):
    """What one forward pass of a lens returns.

    Args:
        code: what the activations were compressed into.
        edits: what to write into the subject; gradients flow into them.
        terms: loss terms that the lens itself knows, unweighted, by name; the trainer weighs and logs them.
    """

    code: Any = None
    edits: Any = None
    terms: dict[str, Tensor] | None = None


class LensModel(PreTrainedModel):
    """Compress, restore, explain; the subject is never inside.

    A batch is what `ActivationCollator` makes; `batch["activations"]` maps each of `config.sites` to `[B, d]`.
    `subject` is the frozen LLM where one is at hand: `explain` reads texts with it.
    """

    config_class = LensConfig
    config: LensConfig
    main_input_name = "activations"
    base_model_prefix = ""
    subject: FrozenLM | None = None

    @classmethod
    def build(cls, config: Any, frozen: FrozenLM | None, tokenizer: PreTrainedTokenizerBase) -> Self:
        """The modules for a configuration, weights as they come."""
        raise NotImplementedError

    def compress(self, batch: Batch, seed: int | None = None) -> Code:
        """Activations to codes, without gradient; with a seed a sample, without one the likeliest."""
        raise NotImplementedError

    def restore(self, code: Code, batch: Batch) -> list[Edit]:
        """Codes to edits: one `replace` at P, the last column, for each site."""
        raise NotImplementedError

    def spell(self, code: Code) -> list[dict[str, Any]]:
        """One row for people per code: `explanation` and what else the family has to say."""
        raise NotImplementedError

    def rivals(self, batch: Batch, prefix: Prefix, frozen: FrozenLM, seed: int) -> dict[str, Code]:
        """Codes that do not come from the row's activation: what a lens is worth its distance from."""
        return {}

    def tampered(self, code: Code, prefix: Prefix, frozen: FrozenLM, seed: int) -> dict[str, Code]:
        """The same codes, spoiled in ways that tell a language from a private code."""
        return {}

    def traits(self, code: Code, batch: Batch, prefix: Prefix, frozen: FrozenLM, seed: int) -> dict[str, Tensor]:
        """Numbers per row `[B]` that describe the codes themselves."""
        return {}

    def reread(self, texts: Sequence[str]) -> Code:
        """Codes from what people, or a world that rewords, have written."""
        raise NotImplementedError

    def parts(self) -> dict[str, dict[str, nn.Parameter]]:
        """All that may be trained: part -> name in the model -> parameter."""
        raise NotImplementedError

    def files(self) -> dict[str, dict[str, nn.Parameter]]:
        """All that is saved: file -> name in the file -> parameter. The subject's own weights are in none."""
        raise NotImplementedError

    def checkpoint_activations(self) -> None:
        """From now on, recompute in the backward pass what the forward pass made."""
        raise BadInput("activation_checkpointing", True, f"{type(self).__name__} does not support it; leave it off.")

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """What `Trainer` calls. transformers' own would reach into the subject, and recompute without adapters."""
        if activation_checkpointing_kwargs or every_n_layers != 1 or offload:
            fix = "Leave them out: a lens recomputes each block, under the adapter of its forward pass."
            raise BadInput("activation_checkpointing_kwargs", activation_checkpointing_kwargs, fix)
        self.checkpoint_activations()

    def save_parts(self, folder: Path) -> None:
        """What says how to read the files."""

    def explain(self, what: Code | str, positions: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Rows for people.

        Args:
            what: codes, or a text that the subject reads first.
            positions: tokens of the text to explain; default all but the first, which the subject starts with.
        """
        if isinstance(what, Code):
            return self.spell(what)
        return explain_text(self, what, positions)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:  # type: ignore[override]
        """Each part in its own folder, own heads at the root. Every file is swapped in whole."""
        folder = Path(save_directory)
        for file, parameters in self.files().items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            part = folder / f"{file}.part"
            tensors = {name: p.detach().contiguous() for name, p in parameters.items()}
            save_file(tensors, part, metadata={"format": "pt"})
            part.replace(folder / file)
        self.save_parts(folder)
        self.config.save_pretrained(folder)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        lens_id_or_path: str | os.PathLike[str],
        subject: FrozenLM | None = None,
        revision: str | None = None,
    ) -> Self:
        """A lens from the Hub or from a folder.

        Args:
            lens_id_or_path: Hub id or local folder.
            subject: the frozen LLM the lens was made for. Any other is refused. A lens with weights of its own can do
                without, but then `explain` takes codes and no texts.
            revision: branch, tag or commit on the Hub.
        """
        folder = Path(lens_id_or_path)
        if not (folder / CONFIG_NAME).is_file():
            folder = _download(str(lens_id_or_path), revision)
        config = cls.config_class.from_pretrained(folder)
        if not config.provenance:
            fix = "Give the folder of a lens, or the id of one on the Hub."
            raise BadInput("lens", str(lens_id_or_path), fix, why="its config.json names no subject")
        if subject is not None:
            config.require_subject(subject)
        # The same one, or the subject would have been refused.
        tokenizer = AutoTokenizer.from_pretrained(folder) if subject is None else subject.tokenizer
        lens = cls.build(config, subject, tokenizer)
        lens.subject = subject
        load_weights(lens, folder)
        return lens.eval()


@torch.no_grad()
def load_weights(lens: LensModel, folder: Path) -> None:
    """The files of a saved lens into a lens of the same configuration; raise where either side has more tensors."""
    for file, parameters in lens.files().items():
        if not (folder / file).is_file():
            raise BadInput("lens", folder.name, "Save it again: the folder is not whole.", f"{file} is missing")
        try:
            tensors = load_file(folder / file)
        except SafetensorError as error:
            fix = "Save or download it again."
            raise BadInput("lens", folder.name, fix, f"{file} cannot be read: {error}") from error
        odd = sorted(set(tensors.keys()) ^ parameters.keys())
        odd += [name for name in tensors.keys() & parameters.keys() if tensors[name].shape != parameters[name].shape]
        if odd:
            fix = "Load it with the configuration it was saved with."
            raise BadInput("lens", folder.name, fix, f"{file} differs in {odd[0]}")
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def _download(repo: str, revision: str | None) -> Path:
    try:
        return Path(snapshot_download(repo, revision=revision))
    except (OSError, ValueError) as error:
        fix = "Give the folder of a lens, or the id of one on the Hub."
        raise BadInput(
            "lens", repo, fix, why=f"there is no lens in such a folder, and the Hub says: {error}"
        ) from error
