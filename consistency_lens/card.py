"""Cards from facts: a template is filled with what was measured, then merged with what a person has written by hand.

The parts that we generate stand between markers and are replaced at each rewrite; all other text, and every metadata
key that the new card does not set, is kept byte for byte:

    <!-- generated: numbers -->
    ...
    <!-- /generated -->
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
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
TOP_LEVEL_KEY = re.compile(r"""(?P<quote>["']?)(?P<key>[^\s#"'\-\[\]{}][^\r\n"':]*)(?P=quote)[ \t]*:(?=\s)""")
# Metadata that must not outlive the measurement it came from, even when the new card has none to put in its place.
ALWAYS_OURS = {"model-index"}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One published number. Without a definition nothing is published."""

    name: str
    value: float
    low: float  # of the 95 % interval
    high: float
    definition: str


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One row of the sample table: what the subject had read, what the lens says about it, how well that served."""

    context: str
    text: str
    score: float


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """All that `model_card_template.md` may say about a lens. What is not here is not on the card.

    Args:
        name: title of the card and name of the model in the evaluation results.
        family: "text", "sparse" or "soft": the medium of the code, the one branch of the template.
        summary: one sentence: what the lens reads.
        subject: the frozen LLM, as id or name. `subject_revision`: its commit or the hash of its weights.
        base_model: the subject's id on the Hub; None for a subject that is not there.
        sites: where it reads, in numbers ("resid_post.20").
        code: the size of the code in words ("8 tokens").
        usage: a Python snippet that runs as it stands.
        primary: the name in `numbers` by which controls and samples are scored.
        content_blind: some text control came within 10 % of the score. Then the card's first line says so.
        numbers, controls, readability: fidelity; the same primary number for inputs that know nothing of the row; what
            survives shuffling, truncation and rewording.
        evaluated_on, evaluated_split, evaluated_documents: what the numbers were measured on.
        good, bad: explanations, best and worst by `primary`.
        plots: caption -> path in the repository.
        limits: what this lens gets wrong, in plain words, beyond what holds for every lens.
        training, cost: name -> value; the setup, and what it took (GPU hours, peak memory, tokens per second).
        command: how it was made.
        corpus, datasets, counts, near_duplicates: the data in words, as Hub ids, split -> (documents, rows), rows.
        license: the Hub's licence id. `license_note`: where it comes from.
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
    primary: str
    content_blind: bool
    numbers: Sequence[Measured]
    controls: Sequence[Measured]
    evaluated_on: str
    evaluated_split: str
    evaluated_documents: int
    training: Mapping[str, Any]
    cost: Mapping[str, Any]
    command: str
    corpus: str
    counts: Mapping[str, tuple[int, int]]
    license: str
    license_note: str
    citation: str
    near_duplicates: int | None = None
    base_model: str | None = None
    datasets: Sequence[str] = ()
    readability: Sequence[Measured] = ()
    good: Sequence[Explanation] = ()
    bad: Sequence[Explanation] = ()
    plots: Mapping[str, str] = field(default_factory=dict)
    limits: Sequence[str] = ()
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.primary not in {number.name for number in self.numbers}:
            raise ValueError(f"primary={self.primary!r} is none of the numbers: {[n.name for n in self.numbers]}")

    @property
    def metadata(self) -> dict[str, Any]:
        """The front matter: makes the Hub show base model, data sets and evaluation results."""
        metrics = [{"type": n.name, "name": n.name, "value": n.value} for n in self.numbers]
        results = {
            "task": {"type": "feature-extraction", "name": "Explaining activations"},
            "dataset": {"name": self.evaluated_on, "type": self.evaluated_on, "split": self.evaluated_split},
            "metrics": metrics,
        }
        return {
            "library_name": "consistency-lens",
            "license": self.license,
            "tags": ["consistency-lens", "interpretability", f"{self.family}-lens", *self.tags],
            **({"base_model": self.base_model, "base_model_relation": "adapter"} if self.base_model else {}),
            **({"datasets": list(self.datasets)} if self.datasets else {}),
            "model-index": [{"name": self.name, "results": [results]}],
        }

    def mapping(self) -> dict[str, Any]:
        """Every field under its own name, and `metadata`: what the template may use."""
        return {"metadata": self.metadata} | {f.name: self.__dict__[f.name] for f in fields(self)}


def _cell(value: Any) -> str:
    """Foreign words in a Markdown line or table cell: shown as they are, never as markup, links or our own markers."""
    text = re.sub(r"\s+", " ", str(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", text)


def _yaml(value: Mapping[str, Any]) -> str:
    plain = json.loads(json.dumps(value))  # tuples become lists, and anything that YAML would tag is refused
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=10**6).rstrip("\n")


def _interval(number: Measured) -> str:
    return f"{number.value:.3g} [{number.low:.3g}, {number.high:.3g}]"


def render_card(template_text: str, facts: Mapping[str, Any]) -> str:
    """Fills a template; a name that the facts do not have raises `jinja2.UndefinedError`."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(cell=_cell, yaml=_yaml, interval=_interval, count="{:,}".format)
    return environment.from_string(template_text).render(facts)


def model_card_template() -> str:
    """The template for every family: at top level in the sources, inside the package once installed."""
    return Path(__file__).with_name("model_card_template.md").read_text("utf-8")


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


def write_card(folder: str | os.PathLike[str], card: str, name: str = "README.md") -> Path:
    """Merges the card with the one in the folder and swaps it in at once: a reader sees the old one or the new one."""
    path = Path(folder) / name
    existing = path.read_bytes().decode("utf-8") if path.exists() else None
    part = path.with_name(f".{name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(merge_card(card, existing).encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
