"""Out of memory on a GPU: which knobs help, in the order in which they cost least, and what is kept."""

from __future__ import annotations

from ..base.checkpoint import how_to_go_on
from .parsing import Request

TRAINING = (
    "lower --per_device_train_batch_size, and raise --gradient_accumulation_steps by as much",
    "lower --rollouts, or --estimator parallel",
    "--activation_checkpointing",
    "lower --code_length",
    "--trainable lora instead of full, with a lower --lora_rank",
    "--dtype bfloat16, then --quantization 4bit",
    "extract rows with a lower --max_length",
)
READING = ("lower --batch_size", "lower --max_length", "--dtype bfloat16", "--quantization 8bit, then 4bit")
JUDGING = ("lower --report_batch_size", "lower --report_horizon", "--dtype bfloat16", "--quantization 8bit, then 4bit")
SPEAKING = ("fewer --positions", "a shorter text", "--dtype bfloat16", "--quantization 8bit, then 4bit")
KNOBS = {"extract": READING, "evaluate": JUDGING, "explain": SPEAKING}


def advice(request: Request, error: Exception) -> str:
    """What to say when the GPU has no memory left."""
    kept = how_to_go_on(request.folder) if request.folder else ""
    if request.command == "extract":
        kept = "Finished shards are kept: --resume goes on from there."
    knobs = "\n".join(f"  {i}. {knob}" for i, knob in enumerate(KNOBS.get(request.command, TRAINING), 1))
    said = str(error).partition(".")[0]
    return f"the GPU is out of memory ({said}). What helps, in this order:\n{knobs}\n{kept}".rstrip()
