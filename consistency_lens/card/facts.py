"""`CardFacts`: all that a card may say about a lens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from huggingface_hub import EvalResultEntry

TAG = "consistency-lens"  # of every lens on the Hub


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One published number. Without a definition nothing is published.

    Args:
        name, value, definition: what it is called, what it was, what it means.
        low, high: of the 95 % interval; None for a number that training watched, which has none.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    definition: str


@dataclass(frozen=True, kw_only=True)
class Control(Measured):
    """The primary number of something that takes the place of the lens.

    Args:
        group: heading under which it stands.
        apart: the lens minus it, where that was measured row by row.
    """

    group: str = ""
    apart: Measured | None = None


@dataclass(frozen=True)
class Section:
    """Further numbers under a heading of their own."""

    title: str
    numbers: Sequence[Measured]


@dataclass(frozen=True, kw_only=True)
class Part:
    """The same numbers over some of the rows; `title` says which, and how many."""

    title: str
    numbers: Sequence[Measured]
    controls: Sequence[Control] = ()


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """All that `model_card_template.md` may say about a lens. What is not here is not on the card.

    Args:
        name: title of the card and name of the model in the evaluation results.
        family: the medium of the code, as the table of families names it.
        partial: a template whose blocks take the place of those of the frame; '' where the frame is enough.
        summary: one sentence: what the lens reads.
        verdict: what the report comes to, in words. None before there is a report.
        alarm: the verdict is a warning: then it is the card's first line.
        stage: of a lens that has no report yet: how far training is, and what its numbers are.
        subject: the frozen LLM, as id or name. `subject_revision`: its commit or the hash of its weights.
        base_model: the model's id on the Hub; None for a frozen model that is not there. `relation`: to it, as the Hub
            calls it.
        sites: where it reads, in numbers ("resid_post.20").
        code: the size of the code in words ("8 tokens").
        sizes: part -> what is in it ("0.9M trained parameters").
        usage: a Python snippet that runs as it stands. `printed`: what it printed when the card was made.
        primary: the name in `numbers` by which controls are scored.
        numbers, controls: fidelity; the primary number for inputs that know nothing of the row.
        parts: the same over rows that somebody named.
        sections: further numbers of the family, under its own headings.
        listings: rows for people, each with a `title`, `columns` and `rows` of texts.
        evaluated_on, evaluated_split, evaluated_rows, evaluated_documents: what the numbers were measured on.
        good, bad: rows for people, best and worst: see `columns`. `picked`: out of which, and how.
        plots: caption -> path in the repository. `report`: path of the whole report there.
        limits: what this lens gets wrong, in plain words, beyond what holds for every lens.
        training, cost: name -> value; the setup, and what it took (GPU hours, peak memory, tokens per second).
        settings: every knob of the training, as it was.
        history: what training watched: rows with `step` and numbers.
        command: how it was made.
        corpus, datasets, counts, near_duplicates: the data in words, as Hub ids, split -> (documents, rows), split ->
            documents that nearly repeat one of another split.
        dataset_revision: commit of the first of `datasets`.
        license: the Hub's licence id. `license_note`: where it comes from. `license_name`, `license_link`: of a
            licence that has no id.
        citation: BibTeX.
        of_family: what the family's own partial shows, by names that only it knows.
        tags: metadata beyond the ones that every lens has.
    """

    name: str
    family: str
    summary: str
    subject: str
    subject_revision: str
    sites: Sequence[str]
    code: str
    usage: str
    license: str
    license_note: str
    citation: str
    partial: str = ""
    verdict: str | None = None
    alarm: bool = False
    stage: str | None = None
    base_model: str | None = None
    relation: str = "adapter"
    sizes: Mapping[str, str] = field(default_factory=dict)
    printed: str = ""
    primary: str = "kl_recovered"
    numbers: Sequence[Measured] = ()
    controls: Sequence[Control] = ()
    parts: Sequence[Part] = ()
    sections: Sequence[Section] = ()
    listings: Sequence[Any] = ()
    evaluated_on: str = ""
    evaluated_split: str = ""
    evaluated_rows: int = 0
    evaluated_documents: int = 0
    good: Sequence[Mapping[str, Any]] = ()
    bad: Sequence[Mapping[str, Any]] = ()
    picked: str = ""
    plots: Mapping[str, str] = field(default_factory=dict)
    report: str | None = None
    limits: Sequence[str] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, float]] = ()
    command: str = ""
    corpus: str = ""
    datasets: Sequence[str] = ()
    dataset_revision: str | None = None
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    near_duplicates: Mapping[str, int] = field(default_factory=dict)
    license_name: str | None = None
    license_link: str | None = None
    of_family: Mapping[str, Any] = field(default_factory=dict)
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.numbers and self.primary not in {number.name for number in self.numbers}:
            raise ValueError(f"primary={self.primary!r} is none of the numbers: {[n.name for n in self.numbers]}")

    @property
    def metadata(self) -> dict[str, Any]:
        """The front matter: makes the Hub show base model and data sets, and a gallery find lenses by their tags.

        It names no `pipeline_tag`: that promises that one of the Hub's own pipelines can run the model.
        """
        names = {"license_name": self.license_name, "license_link": self.license_link}
        return {
            "library_name": "consistency-lens",
            "license": self.license,
            **{key: value for key, value in names.items() if value},
            "tags": [TAG, "interpretability", f"{self.family}-lens", *self.tags],
            **({"base_model": self.base_model, "base_model_relation": self.relation} if self.base_model else {}),
            **({"datasets": list(self.datasets)} if self.datasets else {}),
        }

    @property
    def results(self) -> list[EvalResultEntry]:
        """What the Hub shows as evaluation results: the primary number, where a report measured it on a data set of
        the Hub."""
        if self.report is None or not self.datasets:
            return []
        (primary,) = (number for number in self.numbers if number.name == self.primary)
        best = max((c for c in self.controls if c.apart), key=lambda c: c.value, default=None)
        beside = [] if best is None else [f"best control {best.name} {best.value:.3f}"]
        interval = [] if primary.low is None else [f"95 % interval {primary.low:.3f} to {primary.high:.3f}"]
        counted = f"{self.evaluated_documents} documents, split {self.evaluated_split}"
        entry = EvalResultEntry(
            dataset_id=self.datasets[0],
            dataset_revision=self.dataset_revision,
            task_id=primary.name,
            value=primary.value,
            notes="; ".join([*interval, counted, *beside]),
        )
        return [entry]

    def mapping(self) -> dict[str, Any]:
        """Every field under its own name, and `metadata`: what the template may use."""
        return {"metadata": self.metadata} | {f.name: self.__dict__[f.name] for f in fields(self)}
