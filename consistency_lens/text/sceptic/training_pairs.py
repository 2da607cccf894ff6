"""What two tokens say of each training row: the one at P, and the one that the model finds likeliest behind it.

Rows of one document are prefixes of its longest context, so a document is read once for all of them.

Shapes: N rows, B documents, S columns, d hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from ...frozen import FrozenLM
from ...frozen.hooks import taking_turns

ROWS = 32_768  # of the training split that are looked at, in all
STREAMED = 4_096  # of a split that is a stream
CHUNK = 1_024  # rows that are grouped by document and read together
TOKENS = 16_384  # of one pass, padding included


@dataclass(frozen=True)
class Pairs:
    """Some training rows.

    Args:
        vectors: `[N, d]` float32.
        last: `[N]`, the token at P.
        following: `[N]`, the likeliest next token of the untouched model.
    """

    vectors: Tensor
    last: Tensor
    following: Tensor


def training_pairs(rows: Any, frozen: FrozenLM, site: str, most: int = ROWS) -> Iterator[Pairs]:
    """The rows of a training split, a chunk at a time; of a split that is larger, some of all its documents.

    Args:
        rows: with `input_ids`, `doc_id` and the site's activations.
        frozen: the model.
        site: whose activations.
        most: rows at most.
    """
    parts = list(_chunks(rows, site, most)) if not isinstance(rows, Dataset) else _chunks(rows, site, most)
    total = min(len(rows), most) if isinstance(rows, Dataset) else None
    with tqdm(total=total, desc="two tokens of training rows", unit="row", leave=False, disable=None) as bar:
        for part in parts:
            ids = [np.asarray(row) for row in part["input_ids"]]
            found = likeliest_behind(frozen, ids, part["doc_id"])
            last = torch.tensor([int(row[-1]) for row in ids])
            yield Pairs(torch.as_tensor(np.asarray(part[site])).float(), last, found)
            bar.update(len(ids))


def _chunks(rows: Any, site: str, most: int) -> Iterator[Mapping[str, Any]]:
    """Columns of rows that belong together as far as they can."""
    names = ["input_ids", "doc_id", site]
    if not isinstance(rows, Dataset):
        part = list(rows.take(min(most, STREAMED)))
        for first in range(0, len(part), CHUNK):
            yield {name: [row[name] for row in part[first : first + CHUNK]] for name in names}
        return
    plain = rows.with_format("numpy", columns=names)
    documents = np.asarray(rows.with_format("numpy", columns=["doc_id"])["doc_id"][:])
    order = np.argsort(documents, kind="stable")
    if len(order) > most:  # whole documents, drawn from everywhere
        shuffled = np.random.default_rng(0).permutation(np.unique(documents))
        rank = dict(zip(shuffled.tolist(), range(len(shuffled)), strict=True))
        order = np.array(sorted(order, key=lambda row: rank[int(documents[row])]))[:most]
    for first in range(0, len(order), CHUNK):
        yield plain[order[first : first + CHUNK].tolist()]


@torch.no_grad()
def likeliest_behind(frozen: FrozenLM, contexts: Sequence[np.ndarray], documents: Sequence[Any]) -> Tensor:
    """The model's likeliest next token behind each context, `[N]`; contexts that begin a longer one of the same
    document share its pass."""
    wholes: list[np.ndarray] = []
    place: list[tuple[int, int]] = [(0, 0)] * len(contexts)  # which whole, which column of it
    latest: dict[int, int] = {}
    for row in sorted(range(len(contexts)), key=lambda i: -len(contexts[i])):
        ids, document = contexts[row], int(documents[row])
        whole = latest.get(document)
        if whole is None or not np.array_equal(wholes[whole][: len(ids)], ids):
            whole = latest[document] = len(wholes)
            wholes.append(ids)
        place[row] = (whole, len(ids) - 1)
    wanted: dict[int, list[int]] = {}
    for row, (whole, _) in enumerate(place):
        wanted.setdefault(whole, []).append(row)
    found = torch.zeros(len(contexts), dtype=torch.long)
    for part in _by_length(wholes):  # they are sorted by length already
        padded = pad_sequence([torch.as_tensor(wholes[i]).long() for i in part], True, 0).to(frozen.device)
        with taking_turns(frozen.model):
            # Padded on the right: nothing looks to the right. The head meets the columns that are asked for alone.
            hidden = frozen.model.base_model(input_ids=padded, use_cache=False).last_hidden_state
            rows = [row for i in part for row in wanted[i]]
            at = [(k, place[row][1]) for k, i in enumerate(part) for row in wanted[i]]
            which, columns = torch.tensor(at, device=hidden.device).T
            best = frozen.model.get_output_embeddings()(hidden[which, columns]).argmax(-1)
        found[torch.tensor(rows)] = best.cpu()
    return found


def _by_length(wholes: Sequence[np.ndarray]) -> Iterator[list[int]]:
    part: list[int] = []
    for i in range(len(wholes)):
        if part and (len(part) + 1) * len(wholes[part[0]]) > TOKENS:
            yield part
            part = []
        part.append(i)
    if part:
        yield part
