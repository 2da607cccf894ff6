"""GGUF: a model in one file. Where the file lies, whether it is whole, and what transformers has to be told of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from ...errors import BadInput

SUFFIX = ".gguf"
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")  # as llama.cpp names the parts of a split model
_DAMAGED = (ValueError, IndexError, KeyError, TypeError, OverflowError)  # what gguf raises on bytes that make no sense


def is_gguf(place: str | Path) -> bool:
    return str(place).endswith(SUFFIX)


def on_hub(place: str | Path) -> bool:
    """Whether a name is that of a file in a repository: owner/name/file.gguf."""
    parts = str(place).split("/", 2)
    return is_gguf(place) and len(parts) == 3 and parts[0] not in ("", ".", "..")


def find_gguf(place: str | Path, revision: str | None = None, token: str | None = None, **reach: Any) -> Path:
    """A GGUF file on this machine: the one of that path, or a file of a repository, named as owner/name/file.gguf.
    `reach` is what `cached_file` of transformers takes beside them (`cache_dir`, `local_files_only`).

    Raises:
        BadInput: when there is none, gguf is not installed, or the file is cut off, no GGUF or a part of one.
    """
    part = _PART.search(str(place))
    if part is not None and int(part[2]) > 1:  # before a download
        _refuse_part(Path(place).name, int(part[2]))
    path = Path(place)
    if not path.is_file():
        if not on_hub(place):
            fix = "Give the path of the file, or owner/name/file.gguf on the Hub."
            raise BadInput("gguf_file", str(place), fix, why="there is no such file")
        owner, name, inside = str(place).split("/", 2)
        try:
            path = Path(cached_file(f"{owner}/{name}", inside, revision=revision, token=token, **reach))
        except OSError as error:
            fix = "Give owner/name/file.gguf as it lies on the Hub, and a token where it is private."
            why = str(error).strip().splitlines()[0]
            raise BadInput("gguf_file", str(place), fix, why=why) from error
    _require_whole(path)
    return path


def _require_whole(path: Path) -> None:
    try:
        from gguf import GGUFReader
    except ImportError:
        fix = "Install it: pip install 'consistency-lens[gguf]'."
        raise BadInput("gguf_file", path.name, fix, why="the package gguf is missing") from None
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise BadInput("gguf_file", path.name, "Name a file in the GGUF format.", why="this is no GGUF")
    try:
        parts = GGUFReader(path).get_field("split.count")
        count = 1 if parts is None else int(parts.contents())
    except _DAMAGED as error:
        raise BadInput("gguf_file", path.name, "Download it again.", why="the file is cut off or damaged") from error
    if count > 1:
        _refuse_part(path.name, count)


def _refuse_part(name: str, count: int) -> NoReturn:
    """transformers reads one file, and would fill in the weights of the other parts at random."""
    fix = "Merge the parts (llama-gguf-split --merge), or take a file that holds the whole model."
    raise BadInput("gguf_file", name, fix, why=f"one of {count} parts of a split model")


def gguf_name(place: str | Path) -> str:
    """What the model goes by: of a file of this machine its own name, of one on the Hub owner/name/file.gguf."""
    return Path(place).name if Path(place).is_file() else str(place)


def named(place: str | Path) -> dict[str, Any]:
    """What any `from_pretrained` of transformers takes to read a file."""
    return {
        "pretrained_model_name_or_path": str(Path(place).parent),
        "gguf_file": Path(place).name,
        "trust_remote_code": False,
    }


def gguf_config(path: Path) -> PreTrainedConfig:
    """The configuration that a file describes; raise where transformers knows no such architecture."""
    try:
        return AutoConfig.from_pretrained(**named(path))
    except (ValueError, KeyError, NotImplementedError) as error:
        fix = "Convert it to a folder of transformers, or take another model."
        raise BadInput("gguf_file", path.name, fix, why=f"transformers cannot read it: {error}") from error


def unpack(quantization: str, path: Path, quantization_config: Any = None) -> dict[str, Any]:
    """What tells transformers to unpack every weight, into a model like any other."""
    if quantization_config is not None:
        fix = "Leave it out: the weights of a GGUF are unpacked."
        raise BadInput("quantization_config", type(quantization_config).__name__, fix, why=f"{path.name} is a GGUF")
    if quantization != "none":
        fix = "Leave it at 'none': the weights of a GGUF are unpacked."
        raise BadInput("quantization", quantization, fix, why=f"{path.name} is a GGUF")
    try:
        from transformers import GgufConfig
    except ImportError:  # a version that knows no other way
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def settle_unpacked(model: PreTrainedModel) -> None:
    """Take away what still says that it came from packed weights, and would keep it from being saved."""
    if "quantization_config" in vars(model.config):
        del model.config.quantization_config
    if "hf_quantizer" in vars(model):
        model.hf_quantizer = None
