"""Attack for as long as one likes: python -m tests.hostile --minutes 60

Prints what was tried, what held, and of each failure the seed with which it comes again:
python -m tests.hostile --only configuration --seed 17

Twenty whole runs, each killed at one to three random moments and resumed, and what was done to each:
python -m tests.hostile --only kills --cases 20

The explorer in a process of its own, and how much memory that has over time:
python -m tests.hostile --explorer --minutes 10
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import conftest  # noqa: F401  # no network, a cache of its own

PART_OF_SLOW = 0.25  # of the time, for attacks of which a case takes many seconds
PATIENCE_WITH_SLOW = 240.0  # seconds of computing; by the clock, many times as long


def main() -> int:
    from .attacks import ATTACKS, SLOW
    from .trying import PATIENCE, Tally, attempt

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--minutes", type=float, default=None, help="Minutes over all attacks. Default: one, no kills."
    )
    parser.add_argument("--only", nargs="+", choices=[*ATTACKS, *SLOW], help="Attacks to try. Default: all.")
    parser.add_argument("--seed", type=int, default=None, help="Seed of the only case to try.")
    parser.add_argument("--cases", type=int, default=None, help="Cases of each attack, instead of minutes.")
    parser.add_argument("--first", type=int, default=0, help="Seed of the first case. Default: 0.")
    parser.add_argument("--explorer", action="store_true", help="Attack the explorer alone, and show its memory.")
    options = parser.parse_args()
    if options.explorer:
        from .explorer import attack

        return attack(options.minutes or 1.0)
    named = options.only or [*ATTACKS, *(SLOW if options.minutes or options.cases else ())]
    tallies = {name: Tally() for name in named}
    began, slow = time.monotonic(), 0.0

    def passed() -> float:
        return time.monotonic() - began

    def tried(name: str, seed: int) -> float:
        tally, before = tallies[name], passed()
        known = len(tally.failed)
        patience = PATIENCE_WITH_SLOW if name in SLOW else PATIENCE
        done = attempt(name, (ATTACKS | SLOW)[name], seed, tally, patience)
        if name in SLOW:
            print(f"{name} {seed}: {done or 'did not hold'} ({passed() - before:.0f} s)", flush=True)
        for failure in tally.failed[known:]:
            print(failure, flush=True)
        return passed() - before

    first, cases = (options.first, options.cases) if options.seed is None else (options.seed, 1)
    for seed in count(first):
        for name in named:
            if name not in SLOW:
                tried(name, seed)
        for name in named:
            alone = cases is not None or set(named) <= set(SLOW)
            if name in SLOW and (alone or slow <= PART_OF_SLOW * passed()):
                slow += tried(name, seed if alone else first + tallies[name].cases)
        if passed() > 60 * (options.minutes or 1.0) if cases is None else seed + 1 >= first + cases:
            break
    print(f"{'attack':24} {'cases':>7} {'worked':>7} {'refused':>8} {'failed':>7}")
    for name, tally in [*tallies.items(), ("all", sum(tallies.values(), Tally()))]:
        failed = len(tally.failed)
        print(f"{name:24} {tally.cases:7} {tally.worked:7} {tally.refused:8} {failed:7}")
    return 1 if any(tally.failed for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
