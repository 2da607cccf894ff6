"""What the spine knows for a card: what a lens is, how it was trained, what that took, and how to use it."""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field, fields, replace
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments

from ...card import CardFacts, Measured, literal, model_card, write_card, write_results
from ...files import write_whole
from ...frozen import Provenance
from ...frozen.loading.licence import licence_of, licence_of_local
from ...frozen.loading.source import commit_of
from ...schema import flag, many, named, no_other, number, plain, read_json, record, text, whole
from ..arguments import LensTrainingArguments
from ..configuration import LensConfig
from ..family_card import WATCHED
from ..watching.cost import Cost

if TYPE_CHECKING:
    from ..lens import Lens

RECORD, CARD = "training.json", "README.md"
OWN_SUBJECT = re.compile(r"(subject|pages)-[0-9a-f]{16}")  # what the package calls models that it trains itself
LENGTHS = range(16, 64)  # tokens of a text for the snippet
SHOWN = 9  # rows of the history
CITATION = """@software{consistency_lens,
  title   = {Consistency Lens: read an LLM's mind in words},
  author  = {{The consistency_lens developers}},
  year    = {2026},
  license = {Apache-2.0},
}"""


_NAME = text(longest=1000)


def _corpus_kind(value: Any, where: str) -> None:
    """Nothing, of rows that say nothing of their texts; or at least what these are called."""
    record({"corpus": _NAME} if value else {})(value, where)


_STORED = record(
    {
        "name": _NAME,
        "cost": record(
            {},
            {
                **dict.fromkeys(["seconds", "judging"], number(0)),
                **dict.fromkeys(["rows", "tokens", "peak_memory", "skipped", "sessions"], whole()),
                **dict.fromkeys(["threads", "processes"], whole(1)),
                **dict.fromkeys(["kind", "device"], _NAME),
                "partial": flag,
            },
            rest=no_other,
        ),
        "counts": named(many(whole(), most=2, least=2)),
    },
    {
        "step": whole(),
        "max_steps": whole(),
        "setup": named(plain),
        "settings": named(plain),
        "sizes": named(whole()),
        "history": many(record({"step": whole()}, rest=number())),
        "watched_rows": whole(),
        "corpus": _corpus_kind,
        "near_duplicates": named(whole()),
        "example": text(),
        "command": text(),
    },
)


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """How a lens came about. It lies beside the weights, so that a card can be written again from a lens alone.

    Args:
        name: of the lens: of its repository, or of its run.
        step, max_steps: how far it is.
        setup: name -> value, what matters most; `settings`: every knob of the family's training.
        sizes: part -> trained parameters.
        cost: what it took up to now.
        history: rows with `step` and what evaluations measured then.
        watched_rows: validation rows that they looked at.
        corpus: what the rows were made from, as the rows say; `counts`: split -> documents and rows.
        near_duplicates: split -> documents that nearly repeat one of another split.
        example: a held-out text.
        command: how it was started.
    """

    name: str
    step: int = 0
    max_steps: int = 0
    setup: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    history: list[dict[str, float]] = field(default_factory=list)
    watched_rows: int = 0
    corpus: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    near_duplicates: dict[str, int] = field(default_factory=dict)
    example: str = "The capital of France is"
    command: str = ""

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> TrainingRecord | None:
        """What lies beside the weights; None where nothing does."""
        path = Path(folder) / RECORD
        if not path.is_file():
            return None
        fix = f"Put back the {RECORD} that was saved with it, or take it away: the card then says less."
        stored = read_json(path, _STORED, "lens", str(folder), fix)
        known = {name: value for name, value in stored.items() if name in {f.name for f in fields(cls)}}
        counts = {split: (documents, rows) for split, (documents, rows) in known["counts"].items()}
        return cls(**known | {"cost": Cost.from_dict(known["cost"]), "counts": counts})

    def save(self, folder: str | os.PathLike[str]) -> None:
        write_whole(Path(folder) / RECORD, f"{json.dumps(asdict(self), indent=1, ensure_ascii=False)}\n".encode())

    def about(self, metadata: Mapping[str, Any]) -> TrainingRecord:
        """With what the rows say of themselves."""
        # Where all tokens are kept, a row is a token.
        of = {name: each.get("rows", each.get("tokens", 0)) for name, each in metadata.get("splits", {}).items()}
        counts = {name: (metadata["splits"][name]["documents"], rows) for name, rows in of.items()}
        near = {name: int(count) for name, count in metadata.get("near_duplicates", {}).items()}
        return replace(self, corpus=dict(metadata.get("corpus", {})), counts=counts, near_duplicates=near)


