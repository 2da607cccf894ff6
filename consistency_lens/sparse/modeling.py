"""`CrosslayerTranscoder`: activations of many layers -> sparse features -> the outputs of many MLPs.

Shapes: N tokens, L chosen layers, d hidden size, F features per layer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..base.comparing import WholePass
from ..base.configuration import LensConfig
from ..base.explaining import ROWS, Positions
from ..base.explanations import Explanations
from ..base.lens import Batch
from ..base.modeling import require_unasked
from ..base.saving.lens_files import HEADS, inner_folder, load_files, open_folder, require_shapes, saved_shapes
from ..frozen import Edit, FrozenLM, FrozenModels
from ..hub import Reach
from .coding.calibrating import calibrate
from .coding.documents import DocumentCode, lengths_of, read_documents
from .coding.folding import fold
from .configuration import CrosslayerTranscoderConfig
from .features.contexts import FeatureContexts
from .transcoder import Transcoder
from .use.circuit_tracer import is_export, read_export
from .use.explaining import explain_tokens
from .use.replacing import Factors, changed, kept_columns, replaced
from .use.using import Changed, amplify, features_of

SHOWN_FEATURES = 10  # on the card, of the most convincing and of the least


class CrosslayerTranscoder(Transcoder):
    """Sparse features that are read at many layers and written in the place of many MLPs."""

    config_class = CrosslayerTranscoderConfig

    @classmethod
    def from_subject(
        cls, frozen: FrozenLM, layers: str | Sequence[int] = "all", seed: int = 0, **settings: Any
    ) -> CrosslayerTranscoder:
        """A new lens for layers of a frozen model.

        Args:
            frozen: the frozen model.
            layers: `all`, a window such as `8:18`, or a list of numbers.
            seed: of the weights.
            settings: fields of `CrosslayerTranscoderConfig`.
        """
        lens = cls(CrosslayerTranscoderConfig.for_subject(frozen, layers, **settings), seed).to(frozen.device)
        lens.subject = frozen
        return lens

    @classmethod
    def build(cls, config: Any, frozen: Any, tokenizer: PreTrainedTokenizerBase) -> Self:
        lens = cls(config)
        return lens.to(frozen.device) if frozen else lens

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        lens_id_or_path: str | os.PathLike[str],
        subject: FrozenLM | Sequence[FrozenLM] | Mapping[str, FrozenLM] | None = None,
        revision: str | None = None,
        token: str | None = None,
        config: LensConfig | None = None,
        *,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        subfolder: str = "",
        ignore: Sequence[str] = (),
        **of_auto_model: Any,
    ) -> Self:
        """A lens from the Hub or from a folder; as of every lens, but it needs no tokenizer. A local folder may be in
        circuit-tracer's format."""
        require_unasked(of_auto_model)
        frozen = None if subject is None else FrozenModels.of(subject).only
        if is_export(inside := Path(lens_id_or_path) / inner_folder(subfolder)):
            found: Any = read_export(inside, frozen)
            return found
        reach = Reach(cache_dir=cache_dir, local_files_only=local_files_only)
        folder = open_folder(lens_id_or_path, cls.config_class, revision, token, subfolder, **reach)
        config = config or cls.config_class.from_pretrained(folder)
        if frozen is not None:
            config.require_subject(frozen, tuple(ignore))
        require_shapes(_sizes(config), saved_shapes(folder, HEADS), folder, HEADS)
        lens = cls(config)
        load_files(lens.files(), folder)
        lens.subject = frozen
        lens.contexts = FeatureContexts.load(folder, config, lens.fingerprint())
        return (lens if frozen is None else lens.to(frozen.device)).eval()

    def fold(self) -> CrosslayerTranscoder:
        """The same lens with standardisation folded into plain weights."""
        return fold(self)

    def calibrated(self, batches: Iterable[Tensor]) -> CrosslayerTranscoder:
        """A lens with `topk` or `batchtopk` as one with `jumprelu`, at the same number of active features.

        Args:
            batches: what the lens reads, `[N, L, d]` each.
        """
        return calibrate(self, batches)

    @torch.no_grad()
    def compress(self, batch: Batch, seed: int | None = None) -> Any:
        """The active features of each row, or, where a batch brings tokens and no activations, of each of its
        documents, which the model reads; the seed changes nothing."""
        if "activations" in batch:
            return self.code_of(self.shards.whole(self.encode(self.read_of(batch))))
        frozen = self.reader
        found = read_documents(frozen, batch, self.config.read_sites)
        return DocumentCode(self.compress({"activations": found}), lengths_of(frozen, batch))

    def restore(self, code: Any, batch: Batch) -> list[Edit]:
        """All written sites replaced inside one pass, their features computed from what this very pass has read. What
        the code holds was read in another pass, and is not used."""
        return self.replaced(batch)

    def comparison(self, models: FrozenModels, batch: Batch, horizon: int = 0) -> WholePass:
        """By whole passes, over all tokens but the first of each row, where the model keeps its own values."""
        frozen = models.only
        ids = frozen.input_ids(batch)
        return WholePass.of(frozen, batch, mask=~kept_columns(batch, ids))

    def replaced(self, batch: Batch | None = None, factors: Factors | None = None, first: bool = True) -> list[Edit]:
        """Edits that put the lens in the place of its sites, inside one pass.

        Args:
            batch: what the model reads; of its `attention_mask` follows which column is a row's first token, where the
                model keeps its own values.
            factors: (layer, feature) -> what to multiply the feature by.
            first: false for the `new_edits` of `FrozenLM.generate`: no new token is the first one of its row.
        """
        return replaced(self, batch or {}, factors or {}, first)

    def changed(self, factors: Factors, batch: Batch | None = None, first: bool = True) -> list[Edit]:
        """Edits that leave the model's own values and add what a change of some features writes; `first` as in
        `replaced`."""
        return changed(self, batch or {}, factors, first)

    def explain_each(
        self,
        texts: Sequence[str | Tensor],
        positions: Sequence[Positions],
        top: int = 5,
        batch_size: int = ROWS,
    ) -> list[Explanations]:
        """One row with the active features of each token of a text, and what the model predicts there with the lens in
        the place of its sites. All tokens of a text are read in one pass, whatever `batch_size` says."""
        return [explain_tokens(self, text, own, top) for text, own in zip(texts, positions, strict=True)]

    def features(self, text: str, top: int = 10, contexts: int = 0) -> list[dict[str, Any]]:
        """The `top` strongest features of each token of a text but the first, with their labels, and with so many
        contexts of each."""
        return features_of(self, text, top, contexts=contexts)

    def amplify(self, text: str, factors: Factors, inside: str = "model", top: int = 5) -> Changed:
        """What the frozen model predicts after a text when some features are multiplied.

        Args:
            text: what it reads.
            factors: (layer, feature) -> what to multiply the feature by at every token; 0 ablates it.
            inside: `model`, which keeps its own values and gets the difference added, or `lens`: the lens stands in
                the place of the sites in both passes.
            top: how many of the likeliest next tokens to give.
        """
        return amplify(self, text, factors, inside, top)

    def ablate(self, text: str, features: Iterable[tuple[int, int]], inside: str = "model", top: int = 5) -> Changed:
        """The same with all these features, (layer, feature) each, switched off."""
        return amplify(self, text, dict.fromkeys(features, 0.0), inside, top)

    def on_card(self) -> dict[str, Any]:
        """The features whose labels predict them best, and those whose labels do worst."""
        if self.contexts is None:
            return {}
        best, worst = self.contexts.ranked(SHOWN_FEATURES)
        return {"features": {"best": best, "worst": worst, "about": self.contexts.about}}

    def save_parts(self, folder: Path) -> None:
        """The contexts of its features, as long as they are those of these weights."""
        if self.contexts is not None and self.contexts.about["weights"] == self.fingerprint():
            self.contexts.save(folder)


def _sizes(config: CrosslayerTranscoderConfig) -> dict[str, tuple[int, ...]]:
    """The largest of the weights as a configuration has them: none is made before a file is known to hold it."""
    count, features, size = len(config.window), config.features, config.hidden_size
    found: dict[str, tuple[int, ...]] = {f"sources.{i}.W_enc": (features, size) for i in range(count)}
    if not config.tied_decoder:
        targets = [count - i if config.crosslayer else 1 for i in range(count)]
        found |= {f"sources.{i}.W_dec": (features, size * targets[i]) for i in range(count)}
    return found
