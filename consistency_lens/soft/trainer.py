"""`LatentWireTrainer`: a compressor and its adapters learn to answer as models do that read the text.

Shapes: B rows, K tokens of the longest answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.comparing import Applied
from ..base.engines.engine import in_one_call
from ..base.trainer import LensTrainer
from ..base.training_data import TrainingData
from ..base.watching.measuring import OF_BASELINE
from ..errors import BadInput
from ..frozen import Edit
from ..schedules import Schedule
from .arguments import LatentWireArguments
from .data import training_data
from .modeling import LatentWire
from .serving.sending import require_room

_OF_TEXT = "_of_text"


class LatentWireTrainer(LensTrainer):
    """As `LensTrainer`; `train_dataset` are `Passages`, or the path of a folder of them."""

    args: LatentWireArguments
    lens: LatentWire

    # ---- what it is given

    def open_data(self, given: Any, eval_dataset: Any, args: Any) -> TrainingData:
        if args.ratio_at(0, 0) is not None and self.lens.config.pooling == "learned":
            name = "train_ratios" if args.train_ratios else "train_ratio"
            why = "with learned queries the number of vectors is fixed"
            raise BadInput(name, vars(args)[name], "Leave it out, or use pooling='contiguous'.", why=why)
        data = training_data(given, eval_dataset, self.lens.config, self.models)
        if self.lens.config.own_tokenizer:  # of a receiver's tokens, tokenising has counted them
            held_out = data.held_out if isinstance(data.held_out, Mapping) else {"": data.held_out}
            for rows in (data.train, *held_out.values()):
                require_room(self.lens, [] if rows is None else rows["passage"])
        return data

    def weigh(self, args: LatentWireArguments) -> Mapping[str, Schedule]:
        return args.schedules()

    def take_up(self) -> None:
        if self.lens.models is None:
            self.lens.models = self.models

    def size_of(self, inputs: Mapping[str, Any]) -> tuple[int, Tensor]:
        """Tokens are those that are compressed."""
        return len(inputs["row"]), self.lens.read_of(inputs)[1].sum()

    # ---- the loss

    @property
    def turn(self) -> int:
        """How many batches came before this one."""
        return self.state.global_step * self.args.gradient_accumulation_steps + self.micro_step

    @property
    def readers(self) -> list[str]:
        """Models that read in some step: all, or where the compressor stays as it is, those whose adapters do not."""
        names = self.lens.config.names
        if any(parameter.requires_grad for parameter in self.lens.compressor.parameters()):
            return names
        trained = [
            name
            for name in names
            if any(parameter.requires_grad for parameter in self.lens.receiver(name).parameters())
        ]
        return trained or names

    @property
    def receiver(self) -> str:
        """The model that reads in this step: of (seed, turn), so that all processes take the same one."""
        names, run = self.readers, self.turn // self.args.receiver_batches
        return names[int(np.random.default_rng([self.args.seed, run]).integers(len(names)))]

    @property
    def size(self) -> int:
        """Of a vector in this step, drawn from those that the lens serves: of (seed, turn), too."""
        sizes = self.lens.config.sizes
        return sizes[int(np.random.default_rng([self.args.seed, self.turn, 2]).integers(len(sizes)))]

    @in_one_call
    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """`- mean_t log M_r(y_t | Z, x, y_<t) - w log M_r(y_0 | Z, x) + κ KL(M_r(text) || M_r(Z))`, r one receiver."""
        name, args = self.receiver, self.args
        ratio = args.ratio_at(self.state.global_step, self.turn)
        words = 0 if self.schedules["kd"].is_off else args.kd_words
        output = model(inputs, self.models, name, ratio, args.first_weight, words, args.kd_temperature, self.size)
        self.note(f"ce/{name}", output.terms["ce"].detach().mean())
        if ratio is not None:
            self.note("ratio", ratio)
        loss = self.settle(output.terms)
        return (loss, output) if return_outputs else loss

    # ---- what an evaluation measures

    def baseline(self, applied: Applied, batch: Mapping[str, Any]) -> list[Edit]:
        """No context: the prompt alone."""
        return []

    @torch.no_grad()
    def measure_rows(self, applied: Applied, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """With `nll` and `first_token` of each receiver and in the mean over them: with the code, with no context
        (`_of_baseline`) and with the text (`_of_text`)."""
        comparison: Any = applied.comparison
        rows, read = super().measure_rows(applied, batch), dict[str, Tensor]()
        for number in ("nll", "first_token"):
            each = {name: part.numbers(part.clean)[number] for name, part in comparison.parts.items()}
            read |= {f"{number}/{name}{_OF_TEXT}": value for name, value in each.items()}
            read[f"{number}{_OF_TEXT}"] = torch.stack([value.to(self.args.device) for value in each.values()]).mean(0)
        return rows | read

    def summarise(self, rows: Mapping[str, Tensor], described: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """With `nll_recovered = (nll_none - nll) / (nll_none - nll_text)` of each receiver and of their mean."""
        means = super().summarise(rows, described)
        for number in [name for name in means if name.partition("/")[0] == "nll" and not name.endswith(_OF_TEXT)]:
            none, text = float(rows[f"{number}{OF_BASELINE}"].mean()), means[f"{number}{_OF_TEXT}"]
            means[number.replace("nll", "nll_recovered", 1)] = (none - means[number]) / (none - text or 1.0)
        return means
