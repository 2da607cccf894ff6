"""The fields of the command line: one dataclass for each thing that a run is about."""

from __future__ import annotations

import math
from dataclasses import MISSING, Field, dataclass, field, fields, make_dataclass
from inspect import get_annotations
from typing import Any, get_type_hints

from transformers import TrainingArguments

from ..activations import CorpusArguments, ExtractArguments
from ..base.arguments import LensTrainingArguments
from ..errors import BadInput
from ..frozen.frozen_lm import ATTENTION, DTYPES, QUANTIZATION
from ..text.arguments import ConsistencyLensArguments
from ..text.configuration import INJECTIONS, TRAINABLE, ConsistencyLensConfig


@dataclass
class SubjectArguments:
    """The frozen LLM under study."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id, local folder or .gguf file, or 'demo' for the offline subject."}
    )
    gguf_file: str | None = field(
        default=None,
        metadata={"help": "A .gguf file of that folder or repository, to load instead of its other weights."},
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model on the Hub."})
    dtype: str = field(default="auto", metadata={"help": "auto: as in the checkpoint.", "choices": list(DTYPES)})
    quantization: str = field(
        default="none", metadata={"help": "Through bitsandbytes.", "choices": list(QUANTIZATION)}
    )
    attn_implementation: str = field(
        default="auto",
        metadata={"help": "auto: the fastest that is installed and supported.", "choices": list(ATTENTION)},
    )
    device_map: str | None = field(
        default=None,
        metadata={"help": "As in transformers ('auto' splits a large model). Default: this process's device."},
    )

    def loading(self) -> dict[str, Any]:
        """How to load it, wherever it lies."""
        names = ("revision", "dtype", "quantization", "attn_implementation")
        return {name: vars(self)[name] for name in names}


@dataclass
class LensArguments:
    """What the lens is. It goes to the Hub with the weights."""

    site: str | None = field(default=None, metadata={"help": "Which of the sites it reads. Default: the only one."})
    code_length: int = field(
        default=ConsistencyLensConfig.code_length, metadata={"help": "T, the most tokens of an explanation."}
    )
    prompt: str = field(
        default=ConsistencyLensConfig.prompt,
        metadata={"help": "What the decoder is asked; <A> is where the activation enters."},
    )
    injection: str = field(
        default=ConsistencyLensConfig.injection,
        metadata={
            "help": "The activation replaces the embedding of <A>, or is added to its residual stream.",
            "choices": list(INJECTIONS),
        },
    )
    trainable: str = field(
        default=ConsistencyLensConfig.trainable,
        metadata={
            "help": "Of the model's weights: none but two maps, adapters on them, or two whole copies.",
            "choices": list(TRAINABLE),
        },
    )
    encoder_trainable: str | None = field(
        default=None,
        metadata={"help": "The same for the encoder alone. Default: as the decoder.", "choices": list(TRAINABLE)},
    )
    lora_rank: int = field(default=ConsistencyLensConfig.lora_rank, metadata={"help": "Of the adapters."})
    lora_alpha: int = field(default=ConsistencyLensConfig.lora_alpha, metadata={"help": "Of the adapters."})


@dataclass
class RunArguments:
    """The run itself."""

    activations: str | None = field(
        default=None,
        metadata={"help": "Rows that are there already: folder or Hub dataset. Default: those in activations_dir."},
    )
    stream_activations: bool = field(
        default=False,
        metadata={
            "help": "Train on rows that are read from the corpus meanwhile and never stored; held-out rows and the "
            "mean come from those of --activations, of the same corpus and rules."
        },
    )
    stream_buffer: int = field(default=4096, metadata={"help": "Rows of the stream that are shuffled together."})
    lens: str | None = field(
        default=None, metadata={"help": "For evaluate and explain: run folder, lens folder, or a lens on the Hub."}
    )
    cpu_threads: int | None = field(
        default=None,
        metadata={
            "help": "Of each process, on the CPU. Default: OMP_NUM_THREADS, or all cores. `accelerate launch` makes 1 "
            "of that by itself: a single process that it started with 1 takes all cores, unless 1 is said here."
        },
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations without a better metric_for_best_model."}
    )
    tail_baseline: bool = field(
        default=True,
        metadata={"help": "Also train an encoder on the last T tokens of each context: the baseline to beat."},
    )
    keep_warm_start: bool = field(
        default=True,
        metadata={
            "help": "Keep the lens as its warm start left it, too: the report says what training on function changed."
        },
    )


@dataclass
class ReportArguments:
    """What the report is made of."""

    report_split: str = field(default="test", metadata={"help": "Rows to judge on; those of train flatter."})
    report_rows: int | None = field(default=None, metadata={"help": "So many of them. Default: all."})
    report_batch_size: int = field(default=64, metadata={"help": "Rows per pass."})
    report_horizon: int | None = field(
        default=None, metadata={"help": "True next positions to judge as well. Default: 8, or all that rows have."}
    )

    def __post_init__(self) -> None:
        for name in ("report_rows", "report_batch_size"):
            given = vars(self)[name]
            if given is not None and given < 2:
                raise BadInput(name, given, "Use 2 or more: each row needs a partner of another document.")


@dataclass
class ExplainArguments:
    """What `explain` shows."""

    positions: str | None = field(
        default=None,
        metadata={"help": "Tokens of the text, as in 3,5 or (with =) --positions=-2,-1. Default: all but the first."},
    )
    json: bool = field(
        default=False,
        metadata={"help": "JSON on stdout, and nothing else: an object per token; for plan, a single one."},
    )


@dataclass
class PublishArguments:
    """What goes to the Hub under which name. The token is `hub_token`, or that of this machine."""

    repo_id: str | None = field(default=None, metadata={"help": "For publish: where the lens goes, as in owner/name."})
    private: bool = field(default=False, metadata={"help": "A new repository is not for everybody."})
    space: bool = field(
        default=False, metadata={"help": "For publish: also the page to look at the lens, as a Space of that name."}
    )
    hub_dataset_id: str | None = field(
        default=None,
        metadata={"help": "Publish the rows as this dataset. Default with extract --push_to_hub: the folder's name."},
    )


@dataclass
class PlanArguments:
    """What `plan` reckons with. Speeds are those of the data sheet."""

    gpu_memory: float = field(default=80.0, metadata={"help": "GB of each GPU."})
    gpus: int = field(default=1, metadata={"help": "How many share the work."})
    tflops: float = field(default=312.0, metadata={"help": "Peak of each GPU in bfloat16, dense, TFLOP/s."})
    utilization: float = field(default=0.4, metadata={"help": "Share of that peak that long passes reach."})
    memory_bandwidth: float = field(default=2.0, metadata={"help": "Of each GPU, TB/s: what rollouts wait for."})
    link_bandwidth: float = field(default=300.0, metadata={"help": "Between GPUs of a machine, GB/s each way."})
    gpus_per_machine: int = field(default=8, metadata={"help": "More --gpus than that are several machines."})
    network_bandwidth: float = field(default=40.0, metadata={"help": "Of a GPU to other machines, GB/s each way."})
    gpu_price: float | None = field(default=None, metadata={"help": "Of one GPU for an hour, for the bill."})

    def __post_init__(self) -> None:
        for name in ("gpu_memory", "tflops", "memory_bandwidth", "link_bandwidth", "network_bandwidth"):
            if not 0 < vars(self)[name] < math.inf:
                raise BadInput(name, vars(self)[name], "Give the number of its data sheet, above 0.")
        if self.gpu_price is not None and not 0 <= self.gpu_price < math.inf:
            raise BadInput("gpu_price", self.gpu_price, "Use 0 or more.")
        for name in ("gpus", "gpus_per_machine"):
            if vars(self)[name] < 1:
                raise BadInput(name, vars(self)[name], "Use 1 or more.")
        if self.gpus > self.gpus_per_machine and self.gpus % self.gpus_per_machine:
            why = f"machines of {self.gpus_per_machine} cannot have {self.gpus} GPUs between them"
            raise BadInput("gpus", self.gpus, "Use whole machines, or give --gpus_per_machine.", why)
        if not 0 < self.utilization <= 1:
            raise BadInput("utilization", self.utilization, "Use a share above 0, and at most 1.")


# Rows and training both have a folder and a seed. In a whole run the plain names are the training's, and the rows have
# names of their own; `extract`, which trains nothing, takes either.
OWN_NAMES = {"output_dir": "activations_dir", "seed": "activations_seed"}
_OWN_HELP = {
    "activations_dir": "Folder for the rows. Default: outputs/activations, or in a whole run one with a name.",
    "activations_seed": "Of the split into train, validation and test, and of the positions.",
}
PLAN = "the plan"
GROUPS: dict[str, type] = {
    "the subject": SubjectArguments,
    "the texts": CorpusArguments,
    "the rows": ExtractArguments,
    "the lens": LensArguments,
    "training": ConsistencyLensArguments,
    "the run": RunArguments,
    "the report": ReportArguments,
    "explain": ExplainArguments,
    PLAN: PlanArguments,
    "publishing": PublishArguments,
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
INHERITED = {f.name for f in fields(TrainingArguments)} - {
    name for arguments in (LensTrainingArguments, ConsistencyLensArguments) for name in get_annotations(arguments)
}
SCHEDULES = {name for name in (f.name for f in fields(ConsistencyLensArguments)) if name.endswith("_weight")}
_CHANGED_HELP = {
    "output_dir": "Run folder. Default: outputs/{model}_{site}_{dataset}_lr{lr}_t{T}_{time}.",
    "revision": "Branch, tag or commit of the model on the Hub. For publish: the branch that is written to.",
    "resume_from_checkpoint": "Path of a checkpoint; 'true': the newest whole one in output_dir; 'auto': the same if "
    "there is one, else from the beginning; 'last-checkpoint' of hub_model_id; or one on the Hub, as in "
    "owner/name/checkpoint-40.",
    "push_to_hub": "Push the lens at each save and at the end. With extract: publish the rows as a dataset.",
    "report_to": "trackio, wandb, tensorboard or none.",
    "use_cpu": "Compute on the CPU even where there is a GPU.",
    "seed": "Of the training.",
}


def fields_of(group: str) -> dict[str, Field[Any]]:
    """Name on the command line -> field, for one group."""
    own = OWN_NAMES if GROUPS[group] is ExtractArguments else {}
    return {own.get(f.name, f.name): f for f in fields(GROUPS[group]) if f.init}


def help_of(name: str, given: Field[Any]) -> str:
    return _CHANGED_HELP.get(name) or _OWN_HELP.get(name) or str(given.metadata.get("help", "")).replace("%%", "%")


def names() -> list[str]:
    """All that a recipe may set."""
    return [name for group in GROUPS for name in fields_of(group)]


def kinds() -> dict[str, Any]:
    """Name -> type."""
    found: dict[str, Any] = {}
    for group, arguments in GROUPS.items():
        hints = get_type_hints(arguments)
        found |= {name: hints[f.name] for name, f in fields_of(group).items()}
    return found | {"activations_dir": str | None}


def options_class() -> type:
    """All fields in one class, for the parser: a field that two dataclasses share stands there once."""
    types, specs = kinds(), []
    for group in GROUPS:
        for name, given in fields_of(group).items():
            default = None if name == "activations_dir" else given.default
            metadata = dict(given.metadata) | {"help": help_of(name, given).replace("%", "%%")}
            if given.default_factory is not MISSING:
                made = field(default_factory=given.default_factory, metadata=metadata)
            else:
                made = field(default=default, metadata=metadata)
            specs.append((name, types[name], made))
    return make_dataclass("Options", specs)
