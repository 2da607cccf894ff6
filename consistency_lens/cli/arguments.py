"""The options that all families share: one dataclass for each thing that a run is about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import BadInput
from ..frozen.frozen_lm import ATTENTION, DTYPES, QUANTIZATION


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
class RunArguments:
    """The run itself."""

    family: str = field(default="text", metadata={"help": "Family of the lens, named after the medium of its code."})
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
