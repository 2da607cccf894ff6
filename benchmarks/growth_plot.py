"""How times grow along several axes, as one picture."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from consistency_lens.evaluation.presenting.plots import styled
from consistency_lens.files import write_whole


@styled
def draw(times: list[dict[str, Any]], fits: list[dict[str, Any]], path: Path, labels: Mapping[str, str]) -> None:
    """One panel for each axis, on logarithmic scales; a straight line of slope 1 beside it."""
    figure = Figure(figsize=(3.7 * len(fits), 3.8), dpi=150)
    for axes, found in zip(figure.subplots(1, len(fits)), fits, strict=True):
        rows = [row for row in times if row["axis"] == found["axis"]]
        x, y = np.array([row["value"] for row in rows]), np.array([row["ms"] for row in rows])
        axes.loglog(x, y, "o-", color="#0072B2", base=2)
        axes.loglog(x, y[-1] * x / x[-1], "--", color="#999999", base=2, label="linear")
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.set_yticks(ticks := 2.0 ** np.arange(np.floor(np.log2(y.min())), np.ceil(np.log2(y.max())) + 1))
        axes.set_yticklabels([f"{tick:g}" for tick in ticks])
        axes.set_xlabel(labels[found["axis"]])
        exponents = [f"{name} {found[name]:.2f}" for name in ("exponent", "upper half") if name in found]
        axes.set_title(", ".join(exponents), fontsize=10)
    figure.axes[0].set_ylabel("ms of a step")
    figure.axes[0].legend()
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_whole(path, content.getvalue())
