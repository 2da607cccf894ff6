"""Where activations and weights come from, and the one comparison that refuses to mix two origins."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ...errors import BadInput
from ...schema import many, named, one_of, record, text
from ...version import PROJECT, own_version
from ..sites import SITE

CONFIGURATION = "configuration"
_READ_SIZE = 1 << 24
_LARGE = 10**9  # bytes; hashing more takes a while, and says so

logger = logging.getLogger(__name__)


# What a record of an origin may hold. A name becomes part of a path, so it has no control characters, nor the length
# that no file system takes.
NAME = text(r"[^\x00-\x1f\x7f]{1,200}", "a name of 1 to 200 characters")
PROVENANCE = record(
    {
        "model_id": NAME,
        "weights": NAME,
        "tokenizer": NAME,
        "sites": many(SITE, most=4096, least=1),
        "dtype": one_of("float32", "bfloat16", "float16", "float64"),
    },
    {"quantization": NAME, "versions": named(NAME, most=64), "published": text(r"|[^\x00-\x1f\x7f]{1,200}")},
)


class ProvenanceMismatch(ValueError):
    """Two things that should come from the same model do not."""


def compare_fields(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], names: Sequence[str], must_match: Iterable[str]
) -> str | None:
    """A table of both sides, field by field, when a field that must match does not; else None.

    Of a model's configuration only what both sides name has to match, and only what differs is shown: older records
    have none, and other versions of transformers know other fields.
    """
    must_match = set(must_match)
    (ours, one), (theirs, other) = (_parted(side) for side in (ours, theirs))
    changed = [key for key in one if key in other and one[key] != other[key]] if CONFIGURATION in must_match else []
    ours |= {f"{CONFIGURATION}.{key}": one[key] for key in changed}
    theirs |= {f"{CONFIGURATION}.{key}": other[key] for key in changed}
    must_match |= {f"{CONFIGURATION}.{key}" for key in changed}
    differing = [key for key in must_match if ours.get(key) != theirs.get(key)]
    if not differing:
        return None
    keys = list(dict.fromkeys([*ours, *theirs]))
    cells = [("", "", *names)] + [
        ("!" if key in differing else "", key, *(_shown(side.get(key)) for side in (ours, theirs))) for key in keys
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join(lines)


def _parted(record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A record without the configuration in it, and that."""
    rest = dict(record)
    return rest, rest.pop(CONFIGURATION, {})


def _shown(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (dict, list, tuple)) else str(value)


@dataclass(frozen=True)
class Provenance:
    """What produced a set of activations, or what a lens was trained to read.

    Args:
        model_id: Hub id, or the name of a local folder.
        weights: `commit:...` for a model from the Hub, `sha256:...` over the weight files or tensors otherwise.
        tokenizer: hash of the vocabulary and of the rules that split text.
        sites: names of the resolved sites.
        dtype: dtype of the model that computed the activations.
        quantization: `none`, `8bit` or `4bit`, or the name of another method (`gptq`, `awq`, ...).
        versions: library versions; informative, never compared.
        configuration: what the model's configuration says that changes what it computes (`rope_theta`,
            `rms_norm_eps`, `hidden_act`, ...): the same weights are another function under another one.
        published: where the model lies on the Hub, as id@commit, if its id does not say so; never compared either.
    """

    model_id: str
    weights: str
    tokenizer: str
    sites: tuple[str, ...]
    dtype: str
    quantization: str = "none"
    versions: dict[str, str] = field(default_factory=dict)
    configuration: dict[str, Any] = field(default_factory=dict)
    published: str = ""

    # The folder's name may change and libraries move on; what was computed is settled by the rest.
    BINDING = ("weights", "tokenizer", "sites", "dtype", "quantization", CONFIGURATION)

    def to_dict(self) -> dict[str, Any]:
        record = asdict(self) | {"sites": list(self.sites)}
        return {key: value for key, value in record.items() if value or key not in (CONFIGURATION, "published")}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Provenance:
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in record.items() if k in known} | {"sites": tuple(record["sites"])})

    def at(self, *sites: str) -> Provenance:
        """The same origin narrowed to some of its sites."""
        missing = [site for site in sites if site not in self.sites]
        if missing:
            raise BadInput("site", missing[0], f"Use one of {', '.join(self.sites)}, or extract this site too.")
        return replace(self, sites=tuple(sites))

    def require_same(
        self, other: Provenance, ours: str = "this", theirs: str = "other", ignore: Iterable[str] = ()
    ) -> None:
        """Raise unless both come from the same model; `ignore` names the differences that are wanted.

        Raises:
            ProvenanceMismatch: with both sides in a table, the differing fields marked.
        """
        must_match = [name for name in self.BINDING if name not in set(ignore)]
        table = compare_fields(self.to_dict(), other.to_dict(), (ours, theirs), must_match)
        if table:
            raise ProvenanceMismatch(
                f"{ours} and {theirs} do not come from the same model (differing fields are marked !):\n{table}\n"
                f"Load the model that {theirs} names, or make {theirs} again with this one."
            )


def public_name(name: str) -> str:
    """A Hub id as it is, of a folder only its own name: a path of this machine must not reach a card."""
    folder = Path(name)
    return folder.resolve().name if folder.is_absolute() or folder.is_dir() else name


def library_versions() -> dict[str, str]:
    return versions_of("torch", "transformers", PROJECT)


def versions_of(*names: str) -> dict[str, str]:
    """Package -> version; a checkout that was never installed says so, and runs."""
    return {name: own_version() if name == PROJECT else version(name) for name in names}


def hash_files(paths: Iterable[Path]) -> str:
    """sha256 over names and contents."""
    paths = sorted(paths)
    size = sum(path.stat().st_size for path in paths)
    if size > _LARGE:
        names = ", ".join(path.name for path in paths[:2]) + (", ..." if len(paths) > 2 else "")
        logger.info("hashing %d files (%s), %.1f GB, to have a name for them", len(paths), names, size / 1e9)
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(_READ_SIZE):
                digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def hash_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 over vocabulary, special tokens and, for fast tokenizers, the rules; padding settings do not count."""
    parts: list[Any] = [sorted(tokenizer.get_vocab().items()), sorted(tokenizer.special_tokens_map.items())]
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        parts.append({key: rule for key, rule in rules.items() if key not in ("padding", "truncation", "model")})
        parts.append({key: rule for key, rule in rules["model"].items() if key != "vocab"})
    return f"sha256:{hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()}"
