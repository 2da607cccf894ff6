"""`Options`: every option of a command line, in groups: what all families share, and what one of them adds."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields, make_dataclass
from functools import cache, cached_property
from inspect import get_annotations
from typing import Any, get_type_hints

from transformers import TrainingArguments

from ...activations import CorpusArguments
from ...auto import FAMILIES
from ...base.arguments import LensTrainingArguments
from ...base.family_run import FamilyRun
from ...errors import BadInput
from ...options import Former, Formerly
from .arguments import (
    ExplainArguments,
    ExportArguments,
    PublishArguments,
    ReportArguments,
    RunArguments,
    SubjectArguments,
)

TRAINING = "training"
# Data and training both have a folder and a seed. In a whole run the plain names are the training's, and the data has
# names of its own; `extract`, which trains nothing, takes either.
OWN_NAMES = {"output_dir": "activations_dir", "seed": "activations_seed"}
_OWN_HELP = {
    "activations_dir": "Folder for the rows. Default: outputs/activations, or in a whole run one with a name.",
    "activations_seed": "Seed of the split into train, validation and test, and of the positions.",
}
# Of transformers' own, those that one reaches for; all the others are taken, too.
USUAL = (
    *["output_dir", "max_steps", "num_train_epochs", "learning_rate", "lr_scheduler_type", "warmup_steps"],
    *["gradient_accumulation_steps", "max_grad_norm", "weight_decay", "bf16", "activation_checkpointing"],
    "auto_find_batch_size",
    *["per_device_eval_batch_size", "eval_strategy", "eval_steps", "save_steps", "save_total_limit"],
    *["load_best_model_at_end", "resume_from_checkpoint", "report_to", "run_name", "project", "push_to_hub"],
    *["hub_model_id", "hub_strategy", "hub_token", "seed", "use_cpu", "disable_tqdm"],
)
_CHANGED_HELP = {
    "output_dir": "Run folder. Default: outputs/{model}_{site}_{dataset}_lr{lr}_t{T}_{time}.",
    "revision": "Branch, tag or commit of the model on the Hub; for publish, the branch that is written to.",
    "resume_from_checkpoint": "Path of a checkpoint; 'true': the newest whole one in output_dir; 'auto': the same if "
    "there is one, else from the beginning; 'last-checkpoint' of hub_model_id; or one on the Hub, as in "
    "owner/name/checkpoint-40.",
    "push_to_hub": "Push the lens at each save and at the end. With extract: publish the rows as a dataset.",
    "overwrite": "Overwrite what lies in output_dir, or the file that explain writes.",
    "report_to": "Trackers: trackio, wandb, tensorboard or none.",
    "use_cpu": "Compute on the CPU even where there is a GPU.",
    "seed": "Seed of the training.",
}


@dataclass(frozen=True)
class Options:
    """The options of a run of one family.

    Args:
        family: its name.
        run: its `FamilyRun`.
        training: the dataclass of its training arguments.
        trainer: its `LensTrainer`.
    """

    family: str
    run: type[FamilyRun]
    training: type[LensTrainingArguments]
    trainer: type[Any]

    @cached_property
    def groups(self) -> dict[str, type]:
        """Title -> the dataclass of the options below it."""
        return {
            "the frozen model": SubjectArguments,
            "the texts": CorpusArguments,
            self.run.data_title: self.run.data_options,
            "the lens": self.run.lens_options,
            TRAINING: self.training,
            "the run": RunArguments,
            "the report": ReportArguments,
            "explain": ExplainArguments,
            "export": ExportArguments,
            **self.run.more_options,
            "publishing": PublishArguments,
        }

    @cached_property
    def inherited(self) -> set[str]:
        """Training arguments that are transformers' own, and not changed by us."""
        own = [kind for kind in self.training.__mro__ if issubclass(kind, LensTrainingArguments)]
        return {f.name for f in fields(TrainingArguments)} - {name for kind in own for name in get_annotations(kind)}

    @cached_property
    def first(self) -> set[str]:
        """Of the training, the options that --help shows; --help_all shows all that are not transformers' own, too."""
        common = {"per_device_train_batch_size", "logging_steps", "eval_rows", "sample_steps", "sample_rows"}
        return {*USUAL, *common, *self.training.usual}

    @cached_property
    def schedules(self) -> set[str]:
        """Those that take a number or a schedule of the step."""
        return {f.name for f in fields(self.training) if f.name.endswith("_weight")}

    def own_names(self, arguments: type) -> dict[str, str]:
        """Field of a dataclass -> its name on the command line, where that is another one."""
        return OWN_NAMES if arguments is self.run.data_options else {}

    def fields_of(self, group: str) -> dict[str, Field[Any]]:
        """Name on the command line -> field, for one group."""
        arguments = self.groups[group]
        own = self.own_names(arguments)
        return {own.get(f.name, f.name): f for f in fields(arguments) if f.init}

    @cached_property
    def names(self) -> list[str]:
        """All that a recipe may set."""
        return [name for group in self.groups for name in self.fields_of(group)]

    @cached_property
    def former(self) -> dict[str, Former]:
        """Options of before, by name."""
        known = [arguments for arguments in self.groups.values() if issubclass(arguments, Formerly)]
        return {name: former for arguments in known for name, former in arguments.former.items()}

    @cached_property
    def kinds(self) -> dict[str, Any]:
        """Name -> type."""
        found: dict[str, Any] = {}
        for group, arguments in self.groups.items():
            hints = get_type_hints(arguments)
            found |= {name: hints[f.name] for name, f in self.fields_of(group).items()}
        return found | {"activations_dir": str | None}

    def as_class(self) -> type:
        """All fields in one class, for the parser: a field that two dataclasses share stands there once."""
        specs = []
        for group in self.groups:
            for name, given in self.fields_of(group).items():
                default = None if name == "activations_dir" else given.default
                metadata = dict(given.metadata) | {"help": help_of(name, given).replace("%", "%%")}
                if given.default_factory is not MISSING:
                    made = field(default_factory=given.default_factory, metadata=metadata)
                else:
                    made = field(default=default, metadata=metadata)
                specs.append((name, self.kinds[name], made))
        return make_dataclass("Options", specs)


@cache
def options_of(family: str) -> Options:
    """The options of a family; an unknown one is refused."""
    if family not in FAMILIES:
        raise BadInput("family", family, f"Use one of {', '.join(FAMILIES)}.")
    return Options(family, *(FAMILIES[family].load(part) for part in ("run", "arguments", "trainer")))


def help_of(name: str, given: Field[Any]) -> str:
    return _CHANGED_HELP.get(name) or _OWN_HELP.get(name) or str(given.metadata.get("help", "")).replace("%%", "%")
