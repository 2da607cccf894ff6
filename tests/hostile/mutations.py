"""How a record or a file is spoiled: by values of other kinds and sizes, by fields that go or come, by bytes."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

DEEP = "[" * 100_000 + "]" * 100_000
VALUES: list[Any] = [
    *[
        None,
        True,
        False,
        0,
        1,
        -1,
        0.5,
        -5.0,
        7,
        96,
        255,
        10**4,
        10**6,
        10**9,
        -(10**9),
        2**31,
        2**63,
        10**30,
        10**400,
    ],
    *[float("nan"), float("inf"), -float("inf"), 1e-300],
    *["", "1", "1e9", "nan", "x" * 300, "x" * 100_000, "\x00", "a\nb", "\u202e", "<script>", "{{7*7}}", "[bold]x"],
    *["../../etc/passwd", "resid_post.1", "resid_post.9999", "embed", "commit:main", "someone/model", "bfloat16"],
    *["float13", "full", "lora", "projections", "residual", "llama", "gpt2", "bert", "no_such_architecture"],
    *[[], {}, [[]], [None], [-1], ["x"], [0, 0], [10**9], list(range(50_000)), [1] * 100_001],
    *[{"a": 1}, {"model_type": "llama"}, {"": {}}, {"sites": 3}],
]
# Names of fields that mean something to whoever builds objects of records.
NAMES = [
    *["origin", "weight_files", "require_subject", "kind_of", "auto_map", "quantization_config", "_name_or_path"],
    *["__class__", "__init__", "save_pretrained", "from_pretrained", "attribute_map", "trust_remote_code", "more"],
    *["", "a.b", "x" * 500, "model_type", "num_hidden_layers", "vocab_size", "dtype", "torch_dtype"],
]


def spoiled(value: Any, random: Random) -> Any:
    """A copy of a record in which one thing is otherwise, anywhere in it."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        name = random.choice(list(value))
        match random.random():
            case roll if roll < 0.12:
                return {other: kept for other, kept in value.items() if other != name}
            case roll if roll < 0.24:
                return value | {random.choice(NAMES): random.choice(VALUES)}
            case roll if roll < 0.30:
                return value | {name: value[random.choice(list(value))]}
        return value | {name: spoiled(value[name], random)}
    if isinstance(value, list) and value and random.random() < 0.5:
        at = random.randrange(len(value))
        return [*value[:at], spoiled(value[at], random), *value[at + 1 :]]
    return random.choice(VALUES)


def spoil_json(path: Path, random: Random) -> str:
    """Spoil one to three things in a JSON file; returns what it then holds, in short."""
    found = json.loads(path.read_text("utf-8"))
    for _ in range(random.choice([1, 1, 2, 3])):
        found = spoiled(found, random)
    text = json.dumps(found)
    if random.random() < 0.02:
        text = text.replace("1", DEEP, 1)
    path.write_text(text, "utf-8")
    return f"{path.name}: {text[:2000]}"


def spoil_bytes(path: Path, random: Random) -> str:
    """Cut a file off, or change, drop or double some of its bytes."""
    data = bytearray(path.read_bytes())
    how = random.choice(["cut", "empty", "flip", "flip", "drop", "double", "header"])
    at = random.randrange(len(data) + 1)
    match how:
        case "cut":
            del data[at:]
        case "empty":
            data.clear()
        case "flip":
            for _ in range(random.choice([1, 4, 64])):
                if data:
                    data[random.randrange(len(data))] = random.randrange(256)
        case "drop":
            del data[at : at + random.choice([1, 8, 100])]
        case "double":
            data[at:at] = data[at : at + 100]
        case "header":
            data[: len(data[:12])] = bytes(random.randrange(256) for _ in data[:12])
    path.write_bytes(data)
    return f"{path.name}: {how} at {at} of {len(data)}"
