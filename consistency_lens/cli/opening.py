"""Opening what a request names: the model, its texts, rows that are there. What needs no weights comes first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.console import Console
from transformers import AutoConfig, AutoTokenizer

from ..activations import Corpus, CorpusArguments
from ..errors import BadInput
from ..finding import find_subject
from ..frozen import FrozenLM, FrozenModels
from ..frozen.loading.gguf_files import find_gguf, gguf_config, is_gguf, named
from ..frozen.loading.load import own_code_refused
from ..frozen.loading.whole import refusing_damage
from .parsing.arguments import SubjectArguments
from .parsing.request import DEMO, Request

DEMO_DOCUMENTS = 6000
DEMO_READER, DEMO_NOTES, DEMO_STATE = f"{DEMO}:", f"{DEMO}:notes", f"{DEMO}:state"

console = Console()


def model_path(subject: SubjectArguments, show: bool = False) -> str:
    """Where the model lies; the demo's is trained first where this machine has none."""
    if subject.model_name_or_path is None:
        raise BadInput("model_name_or_path", None, f"Name a Hub model, a folder, or {DEMO!r} for the offline model.")
    if subject.gguf_file is not None:
        return f"{subject.model_name_or_path}/{subject.gguf_file}"
    if subject.model_name_or_path != DEMO:
        return place_of(subject.model_name_or_path)
    from ..demo.probe import DEMO_SITE
    from ..demo.show import accuracy_table, site_table
    from ..demo.subject import load_card, subject_path

    state = PartialState()
    if state.is_main_process:  # the others find it in the cache
        card = load_card(subject_path())
        if show:
            console.print(accuracy_table(card.report), site_table(card.sites, DEMO_SITE))
    state.wait_for_everyone()
    return str(subject_path(progress=False))


def place_of(name: str) -> str:
    """Of another model of the demo its folder, trained first where this machine has none; else the name itself."""
    if not name.startswith(DEMO_READER):
        return name
    if name == DEMO_STATE:
        from ..demo.pages.keeper import keeper_path

        if PartialState().is_main_process:
            keeper_path()
        PartialState().wait_for_everyone()
        return str(keeper_path(progress=False))
    from ..demo.reading.readers import reader_named, reader_path

    config, state = reader_named(name.removeprefix(DEMO_READER)), PartialState()
    if state.is_main_process:
        reader_path(config)
    state.wait_for_everyone()
    return str(reader_path(config, progress=False))


def config_of(subject: SubjectArguments) -> Any:
    """What the frozen model is, from words alone: nothing is loaded, and the demo's is not trained."""
    if subject.model_name_or_path == DEMO_STATE:
        from ..demo.pages.keeper import KeeperConfig, paged_config
        from ..demo.tokenizer import build_tokenizer

        return paged_config(KeeperConfig(), build_tokenizer())
    if subject.model_name_or_path != DEMO:
        return open_config(model_path(subject), subject.revision, subject.trust_remote_code)
    from ..demo.subject import model_config
    from ..demo.tokenizer import build_tokenizer
    from ..demo.training import SubjectConfig

    return model_config(SubjectConfig(), build_tokenizer())


def open_subject(subject: SubjectArguments) -> tuple[Any, Any]:
    """Configuration and tokenizer of the model that is named."""
    return open_model(model_path(subject), subject.revision, subject.trust_remote_code)


