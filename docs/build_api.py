"""The API reference, made from docstrings: every public name of `consistency_lens`, in the order of its rooms.

python docs/build_api.py            # writes docs/api.md
python docs/build_api.py --check    # says whether it is up to date
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import consistency_lens

PATH = Path(__file__).with_name("api.md")
SECTIONS = {
    "Lenses": ["AutoLens", "ConsistencyLens", "Steered", "LensDecoder", "LensEncoder", "ConsistencyLensConfig"],
    "Transcoders": [
        *["CrosslayerTranscoder", "CrosslayerTranscoderConfig"],
        *["CrosslayerTranscoderTrainer", "CrosslayerTranscoderArguments"],
    ],
    "Wires": ["LatentWire", "LatentWireConfig", "LatentWireTrainer", "LatentWireArguments", "Wire"],
    "A frozen LLM": [
        *["FrozenLM", "FrozenModels", "Prefix", "Site", "Edit", "Decoding", "Generated"],
        *["Provenance", "ProvenanceMismatch"],
    ],
    "Activations": [
        *["Corpus", "CorpusArguments", "ExtractArguments", "Extraction", "Activations", "ActivationCollator"],
        "CorruptShard",
    ],
    "Blocks and passages": ["BlockArguments", "BlockExtraction", "Blocks", "PassageArguments", "Passages"],
    "Training": ["ConsistencyLensTrainer", "ConsistencyLensArguments"],
    "Judging": ["evaluate_lens", "Report", "Fidelity", "rate_points", "RatePoint"],
    "For a family of your own": [
        *["LensModel", "LensConfig", "LensTrainer", "LensTrainingArguments"],
        *["LensView", "view_of"],
    ],
    "Errors": ["BadInput"],
}
OURS = "consistency_lens"
HEAD = """# API

