"""Opening what a request names: the subject, its texts, rows that are there. What needs no weights comes first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.console import Console
from transformers import AutoConfig, AutoTokenizer

from ..activations import Activations, Corpus, CorpusArguments
from ..auto import find_subject
from ..errors import BadInput
from ..frozen import FrozenLM
from ..frozen.anatomy import longest_context
from ..frozen.gguf_files import find_gguf, gguf_config, is_gguf, named
from ..frozen.loading import own_code_refused
from ..frozen.whole import refusing_damage
from ..text.configuration import PLACEHOLDER
from .arguments import LensArguments, SubjectArguments
from .parsing import DEMO, Request

DEMO_DOCUMENTS = 6000

console = Console()


def model_path(subject: SubjectArguments, show: bool = False) -> str:
    """Where the model lies; the demo's is trained first where this machine has none."""
    if subject.model_name_or_path is None:
        raise BadInput("model_name_or_path", None, f"Name a Hub model, a folder, or {DEMO!r} for the offline subject.")
    if subject.gguf_file is not None:
        return f"{subject.model_name_or_path}/{subject.gguf_file}"
    if subject.model_name_or_path != DEMO:
        return subject.model_name_or_path
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


def config_of(subject: SubjectArguments) -> Any:
    """What the subject is, from words alone: nothing is loaded, and the demo's is not trained."""
    if subject.model_name_or_path != DEMO:
        return open_config(model_path(subject), subject.revision)
    from ..demo.subject import model_config
    from ..demo.tokenizer import build_tokenizer
    from ..demo.training import SubjectConfig

    return model_config(SubjectConfig(), build_tokenizer())


def open_model(path: str, revision: str | None) -> tuple[Any, Any]:
    """Configuration and tokenizer."""
    config = open_config(path, revision)
    try:
        if is_gguf(path):
            return config, AutoTokenizer.from_pretrained(**named(find_gguf(path, revision)))
        with refusing_damage(path), own_code_refused(path):
            return config, AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    except BadInput:
        raise
    except (OSError, ValueError) as error:
        raise _no_model(path, error) from error


def open_config(path: str, revision: str | None) -> Any:
    """What the model is, without its weights."""
    try:
        if is_gguf(path):
            return gguf_config(find_gguf(path, revision))
        with refusing_damage(path), own_code_refused(path):
            return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    except BadInput:
        raise
    except (OSError, ValueError) as error:
        raise _no_model(path, error) from error


def load_model(path: str, subject: SubjectArguments, device_map: Any = None) -> FrozenLM:
    try:
        device_map = device_map or subject.device_map or own_device()
        return FrozenLM.from_pretrained(path, **subject.loading(), device_map=device_map)
    except OSError as error:
        raise _no_model(path, error) from error


def load_subject_of(request: Request, activations: Activations, spread: bool = False) -> FrozenLM:
    """The model that is named, or else the one that made the rows. What an engine will spread over processes waits on
    the CPU."""
    device_map: Any = {"": "cpu"} if spread and own_device() else None
    if request.subject.model_name_or_path is None:
        device_map = device_map or request.subject.device_map or own_device()
        return find_subject(activations.provenance, device_map=device_map, token=request.values["hub_token"])
    return load_model(model_path(request.subject), request.subject, device_map)


def own_device() -> dict[str, Any] | None:
    """The device of this process, as a device map."""
    device = PartialState().device
    return None if device.type == "cpu" else {"": device}


def open_corpus(arguments: CorpusArguments) -> Corpus:
    if arguments.dataset_name != DEMO:
        return Corpus.load(arguments)
    from ..demo.stories import story_dataset

    number = arguments.max_documents or DEMO_DOCUMENTS
    return Corpus(story_dataset(number), arguments, "the demo world")


def open_rows(request: Request) -> Activations:
    """The rows that a run starts from: those that are named, or those that `extract` made."""
    return Activations.load(request.run.activations or request.extraction.output_dir)


def only_site(request: Request, sites: tuple[str, ...]) -> str:
    """Which of the sites the lens reads."""
    if request.lens.site is None and len(sites) != 1:
        raise BadInput("site", None, f"Name one of {', '.join(sites)}.", why="the rows hold several sites")
    return request.lens.site or sites[0]


def require_room(config: Any, tokenizer: Any, lens: LensArguments) -> None:
    """Raise where the decoder's prompt and T tokens do not fit into what the model takes."""
    if lens.code_length < 1:
        raise BadInput("code_length", lens.code_length, "Give the explanation at least one token.")
    if lens.prompt.count(PLACEHOLDER) != 1:
        raise BadInput("prompt", lens.prompt, f"Write {PLACEHOLDER} once, where the activation enters.")
    asked = prompt_length(tokenizer, lens)
    room = longest_context(config)
    if asked + lens.code_length > room:
        why = f"the model takes {room} tokens, and the prompt has {asked}"
        raise BadInput("code_length", lens.code_length, f"Use at most {max(0, room - asked)}.", why)


def prompt_length(tokenizer: Any, lens: LensArguments) -> int:
    """Tokens of the decoder's prompt, with what a text starts with and the placeholder."""
    before, _, after = lens.prompt.partition(PLACEHOLDER)
    return 2 + sum(len(tokenizer(text.strip(), add_special_tokens=False)["input_ids"]) for text in (before, after))


def require_rows(request: Request, activations: Activations) -> None:
    """Raise where the rows lack what the training will ask of them."""
    horizon, held = request.values["kl_horizon"], int(activations.metadata["rules"]["continuation_length"])
    if horizon > held:
        raise BadInput("kl_horizon", horizon, f"Use at most {held}, or extract with a larger continuation_length.")
    if request.values["eval_strategy"] != "no" and not len(activations.splits.get("validation", [])):
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
