"""`TrainingState`: what a training of a transcoder knows beside its weights: firing counts and the held weight.

Both are functions of what was trained on so far, saved with each checkpoint and restored exactly.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...errors import BadInput
from ..configuration import FIRING
from .firing import Firing
from .holding import HeldSparsity

_HELD = "held"  # λ and the moving average of L0; the average is NaN before the first step


class TrainingState:
    """
    Args:
        layers: L.
        features: F.
        held: the controller of λ, or None where λ is a schedule.
        device: where the counts are.
    """

    def __init__(self, layers: int, features: int, held: HeldSparsity | None, device: torch.device) -> None:
        self.firing = Firing(layers, features).to(device)
        self.held = held

    def advance(self, counts: Tensor, tokens: int) -> float:
        """Take in one step, and return its L0: active features per token and layer.

        Args:
            counts: on how many tokens of all processes each feature was active, `[L, F]`.
            tokens: how many there were.
        """
        self.firing.see(counts, tokens)
        l0 = float(counts.sum()) / (tokens * len(counts))
        if self.held is not None:
            self.held = self.held.next(l0)
        return l0

    def save(self, folder: Path) -> None:
        tensors = {name: tensor.cpu() for name, tensor in self.firing.state_dict().items()}
        if self.held is not None:
            smoothed = torch.nan if self.held.smoothed is None else self.held.smoothed
            tensors[_HELD] = torch.tensor([self.held.weight, smoothed], dtype=torch.float64)
        save_file(tensors, folder / FIRING)

    def load(self, folder: Path) -> None:
        if not (folder / FIRING).is_file():
            fix = "Resume from another checkpoint, or begin a new run from the lens that lies in it."
            raise BadInput("resume_from_checkpoint", folder.name, fix, why=f"{FIRING} is missing")
        tensors = load_file(folder / FIRING)
        held = tensors.pop(_HELD, None)
        if (held is None) is not (self.held is None):
            fix = "Resume with the target_l0 that the run began with."
            why = "the checkpoint holds no weight that is adjusted" if held is None else "the checkpoint holds one"
            raise BadInput("target_l0", None if self.held is None else self.held.target, fix, why=why)
        known = self.firing.state_dict()
        odd = tensors.keys() ^ known.keys() or {n for n, t in tensors.items() if t.shape != known[n].shape}
        if odd:
            why = f"{FIRING} does not fit in {min(odd)}: it is of another lens"
            raise BadInput("resume_from_checkpoint", folder.name, "Resume from another checkpoint.", why)
        self.firing.load_state_dict(tensors)
        if held is not None and self.held is not None:
            weight, smoothed = held.tolist()
            self.held = HeldSparsity(self.held.target, weight, None if smoothed != smoothed else smoothed)
