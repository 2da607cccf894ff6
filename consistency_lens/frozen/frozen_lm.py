"""`FrozenLM`: the LLM under study, loaded once, never trained, never saved.

Shapes: B rows, S columns of `input_ids`, K chosen columns, d hidden size, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..errors import BadInput
from .anatomy.parts import blocks_of, longest_context, offered
from .anatomy.proving import prove
from .anatomy.swap_proof import require_exact_swap
from .columns import columns_of, require_visible
from .generation.decoding import Decoding
from .generation.generating import Generated, generate
from .generation.passes import EditedPass
from .hooks import Write, editing, reading
from .loading.compiling import compile_blocks
from .loading.function import function_of
from .loading.gguf_files import settle_unpacked, unpack
from .loading.load import choose_attention, own_code_refused, quantization_options, settle_quantized, torch_dtype
from .loading.provenance import Provenance, hash_tensors, hash_tokenizer, library_versions, public_name
from .loading.source import find_source
from .loading.whole import (
    refusing_damage,
    require_every_weight,
    require_finite_weights,
    require_numbers,
    require_plausible,
)
from .prefix import Prefix
from .seat import Seat, require_movable
from .sites import Edit, Site, resolve_sites
from .soft_tokens import positions_from

logger = logging.getLogger(__name__)


class FrozenLM:
    """A causal LM that is read and edited, and never changes.

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

    @classmethod
    def from_pretrained(
        cls,
        model_id_or_path: str | Path,
        revision: str | None = None,
        dtype: str | torch.dtype = "auto",
        quantization: str = "none",
        attn_implementation: str = "auto",
        device_map: str | dict[str, Any] | None = None,
        name: str = "base",
        known_as: str | None = None,
        token: str | None = None,
        gguf_file: str | None = None,
        trust_remote_code: bool = False,
        *,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        subfolder: str = "",
        quantization_config: Any = None,
    ) -> FrozenLM:
        """Load from the Hub, from a folder or from a GGUF file.

        Args:
            model_id_or_path: Hub id or local folder; a path of either that ends in `.gguf` names a file in it.
            revision: branch, tag or commit on the Hub; what it resolved to is written into the provenance.
            dtype: `auto` takes the checkpoint's own, or a name like `bfloat16`.
            quantization: `8bit` or `4bit` through bitsandbytes, `fp8` through torchao on GPUs that have such numbers;
                `none` takes the checkpoint as it was saved, which may already be quantised.
            attn_implementation: `auto` takes the fastest that is installed and that the architecture supports.
            device_map: as in transformers; None loads onto the CPU.
            name: what an `Edit` calls it.
            known_as: its `model_id`, where it goes by another name than that of its folder.
            token: for a private or gated model. Default: of this machine.
            gguf_file: a file of the folder or repository, whose weights are unpacked into a model like any other.
            trust_remote_code: run the code that lies beside the model; it can do whatever you can. Nothing that is
                loaded, neither a lens nor rows nor a recipe, sets this.
            cache_dir: where downloads are kept. Default: the cache of this machine.
            local_files_only: take what the cache holds, and ask no Hub.
            subfolder: of the folder or repository, in which the model lies.
            quantization_config: as in transformers, in the place of `quantization`.
        """
        source = find_source(
            model_id_or_path, revision, token, gguf_file, trust_remote_code, subfolder, cache_dir, local_files_only
        )
        place, config, wanted_dtype = source.place, source.config, torch_dtype(dtype)
        attention = choose_attention(config, attn_implementation, wanted_dtype, device_map)
        if source.file is None:
            quantize = quantization_options(config, quantization, wanted_dtype, quantization_config)
        else:
            quantize = unpack(quantization, source.file, quantization_config)
        with refusing_damage(place), own_code_refused(place):
            tokenizer = AutoTokenizer.from_pretrained(**source.named)
            require_numbers(config, place)
            require_plausible(config, Path(place) if source.folder is None else source.folder)
            model, found = AutoModelForCausalLM.from_pretrained(
                **source.named,
                dtype=wanted_dtype,
                attn_implementation=attention,
                device_map=device_map,
                output_loading_info=True,
                **quantize,
            )
            require_every_weight(place, found)
            require_finite_weights(model, place)
        if source.file is not None:
            settle_unpacked(model)
        lm = cls(model, tokenizer, known_as or source.model_id, source.weights(), name)
        logger.info("%s: attention %s, dtype %s, quantization %s", lm.model_id, attention, lm.dtype, lm.quantization)
        return lm

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

    def to(self, device: str | torch.device) -> FrozenLM:
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

    def compile(self, **options: Any) -> FrozenLM:
        """Compile each block with `torch.compile(**options)`; reading and editing go on working. After
        `torch.compile(model)` from outside they would not: compiled code does not notice hooks that come later.
        """
        compile_blocks(self.model, **options)
        return self

    @torch.no_grad()
    def read(
        self,
        batch: Mapping[str, torch.Tensor],
        sites: str | Site | Sequence[str | Site],
        positions: torch.Tensor | None = None,
        edits: Edit | Sequence[Edit] = (),
    ) -> dict[str, torch.Tensor]:
        """Activations at some sites; nothing above the highest of them is computed.

        Args:
            batch: `input_ids [B, S]` and, where rows are padded on the left, `attention_mask [B, S]`. Rows padded on
                the right need no mask: nothing looks to the right.
            sites: what to read.
            positions: columns `[B, K]` to keep; default all.
            edits: what to write meanwhile; soft tokens, which have no columns of their own, are refused.

        Returns:
            The name of each resolved site with its `[B, S, d]` or `[B, K, d]`.
        """
        inputs = self.inputs(batch)
        wanted = resolve_sites(sites, self.num_layers)
        columns = None if positions is None else columns_of(positions, inputs["input_ids"])
        passed = EditedPass(self, batch, edits)
        if passed.soft is not None:
            raise BadInput("edits", "prepend", "Read without soft tokens.", why="they have no columns of their own")
        with editing(self.model, passed.writes), reading(self.model, wanted, columns, cut=True) as found:
            self.model(**inputs, use_cache=False)
        return found

    def logits(
        self, batch: Mapping[str, torch.Tensor], edits: Edit | Sequence[Edit] = (), keep: int | None = None
    ) -> torch.Tensor:
        """Next-token logits of the whole pass with the edits in place; the slow twin of `prefix`.

        Args:
            batch: as for `read`.
            edits: what to write; gradients flow to their values.
            keep: give only the last so many columns (at least 1), so that the rest never meet the vocabulary.

        Returns:
            `[B, S, V]`, or `[B, keep, V]`: one column for each of `input_ids`. Soft tokens have none of their own.
        """
        if keep is not None and keep < 1:
            raise BadInput("keep", keep, "Keep at least 1 column, or give None for all of them.")
        return EditedPass(self, batch, edits).logits(keep)

    def generate(
        self,
        batch: Mapping[str, torch.Tensor],
        edits: Edit | Sequence[Edit] = (),
        new_edits: Edit | Sequence[Edit] | None = None,
        decoding: Decoding | None = None,
        rows: Sequence[int] | None = None,
        use_cache: bool = True,
        **settings: Any,
    ) -> Generated:
        """Generate text behind each row, with the edits in place and without gradient.

        An edit at named columns is made there, once; soft tokens enter once. An edit at all columns (`positions=None`)
        goes on at each token that is generated: one vector is written at each of them, and a function is called with
        that token's column alone, `[B, 1, d]`, so that it has to compute each column from that column. Values for each
        of the prompt's columns, `[B, S, d]`, cannot cover new tokens: they are refused unless `new_edits` is given.

        Args:
            batch: `input_ids [B, S]` padded on the left, `attention_mask [B, S]`.
            edits: what to write, as for `logits`.
            new_edits: what to write at each new token in place of the edits at all columns, which are then those of
                the prompt alone; an empty list writes nothing there.
            decoding: how tokens are chosen, and what ends a row.
            rows: the number of each row, which its draws depend on; default 0, 1, ... Numbers of one's own make the
                draws the same however rows are batched.
            use_cache: read each token once. Without, and for a model that has no cache that grows (a state-space
                model), the whole sequence is read anew for each token; the result is the same.
            settings: fields of `Decoding`, in place of those of `decoding`: `max_new_tokens=8, do_sample=True`.
        """
        decoding = replace(decoding or Decoding(), **settings)
        return generate(self, batch, edits, new_edits, decoding, rows, use_cache)

    def prefix(self, batch: Mapping[str, torch.Tensor]) -> Prefix:
        """Run all columns but the last once; then each clean or edited distribution is a single-token pass.

        Args:
            batch: `input_ids [B, S]` padded on the left, `attention_mask [B, S]`, and for a horizon
                `continuation_ids [B, k]` with `continuation_mask [B, k]`.
        """
        require_exact_swap(self)
        return Prefix(self, batch)

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
