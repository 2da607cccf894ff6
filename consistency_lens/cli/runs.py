"""`run_lens.py train`, and a whole run: rows, lens, report."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ..activations import Activations
from ..base.modeling import LensModel
from ..errors import BadInput
from ..frozen import FrozenLM
from ..frozen.sites import resolve_sites
from ..text.modeling import ConsistencyLens
from .baseline import tail_of_run
from .extract import extract
from .foreseen import require_context, require_lens
from .opening import (
    load_subject_of,
    model_path,
    only_site,
    open_model,
    open_rows,
    require_rows,
    short,
)
from .parsing import Request
from .publish import publish_run
from .report import companion, judge, require_split, subject_for_another
from .run_folder import LENS, TAIL, WARM, Log, begin, checkpoint_of, claim, command_of, settle_folder
from .train import new_lens, require_trainable, train


def train_on_rows(request: Request, argv: Sequence[str], exits: ExitStack, report: bool = False) -> None:
    """Rows that are there to a lens and, if wanted, to its report."""
    resumed = checkpoint_of(request)
    activations = open_rows(request)
    require_rows(request, activations)
    if report:
        require_split(activations, request.report.report_split)
    site = only_site(request, activations.sites)
    model, corpus = activations.provenance.model_id, str(activations.metadata["corpus"]["corpus"])
    folder = settle_folder(request, short(model), short(site), short(corpus))
    engine = require_trainable(request, folder, resumed)
    if request.subject.model_name_or_path is not None:
        config, tokenizer = open_model(model_path(request.subject), request.subject.revision)
        (site,) = map(str, resolve_sites(site, config.get_text_config().num_hidden_layers))
        require_lens(request, config, tokenizer, site)
        activations.provenance.at(site)
    folder = begin_run(folder, request, argv, resumed, exits)
    frozen = load_subject_of(request, activations, engine.spreads_weights)
    _train_and_judge(request, frozen, activations, site, folder, resumed, report)


def run_all(request: Request, argv: Sequence[str], exits: ExitStack) -> None:
    """Rows, found again where they are there; a lens and its baseline; a report."""
    if request.run.activations is not None:
        train_on_rows(request, argv, exits, report=True)
        return
    resumed = checkpoint_of(request)
    config, tokenizer = open_model(model_path(request.subject), request.subject.revision)
    layers = config.get_text_config().num_hidden_layers
    sites = tuple(str(site) for site in resolve_sites(request.extraction.sites, layers))
    (site,) = map(str, resolve_sites(only_site(request, sites), layers))
    if site not in sites:
        raise BadInput("site", request.lens.site, f"Use one of {', '.join(sites)}, or extract this site too: --sites.")
    require_lens(request, config, tokenizer, site)
    texts = request.corpus.dataset_name or (request.corpus.train_file or ["texts"])[0]
    names = (short(str(request.subject.model_name_or_path)), short(site), short(texts))
    folder = settle_folder(request, *names)
    require_trainable(request, folder, resumed)
    _require_held_out(request)
    rows = request.values["activations_dir"] or str(Path("outputs") / f"{'_'.join(names)}-activations")
    request.values["activations_dir"] = rows  # `evaluate` finds them again
    folder = begin_run(folder, request, argv, resumed, exits)
    request.stage = "extract"
    made, frozen = extract(request, command_of(argv), rows, partial(require_context, request))
    activations = Activations.load(made, verify=False)
    require_rows(request, activations)
    require_split(activations, request.report.report_split)
    _train_and_judge(request, frozen, activations, site, folder, resumed, report=True)


def _require_held_out(request: Request) -> None:
    """What a whole run judges on, documents held out and tokens that come next, is settled before anything is read."""
    if request.values["kl_horizon"] > request.values["continuation_length"]:
        fix = f"Use at most continuation_length={request.values['continuation_length']}, or raise that."
        raise BadInput("kl_horizon", request.values["kl_horizon"], fix)
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
    activations: Activations,
    site: str,
    folder: Path,
    resumed: Path | None,
    report: bool,
) -> None:
    request.stage = "train"
    lens = new_lens(request, frozen, activations, site)
    history, steps = train(request, lens, activations, folder, resumed)
    tail = _tail(request, lens, activations, site, folder, steps, resumed) if request.run.tail_baseline else None
    if report:
        request.stage = "evaluate"
        warm = companion(WARM, folder, lens, request)
        judge(request, lens, activations, folder, tail, warm, history, home=folder / LENS)
    if request.values["push_to_hub"]:
        publish_run(request, folder)


def _tail(
    request: Request,
    lens: ConsistencyLens,
    activations: Activations,
    site: str,
    folder: Path,
    steps: int,
    resumed: Path | None,
) -> LensModel:
    """The baseline; that of an interrupted run is taken where it was finished."""
    subject = subject_for_another(lens, request)
    if resumed and (folder / TAIL / "config.json").is_file():
        return ConsistencyLens.from_pretrained(folder / TAIL, subject=subject)
    return tail_of_run(request, new_lens(request, subject, activations, site), activations, folder, steps)