def example_of(rows: Iterable[Mapping[str, Any]], tokenizer: Any) -> str:
    """A text for the snippet: the first that is neither a few words nor a page, on one line."""
    ids: list[int] = []
    for row in islice(rows, 64):
        ids = [int(i) for i in row["input_ids"]]
        if len(ids) in LENGTHS:
            break
    return short_text(tokenizer.decode(ids[: LENGTHS.stop], skip_special_tokens=True))


def watched(
    logged: Sequence[Mapping[str, Any]], prefix: str = "eval_", names: Iterable[str] = WATCHED
) -> list[dict[str, float]]:
    """Of a log, the evaluations: one row per step, with the numbers that have a definition."""
    rows: dict[int, dict[str, float]] = {}
    for entry in logged:
        found = {name: float(entry[prefix + name]) for name in names if prefix + name in entry}
        if found:
            rows[int(entry["step"])] = {"step": int(entry["step"])} | found
    return [rows[step] for step in sorted(rows)]


def setup_of(args: LensTrainingArguments, max_steps: int) -> dict[str, Any]:
    """The settings that a reader looks for first."""
    batch, times = args.per_device_train_batch_size, args.gradient_accumulation_steps
    shares = f"{batch} activations" + (f" × {times} accumulated" if times > 1 else "")
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "as the weights are"
    return {
        "steps": f"{max_steps:,}",
        "batch": shares + (f" × {args.world_size} processes" if args.world_size > 1 else ""),
        "learning rate": f"{args.learning_rate:g}, {args.lr_scheduler_type.value}",
        "precision": precision,
        "seed": args.seed,
    }


def settings_of(args: LensTrainingArguments) -> dict[str, Any]:
    """Every knob that is ours, not transformers', as plain values."""
    theirs = {f.name for f in fields(TrainingArguments)}
    return {f.name: vars(args)[f.name] for f in fields(args) if f.name not in theirs}


def facts_of(config: LensConfig, record: TrainingRecord) -> CardFacts:
    """The card of a lens that has no report yet; one that has replaces what it measured."""
    origin, sites = config.origin, list(config.sites or [])
    from_hub = hub_id(origin)
    commit = commit_of(origin.weights)[0] or None
    licence = licence_of(from_hub, commit) if from_hub else licence_of_local(origin.model_id)
    if OWN_SUBJECT.fullmatch(origin.model_id):
        licence = replace(
            licence,
            id="apache-2.0",
            note="The package trained this frozen model itself, on stories that it makes up: its own licence holds.",
        )
    last = record.history[-1] if record.history else {}
    of_family = config.card
    known = of_family.watched
    numbers = [Measured(name=n, value=v, definition=known[n]) for n, v in last.items() if n in known]
    models = [each.model_id for each in config.origins.values()]
    return CardFacts(
        name=record.name.rpartition("/")[2],
        family=config.medium,
        summary=of_family.summary.format(
            subject=" and ".join(models), sites=" and ".join(sites), code=config.code_in_words
        ),
        partial=of_family.partial,
        stage=_stage(record),
        subject=", ".join(models),
        subject_revision=", ".join(each.weights for each in config.origins.values()),
        base_model=from_hub,
        relation=config.relation,
        sites=sites,
        code=config.code_in_words,
        sizes={name: _trained(name, count, config) for name, count in record.sizes.items() if count},
        usage=usage(record.name, config, record.example),
        primary="kl_recovered" if "kl_recovered" in last else next(iter(last.keys() - {"step"}), "kl_recovered"),
        numbers=numbers,
        evaluated_on=str(record.corpus.get("corpus", "its corpus")),
        evaluated_split="validation",
        evaluated_rows=record.watched_rows,
        training=record.setup,
        settings=record.settings,
        cost=record.cost.in_words() if record.cost.seconds else {},
        history=_thinned(record.history),
        command=record.command,
        corpus=_corpus(record),
        datasets=[str(record.corpus["corpus"])] if record.corpus.get("commit") else [],
        dataset_revision=record.corpus.get("commit"),
        counts=record.counts,
        near_duplicates=record.near_duplicates,
        license=licence.id,
        license_note=" ".join([licence.note, *_terms(config)]),
        license_name=licence.name,
        license_link=licence.link,
        citation=CITATION,
    )


