"""What the checks of this folder share: the benchmarks above it on a GPU, and a verdict that a machine can read."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # before this folder: its files have the same names

from harness import machine

Results = list[dict[str, Any]]


def run(
    about: str | None,
    fixed: dict[str, list[str]],
    new_parser: Callable[[], argparse.ArgumentParser],
    measure: Callable[[argparse.Namespace], Results],
    verdict: Callable[[Results], dict[str, Any]],
) -> None:
    """Measure each size with what the check fixes, and print one JSON object.

    Args:
        about: what the check asks for.
        fixed: size -> options of the benchmark.
        new_parser, measure: of the benchmark.
        verdict: results of one size -> what was found, what the target is, and whether it is `met`.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=list(fixed), help="or others: pilot runs anywhere")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, help="the same into this file: libraries print what they like")
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="options of the benchmark that win")
    given = parser.parse_args()
    found: dict[str, Any] = {
        "check": Path(sys.argv[0]).stem,
        "date": datetime.date.today().isoformat(),
        **machine(given.device),
        "sizes": {},
    }
    for size in given.sizes:
        words = fixed.get(size, next(iter(fixed.values())))
        options = new_parser().parse_args([*words, "--size", size, "--device", given.device, *given.more])
        results = measure(options)
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        found["sizes"][size] = {**verdict(results), "settings": settings, "results": results}
    said = json.dumps(found, indent=1, default=str)
    if given.json:
        given.json.write_text(said + "\n", encoding="utf-8")
    print(said)
