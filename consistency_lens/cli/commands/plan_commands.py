"""What to type after a plan: commands that do what it recommends, with all that it was told and all that it chose."""

from __future__ import annotations

import shlex
from typing import Any

from ...budget import Option
from ..parsing.recipes import PLAN, SECRETS, as_options
from ..parsing.request import Request

ROWS, RESUMES = "outputs/activations", "resume_from_checkpoint"


def as_fields(option: Option) -> dict[str, Any]:
    """The choices, under their names on the command line."""
    work = option.work
    return {
        "trainable": work.trainable,
        "quantization": work.quantization,
        "activation_checkpointing": work.checkpointing,
        "per_device_train_batch_size": work.rows,
        "gradient_accumulation_steps": work.accumulation,
    }


def commands_of(request: Request, option: Option, steps: int, warm_steps: int) -> list[str]:
    """One for the whole run; where weights are spread, one for each of its stages that can be started before it. More
    than one machine is a job for their scheduler."""
    work, values = option.work, request.values
    told = {name: values[name] for name in sorted(request.given & values.keys())}
    resumes = {RESUMES} if _is_job(request) else set()  # by itself
    for name in {*request.options.fields_of(PLAN), *SECRETS, *resumes, "json"} & told.keys():
        del told[name]
    chosen = as_fields(option)
    if work.trainable == "lora":
        chosen["lora_rank"] = work.rank
    if values["max_steps"] <= 0:  # what was assumed
        chosen |= {"max_steps": steps, "warm_steps": warm_steps}
    start = [f"--config={request.config}"] if request.config else []
    if not work.spread:
        return [_launched(request, option, "ddp", [*start, *as_options(told | chosen, request.options)])]
    # No process holds the weights when the training is over, so nothing is trained or judged behind it.
    chosen |= {"tail_baseline": False} | ({"ema_decay": 0.0} if values["ema_decay"] else {})
    commands = []
    if values["activations"] is None:
        told["activations_dir"] = values["activations_dir"] or ROWS
        rows = {name: value for name, value in told.items() if name not in ("output_dir", RESUMES)}
        rows |= {"quantization": "none", "device_map": "auto"}
        commands.append(shlex.join(["python", "run_lens.py", "extract", *start, *as_options(rows, request.options)]))
    words = ["train", *start, *as_options(told | chosen, request.options)]
    return [*commands, _launched(request, option, "hsdp" if work.copies > 1 else "fsdp2", words)]


def _launched(request: Request, option: Option, engine: str, words: list[str]) -> str:
    """`run_lens.py` with these words, in as many processes as the plan has."""
    processes, machine = option.work.processes, request.plan.gpus_per_machine
    if _is_job(request):
        if "output_dir" not in request.given:  # where a job that is requeued looks for its checkpoints
            name = str(request.values["model_name_or_path"]).rstrip("/").rpartition("/")[2]
            words = [*words, f"--output_dir={request.values['output_dir'] or f'outputs/{name}'}"]
        nodes = ["--nodes", str(processes // machine), "--gpus-per-node", str(machine)]
        job = shlex.join(["sbatch", *nodes, "ds_configs/slurm.sh", *words])
        return f"LAUNCH_CONFIG=ds_configs/{engine}.yaml {job}"
    config = ["--config_file", f"ds_configs/{engine}.yaml", "--num_processes", str(processes)] if processes > 1 else []
    return shlex.join(["accelerate", "launch", *config, "run_lens.py", *words])


def _is_job(request: Request) -> bool:
    return request.plan.gpus > request.plan.gpus_per_machine
