"""`Cost`: what a training took, over all its interruptions."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cost:
    """What was spent up to a checkpoint goes with it; what came after and was lost in a crash is not counted.

    Args:
        seconds: of training, with its evaluations and saves.
        judging: those of them that evaluations took.
        rows, tokens: that all processes trained on; tokens are those of the contexts.
        peak_memory: bytes of the first process, or of its GPU where there is one.
        kind: of device: `cuda`, `cpu`, ...; `device`: its name.
        threads: of each process on a CPU.
        processes: that trained together.
        skipped: steps that were not taken, since their gradients were not finite.
        sessions: starts that it took.
        partial: it went on from a checkpoint that did not say what it had cost.
    """

    seconds: float = 0.0
    judging: float = 0.0
    rows: int = 0
    tokens: int = 0
    peak_memory: int = 0
    kind: str = "cpu"
    device: str = "CPU"
    threads: int = 1
    processes: int = 1
    skipped: int = 0
    sessions: int = 0
    partial: bool = False

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Cost:
        return cls(**stored)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def in_words(self) -> dict[str, str]:
        """Name -> value, for people."""
        share = 100 * self.judging / max(self.seconds, 1e-9)
        of = f"evaluations took {share:.0f} %" + (f", {self.sessions} starts" if self.sessions > 1 else "")
        of += "; an earlier part of the training was not counted" if self.partial else ""
        units, unit = (self.threads, "CPU") if self.kind == "cpu" else (1, "GPU")
        threads = f", {self.threads} thread{'s' if self.threads > 1 else ''} each" if self.kind == "cpu" else ""
        training = max(self.seconds - self.judging, 1e-9)
        return {
            "hardware": f"{self.processes} × {self.device}{threads}",
            f"{unit} hours": f"{self.seconds / 3600 * units * self.processes:.3g} ({of})",
            "peak memory": f"{self.peak_memory / 1e9:.2f} GB of the {'GPU' if self.kind == 'cuda' else 'process'}",
            "speed": f"{self.tokens / training:,.0f} tokens of context per second, {self.rows / training:,.0f} "
            "activations per second, without evaluations",
            "trained on": f"{self.rows:,} activations, {self.tokens:,} tokens of context"
            + (", in the part that was counted" if self.partial else ""),
        }


class Meter:
    """Counts while a training runs.

    Args:
        device: that it runs on.
        processes: how many there are; they skip the same steps.
        readers: how many of them see other rows, as many as this one.
    """

    def __init__(self, device: torch.device, processes: int = 1, readers: int = 1) -> None:
        self.device, self.processes, self.readers = device, processes, readers
        self.earlier, self.began = Cost(), time.monotonic()
        self.judging, self.rows, self.skipped, self.tokens = 0.0, 0, 0, torch.zeros((), dtype=torch.long)

    def begin(self, earlier: Cost | None = None) -> None:
        """Start the clock, where a checkpoint had left it."""
        known = earlier or Cost()
        self.earlier, self.began = replace(known, sessions=known.sessions + 1), time.monotonic()
        self.judging, self.rows, self.skipped = 0.0, 0, known.skipped
        self.tokens = torch.zeros((), dtype=torch.long, device=self.device)

    def see(self, rows: int, tokens: Tensor) -> None:
        """A batch. The count of tokens stays on its device, so that nothing waits for it."""
        self.rows += rows
        self.tokens = self.tokens + tokens.to(self.tokens.device)

    @property
    def cost(self) -> Cost:
        """Everything up to now."""
        before = self.earlier
        return Cost(
            seconds=round(before.seconds + time.monotonic() - self.began, 1),
            judging=round(before.judging + self.judging, 1),
            rows=before.rows + self.rows * self.readers,
            tokens=before.tokens + int(self.tokens) * self.readers,
            peak_memory=max(before.peak_memory, peak_memory(self.device)),
            kind=self.device.type,
            device=torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type.upper(),
            threads=torch.get_num_threads(),
            processes=self.processes,
            skipped=self.skipped,
            sessions=before.sessions,
            partial=before.partial,
        )


def peak_memory(device: torch.device) -> int:
    """Bytes that the GPU, or this process, has held at most."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
