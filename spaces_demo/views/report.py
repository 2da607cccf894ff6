"""Report: what was measured of a lens, as its own report says it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from brought import brought_by, lies_in
from desk import Desk, told
from drawing import notice, safe, table
from reports import AGAIN, folder_of, home_of, latest

from consistency_lens import BadInput, Report

LARGEST = 1 << 23  # bytes of a picture
PLOTS = {
    "controls": "What each code tells the model",
    "truncation": "What the first words carry",
    "position": "Harm by position",
    "training": "Fidelity against readability",
}
QUESTIONS = ("kl_recovered", "kl_horizon_recovered", "kl_after_recovered", "top1", "fve")
GROUPS = {
    "lens": "the lens",
    "text": "not from the activation",
    "ahead": "looking ahead",
    "edit": "no words",
    "tampered": "spoiled words",
}


def page_of(lens: Path, said: str = "") -> str:
    """Verdict, pictures, tables and definitions, and before them what is to be `said` of where they come from."""
    folder = folder_of(lens)
    if folder is None:
        raise BadInput("report", lens.name, AGAIN, "this lens brings no report along")
    with brought_by(lens, "report", AGAIN):
        return drawn(lens, folder, said)


def drawn(lens: Path, folder: Path, said: str = "") -> str:
    """The page of the report in this folder."""
    report = Report.load(folder)
    data = report.data
    whose = "" if lens.name in ("lens", folder.name) or folder.parent == lens else "Of the finished lens of this run. "
    remarks = "".join(f"<li>{safe(remark)}</li>" for remark in report.remarks)
    about = (
        f"{safe(said)} {whose}{data['rows']:,} rows of {data['documents']:,} documents of the split "
        f"{safe(data['split'])}; brackets are 95 % bootstrap intervals over documents."
    )
    pictures = "".join(
        f"<figure><img alt='{name}' src='data:image/png;base64,{b64encode(path.read_bytes()).decode()}'>"
        f"<figcaption>{name}</figcaption></figure>"
        for stem, name in PLOTS.items()
        if lies_in(path := folder / f"{stem}.png", home_of(lens, folder)) and path.stat().st_size <= LARGEST
    )
    meanings = "".join(f"<dt>{safe(k)}</dt><dd>{safe(v)}</dd>" for k, v in report.definitions.items())
    return (
        f"<section class='report'><p class='verdict'>{safe(report.verdict)}</p><p>{about}</p><ul>{remarks}</ul>"
        f"<div class='plots'>{pictures}</div>{''.join(tables_of(report))}"
        f"<details><summary>What the words mean</summary><dl class='meanings'>{meanings}</dl></details></section>"
    )


def tables_of(report: Report) -> list[str]:
    """Every part of the rows with all codes, what survives spoiling, traits of the words, and what judges say."""
    found = []
    for name, part in report.parts.items():
        columns = [q for q in QUESTIONS if any(q in numbers for numbers in part.numbers.values())]
        rows = [
            [f"{code} ({GROUPS[group]})" if group != "lens" else code]
            + [str(part.numbers[code].get(column, "")) for column in columns]
            for group in GROUPS
            for code in report.groups.get(group, [])
            if part.numbers.get(code)
        ]
        title = "All rows" if name == "all" else f"Rows where {report.definitions.get(name, name)}"
        found.append(table(["", *columns], rows, f"{title} ({part.rows:,})"))
    if report.judged:
        columns = list(dict.fromkeys(number for numbers in report.judged.values() for number in numbers))
        rows = [[code, *(str(numbers.get(c, "")) for c in columns)] for code, numbers in report.judged.items()]
        found.append(table(["", *columns], rows, "Where the truth is known"))
    if report.traits:
        rows = [[name, str(number)] for name, number in report.traits.items()]
        found.append(table(["", "value"], rows, "The words themselves"))
    if report.retention:
        columns = [q for q in QUESTIONS if any(q in numbers for numbers in report.retention.values())]
        rows = [[code, *(str(numbers.get(c, "")) for c in columns)] for code, numbers in report.retention.items()]
        found.append(table(["", *columns], rows, "Share that survives spoiling the words"))
    return found


def build(desk: Desk, tab: gr.Tab) -> None:
    page = gr.HTML(elem_id="report")

    @told(1)
    def show(name: str | None) -> Iterator[tuple[Any, ...]]:
        yield page_of(*latest(desk.lenses, desk.lenses.known(name))), notice()

    # Read again each time the tab is opened: a report that was made meanwhile is there.
    tab.select(show, desk.lens, [page, desk.notice], api_name="report")
    desk.lens.change(show, desk.lens, [page, desk.notice], api_visibility="private")
