"""`AutoLens` and `evaluate_lens`: any lens, by its name and by its family. The one table of families."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from transformers.utils import CONFIG_NAME

from . import hub
from .base.foreign import Foreign
from .base.modeling import LensModel
from .base.saving.lens_files import fetch_config, inner_folder, require_lens
from .card.facts import TAG
from .errors import BadInput
from .finding import AsLoaded, find_models, is_demo, load_demo, load_named, require_loading
from .frozen import FrozenLM, FrozenModels
from .schema import require_place

if TYPE_CHECKING:
    from .base.viewing import LensView
    from .evaluation import FamilyReport, Report
    from .evaluation.world import World

RUN_LENS = "lens"  # where a run keeps the lens it made
NO_FOLDER = "there is no such folder"
# What a model that is loaded in another way differs in from what a lens says of it.
_DIFFERING = {"dtype": "dtype", "quantization_config": "quantization"}


@dataclass(frozen=True)
class Family:
    """Where the classes of one family live, as `module:name`; each is imported when it is first used.

    Args:
        model_type: what a saved lens's `config.json` calls the family.
        config, model, trainer, arguments: its classes.
        run: its `FamilyRun`: what it adds to the command line, its data among it.
        report: its `FamilyReport`: controls, numbers of its own, sentences.
        foreign: finds lenses that other projects have saved, in a format that it reads; '' where it reads none.
        view: its `LensView`: what the explorer shows of its codes, and what can be changed. Default: rows for people.
        world: its `World`: what the offline model's world, whose truth is known, adds to the report. Default: nothing.
    """

    model_type: str
    config: str
    model: str
    trainer: str
    arguments: str
    run: str
    report: str
    foreign: str = ""
    view: str = ".base.viewing:LensView"
    world: str = ".evaluation.world:World"

    def load(self, part: str) -> Any:
        """One of the classes, by the name of its field."""
        module, _, name = str(vars(self)[part]).partition(":")
        return vars(import_module(module, __package__))[name]


# The one place that names a family. The key is its folder, and the `family` of a recipe: the medium of its code.
FAMILIES = {
    "text": Family(
        model_type="consistency_lens",
        config=".text.configuration:ConsistencyLensConfig",
        model=".text.modeling:ConsistencyLens",
        trainer=".text.trainer:ConsistencyLensTrainer",
        arguments=".text.arguments:ConsistencyLensArguments",
        run=".text.running:TextRun",
        report=".text.report:TextReport",
        foreign=".text.others.reading:find",
        view=".text.view:TextView",
        world=".demo.judging.world:FactWorld",
    ),
    "sparse": Family(
        model_type="crosslayer_transcoder",
        config=".sparse.configuration:CrosslayerTranscoderConfig",
        model=".sparse.modeling:CrosslayerTranscoder",
        trainer=".sparse.trainer:CrosslayerTranscoderTrainer",
        arguments=".sparse.arguments:CrosslayerTranscoderArguments",
        run=".sparse.running:TranscoderRun",
        report=".sparse.report.transcoder_report:TranscoderReport",
        foreign=".sparse.use.reading:find",
        view=".sparse.view:TranscoderView",
        world=".demo.transcoder.world:FeatureWorld",
    ),
    "soft": Family(
        model_type="latent_wire",
        config=".soft.configuration:LatentWireConfig",
        model=".soft.modeling:LatentWire",
        trainer=".soft.trainer:LatentWireTrainer",
        arguments=".soft.arguments:LatentWireArguments",
        run=".soft.running:WireRun",
        report=".soft.report.wire_report:WireReport",
        view=".soft.view:WireView",
    ),
}
DEFAULT_FAMILY = "text"  # of a recipe that names none
for _family in FAMILIES.values():
    _family.load("model")  # now `AutoConfig` and `AutoModel` of transformers know them as well


def family_of(config: Mapping[str, Any], place: str) -> Family:
    """The family of a saved lens, from its configuration."""
    return FAMILIES[name_of_family(config, place)]


def name_of_family(config: Mapping[str, Any], place: str) -> str:
    """Its name in the table; an unknown one is refused."""
    known = {family.model_type: name for name, family in FAMILIES.items()}
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in known:
        why = f"its config.json says model_type={model_type!r}"
        raise BadInput("lens", place, f"Families we know: {', '.join(known)}.", why)
    return known[model_type]


class AutoLens:
    """Loads any lens, and the frozen LLM it was made for."""

    @staticmethod
    def from_pretrained(
        lens_id_or_path: str | os.PathLike[str],
        subject: FrozenLM | str | os.PathLike[str] | Mapping[str, FrozenLM | str | os.PathLike[str]] | None = None,
        revision: str | None = None,
        device_map: str | dict[str, Any] | None = None,
        token: str | None = None,
        *,
        dtype: str | torch.dtype | None = None,
        quantization_config: Any = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        subfolder: str = "",
    ) -> LensModel:
        """A lens of whatever family, with its frozen model.

        Args:
            lens_id_or_path: Hub id, folder of a lens, or folder of a run, whose lens is taken.
            subject: the frozen LLM the lens was made for, or where to load it from. Default: as its config names it.
                Another one is refused. For a lens of several models a mapping from their names; those that it leaves
                out are found as the config names them.
            revision: branch, tag or commit of the lens on the Hub.
            device_map: where a frozen model that is loaded here goes; as in transformers.
            token: for a private lens, or a private frozen model. Default: of this machine.
            dtype: of the frozen model, in the place of the one that the lens was made with; numbers of the lens are
                then no longer those of its card, and `evaluate_lens` refuses. Default: that one.
            quantization_config: of the frozen model, as in transformers; likewise.
            cache_dir: where downloads are kept. Default: the cache of this machine.
            local_files_only: take what the cache holds, and ask no Hub.
            subfolder: of the folder or repository, in which the lens lies.
        """
        reach = hub.Reach(cache_dir=cache_dir, local_files_only=local_files_only)
        how: AsLoaded = {**reach}
        if dtype is not None:
            how["dtype"] = dtype
        if quantization_config is not None:
            how["quantization_config"] = quantization_config
        place = lens_folder(lens_id_or_path, subfolder)
        inside = "" if Path(place).is_dir() else subfolder
        try:
            config, revision = read_config(place, revision, token, inside, **reach)
        except BadInput:
            found = None if inside else find_foreign(place, revision, token, **reach)
            if found is None:
                raise
            return _open_foreign(found[1], subject, device_map, token, **how)
        family = family_of(config, str(lens_id_or_path))
        kind = family.load("config")
        settled = kind.from_dict(kind.require_record(config, lens_id_or_path))
        models = find_models(settled, subject, device_map, token, **how)
        wanted = [_DIFFERING[name] for name in how if name in _DIFFERING]
        given = {"subject": models, "revision": revision, "token": token, "subfolder": inside, "ignore": wanted}
        return family.load("model").from_pretrained(place, **given, **reach)

    @staticmethod
    def published(most: int = 24, token: str | None = None) -> list[tuple[str, str]]:
        """Lenses on the Hub, by the tags that every card has: ids, each with its family.

        Args:
            most: how many are looked at, those that are downloaded most first.
            token: for private ones of yours. Default: of this machine.
        """
        kinds = {f"{name}-lens": name for name in FAMILIES}
        found = hub.tagged(TAG, most, token)
        return [(repo, kinds[kind]) for repo, tags in found if (kind := next(filter(kinds.get, tags), None))]

    @staticmethod
    def download(
        lens_id_or_path: str | os.PathLike[str],
        revision: str | None = None,
        token: str | None = None,
        report_only: bool = False,
    ) -> Path:
        """The folder of a lens with all that is published of it: weights, report, samples and history, never code.

        Args:
            lens_id_or_path: Hub id; the folder of a lens stays where it is, and of a run its lens is taken.
            revision: branch, tag or commit of the lens on the Hub.
            token: for a private lens. Default: of this machine.
            report_only: no more than what was measured of it.
        """
        place = lens_folder(lens_id_or_path)
        config, commit = read_config(place, revision, token)
        if Path(place).is_dir():
            return Path(place)
        ignore = (*hub.OTHER_STAGES, *family_of(config, place).load("config").other_files)
        allow = hub.OF_A_REPORT if report_only else hub.LENS_FILES + hub.SHOWN_WITH_IT
        return hub.download(place, commit, token, allow=allow, ignore=ignore)


def report_of(lens: LensModel, **of_family: Any) -> FamilyReport:
    """What the family of a lens adds to its report."""
    fix = "Call consistency_lens.evaluation.evaluate with a FamilyReport of your own."
    found: FamilyReport = _family_of_lens(lens, fix).load("report")(**of_family)
    return found


def view_of(lens: LensModel) -> LensView:
    """What the explorer shows of a lens, and what can be changed, as its family says it."""
    found: LensView = _family_of_lens(lens, "Make a consistency_lens.LensView of it yourself.").load("view")(lens)
    return found


def world_of(lens: LensModel) -> World:
    """What is known of the texts of a lens's model: of the offline model's, what the family says; else nothing."""
    from .evaluation.world import World

    family = _family_of_lens(lens, "Make a consistency_lens.evaluation.world.World of it yourself.")
    found: World = family.load("world")() if is_demo(lens.config.origin.model_id) else World()
    return found


def _family_of_lens(lens: LensModel, fix: str) -> Family:
    family = next((each for each in FAMILIES.values() if each.model_type == lens.config.model_type), None)
    if family is None:
        raise BadInput("lens", type(lens).__name__, fix, why=f"no family is named {lens.config.model_type!r}")
    return family


def evaluate_lens(
    lens: LensModel,
    frozen: FrozenLM | Sequence[FrozenLM] | Mapping[str, FrozenLM],
    activations: Any,
    *,
    split: str = "test",
    max_rows: int | None = None,
    batch_size: int = 64,
    horizon: int = 8,
    seed: int = 0,
    training_history: Sequence[Mapping[str, Any]] | None = None,
    progress: bool = True,
    **of_family: Any,
) -> Report:
    """Every number of a lens on held-out documents, with intervals, beside every control of its family.

    Args:
        lens: what is evaluated.
        frozen: the model that it was made for, or the models by name.
        activations: rows of that model, or what else the family evaluates on.
        split: of the rows; `train` flatters.
        max_rows: use so many, drawn from all documents; default all.
        batch_size: rows per pass. A partner for `resample` and `shuffled_activation` comes from the same batch.
        horizon: compare so many true next positions as well; 0 for P alone.
        seed: of the choice of rows, the noise, the controls and the bootstrap.
        training_history: rows with `step` and what was measured then, for the curves.
        progress: show a bar.
        of_family: what the report of the family takes besides. For a text lens: `rivals` and `before`, lenses to be
            measured beside it; `judges`, worlds whose truth is known; `reword`, explanations and a seed -> the same in
            other words; `sayings`, worlds that say something else of a row; `sure` and `vague`, how its starting texts
            deal with a guess. For a transcoder: `beside`, name -> further transcoders of the same sites, `per_layer`
            (a control of equal size) and `jumprelu` (the lens with thresholds). For a wire: `other_wire` and
            `text_lens`, lenses that take part, and `timed_rows`, on which the first token of an answer is timed (0 for
            no clock).

    Returns:
        The report; `save` writes it, `show` prints it.
    """
    from .evaluation import HeldOut, evaluate  # loading a lens needs no data set

    held_out = HeldOut(split, max_rows, batch_size, horizon, seed)
    family = report_of(lens, **of_family)
    return evaluate(lens, frozen, activations, family, held_out, training_history, progress)


def lens_folder(lens_id_or_path: str | os.PathLike[str], subfolder: str = "") -> str:
    """Of a run its lens, of anything else itself; with a subfolder, that of a folder of this machine."""
    require_place(str(lens_id_or_path), "lens")
    folder, within = Path(lens_id_or_path), inner_folder(subfolder)
    if within and folder.is_dir():
        folder = folder / within
        lens_id_or_path = folder
        if not folder.is_dir():
            raise BadInput("subfolder", subfolder, "Name a folder that is there.", why=NO_FOLDER)
    inside = folder / RUN_LENS
    return str(inside if (inside / CONFIG_NAME).is_file() else lens_id_or_path)


def read_config(
    place: str,
    revision: str | None = None,
    token: str | None = None,
    subfolder: str = "",
    **reach: Unpack[hub.Reach],
) -> tuple[dict[str, Any], str | None]:
    """The configuration of a lens as it is saved, and its commit where it is on the Hub."""
    path = Path(place) / CONFIG_NAME
    if Path(place).is_dir() and not path.is_file():
        raise BadInput("lens", place, "Give the folder of a run that has finished training, or of a lens.")
    if not path.is_file():
        _require_no_path(place)
        path, revision = fetch_config(place, revision, token, inner_folder(subfolder), **reach)
    return require_lens(path, place), revision


def _require_no_path(place: str) -> None:
    """Raise where this can only be a path, so that the Hub is not asked for a folder that somebody misspelt."""
    path = Path(place).expanduser()
    parts = path.parts
    if not (path.is_absolute() or place[0] in ".~" or "\\" in place or len(parts) > 2 or Path(parts[0]).is_dir()):
        return
    beside = path.parent if path.name != RUN_LENS else path.parent.parent
    found = sorted(run for run in beside.glob("*") if (run / RUN_LENS / CONFIG_NAME).is_file()) if parts else []
    there = f" Here are: {', '.join(map(str, found[:5]))}." if found else ""
    raise BadInput("lens", place, f"Name a folder that is there, or write an id as in owner/name.{there}", NO_FOLDER)


def find_foreign(
    place: str,
    revision: str | None = None,
    token: str | None = None,
    whole: bool = True,
    **reach: Unpack[hub.Reach],
) -> tuple[str, Foreign] | None:
    """A lens that another project has saved, and the family that reads it. None where no family knows the format.
    Without `whole`, weights stay where they are."""
    for name, family in FAMILIES.items():
        found = family.load("foreign")(place, revision, token, whole, **reach) if family.foreign else None
        if found is not None:
            return name, found
    return None


def family_at(place: str, token: str | None = None) -> str:
    """The name of the family of a lens that is saved, here or on the Hub, by us or by another project."""
    try:
        return name_of_family(read_config(place, token=token)[0], place)
    except BadInput:
        found = find_foreign(place, token=token, whole=False)
        if found is None:
            raise
        return found[0]


def is_ours(place: str) -> bool:
    """Whether a lens lies in this folder as we save it: only there is anything written beside it."""
    try:
        return Path(place).is_dir() and bool(read_config(place))
    except BadInput:
        return False


def _open_foreign(
    found: Foreign, subject: Any, device_map: Any, token: str | None, **how: Unpack[AsLoaded]
) -> LensModel:
    """With the model that is given, or that it names itself."""
    model_id = found.model_id
    require_loading(subject, how)
    if subject is None and not model_id:
        raise BadInput("subject", None, "Name the model that it was made for.", why="the lens does not say which")
    if subject is None or isinstance(subject, (str, os.PathLike)):
        if subject is None and is_demo(model_id):
            subject = load_demo(model_id, device_map, **how)
        else:
            subject = load_named(str(subject or model_id), device_map, token, **how)
    lens: LensModel = found.open(FrozenModels.of(subject).only)
    return lens
