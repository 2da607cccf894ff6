"""The options of the command line that only the soft family has."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from ..errors import BadInput
from ..options import option
from .configuration import ACTIVATIONS, BOS, POOLINGS, STARTS, LatentWireConfig, require_no_source

RATIO = 2.0  # tokens per vector, where neither a number of vectors nor a ratio is given


@dataclass
class WireReportOptions:
    """Lenses that a wire is compared with, or read by."""

    other_wire: str | None = option(
        None,
        "Wire of the same models that was trained apart from this one, such as with another seed: its codes are a "
        "control.",
    )
    text_lens: str | None = option(
        None, "Text lens of one of the models: the report shows what it writes of each vector."
    )


@dataclass
class WireOptions:
    """What the lens is. It goes to the Hub with the weights."""

    slots: int | None = option(None, "Number of vectors for each passage, in the place of ratio.")
    ratio: float | None = option(None, f"Number of tokens per vector. Default: {RATIO:g}, without slots.")
    d_z: int | None = option(None, "Size of a vector. Default: the compressor's hidden size.")
    nested: list[int] = option([], "Smaller sizes of a vector that the lens serves, too.")
    start: str = option(
        "lm",
        "Start of the compressor. lm: first layers of a language model, the first one where compressor_model names no "
        "other; byte: new layers over bytes.",
        STARTS,
    )
    compressor_layers: int = option(2, "Number of the compressor's layers.")
    compressor_lora_rank: int | None = option(
        None, "Rank of adapters on the compressor's layers. Default: the layers themselves are trained."
    )
    causal: bool = option(False, "Causal mask in the compressor; without it, tokens see those behind them.")
    pooling: str = option(
        "contiguous",
        "Queries of the vectors. contiguous: means of runs of neighbouring tokens; learned: the same for all "
        "passages, with slots.",
        POOLINGS,
    )
    calibrate: bool = option(True, "Scale of each passage's soft tokens, brought to that of the embeddings.")
    activation: str = option(
        "none", "Activation between the two layers of an adapter, beside the linear path.", ACTIVATIONS
    )
    modes: list[str] = option([], "Tasks that have a soft token of their own behind the code.")
    bits: int = option(16, "Number of bits per coordinate: 16, 8, 6 or 4.")
    group: int = option(LatentWireConfig.group, "Number of coordinates that share a scale, below 16 bits.")
    bos: str = option("auto", "BOS in front of the code. auto: as the tokenizer has it.", BOS)
    max_answer_tokens: int | None = option(None, "Number of tokens at which answers are cut. Default: whole answers.")

    preamble: str | None = option(
        None, "Text in front of the code, behind the BOS, so that the code stands inside a prompt. Default: none."
    )
    opening: str | None = option(None, "Text between passage and question. Default: a line break and 'Question: '.")
    anchor: str | None = option(None, "Text between question and answer. Default: a line break and 'Answer: '.")
    answer_choice: list[str] = option(
        [],
        "Number of the accepted answer that a receiver learns, from 0, each as NAME=NUMBER. Default: the first for "
        "all.",
    )
    add_to: str | None = option(
        None,
        "Wire that one of the models is added to, a folder or a Hub id. Its compressor and its receivers stay as they "
        "are, and it says all else.",
    )
    compressor_model: str | None = option(
        None,
        "Language model that the compressor starts from, and with whose tokenizer it reads: the name of one of the "
        "models, or the Hub id or the folder of any other, which is needed at the start alone. Default: the first, "
        "base.",
    )

    def __post_init__(self) -> None:
        if self.start == "byte" and self.compressor_model is not None:
            require_no_source("compressor_model", self.compressor_model)
        if self.add_to is None:
            return
        for each in fields(self):
            usual = each.default if each.default is not MISSING else []
            if each.name not in ("add_to", "answer_choice") and vars(self)[each.name] != usual:
                raise BadInput(each.name, vars(self)[each.name], f"Leave it out: {self.add_to} has it already.")

    @property
    def choices(self) -> dict[str, int]:
        """Receiver -> which of the accepted answers it learns."""
        found: dict[str, int] = {}
        for given in self.answer_choice:
            name, _, number = given.partition("=")
            if not name or not number.isdecimal() or name in found:
                raise BadInput("answer_choice", given, "Write NAME=NUMBER, from 0, once for each receiver.")
            found[name] = int(number)
        return found

    def settings(self) -> dict[str, Any]:
        """As arguments of `LatentWire.from_models`."""
        found = {name: value for name, value in asdict(self).items() if name not in ("compressor_layers", "add_to")}
        found |= {"answer_choice": self.choices or None, "nested": self.nested or None}
        for name in ("opening", "anchor"):
            if found[name] is not None:
                found[name] = {"answer": found[name]}
        if self.slots is None and self.ratio is None:
            found["ratio"] = RATIO
        return found | {"layers": self.compressor_layers}
