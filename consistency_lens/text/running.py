"""`TextRun`: what a run of the command line does for a lens that speaks in words, and for no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed

from ..activations import Activations, ExtractArguments, Extraction
from ..base.engines.engine import Engine
from ..base.explaining import Positions
from ..base.family_run import FamilyRun, Plan, Run
from ..base.modeling import LensModel
from ..base.trainer import LensTrainer
from ..errors import BadInput
from ..frozen import FrozenLM
from ..frozen.anatomy.parts import longest_context
from .configuration import require_injection, require_site
from .layers import SITE
from .modeling import ConsistencyLens
from .options import BaselineOptions, LayerOptions, LensOptions, PlanOptions, SteerOptions
from .parts.sites import numbered
from .planning.foreseen import require_contexts, require_model, too_long
from .report.definitions import FRESH_ENCODER, TRAINED_GREEDY, TRAINED_TAIL
from .starting.baseline import FRESH, GREEDY, TAIL, baseline_of_run
from .starting.source import require_evidence
from .use.commands import USES

WARM = "warm_lens"  # the lens as its warm start left it, in the folder of a run


class KeepWarmStart(TrainerCallback):
    """Saves the lens once more where its warm start ends, if it goes on from there."""

    def __init__(self, trainer: LensTrainer, folder: Path) -> None:
        self.trainer, self.folder = trainer, folder

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        ends = [end for _, end in self.trainer.args.stages(state.max_steps)]
        if state.global_step in ends and state.global_step < state.max_steps:
            self.trainer.save_lens(self.folder)


class TextRun(FamilyRun):
    lens_options = LensOptions
    data_options = ExtractArguments
    extraction = Extraction
    data = Activations
    more_options: ClassVar = {
        "the baselines": BaselineOptions,
        "the plan": PlanOptions,
        "layers": LayerOptions,
        "steering": SteerOptions,
    }
    read_by: ClassVar = {"the plan": ("plan",), "layers": ("explain",), "steering": ("steer",)}
    uses = USES
    explain_options = ("layers",)
    across = SITE
    commands = ("plan",)
    companions = (TAIL, GREEDY, FRESH, WARM)
    memory_advice = (
        "lower --rollouts, or --estimator parallel",
        "--activation_checkpointing",
        "lower --code_length",
        "--trainable lora instead of full, with a lower --lora_rank",
    )

    @property
    def tag(self) -> str:
        return f"_t{self.values['code_length']}"

    def sites(self, offered: Sequence[str]) -> list[str]:
        """The one that is named, or all."""
        chosen = [named] if (named := self.values["site"]) is not None else list(offered)
        for site in chosen:
            require_site(site)
        return chosen

    def require_lens(self, config: Mapping[str, Any]) -> None:
        if self.values["layers"] is not None:
            numbered(config["sites"], self.values["layers"])

    def explain(self, lens: Any, text: str, positions: Positions) -> list[dict[str, Any]]:
        layers = self.values["layers"]
        return lens.explain(text, positions) if layers is None else lens.explain(text, positions, layers=layers)

    def require_options(self, whole_run: bool) -> None:
        horizon, following = self.values["kl_horizon"], self.values["continuation_length"]
        if whole_run and horizon > following:
            fix = f"Use at most continuation_length={following}, or raise that."
            raise BadInput("kl_horizon", horizon, fix)

    def require_model(self, config: Any, tokenizer: Any) -> None:
        require_model(self.values, config, tokenizer)
        require_injection(self.values["injection"], config.get_text_config().num_hidden_layers)

    def require_extraction(self, extraction: Extraction) -> None:
        require_contexts(self.values, extraction, longest_context(extraction.config))

    def require_data(self, data: Activations) -> None:
        horizon, longest = self.values["kl_horizon"], int(data.metadata["rules"]["continuation_length"])
        if horizon > longest:
            fix = f"Use at most {longest}, or extract with a larger continuation_length."
            raise BadInput("kl_horizon", horizon, fix)

    def require_engine(self, engine: Engine) -> None:
        require_evidence(self.values, engine.spreads_weights)
        for name in ("tail_baseline", "fresh_encoder"):
            if engine.spreads_weights and self.values[name]:
                why = f"under {engine.name} no process holds the weights when the training is over"
                fix = f"Use --{name} false; run_lens.py evaluate makes the report afterwards, in one process."
                raise BadInput(name, True, fix, why)

    def streamed(
        self,
        extraction: Extraction,
        data: Activations,
        frozen: FrozenLM,
        within: Callable[[Callable[[], Any]], Any],
        buffer: int,
    ) -> Activations:
        rows = extraction.stream(frozen, dtype=data.metadata["dtype"], within=within)
        return data.streaming(rows.shuffle(seed=self.values["seed"], buffer_size=buffer).repeat(None))

    def first_of(self, data: Activations, tokenizer: Any) -> list[str]:
        row = data.splits["train"][0]
        context, following = tokenizer.decode(row["input_ids"]), tokenizer.decode(row["continuation_ids"])
        lines = [f"first row: document {row['doc_id']}, position {row['position']}", f"{context} | {following}"]
        for site in data.sites:
            vector = data.splits["train"].with_format("numpy")[0][site]
            shown = " ".join(f"{x:+.2f}" for x in vector[:6])
            lines.append(f"{site} [{shown} ...] {vector.dtype}, norm {(vector**2).sum() ** 0.5:.2f}")
        return lines

    def new_lens(self, frozen: FrozenLM, data: Activations, sites: Sequence[str]) -> ConsistencyLens:
        self.require_model(frozen.model.config, frozen.tokenizer)
        set_seed(self.values["seed"])
        settings = {key: value for key, value in asdict(self.part(LensOptions)).items() if key != "site"}
        lens = ConsistencyLens.from_subject(frozen, list(sites), data, **settings)
        _require_length(lens, frozen, data)
        return lens

    def plan(self, config: Any, data_options: ExtractArguments, given: frozenset[str]) -> Plan:
        from .planning.plan import Asked, plan

        return plan(config, Asked(self.values, given, self.part(PlanOptions)), data_options)

    def callbacks(self, trainer: LensTrainer, folder: Path) -> list[TrainerCallback]:
        return [KeepWarmStart(trainer, folder / WARM)] if self.values["keep_warm_start"] else []

    def report_options(self, companions: Mapping[str, LensModel]) -> dict[str, Any]:
        """The encoders of texts that no decoder wrote as rivals, the warm start as the earlier moment."""
        options: dict[str, Any] = {}
        rivals = {TRAINED_TAIL: TAIL, TRAINED_GREEDY: GREEDY, FRESH_ENCODER: FRESH}
        if found := {name: companions[folder] for name, folder in rivals.items() if folder in companions}:
            options["rivals"] = found
        if WARM in companions:
            options["before"] = companions[WARM]
        return options

    def report_form(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """How the starting texts deal with a guess: the text that needs no decoder has the same form."""
        return {"sure": float(settings.get("warm_sure") or 0.0), "vague": settings.get("warm_vague")}

    def after_training(self, run: Run, lens: LensModel, data: Activations, steps: int) -> None:
        """Train the encoders of context tails, of what the model says next and of the lens's own texts; those of an
        interrupted run are taken where they were finished."""
        assert isinstance(lens, ConsistencyLens)
        writers = dict.fromkeys((TAIL, GREEDY) if self.values["tail_baseline"] else ())
        for name, writer in (writers | ({FRESH: lens} if self.values["fresh_encoder"] else {})).items():
            frozen = run.model_for_another(lens)
            baseline_of_run(run, self.new_lens(frozen, data, lens.config.sites or []), data, steps, name, writer)


def _require_length(lens: ConsistencyLens, frozen: FrozenLM, activations: Activations) -> None:
    """Raise where the model cannot read the longest context with a prompt and a text behind it, as evaluation asks."""
    import pyarrow.compute as pc

    positions = [rows.data.column("position") for rows in activations.splits.values() if len(rows)]
    longest = 1 + max(pc.max(column).as_py() for column in positions)
    asked = len(lens.config.prompt_ids or []) - 2 + lens.config.code_length
    if longest + asked > frozen.max_length:
        rules = activations.metadata["rules"]
        raise too_long(rules["max_length"], longest, asked, frozen.max_length, rules["min_position"])
