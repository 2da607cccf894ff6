"""circuit-tracer's own format, to and from: a folder that its `load_clt` opens, checked beyond what it checks itself.

    config.yaml
    W_enc_{i}.safetensors   W_enc_{i} [F, d], b_enc_{i} [F], b_dec_{i} [d], threshold_{i} [F] of a JumpReLU
    W_dec_{i}.safetensors   W_dec_{i} [F, L - i, d]; target i + j at index j

There is no standardisation in it, so it is folded into the weights; and no skip, which is refused. Beside these files
lie pages of the features, where their contexts are known (`dashboards.py`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ...base.saving.lens_files import save_files
from ...errors import BadInput
from ...frozen import FrozenLM
from ...schema import glimpse
from ..coding.calibrating import calibrate
from ..coding.decoding import untied
from ..coding.folding import fold
from ..configuration import CrosslayerTranscoderConfig
from ..transcoder import Transcoder
from .dashboards import FOLDER, write_dashboards

LARGEST = 1 << 16  # bytes of a description
CONFIG, KIND = "config.yaml", "cross_layer_transcoder"
# What a stage is called there, with TransformerLens's names.
INPUT_HOOKS = {"resid_mid": "hook_resid_mid", "resid_pre": "hook_resid_pre"}
OUTPUT_HOOKS = {"mlp_out": "hook_mlp_out"}


def names_of(layers: int) -> list[str]:
    """All files of an export."""
    return [CONFIG, *(f"W_{part}_{i}.safetensors" for part in ("enc", "dec") for i in range(layers))]


@torch.no_grad()
def export(lens: Transcoder, folder: str | os.PathLike[str], batches: Iterable[Tensor] | None = None) -> Path:
    """Write a lens as circuit-tracer reads it: beside the folder, whose place it takes when it is whole.

    Args:
        lens: of all layers of its frozen model, with `relu` or `jumprelu`.
        folder: a new or empty one, or an earlier export of as many layers.
        batches: activations `[N, L, d]` for thresholds, where the lens has `topk` or `batchtopk`.
    """
    place = Path(folder)
    _require_exportable(lens, place, batches is not None)
    known = lens.contexts
    if batches is not None and lens.config.k is not None:
        lens = calibrate(lens, batches)
    part = place.with_name(f".{place.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    _write(lens, part)
    if known is not None:
        write_dashboards(known, part, lens.config.origin.model_id)
    _require_written(part, lens.config)
    if place.exists():
        shutil.rmtree(place)
    part.rename(place)
    return place


def _write(lens: Transcoder, place: Path) -> None:
    plain, count = fold(lens), lens.config.depth
    files = {}
    for i, decoder in enumerate(_decoders(plain)):
        source = plain.layers_in_order[i]
        encoder = {f"W_enc_{i}": source.W_enc, f"b_enc_{i}": source.b_enc, f"b_dec_{i}": plain.targets.b_dec[i]}
        if source.threshold is not None:
            encoder[f"threshold_{i}"] = source.threshold
        _require_sound(i, {**encoder, f"W_dec_{i}": decoder})
        files[f"W_enc_{i}.safetensors"] = {name: _plain(tensor) for name, tensor in encoder.items()}
        files[f"W_dec_{i}.safetensors"] = {f"W_dec_{i}": _plain(decoder.view(len(decoder), count - i, -1))}
    save_files(files, place)
    said = {
        "model_kind": KIND,
        "feature_input_hook": INPUT_HOOKS[lens.config.read_stage],
        "feature_output_hook": OUTPUT_HOOKS[lens.config.write_stage],
        "model_name": lens.config.origin.model_id if lens.config.provenance else "",
    }
    (place / CONFIG).write_text(yaml.safe_dump(said, sort_keys=False), encoding="utf-8")


def _require_written(place: Path, config: CrosslayerTranscoderConfig) -> None:
    """Raise unless the files on the disk are what circuit-tracer takes for granted and does not look at."""
    count, features, size = config.depth, config.features, config.hidden_size
    missing = sorted(set(names_of(count)) - {path.name for path in place.iterdir()})
    jumps = config.nonlinearity != "relu"
    for i in range(count if not missing else 0):
        wanted = {f"W_enc_{i}": [features, size], f"b_enc_{i}": [features], f"b_dec_{i}": [size]}
        wanted |= {f"threshold_{i}": [features]} if jumps else {}
        for part, shapes in (("enc", wanted), ("dec", {f"W_dec_{i}": [features, count - i, size]})):
            with safe_open(place / f"W_{part}_{i}.safetensors", "pt") as tensors:
                found = {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
            if found != shapes:
                missing.append(f"W_{part}_{i}.safetensors with {shapes}")
    if missing:
        fix = "Try again, on a disk that keeps what is written to it."
        raise BadInput("folder", str(place), fix, why=f"{missing[0]} is not in what was written")


def _plain(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().float(), requires_grad=False)


def _decoders(lens: Transcoder) -> list[Tensor]:
    """`[F, (L - i)·d]` of each source: tied ones written out, per-layer ones with zeros above their own target."""
    if lens.targets.W_dec is not None:
        return untied(list(lens.targets.W_dec))
    own = [source.W_dec for source in lens.layers_in_order if source.W_dec is not None]
    wide = [(len(own) - i) * lens.config.hidden_size for i in range(len(own))]
    return [nn.functional.pad(weight, (0, size - weight.shape[1])) for weight, size in zip(own, wide, strict=True)]


def _require_exportable(lens: Transcoder, folder: Path, has_batches: bool) -> None:
    config = lens.config
    if lens.subject is not None and lens.subject.num_layers != config.depth:
        why = f"{lens.subject.model_id} has {lens.subject.num_layers} layers"
        raise BadInput("depth", config.depth, "Give the lens its own model.", why=why)
    if config.skip:
        fix = "Train one without skip to open it in circuit-tracer."
        raise BadInput("skip", True, fix, why="circuit-tracer has no linear skip in its format, and would ignore it")
    for name, known in (("read_stage", INPUT_HOOKS), ("write_stage", OUTPUT_HOOKS)):
        stage = vars(config)[name]
        if stage not in known:
            why = f"circuit-tracer has no hook of this meaning; it has them for {', '.join(known)}"
            raise BadInput(name, stage, "Train a lens on one of these.", why=why)
    if config.window != list(range(config.depth)):
        why = f"circuit-tracer takes the number of files for the number of layers, and the model has {config.depth}"
        raise BadInput("layers", config.window, "Export a lens of all layers.", why=why)
    if config.k is not None and not has_batches:
        fix = "Give batches of activations: thresholds are calibrated on them."
        raise BadInput("batches", None, fix, why=f"circuit-tracer knows thresholds, and no {config.nonlinearity}")
    stray = sorted({path.name for path in folder.glob("*")} - {*names_of(config.depth), FOLDER})
    if stray:
        why = f"{stray[0]} lies in it, and circuit-tracer takes what it finds for part of the transcoder"
        raise BadInput("folder", str(folder), "Give a folder of its own.", why=why)


def _require_sound(layer: int, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise BadInput("weights", name, "Train it again: a weight is not finite.", why=f"of layer {layer}")
        if name.startswith("threshold") and not bool((tensor > 0).all()):
            feature = int((tensor <= 0).flatten().nonzero()[0, 0])
            fix = "Leave such features out, or train it with larger thresholds."
            raise BadInput("threshold", float(tensor.flatten()[feature]), fix, why=f"feature {layer}/{feature}")


def is_export(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds circuit-tracer's format and not ours."""
    return (Path(folder) / "W_enc_0.safetensors").is_file()


