"""`WireReport`: what each receiver does with a code, beside the text, no context, truncation, and other codes.

Shapes: B rows, M vectors, K tokens of the longest answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...activations.passages import context_of
from ...answers import exact_match, f1, first_line
from ...base.modeling import LensModel
from ...errors import BadInput
from ...evaluation import Control, FamilyReport, HeldOut, Report, Seen
from ...evaluation.about import LENS, About, Group
from ...evaluation.bootstrap import Records
from ...frozen import Edit, FrozenModels
from ..bytes.text_bytes import text_bytes
from ..data import collator_of, passages_for
from .controls import averaged, others, truncated, whole_text
from .definitions import CODES, READ, SHORT, SPOILED, TRUNCATED, quantities_of


class WireReport(FamilyReport):
    """A row is an example: a passage, a prompt and its answers. Answers are generated greedily.

    Args:
        longest_answer: tokens that are generated at most; 0 generates nothing, and gives no `em` and `f1`. Default: as
            many as the longest answer of a batch has.
    """

    kept = ()
    traits: ClassVar[Mapping[str, str]] = {
        "vectors": "vectors of a code",
        "tokens_per_vector": "tokens of the compressor's passage for each vector",
        "bytes": "bytes of a wire: header, scales, packed values and checksum",
        "utf8": "bytes of the passage as UTF-8",
        "zstd": "bytes of the passage compressed by zstd at level 19",
        "bytes_ratio": "bytes of the passage as UTF-8 over those of the wire: below 1, the wire is the longer one",
    }

    def __init__(self, longest_answer: int | None = None) -> None:
        if longest_answer is not None and longest_answer < 0:
            raise BadInput("longest_answer", longest_answer, "Use 0 for no generation, a number of tokens, or None.")
        self.longest_answer = longest_answer

    def begin(self, lens: LensModel, models: FrozenModels, data: Any, held_out: HeldOut) -> None:
        config: Any = lens.config
        self.passages = passages_for(data, config, models)
        if not len(self.passages.splits.get(held_out.split, [])):
            fix = f"Use one of {', '.join(self.passages.splits)}."
            raise BadInput("split", held_out.split, fix, why="no passages are of it")
        if held_out.batch_size < 2:
            raise BadInput("batch_size", held_out.batch_size, "Use 2 or more: another passage's code is a control.")
        self.receivers: list[str] = config.names
        self.quantities = quantities_of(self.receivers)
        each = [f"{number}/{name}" for name in self.receivers for number in ("kl", "nll", "first_token", "em")]
        self.compared = ("kl_recovered", "nll", "first_token", "em", *each)

    def batches(self, lens: LensModel, models: FrozenModels, data: Any, held_out: HeldOut) -> Any:
        """Rows in batches of nearly equal size that mix documents."""
        config: Any = lens.config
        rows, collate = self.passages.splits[held_out.split], collator_of(config, models)
        order = np.random.default_rng(held_out.seed).permutation(len(rows))[: held_out.max_rows]
        parts = np.array_split(order, -(-len(order) // held_out.batch_size))
        return [collate([rows[int(i)] for i in part]) for part in parts]

    def described(self, data: Any, held_out: HeldOut) -> dict[str, Any]:
        metadata = self.passages.metadata
        corpus = metadata["corpus"]
        return {
            "corpus": corpus.get("corpus", "") if isinstance(corpus, Mapping) else "",
            "split": held_out.split,
            "documents_of_split": metadata["splits"][held_out.split]["documents"],
            "seed": held_out.seed,
        }

    def about(self, groups: Mapping[str, Sequence[str]]) -> About:
        shown = (
            Group(LENS, "the code", brief=True),
            Group(SHORT, "truncated", "as many tokens of the text", compared=True, brief=True),
            Group(SPOILED, "controls", "codes that know less", compared=True, brief=True),
            Group(READ, "no code"),
        )
        each = [
            f"{number}/{name}" for name in self.receivers for number in ("nll_recovered", "first_token", "em", "f1")
        ]
        return About(
            shown,
            zero="no context: the prompt alone",
            questions={"kl_recovered": "recovered", "nll": "", "first_token": "", "em": ""},
            details=("kl", "nll_recovered", "f1", "top1", *(each if len(self.receivers) > 1 else ())),
        )

    def baseline(self, seen: Seen) -> list[Edit]:
        """No context."""
        return []

    def edits(self, seen: Seen) -> Iterator[Control]:
        tokens = seen.batch["tokens"]
        text = [whole_text(model, tokens[name]) for name, model in seen.models.items()]
        yield Control("text", READ, CODES["text"], text)
        yield Control("none", READ, CODES["none"], [])

    def controls(self, seen: Seen) -> Iterator[Control]:
        code: Any = seen.code
        counts, tokens = code.mask.sum(1), seen.batch["tokens"]
        for how in TRUNCATED:
            edits = [truncated(model, tokens[name], counts, how) for name, model in seen.models.items()]
            yield Control(how, SHORT, CODES[how], edits)
        made = {"shuffled": code.take(others(seen.batch["doc_id"])), "mean": averaged(code)}
        for name, other in made.items():
            yield Control(name, SPOILED, CODES[name], seen.lens.restore(other, seen.batch))

    def measure(self, seen: Seen, edits: Sequence[Edit]) -> dict[str, Tensor]:
        """`em` and `f1` of what each receiver answers, and their means."""
        if self.longest_answer == 0:
            return {}
        dealt, found = seen.models.deal(edits), dict[str, Tensor]()
        for name, model in seen.models.items():
            tokens = seen.batch["tokens"][name]
            longest = self.longest_answer or tokens["answer_ids"].shape[1]
            made = model.generate(context_of(tokens), dealt[name], max_new_tokens=longest)
            said = [first_line(text) for text in made.texts(model.tokenizer)]
            for number, score in (("em", exact_match), ("f1", f1)):
                pairs = zip(said, seen.batch["answers"], strict=True)
                found[f"{number}/{name}"] = torch.tensor([score(text, accepted) for text, accepted in pairs])
        means = {
            number: torch.stack([found[f"{number}/{name}"] for name in seen.models]).mean(0) for number in ("em", "f1")
        }
        return means | found

    def describe(self, seen: Seen, records: Records) -> None:
        """How large codes are, beside the text."""
        code: Any = seen.code
        rows = seen.lens.describe(code)
        vectors, size = (torch.tensor([float(row[name]) for row in rows]) for name in ("vectors", "bytes"))
        lengths = seen.lens.read_of(seen.batch)[1].sum(1).float().cpu()
        plain = [text_bytes(text) for text in seen.batch["passage"]]
        utf8, zstd = (torch.tensor([float(each[name]) for each in plain]) for name in ("utf8", "zstd"))
        traits = {
            "vectors": vectors,
            "tokens_per_vector": lengths / vectors,
            "bytes": size,
            "utf8": utf8,
            "zstd": zstd,
        }
        records.add("traits", traits | {"bytes_ratio": utf8 / size})

    def verdict(self, report: Report) -> tuple[str, About]:
        """Each receiver beside its best truncation and a shuffled code: a mean alone would hide the weaker one.
        A model ignores the code where another passage's moves it no further from what it predicts with the text.
        Differences are taken row by row, and their intervals have to lie below 0."""
        said, good, apart = [], True, report.parts["all"].differences
        for name in self.receivers:
            number = f"nll/{name}"
            cut = min(TRUNCATED, key=lambda how: report.number(number, how).value)
            used, beats = apart["shuffled"][f"kl/{name}"].high < 0, apart[cut][number].high < 0
            good = good and used and beats
            judged = "better than truncation" if beats else "no better than truncation"
            nats = {code: report.number(number, code) for code in (LENS, "text", "none", cut, "shuffled")}
            said.append(
                f"{name}: {nats[LENS]} nats per answer token with the code, {nats['text']} with the text, "
                f"{nats['none']} without context, {nats[cut]} with as many tokens of the text ({cut}), "
                f"{nats['shuffled']} with another passage's code: {judged if used else 'ignores the code'}."
            )
        return " ".join(said), replace(report.about, good=good)

    def remarks(self, report: Report) -> list[str]:
        ratio = report.traits["bytes_ratio"].value
        size = "shorter" if ratio > 1 else "longer"
        return [
            f"A wire has {report.traits['bytes']} bytes, header, scales and checksum counted, and is {size} than its "
            f"text, which has {report.traits['utf8']} as UTF-8 and {report.traits['zstd']} compressed by zstd."
        ]
