"""Rate: what a bit of each lens's code buys, beside its controls, as the reports of the lenses of this page say it."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr
from brought import brought_by
from desk import Desk, sentence
from drawing import notice, table
from lenses import Lenses
from rates import draw
from reports import AGAIN, folder_of

from consistency_lens import BadInput, RatePoint, Report, rate_points

ABOUT = (
    "Each line is a lens, of a wire at one number of vectors. Crosses are controls, at the bits of the lens, and "
    "truncated texts at their own. Words are counted per position, features and soft tokens per token, and their "
    "zeros differ: the mean activation, mean activations of all MLPs, no context. "
    "So compare a line with its own crosses first, then lines with each other."
)
FINISHED = "lens"  # the folder of it, in that of a run
HEADERS = ("medium", "lens", "code", "bits", "kl_recovered")


def points_of(lenses: Lenses) -> tuple[list[RatePoint], list[str]]:
    """Of every lens of the page that brings a report along; and what is wrong with the others'.

    The report that lies in a run is that of its finished lens: a stage without one of its own is left out.
    """
    points, damage = list[RatePoint](), list[str]()
    for name, folder in lenses.folders.items():
        report = folder_of(folder)
        if report is None or not (report.is_relative_to(folder) or folder.name == FINISHED):
            continue
        try:
            with brought_by(folder, "report", AGAIN):
                points += [point for point in rate_points(Report.load(report), name) if point.bits > 0]
        except BadInput as error:
            damage.append(sentence(error))
    return points, damage


def page_of(lenses: Lenses) -> str:
    """Picture and table, or what to do where no lens has a report."""
    points, damage = points_of(lenses)
    said = "".join(notice(why, "error") for why in damage)
    if not points:
        return said or notice(f"No lens of this page brings a report along. {AGAIN}")
    return said + f"<p>{ABOUT}</p>" + draw(points) + table(HEADERS, rows_of(points), numeric=3)


def rows_of(points: Sequence[RatePoint]) -> list[list[str]]:
    """As the table shows them."""
    return [
        [
            point.medium,
            point.run,
            f"{point.name}, control" if point.control else point.name,
            f"{point.bits:,.1f}",
            str(point.score),
        ]
        for point in points
    ]


def build(desk: Desk, tab: gr.Tab) -> None:
    page = gr.HTML(elem_id="rate")
    # Read again each time the tab is opened: lenses may have come, and reports.
    tab.select(lambda: page_of(desk.lenses), None, page, api_name="rate")
