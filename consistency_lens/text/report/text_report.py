"""`TextReport`: the words of a lens beside other words, and whether they are language."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor

from ...base.modeling import LensModel
from ...errors import BadInput
from ...evaluation import Control, HeldOut, Report, Seen, VectorReport
from ...evaluation.about import LENS, About
from ...evaluation.bootstrap import Records
from ...evaluation.quantities import AT_P, Measured, Numbers
from ...frozen import Edit, FrozenModels
from ..others.autoencoder import NaturalLanguageAutoencoder
from ..parts.generation import Words
from ..sceptic.controls import GREEDY, LOGIT_LENS, READ, TABLE, Sceptic, read_in
from ..sceptic.follows import Sayings, definitions_of, followed
from ..sceptic.past import ABOUT_PAST, IS_CONTINUATION, about_past, is_continuation
from ..sceptic.past import AHEAD as NEXT_TOKENS
from ..sceptic.past import DEFINED as OF_WAYS
from ..sceptic.questions import QUANTITIES, Questions, asked
from ..sceptic.slots import changed_in_front, one_word_changed
from ..sceptic.stored import NEAREST, NEAREST_TEXT, StoredRows
from ..sceptic.suffix import DEFINED as OF_SUFFIXES
from ..sceptic.suffix import ROWS, SUFFIX, TOPIC, Documents, picked
from ..sceptic.two_tokens import TwoTokens
from .definitions import (
    AHEAD,
    EARLIER_IN_FRONT,
    IN_FRONT,
    LOOKS_AHEAD,
    READ_ANEW,
    READ_BY,
    REWORDED,
    SHUFFLED,
    SLOTS,
    STORED,
    TAIL,
    TAMPERED,
    TEXT,
    TRAITS,
    TWO_TOKENS,
    about_of,
    of_code,
)
from .distinct import add_distinct
from .gains import BEFORE, BEFORE_REWORDED, BEFORE_TRAITS, gains_of
from .judge import Judge, rows_for
from .limits import limits_of
from .verdict import best_text, remarks_of, verdict_of

NUMBERS = {**AT_P, **QUANTITIES}
MEAN, ASKED = "mean", (GREEDY, TABLE)  # beside the lens and the mean, what questions are asked with
JUDGED = (LENS, SHUFFLED, TAIL, AHEAD, GREEDY)  # whose explanations the judges read
Reword = Callable[[Sequence[str], int], Sequence[str]]


class TextReport(VectorReport):
    """The controls, numbers and sentences of a text lens.

    Args:
        rivals: name -> a lens that restores this lens's code `context_tail`, or as `greedy_trained` one that restores
            `greedy`, as `fresh_encoder` the lens's own texts; `context_tail_trained` is one trained on such tails with
            the same objective and budget, the honest text baseline.
        before: the same lens at an earlier moment, such as the end of its warm start: the report says what it has
            gained since, row by row.
        judges: worlds whose truth is known.
        reword: explanations and a seed -> the same in other words, where a world can do that.
        sayings: worlds that can say something else of a row: does the model follow?
        questions: a world that can ask for what an activation holds and nothing near P needs.
        sure, vague: of the lens's starting texts: how `greedy` deals with a guess.
        learned: what several reports on the same training rows share: the table and the probes, by site.
        brief: leave out what is written anew for each text: traits, and texts that are tampered with.
    """

    quantities = NUMBERS
    traits = TRAITS
    over: ClassVar[Mapping[str, str]] = {REWORDED: IN_FRONT, BEFORE_REWORDED: EARLIER_IN_FRONT}

    def __init__(
        self,
        rivals: Mapping[str, LensModel] | None = None,
        before: LensModel | None = None,
        judges: Sequence[Judge] = (),
        reword: Reword | None = None,
        sayings: Sequence[Sayings] = (),
        questions: Questions | None = None,
        sure: float = 0.0,
        vague: str | None = None,
        learned: dict[str, TwoTokens] | None = None,
        brief: bool = False,
    ) -> None:
        self.rivals, self.before, self.judges, self.reword = dict(rivals or {}), before, judges, reword
        self.sayings, self.brief, self.form, self.learned = sayings, brief, (sure, vague), learned
        self.questions = questions
        self.sites: Sequence[str] = ()  # of a lens that reads any of several
        self.texts: dict[str, list[str]] = {LENS: [], BEFORE: []}
        self.codes: dict[str, Any] = {}  # of the batch, by name
        self.in_front: dict[str, Tensor] = {}  # of the batch: whose first words were changed
        self.told: dict[str, dict[str, Tensor]] = {}  # of the batch: what controls say of themselves
        self.written: dict[str, Tensor] = {}  # of the batch: what takes the place of A

    @property
    def judged(self) -> Mapping[str, str]:
        worlds = {name: text for judge in self.judges for name, text in judge.definitions.items()}
        ways = {name: text for each in self.sayings for name, text in definitions_of(each.ways).items()}
        sites = {site: f"the lens reads {site}" for site in self.sites}
        return {**worlds, **ways, **sites, **READ, **OF_SUFFIXES, **OF_WAYS}

    @property
    def lenses(self) -> Sequence[LensModel]:
        return [*self.rivals.values(), *filter(None, [self.before])]

    def about(self, groups: Mapping[str, Sequence[str]]) -> About:
        return about_of(groups)

    def begin(self, lens: LensModel, models: FrozenModels, data: Any, held_out: HeldOut) -> None:
        super().begin(lens, models, data, held_out)
        if isinstance(lens, NaturalLanguageAutoencoder):
            lens.scale_to(data.norm(lens.config.only_site))
        self.sceptic = Sceptic(data.splits.get("train"), *self.form, self.learned)
        self.sites = (lens.config.sites or []) if len(lens.config.sites or []) > 1 else ()
        self.held_out, self.tested = data.splits[held_out.split], 0
        self.documents: Documents | None = None
        self.library: dict[str, StoredRows] = {}  # by site
        self.most_stored = held_out.max_rows  # a short report compares with few rows, too

    def batches(self, lens: LensModel, models: FrozenModels, data: Any, held_out: HeldOut) -> Any:
        found = super().batches(lens, models, data, held_out)
        return BySite(found, self.sites) if self.sites else found

    def shown(self, lens: LensModel, models: FrozenModels, data: Any, split: str) -> Iterator[dict[str, Any]]:
        """The examples of a lens of several sites take them in turn, row by row."""
        for batch in super().shown(lens, models, data, split):
            sites = len(lens.config.sites or [])
            yield batch if sites == 1 else {**batch, "site": torch.arange(len(batch["doc_id"])) % sites}

    def controls(self, seen: Seen) -> Iterator[Control]:
        lens, batch, prefix = seen.lens, seen.batch, seen.prefix
        rivals = lens.rivals(batch, prefix, seen.frozen, seen.seed)
        if isinstance(seen.code, Words):
            rivals[GREEDY] = self.sceptic.greedy(seen)
        ahead = {name: code for name, code in rivals.items() if name in (AHEAD, GREEDY)}
        self.codes, self.in_front, self.told = {LENS: seen.code}, {}, {}
        self.written = {LENS: seen.edits[0].tensor, MEAN: self.baseline(seen)[0].tensor} if self.questions else {}
        groups = {
            TEXT: {SHUFFLED: seen.code.take(batch["pair"])} | {n: c for n, c in rivals.items() if n not in ahead},
            LOOKS_AHEAD: ahead,
            TAMPERED: self._tampered(seen),
            SLOTS: one_word_changed(seen.code, seen.seed, lens.config.pad_id) if isinstance(seen.code, Words) else {},
        }
        for group, codes in groups.items():
            self.codes |= codes
            for name, code in codes.items():
                yield self._noted(Control(name, group, of_code(name), lens.restore(code, batch)))
        for name, rival in self.rivals.items():
            read = READ_BY.get(name, TAIL)
            if read not in self.codes:
                fix = f"Leave them out: this family of lenses has no {read} for them to read."
                raise BadInput("rivals", sorted(self.rivals), fix)
            group = {GREEDY: LOOKS_AHEAD, LENS: READ_ANEW}.get(read, TEXT)
            yield Control(name, group, of_code(name), rival.restore(self.codes[read], batch))
        yield from map(self._noted, self.sceptic.vectors(seen, TWO_TOKENS, self.told))
        yield from self._stored(seen)
        yield from self._earlier(seen)

    def _noted(self, control: Control) -> Control:
        """The same; what it writes is kept where questions will be asked with it in place."""
        if self.questions and control.name in ASKED:
            self.written[control.name] = control.edits[0].tensor
        return control

    def _stored(self, seen: Seen) -> Iterator[Control]:
        """Training rows, found by the explanation and by the activation."""
        rows = self.sceptic.rows
        if self.brief or rows is None or not len(rows) or not isinstance(seen.code, Words):
            return
        site, original = read_in(seen)
        if site not in self.library:
            self.library[site] = StoredRows.of(seen.lens, rows, site, self.most_stored)
        library = self.library[site]
        found = {NEAREST_TEXT: library.by_text(seen.code), NEAREST: library.by_vector(original)}
        for name, vectors in found.items():
            yield Control(name, STORED, of_code(name), [Edit(site, vectors.to(original))])

    def _tampered(self, seen: Seen) -> dict[str, Any]:
        """The lens's own texts, spoiled."""
        found = {} if self.brief else dict(seen.lens.tampered(seen.code, seen.prefix, seen.frozen, seen.seed))
        if self.reword:
            found[REWORDED] = self._reworded(seen, seen.lens, seen.code, IN_FRONT)
        return found

    def _earlier(self, seen: Seen) -> Iterator[Control]:
        """The codes of the earlier lens, which stand in no table of controls."""
        if self.before is None:
            return
        code = self.before.compress(seen.batch)
        self.codes[BEFORE] = code
        yield Control(BEFORE, "", "", self.before.restore(code, seen.batch))
        if self.reword:
            reworded = self._reworded(seen, self.before, code, EARLIER_IN_FRONT)
            yield Control(BEFORE_REWORDED, "", "", self.before.restore(reworded, seen.batch))

    def _reworded(self, seen: Seen, lens: Any, code: Any, where: str) -> Any:
        """The code in a world's other words for it; notes in which rows the first words are others now."""
        assert self.reword is not None
        before = said_by(lens, code)
        after = list(self.reword(before, seen.seed))
        self.in_front[where] = changed_in_front(before, after)
        if where == IN_FRONT:
            changed = torch.tensor([float(a != b) for a, b in zip(before, after, strict=True)])
            self.told["traits"] = {"reworded_changed": changed, "reworded_in_front": self.in_front[where].float()}
        return lens.reread(after)

    def describe(self, seen: Seen, records: Records) -> None:
        for name, measures in self.told.items():
            records.add(name, measures)
        if not self.brief:
            self._describe(seen, records, seen.lens, LENS, "traits")
            if self.before is not None:
                self._describe(seen, records, self.before, BEFORE, BEFORE_TRAITS)
        said = {
            name: said_by(self._of(name, seen), self.codes[name]) for name in (*JUDGED, BEFORE) if name in self.codes
        }
        for name, texts in self.texts.items():
            texts += said.get(name, [])
        if isinstance(seen.code, Words):
            _add(records, LENS, self._ways(seen, seen.code, said[LENS]))
        for name, hits in self._suffixes(seen).items():
            records.add(*(("traits", {TOPIC: hits}) if name == TOPIC else (name, {SUFFIX: hits})))
        if self.judges:
            said[LOGIT_LENS] = self.sceptic.said_by_logit_lens(seen)
        for judge in self.judges:
            rows = rows_for(judge.columns, seen.batch)
            for name, texts in said.items():
                _add(records, name, judge.judge(texts, rows))
        predicted = [seen.frozen.tokenizer.decode([i]) for i in seen.comparison.clean[:, 0].argmax(-1).tolist()]
        if self.questions:
            rows = rows_for(self.questions.columns, seen.batch)
            questions = self.questions.questions(rows, seen.seed)
            answers = asked(seen.frozen, seen.prefix, read_in(seen)[0], questions, self.written)
            for name, measures in answers.items():
                records.add(name, measures)
        for each in self.sayings:
            texts_of = each.texts(said[LENS], predicted, rows_for(each.columns, seen.batch), seen.seed)
            _add(records, LENS, followed(seen.lens, seen, said[LENS], texts_of))

    def _ways(self, seen: Seen, code: Words, explanations: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """Which way the explanations look."""
        prefix, decode = seen.prefix, seen.frozen.tokenizer.batch_decode
        before = [
            ids[kept].tolist() for ids, kept in zip(prefix.input_ids[:, :-1], prefix.mask[:, :-1].bool(), strict=True)
        ]
        ahead = prefix.continuation_ids
        behind = [[]] * len(before) if ahead is None else ahead[:, :NEXT_TOKENS].tolist()
        continues = is_continuation(code, self.codes[AHEAD], prefix.input_ids[:, -1])
        past = about_past(explanations, decode(before), decode(behind))
        return {IS_CONTINUATION: (continues, torch.ones_like(continues)), ABOUT_PAST: past}

    def _suffixes(self, seen: Seen) -> dict[str, Tensor]:
        """Code -> whether the model, told its text, finds what comes next; over the first rows of the report."""
        if self.brief or not isinstance(seen.code, Words) or not isinstance(self.held_out, Dataset):
            return {}
        frozen, config = seen.frozen, seen.lens.config
        if self.documents is None:
            self.documents = Documents(self.held_out, frozen.tokenizer)
        documents, left = seen.batch["doc_id"].tolist(), max(0, ROWS - self.tested)
        self.tested += len(documents)
        passages: list[Tensor | None] = [None] * len(documents)
        for row, document in enumerate(documents[:left]):
            context = seen.prefix.input_ids[row][seen.prefix.mask[row].bool()].tolist()
            passages[row] = self.documents.passages(document, context, seen.seed)
        texts = {name: self.codes[name] for name in (LENS, SHUFFLED, TAIL, AHEAD) if name in self.codes}
        topics = seen.lens.reread([self.documents.topic(document) for document in documents])
        return picked(texts | {TOPIC: topics}, passages, frozen, config.start_id)

    def _of(self, name: str, seen: Seen) -> LensModel:
        return self.before if name == BEFORE and self.before is not None else seen.lens

    def _describe(self, seen: Seen, records: Records, lens: Any, name: str, traits: str) -> None:
        found = dict(lens.traits(self.codes[name], seen.batch, seen.prefix, seen.frozen, seen.seed))
        for kind in ("sample", "excerpt"):
            if {"text_nll", f"{kind}_nll"} <= found.keys():
                found[f"text_nll_above_{kind}s"] = found["text_nll"] - found[f"{kind}_nll"]
        records.add(traits, found)

    def subsets(self, seen: Seen) -> Mapping[str, Tensor]:
        """Those of worlds, and of a lens that reads several sites each of these."""
        of_worlds = [judge.subsets(rows_for(judge.columns, seen.batch)) for judge in self.judges]
        rows = len(seen.batch["doc_id"])
        of_sites = {site: torch.full((rows,), site == read_in(seen)[0]) for site in self.sites}
        return {name: mask for found in (*of_worlds, of_sites, self.in_front) for name, mask in found.items()}

    def finish(self, records: Records) -> None:
        super().finish(records)
        add_distinct(records, self.texts[LENS])
        if self.before is not None:
            add_distinct(records, self.texts[BEFORE], BEFORE_TRAITS)

    def gains(self, measured: Measured) -> dict[str, Numbers]:
        return gains_of(measured, self.judged) if self.before is not None else {}

    def verdict(self, report: Report) -> tuple[str, About]:
        found, best = verdict_of(report), best_text(report)
        lines = (LENS, "mean", SHUFFLED, *filter(None, [best]), AHEAD)
        limits = limits_of(report, found.content_blind)
        about = replace(report.about, good=found.good, alarm=found.content_blind, limits=tuple(limits), lines=lines)
        return found.sentence, about

    def remarks(self, report: Report) -> list[str]:
        return remarks_of(report)


class BySite:
    """Each batch once for each site of a lens: all of its rows are of that site, and `activations` holds no other.

    Args:
        batches: with the activations of all sites.
        sites: of the lens.
    """

    def __init__(self, batches: Any, sites: Sequence[str]) -> None:
        self.batches, self.sites = batches, sites

    def __len__(self) -> int:
        return len(self.batches) * len(self.sites)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for batch in self.batches:
            for site in self.sites:
                yield {**batch, "activations": {site: batch["activations"][site]}}


def said_by(lens: LensModel, code: Any) -> list[str]:
    """The explanations."""
    return [str(row["explanation"]) for row in lens.describe(code)]


def _add(records: Records, name: str, found: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Numerators and denominators of one code."""
    above = {measure: pair[0] for measure, pair in found.items()}
    records.add(name, above, {measure: pair[1] for measure, pair in found.items()})
