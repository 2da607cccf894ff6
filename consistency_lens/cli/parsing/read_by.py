"""Which commands read an option: for the pages of `--help`, and for whoever types one that a command does not read."""

from __future__ import annotations

from collections.abc import Iterable

from ...activations import CorpusArguments
from .arguments import (
    ExplainArguments,
    ExportArguments,
    PublishArguments,
    ReportArguments,
    SubjectArguments,
)
from .commands import COMMANDS, COMMON, RUN_ALL
from .options import OWN_NAMES, Options

TRAINS, USES = (RUN_ALL, "train"), ("evaluate", "explain", "export")
COMPUTES = (*TRAINS, "extract", *USES)
# Which commands read the options of a dataclass; TRAINS where it is not here, and what a family says of its own.
_OF_GROUP = {
    SubjectArguments: (*COMPUTES, "plan", "steer"),
    CorpusArguments: (*TRAINS, "extract", "explain"),
    ReportArguments: (RUN_ALL, "evaluate"),
    ExplainArguments: ("explain",),
    ExportArguments: ("export",),
    PublishArguments: ("publish",),
}
# And of a single option, where that is another thing. `uses` stands for the commands that a family alone has.
_OF_OPTION = {
    "family": (*COMPUTES, "plan"),
    "activations": (*TRAINS, "evaluate", "export", "plan"),
    "dataset_name": (*TRAINS, "extract", "explain", "plan"),
    "train_file": (*TRAINS, "extract", "explain", "plan"),
    "lens": (*USES, "explore", "publish", "uses"),
    "cpu_threads": (*COMPUTES, "uses"),
    "json": ("explain", "evaluate", "plan", "env", "steer"),
    "output": ("explain", "compress"),
    "output_dir": (*TRAINS, "evaluate"),
    "overwrite": (RUN_ALL, "extract", "explain"),
    "use_cpu": (*COMPUTES, "uses"),
    "hub_token": (*COMPUTES, "publish", "uses"),
    "push_to_hub": (*TRAINS, "extract"),
    "revision": (*COMPUTES, "plan", "publish", "steer"),
    "model_name_or_path": (*COMPUTES, "explore", "plan", "uses"),
    "other_models": (*COMPUTES, "explore", "uses"),
    "repo_id": ("publish", "export"),
    "to": ("export", "skill"),
    "private": ("publish", "export", "extract"),
    "hub_dataset_id": ("publish", "extract"),
    "hub_private_repo": (*TRAINS, "extract"),
    "activations_dir": (*TRAINS, "extract", "evaluate", "export", "plan"),
    "batch_size": (*TRAINS, "extract", "plan"),  # of a training, where it streams
}
# What every command reads: its family, and the machine that it runs on.
_OF_ALL = {"family", "use_cpu", "cpu_threads", "hub_token"}
_PLANNED = {"max_steps", "gradient_accumulation_steps", "activation_checkpointing"}  # of transformers' own


def commands_of(options: Options, group: str, name: str) -> list[str]:
    """The commands that read an option, which stands in this group."""
    run, arguments = options.run, options.groups[group]
    by_family = run.read_by.get(name, run.read_by.get(group))
    if arguments is run.data_options:
        of_group: tuple[str, ...] = (RUN_ALL, "extract", "plan")
    elif arguments in (run.lens_options, options.training) and (name not in options.inherited or name in _PLANNED):
        of_group = (*TRAINS, "plan")
    else:
        of_group = _OF_GROUP.get(arguments, TRAINS)
    wanted = by_family or _OF_OPTION.get(name, of_group)
    if "uses" in wanted:
        wanted = (*wanted, *run.uses)
    theirs = {*COMMON, *run.commands, *run.uses}
    return [each for each in (RUN_ALL, *COMMANDS, *run.uses) if each in wanted and each in theirs]


def readers_of(name: str, options: Options) -> list[str]:
    """The commands that read an option; none where it is no option of a family's."""
    groups = [group for group in options.groups if name in options.fields_of(group)]
    found = [each for group in groups for each in commands_of(options, group, name)]
    return list(dict.fromkeys([*found, "extract"] if name in OWN_NAMES else found))


def unread(command: str, given: Iterable[str], options: Options) -> list[str]:
    """A sentence for each option that is typed and that the command does not read: a command may be given the options
    of a whole run. A recipe has those of all commands anyway; `plan` hands on what others read."""
    found = []
    for name in given if command not in (RUN_ALL, "plan") else ():
        readers = readers_of(name, options)
        if readers and command not in readers and name not in _OF_ALL:
            found.append(f"--{name} changes nothing in {command}: it is read by {', '.join(readers)}.")
    return found
