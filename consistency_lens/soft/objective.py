"""The term of the objective that no other family has, unweighted.

    CE + κ τ² KL(teacher with the text, its k likeliest words || receiver with the code)

Shapes: B rows, K tokens of an answer, V vocabulary, k likeliest words.
"""

from __future__ import annotations

from torch import Tensor

from ..errors import BadInput
from ..objectives import masked_mean


def distillation_of(logits: Tensor, best: Tensor, words: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """τ² KL(p || q), mean over the tokens of an answer, `[B]`: p over the teacher's k likeliest words, q over all.

    Args:
        logits: of the receiver, `[B, K, V]`, at the columns that predict the answer.
        best: the teacher's largest logits at the same tokens, `[B, K, k]`.
        words: whose they are, `[B, K, k]`.
        mask: `[B, K]`, the tokens of the answer.
        temperature: τ.
    """
    if best.shape != words.shape or best.shape[:2] != logits.shape[:2] or mask.shape != logits.shape[:2]:
        shapes = [list(each.shape) for each in (logits, best, words, mask)]
        fix = "Give the teacher's words and a mask for each column of the logits."
        raise BadInput("logits", shapes, fix, why="the shapes of logits, best, words and mask do not fit")
    log_p = (best.float() / temperature).log_softmax(-1)
    scaled = logits.float() / temperature
    log_q = scaled.gather(-1, words) - scaled.logsumexp(-1, keepdim=True)
    return temperature**2 * masked_mean((log_p.exp() * (log_p - log_q)).sum(-1), mask)
