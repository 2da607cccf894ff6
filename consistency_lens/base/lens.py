"""`Lens`: the contract of every family. It compresses activations into a code, and restores the code into edits.

Shapes: B rows, d hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Self

from torch import Tensor
from transformers.utils import ModelOutput

from ..errors import BadInput
from ..frozen import Edit, FrozenLM, FrozenModels
from .configuration import LensConfig
from .saving.lens_files import SavedModel

if TYPE_CHECKING:
    from .comparing.comparison import Comparison

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
        edits: what to write into the frozen model; gradients flow into them.
        terms: loss terms that the lens itself knows, unweighted, by name; the trainer weighs and logs them.
    """

    code: Any = None
    edits: Any = None
    terms: dict[str, Tensor] | None = None


class Lens(SavedModel):
    """What all that is done with a lens goes by; the frozen model is never inside.

    A batch is what `ActivationCollator` makes; `batch["activations"]` maps each of `config.sites` to `[B, d]`.
    `models` are the frozen LLMs where they are at hand, `subject` the first: `explain` reads texts with it.
    """

    config_class = LensConfig
    config: LensConfig
    main_input_name = "activations"
    models: FrozenModels | None = None

    @property
    def subject(self) -> FrozenLM | None:
        """The frozen model, or the first of several, where they are at hand."""
        return None if self.models is None else self.models.first

    @subject.setter
    def subject(self, frozen: FrozenLM | Sequence[FrozenLM] | Mapping[str, FrozenLM] | None) -> None:
        self.models = None if frozen is None else FrozenModels.of(frozen)

    @property
    def reader(self) -> FrozenLM:
        """The model that reads texts; raise where the lens was loaded without one."""
        if self.subject is None:
            fix = "Load the lens with subject=FrozenLM.from_pretrained(...) to explain texts."
            raise BadInput("subject", None, fix)
        return self.subject

    def compress(self, batch: Batch, seed: int | None = None) -> Code:
        """Activations to codes, without gradient; with a seed a sample, without one the likeliest."""
        raise NotImplementedError

    def restore(self, code: Code, batch: Batch) -> list[Edit]:
        """Codes to edits: one `replace` at P, the last column, for each site."""
        raise NotImplementedError

    def comparison(self, models: FrozenModels, batch: Batch, horizon: int = 0) -> Comparison:
        """How edits of this lens are compared with the clean model."""
        raise NotImplementedError

    def describe(self, code: Code) -> list[dict[str, Any]]:
        """One row for people per code: `explanation` and what else the family has to say."""
        raise NotImplementedError

    def spell(self, code: Code) -> NoReturn:
        """A name of before."""
        raise BadInput("spell", type(code).__name__, "Call describe.", why="its name is describe")
