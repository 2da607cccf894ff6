"""What the explorer shows of a wire: what each vector of a code stands for, and what every model answers from it.

Shapes: M vectors of the code, d_z size of a vector, d hidden size of a model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ..activations.passages import context_of
from ..base.comparing import WholePass, beside, likeliest
from ..base.viewing import Bars, Choice, Control, Field, Figures, Grid, LensView, Near, Part, Slider, Switches, nats
from ..errors import BadInput
from ..frozen import FrozenLM, FrozenModels
from ..objectives import kl_of
from .bytes.quantising import BITS
from .bytes.text_bytes import text_bytes
from .bytes.wire import Wire
from .code import LatentCode
from .data import collator_of, prompts_of
from .modeling import LatentWire
from .parts.windows import window_of
from .serving.identity import identity_of

TOP = 6  # likeliest tokens
WORDS = 3  # that are nearest to a vector
ANSWERED = 16  # tokens
LARGEST_RATIO, STEP = 16.0, 0.25  # tokens for each slot
QUESTION = "What is this about?"
_PART = 8192  # words of a vocabulary at a time


@dataclass(frozen=True)
class Question:
    """A prompt about a passage, tokenised for every model, and the code of the passage at the lens's own rate.

    Args:
        passage: what is compressed.
        task: which decides the text around the prompt.
        prompt: what every model reads behind the code.
        batch: all of it.
        code: of the passage.
    """

    passage: str
    task: str
    prompt: str
    batch: Mapping[str, Any]
    code: LatentCode


class WireView(LensView):
    lens: LatentWire
    unit: ClassVar[str] = "Slot"

    @property
    def models(self) -> FrozenModels:
        if self.lens.models is None:
            raise BadInput("subject", None, "Load the lens with its models: AutoLens.from_pretrained(lens).")
        return self.lens.models

    def about(self) -> str:
        """One sentence of what is seen here."""
        names = " and ".join(self.lens.config.names)
        return (
            f"The code of a passage is {self.lens.config.code_in_words}, and {names} read it in the text's place. "
            "The number of a slot is the KL of what they say when it alone is left out. Behind the passage, after an "
            "empty line, may stand what they are asked."
        )

    def positions(self, text: str) -> range:
        return range(1, 1 + self.first_question(text).code.counts[0])

    @torch.no_grad()
    def rows(self, text: str, positions: Sequence[int]) -> list[dict[str, Any]]:
        """One row for each vector: the text that it stands for, the words that it is nearest to, and what the models
        predict behind a prompt with all vectors and without it."""
        asked, first = self.first_question(text), self.models.first
        kept = [[i for i in range(asked.code.counts[0]) if i != position - 1] for position in positions]
        sides = {
            name: [self._predicted(model, asked, code) for code in (asked.code, _chosen(asked.code, kept))]
            for name, model in self.models.items()
        }
        kl = torch.stack([kl_of(*both).cpu() for both in sides.values()]).mean(0).tolist()
        whole, without = sides[first.name]
        spans, words = self._spans(asked), self._nearest(first, asked)
        before = likeliest(first.tokenizer, whole[0], TOP)
        return [
            {
                "position": position,
                "token": spans[position - 1],
                "explanation": " ".join(words[position - 1]),
                "kl": kl[i],
                "before": before,
                "after": likeliest(first.tokenizer, without[i], TOP),
            }
            for i, position in enumerate(positions)
        ]

    @torch.no_grad()
    def near(self, text: str, position: int) -> Near:
        self.require(text, position)
        (row,) = self.rows(text, [position])
        asked, name = self.first_question(text), self.models.first.name
        facts = [
            ("KL", nats(row["kl"]), f"nats, mean over models, behind “{asked.prompt}” when this slot is left out"),
            ("slots", str(asked.code.counts[0]), f"vectors of {self.lens.config.d_z} numbers stand for this passage"),
        ]
        nearest = [[each, " ".join(self._nearest(m, asked)[position - 1])] for each, m in self.models.items()]
        parts = [
            Figures(items=facts),
            Bars(f"What {name} says next", row["before"], row["after"], ("from all slots", "without this one")),
            Grid("Words that it is nearest to", ["model", "nearest first"], nearest, numeric=2),
        ]
        return Near(self.unit, position, row["token"], parts, self._controls(asked, position), "Ask")

    def controls(self, text: str, position: int) -> list[Control]:
        """The prompt, the rate, and the slots."""
        return self._controls(self.first_question(text), position)

    def _controls(self, asked: Question, position: int) -> list[Control]:
        config = self.lens.config
        tasks = [(name, name) for name in self._tasks()]
        bits = [(str(number), f"{number} bits") for number in BITS]
        slots = [(str(i + 1), f"{i + 1} {span.strip()}") for i, span in enumerate(self._spans(asked))]
        others = [("", "nothing"), *(slot for slot in slots if slot[0] != str(position))]
        title, rate, which = "Ask every model", "The wire", "The slots"
        found: list[Control] = [
            Field("prompt", "Prompt", "what every model reads behind the code", title, asked.prompt),
            Choice("task", "Task", "decides the text around the prompt", title, asked.task, tasks),
        ]
        if config.pooling == "contiguous":
            said = f"The lens was made for {config.code_in_words}."
            found.append(
                Slider("ratio", "Tokens for each slot", said, rate, self._ratio(asked), 1.0, LARGEST_RATIO, STEP)
            )
        return [
            *found,
            Choice("bits", "Bits of a number", "", rate, str(config.bits), bits),
            Switches("dropped", "Slots that are sent", "switch one off, and nobody reads it", which, slots),
            Choice("swapped", f"Slot {position} changes places with", "", which, "", others),
        ]

    @torch.no_grad()
    def change(self, text: str, position: int, values: Mapping[str, Any]) -> list[Part]:
        """The answers of every model, and the bytes that the code has."""
        config, asked, bits = self.lens.config, self.first_question(text), int(values["bits"])
        batch, own = self._batch(asked.passage, values["task"], values["prompt"]), self._ratio(asked)
        ratio = values.get("ratio", own)
        code = self.lens.encode(batch, None if abs(ratio - own) < STEP / 2 else ratio, bits)
        sent = code.vectors[0][_order(code.counts[0], position, values)]
        wire = Wire.of(sent, bits, config.group, identity_of(self.lens.compressor))
        data, size = wire.to_bytes(), text_bytes(asked.passage)
        arrived = LatentCode.of_wires([Wire.from_bytes(data)], config)
        tokens = int(batch["tokens"][self.models.first.name]["passage_mask"].sum())
        facts = [
            (
                "on the wire",
                f"{len(data):,} B",
                f"{wire.M} vectors of {wire.d_z} numbers at {bits} bits, header and all",
            ),
            ("as text", f"{size['utf8']:,} B", f"UTF-8; {size['zlib']:,} B with zlib, {size['zstd']:,} B with zstd"),
            ("slots", f"{wire.M}", f"for {tokens} tokens of {self.models.first.name}"),
        ]
        answers, bars = [], []
        for name, model in self.models.items():
            full, bare = (context_of(batch["tokens"][name], kind) for kind in ("full", "bare"))
            edit = self.lens.soft_tokens(arrived, batch, name)
            comparison = WholePass.of(model, full, _last(full), bare, _last(bare))
            from_code, from_nothing = comparison.edited(edit), comparison.edited([])
            kls = [nats(float(comparison.kl(side))) for side in (from_code, from_nothing)]
            said = [
                model.generate(context, edits, max_new_tokens=ANSWERED).texts(model.tokenizer)[0].strip()
                for context, edits in ((bare, [edit]), (full, []), (bare, []))
            ]
            answers.append([name, *said, *kls])
            sides = beside(model.tokenizer, comparison.clean[0, 0], from_code[0, 0], TOP)
            bars.append(Bars(f"What {name} says first", *sides, ("from the text", "from the code")))
        headers = ["model", "from the code", "from the text", "from neither", "KL, code", "KL, neither"]
        return [Figures(items=facts), Grid("", headers, answers, numeric=4), *bars]

    @torch.no_grad()
    def first_question(self, text: str) -> Question:
        """What stands behind the passage, after an empty line. Where nothing does: a prompt for a task that the lens
        knows, words of the passage itself, but for questions."""
        task, (passage, prompt) = self._tasks()[0], split(text)
        if not prompt:
            words, unknown = passage.split(), self.models.first.tokenizer.unk_token_id
            asked = self.models.first.tokenizer(QUESTION)["input_ids"]
            middle = len(words) // 2
            as_question = task == "answer" and (unknown is None or unknown not in asked)
            prompt = QUESTION if as_question else " ".join(words[middle : middle + 3])
        batch = self._batch(passage, task, prompt)
        return Question(passage, task, prompt, batch, self.lens.encode(batch))

    def _tasks(self) -> list[str]:
        """Those that the lens has a soft token for, else all that have a prompt."""
        known = [task for task in prompts_of(self.lens.config).opening if task != "reconstruction"]
        return [task for task in known if task in (self.lens.config.modes or known)] or known

    def _batch(self, text: str, task: str, prompt: str) -> dict[str, Any]:
        row = {"passage": text, "prompt": prompt, "answers": ["."], "task": task, "ends": True}
        return collator_of(self.lens.config, self.models)([row])

    def _ratio(self, asked: Question) -> float:
        """Tokens for each vector, as the lens has it by itself and a slider can say it."""
        read = int(self.lens.read_of(asked.batch)[1].sum())
        ratio = self.lens.config.ratio or read / asked.code.counts[0]
        return min(LARGEST_RATIO, max(1.0, round(ratio / STEP) * STEP))

    def _spans(self, asked: Question) -> list[str]:
        """The text that each vector stands for; its number where each stands for all of it."""
        config, count = self.lens.config, asked.code.counts[0]
        if config.pooling == "learned":
            return [f"slot {i + 1}" for i in range(count)]
        ids, mask = self.lens.read_of(asked.batch)
        windows = window_of(mask.sum(1), torch.tensor([count], device=mask.device), ids.shape[1])[0]
        found = [ids[0][windows == slot].tolist() for slot in range(count)]
        if config.start == "byte":
            return [bytes(own).decode("utf-8", errors="replace") for own in found]
        assert self.lens.tokenizer is not None
        return [str(self.lens.tokenizer.decode(own)) for own in found]

    def _nearest(self, model: FrozenLM, asked: Question) -> list[list[str]]:
        """For each vector the words whose embeddings point most nearly where its soft token does."""
        soft: Any = self.lens.soft_tokens(asked.code, asked.batch, model.name).value
        return nearest_words(model, soft[0, : asked.code.counts[0]])

    def _predicted(self, model: FrozenLM, asked: Question, code: LatentCode) -> Tensor:
        """Logits of the next token behind the prompt, for each row of a code: `[rows, V]`."""
        context = context_of(asked.batch["tokens"][model.name])
        rows = {name: value.expand(len(code), -1) for name, value in context.items()}
        repeated = {**asked.batch, "task": [asked.task] * len(code)}
        edits = [self.lens.soft_tokens(code, repeated, model.name)] if code.vectors.shape[1] else []
        return model.logits(rows, edits, keep=1)[:, -1]


def split(text: str) -> tuple[str, str]:
    """A passage, and what is asked about it: what stands behind the last empty line, if anything does."""
    passage, _, prompt = text.rpartition("\n\n")
    return (passage, prompt.strip()) if passage.strip() and prompt.strip() else (text, "")


def _chosen(code: LatentCode, kept: Sequence[Sequence[int]]) -> LatentCode:
    """The code of one passage with some of its vectors alone, a row for each choice of equally many."""
    vectors = torch.stack([code.vectors[0][list(each)] for each in kept])
    return LatentCode(vectors, torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device))


def _order(count: int, position: int, values: Mapping[str, Any]) -> list[int]:
    """Which of so many vectors are sent, from 0, in their order."""
    dropped, other = [int(each) for each in values["dropped"]], int(values["swapped"] or position)
    named = [*dropped, *([] if other == position else [position, other])]
    if max(named, default=0) > count:
        fix = f"At this rate the code has {count} of them: name those, or lower the tokens for each slot."
        raise BadInput("slot", max(named), fix)
    order = list(range(1, count + 1))
    if other != position:
        order[position - 1], order[other - 1] = other, position
    kept = [slot - 1 for slot in order if slot not in dropped]
    if not kept:
        raise BadInput("slots", "none", "Leave one on.", why="a code has at least one vector")
    return kept


def _last(context: Mapping[str, Tensor]) -> Tensor:
    return torch.tensor([[context["input_ids"].shape[1] - 1]])


@torch.no_grad()
def nearest_words(model: FrozenLM, vectors: Tensor, top: int = WORDS) -> list[list[str]]:
    """The words whose embeddings have the largest cosine with each vector `[M, d]`."""
    own = functional.normalize(vectors.float(), dim=-1).to(model.device)
    ids = torch.arange(min(len(model.tokenizer), model.vocab_size), device=model.device)
    best, words = [], []
    for part in ids.split(_PART):
        table = functional.normalize(model.model.get_input_embeddings()(part).float(), dim=-1)
        cosines, at = (own @ table.T).topk(min(top, len(part)), dim=-1)
        best.append(cosines)
        words.append(part[at])
    chosen = torch.cat(words, 1).gather(1, torch.cat(best, 1).topk(top, dim=-1).indices)
    return [[model.tokenizer.decode(word).strip() for word in row] for row in chosen.tolist()]
