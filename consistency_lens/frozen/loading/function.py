"""What of a model's configuration changes what it computes, and so belongs to its provenance."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

# What does not: names and versions, how weights are stored, training, generation, what is given out beside logits.
_NO_FUNCTION = re.compile(
    r"_.*|architectures|auto_map|.*dtype|.*version|.*_?(path|name|class|prefix)|quantization_config|initializer_.*|.*init"
    r"|.*(dropout|pdrop)|gradient_checkpointing|use_cache|output_.*|return_dict.*|torchscript|.*_token(_id|_index)|id2label"
    r"|label2id|vocab_size|problem_type|summary_.*|task_specific_params|chunk_size_feed_forward|pretraining_tp|.*(loss|z)_coef"
)


def function_of(config: PreTrainedConfig) -> dict[str, Any]:
    """What of a model's configuration changes what it computes for a text, as plain JSON: field -> value, those of
    nested parts as `part.field`. Of strings only words: a path is no part of any function."""
    found: dict[str, Any] = {}

    def gather(record: Mapping[str, Any], start: str) -> None:
        for name, value in record.items():
            if isinstance(name, str) and not _NO_FUNCTION.fullmatch(name):
                if isinstance(value, dict):
                    gather(value, f"{start}{name}.")
                elif not isinstance(value, str) or value.replace("_", "").replace("-", "").isalnum():
                    found[f"{start}{name}"] = value

    gather(json.loads(config.get_text_config().to_json_string(use_diff=False)), "")
    return dict(sorted(found.items()))