def open_model(path: str, revision: str | None, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """Configuration and tokenizer."""
    config = open_config(path, revision, trust_remote_code)
    how = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        if is_gguf(path):
            return config, AutoTokenizer.from_pretrained(**named(find_gguf(path, revision)))
        with refusing_damage(path), own_code_refused(path):
            return config, AutoTokenizer.from_pretrained(path, **how)
    except BadInput:
        raise
    except (OSError, ValueError) as error:
        raise _no_model(path, error) from error


def open_config(path: str, revision: str | None, trust_remote_code: bool = False) -> Any:
    """What the model is, without its weights."""
    try:
        if is_gguf(path):
            return gguf_config(find_gguf(path, revision))
        with refusing_damage(path), own_code_refused(path):
            return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except BadInput:
        raise
    except (OSError, ValueError) as error:
        raise _no_model(path, error) from error


def load_model(path: str, subject: SubjectArguments, device_map: Any = None) -> FrozenLM:
    try:
        device_map = device_map or device_of(subject)
        return FrozenLM.from_pretrained(path, **subject.loading(), device_map=device_map)
    except OSError as error:
        raise _no_model(path, error) from error


def load_subject_of(request: Request, data: Any, spread: bool = False) -> FrozenLM:
    """The model that is named, or else the one that made the rows. What an engine will spread over processes waits on
    the CPU."""
    device_map: Any = {"": "cpu"} if spread and own_device() else None
    if request.subject.model_name_or_path is None:
        device_map = device_map or device_of(request.subject)
        return find_subject(data.provenance, device_map=device_map, token=request.values["hub_token"])
    return load_model(model_path(request.subject), request.subject, device_map)


def with_others(request: Request, frozen: FrozenLM) -> Any:
    """The model, or with the others that are named, all of them by name."""
    others = load_others(request.subject)
    return in_turn(FrozenModels([frozen, *others.values()]), request.subject) if others else frozen


def in_turn(models: FrozenModels, subject: SubjectArguments) -> FrozenModels:
    """The models; with `sequential`, no two of them lie on this process's device."""
    if subject.sequential:
        models.take_turns(PartialState().device)
    return models


def load_others(subject: SubjectArguments) -> dict[str, FrozenLM]:
    """The further models, under their names."""
    found = {}
    for name, place in subject.others.items():
        found[name] = load_model(place_of(place), replace(subject, revision=None))
        found[name].name = name
    return found


def device_of(subject: SubjectArguments) -> Any:
    """Where a model is loaded to, as a device map."""
    return subject.device_map or ({"": "cpu"} if subject.sequential else own_device())


def own_device() -> dict[str, Any] | None:
    """The device of this process, as a device map."""
    device = PartialState().device
    return None if device.type == "cpu" else {"": device}


def open_corpus(request: Request, named: CorpusArguments | None = None) -> Corpus:
    """The texts that are named, by default by the options: the demo's own, or what the family opens."""
    arguments, own = named or request.corpus, request.family
    number = arguments.max_documents or DEMO_DOCUMENTS
    if arguments.dataset_name == DEMO:
        from ..demo.stories import story_dataset

        return Corpus(story_dataset(number), own.texts(arguments), "the demo world")
    if arguments.dataset_name == DEMO_STATE:
        from ..demo.pages.writing import page_dataset

        return Corpus(page_dataset(number), own.texts(arguments), "the demo world on pages")
    if arguments.dataset_name == DEMO_NOTES:
        from ..demo.reading.notes import PAIRS, note_dataset

        return Corpus(note_dataset(-(-number // len(PAIRS))), own.texts(arguments), "notes of the demo world")
    corpus: Corpus | None = own.corpus(arguments)
    return Corpus.load(own.texts(arguments)) if corpus is None else corpus


def open_data(request: Request) -> Any:
    """The data that a run starts from: what is named, or what `extract` made."""
    return request.options.run.data.load(request.run.activations or request.extraction.output_dir)


def require_held_out(request: Request, data: Any) -> None:
    """Raise where the training is to evaluate on data that nobody held out."""
    if request.values["eval_strategy"] != "no" and not len(data.splits.get("validation", [])):
        fix = "Extract with validation_fraction above 0, or train with --eval_strategy no."
        raise BadInput(
            "validation_fraction", 0, fix, why="training evaluates on the validation split, and it is empty"
        )


def short(name: str) -> str:
    """A model, a corpus or a file as part of a folder's name."""
    kept = Path(name).name.removesuffix(Path(name).suffix if Path(name).is_file() else "")
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in kept).strip("-") or "unnamed"


def _no_model(path: str, error: Exception) -> BadInput:
    fix = "Check the id or the folder, and that this machine is online."
    return BadInput("model_name_or_path", path, fix, why=str(error))
