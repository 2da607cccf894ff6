"""Pictures of a report, in Okabe and Ito's colours, which survive colour-blindness; shapes say the same again."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ...errors import BadInput
from ...files import write_whole
from ..about import LENS, About, Chart
from ..bootstrap import Number
from ..family import EDIT
from ..quantities import Numbers
from ..report import Report
from .tables import headings, ordered

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OF_LENS, OF_EDITS = "#0072B2", "#999999"
OF_GROUPS = ("#E69F00", "#CC79A7", "#56B4E9", "#009E73", "#D55E00")  # the other groups, in their order
OF_LINES = (("#0072B2", "o"), ("#555555", "s"), ("#D55E00", "v"), ("#E69F00", "D"), ("#CC79A7", "^"))
OF_QUESTIONS = (("#0072B2", "o"), ("#009E73", "s"), ("#E69F00", "D"), ("#D55E00", "^"), ("#CC79A7", "v"))
DEEPEST = -1.0  # worse than this is off the scale: how much worse is in the label
_STYLE: Any = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw in our style, and leave that of others alone."""

    @wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            import matplotlib
        except ImportError as error:
            fix = "Install it with: pip install 'consistency-lens[train]'."
            raise BadInput("plots", "matplotlib", fix, why="it is not installed") from error
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return wrapped


@styled
def draw_all(report: Report, folder: Path) -> dict[str, Path]:
    """Every picture that the report has numbers for: name -> file."""
    sweep, curve = report.about.sweep, report.about.curve
    drawn = {
        "controls": controls(report),
        **({sweep.name: growing(report)} if sweep else {}),
        **({curve.name: achieved(report)} if curve else {}),
        "position": by_position(report),
        "training": over_training(report),
        **{chart.name: charted(chart) for chart in report.about.charts},
    }
    return {name: _save(figure, folder / f"{name}.png") for name, figure in drawn.items() if figure is not None}


def colours(about: About) -> dict[str, str]:
    """Group -> colour."""
    others = [group.name for group in about.groups if group.name not in (LENS, EDIT)]
    of_groups = {name: OF_GROUPS[i % len(OF_GROUPS)] for i, name in enumerate(others)}
    return {LENS: OF_LENS, EDIT: OF_EDITS, **of_groups}


@styled
def controls(report: Report) -> Figure:
    """The primary number of the lens beside all controls."""
    numbers, name, groups, of = (
        report.parts["all"].numbers,
        report.about.primary,
        headings(report),
        colours(report.about),
    )
    found = [
        (group, code, numbers[code][name])
        for group, code in ordered(report)
        if name in numbers[code] and code != "self"
    ]
    found.sort(key=lambda row: (list(groups).index(row[0]), -row[2].value))
    floor = max(min((number.value for _, _, number in found), default=0.0) - 0.03, DEEPEST)
    figure, axes = _figure(8, 1.3 + 0.29 * (len(found) + len({group for group, _, _ in found})))
    ticks: list[tuple[float, str, bool]] = []  # place, text, whether it is the heading of a group
    place, last = 0.0, ""
    for group, code, number in found:
        if group not in (last, LENS):
            place += 1.15
            ticks.append((place, groups[group], True))
        place, last = place + 1, group
        ticks.append((place, code, False))
        axes.barh(place, max(number.value, floor), 0.74, color=of[group], zorder=2)
        if number.value >= floor:
            reach = [[max(number.value - number.low, 0)], [max(number.high - number.value, 0)]]
            axes.errorbar(number.value, place, xerr=reach, color="#222222", linewidth=1.2, capsize=2.5, zorder=4)
        label = f"{number.value:.2f}" + ("" if number.value >= floor else ", off the scale")
        bold = "bold" if code == LENS else "normal"
        axes.text(max(number.high, 0.0) + 0.015, place, label, va="center", fontsize=9.5, weight=bold)
    axes.set_yticks([y for y, _, _ in ticks], [text for _, text, _ in ticks])
    for tick, (_, text, heading) in zip(axes.get_yticklabels(), ticks, strict=True):
        tick.set_color("#666666" if heading else "black")
        tick.set_style("italic" if heading else "normal")
        tick.set_weight("bold" if text == LENS else "normal")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(place + 0.7, 0.3)
    axes.set_xlim(min(floor, -0.02), 1.13)
    axes.axvline(0, color="#333333", linewidth=1, zorder=3)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"{name} (0: {report.about.zero}, 1: perfect)")
    axes.set_title("What each code tells the model")
    return figure


