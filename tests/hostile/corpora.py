"""Corpora that nobody would write on purpose, in files of every kind, read as an extraction reads them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as parquet
from extracting import RARE, extraction_of, random_texts
from tiny import shared_lm

from consistency_lens.activations import Activations, Corpus, CorpusArguments

from .mutations import VALUES, spoil_bytes

TEXTS: list[Any] = [
    *["", " ", "\n", "\t" * 50, "\x00", "\x00 w1 w2", "\ufeffw1 w2 w3", "\u202ew1", "\ud800 w1", "\ufffe", "🙂" * 30],
    *["<bos> w1 w2 <eos> w3", "<pad> " * 20, "<unk>", f"{RARE} " * 9, "w1" * 3000, "w1 " * 3000, "\r\nw1\r\nw2\r"],
    *["<script>alert(1)</script>", "{{7*7}}", "../../etc/passwd", "[bold]w1[/bold]", "| a | b |", "```\nw1\n```", '"'],
]
NAMES = ["texts", "part[1]", "a b", "*", "?", "ü", "-x", "a::b", "{x}", "%20", "x" * 200, "~", "#1"]


def corpus(folder: Path, random: Random) -> str:
    """Rows are extracted from it, one for every document that is long enough; or it is refused."""
    texts: list[Any] = [
        random.choice([*random_texts(8, random.randrange(99)), *TEXTS]) for _ in range(random.randrange(12))
    ]
    texts = [*texts, *random_texts(2, random.randrange(99), shortest=12)] if random.random() < 0.7 else texts
    if random.random() < 0.2:
        texts[random.randrange(len(texts) + 1) :] = [
            random.choice([*VALUES[:20], None, ["w1"], {"text": "w1"}, b"w1"])
        ]
    kind = random.choice(["txt", "jsonl", "json", "csv", "parquet", "arrow"])
    path = folder / f"{random.choice(NAMES)}.{kind}"
    column = random.choice(["text", "text", "text", "", "texts", "doc_id", "\u202etext"])
    try:
        _write(path, kind, column, texts, random)
    except (ValueError, TypeError, OSError, OverflowError, pa.ArrowException):  # of this kind there is no such file
        path.write_bytes(random.randbytes(200))
    if random.random() < 0.3:
        spoil_bytes(path, random)
    done = f"{path.name}: {texts!r}"[:1000]
    given = CorpusArguments(
        train_file=[str(path)],
        streaming=random.random() < 0.3,
        sample_by=random.choice(["line", "paragraph", "document"]),
    )
    extraction = extraction_of(
        Corpus.load(given), folder / "rows", min_position=random.choice([1, 4]), continuation_length=2
    )
    extraction.open()
    found = Activations.load(extraction.run(shared_lm("llama")))
    rows = [row for split in found.splits.values() for row in split.remove_columns(list(found.sites)).to_list()]
    assert rows and len({(row["doc_id"], row["position"]) for row in rows}) == len(rows)
    return done


def _write(path: Path, kind: str, column: str, texts: list[Any], random: Random) -> None:
    match kind:
        case "txt":
            joint = random.choice(["\n", "\r\n", "\n\n", "\x85", "\u2028"])
            encoding = random.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"])
            path.write_bytes(joint.join(map(str, texts)).encode(encoding, "replace"))
        case "jsonl" | "json":
            rows = [{column: text} for text in texts]
            joint = "".join(json.dumps(row) + "\n" for row in rows) if kind == "jsonl" else json.dumps(rows)
            path.write_text(joint, "utf-8")
        case "csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, lineterminator=random.choice(["\n", "\r\n"])).writerows(
                    [[column], *([text] for text in texts)]
                )
        case "parquet":
            parquet.write_table(pa.table({column: texts}), path)
        case "arrow":
            feather.write_feather(pa.table({column: texts}), str(path))
