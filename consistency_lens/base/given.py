"""What a trainer is given, in the names of transformers' `Trainer`; and what it says of other names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableSet, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from transformers import EvalPrediction

from ..errors import BadInput
from ..frozen import FrozenLM, FrozenModels
from .adapters import require_alone
from .arguments import LensTrainingArguments
from .engines.engine import Engine
from .modeling import LensModel

_RENAMED = {"lens": "model", "activations": "train_dataset"}


def require_names(trainer: str, model: Any, args: Any, frozen: Any, model_init: Any, other: Mapping[str, Any]) -> None:
    """Raise where a call has another shape than that of transformers' `Trainer` with `frozen` beside it; `trainer` is
    the name of the class."""
    write = f"Write {trainer}(model=lens, args=args, train_dataset=data, frozen=frozen)"
    for name, value in other.items():
        why = f"its name is {_RENAMED[name]}" if name in _RENAMED else "the trainer takes nothing of that name"
        raise BadInput(name, type(value).__name__, f"{write}.", why=why)
    if isinstance(args, FrozenLM):
        fix = f"{write}: the order is that of the names, and frozen has to be named."
        raise BadInput("args", "FrozenLM", fix, why="these are no arguments of a run")
    if not isinstance(args, LensTrainingArguments):
        fix = f"Give the arguments of the family's training: {trainer.replace('Trainer', 'Arguments')}(output_dir)."
        raise BadInput("args", type(args).__name__, fix, why="these are no arguments of a lens's training")
    if frozen is None:
        raise BadInput("frozen", None, f"{write}.", why="edits are made to a frozen model")
    FrozenModels.of(frozen)
    if (model is None) is (model_init is None):
        why = "there is neither a model nor a model_init" if model is None else "there is a model_init, too"
        raise BadInput("model", type(model).__name__, "Give a lens as model, or as model_init what makes one.", why)


def require_together(args: LensTrainingArguments, model_init: Any, optimizers: Sequence[Any], engine: Engine) -> None:
    """Raise where two things that were given exclude each other.

    Args:
        args: of the run.
        model_init: makes a lens for each training, where it is given.
        optimizers: an optimizer and a scheduler, or None for each.
        engine: that the lens is handed to.
    """
    own = any(each is not None for each in optimizers)
    if model_init is not None and own:
        fix = "Give a model, or leave the optimizers to the trainer."
        raise BadInput("optimizers", "given", fix, why="they are of one lens, and model_init makes another each time")
    if model_init is not None and (args.torch_compile or engine.is_deepspeed or engine.spreads_weights):
        fix = "Give a lens as model, and start a run of its own for each trial."
        why = "an engine or torch_compile takes the weights of one lens, and keeps them"
        raise BadInput("model_init", "given", fix, why)
    if own and args.auto_find_batch_size:
        fix = "Switch it off, or leave the optimizers to the trainer."
        raise BadInput("auto_find_batch_size", True, fix, why="each attempt begins with an optimizer of its own")


def require_new(lens: LensModel, made: MutableSet[LensModel]) -> None:
    """Note a lens that a `model_init` has made; raise where it was made before: it is trained by now, or the model no
    longer carries its adapters."""
    if lens in made:
        fix = "Let it make a new lens each time, and give one that is there already as model."
        raise BadInput("model_init", type(lens).__name__, fix, why="it returned a lens that it has made before")
    made.add(lens)


def require_only(lens: LensModel, models: FrozenModels) -> None:
    """Raise where another lens has adapters on the models that a lens shall be trained on."""
    own = [parameter for part in lens.parts().values() for parameter in part.values()]
    for frozen in models.values():
        require_alone(frozen.model, own)


def require_held_out(args: LensTrainingArguments, held_out: Any) -> None:
    """Raise where a training is to evaluate, and nothing is held out.

    Args:
        args: of the run.
        held_out: rows, several sets of them by name, or None.
    """
    if args.eval_strategy == "no":
        return
    sets = held_out if isinstance(held_out, Mapping) else {"": held_out}
    if not sets or any(rows is None or not len(rows) for rows in sets.values()):
        fix = "Give held-out rows as eval_dataset, extract with a validation_fraction above 0, or evaluate not at all."
        shown = list(sets) if isinstance(held_out, Mapping) else None
        raise BadInput("eval_dataset", shown, fix, why="there are no rows to evaluate on")


def numbers_of(
    compute_metrics: Callable[[EvalPrediction], Mapping[str, float]],
    rows: Mapping[str, Tensor],
    described: Sequence[Mapping[str, Any]],
    taken: Sequence[str],
) -> dict[str, float]:
    """What a function of the user's makes of the rows of an evaluation, as in transformers.

    It gets an `EvalPrediction` without labels, whose `predictions` are arrays with an entry per row: `kl`,
    `kl_of_baseline`, `top1` and what else the family measures; and the `explanation` of each code.
    """
    predictions: Any = {name: value.numpy() for name, value in rows.items()}
    for name in described[0]:
        predictions[name] = np.array([row[name] for row in described], dtype=object)
    nothing: Any = None
    given = compute_metrics(EvalPrediction(predictions=predictions, label_ids=nothing))
    if not isinstance(given, Mapping):
        raise BadInput("compute_metrics", type(given).__name__, "Let it return a dict of numbers by name.")
    try:
        found = {name.removeprefix("eval_"): float(value) for name, value in given.items()}  # `evaluate` puts it there
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput("compute_metrics", list(given), "Let it return numbers by name.", why=str(error)) from error
    clash = [name for name in found if name in taken]
    if clash:
        raise BadInput(
            "compute_metrics", clash[0], "Give it another name.", why="an evaluation has this number already"
        )
    return found
