"""`run_lens.py evaluate`: the report of a lens, and a few of its explanations."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ...activations import Activations
from ...auto import (
    AutoLens,
    evaluate_lens,
    family_at,
    family_of,
    is_ours,
    lens_folder,
    read_config,
    report_of,
    world_of,
)
from ...base.comparing.rows import CLOSE, OPEN
from ...base.configuration import ONE_MODEL
from ...base.modeling import LensModel
from ...base.saving.lens_card import TrainingRecord
from ...card.columns import PREDICTIONS, heading, shown
from ...errors import BadInput
from ...evaluation import Report
from ...evaluation.examples import examples
from ...finding import find_subject
from ...frozen import FrozenLM, FrozenModels
from ..final_card import finish_card
from ..opening import console, device_of, in_turn, load_model, load_others, model_path, open_data, short
from ..parsing.request import Request, run_of
from ..run_folder import HISTORY, REPORT, Log, read_history

SHOWN, WORDS, HORIZON = 4, 14, 8


def evaluate(request: Request, exits: ExitStack) -> Report:
    """Evaluate a lens that is saved. The report goes into output_dir, or else beside the lens."""
    home, split = run_of(named_lens(request)), request.report.report_split
    try:
        activations = open_data(request)
    except BadInput:
        require_family(request)  # data of another kind, for a lens of another family, has nothing wrong with it
        raise
    require_split(activations, split)
    require_family(request)
    home_of_lens = Path(lens_folder(named_lens(request)))
    TrainingRecord.load(home_of_lens)  # the card tells it again: it can be read, or nothing is begun
    lens = load_lens(request)
    assert lens.subject is not None
    history = None
    if home is not None and (home / HISTORY).is_file():
        history = read_history(home)
    folder = report_folder(request, home)
    if PartialState().is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        exits.enter_context(Log(folder, request.values["hub_token"]))
    return judge_run(request, lens, activations, folder, history, home_of_lens, home)


def require_family(request: Request) -> None:
    """Raise where a lens is of another family than the options, which nobody could know of one on the Hub."""
    found = family_at(lens_folder(named_lens(request)), request.values["hub_token"])
    if request.options.family != found:
        raise BadInput("family", request.options.family, f"Use --family {found}.", why="the lens is of another one")


def named_lens(request: Request) -> str:
    if request.run.lens is None:
        raise BadInput("lens", None, "Name a run folder, a lens folder, or a lens on the Hub: --lens outputs/...")
    return request.run.lens


def report_folder(request: Request, home: Path | None) -> Path:
    """Where a report goes: what is named, else the run, else the lens's folder; for a lens from the Hub, its name."""
    where = named_lens(request)
    if request.values["output_dir"] is not None:
        return Path(request.values["output_dir"])
    if home is None and is_ours(where):
        return Path(where)
    return home or Path("outputs") / short(where.strip("/.").replace("/", "-"))


def load_lens(request: Request) -> LensModel:
    """The lens that is named, with the frozen model that is named or that it was made for."""
    where, subject, token = named_lens(request), request.subject, request.values["hub_token"]
    others = load_others(subject)
    if subject.model_name_or_path is None:
        lens = AutoLens.from_pretrained(where, others or None, device_map=device_of(subject), token=token)
    else:
        first = load_model(model_path(subject), subject)
        lens = AutoLens.from_pretrained(where, {ONE_MODEL: first, **others} if others else first, token=token)
    assert lens.models is not None
    in_turn(lens.models, subject)
    return lens


def model_for_another(lens: LensModel, request: Request) -> FrozenLM:
    """For a second lens that is trained beside this one: the same model, or, where adapters of this one lie on its
    weights, a second copy."""
    assert lens.subject is not None
    if not lens.config.has_adapters:
        return lens.subject
    if request.subject.model_name_or_path is None:
        token = request.values["hub_token"]
        return find_subject(lens.config.origin, device_map=device_of(request.subject), token=token)
    return load_model(model_path(request.subject), request.subject)


def companion(name: str, home: Path | None, lens: LensModel) -> LensModel | None:
    """The lens of that name in a run's folder, if there is one, on the same frozen model."""
    if home is None or not (home / name / "config.json").is_file():
        return None
    return AutoLens.from_pretrained(home / name, subject=lens.models)


