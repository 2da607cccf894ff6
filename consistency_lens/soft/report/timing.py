"""Seconds until the first token of an answer, behind the text and behind a code, and seconds of compressing.

Shapes: B rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ...activations.passages import context_of
from ...evaluation import Report, Seen
from ...evaluation.about import LENS
from .definitions import COMPRESSING, ROUNDS

TEXT = "text"


class Stopwatch:
    """Times the first rows of an evaluation, one at a time, so that nothing is padded.

    Args:
        rows: how many.
    """

    def __init__(self, rows: int) -> None:
        self.rows, self.left, self.machine = rows, 0, ""

    def begin(self, device: torch.device) -> None:
        """With the first batch on this device."""
        self.left, self.machine = self.rows, machine_of(device)

    @torch.no_grad()
    def timed(self, seen: Seen) -> dict[str, dict[str, Tensor]]:
        """Code -> its measures `[B]`; NaN, which does not count, for rows that are not timed; none with 0 rows."""
        if not self.rows:
            return {}
        total = len(seen.batch["task"])
        count = min(self.left, total)
        self.left -= count
        unknown = [torch.nan] * (total - count)
        found: dict[str, dict[str, Tensor]] = {TEXT: {}, LENS: {}}
        rows = [alone(seen.batch, row) for row in range(count)]
        for name in seen.models:  # one after the other: they may take turns on a device
            both = [first_tokens(seen, row, name) for row in rows]
            for code in (TEXT, LENS):
                found[code][f"seconds/{name}"] = torch.tensor([each[code] for each in both] + unknown)
            found[LENS][f"seconds_ratio/{name}"] = found[TEXT][f"seconds/{name}"] / found[LENS][f"seconds/{name}"]
        made = [seconds_of({COMPRESSING: partial(seen.lens.compress, row)}, seen.lens.device) for row in rows]
        found[LENS][COMPRESSING] = torch.tensor([each[COMPRESSING] for each in made] + unknown)
        return found

    def in_words(self, report: Report, receivers: Sequence[str]) -> list[str]:
        """One sentence of a report, where a clock was read."""
        if not self.rows:
            return []
        text, code = (report.judged[name] for name in (TEXT, LENS))
        said = [
            f"takes {name} {text[f'seconds/{name}'].value:.3g} seconds behind the text and "
            f"{code[f'seconds/{name}'].value:.3g} behind the code"
            for name in receivers
        ]
        rows = min(self.rows, report.data["rows"])
        return [
            f"Measured by a clock, on {self.machine}, the first token of an answer {', and '.join(said)}. Compressing "
            f"a passage takes {code[COMPRESSING].value:.3g} seconds. These are means over {rows} of the rows, one at "
            "a time; tokenising, packing and unpacking are not counted."
        ]


def first_tokens(seen: Seen, row: Mapping[str, Any], name: str) -> dict[str, float]:
    """Seconds until a receiver has written one token, greedily: behind the `text`, and behind the code of the `lens`.

    Args:
        seen: the lens and its receivers.
        row: one passage and its prompt, as `alone` gives it.
        name: of the receiver.
    """
    model, tokens, code = seen.models[name], row["tokens"][name], seen.lens.compress(row)

    def behind_the_text() -> None:
        model.generate(tokens["full"], max_new_tokens=1)

    def behind_the_code() -> None:
        model.generate(tokens["bare"], seen.lens.soft_tokens(code, row, name), max_new_tokens=1)

    return seconds_of({TEXT: behind_the_text, LENS: behind_the_code}, model.device)


def seconds_of(
    ways: Mapping[str, Callable[[], object]], device: torch.device, rounds: int = ROUNDS
) -> dict[str, float]:
    """The median of what each takes. They take turns, so that a machine which others use is as slow for all of them.

    Args:
        ways: name -> what is timed.
        device: whose work is waited for.
        rounds: that count; one in front of them does not.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + rounds):
        for name, act in ways.items():
            finish(device)
            begun = time.perf_counter()
            act()
            finish(device)
            taken[name].append(time.perf_counter() - begun)
    return {name: median(own[1:]) for name, own in taken.items()}


def finish(device: torch.device) -> None:
    """Wait for a device that works on its own."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def alone(batch: Mapping[str, Any], row: int) -> dict[str, Any]:
    """One row of a batch of passages without its padding: the passage, and what a receiver reads before an answer."""
    tokens = {}
    for name, own in batch["tokens"].items():
        there = own["passage_mask"][row].bool()
        passage = {part: own[part][row][there][None] for part in ("passage_ids", "passage_mask")}
        tokens[name] = {**passage, "front": own["front"], "bos": own["bos"]}
        for kind in ("full", "bare"):
            context = context_of(own, kind)
            there = context["attention_mask"][row].bool()
            tokens[name][kind] = {part: value[row][there][None] for part, value in context.items()}
    return {"passage": [batch["passage"][row]], "task": [batch["task"][row]], "tokens": tokens}


def machine_of(device: torch.device) -> str:
    """Where a clock was read, in words."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    threads = torch.get_num_threads()
    return f"{threads} thread{'s' if threads > 1 else ''} of a CPU" if device.type == "cpu" else device.type
