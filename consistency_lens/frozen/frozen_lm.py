"""`FrozenLM`: the LLM under study, loaded once, never trained, never saved.

Shapes: B rows, S columns of `input_ids`, K chosen columns, d hidden size, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch._dynamo import config as dynamo_config
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from ..errors import BadInput
from .hooks import Write, editing, reading
from .prefix import Prefix
from .provenance import Provenance, hash_files, hash_tensors, hash_tokenizer, library_versions, public_name
from .sites import Edit, Site, anatomy_of, blocks_of, resolve_sites
from .soft_tokens import SoftTokens, positions_from

logger = logging.getLogger(__name__)

ATTENTION = ("auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")
QUANTIZATION = ("none", "8bit", "4bit")
DTYPES = ("auto", "float32", "bfloat16", "float16")


class FrozenLM:
    """A causal LM that is read and edited, and never changes.

    Args:
        model: any causal LM whose architecture `frozen/sites.py` knows. It is put in eval mode and none of its
            parameters requires a gradient any more; gradients still flow through it to an edit.
        tokenizer: its tokenizer.
        model_id: the name it goes by; default `model.config.name_or_path`.
        weights: what identifies the weights (see `Provenance`); default a hash over the tensors.
        quantization: what `model` was loaded with.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        model_id: str | None = None,
        weights: str | None = None,
        quantization: str = "none",
    ) -> None:
        if not isinstance(model, PreTrainedModel) or model.get_output_embeddings() is None:
            fix = "Pass the plain causal LM of transformers, with its head; to compile it, call FrozenLM.compile()."
            raise BadInput("model", type(model).__name__, fix)
        anatomy_of(model.config)
        if quantization == "4bit":
            _keep_differentiable(model)
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.model_id = public_name(model_id or model.config.name_or_path or type(model).__name__)
        self.quantization = quantization
        self._weights = weights
        self._compiled = False

    @classmethod
    def from_pretrained(
        cls,
        model_id_or_path: str | Path,
        revision: str | None = None,
        dtype: str | torch.dtype = "auto",
        quantization: str = "none",
        attn_implementation: str = "auto",
        device_map: str | dict[str, Any] | None = None,
    ) -> FrozenLM:
        """Load from the Hub or from a folder.

        Args:
            model_id_or_path: Hub id or local folder.
            revision: branch, tag or commit on the Hub; what it resolved to is written into the provenance.
            dtype: `auto` takes the checkpoint's own, or a name like `bfloat16`.
            quantization: `8bit` or `4bit` through bitsandbytes.
            attn_implementation: `auto` takes the fastest that is installed and that the architecture supports.
            device_map: as in transformers; None loads onto the CPU.
        """
        config = AutoConfig.from_pretrained(model_id_or_path, revision=revision)
        anatomy_of(config)
        wanted_dtype = _dtype(dtype)
        attention = choose_attention(config, attn_implementation, wanted_dtype, device_map)
        tokenizer = AutoTokenizer.from_pretrained(model_id_or_path, revision=revision)
        model = AutoModelForCausalLM.from_pretrained(
            model_id_or_path,
            revision=revision,
            dtype=wanted_dtype,
            attn_implementation=attention,
            device_map=device_map,
            quantization_config=_quantization_config(quantization, wanted_dtype),
        )
        folder = Path(model_id_or_path)
        if folder.is_dir():
            weights = hash_files([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
        else:
            weights = f"commit:{model.config._commit_hash}"
        lm = cls(model, tokenizer, str(model_id_or_path), weights, quantization)
        logger.info("%s: attention %s, dtype %s, quantization %s", lm.model_id, attention, lm.dtype, quantization)
        return lm

    @property
    def config(self) -> PreTrainedConfig:
        return self.model.config.get_text_config()

    @property
    def num_layers(self) -> int:
        return len(blocks_of(self.model))

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    @property
    def vocab_size(self) -> int:
        return self.model.get_input_embeddings().num_embeddings

    @property
    def max_length(self) -> int:
        """The longest context the model was made for."""
        return self.config.max_position_embeddings

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def attention(self) -> str:
        """The attention implementation in use."""
        return self.model.config._attn_implementation

    def to(self, device: str | torch.device) -> FrozenLM:
        self.model.to(device)
        return self

    def site(self, text: str | Site) -> Site:
        """The site with its layer as a plain number of this model."""
        return Site.parse(text).resolve(self.num_layers)

    def provenance(self, *sites: str | Site) -> Provenance:
        """What identifies this model and these of its sites."""
        if self._weights is None:
            self._weights = hash_tensors(self.model.state_dict())
        return Provenance(
            model_id=self.model_id,
            weights=self._weights,
            tokenizer=hash_tokenizer(self.tokenizer),
            sites=tuple(str(site) for site in resolve_sites(sites, self.num_layers)),
            dtype=str(self.dtype).removeprefix("torch."),
            quantization=self.quantization,
            versions=library_versions(),
        )

    def compile(self, **options: Any) -> FrozenLM:
        """Compile each block with `torch.compile(**options)`; reading and editing go on working.

        `torch.compile(model)` from outside would not do: compiled code does not notice hooks that come later, and
        edits would be dropped without a word.
        """
        for block in blocks_of(self.model):
            block.compile(**options)
        self._compiled = True
        return self

    @contextmanager
    def _hooks_count(self) -> Iterator[None]:
        """Let compiled code look at hooks before it runs, and make another version of itself where they differ."""
        if not self._compiled:
            yield
            return
        # Blocks share their code, and each (block, hooked or not, cached or not) is one version of it.
        versions = 8 * self.num_layers
        with dynamo_config.patch(
            skip_nnmodule_hook_guards=False, recompile_limit=versions, accumulated_recompile_limit=8 * versions
        ):
            yield

    @torch.no_grad()
    def read(
        self,
        batch: Mapping[str, torch.Tensor],
        sites: str | Site | Sequence[str | Site],
        positions: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Activations at some sites; nothing above the highest of them is computed.

        Args:
            batch: `input_ids [B, S]` and, where rows are padded on the left, `attention_mask [B, S]`. Rows padded on
                the right need no mask: nothing looks to the right.
            sites: what to read.
            positions: columns `[B, K]` to keep; default all.

        Returns:
            The name of each resolved site with its `[B, S, d]` or `[B, K, d]`.
        """
        inputs = self._inputs(batch)
        wanted = resolve_sites(sites, self.num_layers)
        columns = None if positions is None else _columns(positions, inputs["input_ids"])
        with self._hooks_count(), reading(self.model, wanted, columns, cut=True) as found:
            self.model(**inputs, use_cache=False)
        return found

    def logits(
        self, batch: Mapping[str, torch.Tensor], edits: Edit | Sequence[Edit] = (), keep: int | None = None
    ) -> torch.Tensor:
        """Next-token logits of the whole pass with the edits in place; the slow twin of `prefix`.

        Args:
            batch: as for `read`.
            edits: what to write; gradients flow to their values.
            keep: give only the last so many columns, so that the rest never meet the vocabulary.

        Returns:
            `[B, S, V]`, or `[B, keep, V]`: one column for each of `input_ids`. Soft tokens have none of their own.
        """
        inputs = self._inputs(batch)
        edits = [edits] if isinstance(edits, Edit) else list(edits)
        soft = SoftTokens.gather([edit for edit in edits if edit.mode == "prepend"], inputs, self.hidden_size)
        writes = []
        for edit in edits:
            if edit.mode != "prepend":
                write = self.place(edit, inputs["input_ids"])
                if soft and write.site.stage != "embed":
                    write = write._replace(columns=soft.moved(write.columns))
                writes.append(write)
        with self._hooks_count(), editing(self.model, writes):
            if soft is None:
                return self.model(**inputs, use_cache=False, logits_to_keep=keep or 0).logits
            embedded = soft.splice(self.model.get_input_embeddings()(inputs["input_ids"]))
            self.require_length(embedded["inputs_embeds"].shape[1], "soft tokens and input_ids")
            columns = soft.own_columns[:, -(keep or 0) :]
            first = int(columns.min()) if keep else 0
            logits = self.model(**embedded, use_cache=False, logits_to_keep=soft.order.shape[1] - first).logits
            return logits.gather(1, (columns - first).unsqueeze(-1).expand(-1, -1, logits.shape[-1]))

    def prefix(self, batch: Mapping[str, torch.Tensor]) -> Prefix:
        """Run all columns but the last once; then each clean or edited distribution is a single-token pass.

        Args:
            batch: `input_ids [B, S]` padded on the left, `attention_mask [B, S]`, and for a horizon
                `continuation_ids [B, k]` with `continuation_mask [B, k]`.
        """
        return Prefix(self, batch)

    def place(self, edit: Edit, input_ids: torch.Tensor) -> Write:
        """Settle an edit's site and columns for rows of these `input_ids`."""
        rows, width = input_ids.shape
        columns = None if edit.positions is None else _columns(edit.positions, input_ids)
        count = width if columns is None else columns.shape[1]
        value = edit.value if edit.value.dim() == 3 else edit.value.reshape(-1, 1, edit.value.shape[-1])
        if value.shape[0] not in (1, rows) or value.shape[1] not in (1, count) or value.shape[2] != self.hidden_size:
            shape = f"[{rows}, {count}, {self.hidden_size}] for {rows} rows and {count} columns"
            raise BadInput("value", list(edit.value.shape), f"Give {shape}; rows and columns may be 1.")
        return Write(self.site(edit.site), value.expand(rows, count, -1), columns, edit.mode == "add")

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

    def _inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the model's forward needs; positions are counted from each row's first own token."""
        input_ids = batch["input_ids"].to(self.device)
        self.require_length(input_ids.shape[1])
        if batch.get("attention_mask") is None:
            return {"input_ids": input_ids}
        mask = batch["attention_mask"].to(self.device)
        return {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions_from(mask)}


def _columns(positions: int | torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
    """`positions` as a `[B, K]` tensor of columns counted from the left."""
    rows, width = input_ids.shape
    columns = torch.as_tensor(positions, device=input_ids.device)
    columns = columns if columns.dim() == 2 else columns.reshape(-1, 1)
    columns = torch.where(columns < 0, columns + width, columns)
    if len(columns) not in (1, rows):
        raise BadInput(
            "positions", list(columns.shape), f"Give one int, or as many rows of them as the batch: {rows}."
        )
    # Only where looking costs no wait for the device.
    if columns.device.type == "cpu" and not ((columns >= 0) & (columns < width)).all():
        raise BadInput(
            "positions", positions, f"The rows have {width} columns: use 0 to {width - 1}, or negative ones."
        )
    return columns.expand(rows, -1)


def _dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    if dtype not in DTYPES:
        raise BadInput("dtype", dtype, f"Use one of {', '.join(DTYPES)}.")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]


def _quantization_config(quantization: str, dtype: str | torch.dtype) -> Any:
    if quantization not in QUANTIZATION:
        raise BadInput("quantization", quantization, f"Use one of {', '.join(QUANTIZATION)}.")
    if quantization == "none":
        return None
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise BadInput(
            "quantization",
            quantization,
            "Install it: pip install 'consistency-lens[quant]'.",
            why="bitsandbytes is missing",
        ) from None
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        # A warning for each layer of each pass otherwise: activations are cast to float16 for the product.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = dtype if isinstance(dtype, torch.dtype) else torch.bfloat16
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )


def _keep_differentiable(model: PreTrainedModel) -> None:
    """Stop bitsandbytes from repacking 4-bit weights on CPUs with AVX512-BF16.

    The first pass without gradient would turn them into a format whose product has no backward, and every gradient
    after it would be silently wrong.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def choose_attention(
    config: PreTrainedConfig,
    wanted: str,
    dtype: str | torch.dtype,
    device_map: str | dict[str, Any] | None,
) -> str:
    """Settle `auto`: FlashAttention 3, then 2, then sdpa, then eager, by what is installed and supported."""
    if wanted not in ATTENTION:
        raise BadInput("attn_implementation", wanted, f"Use one of {', '.join(ATTENTION)}.")
    installed = {"flash_attention_3": is_flash_attn_3_available(), "flash_attention_2": is_flash_attn_2_available()}
    if wanted in installed and not installed[wanted]:
        raise BadInput(
            "attn_implementation",
            wanted,
            "Install it (pip install 'consistency-lens[flash]', needs CUDA), or use 'auto'.",
            why="this kernel is not installed",
        )
    if wanted != "auto":
        return wanted
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    half = (config.dtype if dtype == "auto" else dtype) in (torch.float16, torch.bfloat16)
    if half and device_map is not None and torch.cuda.is_available() and architecture._supports_flash_attn:
        hopper = torch.cuda.get_device_capability()[0] >= 9
        if installed["flash_attention_3"] and hopper:
            return "flash_attention_3"
        if installed["flash_attention_2"]:
            return "flash_attention_2"
    return "sdpa" if architecture._supports_sdpa else "eager"
