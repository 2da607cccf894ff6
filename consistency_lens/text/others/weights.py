"""The weights of a part that others have trained, laid over a copy of the frozen model.

Nothing is built from what their files say: the model that is at hand has the architecture, and their tensors have to
fit it, one by one. Names differ between versions and wrappers, so a tensor of a block is found by its block and its
name within it, any other by the last two parts of its name.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...base.adapters import without_adapters
from ...base.saving.lens_files import read_tensors, require_fitting
from ...errors import BadInput
from ...frozen import FrozenLM
from ...frozen.anatomy.parts import blocks_path, truncate
from ...schema import Unfit, flag, number, one_of, read_json, record, whole
from .sidecar import FIX

HEAD, ADAPTERS = "value_head.safetensors", "ar_lora_value_head.safetensors"
ADAPTER, ADAPTER_CONFIG, MERGED = "adapter_model.safetensors", "adapter_config.json", "model*.safetensors"
RECONSTRUCTOR = "ar_meta.json"  # beside `ADAPTERS`
_BUFFER = re.compile(r"(^|\.)(masked_bias|attn\.bias|rotary_emb\.inv_freq)$")
_LOW_RANK = re.compile(r"(?:base_model\.model\.|backbone\.)?(.+)\.lora_([AB])(?:\.\w+)?\.weight")


def _unused(value: Any, where: str) -> None:
    """What peft can do besides, and is not read here."""
    if value:
        raise Unfit(where, value, "nothing")


_ADAPTER = record(
    {"r": whole(1, 1 << 16), "lora_alpha": number(above=0)},
    {
        "peft_type": one_of("LORA"),
        "use_rslora": flag,
        "bias": one_of("none"),
        **dict.fromkeys(
            ["rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication", "use_dora"], _unused
        ),
        **dict.fromkeys(["trainable_token_indices", "target_parameters"], _unused),
    },
)
_OF_RECONSTRUCTOR = record(
    {"lora_r": whole(1, 1 << 16), "lora_alpha": number(above=0), "ar_num_layers": whole(1, 1024)}
)


class Part(NamedTuple):
    """A language model with the weights of others, and the head of a reconstructor."""

    lm: PreTrainedModel
    head: Tensor | None = None


def verbaliser(folder: Path, frozen: FrozenLM) -> Part:
    """The model that writes: merged weights, or adapters in peft's format."""
    lm = _copy(frozen)
    if (folder / ADAPTER_CONFIG).is_file():
        stored = read_json(folder / ADAPTER_CONFIG, _ADAPTER, "lens", str(folder), FIX)
        scale = _scale_of(stored["lora_alpha"], stored["r"], bool(stored.get("use_rslora")))
        _add(lm, read_tensors(folder, ADAPTER), folder, ADAPTER, stored["r"], scale)
        return Part(lm)
    tensors = _merged(folder)
    placed = _lay(lm, tensors, folder)
    text = blocks_path(lm).rpartition(".")[0] + "."
    head = lm.get_output_embeddings()
    needed = {name for name, p in lm.named_parameters() if name.startswith(text) or p is head.weight}
    _require_all(lm, needed, placed, folder)
    return Part(lm)


def reconstructor(folder: Path, frozen: FrozenLM, layers: int) -> Part:
    """The model that reads, up to the block whose output it restores; no norm behind it."""
    lm = truncate(_copy(frozen), layers)
    size = frozen.hidden_size
    if (folder / ADAPTERS).is_file():
        stored = read_json(folder / RECONSTRUCTOR, _OF_RECONSTRUCTOR, "lens", str(folder), FIX)
        if stored["ar_num_layers"] != layers:
            why = f"{RECONSTRUCTOR} says ar_num_layers={stored['ar_num_layers']}, and the layer asks for {layers}"
            raise BadInput("lens", str(folder), FIX, why)
        if stored.get("final_norm_stripped") is not True:
            fix = "Use one that was trained without it."
            raise BadInput("lens", str(folder), fix, why="its reconstructor keeps the last norm of the model")
        tensors = read_tensors(folder, ADAPTERS)
        head = tensors.pop("value_head.weight", None)
        _add(lm, tensors, folder, ADAPTERS, stored["lora_r"], _scale_of(stored["lora_alpha"], stored["lora_r"], True))
        file = ADAPTERS
    else:
        placed = _lay(lm, _merged(folder), folder)
        blocks = blocks_path(lm) + "."
        embedding = lm.get_input_embeddings().weight
        needed = {name for name, p in lm.named_parameters() if name.startswith(blocks) or p is embedding}
        _require_all(lm, needed, placed, folder)
        head, file = read_tensors(folder, HEAD).get("weight"), HEAD
    given = {} if head is None else {"weight": head}
    require_fitting(given, {"weight": torch.empty(size, size)}, folder, file)
    return Part(lm, head)


