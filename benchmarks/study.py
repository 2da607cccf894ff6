"""What makes a good lens: one change at a time to a recipe, every lens judged on the same held-out rows.

    python run_lens.py extract --config demo
    python benchmarks/study.py --activations outputs/demo-activations --out outputs/study --workers 2   # hours
    python benchmarks/study.py --activations outputs/demo-activations --out outputs/study --scale 0.2 --rows 500
    python benchmarks/study.py --activations outputs/demo-activations --out outputs/study --markdown docs/study.md

Whatever a variant does not change is as the recipe says, the number of steps too (`--scale` shortens both stages).
There are two groups. Variants of the functional stage begin from one and the same warm start and are given the same
processor time behind it: how long a step takes is measured against a step of the recipe, in turn, in one process. What
changes the warm start has one of its own, and the recipe's steps. `warm start none` gets the time of both stages.
The functional stage begins with a new optimizer; a run of the recipe in one go carries its moments over.

Each row is written when it is there and not made again; a row that was interrupted begins anew, from its warm start.
One that fails, or whose process dies, is noted in the table, and the others go on; the same command tries it again.
With `--markdown PAGE` the tables go between the markers of that page, the pictures into `images` beside it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import PartialState
from harness import arguments, report
from study_tables import Row, draw, failure, fill, numbers, show
from study_variants import LENGTHS, RECIPE, Variant, variants_of
from transformers import PrinterCallback, ProgressCallback
from transformers.utils import logging as transformers_logging
from workers import Workers

from consistency_lens import Report, evaluate_lens
from consistency_lens.activations import Activations
from consistency_lens.auto import world_of
from consistency_lens.base.saving.lens_files import load_files
from consistency_lens.cli.opening import load_model, model_path
from consistency_lens.cli.parsing.request import Request, parse
from consistency_lens.files import write_whole
from consistency_lens.text.modeling import ConsistencyLens
from consistency_lens.text.trainer import ConsistencyLensTrainer

QUIET: dict[str, Any] = {
    "report_to": "none",
    "eval_strategy": "no",
    "save_strategy": "no",
    "sample_steps": 0,
    "load_best_model_at_end": False,
    "push_to_hub": False,
    "resume_from_checkpoint": None,
    "use_cpu": True,
    "disable_tqdm": True,
}
HORIZON = 8  # of a report, where the recipe names none
ROUNDS = 5  # steps of a variant and of the recipe, in turn, whose times are compared


class Study:
    """The variants of one folder: subject and rows are loaded once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, Path(options.out)
        self.recipe = recipe_of(options)
        self.variants = variants_of(self.recipe)
        PartialState(cpu=True)
        subject = Request("train", self.recipe).subject
        self.frozen = load_model(model_path(subject), subject)
        self.activations = Activations.load(options.activations, verify=False)

    # ---- warm starts

    def warm(self, name: str) -> str:
        """Train the warm start that this variant and others begin from."""
        lens, trainer = self.trainer(self.variants[name].changes, self.warm_steps, self.warm_steps)
        begun = time.process_time()
        trainer.train()
        folder = self.folder(name)
        part = folder.with_name(f".{folder.name}")
        shutil.rmtree(part, ignore_errors=True)
        lens.save_pretrained(part)
        (part / "seconds.json").write_text(json.dumps(time.process_time() - begun))
        part.rename(folder)
        return name

    def folder(self, start: str) -> Path:
        return self.out / "warm" / self.variants[start].slug

    # ---- rows

    def row(self, name: str) -> str:
        """Train a variant behind its warm start, judge it, write what was found."""
        variant, steps, seconds = self.variants[name], 0, 0.0
        if variant.functional:
            steps = self.steps_of(variant)
            lens, trainer = self.behind(variant, steps)
            begun = time.process_time()
            trainer.train()
            seconds = time.process_time() - begun
        else:
            lens, _ = self.behind(variant, 1)
        split = self.recipe["report_split"]
        held, ahead = int(self.activations.metadata["rules"]["continuation_length"]), self.recipe["report_horizon"]
        ahead = min(HORIZON, held) if ahead is None else ahead
        known = world_of(lens).options(lens, self.activations, split)
        found = evaluate_lens(
            lens, self.frozen, self.activations, split=split, max_rows=self.options.rows, progress=False,
            batch_size=self.recipe["report_batch_size"], horizon=ahead, **known,
        )  # fmt: skip
        found.save(self.out / "reports" / variant.slug)
        row = {"variant": name, "group": variant.group, "steps": steps, "seconds": seconds, **numbers(found)}
        write_whole(row_file(self.out, variant), json.dumps(row, indent=1).encode())
        return name

    def behind(self, variant: Variant, steps: int) -> tuple[ConsistencyLens, ConsistencyLensTrainer]:
        """A lens at the end of its warm start, and a trainer for what comes then."""
        lens, trainer = self.trainer(variant.changes, steps, 0)
        if variant.start is not None:
            load_files(lens.files(), self.folder(variant.start))
        trainer.remember_decoder()
        return lens, trainer

    def steps_of(self, variant: Variant) -> int:
        """The recipe's steps; for what is compared at equal seconds, as many as take as long."""
        of_recipe = self.functional_steps
        if variant.name == RECIPE or variant.start not in (RECIPE, None):
            return of_recipe
        own, recipe = self.seconds_per_step(variant, self.variants[RECIPE])
        budget = of_recipe * recipe
        if variant.start is None:
            budget += float((self.folder(RECIPE) / "seconds.json").read_text())
        return max(1, round(budget / own))

    def seconds_per_step(self, *variants: Variant) -> list[float]:
        """Processor time of forward and backward, one step of each in turn."""
        trainers = [self.behind(variant, 1)[1] for variant in variants]
        for trainer in trainers:
            trainer.state.max_steps = self.functional_steps  # whether starting texts are made in advance hangs on it
        seconds: list[list[float]] = [[] for _ in variants]
        for turn in range(ROUNDS + 1):
            for trainer, times in zip(trainers, seconds, strict=True):
                trainer.current_gradient_accumulation_steps = 1
                batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
                begun = time.process_time()
                trainer.training_step(trainer.lens, batch)
                if turn:  # the first one makes what is kept
                    times.append(time.process_time() - begun)
                trainer.lens.zero_grad(set_to_none=True)
        return [median(times) for times in seconds]

    # ---- both

    @property
    def warm_steps(self) -> int:
        return max(1, round(self.options.scale * self.recipe["warm_steps"]))

    @property
    def functional_steps(self) -> int:
        return max(1, round(self.options.scale * (self.recipe["max_steps"] - self.recipe["warm_steps"])))

    def trainer(self, changes: Any, steps: int, warm_steps: int) -> tuple[ConsistencyLens, ConsistencyLensTrainer]:
        request = Request("train", self.recipe | dict(changes))
        family = request.family
        lens = family.new_lens(self.frozen, self.activations, family.sites(self.activations.sites))
        own = {"output_dir": str(self.out / "runs"), "max_steps": steps, "warm_steps": warm_steps}
        trainer = ConsistencyLensTrainer(lens, request.training(**own, **QUIET), self.activations, frozen=self.frozen)
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        return lens, trainer


