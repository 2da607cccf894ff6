"""From wires to an answer: what a receiver says to a question about a text that it has not read.

Shapes: B rows, N soft tokens of the longest text, d hidden size of the receiver.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...activations.passages import context_of
from ...activations.passages.example import TASKS
from ...activations.passages.tokens import require_text
from ...errors import BadInput
from ...frozen import Decoding, Edit, FrozenLM, FrozenModels
from ..bytes.wire import Wire
from ..code import LatentCode
from ..data import collator_of
from .identity import identity_of
from .wire_file import split

if TYPE_CHECKING:
    from ..modeling import LatentWire


@dataclass(frozen=True)
class AnswerSettings:
    """How an answer is decoded. Greedily, where nothing else is said.

    Args:
        max_new_tokens: of an answer, at most.
        min_new_tokens: in so many first tokens the end of the text is not chosen.
        first_top_p: draw the first token of the likeliest ones that together have this probability; all others are
            the likeliest. None: the first one, too.
        first_temperature: the logits of the first token are divided by it before it is drawn; None as first_top_p.
        stop_at_line: end the answer where its line ends.
        seed: of the draw.
    """

    max_new_tokens: int = 32
    min_new_tokens: int = 0
    first_top_p: float | None = None
    first_temperature: float | None = None
    stop_at_line: bool = False
    seed: int = 0

    def of_length(self, longest: int) -> AnswerSettings:
        """The same for answers of at most so many tokens."""
        return replace(self, max_new_tokens=longest, min_new_tokens=min(self.min_new_tokens, longest))

    @property
    def in_words(self) -> str:
        """For whoever reads a figure that was measured so."""
        first = [
            f"{name} {value:g}"
            for name, value in (("top-p", self.first_top_p), ("temperature", self.first_temperature))
            if value is not None
        ]
        drawn = f"the first token drawn ({', '.join(first)}, seed {self.seed}), the others the likeliest ones"
        said = [drawn if first else "greedy"]
        if self.min_new_tokens:
            said.append(f"no end of the text in the first {self.min_new_tokens}")
        return ", ".join([*said, "ended where the line ends"] if self.stop_at_line else said)

    def decoding(self) -> Decoding:
        """As the frozen model takes it."""
        drawn: dict[str, Any] = {}
        if self.first_top_p is not None or self.first_temperature is not None:
            drawn = {"do_sample": True, "drawn_tokens": 1, "seed": self.seed}
            drawn["top_p"] = 1.0 if self.first_top_p is None else self.first_top_p
            drawn["temperature"] = 1.0 if self.first_temperature is None else self.first_temperature
        return Decoding(
            max_new_tokens=self.max_new_tokens,
            min_new_tokens=self.min_new_tokens,
            stop_strings=("\n",) if self.stop_at_line else (),
            **drawn,
        )


def answers(
    lens: LatentWire,
    texts: Sequence[Sequence[Wire]],
    questions: Sequence[str],
    receiver: str | None = None,
    task: str = "answer",
    settings: AnswerSettings | None = None,
    preamble: str | None = None,
) -> list[str]:
    """One answer for each text.

    Args:
        lens: with the receiver at hand; the others are not needed.
        texts: the wires of each, of this lens.
        questions: one for each text.
        receiver: the model that reads; default the only one.
        task: whose prompts the questions are.
        settings: of the decoding.
        preamble: text in front of the code, in the place of the configuration's.
    """
    model, edit, batch = prepared(lens, texts, questions, receiver, task, preamble)
    decoding = (settings or AnswerSettings()).decoding()
    with torch.no_grad():
        made = model.generate(context_of(batch["tokens"][model.name]), edit, decoding=decoding)
    return [text.strip() for text in made.texts(model.tokenizer)]


def prepared(
    lens: LatentWire,
    texts: Sequence[Sequence[Wire]],
    questions: Sequence[str],
    receiver: str | None = None,
    task: str = "answer",
    preamble: str | None = None,
) -> tuple[FrozenLM, Edit, dict[str, Any]]:
    """The model that reads, its soft tokens, and the prompts as a batch."""
    name = receiver_named(lens.config.names, receiver)
    if task not in TASKS:
        raise BadInput("task", task, f"Use one of {', '.join(TASKS)}.")
    if len(texts) != len(questions):
        raise BadInput("question", f"{len(questions)} of them", f"Give one for each of the {len(texts)} texts.")
    require_own(lens, texts)
    batch = prompt_batch(lens, questions, task, name, preamble)
    with torch.no_grad():
        return model_at_hand(lens, name), soft_tokens(lens, texts, name, task, batch["tokens"][name]["front"]), batch


def prompt_batch(
    lens: LatentWire, prompts: Sequence[str], task: str, receiver: str, preamble: str | None = None
) -> dict[str, Any]:
    """Prompts as a batch, for one model. What stands around them is what the configuration says, as in training; but a
    preamble that is given counts."""
    models = FrozenModels([model_at_hand(lens, receiver)])
    for prompt in prompts:
        require_text(prompt, "question")
    rows = [{"passage": ".", "prompt": prompt, "answers": ["."], "task": task, "ends": True} for prompt in prompts]
    return collator_of(lens.config, models, preamble)(rows)


def model_at_hand(lens: LatentWire, receiver: str) -> FrozenLM:
    """The model that reads; raise where the lens was loaded without it."""
    if lens.models is None or receiver not in lens.models:
        fix = "Load the lens with its models: AutoLens.from_pretrained(lens)."
        raise BadInput("receiver", receiver, fix, why="the model is not at hand")
    return lens.models[receiver]


def soft_tokens(lens: LatentWire, texts: Sequence[Sequence[Wire]], name: str, task: str, front: int) -> Edit:
    """What stands in the text's place: the windows of a text, one behind the other, and its task's soft token.

    Args:
        lens: whose adapter it is.
        texts: the wires of each.
        name: of the receiver.
        task: of the prompts.
        front: how many tokens stand in front of them all.
    """
    receiver, modes = lens.receiver(name), lens.config.modes or []
    mode: list[Tensor] = []
    if task in modes:
        mode = [receiver.mode_tokens(torch.tensor([modes.index(task)], device=lens.device))[0]]
    rows: list[Tensor] = []
    for wires in texts:
        code = LatentCode.of_wires(list(wires), lens.config)
        mask = code.mask.to(lens.device)
        rows.append(torch.cat([receiver(lens.whole(code.vectors.to(lens.device)), mask)[mask], *mode]))
    lengths = torch.tensor([len(row) for row in rows], device=lens.device)
    value = pad_sequence(rows, batch_first=True)
    mask = torch.arange(value.shape[1], device=lens.device) < lengths[:, None]
    return Edit("embed", value, front, "prepend", lm=name, mask=mask)


def one_text(wire: bytes | Wire | Sequence[Wire]) -> list[Wire]:
    """The wires of one text; raise where there are several texts."""
    if isinstance(wire, Wire):
        return [wire]
    if isinstance(wire, Sequence) and not isinstance(wire, str | bytes | bytearray | memoryview):
        for each in wire:
            if not isinstance(each, Wire):
                raise BadInput("wire", type(each).__name__, "Give the wires of one text, or its bytes.")
        return list(wire)
    if not isinstance(wire, bytes | bytearray | memoryview):
        raise BadInput("wire", wire, "Give bytes, such as those of `to_bytes` or of a file, or wires.")
    texts = split(wire)
    if len(texts) > 1:
        raise BadInput("wire", f"{len(texts)} texts", "Give the wire of one text.")
    return texts[0]


def receiver_named(names: Sequence[str], receiver: str | None) -> str:
    """The name of the model that reads; raise where several could, or none of that name can."""
    if receiver is None and len(names) == 1:
        return names[0]
    if receiver is None or receiver not in names:
        why = "the lens has several" if receiver is None else "the lens has no adapter for it"
        raise BadInput("receiver", receiver, f"Name one of {', '.join(names)}.", why=why)
    return receiver


def require_own(lens: LatentWire, texts: Sequence[Sequence[Wire]]) -> None:
    """Raise where there is nothing to read, or where another lens made it."""
    if not texts or not all(texts):
        raise BadInput("wire", [], "Give at least one wire for each text.")
    name = identity_of(lens.compressor)
    for wires in texts:
        for wire in wires:
            if wire.lens:  # a wire without the name of its lens is any lens's
                wire.require_lens(name)
            if wire.d_z not in lens.config.sizes:
                sizes = " or ".join(map(str, lens.config.sizes))
                fix = f"Read it with the lens that made it: this one has vectors of {sizes}."
                raise BadInput("wire", f"vectors of {wire.d_z} numbers", fix, why="another lens made this code")