def compared(option: str, place: str, lens: LensModel, token: str | None) -> LensModel:
    """A lens that an option names, for the models of another lens or for one of them."""
    config, _ = read_config(lens_folder(place), token=token)
    kind = family_of(config, place).load("config")
    origins = kind.from_dict(kind.require_record(config, place)).origins
    models = lens.models
    assert models is not None
    known = {model.provenance("embed").weights: model for model in models.values()}
    if missing := [origin.model_id for origin in origins.values() if origin.weights not in known]:
        fix = f"Name a lens that was made for {' or '.join(models)}."
        raise BadInput(option, place, fix, why=f"it was made for {missing[0]}")
    if list(origins) != list(models):
        models = FrozenModels([known[origin.weights] for origin in origins.values()])
    return AutoLens.from_pretrained(place, models if len(origins) > 1 else models.first, token=token)


def require_split(activations: Activations, split: str) -> None:
    if not len(activations.splits.get(split, [])):
        full = [name for name, rows in activations.splits.items() if len(rows)]
        fix = f"Use --report_split {' or '.join(full)}, or extract with a larger {split}_fraction."
        raise BadInput("report_split", split, fix, why="it has no rows")


def judge_run(
    request: Request,
    lens: LensModel,
    activations: Activations,
    folder: Path,
    history: Sequence[Mapping[str, Any]] | None,
    home: Path,
    run: Path | None = None,
) -> Report:
    """Evaluate, save and show; every process does the same, the main one writes.

    Args:
        request: what was asked for.
        lens: with its model.
        activations: to evaluate on.
        folder: that the report goes into.
        history: of the training, for the curves.
        home: the folder of the lens, which gets the card, if it is one of ours.
        run: the folder whose other lenses the report compares with. Default: `folder`.
    """
    others = {name: companion(name, run or folder, lens) for name in request.options.run.companions}
    beside = request.family.report_options({name: other for name, other in others.items() if other is not None})
    given, token = request.report, request.values["hub_token"]
    assert lens.models is not None
    beside |= {name: compared(name, place, lens, token) for name, place in request.family.compared.items()}
    world = world_of(lens)
    record = TrainingRecord.load(home)
    form = request.family.report_form(record.settings if record else {})
    of_family = {**beside, **form, **world.options(lens, activations, given.report_split)}
    main = PartialState().is_main_process
    held = int(activations.metadata.get("rules", {}).get("continuation_length", 0))
    report = evaluate_lens(
        lens,
        lens.models,
        activations,
        split=given.report_split,
        max_rows=given.report_rows,
        batch_size=given.report_batch_size,
        horizon=min(HORIZON, held) if given.report_horizon is None else given.report_horizon,
        training_history=history,
        progress=main,
        **of_family,
    )
    report = world.completed(report, lens, activations, of_family, main)
    if main:
        report.save(folder / REPORT)
        ours = is_ours(str(home))  # no other project's, which stays as it is
        if ours:
            request.family.beside(lens, activations, home)
        card = finish_card(lens, report, activations, folder / REPORT, home) if ours else None
        if request.command == "evaluate" and request.explanation.json:
            sys.stdout.write(json.dumps(report.to_dict(), indent=1) + "\n")
            return report
        report.show(console, given.full_report)
        console.print()
        console.print(table_of(examples(lens, report_of(lens), activations, given.report_split, SHOWN)))
        console.print(f"\nreport in [bold]{escape(str(folder / REPORT))}[/]", highlight=False, soft_wrap=True)
        if card is not None:
            console.print(f"card in [bold]{escape(str(card))}[/]", highlight=False, soft_wrap=True)
    return report


def table_of(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What the model had read, what the lens made of it, what the model predicts without and with the edits."""
    title = f"{len(rows)} explanations"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None)
    for name in ("context", "explanation", "kl", *PREDICTIONS):
        table.add_column(heading(name), justify="right" if name == "kl" else "left", overflow="fold")
    for row in rows:
        context = Text(" ".join(row["context"].split()[-WORDS:]))
        context.highlight_regex(f"{OPEN}.*{CLOSE}$", style="bold cyan")
        predicted = (Text(shown(row[side])) for side in PREDICTIONS)
        table.add_row(context, Text(row["explanation"], "bold"), f"{row['kl']:.3f}", *predicted)
    return table
