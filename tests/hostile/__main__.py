"""Attack for as long as one likes: python -m tests.hostile --minutes 60

Prints what was tried, what held, and of each failure the seed with which it comes again:
python -m tests.hostile --only configuration --seed 17
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import conftest  # noqa: F401  # no network, a cache of its own


def main() -> int:
    from .attacks import ATTACKS
    from .trying import Tally, attempt

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="How long, over all attacks.")
    parser.add_argument("--only", nargs="+", choices=list(ATTACKS), default=list(ATTACKS), help="These attacks.")
    parser.add_argument("--seed", type=int, default=None, help="This case alone.")
    parser.add_argument("--first", type=int, default=0, help="The first seed.")
    options = parser.parse_args()
    tallies = {name: Tally() for name in options.only}
    until, seed = time.monotonic() + 60 * options.minutes, options.first
    while True:
        for name, tally in tallies.items():
            before = len(tally.failed)
            attempt(name, ATTACKS[name], seed if options.seed is None else options.seed, tally)
            for failure in tally.failed[before:]:
                print(failure, flush=True)
        seed += 1
        if options.seed is not None or time.monotonic() > until:
            break
    print(f"{'attack':24} {'cases':>7} {'worked':>7} {'refused':>8} {'failed':>7}")
    for name, tally in tallies.items():
        failed = len(tally.failed)
        print(f"{name:24} {tally.cases:7} {tally.worked:7} {tally.refused:8} {failed:7}")
    return 1 if any(tally.failed for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
