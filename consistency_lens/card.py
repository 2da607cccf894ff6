"""Cards from facts: a template is filled with what was measured, then merged with what a person has written by hand.

The parts that we generate stand between markers and are replaced at each rewrite; all other text, and every metadata
key that the new card does not set, is kept byte for byte:

    <!-- generated: numbers -->
    ...
    <!-- /generated -->
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import jinja2
import yaml

SECTION = re.compile(
    r"<!-- generated: (?P<name>[\w-]+) -->(?:(?!<!-- generated: ).)*?<!-- /generated -->", flags=re.DOTALL
)
FRONT_MATTER = re.compile(
    r"\A\ufeff?---[ \t]*\r?\n(?P<yaml>.*?)^---[ \t]*(?:\r?\n|\Z)", flags=re.DOTALL | re.MULTILINE
)
_QUOTED = r'"(?:[^"\\\n]|\\.)*"'
# Section -> what it loads from a place.
LOADS = {
    "use": re.compile(rf"(\bAutoLens\.from_pretrained\(){_QUOTED}"),
    "load": re.compile(rf"(\bload_dataset\(){_QUOTED}"),
}
TOP_LEVEL_KEY = re.compile(r"""(?P<quote>["']?)(?P<key>[^\s#"'\-\[\]{}][^\r\n"':]*)(?P=quote)[ \t]*:(?=\s)""")
# Metadata that must not outlive the measurement it came from, even when the new card has none to put in its place.
ALWAYS_OURS = {"model-index"}


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


@dataclass(frozen=True, kw_only=True)
class Part:
    """The same numbers over some of the rows; `title` says which, and how many."""

    title: str
    numbers: Sequence[Measured]
    controls: Sequence[Control] = ()


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One row of the sample table: what the subject had read, what the lens says about it, how well that served.

    Args:
        context: the end of what it had read.
        text: what the lens says.
        before, after: what the subject says next, untouched and with what was restored from the words.
        score: how far `after` is from `before`, in nats.
        of_mean: the same with the mean activation: what there was to lose.
    """

    context: str
    text: str
    score: float
    before: str = ""
    after: str = ""
    of_mean: float | None = None


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """All that `model_card_template.md` may say about a lens. What is not here is not on the card.

    Args:
        name: title of the card and name of the model in the evaluation results.
        family: "text", "sparse" or "soft": the medium of the code, the one branch of the template.
        summary: one sentence: what the lens reads.
        verdict: what the report comes to, in words. None before there is a report.
        content_blind: some text control came within 10 % of the score. Then the card's first line says so.
        stage: of a lens that has no report yet: how far training is, and what its numbers are.
        subject: the frozen LLM, as id or name. `subject_revision`: its commit or the hash of its weights.
        base_model: the subject's id on the Hub; None for a subject that is not there. `relation`: to it, as the Hub
            calls it.
        sites: where it reads, in numbers ("resid_post.20").
        code: the size of the code in words ("8 tokens").
        sizes: part -> what is in it ("0.9M trained parameters").
        usage: a Python snippet that runs as it stands. `printed`: what it printed when the card was made.
        primary: the name in `numbers` by which controls are scored.
        numbers, controls: fidelity; the primary number for inputs that know nothing of the row.
        parts: the same over rows that somebody named.
        truth: where the truth is known: is what the words say true?
        readability: what survives shuffling, truncation and rewording; how the words read.
        evaluated_on, evaluated_split, evaluated_rows, evaluated_documents: what the numbers were measured on.
        good, bad: explanations, best and worst. `picked`: out of which, and how.
        plots: caption -> path in the repository. `report`: path of the whole report there.
        limits: what this lens gets wrong, in plain words, beyond what holds for every lens.
        training, cost: name -> value; the setup, and what it took (GPU hours, peak memory, tokens per second).
        settings: every knob of the training, as it was.
        history: what training watched: rows with `step` and numbers.
        command: how it was made.
        corpus, datasets, counts, near_duplicates: the data in words, as Hub ids, split -> (documents, rows), split ->
            documents that nearly repeat one of another split.
        license: the Hub's licence id. `license_note`: where it comes from. `license_name`, `license_link`: of a
            licence that has no id.
        citation: BibTeX.
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
    verdict: str | None = None
    content_blind: bool = False
    stage: str | None = None
    base_model: str | None = None
    relation: str = "adapter"
    sizes: Mapping[str, str] = field(default_factory=dict)
    printed: str = ""
    primary: str = "kl_recovered"
    numbers: Sequence[Measured] = ()
    controls: Sequence[Control] = ()
    parts: Sequence[Part] = ()
    truth: Sequence[Measured] = ()
    readability: Sequence[Measured] = ()
    evaluated_on: str = ""
    evaluated_split: str = ""
    evaluated_rows: int = 0
    evaluated_documents: int = 0
    good: Sequence[Explanation] = ()
    bad: Sequence[Explanation] = ()
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
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    near_duplicates: Mapping[str, int] = field(default_factory=dict)
    license_name: str | None = None
    license_link: str | None = None
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.numbers and self.primary not in {number.name for number in self.numbers}:
            raise ValueError(f"primary={self.primary!r} is none of the numbers: {[n.name for n in self.numbers]}")

    @property
    def metadata(self) -> dict[str, Any]:
        """The front matter: makes the Hub show base model, data sets and evaluation results.

        It names no `pipeline_tag`: that promises that one of the Hub's own pipelines can run the model.
        """
        metrics = [{"type": n.name, "name": n.name, "value": n.value} for n in self.numbers]
        results = {
            "task": {"type": "feature-extraction", "name": "Explaining activations"},
            "dataset": {"name": self.evaluated_on, "type": self.evaluated_on, "split": self.evaluated_split},
            "metrics": metrics,
        }
        names = {"license_name": self.license_name, "license_link": self.license_link}
        return {
            "library_name": "consistency-lens",
            "license": self.license,
            **{key: value for key, value in names.items() if value},
            "tags": ["consistency-lens", "interpretability", f"{self.family}-lens", *self.tags],
            **({"base_model": self.base_model, "base_model_relation": self.relation} if self.base_model else {}),
            **({"datasets": list(self.datasets)} if self.datasets else {}),
            **({"model-index": [{"name": self.name, "results": [results]}]} if metrics else {}),
        }

    def mapping(self) -> dict[str, Any]:
        """Every field under its own name, and `metadata`: what the template may use."""
        return {"metadata": self.metadata} | {f.name: self.__dict__[f.name] for f in fields(self)}


def _cell(value: Any) -> str:
    """Foreign words in a Markdown line or table cell: shown as they are, never as markup, links or our own markers."""
    text = re.sub(r"\s+", " ", str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", text)


def _groups(rows: Sequence[Any], name: str) -> list[tuple[Any, list[Any]]]:
    """Neighbours that have an attribute in common; jinja's own `groupby` sorts."""
    return [(key, list(members)) for key, members in groupby(rows, key=attrgetter(name))]


