"""A long training that is killed at random moments ends as an undisturbed one does, and its memory stays flat.

    python benchmarks/soak.py --out outputs/soak                       # the demo, 2,000 steps, ten kills: an hour
    python benchmarks/soak.py --out outputs/soak --steps 200 --kills 3

The same words are started twice, side by side: once left alone, once killed (SIGKILL) and started again until they
come to their end. Both evaluate, save, and keep the two newest checkpoints. Compared are all that was logged but the
clocks, every tensor of the lens and of its moving average, and the table of explanations. What is there already is not
done again. Linux only.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from harness import arguments, report, show
from matplotlib.figure import Figure
from safetensors.torch import load_file

RUN = Path(__file__).parents[1] / "run_lens.py"
CLOCKS = ("runtime", "per_second", "total_flos")
PAGE = os.sysconf("SC_PAGE_SIZE")
THREADS = max(1, len(os.sched_getaffinity(0)) // 2)  # of each of the two runs


@dataclass
class Watched:
    """What was seen of a training from outside, over all its starts."""

    steps: list[int] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)  # bytes, when the line of that step was printed
    kills: list[int] = field(default_factory=list)

    def slope(self, first: int, last: int) -> tuple[float, float]:
        """Bytes per step, with its standard error; without the first quarter of the steps, in which caches fill."""
        start = first + (last - first) / 4
        seen = [(s, r) for s, r in zip(self.steps, self.rss, strict=True) if start <= s <= last]
        x, y = np.array(seen, dtype=float).T
        centred = x - x.mean()
        slope = float((centred * y).sum() / (centred**2).sum())
        rest = y - y.mean() - slope * centred
        return slope, float(np.sqrt((rest**2).sum() / (len(x) - 2) / (centred**2).sum()))


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def follow(words: list[str], folder: Path, watched: Watched, kill_at: int | None = None, wait: float = 0.0) -> int:
    """One start. With `kill_at` it is killed a moment behind that step; returns the exit code."""
    process = subprocess.Popen(
        [sys.executable, str(RUN), "train", *words, "--output_dir", str(folder), "--resume_from_checkpoint", "auto"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(THREADS)},
    )  # fmt: skip
    assert process.stdout is not None
    said, before = [], time.monotonic()
    for line in process.stdout:
        said.append(line)
        found = re.match(r"(warm start|training) (\d+)/\d+ ", line)
        if not found or process.poll() is not None:
            continue
        step = int(found[2]) + (warm_steps(folder) if found[1] == "training" else 0)
        watched.steps.append(step)
        watched.rss.append(resident(process.pid))
        if kill_at is not None and step >= kill_at:
            time.sleep(wait * (time.monotonic() - before))
            process.send_signal(signal.SIGKILL)
            watched.kills.append(step)
            kill_at = None
        before = time.monotonic()
    code = process.wait()
    assert code in (0, -signal.SIGKILL), "".join(said[-40:])
    return code


def warm_steps(folder: Path) -> int:
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text("utf-8"))
    return 0 if recipe.get("warm_start") == "none" else int(recipe["warm_steps"])


def train(words: list[str], folder: Path, steps: int, kills: int, seed: int) -> Watched:
    """To the end, over so many kills at random steps; what was seen lies beside the run."""
    record = folder.with_suffix(".json")
    if record.is_file():
        return Watched(**json.loads(record.read_text("utf-8")))
    draw, watched = random.Random(seed), Watched()
    for moment in sorted(draw.sample(range(1, steps), kills)):
        assert follow(words, folder, watched, moment, draw.random()) == -signal.SIGKILL, (
            "it ended before it was killed"
        )
    assert follow(words, folder, watched) == 0
    record.write_text(json.dumps(vars(watched)) + "\n", "utf-8")
    return watched


def logged(folder: Path) -> list[dict[str, Any]]:
    history = json.loads((folder / "history.json").read_text("utf-8"))
    kept = [entry for entry in history if "train_runtime" not in entry]
    return [{name: value for name, value in entry.items() if not name.endswith(CLOCKS)} for entry in kept]


def differences(one: Path, other: Path) -> list[str]:
    """Where two runs are not the same, bit for bit."""
    found = []
    entries, others = logged(one), logged(other)
    if entries != others:
        steps = [a["step"] for a, b in zip(entries, others, strict=False) if a != b]
        found.append(f"the log, from step {steps[0]}" if steps else "the length of the log")
    for file in sorted(
        path.relative_to(one) for name in ("lens", "lens-ema") for path in (one / name).rglob("*.safe*")
    ):
        tensors, others_too = load_file(one / file), load_file(other / file)
        found += [f"{file}: {name}" for name, tensor in tensors.items() if not tensor.equal(others_too[name])]
    if not pq.read_table(one / "samples.parquet").equals(pq.read_table(other / "samples.parquet")):
        found.append("the table of explanations")
    return found


def growth(watched: Watched, first: int, last: int) -> str:
    slope, error = (1000 * value / 2**20 for value in watched.slope(first, last))
    return f"{slope:.0f} ± {error:.0f}"


def plot(path: Path, runs: dict[str, Watched], folder: Path) -> None:
    figure = Figure(figsize=(8, 5), layout="constrained")
    memory, score = figure.subplots(2, sharex=True)
    begins = warm_steps(folder / "undisturbed")
    for (name, watched), colour in zip(runs.items(), ("#0072b2", "#d55e00"), strict=True):
        resident = [r / 2**20 for r in watched.rss]
        memory.plot(watched.steps, resident, ".", markersize=3, color=colour, label=name)
        entries = [entry for entry in logged(folder / name) if "eval_kl_recovered" in entry]
        style = {"marker": "o", "linestyle": "none", "mfc": "none"} if watched.kills else {}
        scores = [entry["eval_kl_recovered"] for entry in entries]
        score.plot([entry["step"] for entry in entries], scores, color=colour, **style)
    for axes in (memory, score):
        for step in runs["killed"].kills:
            axes.axvline(step, color="0.85", zorder=0)
        axes.axvline(begins, color="0.4", linestyle=":", zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
    memory.set(ylabel="resident memory, MiB", ylim=(0, 1.1 * max(max(w.rss) for w in runs.values()) / 2**20))
    memory.annotate(" warm start ends", (begins, 0.02), xycoords=("data", "axes fraction"), color="0.4")
    score.set(ylabel="kl_recovered", xlabel="step; grey lines: killed, and started again from the last checkpoint")
    memory.legend(loc="lower left", frameon=False, markerscale=3)
    figure.savefig(path, dpi=150)


def soak(words: list[str], folder: Path, steps: int, kills: int, seed: int = 0) -> list[dict[str, Any]]:
    """Train twice and compare; returns a row per run."""
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        begun = {
            name: pool.submit(train, words, folder / name, steps, times, seed)
            for name, times in (("undisturbed", 0), ("killed", kills))
        }
    runs = {name: each.result() for name, each in begun.items()}
    different, rows = differences(folder / "undisturbed", folder / "killed"), []
    warm = warm_steps(folder / "undisturbed")
    for name, watched in runs.items():
        last = next(e for e in reversed(logged(folder / name)) if "eval_kl_recovered" in e)
        rows.append(
            {
                "run": name,
                "steps": max(watched.steps),
                "kills": len(watched.kills),
                "peak MiB": max(watched.rss) / 2**20,
                # Each start has a memory of its own: a slope over several says nothing.
                "MiB per 1,000 steps, warm": None if watched.kills else growth(watched, 1, warm),
                "function": None if watched.kills else growth(watched, warm + 1, max(watched.steps)),
                "kl_recovered": last["eval_kl_recovered"],
                "fve": last["eval_fve"],
                "different": different,
            }
        )
    plot(folder / "soak.png", runs, folder)
    return rows


def demo_words(rows: Path, steps: int) -> list[str]:
    """The demo's recipe cut to so many steps, half of them warm start."""
    words = [
        "--config",
        "demo",
        "--activations",
        str(rows),
        "--max_steps",
        str(steps),
        "--warm_steps",
        str(steps // 2),
    ]
    words += ["--eval_steps", str(max(1, steps // 20)), "--save_steps", str(max(1, steps // 40))]
    return [*words, "--save_total_limit", "2", "--ema_decay", "0.99", "--tail_baseline", "false"]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, the table's JSON and the plot")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    rows_folder = given.out / "rows"
    extract = ["extract", "--config", "demo", "--output_dir", str(rows_folder)]
    subprocess.run([sys.executable, str(RUN), *extract], check=True)
    words = demo_words(rows_folder, given.steps) + (["--use_cpu"] if given.device == "cpu" else [])
    rows = soak(words, given.out, given.steps, given.kills, given.seed)
    columns = [name for name in rows[0] if name != "different"]
    different = rows[0]["different"]
    note = "bit for bit the same" if not different else "DIFFERENT: " + ", ".join(different[:5])
    show("a training left alone, and one that was killed", columns, [[row[c] for c in columns] for row in rows], note)
    report(given.json or given.out / "soak.json", given.device, {"steps": given.steps, "seed": given.seed}, rows)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
