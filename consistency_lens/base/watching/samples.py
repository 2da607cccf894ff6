"""`SampleTable`: how the lens explains the same held-out activations, again and again while it learns.

One parquet file for all steps of a run. The same rows are shown on the console, in the card and in the explorer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from ...card.columns import PREDICTIONS, heading, shown, stored
from ...files import replacing
from ...frozen import FrozenModels
from ..comparing.rows import CLOSE, OPEN, TOP, rows_for_people
from ..modeling import LensModel
from ..robust.memory import evaluating
from ..robust.trackers import tolerating

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..arguments import LensTrainingArguments

FILE = "samples.parquet"
SHOWN = 4  # rows on the console


def append_rows(path: Path, rows: Sequence[Mapping[str, Any]], step: int) -> None:
    """Put the rows of one step behind those of the steps before it. The file is swapped in whole.

    Rows of this step or a later one are of an attempt that was cut off, and go.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([stored(row) for row in rows])
    if path.exists():
        earlier = pq.read_table(path)
        table = pa.concat_tables([earlier.filter(pc.less(earlier["step"], step)), table], promote_options="default")
    with replacing(path) as part:
        pq.write_table(table, part)


def spread(rows: Sequence[Mapping[str, Any]], count: int = SHOWN) -> list[Mapping[str, Any]]:
    """Rows from the lowest to the highest KL in even steps: the best, the worst, and what lies between."""
    ordered = sorted(rows, key=lambda row: row["kl"])
    if len(ordered) <= count:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (count - 1))] for i in range(count)]


def drawn(rows: Sequence[Mapping[str, Any]], step: int) -> RenderableType:
    """Four of the rows for the console."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    picked = spread(rows)
    title = f"step {step}: {len(picked)} of {len(rows)} held-out activations, from the lowest KL to the highest"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_lines=True)
    table.add_column(heading("kl"), justify="right", style="bold")
    table.add_column(heading("context"), ratio=4)
    table.add_column(heading("explanation"), ratio=3, style="cyan")
    for side in PREDICTIONS:
        table.add_column(heading(side), ratio=3)
    for row in picked:
        end = row["context"][-90:]
        text = Text(row["context"] if end == row["context"] else f"… {end.partition(' ')[2]}")
        text.highlight_regex(f"{OPEN}.*{CLOSE}$", style="bold yellow")
        sides = [
            Text.assemble((shown(row[side], 3), "dim"), "\n", row.get(f"continuation_{side}", ""))
            for side in PREDICTIONS
        ]
        table.add_row(f"{row['kl']:.3f}", text, Text(row["explanation"]), *sides)
    return table


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with nothing but text and numbers in it, for tables that hold no more."""
    return {name: shown(cell, TOP) if name in PREDICTIONS else cell for name, cell in row.items()}


class SampleTable(TrainerCallback):
    """Writes the table every `sample_steps` (0: with each evaluation), and shows four rows.

    Args:
        lens: what is trained.
        models: the frozen ones.
        batches: gives the first rows of the validation split, the same ones at each call.
        as_one: how to do something with both, where their weights may be spread over processes.
        silent: trackers that get nothing more.
    """

    def __init__(
        self,
        lens: LensModel,
        models: FrozenModels,
        batches: Callable[[int], Iterable[Mapping[str, Any]]],
        as_one: Callable[[Callable[[], Any]], Any],
        silent: set[str],
    ) -> None:
        self.lens, self.models, self.batches, self.as_one, self.silent = lens, models, batches, as_one, silent

    def on_step_end(
        self, args: LensTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.sample_steps and state.global_step % args.sample_steps == 0:
            self.take(args, state)

    def on_evaluate(
        self, args: LensTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not args.sample_steps:
            self.take(args, state)

    def take(self, args: LensTrainingArguments, state: TrainerState) -> None:
        """Sample now. All processes ask the lens, since its weights may be spread over them; one writes."""
        from rich.console import Console

        self.lens.eval()
        batches, step = self.batches(args.sample_rows), state.global_step
        with torch.no_grad(), evaluating():
            rows = self.as_one(lambda: rows_for_people(self.lens, self.models, batches, step))
        self.lens.train()
        if not state.is_world_process_zero:
            return
        append_rows(Path(args.output_dir) / FILE, rows, state.global_step)
        for tracker in set(args.report_to) - self.silent:
            with tolerating(tracker, self.silent):
                report(rows, state.global_step, tracker)
        Console().print(drawn(rows, state.global_step))


def report(rows: Sequence[Mapping[str, Any]], step: int, tracker: str) -> None:
    """The same table for a tracker that holds tables."""
    lines = [plain(row) for row in rows]
    if tracker == "wandb":
        import wandb

        table = wandb.Table(columns=list(lines[0]), data=[list(row.values()) for row in lines])
        wandb.log({"samples": table, "train/global_step": step})
    if tracker == "trackio":
        import pandas
        import trackio

        trackio.log({"samples": trackio.Table(dataframe=pandas.DataFrame(lines)), "train/global_step": step})
