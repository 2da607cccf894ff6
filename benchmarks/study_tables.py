"""What the study shows of its rows: tables for the terminal and for a page, and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from study_variants import GROUPS, RECIPE

from consistency_lens.evaluation import Report
from consistency_lens.evaluation.presenting.plots import rate_fidelity, styled
from consistency_lens.files import write_whole

Row = dict[str, Any]
# Columns, in the tables that a page has room for: what the words do, what they are, what they hold for later.
DOES = {
    "kl_recovered": "kl_recovered",
    "horizon": "horizon",
    "after": "after P",
    "top1": "top1",
    "fve": "fve",
    "kl_at_facts": "kl at facts",
}
SAYS = {
    "fact_recall": "fact_recall",
    "fact_precision": "fact_precision",
    "text_nll_above_samples": "nats above M's samples",
    "distinct": "distinct",
    "length": "tokens",
    "reworded": "survives rewording",
}
HOLDS = {
    "kl_asked": "kl_asked_recovered",
    "asked_recall": "asked_recall",
    "held_recall": "held_recall",
    "held_precision": "held_precision",
}
FRONTIER, RATE = "study-frontier.png", "study-rate.png"


def numbers(report: Report) -> Row:
    """What the tables show, each with its interval; what could not be measured is None."""
    lens = report.parts["all"].numbers["lens"]
    facts = report.parts["fact_positions"].numbers["lens"] if "fact_positions" in report.parts else {}
    judged, kept = report.judged.get("lens", {}), report.retention.get("reworded", {})
    found = {
        "kl_recovered": lens.get("kl_recovered"),
        "horizon": lens.get("kl_horizon_recovered"),
        "after": lens.get("kl_after_recovered"),
        "top1": lens.get("top1"),
        "fve": lens.get("fve"),
        "kl_at_facts": facts.get("kl_recovered"),
        "fact_recall": judged.get("fact_recall"),
        "fact_precision": judged.get("fact_precision"),
        "text_nll_above_samples": report.traits.get("text_nll_above_samples"),
        "distinct": report.traits.get("distinct"),
        "length": report.traits.get("length"),
        "reworded": kept.get("kl_recovered"),
        "kl_asked": lens.get("kl_asked_recovered"),
        "asked_recall": lens.get("asked_recall"),
        "held_recall": judged.get("held_recall"),
        "held_precision": judged.get("held_precision"),
    }
    return {name: None if number is None else vars(number) for name, number in found.items()}


def failure(variant: str, group: str, why: str) -> Row:
    """The row of a variant that could not be made."""
    nothing = dict.fromkeys([*DOES, *SAYS, *HOLDS])
    return {"variant": variant, "group": group, "steps": "failed", "why": why, **nothing}


def cell(number: Mapping[str, float] | None) -> str:
    """`.981 [.977, .984]`; two decimals where a number is above 1."""
    if number is None:
        return ""
    digits = 3 if abs(number["value"]) <= 1 else 2
    value, low, high = (f"{number[name]:.{digits}f}" for name in ("value", "low", "high"))
    shown = [text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text for text in (value, low, high)]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def cells(row: Row, columns: Iterable[str]) -> list[str]:
    return [str(row["variant"]), str(row["steps"]), *(cell(row.get(name)) for name in columns)]


def tables_of(rows: Sequence[Row]) -> list[dict[str, str]]:
    """The columns of each table; the last one where something was asked."""
    asked = any(row.get(name) is not None for row in rows for name in HOLDS)
    return [DOES, SAYS, *([HOLDS] if asked else [])]


def show(rows: Sequence[Row]) -> None:
    """The tables of each group."""
    for group, said in GROUPS.items():
        of_group = [row for row in rows if row["group"] == group]
        for columns in tables_of(of_group) if of_group else ():
            table = Table(title=said, title_justify="left", header_style="dim", box=None)
            for name in ("", "steps", *columns.values()):
                table.add_column(name, justify="right" if name else "left", no_wrap=True)
            for row in of_group:
                table.add_row(*cells(row, columns))
            Console(width=200).print(table)


def markdown(rows: Sequence[Row], group: str) -> str:
    """The tables of a group."""
    parts, of_group = [], [row for row in rows if row["group"] == group]
    for columns in tables_of(of_group):
        lines = [["", "steps", *columns.values()], ["---"] * (2 + len(columns))]
        lines += [cells(row, columns) for row in of_group]
        parts.append("\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines))
    return "\n\n".join(parts).replace(f"| {RECIPE} |", f"| **{RECIPE}** |")


def fill(page: Path, rows: Sequence[Row]) -> None:
    """Write the tables of each group between its markers on the page, and nothing else."""
    text = page.read_text(encoding="utf-8")
    for group in GROUPS:
        begin, end = f"<!-- study: {group} -->", f"<!-- /study: {group} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise SystemExit(f"--markdown: {page} needs one line {begin!r} and one {end!r} below it")
        before, after = text.partition(begin)[0], text.partition(end)[2]
        text = f"{before}{begin}\n{markdown(rows, group)}\n{end}{after}"
    write_whole(page, text.encode())


def draw(rows: Sequence[Row], reports: Mapping[int, Report], folder: Path) -> list[Path]:
    """The pictures that there are rows for."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [frontier(rows, folder / FRONTIER)]
    return [*drawn, rate_fidelity(reports, folder / RATE)] if len(reports) > 1 else drawn


@styled
def frontier(rows: Sequence[Row], path: Path) -> Path:
    """Fidelity against two ways of meaning what one says: words that are true, words that survive rewording."""
    figure = Figure(figsize=(13, 6), dpi=150)
    panels = figure.subplots(1, 2, sharey=True)
    across = {"fact_precision": "fact_precision", "reworded": "share of kl_recovered that survives rewording"}
    for axes, (name, label) in zip(panels, across.items(), strict=True):
        for number, row in enumerate(rows, 1):
            if row[name] is None or row["kl_recovered"] is None:
                continue
            x, y = row[name], row["kl_recovered"]
            colour = "#D55E00" if row["variant"] == RECIPE else "#0072B2" if row["group"] == "shared" else "#009E73"
            axes.errorbar(x["value"], y["value"], xerr=reach(x), yerr=reach(y), fmt="o", color=colour, ms=5, lw=0.8)
            at = (x["value"], y["value"])
            axes.annotate(str(number), at, (4, 4), textcoords="offset points", fontsize=9, color=colour)
        axes.set_xlabel(label)
    panels[0].set_ylabel("kl_recovered")
    panels[0].set_title("Fidelity against what the words are worth")
    handles = [panels[0].plot([], [], " ", label=f"{i}  {row['variant']}")[0] for i, row in enumerate(rows, 1)]
    figure.legend(handles=handles, loc="outside right", fontsize=9, handlelength=0)
    figure.savefig(path)
    return path


def reach(number: Mapping[str, float]) -> list[list[float]]:
    """An interval as matplotlib wants it: how far down, how far up."""
    value = number["value"]
    return [[max(value - number["low"], 0.0)], [max(number["high"] - value, 0.0)]]
