"""The options that all families share: one dataclass for each thing that a run is about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...auto import DEFAULT_FAMILY
from ...base.configuration import ONE_MODEL
from ...errors import BadInput
from ...frozen.loading.load import ATTENTION, DTYPES, QUANTIZATION
from ...options import option


@dataclass
class SubjectArguments:
    """The frozen LLM under study."""

    model_name_or_path: str | None = option(
        None, "Model: its Hub id, a local folder or .gguf file, or 'demo' for the offline one."
    )
    other_models: list[str] = option(
        [], "Further models of a lens that serves several, each as NAME=ID; the first is named base."
    )
    gguf_file: str | None = option(
        None, "Name of a .gguf file in that folder or repository, which is loaded instead of its other weights."
    )
    revision: str | None = option(None, "Branch, tag or commit of the model on the Hub.")
    dtype: str = option("auto", "Dtype of the weights. auto: as in the checkpoint.", DTYPES)
    quantization: str = option("none", "Quantization of the weights, by bitsandbytes; fp8 by torchao.", QUANTIZATION)
    attn_implementation: str = option(
        "auto", "Attention implementation. auto: the fastest that is installed and supported.", ATTENTION
    )
    device_map: str | None = option(
        None, "Device map, as in transformers ('auto' splits a large model). Default: the device of the process."
    )

    trust_remote_code: bool = option(
        False,
        "Permission to run the code that lies beside the models named here; it can do whatever you can. Given on the "
        "command line alone: no recipe and no lens gives it.",
    )

    sequential: bool = option(
        False, "One model at a time on the device, of a lens that serves several; the others wait in the CPU's memory."
    )

    def __post_init__(self) -> None:
        if self.sequential and self.device_map is not None:
            fix = "Leave out device_map, or sequential."
            raise BadInput("sequential", True, fix, why="a device map says where all models lie")

    @property
    def others(self) -> dict[str, str]:
        """Name -> place of each further model."""
        found: dict[str, str] = {}
        for given in self.other_models:
            name, equals, place = given.partition("=")
            if not (name and equals and place) or name in (ONE_MODEL, *found):
                fix = f"Write NAME=ID with another name for each; {ONE_MODEL} is that of model_name_or_path."
                raise BadInput("other_models", given, fix)
            found[name] = place
        return found

    def loading(self) -> dict[str, Any]:
        """How to load it, wherever it lies."""
        names = ("revision", "dtype", "quantization", "attn_implementation", "trust_remote_code")
        return {name: vars(self)[name] for name in names}


@dataclass
class RunArguments:
    """The run itself."""

    family: str = option(DEFAULT_FAMILY, "Family of the lens, named after the medium of its code.")
    activations: str | None = option(
        None, "Folder or Hub dataset of activations that are there already. Default: activations_dir."
    )
    stream_activations: bool = option(
        False,
        "Training rows are read from the corpus during training and never stored; held-out rows and the mean come "
        "from --activations, made of the same corpus by the same rules.",
    )
    stream_buffer: int = option(4096, "Number of rows of the stream that are shuffled together.")
    lens: str | None = option(
        None, "Lens to evaluate or explain with: a run folder, a lens folder, or an id on the Hub."
    )
    cpu_threads: int | None = option(
        None,
        "Number of CPU threads of each process. Default: OMP_NUM_THREADS; where nobody set it, all cores, and a "
        "training times its steps and goes on with one thread where other work makes that faster. A fixed number "
        "repeats a training digit for digit.",
    )
    early_stopping_patience: int | None = option(
        None, "Number of evaluations without a better metric_for_best_model after which training stops."
    )


@dataclass
class ReportArguments:
    """What the report is made of."""

    report_split: str = option("test", "Split that the report is made on; train flatters.")
    report_rows: int | None = option(None, "Number of rows in the report, drawn from all documents. Default: all.")
    report_batch_size: int = option(64, "Number of rows per pass.")
    report_horizon: int | None = option(
        None, "Number of true next positions that the report compares as well. Default: 8, or all that rows have."
    )
    full_report: bool = option(
        False, "Full report: every table is shown, and not the headline alone; report.md has them anyway."
    )

    def __post_init__(self) -> None:
        for name in ("report_rows", "report_batch_size"):
            given = vars(self)[name]
            if given is not None and given < 2:
                raise BadInput(name, given, "Use 2 or more: each row needs a partner of another document.")


@dataclass
class ExplainArguments:
    """What `explain` shows."""

    positions: str | None = option(
        None,
        "Positions of tokens to explain, as in 3,5 or 2:10 or (with =) --positions=-2,-1. Default: all but the first.",
    )
    output: str | None = field(
        default=None,
        metadata={
            "aliases": ["-o"],
            "help": "File that explain writes, -o F.parquet or -o F.jsonl, and compress, -o F.wire. An explain "
            "that was killed goes on where it was.",
        },
    )
    json: bool = option(False, "JSON on stdout and nothing else: an object per token, or a single one for a command.")


@dataclass
class ExportArguments:
    """What `export` writes, and where to; the folder stands behind the command."""

    to: str | None = option(
        None,
        "Tool that the lens is exported to, as in circuit-tracer; for skill, the folder of skills (default "
        ".agents/skills).",
    )
    subfolder: str | None = option(
        None,
        "Folder within repo_id that the export is published in. Default: the name of the tool, where --repo_id is "
        "given.",
    )


@dataclass
class PublishArguments:
    """What goes to the Hub under which name. The token is `hub_token`, or that of this machine."""

    repo_id: str | None = option(None, "Repository that publish writes to, as in owner/name.")
    private: bool = option(False, "Private: a new repository is visible to its owner alone.")
    space: bool = option(False, "Space: publish also puts the explorer of the lens there, as a Space of that name.")
    hub_dataset_id: str | None = option(
        None, "Dataset repository for the rows. Default with extract --push_to_hub: the folder's name."
    )