def write_lens_card(folder: Path, config: LensConfig, record: TrainingRecord, earlier: Path | None = None) -> Path:
    """The record and the card of a lens without a report."""
    record.save(folder)
    return write_plain_card(folder, config, record, earlier)


def write_plain_card(folder: Path, config: LensConfig, record: TrainingRecord, earlier: Path | None = None) -> Path:
    write_results(folder, [])
    return write_card(folder, model_card(facts_of(config, record)), earlier=earlier)


def hub_id(origin: Provenance) -> str | None:
    """The frozen model's id on the Hub, if that is where it came from."""
    commit, _ = commit_of(origin.weights)
    return origin.model_id if commit not in ("", "None") else None


def usage(name: str, config: LensConfig, text: str) -> str:
    """A snippet that runs as it stands, where the lens lies in a folder of this name or in a repository."""
    # A frozen model from a folder has to be named; one of the Hub, or one that the package trains itself, is found.
    named = {name: literal(each.model_id) for name, each in config.origins.items() if not findable(each)}
    several = "{" + ", ".join(f"{literal(name)}: {each}" for name, each in named.items()) + "}"
    place = several if len(config.origins) > 1 else "".join(named.values())
    subject = f", subject={place}" if named else ""
    lines = textwrap.wrap(text, 90, drop_whitespace=False, break_long_words=False, break_on_hyphens=False) or [""]
    quoted = [literal(line) for line in lines]
    whole = quoted[0] if len(quoted) == 1 else "(\n" + "".join(f"    {line}\n" for line in quoted) + ")"
    return (
        "from consistency_lens import AutoLens\n\n"
        f"lens = AutoLens.from_pretrained({literal(name)}{subject})\n"
        f"text = {whole}\n"
        f"{config.card.usage}"
    )


def printed(lens: Lens, text: str) -> str:
    """What the snippet prints: its last lines are run, with this lens."""
    with redirect_stdout(StringIO()) as output:
        exec(lens.config.card.usage, {"lens": lens, "text": text})
    return output.getvalue().rstrip("\n")


def short_text(text: str) -> str:
    """On one line."""
    return " ".join(text.split())


def findable(origin: Provenance) -> bool:
    """Whether a lens's model can be loaded by its name alone: from the Hub, or trained by the package itself."""
    return hub_id(origin) is not None or bool(OWN_SUBJECT.fullmatch(origin.model_id))


def _trained(name: str, count: int, config: LensConfig) -> str:
    """What is in a part, and which model it started from, where that is none of the lens's."""
    origin = config.part_origins.get(name)
    begun = f", begun with layers of {origin.model_id} ({origin.weights})" if origin else ""
    return f"{_short(count)} trained parameters{begun}"


def _terms(config: LensConfig) -> list[str]:
    return [
        f"Its {name} holds layers of {origin.model_id} ({origin.weights}): look at the terms of that model, too."
        for name, origin in config.part_origins.items()
    ]


def _stage(record: TrainingRecord) -> str:
    how_far = f"at step {record.step:,} of {record.max_steps:,}" if record.max_steps else "trained elsewhere"
    return f"Without a report yet, {how_far}: the numbers below are those that training watched."


def _corpus(record: TrainingRecord) -> str:
    """Its name, and what else the rows say of it."""
    rest = [f"{key} {value}" for key, value in record.corpus.items() if key != "corpus" and value is not None]
    return f"Activations on {record.corpus['corpus']}: {', '.join(rest)}." if record.corpus else ""


def _thinned(history: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    """A few rows in even steps, the last among them; the columns that all of them have."""
    count = min(SHOWN, len(history))
    kept = [history[round((i + 1) * len(history) / count) - 1] for i in range(count)]
    common = [name for name in (kept[0] if kept else {}) if all(name in row for row in kept)]
    return [{name: row[name] for name in common} for row in kept]


def _short(count: int) -> str:
    size = float(count)
    for unit in ("", "K", "M"):
        if size < 1000:
            return f"{size:.3g}{unit}"
        size /= 1000
    return f"{size:.3g}B"
