"""Two receivers together: each answers, both score all answers behind their own codes, and the likeliest is given.

Shapes: B rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...frozen import Edit, FrozenModels
from ...objectives import answer_nll_of
from ..configuration import LatentWireConfig
from ..data import collator_of

JOINT = "joint"


@torch.no_grad()
def rescored(
    config: LatentWireConfig,
    models: FrozenModels,
    batch: Mapping[str, Any],
    edits: Mapping[str, Sequence[Edit]],
    answers: Mapping[str, Sequence[str]],
) -> list[str]:
    """For each row, the answer of some receiver that all receivers together give the highest probability.

    Args:
        config: of the wire.
        models: its receivers.
        batch: of passages.
        edits: for each receiver, what stands in the passage's place.
        answers: what each receiver said of each row.
    """
    collate, scores = collator_of(config, models), []
    for said in answers.values():
        rows = [
            {"passage": ".", "prompt": prompt, "answers": [text.strip() or "."], "task": task, "ends": True}
            for prompt, task, text in zip(batch["prompt"], batch["task"], said, strict=True)
        ]
        tokens, total = collate(rows)["tokens"], torch.zeros(len(rows))
        for name, model in models.items():
            ids, mask = (tokens[name][part].to(model.device) for part in ("answer_ids", "answer_mask"))
            logits = model.logits(tokens[name]["bare"], edits[name], keep=ids.shape[1])
            total -= (answer_nll_of(logits, ids, mask) * mask.sum(1)).cpu()
        silent = torch.tensor([not text.strip() for text in said])
        scores.append(total.masked_fill(silent, -torch.inf))
    best, texts = torch.stack(scores).argmax(0).tolist(), list(answers.values())
    return [texts[chosen][row] for row, chosen in enumerate(best)]
