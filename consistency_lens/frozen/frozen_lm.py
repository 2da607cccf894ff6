"""`FrozenLM`: the LLM under study, loaded once, never trained, never saved.

Shapes: B rows, S columns of `input_ids`, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..errors import BadInput
from .anatomy.swap_proof import require_exact_swap
from .columns import columns_of
from .generation.decoding import Decoding
from .generation.generating import Generated, generate
from .generation.passes import EditedPass
from .hooks import editing, reading
from .loaded_lm import LoadedLM
from .loading.gguf_files import settle_unpacked, unpack
from .loading.load import choose_attention, own_code_refused, quantization_options, torch_dtype
from .loading.source import find_source
from .loading.whole import (
    refusing_damage,
    require_every_weight,
    require_finite_weights,
    require_numbers,
    require_plausible,
)
from .prefix import Prefix
from .sites import Edit, Site, resolve_sites

logger = logging.getLogger(__name__)


class FrozenLM(LoadedLM):
    """A causal LM that is read and edited, and never changes. It goes on from `LoadedLM` to edited passes: whole ones,
    generation, and single tokens behind a prefix."""

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
    ) -> Self:
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