def recipe_of(options: argparse.Namespace) -> dict[str, Any]:
    """Every field of the recipe, with the seed of this study."""
    return parse(["train", "--config", options.recipe]).values | {"seed": options.seed}


def row_file(out: Path, variant: Variant) -> Path:
    return out / "rows" / f"{variant.slug}.json"


# ---- several processes

_study: Study | None = None


def open_study(options: argparse.Namespace) -> None:
    """In each worker, once."""
    global _study
    torch.set_num_threads(options.threads or 1)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    _study = Study(options)


def work(kind: str, name: str) -> str:
    assert _study is not None
    return _study.warm(name) if kind == "warm" else _study.row(name)


def make(options: argparse.Namespace, variants: list[Variant]) -> Iterator[tuple[str, str]]:
    """Make what is missing; yields the name of each row that is finished, and what went wrong if it failed. A row
    waits for its warm start, and goes before warm starts that are not begun."""
    out, known = Path(options.out), variants_of(recipe_of(options))
    rows = [v for v in variants if not row_file(out, v).is_file()]
    # `warm start none` needs to know how long the recipe's takes.
    waiting = {v.name: v.start or RECIPE for v in rows}
    starts = [s for s in dict.fromkeys(waiting.values()) if not (out / "warm" / known[s].slug).is_dir()]
    ready = [("row", name) for name, start in waiting.items() if start not in starts]
    with Workers(options.workers, open_study, options) as workers:
        while ready or starts or workers.running:
            while (ready or starts) and workers.idle:
                job = ready.pop(0) if ready else ("warm", starts.pop(0))
                workers.start(job, work, *job)
            for (kind, name), error in workers.finished():
                if kind == "row":
                    yield name, repr(error) if error else ""
                    continue
                behind = [row for row, start in waiting.items() if start == name]
                if error is None:
                    ready += [("row", row) for row in behind]
                else:
                    yield from ((row, f"its warm start, {name!r}: {error!r}") for row in behind)


