"""How a frozen LLM is loaded: dtype, quantisation and attention implementation; what it is loaded as is read back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available
from transformers.utils.quantization_config import QuantizationConfigMixin

from ...errors import BadInput

ATTENTION = ("auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")
QUANTIZATION = ("none", "8bit", "4bit", "fp8")
FP8 = (8, 9)  # the compute capability from which a GPU multiplies such numbers
DTYPES = ("auto", "float32", "bfloat16", "float16")


def torch_dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    """The dtype behind a name; `auto` stays as it is."""
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    if dtype not in DTYPES:
        raise BadInput("dtype", dtype, f"Use one of {', '.join(DTYPES)}.")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]


def quantization_of(config: PreTrainedConfig) -> str:
    """What a model's own configuration says: `none`, `8bit` or `4bit` (bitsandbytes), `fp8` (torchao), or another
    method's name."""
    for part in (config, config.get_text_config()):
        record = part.to_dict().get("quantization_config")
        if record:
            if record.get("load_in_4bit"):
                return "4bit"
            if record.get("load_in_8bit"):
                return "8bit"
            method = record.get("quant_method", "unknown")
            method = str(method.value if isinstance(method, Enum) else method)
            return "fp8" if method == "torchao" and "Float8" in str(record.get("quant_type")) else method
    return "none"


def quantization_options(
    config: PreTrainedConfig, wanted: str, dtype: str | torch.dtype, own: Any = None
) -> dict[str, Any]:
    """What `from_pretrained` of transformers has to be told to quantise: nothing where the checkpoint already is.

    Args:
        config: of the model.
        wanted: a name of `QUANTIZATION`.
        dtype: that products are computed in.
        own: a `quantization_config` of transformers, as an object or a dict, in the place of a name.

    Raises:
        BadInput: when the checkpoint is quantised in another way than the wanted one, or a package is missing.
    """
    if own is not None:
        return {"quantization_config": _as_given(config, wanted, own)}
    if wanted not in QUANTIZATION:
        raise BadInput("quantization", wanted, f"Use one of {', '.join(QUANTIZATION)}.")
    saved = quantization_of(config)
    if wanted not in ("none", saved) and saved != "none":
        fix = "Leave it at 'none' to take the checkpoint as it is, or load one that is not quantised."
        raise BadInput("quantization", wanted, fix, why=f"the checkpoint itself is quantised: {saved}")
    if wanted in ("8bit", "4bit") or saved in ("8bit", "4bit"):
        _require_bitsandbytes(wanted if saved == "none" else saved)
    if wanted == "none" or saved != "none":
        return {}
    if wanted == "fp8":
        return {"quantization_config": _fp8()}
    from transformers import BitsAndBytesConfig

    if wanted == "8bit":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    compute = dtype if isinstance(dtype, torch.dtype) else torch.bfloat16
    four = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )
    return {"quantization_config": four}


def _as_given(config: PreTrainedConfig, wanted: str, own: Any) -> Any:
    """A `quantization_config` as it is; raise where something else quantises the model, too."""
    field, shown = "quantization_config", type(own).__name__
    if wanted != "none":
        fix = "Give one of the two."
        raise BadInput(field, shown, fix, why=f"quantization={wanted!r} says the same in another way")
    if not isinstance(own, dict | QuantizationConfigMixin):
        raise BadInput(field, shown, "Give one of transformers, as in BitsAndBytesConfig(load_in_8bit=True).")
    if (saved := quantization_of(config)) != "none":
        fix = "Leave it out to take the checkpoint as it is, or load one that is not quantised."
        raise BadInput(field, shown, fix, why=f"the checkpoint itself is quantised: {saved}")
    said = own if isinstance(own, dict) else own.to_dict()
    if said.get("load_in_4bit") or said.get("load_in_8bit"):
        _require_bitsandbytes("4bit" if said.get("load_in_4bit") else "8bit")
    return own


def _fp8() -> Any:
    """Weights in 8-bit floats, products in the model's dtype; refused where no GPU has such numbers."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < FP8:
        fix = "Use 8bit or 4bit, or an NVIDIA GPU of the Ada or Hopper generation or a newer one."
        raise BadInput("quantization", "fp8", fix, why="this machine has no GPU with 8-bit floats")
    try:
        from torchao.quantization import Float8WeightOnlyConfig
    except ImportError:
        fix = "Install it: pip install torchao."
        raise BadInput("quantization", "fp8", fix, why="torchao is missing") from None
    from transformers import TorchAoConfig

    return TorchAoConfig(Float8WeightOnlyConfig())


def _require_bitsandbytes(quantization: str) -> None:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        fix = "Install it: pip install 'consistency-lens[quant]'."
        raise BadInput("quantization", quantization, fix, why="bitsandbytes is missing") from None


def settle_quantized(model: PreTrainedModel) -> str:
    """Make a quantised model quiet and keep it differentiable; returns how it is quantised."""
    quantization = quantization_of(model.config)
    if quantization == "8bit":
        # A warning for each layer of each pass otherwise: activations are cast to float16 for the product.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    elif quantization == "4bit":
        _keep_differentiable(model)
    return quantization


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
    """Settle `auto`: FlashAttention 3, then 2, then sdpa, then eager, by what is installed and supported. A model
    that is kept on the CPU, for good or until an engine spreads it, gets none of the first two; blocks that only wait
    there for their passes do."""
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
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:  # code of its own, or no causal model: loading it tells
        return "eager"
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    half = (config.dtype if dtype == "auto" else dtype) in (torch.float16, torch.bfloat16)
    if half and architecture._supports_flash_attn and _is_on_gpu(device_map) and torch.cuda.is_available():
        # Of the least of them: a map may name any.
        hopper = min(torch.cuda.get_device_capability(i)[0] for i in range(torch.cuda.device_count())) >= 9
        if installed["flash_attention_3"] and hopper:
            return "flash_attention_3"
        if installed["flash_attention_2"]:
            return "flash_attention_2"
    return "sdpa" if architecture._supports_sdpa else "eager"


def _is_on_gpu(device_map: str | dict[str, Any] | None) -> bool:
    """Whether any part of a model is: the rest is then brought there, too, for its passes."""
    places = device_map.values() if isinstance(device_map, dict) else [device_map]
    return any(str(place).partition(":")[0] not in ("None", "cpu", "disk") for place in places)


def in_float32(model: PreTrainedModel) -> PreTrainedModel:
    """The model with weights in float32, which FlashAttention does not take: sdpa stands in for it."""
    if model.config._attn_implementation.startswith("flash_attention"):
        model.set_attn_implementation("sdpa")
    return model.float()


@contextmanager
def own_code_refused(place: str | Path, field: str = "model_name_or_path") -> Iterator[None]:
    """Within it, what `trust_remote_code=False` of transformers raises is a refusal in one line."""
    try:
        yield
    except BadInput:
        raise
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        fix = (
            "Take a model whose architecture transformers itself knows; or, if you have read that code, name the "
            "model yourself, with --trust_remote_code (FrozenLM.from_pretrained(..., trust_remote_code=True))."
        )
        raise BadInput(field, str(place), fix, why="it holds code of its own, which is not run") from None
