"""`LoadedLM`: a causal LM with its tokenizer: what it is, what can be read of it, and what it takes.

Shapes: B rows, S columns of `input_ids`, K chosen columns, d hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..errors import BadInput
from .anatomy.parts import blocks_of, longest_context, offered
from .anatomy.proving import prove
from .columns import columns_of, require_visible
from .hooks import Write
from .loading.compiling import compile_blocks
from .loading.function import function_of
from .loading.load import settle_quantized
from .loading.provenance import Provenance, hash_tensors, hash_tokenizer, library_versions, public_name
from .seat import Seat, require_movable
from .sites import Edit, Site, resolve_sites
from .soft_tokens import positions_from


class LoadedLM:
    """A causal LM that is loaded and never changes.

    Args:
        model: any causal LM; `sites` says what is proven of it. It is put in eval mode and none of its
            parameters requires a gradient any more; gradients still flow through it to an edit.
        tokenizer: its tokenizer.
        model_id: the name it goes by; default `model.config.name_or_path`.
        weights: what identifies the weights (see `Provenance`); default a hash over the tensors.
        name: what an `Edit` calls it (`Edit.lm`), where a lens conditions several frozen LMs.

    How the model is quantised is read off its configuration.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        model_id: str | None = None,
        weights: str | None = None,
        name: str = "base",
    ) -> None:
        if not isinstance(model, PreTrainedModel) or model.get_output_embeddings() is None:
            fix = "Pass the plain causal LM of transformers, with its head; to compile it, call FrozenLM.compile()."
            raise BadInput("model", type(model).__name__, fix)
        self.quantization = settle_quantized(model)
        self._model = model.eval().requires_grad_(False)
        self._seat: Seat | None = None
        prove(model)
        self.tokenizer = tokenizer
        self.model_id = public_name(model_id or model.config.name_or_path or type(model).__name__)
        self.name = name
        self._weights = weights

    @property
    def model(self) -> PreTrainedModel:
        """The causal LM. Of models that share a seat, the one that is asked for takes it."""
        if self._seat is not None:
            self._seat.take(self._model)
        return self._model

    def share(self, seat: Seat) -> None:
        """Lie on its device only while in use."""
        require_movable(self._model, self.name, self.quantization)
        self._seat = seat

    @property
    def config(self) -> PreTrainedConfig:
        return self._model.config.get_text_config()

    @property
    def num_layers(self) -> int:
        return len(blocks_of(self._model))

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    @property
    def vocab_size(self) -> int:
        return self._model.get_input_embeddings().num_embeddings

    @property
    def max_length(self) -> int:
        """The longest context the model was made for."""
        return longest_context(self.config)

    @property
    def device(self) -> torch.device:
        return self._seat.device if self._seat else self._model.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self._model.dtype

    @property
    def attention(self) -> str:
        """The attention implementation in use."""
        return self._model.config._attn_implementation

    def to(self, device: str | torch.device) -> Self:
        self.model.to(device)
        return self

    def site(self, text: str | Site) -> Site:
        """The site with its layer as a plain number of this model."""
        return Site.parse(text).resolve(self.num_layers)

    @property
    def sites(self) -> list[str]:
        """All sites that can be read and edited in this model, in the order of the forward pass."""
        return offered(self._model)

    def provenance(self, *sites: str | Site) -> Provenance:
        """What identifies this model and these of its sites."""
        if self._weights is None:
            self._weights = hash_tensors(self._model.state_dict())
        return Provenance(
            model_id=self.model_id,
            weights=self._weights,
            tokenizer=hash_tokenizer(self.tokenizer),
            sites=tuple(str(site) for site in resolve_sites(sites, self.num_layers)),
            dtype=str(self.dtype).removeprefix("torch."),
            quantization=self.quantization,
            versions=library_versions(),
            configuration=function_of(self.config),
        )

    def compile(self, **options: Any) -> Self:
        """Compile each block with `torch.compile(**options)`; reading and editing go on working. After
        `torch.compile(model)` from outside they would not: compiled code does not notice hooks that come later.
        """
        compile_blocks(self.model, **options)
        return self

    def own_edits(self, edits: Edit | Sequence[Edit]) -> list[Edit]:
        """The edits as a list; raise where one is meant for another frozen LM."""
        edits = [edits] if isinstance(edits, Edit) else list(edits)
        for edit in edits:
            if edit.lm not in (None, self.name):
                fix = f"Give each frozen LM its own edits; this one is named {self.name!r}."
                raise BadInput("lm", edit.lm, fix, why=f"an edit at {edit.site} is meant for another frozen LM")
        return edits

    def place(self, edit: Edit, input_ids: torch.Tensor, mask: torch.Tensor | None = None) -> Write:
        """Settle an edit's site and columns for rows of these `input_ids`, padded where `mask` is 0."""
        rows, width = input_ids.shape
        columns = None if edit.positions is None else columns_of(edit.positions, input_ids)
        count = width if columns is None else columns.shape[1]
        site, reads = self.site(edit.site), tuple(self.site(name) for name in edit.reads)
        if edit.rows is not None and len(edit.rows) != rows:
            raise BadInput("rows", list(edit.rows.shape), f"Give a bool for each of the {rows} rows.")
        for below in reads:
            if site < below:
                why = f"the edit at {site} is computed before the pass gets there"
                raise BadInput("reads", str(below), f"Read {site} itself or a site below it.", why=why)
        if not isinstance(edit.value, torch.Tensor):
            require_visible(edit.positions, columns, mask)
            return Write(site, edit.value, columns, edit.mode == "add", reads=reads, rows=edit.rows)
        value = edit.value if edit.value.dim() == 3 else edit.value.reshape(-1, 1, edit.value.shape[-1])
        if value.shape[0] not in (1, rows) or value.shape[1] not in (1, count) or value.shape[2] != self.hidden_size:
            shape = f"[{rows}, {count}, {self.hidden_size}] for {rows} rows and {count} columns"
            raise BadInput("value", list(edit.value.shape), f"Give {shape}; rows and columns may be 1.")
        require_visible(edit.positions, columns, mask)
        return Write(site, value.expand(rows, count, -1), columns, edit.mode == "add", rows=edit.rows)

    def require_vocabulary(self, highest_id: int, field: str = "input_ids") -> None:
        """Raise where rows hold token ids that this model does not have."""
        if highest_id >= self.vocab_size:
            raise BadInput(
                field,
                highest_id,
                f"Use rows made with the tokenizer of {self.model_id}, which has {self.vocab_size} tokens.",
                why="a token id beyond the model's vocabulary",
            )

    def require_length(self, columns: int, field: str = "input_ids") -> None:
        """Raise where rows are longer than what the model was made for."""
        if columns > self.max_length:
            fix = f"{self.model_id} takes at most {self.max_length}: cut the rows."
            raise BadInput(field, f"{columns} columns", fix)

    def input_ids(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """`[B, S]` on the model's device; raise where they have another shape or are too long."""
        input_ids = batch["input_ids"].to(self.device)
        if input_ids.dim() != 2:
            raise BadInput("input_ids", list(input_ids.shape), "Give [rows, columns]; one row is input_ids[None].")
        self.require_length(input_ids.shape[1])
        return input_ids

    def inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the model's forward needs; positions are counted from each row's first own token."""
        input_ids = self.input_ids(batch)
        if batch.get("attention_mask") is None:
            return {"input_ids": input_ids}
        mask = batch["attention_mask"].to(self.device)
        return {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions_from(mask)}
