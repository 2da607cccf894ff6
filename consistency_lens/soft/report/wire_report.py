"""`WireReport`: what each receiver does with a code, beside the text, no context, truncation, and other codes.

Shapes: B rows, M vectors, K tokens of the longest answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from ...activations.passages import context_of
from ...answers import contains, exact_match, f1, first_line
from ...base.comparing import Joint
from ...base.modeling import LensModel
from ...errors import BadInput
from ...evaluation import Control, FamilyReport, HeldOut, Report, Seen
from ...evaluation.about import LENS, About, Curve, Group
from ...evaluation.bootstrap import Records
from ...frozen import Edit, FrozenModels
from ..bytes.text_bytes import text_bytes
from ..code import LatentCode, sent_bytes
from ..data import collator_of, passages_for
from ..serving.answering import AnswerSettings
from .controls import averaged, better_of, cut, others, own_words, texts_at, turned, whole_text
from .definitions import (
    CLOCKED,
    CODES,
    EITHER,
    JUDGED,
    ORACLE,
    PLACES,
    PREFILL,
    RATES,
    READ,
    SHORT,
    SPOILED,
    TRUNCATED,
    place_of,
    quantities_of,
)
from .dropping import least_expected
from .fitting import fitted, some_rows
from .listing import Answered
from .others import others_of, recoded
from .prefill import GIGA, prefills
from .rates import Rate, rates_of
from .rescoring import JOINT, rescored
from .spelling import Spelling
from .timing import Stopwatch

SCORES = {"em": exact_match, "f1": f1, "contains": contains}


class WireReport(FamilyReport):
    """A row is an example: a passage, a prompt and its answers.

    Args:
        longest_answer: tokens that are generated at most; 0 generates nothing, and gives no `em` and `f1`. Default: as
            many as the longest answer of a batch has.
        factors: so many times fewer vectors, at which the same lens is measured, too.
        oracle_rows: so many rows for whose answers codes are fitted.
        timed_rows: so many rows on which the first token of an answer is timed; 0 for no clock in the report.
        other_wire: a wire of the same models and size of a vector, trained apart from this one.
        text_lens: a lens in words of one of the receivers.
        settings: how answers are decoded, but for their length; the report says it. Default: greedily.
    """

    kept = ()
    traits: ClassVar[Mapping[str, str]] = {
        "vectors": "vectors of a code",
        "tokens_per_vector": "tokens of the compressor's passage for each vector",
        "bytes": "bytes of a wire as it is sent: header, id of the lens, scales, packed values and checksum",
        "utf8": "bytes of the passage as UTF-8",
        "zlib": "bytes of the passage compressed by zlib at level 9",
        "zstd": "bytes of the passage compressed by zstd at level 19",
        "bytes_ratio": "bytes of the passage as UTF-8 over those of the wire: below 1, the wire is the longer one",
        "zstd_ratio": "bytes of the passage compressed by zstd over those of the wire",
        "prefill_ratio": "prefill behind the passage's text over that behind its code, in the mean over the receivers",
        "compressing": "billions of floating-point operations of the compressor for a passage",
        "spelled": "share of the passage's words that a text lens writes of its vectors, on a few rows",
        "spelled_of_another": "share of another passage's words that it writes of them: what chance gives",
    }

    def __init__(
        self,
        longest_answer: int | None = None,
        factors: Sequence[float] = (2.0,),
        oracle_rows: int = 16,
        timed_rows: int = 8,
        other_wire: LensModel | None = None,
        text_lens: LensModel | None = None,
        settings: AnswerSettings | None = None,
    ) -> None:
        if longest_answer is not None and longest_answer < 0:
            raise BadInput("longest_answer", longest_answer, "Use 0 for no generation, a number of tokens, or None.")
        if not all(factor > 1 for factor in factors):
            raise BadInput("factors", list(factors), "Use numbers above 1: so many times fewer vectors.")
        for named, rows in (("oracle_rows", oracle_rows), ("timed_rows", timed_rows)):
            if rows < 0:
                raise BadInput(named, rows, "Use 0 or more.")
        self.longest_answer, self.factors, self.oracle_rows = longest_answer, factors, oracle_rows
        self.stopwatch = Stopwatch(timed_rows)
        self.sizes: dict[str, torch.Tensor] = {}  # code -> bytes of each row of the batch at hand
        self.vectors: dict[str, torch.Tensor] = {}  # code of another rate -> how many vectors each row has
        self.other_wire, self.text_lens, self.answered = other_wire, text_lens, Answered()
        self.settings = settings or AnswerSettings()
        self.settings.decoding()  # raises where they cannot be
        self.spelling: Spelling | None = None

    def begin(self, lens: LensModel, models: FrozenModels, data: Any, held_out: HeldOut) -> None:
        config: Any = lens.config
        self.passages = passages_for(data, config, models)
        held_out.require_split(self.passages.splits)
        if held_out.batch_size < 2:
            raise BadInput("batch_size", held_out.batch_size, "Use 2 or more: another passage's code is a control.")
        self.receivers: list[str] = config.names
        self.blind = {name: math.log(model.vocab_size) for name, model in models.items()}
        self.quantities = quantities_of(self.receivers)
        self.rates: list[Rate] = rates_of(config, self.factors)
        # Where receivers answer in forms of their own, one cannot score what another says.
        self.joint = len(self.receivers) > 1 and not config.answer_choice and self.longest_answer != 0
        self.left = self.oracle_rows
        self.stopwatch.begin(models.first.device)
        self.others = others_of(lens, models, self.other_wire)
        self.spelling = Spelling(self.text_lens, models) if self.text_lens else None
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
            Group(RATES, "rates", "other numbers of vectors and bits"),
            Group(READ, "no code"),
        )
        each = [
            f"{number}/{name}" for name in self.receivers for number in ("nll_recovered", "first_token", "em", "f1")
        ]
        return About(
            shown,
            zero="no context: the prompt alone",
            questions={"kl_recovered": "recovered", "nll": "", "first_token": "", "em": ""},
            details=(
                "kl",
                "nll_recovered",
                "f1",
                "f1_of_text",
                "contains",
                "top1",
                *(each if len(self.receivers) > 1 else ()),
            ),
            titles={"judged": "Sizes, and what two receivers do together"},
            curve=self._curve(groups),
        )

    def _curve(self, groups: Mapping[str, Sequence[str]]) -> Curve | None:
        """F1 over bytes: of codes, of texts that were cut, and of the whole text."""
        if self.longest_answer == 0:
            return None
        cuts = [
            name for group in (SHORT, RATES) for name in groups.get(group, ()) if name.startswith(("first", "last"))
        ]
        codes: dict[str, list[str]] = {"code": [LENS]}  # a line for each number of vectors
        for rate in self.rates:
            codes.setdefault(f"code, {rate.size}" if rate.size else "code", []).append(rate.name)
        return Curve(
            name="bytes",
            caption="F1 over bytes, of codes, of texts that were cut, and of the whole text",
            title="What a byte buys",
            x="bytes",
            axis="bytes of a passage, in the mean",
            y={name: f"f1/{name}" for name in self.receivers} if len(self.receivers) > 1 else {"f1": "f1"},
            series={**codes, "text, cut": cuts, "text, UTF-8": ["text"]},
            priced={"text, zstd": ["text", "zstd"]},
        )

    @property
    def judged(self) -> Mapping[str, str]:
        each = ORACLE | PREFILL | CLOCKED
        return JUDGED | {
            f"{name}/{receiver}": definition for name, definition in each.items() for receiver in self.receivers
        }

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
        counts = code.mask.sum(1)
        cuts = {how: self._cut(seen, counts, how) for how in TRUNCATED}
        for how, edits in cuts.items():
            yield Control(how, SHORT, CODES[how], edits)
        yield Control(
            EITHER, SHORT, CODES[EITHER], better_of(cast(Joint, seen.comparison), cuts["first"], cuts["last"])
        )
        other = others(seen.batch["doc_id"])
        made = {"shuffled": code.take(other), "mean": averaged(code), "foreign": turned(code)}
        made |= {name: recoded(wire, code, seen.batch, seen.lens.config) for name, wire in self.others.items()}
        for name, spoiled in made.items():
            yield Control(name, SPOILED, CODES[name], seen.lens.restore(spoiled, seen.batch))
        yield from self._rates(seen, other)

    def _rates(self, seen: Seen, other: Tensor) -> Iterator[Control]:
        """The lens at other rates; where the vectors are fewer, beside as many tokens and another passage's code."""
        known = set[str]()
        for rate in self.rates:
            code = seen.lens.encode(seen.batch, rate.ratio, rate.bits, rate.slots)
            config = seen.lens.config
            sizes = [sent_bytes(count, config.d_z, rate.bits, config.group) for count in code.counts]
            self.sizes[rate.name], self.vectors[rate.name] = torch.tensor(sizes).float(), torch.tensor(code.counts)
            yield Control(rate.name, RATES, rate.definition, seen.lens.restore(code, seen.batch))
            if not rate.size or rate.size in known:
                continue
            known.add(rate.size)
            for how in ("first", "last"):
                edits = self._cut(seen, code.mask.sum(1), how, f"{how} {rate.size}")
                yield Control(f"{how} {rate.size}", RATES, f"{CODES[how]}, at {rate.size}", edits)
            shuffled = seen.lens.restore(code.take(other), seen.batch)
            yield Control(f"shuffled {rate.size}", RATES, f"{CODES['shuffled']}, at {rate.size}", shuffled)

    def _cut(self, seen: Seen, counts: Tensor, how: str, name: str = "") -> list[Edit]:
        """As many tokens of each passage, for each receiver; their bytes are noted."""
        tokens, edits, sizes = seen.batch["tokens"], [], []
        for receiver, model in seen.models.items():
            own = tokens[receiver]
            dropped = how == "least_expected"
            places = least_expected(model, own, counts) if dropped else cut(model, own, counts, how)
            edits.append(own_words(model, own, *places))
            sizes.append([len(text.encode()) for text in texts_at(model, own, *places)])
        self.sizes[name or how] = torch.tensor(sizes).float().mean(0)
        return edits

    def measure(self, seen: Seen, edits: Sequence[Edit]) -> dict[str, Tensor]:
        """`em`, `f1` and `contains` of what each receiver answers, and their means."""
        if self.longest_answer == 0:
            return {}
        dealt, found, answers = seen.models.deal(edits), dict[str, Tensor](), dict[str, list[str]]()
        for name, model in seen.models.items():
            tokens = seen.batch["tokens"][name]
            longest = self.longest_answer or tokens["answer_ids"].shape[1]
            made = model.generate(
                context_of(tokens), dealt[name], decoding=self.settings.of_length(longest).decoding()
            )
            answers[name] = [first_line(text) for text in made.texts(model.tokenizer)]
            scores = _scores(answers[name], seen.batch)
            found |= {f"{number}/{name}": value for number, value in scores.items()}
            if edits is seen.edits:
                self.answered.add(name, seen.batch, answers[name], scores["em"])
        means = {number: torch.stack([found[f"{number}/{name}"] for name in seen.models]).mean(0) for number in SCORES}
        if self.joint:
            said = rescored(seen.lens.config, seen.models, seen.batch, dealt, answers)
            together = _scores(said, seen.batch)
            found |= {f"{number}_{JOINT}": together[number] for number in ("em", "f1")}
        return means | found

    def describe(self, seen: Seen, records: Records) -> None:
        """How large codes are, beside the text; and what codes could say that were fitted to the answers."""
        code: Any = seen.code
        rows = seen.lens.describe(code)
        vectors, size = (torch.tensor([float(row[name]) for row in rows]) for name in ("vectors", "bytes"))
        lengths = seen.lens.read_of(seen.batch)[1].sum(1).float().cpu()
        plain = [text_bytes(text) for text in seen.batch["passage"]]
        as_text = {name: torch.tensor([float(each[name]) for each in plain]) for name in ("utf8", "zlib", "zstd")}
        traits = {"vectors": vectors, "tokens_per_vector": lengths / vectors, "bytes": size, **as_text}
        ratios = {"bytes_ratio": as_text["utf8"] / size, "zstd_ratio": as_text["zstd"] / size}
        prefill = {name: prefills(seen, counts) for name, counts in {**self.vectors, LENS: vectors}.items()}
        prefill["text"] = prefills(seen, None)
        ratios["prefill_ratio"] = torch.stack(
            [prefill["text"][name] / prefill[LENS][name] for name in (f"prefill/{each}" for each in self.receivers)]
        ).mean(0)
        traits["compressing"] = seen.lens.compressor.operations(lengths, vectors) / GIGA
        if self.spelling:
            traits |= self.spelling.recalls(seen.lens, code, seen.batch, others(seen.batch["doc_id"]))
        records.add("traits", traits | ratios)
        for name, numbers in prefill.items():
            records.add(name, numbers)
        for name, own in {**self.sizes, LENS: size, "text": as_text["utf8"]}.items():
            records.add(name, {"bytes": own})
        records.add(LENS, self._fitted(seen))
        for name, numbers in self.stopwatch.timed(seen).items():
            records.add(name, numbers)

    def _fitted(self, seen: Seen) -> dict[str, Tensor]:
        """Of the first rows of the evaluation; NaN, which does not count, of the others."""
        if not self.oracle_rows:
            return {}
        total, code = len(seen.batch["task"]), cast(LatentCode, seen.code)
        count = min(self.left, total)
        self.left -= count
        found = {f"{number}/{name}": torch.full((total,), torch.nan) for number in ORACLE for name in self.receivers}
        if count:
            rows = some_rows(seen.batch, count)
            for name, value in fitted(seen.lens, seen.models, rows, code.take(torch.arange(count))).items():
                found[name][:count] = value.cpu()
        return found

    def subsets(self, seen: Seen) -> Mapping[str, Tensor]:
        """Where in the passage the answer stands, for answers that stand there."""
        pairs = zip(seen.batch["passage"], seen.batch["answers"], strict=True)
        place = torch.tensor([place_of(passage, accepted) for passage, accepted in pairs])
        thirds = [(place >= low / 3) & (place < high) for low, high in ((0, 1 / 3), (1, 2 / 3), (2, torch.inf))]
        return dict(zip(PLACES, thirds, strict=True))

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
        listings = [*self.answered.listings(), *([self.spelling.listing()] if self.spelling else [])]
        return " ".join(said), replace(report.about, good=good, listings=tuple(listings))

    def remarks(self, report: Report) -> list[str]:
        ratio = report.traits["bytes_ratio"].value
        size = "shorter" if ratio > 1 else "longer"
        (text, kept), (code, fewer) = (
            [
                sum(report.judged[name][f"{number}/{receiver}"].value for receiver in self.receivers)
                for number in PREFILL
            ]
            for name in ("text", LENS)
        )
        said = [f"Answers are decoded so: {self.settings.in_words}."] if self.longest_answer != 0 else []
        for name in self.receivers:
            if (nll := report.number(f"nll/{name}", "text").value) >= self.blind[name]:
                said.append(
                    f"{name}: {nll:.2f} nats per answer token with the text are no fewer than those of a model that "
                    f"knows nothing, ln V = {self.blind[name]:.2f}. Either labels are not those that the columns "
                    "predict, or it cannot read such texts at all: no other number of it means anything."
                )
        return [
            *said,
            f"Before the first token, the receivers together compute {text:.3g} billion operations behind the text "
            f"and {code:.3g} behind the code; compressing takes {report.traits['compressing']} for a passage. Their "
            f"key-value caches then hold {kept:.3g} and {fewer:.3g} MB.",
            *self.stopwatch.in_words(report, self.receivers),
            f"A wire has {report.traits['bytes']} bytes, header, scales and checksum counted, and is {size} than its "
            f"text, which has {report.traits['utf8']} as UTF-8 and {report.traits['zstd']} compressed by zstd.",
        ]


def _scores(said: Sequence[str], batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """`em`, `f1` and `contains` of what was said of each row."""
    pairs = list(zip(said, batch["answers"], strict=True))
    return {
        number: torch.tensor([float(score(text, accepted)) for text, accepted in pairs])
        for number, score in SCORES.items()
    }
