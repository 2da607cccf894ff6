"""`run_lens.py plan`: what fits on which GPU and how long it takes, and what to type then. The family reckons."""

from __future__ import annotations

import json
import sys

from ...base.family_run import Plan
from ...errors import BadInput
from ..opening import config_of, console
from ..parsing.request import Request
from .plan_commands import commands_of


def plan(request: Request) -> None:
    """Show what the family recommends, with the commands that do it."""
    require_sound(request)
    found = request.family.plan(config_of(request.subject), request.extraction, request.given)
    commands = commands_of(request, found)
    if request.explanation.json:
        sys.stdout.write(json.dumps({**found.record, "commands": commands}, indent=1) + "\n")
        return
    for each in found.shown:
        console.print(each, highlight=False)
    show_commands(request, found, commands)


def require_sound(request: Request) -> None:
    """Raise where training would refuse the fields, whatever this machine is: it need not be the one that trains."""
    for name in ("deepspeed", "fsdp"):
        if value := request.values[name]:
            fix = "Leave it out: plan says which engine to use, and whether weights have to be spread."
            raise BadInput(name, value, fix)
    request.training(output_dir="plan", bf16=False, fp16=False, tf32=None, deepspeed=None, fsdp=None)


def show_commands(request: Request, found: Plan, commands: list[str]) -> None:
    values = request.values
    console.print()
    for command in commands:
        console.print(command, style="bold", soft_wrap=True, highlight=False, markup=False)
    if len(commands) > 1 and found.processes > found.per_machine:
        console.print("The first one reads the rows, with the model over the GPUs of one machine.", highlight=False)
    if not (values["dataset_name"] or values["train_file"] or values["activations"]):
        console.print("Name the texts as well: --dataset_name or --train_file.", highlight=False)
    for note in found.notes:
        console.print(note, highlight=False)
    console.print("This is arithmetic: docs/costs.md says which of it has been measured.", style="dim")
