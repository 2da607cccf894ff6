"""`LatentWire`: a text -> a few vectors -> soft tokens of several frozen models.

Shapes: B rows, P tokens of the longest passage, M vectors, K tokens of the longest answer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..base.comparing import Joint
from ..base.configuration import ONE_MODEL
from ..base.lens import Batch, LensOutput
from ..base.modeling import LensModel
from ..base.saving.lens_files import HEADS, require_shapes, saved_shapes
from ..errors import BadInput
from ..frozen import Edit, FrozenLM, FrozenModels
from ..objectives import answer_nll_of
from .bytes.quantising import quantise_ste
from .bytes.wire import Wire
from .code import LatentCode
from .configuration import LatentWireConfig, require_no_source
from .objective import distillation_of
from .parts.compressor import Compressor, blank, byte_layers, first_layers
from .parts.receiver import Receiver, embedding_table, rms_of
from .parts.source import record_of, source_of
from .parts.starting import start_from_embeddings
from .parts.windows import counts_of
from .report.answering import Answering

LM_FILE = "compressor/model.safetensors"


@dataclass
class WireOutput(LensOutput):
    """
    Args:
        logits: of the receiver at the columns that predict the answer, `[B, K, V]`, with gradient.
    """

    logits: Tensor | None = None


class LatentWire(LensModel):
    """One compressor, and an adapter for each frozen model that reads its code.

    A batch is what `PassageCollator` makes.
    """

    config_class = LatentWireConfig
    config: LatentWireConfig
    main_input_name = "tokens"

    def __init__(self, config: LatentWireConfig, lm: Any, tokenizer: PreTrainedTokenizerBase | None) -> None:
        super().__init__(config)
        self.tokenizer = tokenizer
        self.compressor = Compressor(config, lm)
        sizes = zip(config.widths or [], config.embedding_rms or [], strict=True)
        modes = len(config.modes or [])
        kind = (config.calibrate, modes, config.activation)
        made = [Receiver(config.d_z, width, rms, *kind) for width, rms in sizes]
        self.receivers = nn.ModuleList(made)

    @classmethod
    def from_models(
        cls,
        models: FrozenLM | Sequence[FrozenLM] | FrozenModels,
        start: str = "lm",
        compressor_model: str | Path | FrozenLM | None = None,
        layers: int = 2,
        byte_width: int = 256,
        byte_heads: int = 4,
        d_z: int | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> LatentWire:
        """A new wire for these models. With `start="lm"` they read its code before any training, as well as a linear
        map between their embeddings allows.

        Args:
            models: the receivers.
            start: `lm` or `byte`.
            compressor_model: with `lm`, the model whose first layers the compressor starts from, and whose tokens it
                reads: the name of a receiver, or any other language model, its Hub id or its folder, which is needed
                here alone. Default: the first.
            layers: how many of them; with `byte`, how many layers it has.
            byte_width: with `byte`, its hidden size.
            byte_heads: with `byte`, its attention heads.
            d_z: size of a vector. Default: the compressor's hidden size.
            seed: of the weights.
            settings: the other fields of `LatentWireConfig`: `slots` or `ratio`, `bits`, `modes`, ...
        """
        models = FrozenModels.of(models)
        if len(models) == 1 and models.only.name != ONE_MODEL:
            fix = f"Leave the name of a single model as it is: {ONE_MODEL}."
            raise BadInput("models", models.only.name, fix, why="a lens of one model records no name")
        tables = {name: embedding_table(model) for name, model in models.items()}
        rms = {name: rms_of(table) for name, table in tables.items()}
        own: dict[str, Any] = {"start": start}
        if start == "lm":
            source = source_of(compressor_model, models)
            words = tables[source.name] if models.get(source.name) is source else embedding_table(source)
            lm = first_layers(source, layers)
            own |= {"compressor": lm.config.to_dict(), "compressor_rms": rms_of(words), **record_of(source, models)}
        else:
            if compressor_model is not None:
                require_no_source("compressor_model", str(compressor_model))
            source, own["compressor"] = models.first, byte_layers(layers, byte_width, byte_heads)
            own["compressor_rms"] = own["compressor"]["initializer_range"]
        config = LatentWireConfig(
            sites=["embed"],
            hidden_size=models.first.hidden_size,
            receivers=list(models),
            widths=[model.hidden_size for model in models.values()],
            embedding_rms=list(rms.values()),
            d_z=(lm.config.hidden_size if start == "lm" else byte_width) if d_z is None else d_z,
            **LatentWireConfig.fields_of(models.provenance({name: ["embed"] for name in models})),
            **own,
            **settings,
        )
        if start == "byte":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                lm = blank(config)
        lens = cls(config, lm, source.tokenizer)
        lens.initialise(seed)
        if start == "lm" and config.pooling == "contiguous":
            start_from_embeddings(lens.compressor, lens.receiver, source, words, models, tables)
        lens.models = models
        return lens.to(models.first.device)

    def initialise(self, seed: int) -> None:
        """Random weights of all but the compressor's language model."""
        self.compressor.initialise(seed)
        for number, name in enumerate(self.config.names, 1):
            self.receiver(name).initialise(seed + number)

    @classmethod
    def build(cls, config: Any, frozen: Any, tokenizer: PreTrainedTokenizerBase) -> Self:
        if frozen is None:
            return cls(config, blank(config), tokenizer)
        models = FrozenModels.of(frozen)
        if not config.own_tokenizer:
            tokenizer = models[config.compressor_model or models.first.name].tokenizer
        return cls(config, blank(config), tokenizer).to(models.first.device)

    @classmethod
    def require_files(cls, config: Any, folder: Path, models: FrozenModels | None) -> None:
        with torch.device("meta"):
            files = cls(config, blank(config), None).files()
        for file, own in files.items():
            wanted = {name: tuple(parameter.shape) for name, parameter in own.items()}
            require_shapes(wanted, saved_shapes(folder, file), folder, file)

    def receiver(self, name: str) -> Receiver:
        """The adapter of a model."""
        if name not in self.config.names:
            fix = f"Name one of {', '.join(self.config.names)}."
            raise BadInput("receiver", name, fix, why="the lens has no adapter for it")
        found: Any = self.receivers[self.config.names.index(name)]
        return found

    # ---- passages to a code

    def read_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the compressor reads of a batch, `[B, P]` and its mask, padded on the right: tokens, or bytes."""
        if self.config.compressor_model is not None:
            tokens = batch["tokens"][self.config.compressor_model]
            return tokens["passage_ids"].to(self.device), tokens["passage_mask"].to(self.device)
        from .serving.sending import tokens_of  # tokenisers of passages know data sets

        rows = [torch.tensor(ids, dtype=torch.long) for ids in tokens_of(self, batch["passage"])]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        return ids, (torch.arange(ids.shape[1], device=self.device) < lengths[:, None]).long()

    def encode(
        self,
        batch: Batch,
        ratio: float | None = None,
        bits: int | None = None,
        code_length: int | None = None,
        size: int | None = None,
    ) -> LatentCode:
        """Passages to a code, with gradient, rounded as a wire rounds it.

        Args:
            batch: of passages.
            ratio: tokens for each vector, in the place of the configuration's rate.
            bits: for each coordinate, in the place of the configuration's.
            code_length: number of vectors, in the place of a ratio.
            size: of a vector, one of those that the lens serves.
        """
        kept = self.config.require_size(size)
        if ratio is not None and code_length is not None:
            raise BadInput("code_length", code_length, "Give code_length or ratio, not both.")
        ids, own = self.read_of(batch)
        counts = None if code_length is None else counts_of(own.sum(1), code_length, None)
        vectors, mask = self.compressor(ids, own, ratio, counts)
        rounded = quantise_ste(
            vectors[..., :kept].float(), self.config.bits if bits is None else bits, self.config.group
        )
        return LatentCode(rounded, mask)

    @torch.no_grad()
    def compress(self, batch: Batch, seed: int | None = None) -> LatentCode:
        """The code of each passage; the seed changes nothing."""
        return self.encode(batch)

    # ---- a code to edits

    def soft_tokens(self, code: LatentCode, batch: Batch, name: str) -> Edit:
        """What stands in the passage's place, behind BOS and preamble: the code, and its task's soft token."""
        receiver, mask = self.receiver(name), code.mask.to(self.device)
        value = receiver(self.whole(code.vectors.to(self.device)), mask)
        if self.config.modes:
            tasks = [self.config.modes.index(task) if task in self.config.modes else -1 for task in batch["task"]]
            numbers = torch.tensor(tasks, device=self.device)
            value = torch.cat([value, receiver.mode_tokens(numbers)], 1)
            mask = torch.cat([mask, numbers[:, None] >= 0], 1)
        return Edit("embed", value, batch["tokens"][name]["front"], "prepend", lm=name, mask=mask)

    def whole(self, vectors: Tensor) -> Tensor:
        """Vectors of a smaller size with zeros behind their coordinates, `[B, M, d_z]`."""
        return nn.functional.pad(vectors, (0, self.config.d_z - vectors.shape[-1]))

    def restore(self, code: Any, batch: Batch) -> list[Edit]:
        """One `prepend` for each receiver."""
        return [self.soft_tokens(code, batch, name) for name in self.config.names]

    def forward(
        self,
        batch: Batch,
        models: FrozenModels,
        receiver: str,
        ratio: float | None = None,
        first_weight: float = 0.0,
        top_k: int = 0,
        temperature: float = 1.0,
        size: int | None = None,
    ) -> WireOutput:
        """The terms `ce` and, with `top_k`, `kd` of one receiver, `[B]` each. All that is trained is used in here, or
        an engine would not see it.

        Args:
            batch: of passages, prompts and answers.
            models: the receivers.
            receiver: the one that reads in this pass.
            ratio: tokens for each vector, in the place of the configuration's rate.
            first_weight: how much more the first token of an answer counts in `ce`.
            top_k: how many words, the likeliest behind the text, `kd` compares; 0 for no such term.
            temperature: of both sides of `kd`.
            size: of a vector, in the place of `d_z`.
        """
        tokens, model = batch["tokens"][receiver], models[receiver]
        ids, mask = (tokens[name].to(model.device) for name in ("answer_ids", "answer_mask"))
        code = self.encode(batch, ratio, size=size)
        edit = self.soft_tokens(code, batch, receiver)
        logits = model.logits(tokens["bare"], edit, keep=ids.shape[1])
        terms = {"ce": answer_nll_of(logits, ids, mask, first_weight)}
        if top_k:
            with torch.no_grad():
                best = model.logits(tokens["full"], keep=ids.shape[1]).topk(min(top_k, logits.shape[-1]), -1)
            terms["kd"] = distillation_of(logits, best.values, best.indices, mask, temperature)
        return WireOutput(code=code, edits=[edit], terms=terms, logits=logits)

    def comparison(self, models: FrozenModels, batch: Batch, horizon: int = 0) -> Joint:
        """The prompt behind the passage as text against the prompt behind the edits, over the tokens of the answer."""
        return Joint.of(
            models, {name: Answering.among(model, batch["tokens"][name]) for name, model in models.items()}
        )

    # ---- a code and its bytes

    def wire(self, code: LatentCode, name: str = "") -> list[Wire]:
        """One wire for each row; `name` says which lens made it."""
        return code.wires(self.config, name)

    def from_wire(self, wires: Wire | Sequence[Wire], name: str | None = None) -> LatentCode:
        """The code that wires hold; with `name`, those of another lens are refused."""
        return LatentCode.of_wires([wires] if isinstance(wires, Wire) else wires, self.config, name)

    def to_bytes(
        self,
        text: str,
        ratio: float | None = None,
        code_length: int | None = None,
        bits: int | None = None,
        window: int | None = None,
        size: int | None = None,
    ) -> bytes:
        """A text as bytes that another process reads; no receiver is needed.

        Args:
            text: of any length.
            ratio: tokens for each vector, in the place of the configuration's rate.
            code_length: vectors of the whole text, in the place of a rate.
            bits: for each coordinate, in the place of the configuration's.
            window: tokens that are compressed together at most; default 512.
            size: of a vector, one of those that the lens serves.
        """
        from .serving.sending import wires_of_text  # tokenisers of passages know data sets
        from .serving.wire_file import joined

        wires = wires_of_text(self, text, ratio=ratio, code_length=code_length, bits=bits, window=window, size=size)
        return joined([wires])

    def answer(
        self,
        wire: bytes | Wire | Sequence[Wire],
        question: str,
        receiver: str | None = None,
        task: str = "answer",
        preamble: str | None = None,
        **settings: Any,
    ) -> str:
        """What a model answers to a question about a text that it has only the code of.

        Args:
            wire: of one text: what `to_bytes` gives, or its wires.
            question: about the text.
            receiver: the model that reads. Default: the only one.
            task: whose prompt the question is; it decides the text around it.
            preamble: text in front of the code, in the place of the configuration's: the code stands inside a prompt.
            settings: fields of `AnswerSettings`: `max_new_tokens=16, stop_at_line=True`. Default: greedy.
        """
        from .serving.answering import AnswerSettings, answers, one_text

        return answers(self, [one_text(wire)], [question], receiver, task, AnswerSettings(**settings), preamble)[0]

    # ---- a lens like any other

    def describe(self, code: Any) -> list[dict[str, Any]]:
        return code.rows(self.config)

    def parts(self) -> dict[str, dict[str, nn.Parameter]]:
        """`compressor` and `receivers`."""
        found: dict[str, dict[str, nn.Parameter]] = {"compressor": {}, "receivers": {}}
        for name, parameter in self.named_parameters():
            found[name.partition(".")[0]][name] = parameter
        return found

    def files(self) -> dict[str, dict[str, nn.Parameter]]:
        """The compressor's language model in a folder of its own, all else at the root."""
        own = "compressor.lm."
        named = dict(self.named_parameters())
        return {
            HEADS: {name: p for name, p in named.items() if not name.startswith(own)},
            LM_FILE: {name.removeprefix(own): p for name, p in named.items() if name.startswith(own)},
        }

    def save_parts(self, folder: Path) -> None:
        """A configuration beside the compressor's weights, and the tokenizer that it reads with."""
        self.compressor.lm.config.save_pretrained(folder / "compressor")
        assert self.tokenizer is not None
        self.tokenizer.save_pretrained(folder)