def _tail(text: str, words: int = 24) -> str:
    """The end of a text, with a mark where something is left out."""
    kept = text.split()[-words:]
    return ("" if len(text.split()) <= words else "… ") + " ".join(kept)


def _yaml(value: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(value))  # tuples become lists, and anything that YAML would tag is refused
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=10**6).rstrip("\n")


def _interval(number: Measured) -> str:
    """The number and its interval to the same decimals, on one line."""
    if number.low is None or number.high is None:
        return _number(number.value)
    ends = (number.value, number.low, number.high)
    value, low, high = (_number(x, *ends) for x in ends)
    return f"{value} [{low}, {high}]".replace(" ", "\N{NO-BREAK SPACE}")


def _number(value: float, *beside: float) -> str:
    """Three decimals, which is what an interval over some hundred documents carries; where all are small, two digits.

    Args:
        value: to be shown.
        beside: what it is shown with.
    """
    largest = max(abs(x) for x in (value, *beside))
    if largest >= 100:
        return f"{value:.3g}"
    decimals = 3 if largest >= 0.01 or largest < 1e-6 else 1 - math.floor(math.log10(largest))
    return f"{value:.{decimals}f}"


def _fenced(text: str, language: str = "") -> str:
    """A code block that holds whatever is in the text: a longer fence than any inside, and none of our markers."""
    text = str(text)  # raises where the facts lack it
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    body = text.strip("\n").replace("<!-- ", "<!- ")
    return f"{fence}{language}\n{body}\n{fence}"


def literal(text: str) -> str:
    """A Python string that no Markdown, and none of the card's markers, can come out of."""
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted.replace("`", "\\u0060").replace("<", "\\u003c").replace("\x7f", "\\u007f")