@torch.no_grad()
def read_export(folder: str | os.PathLike[str], subject: FrozenLM | None = None) -> Transcoder:
    """A folder in circuit-tracer's format as a lens.

    Args:
        folder: a local one.
        subject: the model it was made for. Without one, features can be computed from activations that are given, and
            the lens cannot be saved.
    """
    from ..modeling import CrosslayerTranscoder  # which opens folders in this format

    place = Path(folder)
    stages = _stages(place)
    layers = len(list(place.glob("W_enc_*.safetensors")))
    missing = [name for name in names_of(layers)[1:] if not (place / name).is_file()]
    stray = sorted({path.name for path in place.glob("W_*.safetensors")} - set(names_of(layers)))
    if missing or stray:
        odd = f"{missing[0]} is missing" if missing else f"{stray[0]} is none of its files"
        raise BadInput("folder", str(place), "Download it again, whole and alone.", why=odd)
    encoders = [_load(place / f"W_enc_{i}.safetensors") for i in range(layers)]
    with_thresholds = [f"threshold_{i}" in tensors for i, tensors in enumerate(encoders)]
    if any(with_thresholds) and not all(with_thresholds):
        layer = with_thresholds.index(False)
        raise BadInput("folder", str(place), "Download it again.", why=f"layer {layer} has no thresholds, others have")
    first = _tensor(encoders[0], "W_enc_0", 0)
    if first.dim() != 2:
        why = f"W_enc_0 is {list(first.shape)}, and should be [features, size]"
        raise BadInput("folder", str(place), "Download it again.", why=why)
    features, size = first.shape
    settings = {
        **stages,
        "features": features,
        "nonlinearity": "jumprelu" if all(with_thresholds) else "relu",
        "standardisation": "none",
    }
    if subject is None:
        config = CrosslayerTranscoderConfig(depth=layers, hidden_size=size, **settings)
    else:
        if (layers, size) != (subject.num_layers, subject.hidden_size):
            why = f"it has {layers} layers of size {size}; {subject.model_id} has {subject.num_layers} of size "
            raise BadInput("folder", str(place), "Give its own model.", why=f"{why}{subject.hidden_size}")
        config = CrosslayerTranscoderConfig.for_subject(subject, "all", **settings)
    lens = CrosslayerTranscoder(config)
    for i, source in enumerate(lens.layers_in_order):
        own = encoders[i] | _load(place / f"W_dec_{i}.safetensors")
        decoder = _tensor(own, f"W_dec_{i}", i)
        if decoder.shape != (features, layers - i, size):
            why = f"W_dec_{i} is {list(decoder.shape)}, not {[features, layers - i, size]}"
            raise BadInput("folder", str(place), "Write it again: features first, then targets.", why=why)
        _fill(source.W_enc, _tensor(own, f"W_enc_{i}", i), place)
        _fill(source.b_enc, _tensor(own, f"b_enc_{i}", i), place)
        _fill(lens.targets.b_dec[i], _tensor(own, f"b_dec_{i}", i), place)
        assert source.W_dec is not None
        _fill(source.W_dec, decoder.flatten(1), place)
        if source.log_threshold is not None:
            threshold = own[f"threshold_{i}"].flatten().float()
            if not bool((threshold >= 0).all()):
                fix = "Use one whose thresholds are above 0."
                raise BadInput("threshold", float(threshold.min()), fix, why=f"of a feature of layer {i}")
            _fill(source.log_threshold, threshold.log(), place)
    lens.subject = subject
    return (lens if subject is None else lens.to(subject.device)).eval()


