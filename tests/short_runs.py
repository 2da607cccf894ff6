"""What the short runs of all families have in common: small batches, one measure a step, nothing saved or reported."""

from __future__ import annotations

from typing import Any

SHORT: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "eval_rows": 8,
    "sample_rows": 4,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}
