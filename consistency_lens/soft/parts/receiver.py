"""`Receiver`: a code -> soft tokens of one frozen model; and the start from embeddings, at which it reads already.

Everything is in units of the root mean square of a model's embeddings, as its embedding module gives them out: Gemma's
sqrt(d) is in them.

Shapes: B rows, M vectors, d_z size of a vector, d hidden size of the model, V words.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...frozen import FrozenLM
from ..configuration import ACTIVATIONS

RIDGE = 1e-2  # of the mean squared length of a code's coordinates
_PART = 8192  # words at a time
_SMALLEST = 1e-12


_FUNCTIONS = dict(zip(ACTIVATIONS, (None, functional.gelu, functional.silu, torch.tanh), strict=True))


class Receiver(nn.Module):
    """Two linear layers, and a soft token for each task that has one: `W2 (h + g · f(h))`, `h = W1 z`.

    The activation f stands beside the linear path, with a factor g for each coordinate that starts at 0: so the start
    from embeddings reads as well as without it.

    Args:
        d_z: size of a vector.
        width: hidden size of the model.
        rms: root mean square of the model's embeddings.
        calibrate: bring each row's soft tokens to exactly this.
        modes: how many tasks have a soft token.
        activation: name of f; `none` for two linear layers alone.
    """

    def __init__(
        self, d_z: int, width: int, rms: float, calibrate: bool = True, modes: int = 0, activation: str = "none"
    ) -> None:
        super().__init__()
        self.activation = _FUNCTIONS[activation]
        self.bend = nn.Parameter(torch.zeros(width)) if self.activation else None
        self.rms, self.calibrate = rms, calibrate
        self.first, self.second = nn.Linear(d_z, width), nn.Linear(width, width)
        self.modes = nn.Parameter(torch.zeros(modes, width)) if modes else None

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Normal weights of variance 1/d; the second layer is an identity."""
        generator = torch.Generator().manual_seed(seed)
        weight = self.first.weight
        weight.copy_(torch.empty(weight.shape).normal_(0, weight.shape[1] ** -0.5, generator=generator))
        self.first.bias.zero_()
        self.second.weight.copy_(torch.eye(len(weight)))
        self.second.bias.zero_()
        if self.bend is not None:
            self.bend.zero_()

    def forward(self, code: Tensor, mask: Tensor) -> Tensor:
        """`[B, M, d_z]`, of which a row has those of the mask `[B, M]`, to `[B, M, d]`."""
        hidden = self.first(code)
        if self.activation is not None and self.bend is not None:
            hidden = hidden + self.bend * self.activation(hidden)
        vectors = self.second(hidden)
        if not self.calibrate:
            return vectors * self.rms
        squares = (vectors.float().square().mean(-1) * mask).sum(1) / mask.sum(1).clamp_min(1)
        return vectors * (self.rms / squares.clamp_min(_SMALLEST).sqrt())[:, None, None]

    def mode_tokens(self, numbers: Tensor) -> Tensor:
        """The soft token of each row's task, `[B, 1, d]`; any of them where a row's number is -1."""
        assert self.modes is not None
        return self.modes[numbers.clamp_min(0)][:, None] * self.rms


@torch.no_grad()
def embedding_table(frozen: FrozenLM) -> Tensor:
    """What each word enters the model's blocks as, `[V, d]` in float32: of some models the table times a constant."""
    ids = torch.arange(min(len(frozen.tokenizer), frozen.vocab_size), device=frozen.device)
    return torch.cat([frozen.model.get_input_embeddings()(part).float() for part in ids.split(_PART)])


def rms_of(vectors: Tensor) -> float:
    """Root mean square of all coordinates."""
    return float(vectors.square().mean().sqrt())


def shared_words(one: Any, other: Any) -> tuple[list[int], list[int]]:
    """Ids of the words that two tokenizers write alike, in the first one's order.

    A space in front of a word is a letter like any other, however a tokenizer writes it. Special tokens are no words.
    """
    first, second = _words(one), _words(other)
    both = [word for word in first if word in second]
    return [first[word] for word in both], [second[word] for word in both]


def _words(tokenizer: Any) -> dict[str, int]:
    special = set(tokenizer.all_special_ids)
    found = sorted((number, word) for word, number in tokenizer.get_vocab().items() if number not in special)
    return {word.replace("Ġ", " ").replace("▁", " "): number for number, word in found}


@torch.no_grad()
def ridge(inputs: Tensor, outputs: Tensor, strength: float = RIDGE) -> tuple[Tensor, Tensor, float]:
    """W `[d, d_z]`, b `[d]` that minimise |y - W x - b|² + λ |W|², and the variance that they explain.

    Args:
        inputs: x, `[n, d_z]`.
        outputs: y, `[n, d]`.
        strength: λ over the sum of squares of a coordinate of x, in the mean.
    """
    x, y = inputs.double(), outputs.double()
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    gram = x.T @ x
    gram.diagonal().add_(strength * gram.diagonal().mean().clamp_min(_SMALLEST))
    weight = torch.linalg.solve(gram, x.T @ y).T
    left = (y - x @ weight.T).square().sum()
    explained = float(1 - left / y.square().sum().clamp_min(_SMALLEST))
    return weight.float(), (y_mean - weight @ x_mean).float(), explained


@torch.no_grad()
def principal(vectors: Tensor, count: int, ordered: bool = False) -> Tensor:
    """The directions `[count, d]` that hold most of `[n, d]`; with `count` from d up, an identity and zeros.

    Args:
        vectors: `[n, d]`.
        count: how many directions.
        ordered: the first hold most, also where there are all of them.
    """
    width = vectors.shape[1]
    if count >= width and not ordered:
        return torch.eye(count, width)
    x = vectors.double()
    found = torch.linalg.eigh(x.T @ x).eigenvectors[:, -count:].flip(1).T.float().contiguous().cpu()
    return torch.cat([found, torch.zeros(count - len(found), width)])
