"""`run_lens.py train`, and a whole run: data, lens, report."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ..errors import BadInput
from ..frozen import FrozenLM
from ..frozen.sites import resolve_sites
from .commands.extract import extract
from .commands.publish import publish_run
from .commands.report import judge_run, require_split
from .commands.train import CommandRun, require_trainable, train
from .ending import show_next
from .opening import load_subject_of, open_data, open_subject, require_held_out, short, with_others
from .parsing.request import Request
from .run_folder import LENS, Log, begin, checkpoint_of, claim, command_of, settle_folder


def train_on_rows(request: Request, argv: Sequence[str], exits: ExitStack, report: bool = False) -> None:
    """Data that is there to a lens and, if wanted, to its report."""
    resumed, family = checkpoint_of(request), request.family
    family.require_options(whole_run=False)
    data = open_data(request)
    family.require_data(data)
    require_held_out(request, data)
    if report:
        require_split(data, request.report.report_split)
    sites = family.sites(data.sites)
    model, corpus = data.provenance.model_id, str(data.metadata["corpus"]["corpus"])
    folder = settle_folder(request, short(model), _named(sites), short(corpus))
    engine = require_trainable(request, folder, resumed)
    if request.subject.model_name_or_path is not None:
        config, tokenizer = open_subject(request.subject)
        family.require_model(config, tokenizer)
        data.provenance.at(*map(str, resolve_sites(sites, config.get_text_config().num_hidden_layers)))
    folder = begin_run(folder, request, argv, resumed, exits)
    frozen = load_subject_of(request, data, engine.spreads_model)
    _train_and_judge(request, frozen, data, sites, folder, resumed, report)


def run_all(request: Request, argv: Sequence[str], exits: ExitStack) -> None:
    """Data, found again where it is there; a lens and its baselines; a report."""
    if request.run.activations is not None:
        train_on_rows(request, argv, exits, report=True)
        return
    resumed, family = checkpoint_of(request), request.family
    config, tokenizer = open_subject(request.subject)
    family.require_model(config, tokenizer)
    layers = config.get_text_config().num_hidden_layers
    offered = [str(site) for site in resolve_sites(request.extraction.sites, layers)]
    sites = family.sites(offered)
    if odd := [site for site in map(str, resolve_sites(sites, layers)) if site not in offered]:
        raise BadInput("site", odd[0], f"Use one of {', '.join(offered)}, or extract this site too: --sites.")
    texts = request.corpus.dataset_name or (request.corpus.train_file or ["texts"])[0]
    names = (short(str(request.subject.model_name_or_path)), _named(sites), short(texts))
    folder = settle_folder(request, *names)
    require_trainable(request, folder, resumed)
    family.require_options(whole_run=True)
    _require_fractions(request)
    rows = request.values["activations_dir"] or str(Path("outputs") / f"{'_'.join(names)}-activations")
    request.values["activations_dir"] = rows  # `evaluate` finds them again
    folder = begin_run(folder, request, argv, resumed, exits)
    request.stage = "extract"
    made, frozen = extract(request, command_of(argv), rows)
    data = request.options.run.data.load(made, verify=False)
    family.require_data(data)
    require_held_out(request, data)
    require_split(data, request.report.report_split)
    _train_and_judge(request, frozen, data, sites, folder, resumed, report=True)


def _named(sites: Sequence[str]) -> str:
    """Sites as a part of a folder's name."""
    return short(sites[0]) if len(sites) == 1 else f"{len(sites)}-sites"


def _require_fractions(request: Request) -> None:
    """Documents that a whole run evaluates on are held out, or it is refused before anything is read."""
    wanted = {"validation": request.values["eval_strategy"] != "no"}
    wanted[request.report.report_split] = True
    for split in ("validation", "test"):
        name = f"{split}_fraction"
        if wanted.get(split) and not request.values[name]:
            fix = "Hold some documents out: training evaluates on validation, the report is made on report_split."
            raise BadInput(name, request.values[name], fix)


def begin_run(folder: Path, request: Request, argv: Sequence[str], resumed: Path | None, exits: ExitStack) -> Path:
    """From here on the run has a folder of its own, and a log in it; one process writes."""
    if PartialState().is_main_process:
        folder = claim(request, folder, exits)
        begin(folder, request, argv, resumed)
        exits.enter_context(Log(folder, request.values["hub_token"]))
    request.folder = Path(broadcast_object_list([str(folder)])[0])
    return request.folder


def _train_and_judge(
    request: Request,
    frozen: FrozenLM,
    data: Any,
    sites: Sequence[str],
    folder: Path,
    resumed: Path | None,
    report: bool,
) -> None:
    request.stage = "train"
    family, run = request.family, CommandRun(request, folder, resumed)
    lens = family.new_lens(with_others(request, frozen), data, sites)
    history, steps = train(run, lens, data)
    family.after_training(run, lens, data, steps)
    if report:
        request.stage = "evaluate"
        judge_run(request, lens, data, folder, history, home=folder / LENS)
    if request.values["push_to_hub"]:
        publish_run(request, folder)
    if PartialState().is_main_process:
        show_next(request, folder)