def render_card(template_text: str, facts: Mapping[str, Any]) -> str:
    """Fills a template; a name that the facts do not have raises `jinja2.UndefinedError`."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(cell=_cell, yaml=_yaml, interval=_interval, count="{:,}".format)
    environment.filters.update(number=_number, fenced=_fenced, tail=_tail, groupby_in_order=_groups, literal=literal)
    return environment.from_string(template_text).render(facts)


def model_card(facts: CardFacts) -> str:
    """The card of a lens of whatever family."""
    return render_card(model_card_template(), facts.mapping())


def model_card_template() -> str:
    """The template for every family: at top level in the sources, inside the package once installed."""
    return Path(__file__).with_name("model_card_template.md").read_text("utf-8")


def readdress(card: str, repo_id: str) -> str:
    """The card with this id in its snippet: the name of a folder means nothing on another machine."""

    def addressed(found: re.Match[str]) -> str:
        loads = LOADS.get(found["name"])
        return loads.sub(lambda call: f'{call[1]}"{repo_id}"', found[0]) if loads else found[0]

    return SECTION.sub(addressed, card)


def _split(card: str) -> tuple[str, str]:
    """Front matter without its fences, and the rest."""
    found = FRONT_MATTER.match(card)
    return (found["yaml"], card[found.end() :]) if found else ("", card)


def _keys(front_matter: str) -> list[tuple[str, str]]:
    """Top-level key -> its lines as they are written, with the comments above it; '' for what belongs to no key."""
    chunks, waiting = [("", "")], ""
    for line in front_matter.splitlines(keepends=True):
        if found := TOP_LEVEL_KEY.match(line):
            chunks.append((found["key"].strip(), waiting + line))
        elif line.startswith("#") or not line.strip():
            waiting += line
            continue
        else:
            chunks[-1] = (chunks[-1][0], chunks[-1][1] + waiting + line)
        waiting = ""
    return [*chunks, ("", waiting)]


def _merge_metadata(new: str, existing: str) -> str:
    ours = {key for key, _ in _keys(new)} | ALWAYS_OURS
    return new + "".join(lines for key, lines in _keys(existing) if key not in ours)


def _merge_body(new: str, existing: str) -> str:
    sections = {found["name"]: found[0] for found in SECTION.finditer(new)}
    placed: set[str] = set()

    def place(found: re.Match[str]) -> str:
        name = found["name"]
        if name in placed or name not in sections:  # a copy, or a claim that we no longer make
            return ""
        placed.add(name)
        return sections[name]

    body = SECTION.sub(place, existing)
    before: str | None = None
    for name, text in sections.items():  # a new section goes behind the one it follows in the new card
        if name not in placed:
            if before is not None:
                body = body.replace(sections[before], f"{sections[before]}\n\n{text}", 1)
            elif placed:
                first = next(found[0] for found in SECTION.finditer(body))
                body = body.replace(first, f"{text}\n\n{first}", 1)
            else:
                body += f"{'' if body.endswith(chr(10)) else chr(10)}\n{text}\n"
            placed.add(name)
        before = name
    return body


def merge_card(new: str, existing: str | None) -> str:
    """`new` with all that a person has added to `existing`: words outside the markers, and metadata of their own."""
    if not existing or not existing.strip():
        return new
    (new_metadata, new_body), (metadata, body) = _split(new), _split(existing)
    merged = _merge_metadata(new_metadata, metadata)
    fenced = f"---\n{merged}{'' if merged.endswith(chr(10)) else chr(10)}---\n" if merged else ""
    return fenced + _merge_body(new_body, body)


def write_card(
    folder: str | os.PathLike[str], card: str, name: str = "README.md", earlier: Path | None = None
) -> Path:
    """Merges the card with the one in the folder and swaps it in at once: a reader sees the old one or the new one.

    Args:
        folder: where it goes.
        card: the new one.
        name: of the file.
        earlier: a card whose hand-written words a folder without one begins with.
    """
    path = Path(folder) / name
    old = next((file for file in (path, earlier) if file is not None and file.exists()), None)
    # A byte that is no UTF-8 is somebody's, too.
    existing = old.read_bytes().decode("utf-8", "surrogateescape") if old is not None else None
    part = path.with_name(f".{name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(merge_card(card, existing).encode("utf-8", "surrogateescape"))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
