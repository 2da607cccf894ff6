"""Lenses that a run keeps beside its own, for the report: per-layer transcoders of equal size, and the lens shipped.

Both lie in folders of the run, and an interrupted run finds them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from accelerate import PartialState
from torch import Tensor
from torch.utils.data import DataLoader
from transformers.utils import CONFIG_NAME

from ...activations.blocks import Blocks, BySite
from ...base.family_run import Run
from ...options import option
from ..coding.folding import with_settings
from ..configuration import CrosslayerTranscoderConfig
from ..modeling import CrosslayerTranscoder

PER_LAYER, SHIPPED = "per_layer", "jumprelu"  # folders of a run, and codes of its report
CALIBRATED_ON = 65_536  # tokens, at most


@dataclass
class TwinOptions:
    """What a run makes beside its own lens."""

    per_layer: bool = option(
        False,
        "Per-layer transcoders with as many parameters, trained for as many steps on the same tokens: a control of "
        "the report.",
    )
    ship_jumprelu: bool = option(
        False,
        "A topk or batchtopk lens as a jumprelu as well, in the folder jumprelu: one threshold per layer, at which "
        "as many features are active on held-out tokens. The report compares the two.",
    )


def equal_features(config: CrosslayerTranscoderConfig) -> int:
    """Features per layer that give per-layer transcoders as many weights as a lens has in encoders and decoders."""
    layers, size = len(config.window), config.hidden_size
    decoders = layers if config.tied_decoder else sum(config.reach(index) for index in range(layers))
    return max(1, round(config.features * (layers * size + decoders * size) / (2 * layers * size)))


def per_layer_of(config: CrosslayerTranscoderConfig) -> CrosslayerTranscoderConfig:
    """The configuration of per-layer transcoders with as many weights and as many active features per layer."""
    settings = {"crosslayer": False, "tied_decoder": False, "features": equal_features(config)}
    return with_settings(config, **settings)


def keep_per_layer(run: Run, lens: CrosslayerTranscoder, data: Blocks, steps: int) -> None:
    """Train them as the lens was trained, where the run has none yet; checkpoints do not stay."""
    place = run.folder / PER_LAYER
    if run.resumed and (place / CONFIG_NAME).is_file():
        return
    changes = {"eval_strategy": "no", "load_best_model_at_end": False, "sample_steps": 0, "report_to": "none"}
    training = run.training(place, max_steps=steps, save_total_limit=1, push_to_hub=False, **changes)
    twin = CrosslayerTranscoder(per_layer_of(lens.config), training.seed).to(lens.device)
    twin.models = lens.models
    run.train_beside(run.trainer(twin, training, data, "per-layer transcoders"), place)
    PartialState().wait_for_everyone()


def keep_shipped(run: Run, lens: CrosslayerTranscoder, data: Blocks) -> None:
    """The lens with thresholds, by tokens that it was not trained on where there are any."""
    split = "validation" if "validation" in data.splits else "train"
    size = min(int(run.values["per_device_train_batch_size"]), CALIBRATED_ON)
    if PartialState().is_main_process:
        lens.calibrated(_read(lens, data, split, size)).save_pretrained(run.folder / SHIPPED)
    PartialState().wait_for_everyone()


def _read(lens: CrosslayerTranscoder, data: Blocks, split: str, size: int) -> Iterator[Tensor]:
    seen = 0
    for batch in DataLoader(data.tokens(split), batch_size=size, collate_fn=BySite(data.sites)):  # type: ignore[arg-type]
        yield lens.read_of(batch)
        seen += size
        if seen >= CALIBRATED_ON:
            return