def _copy(frozen: FrozenLM) -> PreTrainedModel:
    """In the frozen model's dtype, as such parts are served."""
    if frozen.quantization != "none":
        fix = "Load the model as it is: --quantization none."
        raise BadInput(
            "quantization", frozen.quantization, fix, why="weights of others cannot be laid over packed ones"
        )
    return without_adapters(copy.deepcopy(frozen.model))


def _merged(folder: Path) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Whole weights, one file at a time."""
    files = sorted(path.name for path in folder.glob(MERGED))
    if not files:
        raise BadInput("lens", str(folder), FIX, why=f"it has neither {MERGED} nor {ADAPTER_CONFIG}")
    return ((file, read_tensors(folder, file)) for file in files)


@torch.no_grad()
def _lay(lm: PreTrainedModel, files: Iterator[tuple[str, dict[str, Tensor]]], folder: Path) -> set[int]:
    """Copy tensors into their places; the parameters that got one."""
    placed: set[int] = set()
    places = _Places(lm)
    for file, tensors in files:
        there = {name: places.of(name) for name in tensors if not (_BUFFER.search(name) or places.aside(name))}
        found = {name: parameter for name, parameter in there.items() if parameter is not None}
        require_fitting({name: tensors[name] for name in there}, found, folder, file)
        for name, parameter in found.items():
            parameter.copy_(tensors[name])
            placed.add(id(parameter))
    return placed


@torch.no_grad()
def _add(lm: PreTrainedModel, tensors: Mapping[str, Tensor], folder: Path, file: str, rank: int, scale: float) -> None:
    """Add adapters of low rank to the weights that they were trained on."""
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        shaped = _LOW_RANK.fullmatch(name)
        if shaped is None:
            raise BadInput("lens", str(folder), FIX, why=f"{file}: {name} is no adapter of low rank")
        pairs.setdefault(shaped[1], {})[shaped[2]] = tensor
    if not pairs:
        raise BadInput("lens", str(folder), FIX, why=f"{file} holds no adapter")
    places = _Places(lm)
    for module, pair in pairs.items():
        weight = places.of(f"{module}.weight")
        if weight is None or weight.dim() != 2:
            raise BadInput("lens", str(folder), FIX, why=f"{file}: the model has no {module}")
        turned = isinstance(places.owner(weight), nn.Linear)  # a `Conv1D` keeps its weight the other way round
        wide, long = weight.shape if turned else weight.shape[::-1]
        wanted = {"A": torch.empty(rank, long), "B": torch.empty(wide, rank)}
        require_fitting(pair, wanted, folder, f"{file}: {module}")
        change = (pair["B"].float() @ pair["A"].float()) * scale
        change = change if turned else change.T
        weight.copy_(weight.float() + change.to(weight.device))


class _Places:
    """Where the tensors of a file belong in a model."""

    def __init__(self, lm: PreTrainedModel) -> None:
        path = blocks_path(lm)
        self.path, self.own = path, dict(lm.named_parameters(remove_duplicate=False))
        self.block = re.compile(rf"(?:^|\.){re.escape(path.rpartition('.')[2])}\.(\d+)\.(.+)")
        self.outside = [name for name in self.own if not name.startswith(f"{path}.")]
        self.modules = dict(lm.named_modules())
        self.names = {id(parameter): name for name, parameter in self.own.items()}
        text, head = path.split(".")[:-1], lm.get_output_embeddings()
        above = [(lm.get_submodule(".".join(text[:i])), name) for i, name in enumerate(text)]
        beside = {name: each for module, own in above for name, each in module.named_children() if name != own}
        self.towers = {name for name, module in beside.items() if module is not head}

    def aside(self, name: str) -> bool:
        """Whether it belongs to what a text never enters, such as a vision tower."""
        return not self.towers.isdisjoint(name.split("."))

    def of(self, name: str) -> nn.Parameter | None:
        if name in self.own:
            return self.own[name]
        if found := self.block.search(name):
            return self.own.get(f"{self.path}.{found[1]}.{found[2]}")
        tail = ".".join(name.split(".")[-2:])
        alike = [each for each in self.outside if each == tail or each.endswith(f".{tail}")]
        return self.own[alike[0]] if len(alike) == 1 else None

    def owner(self, parameter: nn.Parameter) -> nn.Module:
        return self.modules[self.names[id(parameter)].rpartition(".")[0]]


def _require_all(lm: PreTrainedModel, needed: set[str], placed: set[int], folder: Path) -> None:
    """Raise where a weight would stay the frozen model's own, though the part was trained whole."""
    lacking = sorted(name for name, p in lm.named_parameters() if name in needed and id(p) not in placed)
    if lacking:
        raise BadInput("lens", str(folder), FIX, why=f"its files lack {lacking[0]} and {len(lacking) - 1} more")


def _scale_of(alpha: float, rank: int, by_root: bool) -> float:
    return float(alpha / (rank**0.5 if by_root else rank))
