"""A question that the next token cannot answer: asked behind P, with the edit in place at P.

Naming what comes next satisfies every KL at P. What an activation holds beyond that shows where the text goes on with
something that needs it.

Shapes: B rows, K tokens of a question, V vocabulary, d hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...evaluation.quantities import Quantity, recovered
from ...frozen import Edit, FrozenLM, Prefix
from ...objectives import kl_of

KL_ASKED, RECALL = "kl_asked", "asked_recall"
QUANTITIES: Mapping[str, Quantity] = {
    KL_ASKED: Quantity(
        "mean KL at the end of a question behind P, the edit in place at P, in nats: over rows whose activation holds "
        "a fact that is not needed within the horizon, asked for that fact"
    ),
    f"{KL_ASKED}_recovered": Quantity(f"kl_recovered of {KL_ASKED}", recovered(KL_ASKED)),
    RECALL: Quantity("how often the model then says that fact, of the questions that it answers without an edit"),
}


@dataclass(frozen=True)
class Question:
    """Words that stand behind P, and the word that answers them."""

    text: str
    answer: str


class Questions(Protocol):
    """A world that can ask for what a row's activation holds."""

    @property
    def columns(self) -> Sequence[str]:
        """What it needs of a row, beyond `position` and `doc_id`: columns, or sites."""
        ...

    def questions(self, rows: Mapping[str, Sequence[Any]], seed: int) -> Sequence[Question | None]:
        """One for each row, or None where nothing is held that could be asked for."""
        ...


@torch.no_grad()
def asked(
    frozen: FrozenLM,
    contexts: Prefix,
    site: str,
    questions: Sequence[Question | None],
    written: Mapping[str, Tensor],
) -> dict[str, dict[str, Tensor]]:
    """Code -> `kl_asked` and `asked_recall` of each row, `[B]`; NaN in rows that are not asked.

    Only questions that fit behind the context, and that the untouched model answers, are asked.

    Args:
        frozen: the model.
        contexts: of a batch.
        site: that is written to.
        questions: of its rows.
        written: by code, what takes the place of A, `[B, d]`.
    """
    tokenizer, count = frozen.tokenizer, len(questions)
    names = (KL_ASKED, RECALL)
    found = {code: {name: torch.full((count,), torch.nan) for name in names} for code in written}
    rows, texts, answers = [], [], []
    for row, question in enumerate(questions):
        if question is None:
            continue
        ids, answer = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (question.text, question.answer))
        if len(answer) == 1 and ids and contexts.mask.shape[1] + len(ids) <= frozen.max_length:
            rows.append(row)
            texts.append(torch.tensor(ids))
            answers.append(int(answer[0]))
    if not rows:
        return found
    where, lengths = torch.tensor(rows), torch.tensor([len(ids) for ids in texts])
    padded = pad_sequence(texts, True, 0).to(frozen.device)
    mask = (torch.arange(padded.shape[1]) < lengths.unsqueeze(1)).long().to(frozen.device)
    prefix = contexts.take(where).followed_by(padded, mask)

    def at_the_end(edits: Sequence[Edit]) -> Tensor:
        logits = prefix.logits(edits, horizon=padded.shape[1])
        return logits[torch.arange(len(rows)), lengths].float()

    clean, true = at_the_end([]), torch.tensor(answers, device=frozen.device)
    known = (clean.argmax(-1) == true).cpu()
    for code, vectors in written.items():
        edited = at_the_end([Edit(site, vectors[where.to(vectors.device)])])
        values = {KL_ASKED: kl_of(clean, edited).cpu(), RECALL: (edited.argmax(-1) == true).float().cpu()}
        for name, value in values.items():
            found[code][name][where[known]] = value[known].float()
    return found
