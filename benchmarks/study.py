"""What makes a good lens: one change at a time to the demo's recipe, each variant with the same seconds of training.

    python benchmarks/study.py --activations outputs/demo-activations --out outputs/study  # an hour
    python benchmarks/study.py --activations outputs/demo-activations --out outputs/study --only "KL alone" default

The offline subject is read at its usual site. Variants that differ behind the warm start begin from one and the same
warm start. Every lens is judged on the same held-out rows; each row of the table is written as soon as it is there,
and what is in the folder already is not done again.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from harness import arguments, report
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging

from consistency_lens.activations import Activations
from consistency_lens.base.saving import load_files
from consistency_lens.demo.judge import FactJudge, reword_all
from consistency_lens.demo.subject import load_subject
from consistency_lens.evaluation import Report, evaluate_lens
from consistency_lens.evaluation.plots import rate_fidelity
from consistency_lens.frozen import FrozenLM
from consistency_lens.text.arguments import ConsistencyLensArguments
from consistency_lens.text.modeling import ConsistencyLens
from consistency_lens.text.trainer import ConsistencyLensTrainer

SITE = "resid_post.1"
RECIPE: dict[str, Any] = {
    "per_device_train_batch_size": 48,
    "kl_horizon": 8,
    "warm_learning_rate": 2e-3,
    "decoder_learning_rate": 1e-4,
    "encoder_learning_rate": 5e-4,
    "maps_learning_rate": 5e-4,
    "lr_scheduler_type": "cosine",
    "lm_weight": "0.02",
    "delta": "off",
    "anchor": "none",
}


@dataclass(frozen=True)
class Variant:
    """One change to the recipe. `warm` names the warm start that it begins from: text, how sure of it, T."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    warm: tuple[str, float, int] = ("onward", 0.3, 8)
    functional: bool = True


VARIANTS = (
    Variant("warm start alone", functional=False),
    Variant("default"),
    Variant("KL alone", {"mse_weight": "0"}),
    Variant("MSE alone", {"kl_weight": "0"}),
    Variant("delta stopgrad", {"delta": "stopgrad"}),
    Variant("delta grad", {"delta": "grad"}),
    Variant("grounding .1", {"ground_weight": "0.1"}),
    Variant("no LM term", {"lm_weight": "0"}),
    Variant("parallel", {"estimator": "parallel", "temperature": 0.3, "decoder_learning_rate": 3e-5}),
    Variant("sequential", {"estimator": "sequential", "temperature": 0.3, "decoder_learning_rate": 3e-5}),
    Variant("decoder frozen", {"estimator": "none"}),
    Variant("anchor frozen", {"anchor": "frozen"}),
    Variant("anchor replay", {"anchor": "replay"}),
    Variant("anchor paraphrase", {"anchor": "paraphrase"}),
    Variant("warm context", warm=("context", 0.0, 8)),
    Variant("warm continuation", warm=("continuation", 0.0, 8)),
    Variant("warm summary", warm=("summary", 0.0, 8)),
    Variant("warm span", warm=("span", 0.0, 8)),
    Variant("warm onward", warm=("onward", 0.0, 8)),
    Variant("warm onward .1", warm=("onward", 0.1, 8)),
    Variant("warm onward .2", warm=("onward", 0.2, 8)),
    Variant("warm onward .5", warm=("onward", 0.5, 8)),
    Variant("T = 2", warm=("onward", 0.3, 2)),
    Variant("T = 4", warm=("onward", 0.3, 4)),
    Variant("T = 16", warm=("onward", 0.3, 16)),
)