@styled
def growing(report: Report) -> Figure | None:
    """What codes of growing size recover, up to the whole code."""
    sweep = report.about.sweep
    if sweep is None or not sweep.codes:
        return None
    figure, axes = _figure(6, 4)
    points = [report.parts["all"].numbers[code] for code in [*sweep.codes.values(), LENS]]
    lines = _questions(axes, points, report.about)
    axes.set_xticks(range(len(points)), [*sweep.codes, "all"])
    axes.set_ylim(max(min([0.0, *lines]) - 0.1, 2 * DEEPEST), 1.03)
    axes.set_xlabel(sweep.axis)
    axes.set_title(sweep.title)
    return figure


@styled
def achieved(report: Report) -> Figure | None:
    """What codes achieve over what they cost: a colour for each number, a marker and a line for each series."""
    from matplotlib.lines import Line2D

    curve = report.about.curve
    if curve is None:
        return None
    figure, axes = _figure(7, 4.6)
    numbers, marks = report.parts["all"].numbers, cycle(zip("oDs^v", ("-", ":", "--", "-.", "-"), strict=True))
    shapes, keys = dict(zip([*curve.series, *curve.priced], marks, strict=False)), dict[str, Any]()
    for i, ((label, number), (colour, _)) in enumerate(zip(curve.y.items(), OF_LINES, strict=False)):
        found = {
            series: [(code, report.judged.get(code, {}).get(curve.x)) for code in codes]
            for series, codes in curve.series.items()
        }
        found |= {series: [(code, report.traits.get(trait))] for series, (code, trait) in curve.priced.items()}
        for series, costs in found.items():
            points = [(cost, numbers[code][number]) for code, cost in costs if cost and number in numbers[code]]
            points.sort(key=lambda point: point[0].value)
            x, y = [cost.value for cost, _ in points], [each for _, each in points]
            reach = [[max(n.value - n.low, 0) for n in y], [max(n.high - n.value, 0) for n in y]]
            marker, line = shapes[series]
            own: Any = {"marker": marker, "linestyle": line, "linewidth": 1.4}
            size = max(9 - 3 * i, 3)  # what lies on another one is seen within it
            axes.errorbar(x, [n.value for n in y], yerr=reach, color=colour, markersize=size, capsize=2, **own)
            keys[label] = Line2D([], [], color=colour, linewidth=4)
            if points:
                keys[series] = Line2D([], [], color="#333333", **own)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(-0.03, 1.05)
    axes.set_xlabel(curve.axis)
    axes.set_ylabel(" ".join(dict.fromkeys(number.partition("/")[0] for number in curve.y.values())))
    axes.set_title(curve.title)
    names = sorted(keys, key=[*curve.y, *shapes].index)
    figure.legend([keys[name] for name in names], names, loc="outside lower center", ncols=4, fontsize=9)
    return figure


@styled
def by_position(report: Report) -> Figure | None:
    """KL of the lens and of some controls by P."""
    if not report.by_position:
        return None
    figure, axes = _figure(7, 4.2)
    centres = [(row["first"] + row["last"]) / 2 for row in report.by_position]
    for code, (colour, marker) in zip(report.about.lines, OF_LINES, strict=False):
        found = [row["numbers"].get(code, {}).get(report.about.fallback) for row in report.by_position]
        if all(number is not None for number in found):
            _curve(axes, centres, found, code, colour, marker)
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("position P of the activation in its document")
    axes.set_ylabel("KL at P in nats (lower is better)")
    axes.set_title("Harm by position")
    figure.legend(loc="outside lower center", ncols=3, fontsize=9.5)
    return figure


