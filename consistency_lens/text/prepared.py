"""Starting texts of all rows, made before the first step that needs them.

Rows of one length run together, so that little of a pass is padding; and which rows run together depends on the rows
alone: a probability on the edge of doubt falls on the same side in a run that was resumed.

Shapes: R rows, T tokens of a text.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from .generation import Words
from .starting import StartingTexts

logger = logging.getLogger(__name__)

TOKENS = 16_384  # of the contexts of one pass, padding included


class PreparedTexts:
    """The text of each row, found again by its document and position.

    Args:
        texts: of all rows.
        keys: `(doc_id, position)` of each.
    """

    def __init__(self, texts: StartingTexts, keys: Sequence[tuple[int, int]]) -> None:
        self.texts, self.rows = texts, {key: row for row, key in enumerate(keys)}

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        make: Callable[[dict[str, Tensor]], StartingTexts],
        pad_id: int,
        *,
        share: tuple[int, int] = (0, 1),
        progress: bool = True,
    ) -> PreparedTexts:
        """
        Args:
            dataset: rows with `input_ids`, `position` and `doc_id`.
            make: contexts, padded on the left, to texts.
            pad_id: what fills contexts up.
            share: this process's number and how many there are, where each makes a part for all.
            progress: show a bar.
        """
        columns = dataset.with_format("torch", columns=["input_ids", "position", "doc_id"])[:]
        contexts = columns["input_ids"]
        keys = list(zip(columns["doc_id"].tolist(), columns["position"].tolist(), strict=True))
        number, processes = share
        found: list[tuple[list[int], StartingTexts]] = []
        mine = _batches([len(ids) for ids in contexts])[number::processes]
        for rows in tqdm(mine, desc="starting texts", unit="batch", leave=False, disable=not progress):
            padded = pad_sequence([contexts[i] for i in rows], True, pad_id, padding_side="left")
            mask = pad_sequence([torch.ones_like(contexts[i]) for i in rows], True, 0, padding_side="left")
            found.append((rows, make({"input_ids": padded, "attention_mask": mask})))
        return cls(_together(found, len(keys), pad_id, processes), keys)

    def __len__(self) -> int:
        return len(self.texts.words)

    def find(self, keys: Sequence[tuple[int, int]], device: torch.device) -> StartingTexts:
        """Texts of some rows."""
        return self.texts.take(torch.tensor([self.rows[key] for key in keys])).to(device)


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Rows by length, in batches of about as many tokens each."""
    batches: list[list[int]] = [[]]
    for row in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batches[-1] and (len(batches[-1]) + 1) * lengths[row] > TOKENS:
            batches.append([])
        batches[-1].append(row)
    return batches


def _together(
    found: Sequence[tuple[list[int], StartingTexts]], rows: int, pad_id: int, processes: int
) -> StartingTexts:
    """The texts of all batches in the order of the rows; of all processes, where each has made some."""
    length = found[0][1].words.ids.shape[1] if found else 0
    if processes > 1:
        length = _reduced(torch.tensor(length), torch.distributed.ReduceOp.MAX).item()
    ids, mask, tail = (torch.zeros(shape, dtype=torch.long) for shape in ((rows, length), (rows, length), (rows,)))
    for here, made in found:
        ids[here], mask[here], tail[here] = made.words.ids.cpu(), made.words.mask.cpu(), made.tail.cpu()
    if processes > 1:
        # Each row was made by one process, and is zero in the others.
        ids, mask, tail = (_reduced(part, torch.distributed.ReduceOp.SUM) for part in (ids, mask, tail))
    return StartingTexts(Words(ids, mask), tail, pad_id)


def _reduced(tensor: Tensor, how: Any) -> Tensor:
    """Over all processes, wherever their backend works."""
    from accelerate import PartialState

    moved = tensor.to(PartialState().device)
    torch.distributed.all_reduce(moved, how)
    return moved.cpu()