class Deadline(TrainerCallback):
    """Ends a stage after so many seconds of its own: variants are compared at equal time, not at equal steps."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.begun = seconds, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begun = time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if time.process_time() - self.begun > self.seconds:
            control.should_training_stop = True


class Study:
    """The variants of one folder."""

    def __init__(self, options: Any) -> None:
        self.options, self.out = options, Path(options.out)
        self.frozen: FrozenLM = load_subject(progress=False)
        self.activations = Activations.load(options.activations, verify=False)

    def train(self, name: str, length: int, start: Path | None, **changes: Any) -> tuple[ConsistencyLens, int, float]:
        """One stage. With `start`, the functional one, from the weights of a warm start."""
        torch.manual_seed(self.options.seed)
        lens = ConsistencyLens.from_subject(self.frozen, SITE, code_length=length)
        warm = start is None
        settings = RECIPE | changes
        steps = self.options.warm_steps if warm else self.options.steps
        settings |= {"max_steps": steps, "warm_steps": steps if warm else 0, "seed": self.options.seed}
        training = ConsistencyLensArguments(
            output_dir=str(self.out / "runs" / name), report_to="none", save_strategy="no", use_cpu=True,
            disable_tqdm=True, logging_steps=50, **settings,
        )  # fmt: skip
        trainer = ConsistencyLensTrainer(lens, self.frozen, training, self.activations)
        if start is not None:
            load_files(lens.files(), start)
            trainer.remember_decoder()
            trainer.add_callback(Deadline(self.options.seconds))
        begun = time.process_time()
        trainer.train()
        return lens, trainer.state.global_step, time.process_time() - begun

    def warm(self, text: str, sure: float, length: int) -> Path:
        """The folder of a warm start, trained where there is none yet."""
        folder = self.out / "warm" / f"{text}-{sure:g}-{length}"
        if not (folder / "config.json").is_file():
            lens, _, _ = self.train(folder.name, length, None, warm_start=text, warm_sure=sure)
            lens.save_pretrained(folder)
        return folder

    def run(self, variant: Variant) -> dict[str, Any]:
        path = self.out / f"{variant.name.replace(' ', '-')}.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        warm = self.warm(*variant.warm)
        steps, seconds = 0, 0.0
        if variant.functional:
            # A deadline ends the stage: a schedule of the steps would stop somewhere in its middle.
            changes = {"lr_scheduler_type": "constant", "warm_start": variant.warm[0]} | variant.changes
            lens, steps, seconds = self.train(variant.name.replace(" ", "-"), variant.warm[-1], warm, **changes)
        else:
            lens = ConsistencyLens.from_pretrained(warm, subject=self.frozen)
        found = self.judge(lens)
        row = {"variant": variant.name, "steps": steps, "seconds": seconds, **numbers(found)}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row, indent=1), encoding="utf-8")
        found.save(self.out / "reports" / variant.name.replace(" ", "-"))
        return row

    def judge(self, lens: ConsistencyLens) -> Report:
        return evaluate_lens(
            lens, self.frozen, self.activations, max_rows=self.options.rows, judges=[FactJudge()], reword=reword_all,
            progress=False,
        )  # fmt: skip


def numbers(found: Report) -> dict[str, Any]:
    """What the table shows, each with its interval."""
    record = found.to_dict()
    lens, facts = record["parts"]["all"]["numbers"]["lens"], record["parts"]["fact_positions"]["numbers"]["lens"]
    rows = {name: lens[name] for name in ("kl_recovered", "kl_horizon_recovered", "top1", "fve") if name in lens}
    rows |= {"facts kl_recovered": facts["kl_recovered"], "facts top1": facts["top1"]}
    rows |= {name: record["judged"]["lens"][name] for name in record["judged"]["lens"]}
    rows |= {name: record["traits"][name] for name in ("text_nll", "distinct", "length") if name in record["traits"]}
    return rows | {"retention": record["retention"].get("reworded", {}).get("kl_recovered")}


def show(rows: list[dict[str, Any]]) -> None:
    shown = [name for name in rows[0] if name not in ("variant", "retention")]
    table = Table(header_style="dim", box=None)
    for name in ("variant", *shown, "survives rewording"):
        table.add_column(name.replace("_", " "), justify="left" if name == "variant" else "right")
    for row in rows:
        cells = [cell(row.get(name)) for name in shown]
        table.add_row(row["variant"], *cells, cell(row["retention"]))
    Console(width=220).print(table)


def draw_frontier(rows: list[dict[str, Any]], path: Path) -> None:
    """Fidelity against two ways of meaning what one says: words that are true, words that survive rewording."""
    figure = Figure(figsize=(11, 4.6), dpi=150, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    across = ("fact_precision", "retention"), ("fact_precision over all rows", "share that survives rewording")
    for axes, name, label in zip(panels, *across, strict=True):
        for row in rows:
            if row.get(name) is None:
                continue
            at = row[name]["value"], row["kl_recovered"]["value"]
            ours = row["variant"] == "default"
            axes.scatter(*at, s=46 if ours else 22, color="#b2182b" if ours else "#4c72b0", zorder=3 if ours else 2)
            axes.annotate(row["variant"], at, (5, 3), textcoords="offset points", fontsize=7.5)
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("kl_recovered")
    figure.savefig(path)


def cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (int, float)):
        return f"{value:.0f}"
    number = value["value"] if isinstance(value, dict) else value[0]
    return f"{number:.3f}"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--activations", required=True, help="rows of the offline subject: run_lens.py extract")
    parser.add_argument("--out", required=True, help="folder for warm starts, reports and rows of the table")
    parser.add_argument("--only", nargs="+", help="names of variants; default all")
    parser.add_argument("--warm_steps", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=10_000, help="of the functional stage at most")
    parser.add_argument("--seconds", type=float, default=120, help="of processor time for the functional stage")
    parser.add_argument("--rows", type=int, default=1500, help="test rows that every lens is judged on")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    unknown = set(options.only or ()) - {variant.name for variant in VARIANTS}
    if unknown:
        sys.exit(f"--only: no variant {sorted(unknown)[0]!r}; there are: {', '.join(v.name for v in VARIANTS)}")
    study, rows = Study(options), []
    for variant in VARIANTS:
        if not options.only or variant.name in options.only:
            rows.append(study.run(variant))
            show(rows)
    draw_frontier(rows, study.out / "frontier.png")
    lengths = {f"T = {length}": length for length in (2, 4, 16)} | {"default": 8}
    reports = {
        length: Report.load(study.out / "reports" / name.replace(" ", "-"))
        for name, length in lengths.items()
        if name in {row["variant"] for row in rows}
    }
    if len(reports) > 1:
        rate_fidelity(reports, study.out / "rate_fidelity.png")
    report(options.json, "cpu", {n: v for n, v in vars(options).items() if n != "json"}, rows)


if __name__ == "__main__":
    main()