def _stages(folder: Path) -> dict[str, str]:
    """Which stages the hooks of a `config.yaml` are."""
    path = folder / CONFIG
    try:
        if path.is_file() and path.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST} bytes")
        said = yaml.safe_load(path.read_text("utf-8")) if path.is_file() else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = f"{CONFIG} cannot be read: {str(error).splitlines()[0]}"
        raise BadInput("folder", str(folder), "Download it again.", why=why) from error
    if not isinstance(said, dict) or said.get("model_kind") != KIND:
        raise BadInput("folder", str(folder), f"Its {CONFIG} has to say model_kind: {KIND}.")
    found = {}
    for stage, key, known in (
        ("read_stage", "feature_input_hook", INPUT_HOOKS),
        ("write_stage", "feature_output_hook", OUTPUT_HOOKS),
    ):
        names = {hook: name for name, hook in known.items()}
        hook = said.get(key)
        if not isinstance(hook, str) or hook not in names:
            raise BadInput(key, glimpse(hook), f"Hooks that can be read: {', '.join(names)}.")
        found[stage] = names[hook]
    return found


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        fix = "Download it again."
        raise BadInput("folder", str(path.parent), fix, why=f"{path.name} cannot be read: {error}") from error


def _tensor(tensors: dict[str, Tensor], name: str, layer: int) -> Tensor:
    if name not in tensors:
        raise BadInput("folder", name, "Download it again.", why=f"this tensor of layer {layer} is missing")
    tensor = tensors[name]
    if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
        odd = "not finite" if tensor.is_floating_point() else f"no float: {tensor.dtype}"
        raise BadInput("folder", name, "Download it again.", why=f"a weight of layer {layer} is {odd}")
    return tensors[name]


def _fill(parameter: Tensor, tensor: Tensor, folder: Path) -> None:
    if parameter.shape != tensor.shape:
        why = f"a tensor of {list(tensor.shape)} stands where {list(parameter.shape)} are needed"
        raise BadInput("folder", str(folder), "Download it again: layers differ in size.", why=why)
    parameter.copy_(tensor)