@styled
def over_training(report: Report) -> Figure | None:
    """Where training went: the primary number against another one. Better is up and to the right."""
    course, watched = report.about.course, f"eval_{report.about.primary}"
    of = f"eval_{course.x}" if course else ""
    kept = [row for row in report.training if {watched, of, "step"} <= row.keys()]
    if course is None or len(kept) < 2:
        return None
    figure, axes = _figure(5.4, 4.2)
    x, y = [row[of] for row in kept], [row[watched] for row in kept]
    axes.plot(x, y, color="#bbbbbb", linewidth=1.2, zorder=1)
    dots = axes.scatter(x, y, c=[row["step"] for row in kept], cmap="viridis", s=38, zorder=2)
    for i, text, below in ((0, "start", True), (-1, "end", False)):
        offset = (0, -16 if below else 8)
        axes.annotate(text, (x[i], y[i]), offset, textcoords="offset points", fontsize=9.5, ha="center")
    axes.margins(0.14)
    axes.set_xlabel(course.axis)
    axes.invert_xaxis()
    axes.set_ylabel(report.about.primary)
    axes.set_title(course.title)
    figure.colorbar(dots, ax=axes, label="step")
    return figure


@styled
def charted(chart: Chart) -> Figure:
    """The numbers of a chart, as lines or as bars beside each other."""
    figure, axes = _figure(7, 4.2)
    count = max(len(chart.lines), 1)
    for i, (name, values) in enumerate(chart.lines.items()):
        colour, marker = OF_LINES[i % len(OF_LINES)]
        if chart.bars:
            places = [place + (i - (count - 1) / 2) * 0.8 / count for place in range(len(values))]
            axes.bar(places, values, 0.8 / count, color=colour, label=name, zorder=2)
        else:
            style = "-" if i < len(OF_LINES) else "--"
            axes.plot(range(len(values)), values, style, color=colour, marker=marker, markersize=5, label=name)
    axes.set_xticks(range(len(chart.places)), chart.places)
    axes.set_ylim(bottom=min([0.0, *(v for values in chart.lines.values() for v in values)]))
    axes.set_xlabel(chart.axis)
    axes.set_ylabel(chart.height)
    axes.set_title(chart.title)
    axes.grid(axis="x", visible=False)
    if len(chart.lines) > 1:
        axes.legend(fontsize=9.5)
    return figure


@styled
def rate_fidelity(
    reports: Mapping[int, Report], path: str | Path, part: str = "all", axis: str = "T, tokens of the code"
) -> Path:
    """The questions over the size of the code: `reports` maps a size to the report of a lens of that size."""
    if len(reports) < 2:
        raise BadInput("reports", sorted(reports), "Give reports of at least two sizes.")
    sizes = sorted(reports)
    figure, axes = _figure(6.4, 4.2)
    _questions(axes, [reports[size].parts[part].numbers[LENS] for size in sizes], reports[sizes[0]].about)
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axes.set_xlabel(axis)
    axes.set_title("What a longer code buys" + ("" if part == "all" else f": {part}"))
    return _save(figure, Path(path))


def _figure(width: float, height: float) -> tuple[Any, Any]:
    """Without pyplot: no global state, no window."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150)
    return figure, figure.subplots()


def _questions(axes: Axes, points: Sequence[Numbers], about: About) -> list[float]:
    """One line per question that every point answers; all values drawn."""
    drawn: list[float] = []
    asked = [(name, label) for name, label in about.questions.items() if label]
    for number, ((name, label), (colour, marker)) in enumerate(zip(asked, OF_QUESTIONS, strict=False)):
        line = [numbers[name] for numbers in points if name in numbers]
        if len(line) == len(points):
            # A little apart, so that lines at the same height can all be seen.
            _curve(axes, [i + 0.03 * (number - 1.5) for i in range(len(line))], line, label, colour, marker)
            drawn += [point.value for point in line]
    axes.axhline(0, color="#333333", linewidth=1)
    axes.set_ylabel(f"recovered (0: {about.zero})")
    axes.legend(fontsize=9.5)
    return drawn


def _curve(axes: Axes, x: Sequence[float], numbers: Sequence[Number], label: str, colour: str, marker: str) -> None:
    """A line with its interval as a band."""
    axes.plot(x, [n.value for n in numbers], color=colour, marker=marker, markersize=5, linewidth=1.8, label=label)
    axes.fill_between(x, [n.low for n in numbers], [n.high for n in numbers], color=colour, alpha=0.15, linewidth=0)


def _save(figure: Figure, path: Path) -> Path:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return write_whole(path, content.getvalue())