Made from the docstrings by `python docs/build_api.py`: change it there. Everything here is imported from
`consistency_lens`.
"""


def build() -> str:
    """The page."""
    listed = [name for names in SECTIONS.values() for name in names]
    missing = sorted(set(consistency_lens.__all__) ^ set(listed))
    if missing:
        sys.exit(f"Public names and SECTIONS in docs/build_api.py differ in: {', '.join(missing)}")
    parts = [HEAD]
    for title, names in SECTIONS.items():
        links = " · ".join(f"[{name}](#{name.lower()})" for name in names)
        parts += [f"## {title}\n\n{links}\n", *(described(name) for name in names)]
    return "\n".join(parts)


def described(name: str) -> str:
    """One public name: signature, docstring, and for a class its own public methods."""
    thing = getattr(consistency_lens, name)
    lines = [f"### {name}\n", *_signature(name, thing), _words(thing)]
    if inspect.isclass(thing):
        lines += _fields(thing)
        for method_name, method in _methods(thing):
            head = [f"#### {name}.{method_name}\n", *_signature(f"{name}.{method_name}", method)]
            lines += [*head, _words(method, inherited_from=(thing, method_name))]
    return "\n".join(line for line in lines if line is not None)


def _signature(name: str, thing: Any) -> list[str]:
    if isinstance(thing, property) or (inspect.isclass(thing) and issubclass(thing, Exception)):
        return []
    if inspect.isclass(thing) and dataclasses.is_dataclass(thing) and len(dataclasses.fields(thing)) > 12:
        return []  # a page of fields; those of its own are listed below
    given = inspect.signature(thing)
    inner = [_parameter(p) for p in given.parameters.values() if p.name != "self"]
    line = f"{name}({', '.join(inner)})"
    if len(line) > 100:
        line = f"{name}(\n" + "".join(f"    {part},\n" for part in inner) + ")"
    returned = "" if given.return_annotation in (given.empty, None) else f" -> {_name(given.return_annotation)}"
    return [f"```text\n{line}{'' if inspect.isclass(thing) else returned}\n```\n"]


def _parameter(given: inspect.Parameter) -> str:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(given.kind, "")
    kind = "" if given.annotation is given.empty else f": {_name(given.annotation)}"
    shown = "..." if callable(given.default) else repr(given.default)  # a function's would change from run to run
    default = "" if given.default is given.empty else f" = {shown}"
    return f"{stars}{given.name}{kind}{default}"


def _name(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _words(thing: Any, inherited_from: tuple[type, str] | None = None) -> str:
    """The docstring, its `Args:` and `Returns:` as lists; an override without one says what it overrides says."""
    said = inspect.getdoc(thing) or ""
    if inspect.isclass(thing) and "Args:" not in said:  # those of the frame that it fills
        frames = [inspect.getdoc(each) or "" for each in _own(thing)[1:] if "__init__" in vars(each)]
        said += "".join(f"\n\n{frame[frame.index('Args:') :]}" for frame in frames[:1] if "Args:" in frame)
    if not said and inherited_from is not None:
        bases, name = inherited_from[0].__mro__, inherited_from[1]
        said = next(
            (inspect.getdoc(vars(c)[name]) or "" for c in bases if name in vars(c) and vars(c)[name].__doc__), ""
        )
    lines: list[str] = []
    inside = ""
    for line in said.splitlines():
        section = re.fullmatch(r"(Args|Returns|Raises):", line.strip())
        if section and not line.startswith(" "):
            inside = section[1]
            lines += ["" if lines and lines[-1] else None, f"**{inside}**", ""]
        elif inside and line.startswith("    "):
            entry = re.match(r"    ([\w*`, ]+(?: \(.+?\))?): (.*)", line)
            own = inside == "Args" and entry and not line.startswith("     ")
            if own and entry:
                lines.append(f"- `{entry[1]}`: {entry[2]}")
            else:
                lines.append(f"  {line.strip()}" if inside == "Args" else line.strip())
        else:
            inside = "" if line.strip() else inside
            lines.append(line)
    return "\n".join(line for line in lines if line is not None).strip() + "\n"


def _own(thing: type) -> list[type]:
    """A class with those that it is put together from and that have no entry here, nor has a class of theirs."""
    above = thing.__mro__[1:]
    listed = [each for each in above if each.__name__ in consistency_lens.__all__]
    parts = [each for each in above if each.__module__.startswith(_PARTS)]
    return [thing, *(each for each in parts if not any(issubclass(other, each) for other in listed))]


def _fields(thing: type) -> list[str]:
    """Fields of its own that carry a help text, as on the command line."""
    if not dataclasses.is_dataclass(thing):
        return []
    own = {name for each in _own(thing) for name in inspect.get_annotations(each)}
    rows = [
        f"| `{f.name}` | `{f.default if f.default is not dataclasses.MISSING else ''}` | {f.metadata['help']} |"
        for f in dataclasses.fields(thing)
        if f.name in own and "help" in f.metadata
    ]
    return ["| field | default | |\n|---|---|---|", *rows, ""] if rows else []


def _methods(thing: type) -> list[tuple[str, Any]]:
    """What the class itself defines, with a docstring of its own; inherited ones that are ours for whole lenses."""
    found: dict[str, Any] = {}
    for base in reversed([c for c in thing.__mro__ if c.__module__.startswith(OURS)]):
        for name, value in vars(base).items():
            plain = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
            public = not name.startswith("_") and (inspect.isfunction(plain) or isinstance(value, property))
            if public and (name in _FOR_USERS or (base in _own(thing) and plain.__doc__)):
                found[name] = value if isinstance(value, property) else inspect.getattr_static(thing, name)
    found = {
        name: value.__get__(None, thing) if isinstance(value, (classmethod, staticmethod)) else value
        for name, value in found.items()
    }
    return list(found.items())


_ROOMS = (
    *("activations.", "frozen.", "base.lens", "base.explaining"),
    *("text.use.steering", "text.parts.two_parts", "sparse.transcoder"),
)
_PARTS = tuple(f"{OURS}.{room}" for room in _ROOMS)
_FOR_USERS = ("explain", "compress", "restore", "reread", "save_pretrained", "from_pretrained", "push_to_hub")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the page would change")
    check = parser.parse_args().check
    page = build()
    if check:
        fresh = PATH.is_file() and PATH.read_text("utf-8") == page
        print("docs/api.md is up to date" if fresh else "docs/api.md is out of date: run python docs/build_api.py")
        return 0 if fresh else 1
    part = PATH.with_suffix(".part")
    part.write_text(page, "utf-8")
    part.replace(PATH)
    return 0


if __name__ == "__main__":
    sys.exit(main())
