"""What the benchmarks share: interleaved timing, one table, one JSON file, one line about the machine.

Times on a busy machine drift, so the callables take turns within one run and ratios compare medians of the same run.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Timing:
    """Seconds of each round of one callable."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """Distance between the quartiles, relative to the median."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / self.median


def interleaved(
    steps: Mapping[str, Callable[[], object]],
    rounds: int = 7,
    warmup: int = 2,
    device: str | torch.device = "cpu",
    budget_s: float = float("inf"),
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time several callables round robin.

    Args:
        steps: what to time, called in this order in each round; a later one may use what an earlier one left.
        rounds: how often each is timed; at least one round is run.
        warmup: rounds in front that are not counted.
        device: waited for before the clock is read, where it runs on its own.
        budget_s: no further round is begun after so many seconds.
        clock: `time.process_time` counts the seconds of this process alone, whatever else the machine does; it is for
            a CPU, and for a single thread.
    """
    cuda = torch.device(device).type == "cuda"
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    begun = time.perf_counter()
    for i in range(warmup + rounds):
        if i > warmup and time.perf_counter() - begun > budget_s:
            break
        for name, step in steps.items():
            if cuda:
                torch.cuda.synchronize(device)
            start = clock()
            step()
            if cuda:
                torch.cuda.synchronize(device)
            if i >= warmup:
                seconds[name].append(clock() - start)
    return {name: Timing(tuple(times)) for name, times in seconds.items()}


def ratios(timings: Mapping[str, Timing]) -> dict[str, float]:
    """How many times longer each took than the first."""
    first = next(iter(timings.values())).median
    return {name: timing.median / first for name, timing in timings.items()}


def machine(device: str | torch.device = "cpu") -> dict[str, Any]:
    """What the numbers depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    facts = {
        "cpu": models[0].partition(":")[2].strip() if models else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": str(device),
    }
    if torch.device(device).type == "cuda":
        facts["device"] += f" ({torch.cuda.get_device_name(device)})"
    return facts


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers to this file as well")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    return parser


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> None:
    """Print one table, names on the left and numbers on the right."""
    table = Table(title=title, caption=note or None, title_justify="left", caption_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(shown, row))
    # Into a file or a pipe, the table keeps its columns.
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(table)


def shown(value: Any) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"


def report(
    path: Path | None, device: str | torch.device, settings: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> None:
    """Say on which machine this ran, and write everything to `path` where one is given."""
    facts = machine(device)
    print(" · ".join(f"{name} {value}" for name, value in facts.items()))
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"machine": facts, "settings": dict(settings), "results": [dict(result) for result in results]}
        path.write_text(json.dumps(record, indent=2, default=str) + "\n", "utf-8")
