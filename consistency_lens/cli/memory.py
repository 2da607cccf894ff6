"""Out of memory on a GPU: which knobs help, in the order in which they cost least, and what is kept."""

from __future__ import annotations

from ..base.robust.memory import MemoryShortInEvaluation
from ..base.saving.checkpoint import how_to_go_on
from .parsing.request import Request
from .run_folder import LENS

FIRST = (
    "lower --per_device_train_batch_size, and raise --gradient_accumulation_steps by as much",
    "--auto_find_batch_size, in a single process: it lowers it until there is room",
)
LAST = (
    "--dtype bfloat16, then --quantization 4bit",
    "extract rows with a lower --max_length",
)
READING = ("lower --batch_size", "lower --max_length", "--dtype bfloat16", "--quantization 8bit, then 4bit")
JUDGING = ("lower --report_batch_size", "lower --report_horizon", "--dtype bfloat16", "--quantization 8bit, then 4bit")
SPEAKING = ("fewer --positions", "a shorter text", "--dtype bfloat16", "--quantization 8bit, then 4bit")
WATCHING = (
    "lower --per_device_eval_batch_size",
    "lower --kl_horizon",
    "--dtype bfloat16, then --quantization 4bit",
    "extract rows with a lower --max_length",
)
KNOBS = {"extract": READING, "evaluate": JUDGING, "explain": SPEAKING}


def advice(request: Request, error: Exception) -> str:
    """What to say when the GPU has no memory left, at the stage at which a run was."""
    stage = request.stage or request.command
    kept = how_to_go_on(request.folder) if request.folder else ""
    if stage == "extract":
        again = (
            "--resume goes on from there" if request.command == "extract" else "the same command goes on from there"
        )
        kept = f"Finished shards are kept: {again}."
    elif stage == "evaluate" and request.folder and (request.folder / LENS).is_dir():
        kept = f"The lens is kept: run_lens.py evaluate --lens {request.folder} measures it."
    helpful = (
        WATCHING
        if isinstance(error, MemoryShortInEvaluation)
        else KNOBS.get(stage, (*FIRST, *request.options.run.memory_advice, *LAST))
    )
    knobs = "\n".join(f"  {i}. {knob}" for i, knob in enumerate(helpful, 1))
    said = str(error).partition(".")[0]
    return f"the GPU is out of memory ({said}). What helps, in this order:\n{knobs}\n{kept}".rstrip()
