"""Pictures of a report, in Okabe and Ito's colours, which survive colour-blindness; shapes say the same again."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ..errors import BadInput
from .controls import AHEAD, LENS, SHUFFLED
from .definitions import truncation
from .numbers import Numbers
from .report import Report, write_whole
from .samples import Number
from .tables import GROUPS
from .verdict import best_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"lens": "#0072B2", "text": "#E69F00", "ahead": "#CC79A7", "edit": "#999999", "tampered": "#56B4E9"}
QUESTIONS = {
    "kl_recovered": ("next token", "#0072B2", "o"),
    "kl_horizon_recovered": ("next token and horizon", "#009E73", "s"),
    "kl_after_recovered": ("horizon without the next token", "#E69F00", "D"),
    "fve": ("vector (FVE)", "#D55E00", "^"),
}
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
    drawn = {
        "controls": controls(report),
        "truncation": truncations(report),
        "position": by_position(report),
        "training": over_training(report),
    }
    return {name: _save(figure, folder / f"{name}.png") for name, figure in drawn.items() if figure is not None}


@styled
def controls(report: Report) -> Figure:
    """kl_recovered of the lens beside all controls."""
    numbers = report.parts["all"].numbers
    found = [
        (group, code, numbers[code]["kl_recovered"])
        for group in GROUPS
        for code in report.groups.get(group, [])
        if "kl_recovered" in numbers[code] and code != "self"
    ]
    found.sort(key=lambda row: (list(GROUPS).index(row[0]), -row[2].value))
    floor = max(min((number.value for _, _, number in found), default=0.0) - 0.03, DEEPEST)
    figure, axes = _figure(8, 1.3 + 0.29 * (len(found) + len({group for group, _, _ in found})))
    ticks: list[tuple[float, str, bool]] = []  # place, text, whether it is the heading of a group
    place, last = 0.0, ""
    for group, code, number in found:
        if group not in (last, "lens"):
            place += 1.15
            ticks.append((place, GROUPS[group], True))
        place, last = place + 1, group
        ticks.append((place, code, False))
        axes.barh(place, max(number.value, floor), 0.74, color=COLOURS[group], zorder=2)
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
    axes.set_xlabel("kl_recovered (0: the mean activation, 1: perfect)")
    axes.set_title("What each code tells the model")
    return figure


@styled
def truncations(report: Report) -> Figure | None:
    """What the first 1, 2, 4, ... tokens recover, up to the whole text."""
    cuts = sorted((size, code) for code in report.groups.get("tampered", []) if (size := truncation(code)))
    if not cuts:
        return None
    figure, axes = _figure(6, 4)
    lines = _questions(axes, [report.parts["all"].numbers[code] for code in [*(code for _, code in cuts), LENS]])
    axes.set_xticks(range(len(cuts) + 1), [*(str(size) for size, _ in cuts), "all"])
    axes.set_ylim(max(min([0.0, *lines]) - 0.1, 2 * DEEPEST), 1.03)
    axes.set_xlabel("tokens of the text that are kept")
    axes.set_title("What the first words carry")
    return figure


@styled
def by_position(report: Report) -> Figure | None:
    """KL of the lens by P, beside the mean activation and the strongest text."""
    if not report.by_position:
        return None
    lines = [(LENS, COLOURS["lens"], "o"), ("mean", "#555555", "s"), (SHUFFLED, "#D55E00", "v")]
    lines += [(code, COLOURS["text"], "D") for code in [best_text(report)] if code is not None]
    lines += [(AHEAD, COLOURS["ahead"], "^")]
    figure, axes = _figure(7, 4.2)
    centres = [(row["first"] + row["last"]) / 2 for row in report.by_position]
    for code, colour, marker in lines:
        found = [row["numbers"].get(code, {}).get("kl") for row in report.by_position]
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
    """Where training went: fidelity up, and readability with it or against it. Better is up and to the right."""
    rows = [row for row in report.training if "eval_kl_recovered" in row and "step" in row]
    kept = [row for row in rows if "eval_text_nll" in row]
    if len(kept) < 2:
        return None
    figure, axes = _figure(5.4, 4.2)
    x, y = [row["eval_text_nll"] for row in kept], [row["eval_kl_recovered"] for row in kept]
    axes.plot(x, y, color="#bbbbbb", linewidth=1.2, zorder=1)
    dots = axes.scatter(x, y, c=[row["step"] for row in kept], cmap="viridis", s=38, zorder=2)
    for i, text, below in ((0, "start", True), (-1, "end", False)):
        offset = (0, -16 if below else 8)
        axes.annotate(text, (x[i], y[i]), offset, textcoords="offset points", fontsize=9.5, ha="center")
    axes.margins(0.14)
    axes.set_xlabel("text_nll in nats (right is plainer)")
    axes.invert_xaxis()
    axes.set_ylabel("kl_recovered")
    axes.set_title("Fidelity against readability")
    figure.colorbar(dots, ax=axes, label="step")
    return figure


@styled
def rate_fidelity(reports: Mapping[int, Report], path: str | Path, part: str = "all") -> Path:
    """The questions over the length of the code: `reports` maps T to the report of a lens of that length."""
    if len(reports) < 2:
        raise BadInput("reports", sorted(reports), "Give reports of at least two lengths T.")
    lengths = sorted(reports)
    figure, axes = _figure(6.4, 4.2)
    _questions(axes, [reports[length].parts[part].numbers[LENS] for length in lengths])
    axes.set_xticks(range(len(lengths)), [str(length) for length in lengths])
    axes.set_xlabel("T, tokens of the code")
    axes.set_title("What a longer code buys" + ("" if part == "all" else f": {part}"))
    return _save(figure, Path(path))


def _figure(width: float, height: float) -> tuple[Any, Any]:
    """Without pyplot: no global state, no window."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150)
    return figure, figure.subplots()


def _questions(axes: Axes, points: Sequence[Numbers]) -> list[float]:
    """One line per question that every point answers; all values drawn."""
    drawn: list[float] = []
    for number, (name, (label, colour, marker)) in enumerate(QUESTIONS.items()):
        line = [numbers[name] for numbers in points if name in numbers]
        if len(line) == len(points):
            # A little apart, so that lines at the same height can all be seen.
            _curve(axes, [i + 0.03 * (number - 1.5) for i in range(len(line))], line, label, colour, marker)
            drawn += [point.value for point in line]
    axes.axhline(0, color="#333333", linewidth=1)
    axes.set_ylabel("recovered (0: the mean activation)")
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
