"""Whether the files of a frozen model are whole: what is damaged is refused in one line, and what is missing by name.

transformers fills a weight that the files lack with random numbers, and goes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

from ...errors import BadInput
from ...schema import glimpse
from .load import quantization_of

# What transformers, torch and safetensors raise on files that make no sense. Of a broken tokenizer, tokenizers raises
# a bare `Exception`.
_DAMAGED = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
    *(SafetensorError, StrictDataclassError),
)
_FIELD = "model_name_or_path"
_FIX = "Take the files that were saved together: download or save it again."
_FIX_OF_ALL = "Check its files, and whether its architecture wants another version of transformers."
# Constants that older versions saved. transformers knows them of most architectures, and says nothing of those.
_NO_WEIGHT = re.compile(r"(^|\.)(masked_bias|rotary_emb\.inv_freq)$")
_FLOATS = {"F64", "F32", "F16", "BF16"}
_CHECKED = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # what is packed holds no number that is none
LARGEST_WEIGHT = 1e9  # trained ones stay below 1e5; squares and products of larger ones leave float32
_LARGEST = 1e15  # of a number in a configuration; `rope_theta` goes up to some 1e9
# Fields whose numbers have a narrower range: pattern of the last part of a name, range, what it says.
_RANGES: list[tuple[str, float, float, str]] = [
    (r"\w*(eps|epsilon)", 0.0, 0.1, "from 0 to 0.1"),
    (r"\w*theta", 1.0, _LARGEST, "1 or more"),
    (r"max_position_embeddings|n_positions|n_ctx", 1, 1 << 31, "1 or more"),
]
_WEIGHTS_PER_BYTE = 16  # more than any way to pack them: 1 bit each, and every one used twice


class refusing_damage(AbstractContextManager["refusing_damage"]):
    """Within it, what is raised because the files of a model are damaged becomes a refusal in one line.

    A model that cannot be reached, memory that is short and a package that is missing are no damage.

    Args:
        place: where the files lie.
        field: the name under which the user knows it.
        fix: what to do about it.
    """

    def __init__(self, place: str | Path, field: str = _FIELD, fix: str = _FIX_OF_ALL) -> None:
        self.place, self.field, self.fix = Path(place), field, fix

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, (BadInput, torch.OutOfMemoryError)):
            return
        torn = isinstance(error, OSError) and self.place.is_dir()  # of a folder, a file that is not there
        if kind is Exception or isinstance(error, _DAMAGED) or torn:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            why = f"transformers cannot load it: {kind.__name__ if kind else ''}: {' '.join(lines[:2])[:300]}"
            raise BadInput(self.field, str(self.place), self.fix, why) from error


def require_numbers(config: PreTrainedConfig, place: str | Path) -> None:
    """Raise where a configuration has a number that no model can compute with. transformers takes any, and the model
    then predicts nonsense, or nothing."""
    for name, number in _numbers_of(config.get_text_config().to_dict()):
        wanted = "" if abs(number) <= _LARGEST or name.endswith("limit") else f"of at most {_LARGEST:g}"
        for pattern, least, most, said in _RANGES:
            if re.fullmatch(pattern, name) and not least <= number <= most:
                wanted = said
        if wanted:
            why = f"its config.json says {name}={glimpse(number)}"
            raise BadInput(_FIELD, str(place), _FIX, f"{why}, expected a finite number {wanted}")


def _numbers_of(value: Any, name: str = "") -> Iterator[tuple[str, int | float]]:
    """Every number in a record, with the name of the field that it stands in."""
    match value:
        case bool():
            return
        case int() | float():
            yield name, value
        case dict():
            for inner, found in value.items():
                yield from _numbers_of(found, str(inner))
        case list() | tuple():
            for found in value:
                yield from _numbers_of(found, name)


def require_finite_weights(model: nn.Module, place: str | Path) -> None:
    """Raise where a weight is not finite, or of a size that no training gives, before a pass turns it into predictions
    of nothing.

    The least and the largest number of each tensor: 0.1 to 0.2 s for a gigabyte on one core of a CPU, less than to
    read it.
    """
    ends = {
        name: torch.stack(parameter.detach().aminmax())
        for name, parameter in model.named_parameters()
        if parameter.dtype in _CHECKED and parameter.numel() and not parameter.is_meta
    }
    again = "Download or save it again."
    if names := _shortened(name for name, both in ends.items() if not bool(both.isfinite().all())):
        raise BadInput(_FIELD, str(place), again, f"not all numbers are finite in {names}")
    if names := _shortened(name for name, both in ends.items() if bool((both.abs() > LARGEST_WEIGHT).any())):
        raise BadInput(_FIELD, str(place), again, f"numbers are larger than {LARGEST_WEIGHT:g} in {names}")


def require_plausible(config: PreTrainedConfig, folder: Path) -> None:
    """Raise where the configuration in a folder describes another model than the files beside it, before any room is
    made for one: a size that somebody mistyped would take all memory. What is no folder has no files yet."""
    shapes: dict[str, tuple[list[int], str]] = {}
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                found = tensors.get_slice(name)
                shapes[name] = (found.get_shape(), found.get_dtype())
    if not shapes or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return
    layers = config.get_text_config().num_hidden_layers
    if not 0 < layers <= len(shapes):
        why = f"its config.json says num_hidden_layers={layers}, and its files hold {len(shapes)} tensors"
        raise BadInput(_FIELD, str(folder), _FIX, why)
    with torch.device("meta"):
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    expected = dict(model.named_parameters())
    if quantization_of(config) == "none":
        _require_fitting(expected, shapes, folder)
    count, size = sum(p.numel() for p in expected.values()), sum(file.stat().st_size for file in files)
    if count > _WEIGHTS_PER_BYTE * size:
        why = f"its config.json describes {count:.3g} weights, and its files have {size:,} bytes"
        raise BadInput(_FIELD, str(folder), _FIX, why)


def _require_fitting(
    expected: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[list[int], str]], folder: Path
) -> None:
    for name, (shape, dtype) in shapes.items():
        wanted = expected.get(name)
        if wanted is None:  # an older name, which transformers knows to translate, or one too many
            continue
        if torch.Size(shape).numel() != wanted.numel():
            why = f"{name} is {list(wanted.shape)} by its config.json and {shape} in its files"
            raise BadInput(_FIELD, str(folder), _FIX, why)
        if dtype not in _FLOATS:
            raise BadInput(_FIELD, str(folder), _FIX, why=f"{name} is no float in its files: {dtype}")


def require_every_weight(place: str | Path, found: Mapping[str, Any]) -> None:
    """Raise where a model got weights that were in no file, or the files have some that it has no place for.

    Args:
        place: what was loaded.
        found: the loading info of transformers. Tied weights and buffers that it makes itself are not in it.
    """
    for kind, why in (("missing_keys", "its files lack"), ("unexpected_keys", "its architecture has no place for")):
        if names := _shortened(name for name in found[kind] if not _NO_WEIGHT.search(name)):
            raise BadInput(_FIELD, str(place), _FIX, f"{why} {names}")


def _shortened(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
