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
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import CONFIG_NAME, cached_file

from ..errors import BadInput
from .anatomy.swap_proof import require_exact_swap
from .generation.decoding import Decoding
from .generation.generating import Generated, generate
from .generation.passes import EditedPass
from .loaded_lm import LoadedLM
from .loading.gguf_files import find_gguf, gguf_config, gguf_name, is_gguf, named, settle_unpacked, unpack
from .loading.load import choose_attention, own_code_refused, quantization_options, torch_dtype
from .loading.provenance import hash_files
from .loading.whole import (
    refusing_damage,
    require_every_weight,
    require_finite_weights,
    require_numbers,
    require_plausible,
)
from .prefix import Prefix
from .sites import Edit

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
        """
        if gguf_file is not None:
            model_id_or_path = f"{model_id_or_path}/{gguf_file}"
        folder = Path(model_id_or_path)
        file = find_gguf(model_id_or_path, revision, token) if is_gguf(model_id_or_path) else None
        if file is not None:
            known_as = known_as or gguf_name(model_id_or_path)
            source, config = named(file), gguf_config(file)
        else:
            if not folder.is_dir():
                # A commit from here on: transformers does not say which one it has loaded. Folders of its cache do.
                known = cached_file(str(model_id_or_path), CONFIG_NAME, revision=revision, token=token)
                if known is None:  # an answer that transformers takes for none
                    raise OSError(f"no {CONFIG_NAME} was found under that name")
                revision = Path(known).parent.name
            source = {"pretrained_model_name_or_path": model_id_or_path, "revision": revision, "token": token}
            source["trust_remote_code"] = trust_remote_code
            with refusing_damage(model_id_or_path), own_code_refused(model_id_or_path):
                config = AutoConfig.from_pretrained(**source)
        wanted_dtype = torch_dtype(dtype)
        attention = choose_attention(config, attn_implementation, wanted_dtype, device_map)
        quantize = (
            quantization_options(config, quantization, wanted_dtype) if file is None else unpack(quantization, file)
        )
        with refusing_damage(model_id_or_path), own_code_refused(model_id_or_path):
            tokenizer = AutoTokenizer.from_pretrained(**source)
            require_numbers(config, model_id_or_path)
            require_plausible(config, folder)
            model, found = AutoModelForCausalLM.from_pretrained(
                **source,
                dtype=wanted_dtype,
                attn_implementation=attention,
                device_map=device_map,
                output_loading_info=True,
                **quantize,
            )
            require_every_weight(model_id_or_path, found)
            require_finite_weights(model, model_id_or_path)
        if file is not None:
            settle_unpacked(model)
            weights = hash_files([file])
        elif folder.is_dir():
            weights = hash_files([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
        else:
            weights = f"commit:{revision}"
        lm = cls(model, tokenizer, known_as or str(model_id_or_path), weights, name)
        logger.info("%s: attention %s, dtype %s, quantization %s", lm.model_id, attention, lm.dtype, lm.quantization)
        return lm

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
