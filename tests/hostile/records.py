"""What lies beside weights and rows: reports, records of trainings, metadata of extractions, recipes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

import yaml
from fake_reports import report_of
from lens_runs import rows_folder
from transformers import TrainerState

from consistency_lens import BadInput, Report
from consistency_lens.activations import Activations
from consistency_lens.activations.manifest import FILES, SEAL, sealed
from consistency_lens.auto import DEFAULT_FAMILY
from consistency_lens.base.saving.checkpoint import require_complete
from consistency_lens.base.saving.lens_card import TrainingRecord, facts_of
from consistency_lens.card import model_card
from consistency_lens.cli.parsing.options import options_of
from consistency_lens.cli.parsing.recipes import as_options, load_recipe
from consistency_lens.cli.run_folder import first_command, read_history

from .lenses import saved_lens
from .mutations import spoil_bytes, spoil_json

# YAML that says little and means much, or nothing at all.
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(9 * ['*' + old])}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
# Where it is there, the fast one: what takes long shall be what is attacked.
DUMPER = yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper
RECIPES = [
    *[BOMB, "a: &a [*a]", "[" * 5000, "learning_rate: " + "9" * 5000, "learning_rate: 2020-99-99", "? {a: 1}\n: 2"],
    *[
        "!!python/object/apply:os.system ['touch ran']",
        "code_length: .nan",
        "1: 2",
        "~",
        "- a",
        "\x00",
        "site: {a: 1}",
    ],
    *["sites: [1, [2]]", "prompt: no", "output_dir: [a]", "<<: 3", "code_length: !!binary aGk=", "a: 'b", "%YAML 9"],
]


@cache
def _reports() -> Path:
    folder = saved_lens("full") / "for-reports"
    report_of({"lens": 0.9, "context_tail": 0.5}, on_facts={"lens": 0.95, "context_tail": 0.4}).save(folder)
    return folder


def report(folder: Path, random: Random) -> str:
    """A report, to be read, judged and told again."""
    path = Path(shutil.copy(_reports() / "report.json", folder / "report.json"))
    done = spoil_json(path, random) if random.random() < 0.9 else spoil_bytes(path, random)
    found = Report.load(folder)
    found.to_dict()
    found.save(folder / "again")
    return done


def training(folder: Path, random: Random) -> str:
    """What a training has left beside its lens, to be told on the card again."""
    from consistency_lens.text.configuration import ConsistencyLensConfig

    history = [{"step": 1, "kl_recovered": 0.5}]
    TrainingRecord(name="x", step=1, max_steps=2, counts={"train": (1, 2)}, sizes={"maps": 3}, history=history).save(
        folder
    )
    done = spoil_json(folder / "training.json", random)
    record = TrainingRecord.load(folder)
    assert record is not None
    model_card(facts_of(ConsistencyLensConfig.from_pretrained(saved_lens("projections")), record))
    return done


def extraction(folder: Path, random: Random) -> str:
    """Rows whose metadata, statistics or layout are otherwise."""
    rows = shutil.copytree(rows_folder("llama"), folder / "rows")
    if random.random() < 0.6:
        done = spoil_json(rows / "extraction.json", random)
        if random.random() < 0.8:
            _seal_again(rows)
    else:
        done = spoil_bytes(rows / "statistics.safetensors", random)
    found = Activations.load(rows)
    for site in found.sites:
        found.mean(site)
    if len(found.splits["train"]) > 1:
        found.collator(pair=False)([found.splits["train"][i] for i in range(2)])
    return done


def _seal_again(rows: Path) -> None:
    """As whoever changes the metadata can do, unless nobody can read them."""
    try:
        said = json.loads((rows / "extraction.json").read_text())
    except (RecursionError, ValueError):
        return
    if isinstance(said, dict):
        rest = {name: value for name, value in said.items() if name not in (FILES, SEAL)}
        (rows / "extraction.json").write_text(json.dumps(sealed(rows, rest)))


def run_records(folder: Path, random: Random) -> str:
    """How a run was started, what it logged, and how far a checkpoint of it is."""
    state = TrainerState(global_step=3, max_steps=4, log_history=[{"step": 1, "loss": 2.0}])
    state.save_to_json(str(folder / "trainer_state.json"))
    (folder / "run.json").write_text(json.dumps({"name": "x", "starts": [{"command": "run_lens.py train"}]}))
    (folder / "history.json").write_text(json.dumps([{"step": 1, "loss": 1.0}]))
    (folder / "engine.json").write_text(json.dumps({"name": "alone", "processes": 1, "copies": 1}))
    readers: dict[str, Callable[[Path], object]] = {
        "run.json": first_command,
        "history.json": read_history,
        "trainer_state.json": lambda place: (
            require_complete(place),
            TrainerState.load_from_json(str(place / "trainer_state.json")),
        ),
    }
    name = random.choice(list(readers))
    spoil = spoil_json if random.random() < 0.8 else spoil_bytes
    done = spoil(folder / name, random)
    readers[name](folder)
    return done


def recipe(folder: Path, random: Random) -> str:
    """A recipe that is no recipe."""
    path = folder / "recipe.yaml"
    if random.random() < 0.5:
        path.write_text(random.choice(RECIPES), "utf-8")
    else:
        said = {"code_length": 8, "site": "resid_post.1", "learning_rate": 1e-4, "prompt": "<A> :", "sites": ["embed"]}
        (folder / "said.json").write_text(json.dumps(said))
        spoil_json(folder / "said.json", random)
        try:
            path.write_text(yaml.dump(json.loads((folder / "said.json").read_text()), Dumper=DUMPER), "utf-8")
        except (ValueError, RecursionError, UnicodeError, yaml.YAMLError) as error:
            raise BadInput("recipe", "none", "There is no such YAML.", str(error)[:100]) from error
    found = load_recipe(str(path))
    as_options(found, options_of(DEFAULT_FAMILY))
    assert not (Path.cwd() / "ran").exists()
    return path.read_text("utf-8")[:500]
