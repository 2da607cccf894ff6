"""What a text may be before a model sees it, and texts to begin with."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from brought import brought_by, lies_in

from consistency_lens import BadInput, FrozenLM

LONGEST = 4000  # characters: what a link can carry
SHOWN = 60
LARGEST, MOST_ROWS = 1 << 26, 1 << 18  # bytes and rows of a table of samples
_FORBIDDEN = {"Cc", "Cs", "Co", "Cn"}
_BIDIRECTIONAL = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_MARKED = re.compile("[⟦⟧]")

STORIES = [
    "a child called finn woke up early one morning . the wagon of the child was red . there was some cheese in the "
    "basket . the clock struck three and the afternoon grew warm . nobody knew why the dark wall was so tall . "
    "somebody pushed the wagon , which was",
    "a child called clara woke up early one afternoon . a horse was the pet of the child . there was some cheese in "
    "the basket . that day the child was very happy . after four hours the child ate some cheese . nothing had "
    "changed and the kid was still happy . the pet , a",
    "once there was a child called hugo . the child was very sad that day . it was a warm summer and the thunder was "
    "cold . the clock struck three and the afternoon grew warm . nothing had changed and the child was still",
]
# Of the offline models that answer questions about notes: a note, an empty line, and what it is asked.
NOTES = [
    "tired clara cook cave sheep candy lime cap\n\nchild",
    "sheep oatmeal rosy cup confused mia farmer market\n\nthing",
    "bold hugo violet ball vixen corn grower harbour\n\npet",
]
SENTENCES = [
    "The capital of France is Paris, and the capital of Italy is",
    "She opened the door, saw the snow, and went back to fetch her",
    "Water boils at one hundred degrees, and it freezes at",
]


def checked(text: str, frozen: FrozenLM, field: str = "text") -> str:
    """The text as it may be shown to the frozen model; raise, in words for people, where it may not."""
    if not isinstance(text, str) or not text.strip():
        raise BadInput(field, text or "", "Write a few words.", "there is nothing to read")
    if len(text) > LONGEST:
        fix = f"Use at most {LONGEST:,} characters."
        raise BadInput(field, glimpse(text), fix, f"it has {len(text):,}")
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n"))
    odd = next(
        (c for c in text if (unicodedata.category(c) in _FORBIDDEN and c not in "\n\t") or c in _BIDIRECTIONAL), ""
    )
    if odd:
        name = f"U+{ord(odd):04X}"
        raise BadInput(field, glimpse(text), f"Take the character {name} out.", "it holds a control character")
    special = next((t for t in frozen.tokenizer.all_special_tokens if t in text), "")
    if special:
        why = f"{special} is a mark that the model's tokenizer keeps for itself"
        raise BadInput(field, glimpse(text), "Take it out: as a word it cannot be read.", why)
    ids = frozen.tokenizer(text)["input_ids"]
    if len(ids) > frozen.max_length:
        fix = f"The model reads at most {frozen.max_length:,} tokens: shorten it."
        raise BadInput(field, glimpse(text), fix, f"it has {len(ids):,} tokens")
    return text


def unknown_words(text: str, frozen: FrozenLM) -> list[str]:
    """Words that the frozen model's tokenizer has no token for, each once."""
    unknown = frozen.tokenizer.unk_token_id
    if unknown is None or unknown == frozen.tokenizer.eos_token_id:  # GPT-2's: it spells everything in bytes
        return []
    words = dict.fromkeys(text.split())
    return [word for word in words if unknown in frozen.tokenizer(word, add_special_tokens=False)["input_ids"]]


def examples(frozen: FrozenLM, folders: list[Path], count: int = 6) -> tuple[list[str], str]:
    """Texts to choose from, and what is wrong with those that there should be: stories or notes for offline models,
    else contexts that the run has kept, else sentences."""
    if frozen.model_id.startswith("subject-"):
        return STORIES, ""
    if frozen.model_id.startswith("reader-"):
        return NOTES, ""
    for folder in folders:
        path = folder / "samples.parquet"
        if not lies_in(path, folder):
            continue
        try:
            if found := kept(path)[:count]:
                return found, ""
        except BadInput as error:  # the page is worth having without them
            return SENTENCES, f"{error.field}: {error.why}. {error.fix}"
    return SENTENCES, ""


def kept(path: Path) -> list[str]:
    """The contexts of a table of samples, each once."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    with brought_by(path.parent, path.name, "Take that file away, or put the right one in its place."):
        try:
            table = parquet.ParquetFile(path, page_checksum_verification=True)
            described = table.metadata
            size = sum(described.row_group(i).total_byte_size for i in range(described.num_row_groups))
            if not (path.stat().st_size <= LARGEST and 0 <= size <= LARGEST and 0 <= described.num_rows <= MOST_ROWS):
                raise ValueError("it says that it is larger than any such table")
            texts = table.read(columns=["context"])["context"].to_pylist()
        except pa.ArrowException as error:
            raise ValueError(str(error)) from error
        found = [_MARKED.sub("", text) for text in dict.fromkeys(texts)]
        return [text for text in found if 0 < len(text) <= LONGEST]


def glimpse(text: str) -> str:
    """The beginning of it, on one line, with nothing in it that a terminal or a page would act upon."""
    plain = "".join(c if unicodedata.category(c)[0] != "C" else "·" for c in text[:SHOWN])
    return plain + ("…" if len(text) > SHOWN else "")
