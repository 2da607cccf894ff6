"""What to type after a plan: commands that do what it recommends, with all that was given and all that it chose."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ...base.family_run import Plan
from ..parsing.read_by import readers_of
from ..parsing.recipes import PLAN, SECRETS, as_options
from ..parsing.request import Request

ROWS, RESUMES = "outputs/activations", "resume_from_checkpoint"


def commands_of(request: Request, plan: Plan) -> list[str]:
    """One for the whole run; where weights are spread, one for each of its stages that can be started before it. More
    than one machine is a job for their scheduler."""
    values = request.values
    given = {name: values[name] for name in sorted(request.given & values.keys())}
    resumes = {RESUMES} if _is_job(plan) else set()  # by itself
    for name in {*request.options.fields_of(PLAN), *SECRETS, *resumes, "json"} & given.keys():
        del given[name]
    start = [f"--config={request.config}"] if request.config else []
    if plan.data is None:
        return [_launched(request, plan, [*start, *as_options(given | plan.chosen, request.options)])]
    commands = []
    if values["activations"] is None:
        given["activations_dir"] = values["activations_dir"] or ROWS
        rows = _read_by("extract", given, request) | plan.data
        commands.append(shlex.join(["python", "run_lens.py", "extract", *start, *as_options(rows, request.options)]))
    words = ["train", *start, *as_options(_read_by("train", given, request) | plan.chosen, request.options)]
    return [*commands, _launched(request, plan, words)]


def _read_by(command: str, given: Mapping[str, Any], request: Request) -> dict[str, Any]:
    """The options that are one command's; the folder of a run is none of `extract`'s."""
    elsewhere = {"output_dir", "seed"} if command == "extract" else set()
    return {n: value for n, value in given.items() if command in readers_of(n, request.options) and n not in elsewhere}


def _launched(request: Request, plan: Plan, words: list[str]) -> str:
    """`run_lens.py` with these words, in as many processes as the plan has."""
    processes, machine = plan.processes, plan.per_machine
    if _is_job(plan):
        if "output_dir" not in request.given:  # where a job that is requeued looks for its checkpoints
            name = str(request.values["model_name_or_path"]).rstrip("/").rpartition("/")[2]
            words = [*words, f"--output_dir={request.values['output_dir'] or f'outputs/{name}'}"]
        nodes = ["--nodes", str(processes // machine), "--gpus-per-node", str(machine)]
        job = shlex.join(["sbatch", *nodes, "ds_configs/slurm.sh", *words])
        return f"LAUNCH_CONFIG=ds_configs/{plan.engine}.yaml {job}"
    config = [] if processes == 1 else ["--config_file", f"ds_configs/{plan.engine}.yaml"]
    config += [] if processes == 1 else ["--num_processes", str(processes)]
    return shlex.join(["accelerate", "launch", *config, "run_lens.py", *words])


def _is_job(plan: Plan) -> bool:
    return plan.processes > plan.per_machine
