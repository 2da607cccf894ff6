"""`compress`, `answer` and `serve`: what `run_lens.py` does with a wire, and with no other lens."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.family_run import Command, Use
from ...errors import BadInput
from .options import WireUseOptions

if TYPE_CHECKING:
    from .wire_file import Texts


def compress(use: Use) -> None:
    """A file, or what comes on stdin, to a file of wires. None of the models is loaded."""
    from .sending import wires_of_text
    from .wire_file import write_wires

    given = options_of(use)
    place = use.word("file", "Name a text file, or - for stdin: run_lens.py compress FILE --lens L -o F.wire.")
    output = use.values["output"]
    if output is None:
        raise BadInput("output", None, "Say where to: -o F.wire.")
    texts = _texts(place, given.per_line)
    rate: dict[str, Any] = {
        "code_length": given.code_length,
        "window": given.window,
        "size": given.size,
        "bits": use.values["bits"] if "bits" in use.given else None,
        "ratio": use.values["ratio"] if "ratio" in use.given else None,
    }
    lens = use.lens()
    found = [wires_of_text(lens, text, **rate) for text in texts]
    size, plain = write_wires(output, found), sum(len(text.encode("utf-8")) for text in texts)
    wires = [wire for each in found for wire in each]
    use.say(
        f"{_counted(len(texts), 'text')} of {plain} bytes: {_counted(sum(wire.M for wire in wires), 'vector')} of "
        f"{wires[0].d_z} numbers at {wires[0].bits} bits in {_counted(len(wires), 'wire')}, {size} bytes in "
        f"{output}"
    )


def answer(use: Use) -> None:
    """A line on stdout for each text of the file. Only the receiver is loaded."""
    from .answering import answers, receiver_named, require_own

    given = options_of(use)
    example = 'run_lens.py answer F.wire --lens L --receiver R "question".'
    place, question = use.word("wire", f"Name a file of wires: {example}"), use.word("question", f"Ask: {example}")
    texts = _wires(place)
    receiver, settings = receiver_named(use.config.names, given.receiver), given.decoding(use.values["seed"])
    settings.decoding()  # raises where they cannot be
    preamble = use.values["preamble"] if "preamble" in use.given else None
    lens = use.lens()
    require_own(lens, texts)
    use.load_models(lens, [receiver])
    for wires in texts:
        (answered,) = answers(lens, [wires], [question], receiver, given.task, settings, preamble)
        sys.stdout.write(answered.replace("\n", " ") + "\n")


def serve(use: Use) -> None:
    """A server on loopback, until it is interrupted. Only the receivers that are named are loaded."""
    from .answering import receiver_named
    from .server import Limits, require_server, run

    given = options_of(use)
    require_server()
    names = use.config.names if given.receiver is None else [receiver_named(use.config.names, given.receiver)]
    lens, settings = use.lens(), given.decoding(use.values["seed"])
    settings.decoding()
    use.load_models(lens, names)
    run(lens, settings, Limits(given.largest_wire), given.port, use.say)


def options_of(use: Use) -> WireUseOptions:
    return WireUseOptions(**{f.name: use.values[f.name] for f in fields(WireUseOptions)})


def _texts(place: str, per_line: bool) -> list[str]:
    if place != "-" and not Path(place).is_file():
        raise BadInput("file", place, "Name a text file, or - for stdin.", why="there is none")
    data = sys.stdin.buffer.read() if place == "-" else Path(place).read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput("file", place, "Give a text in UTF-8.", why=str(error)) from error
    texts = [line for line in text.splitlines() if line.strip()] if per_line else [text]
    if not any(map(str.strip, texts)):
        raise BadInput("file", place, "Give a text: an empty one has no code.", why="nothing is in it")
    return texts


def _wires(place: str) -> Texts:
    from .wire_file import read_wires, split

    return split(sys.stdin.buffer.read()) if place == "-" else read_wires(place)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


USES = {
    "compress": Command("turn a text into a wire that models read in its place: FILE -o F.wire", compress, ("file",)),
    "answer": Command('ask a receiver about the text of a wire: F.wire "question"', answer, ("wire", "question")),
    "serve": Command("answer questions about wires on a port of this machine", serve),
}