def require_same_study(options: argparse.Namespace) -> None:
    """Rows of one folder are of one recipe: what differs is said, and nothing is mixed."""
    asked = {name: vars(options)[name] for name in ("scale", "rows", "activations")} | recipe_of(options)
    asked = json.loads(json.dumps(asked, default=str))
    path = Path(options.out) / "study.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asked, indent=1).encode())
        return
    kept = json.loads(path.read_text(encoding="utf-8"))
    for name in kept | asked:
        if kept.get(name) != asked.get(name):
            sys.exit(
                f"--out: {options.out} holds rows with {name}={kept.get(name)!r}, asked for is {asked.get(name)!r}. "
                "Name another folder, or delete that one."
            )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--activations", required=True, help="rows of the recipe's subject: run_lens.py extract")
    parser.add_argument("--out", required=True, help="folder for warm starts, reports and rows of the table")
    parser.add_argument("--recipe", default="demo", help="name or path")
    parser.add_argument("--only", nargs="+", help="names of variants; default all")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the steps of both stages")
    parser.add_argument("--rows", type=int, default=1500, help="test rows that every lens is judged on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes, one thread each (--threads)")
    parser.add_argument("--markdown", type=Path, help="page whose tables are written again; pictures beside it")
    options = parser.parse_args()
    variants = variants_of(recipe_of(options))
    unknown = set(options.only or ()) - variants.keys()
    if unknown:
        sys.exit(f"--only: no variant {sorted(unknown)[0]!r}; there are: {', '.join(variants)}")
    require_same_study(options)
    (Path(options.out) / "rows").mkdir(exist_ok=True)
    chosen = [v for name, v in variants.items() if not options.only or name in options.only]
    failed: dict[str, str] = {}
    for name, why in make(options, chosen):
        print(f"{time.strftime('%H:%M')}  {name}{why and f' FAILED: {why}'}", flush=True)
        failed |= {name: why} if why else {}
    finish(options, list(variants.values()), failed)
    missing = [v.name for v in chosen if not row_file(Path(options.out), v).is_file()]
    if missing:
        sys.exit(f"not made: {', '.join(missing)}. The same command tries them again.")


def finish(options: argparse.Namespace, variants: list[Variant], failed: Mapping[str, str]) -> None:
    """Tables and pictures of all the rows that are in the folder; the tables say which have failed."""
    out = Path(options.out)
    rows: list[Row] = []
    tables: list[Row] = []
    for variant in variants:
        file = row_file(out, variant)
        if file.is_file():
            rows.append(json.loads(file.read_text(encoding="utf-8")))
            tables.append(rows[-1])
        elif variant.name in failed:
            tables.append(failure(variant.name, variant.group, failed[variant.name]))
    show(tables)
    there = {row["variant"] for row in rows}
    own_length = int(recipe_of(options)["code_length"])
    names = {length: RECIPE if length == own_length else f"T = {length}" for length in LENGTHS}
    slugs = {length: Variant(name).slug for length, name in names.items() if name in there}
    reports = {length: Report.load(out / "reports" / slug) for length, slug in slugs.items()}
    draw(rows, reports, out)
    if options.markdown:
        fill(options.markdown, tables)
        draw(rows, reports, options.markdown.parent / "images")
    report(options.json, "cpu", {n: v for n, v in vars(options).items() if n != "json"}, tables)


if __name__ == "__main__":
    main()
