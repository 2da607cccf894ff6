"""What must not leave this machine: paths of it, whoever works on it, and tokens, in files that are about to be sent.

Every kind of file is looked into as far as its fields can be named. A path counts where it lies on this machine; under
a field that names places, such as `_name_or_path`, every absolute path does.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PATH = re.compile(r"(?<![\w/.~-])(?:/[\w.+@=~-]+){2,}|\b[A-Za-z]:\\{1,2}(?:[^\\/:*?\"<>|\s]+\\{1,2})+")
_PLACE = re.compile(r"(?:path|dir|file|folder|checkpoint)$")
_TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{30,}\b")
# What every machine has.
_EVERYWHERE = {"bin", "boot", "dev", "etc", "lib", "lib64", "proc", "run", "sbin", "sys", "usr"}
_LARGE = 1 << 26  # bytes; of a larger file no more is read than what describes it
_WORDS = (".json", ".md", ".txt", ".yaml", ".yml", ".jinja", ".py", ".css", ".js", ".toml", ".csv", ".jsonl")
_SHOWN = 60


@dataclass(frozen=True)
class Leak:
    """
    Args:
        file, field: where it stands.
        what: what stands there, for people; a token is not shown.
    """

    file: str
    field: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.field} holds {self.what}"


def _homes() -> tuple[str, ...]:
    """A root is nobody's home, though a container may call it one: every path begins there."""
    places = map(Path, (os.path.expanduser("~"), os.getcwd()))
    return tuple(str(place) for place in places if place.is_absolute() and place != Path(place.anchor))


def _user() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # nobody has a name in this container
        return ""
    return name if len(name) > 2 else ""


@dataclass(frozen=True)
class Watch:
    """What to look for.

    Args:
        secrets: tokens in use.
        homes: folders whose every path is this machine's.
        user, host: who works here, and what the machine is called.
    """

    secrets: tuple[str, ...] = ()
    homes: tuple[str, ...] = field(default_factory=_homes)
    user: str = field(default_factory=_user)
    host: str = field(default_factory=socket.gethostname)

    def seen_in(self, text: str, is_place: bool = False) -> str:
        """What of it a text holds, for people; empty where it holds nothing of the kind."""
        if _TOKEN.search(text) or any(secret in text for secret in self.secrets):
            return "a token"
        if "/" in text or "\\" in text:
            if is_place and (Path(text).is_absolute() or re.match(r"[A-Za-z]:[\\/]", text)):
                return f"the place of something on a machine, {text[:_SHOWN]!r}"
            for found in _PATH.finditer(text):
                if self.is_here(found[0]):
                    return f"a path of this machine, {found[0][:_SHOWN]!r}"
        if self.user and re.search(rf"(\\Users\\+|/(home|Users)/){re.escape(self.user)}\b", text):
            return "the name of who works on this machine"
        if self.user and self.host and f"{self.user}@{self.host}" in text:
            return "the name of who works on this machine"
        return ""

    def is_here(self, path: str) -> bool:
        """Whether such a path leads to something on this machine, or has lately."""
        path = path.rstrip(".")
        if any(path == home or path.startswith(home.rstrip("/\\") + os.sep) for home in self.homes):
            return True
        parts = path.split("/")
        if len(parts) < 3 or parts[1] in _EVERYWHERE or len(path) > 4000:
            return False
        return os.path.lexists(path) or (len(parts) > 3 and os.path.isdir(os.path.dirname(path)))


def find(files: Mapping[str, Path], watch: Watch) -> Leak | None:
    """The first leak in these files, by their names where they are going.

    Args:
        files: name -> file.
        watch: what to look for.
    """
    for name, path in files.items():
        for where, text in _texts(name, path):
            if what := watch.seen_in(text, bool(_PLACE.search(where))):
                return Leak(name, where, what)
    return None


def _texts(name: str, path: Path) -> Iterator[tuple[str, str]]:
    """Field and text of all that a file says."""
    yield "its name", name
    suffix, size = path.suffix or Path(name).suffix, path.stat().st_size
    if suffix == ".safetensors":
        yield from _header(path, size)
    elif suffix == ".parquet":
        yield from _columns(path, size)
    elif suffix == ".json" and size <= _LARGE:
        yield from _json(path)
    elif size <= _LARGE or suffix in _WORDS:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield f"line {number}", line.decode("utf-8", "replace")


def _json(path: Path) -> Iterator[tuple[str, str]]:
    text = path.read_bytes().decode("utf-8", "replace")
    try:
        yield from _strings(json.loads(text))
    except (ValueError, RecursionError):
        yield from ((f"line {number}", line) for number, line in enumerate(text.splitlines(), 1))


def _strings(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """The texts in a record, names of fields too. Of a long list one field is as good as another."""
    match value:
        case str():
            yield where, value
        case dict():
            for name, inner in value.items():
                yield f"a name in {where or 'it'}", name
                yield from _strings(inner, f"{where}.{name}" if where else name)
        case list():
            for i, inner in enumerate(value):
                yield from _strings(inner, f"{where}[{i}]")


def _header(path: Path, size: int) -> Iterator[tuple[str, str]]:
    """What a file of tensors says beside them."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size, _LARGE):
            return
        text = file.read(length).decode("utf-8", "replace")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        yield "its header", text
        return
    if isinstance(found, dict):
        yield from (("the name of a tensor", name) for name in found)
        yield from _strings(found.get("__metadata__"), "__metadata__")


def _columns(path: Path, size: int) -> Iterator[tuple[str, str]]:
    """Texts of a table, also those inside lists and records."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as table:
            for name, value in (table.schema_arrow.metadata or {}).items():
                yield f"its metadata {name.decode('utf-8', 'replace')}", value.decode("utf-8", "replace")
            if size > _LARGE:
                return
            for batch in table.iter_batches():
                for name, column in zip(batch.schema.names, batch.columns, strict=True):
                    yield from ((f"column {name}", text) for text in _texts_of(column))
    except (pa.ArrowException, OSError, ValueError):
        yield "its bytes", path.read_bytes()[:_LARGE].decode("utf-8", "replace")


def _texts_of(column: Any) -> Iterable[str]:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield from (text for text in column.to_pylist() if text)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _texts_of(column.flatten())
    elif pa.types.is_struct(kind):
        for part in column.flatten():
            yield from _texts_of(part)
