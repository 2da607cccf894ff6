"""What one training step of the text family costs, in floating-point operations, pass by pass.

Shapes: B rows, G rollouts per row, N = B * G, S columns of the contexts, H columns (P and the horizon), T tokens of a
text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...base.watching.flops import Pass, Size
from ..parts.backbone import depth_of
from ..parts.decoder_encoder import LensPart


class StepCost:
    """
    Args:
        trainer: of the text family.
        inputs: a batch of it.
    """

    def __init__(self, trainer: Any, inputs: Mapping[str, Any]) -> None:
        self.trainer, config = trainer, trainer.lens.config
        self.rows, self.context = inputs["input_ids"].shape
        self.texts = self.rows * trainer.rollouts
        self.length, self.prompt = config.code_length, len(config.prompt_ids)
        self.ahead = 1 + trainer.args.kl_horizon
        self.decoder = _size(trainer.lens.decoder)
        self.encoder = _size(trainer.lens.encoder, depth_of(config))
        self.subject = Size.of(trainer.frozen.model)
        self.above = Size.of(trainer.frozen.model, trainer.frozen.num_layers - depth_of(config))

    @property
    def warm(self) -> int:
        """Of the warm start, in which starting texts are written and read; making them is not counted, since they are
        kept."""
        if self.trainer.args.quote:
            return self.reading(self.rows)
        return self.scoring(self.rows) + self.reading(self.rows) + self.remembering(self.rows)

    @property
    def functional(self) -> int:
        return self.texts_and_vectors + self.judging + self.terms_of_words

    @property
    def texts_and_vectors(self) -> int:
        """What the lens does."""
        args = self.trainer.args
        if args.quote:
            return self.reading(self.rows)
        found = self.reading(self.texts)
        if args.estimator != "sequential":  # there the graph is kept in the rollout itself
            found += self.decoder.forward(self._written(self.texts))
        if args.estimator != "none":
            found += self.scoring(self.texts)
        if args.anchor == "replay":
            found += self.reading(self.rows)
        return found

    @property
    def judging(self) -> int:
        """What the subject is asked of vectors: its prefix and what it says untouched, once a row, and what it says
        with each edit, through which a gradient flows down to the site."""
        weights = self.trainer.schedules
        if weights["kl"].is_off and weights["ground"].is_off:
            return 0
        before = self.context - 1
        found = self.subject.forward(Pass(self.rows, before))
        found += self.subject.forward(Pass(self.rows, self.ahead, self.ahead, before))
        if not weights["kl"].is_off:
            edited = Pass(self.texts, self.ahead, self.ahead, before)
            below = self.subject.forward(edited) - self.above.forward(edited)
            found += below + self.above.both(edited, trained=False)
        return found

    @property
    def terms_of_words(self) -> int:
        """What the subject, and the decoder as it was, are asked of texts."""
        args, weights, found = self.trainer.args, self.trainer.schedules, 0
        if args.quote:
            return 0
        judged = Pass(self.texts, 1 + self.length, 1 + self.length, self.prompt - 2)
        if not weights["lm"].is_off:
            through = args.estimator in ("parallel", "sequential")
            behind = Pass(self.texts, self.prompt + self.length - 2, self.length)
            found += self.subject.both(behind, trained=False) if through else self.subject.forward(judged)
        if not weights["ground"].is_off:
            found += self.subject.forward(Pass(self.texts, 1 + self.length, 1 + self.length, self.context - 1))
        return found + (self.remembering(self.texts) if args.estimator == "policy" else 0)

    # ---- passes of the parts

    def scoring(self, rows: int) -> int:
        return self.decoder.both(self._written(rows), trained=self._learns(self.trainer.lens.decoder))

    def reading(self, rows: int) -> int:
        read, learns = Pass(rows, 1 + self.length), self._learns(self.trainer.lens.encoder)
        through = self.trainer.args.estimator in ("parallel", "sequential") and not self.trainer.is_warming_up
        return self.encoder.both(read, learns) if learns or through else self.encoder.forward(read)

    def remembering(self, rows: int) -> int:
        """The texts once more, by the decoder of an earlier stage."""
        return self.decoder.forward(self._written(rows)) if self.trainer.reference else 0

    def _written(self, rows: int) -> Pass:
        return Pass(rows, self.prompt + self.length - 1, self.length)

    def _learns(self, part: LensPart) -> bool:
        return any(p.requires_grad for p in part.own_parameters().values())


def _size(part: LensPart, layers: int | None = None) -> Size:
    return Size.of(part.lm, layers, part.adapter)
