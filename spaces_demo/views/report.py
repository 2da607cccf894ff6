"""Report: what was measured of a lens, as its own report says it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from brought import brought_by, lies_in
from desk import Desk, sentence
from drawing import notice, table
from lenses import Lenses
from marking import safe
from reports import AGAIN, folder_of, home_of, latest

from consistency_lens import BadInput, Report

LARGEST = 1 << 23  # bytes of a picture


def page_of(lens: Path, said: str = "") -> str:
    """Verdict, and as tabs remarks, pictures, tables and definitions; `said` is a word on where they come from."""
    folder = folder_of(lens)
    if folder is None:
        raise BadInput("report", None, AGAIN, "this lens brings no report along")
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
        f"<figure><img alt='{safe(name)}' src='data:image/png;base64,{b64encode(path.read_bytes()).decode()}'>"
        f"<figcaption>{safe(name)}</figcaption></figure>"
        for stem, name in report.about.pictures.items()
        if lies_in(path := folder / f"{stem}.png", home_of(lens, folder)) and path.stat().st_size <= LARGEST
    )
    meanings = "".join(f"<dt>{safe(k)}</dt><dd>{safe(v)}</dd>" for k, v in report.definitions.items())
    panes = {
        "Remarks": f"<p>{about}</p><ul>{remarks}</ul>",
        "Pictures": f"<div class='plots'>{pictures}</div>" if pictures else "",
        "Tables": "".join(tables_of(report)),
        "What the words mean": f"<dl class='meanings'>{meanings}</dl>",
    }
    return f"<section class='report'><p class='verdict'>{safe(report.verdict)}</p>{tabbed(panes)}</section>"


def tabbed(panes: Mapping[str, str]) -> str:
    """Panes that are not empty, one of which is shown: that of the button which is on. Arrow keys turn to another."""
    there = {title: pane for title, pane in panes.items() if pane}
    buttons = "".join(
        f"<label><input type='radio' name='report-pane'{'' if number else ' checked'}>"
        f"<span>{safe(title)}</span></label>"
        for number, title in enumerate(there)
    )
    shown = "".join(f"<div class='pane'>{pane}</div>" for pane in there.values())
    return f"<fieldset class='panes' aria-label='Parts of the report'>{buttons}</fieldset><div>{shown}</div>"


def tables_of(report: Report) -> list[str]:
    """Every part of the rows with all codes, what changed codes keep, traits, and what is known of the truth."""
    about, found = report.about, []
    for name, part in report.parts.items():
        rows = {
            code if group.name == "lens" else f"{code} ({group.heading})": part.numbers[code]
            for group in about.groups
            for code in report.groups.get(group.name, [])
            if part.numbers.get(code)
        }
        title = "All rows" if name == "all" else f"Rows where {report.definitions.get(name, name)}"
        found.append(_table(rows, f"{title} ({part.rows:,})", about.questions))
    traits = {name: {"value": number} for name, number in report.traits.items()}
    found += [
        _table(report.judged, about.title("judged")),
        _table(traits, about.title("traits")),
        _table(report.retention, about.title("retention"), about.questions),
    ]
    return [each for each in found if each]


def _table(rows: Mapping[str, Mapping[str, Any]], title: str, columns: Iterable[str] | None = None) -> str:
    """The columns that some row has, in this order; default all."""
    measured = dict.fromkeys(name for numbers in rows.values() for name in numbers)
    shown = list(measured) if columns is None else [name for name in columns if name in measured]
    cells = [[name, *(str(numbers.get(column, "")) for column in shown)] for name, numbers in rows.items()]
    return table(["", *shown], cells, title) if cells else ""


def page_for(lenses: Lenses, name: str | None) -> str:
    """The page of the report of this lens, or why there is none: no longer the report of another lens."""
    try:
        return page_of(*latest(lenses, lenses.known(name)))
    except BadInput as error:
        return notice(sentence(error), "error")


def build(desk: Desk, tab: gr.Tab) -> None:
    page = gr.HTML(elem_id="report")

    def show(name: str | None) -> str:
        return page_for(desk.lenses, name)

    # Read again each time the tab is opened: a report that was made meanwhile is there.
    tab.select(show, desk.lens, page, api_name="report")
    desk.lens.change(show, desk.lens, page, api_visibility="private")
