"""`extract --push_to_hub` and a whole run that ends on the Hub: rows with their card, and no token in anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from extracting import random_texts, saved_model, write_jsonl

from consistency_lens import Activations
from consistency_lens.activations.blocks import Blocks

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from hub_client import HubClient, command
from hub_server import TOKEN, Hub, Trouble
from test_publish import billed, edit_on_the_hub, tree


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("texts") / "texts.jsonl", random_texts(70))


def words_for(texts: Path, folder: Path, *more: str) -> list[str]:
    given = ["extract", "--model_name_or_path", str(saved_model()), "--train_file", str(texts), "--use_cpu"]
    given += ["--sites", "resid_post.1", "--min_position", "4", "--validation_fraction", ".2", "--test_fraction", ".2"]
    return [*given, "--output_dir", str(folder), *more]


def loaded(name: str) -> Any:
    rows = Activations.load(name)
    return rows.metadata["provenance"], [rows.splits[split].to_list() for split in rows.splits]


@pytest.mark.parametrize("named", [True, False])
def test_rows_are_published_as_a_dataset_with_its_card(
    online: tuple[Hub, HubClient], texts: Path, tmp_path: Path, named: bool
) -> None:
    server, client = online
    folder, name = tmp_path / "my-rows", "me/some-rows" if named else "me/my-rows"
    more = ["--push_to_hub", *(["--hub_dataset_id", name] if named else []), "--hub_token", TOKEN]
    code, said = client(command, words_for(texts, folder, *more))
    assert code == 0, said
    files = tree(server, name, "dataset")
    assert {"README.md", "extraction.json", "statistics.safetensors", "dataset_dict.json"} <= set(files)
    assert not any(".progress" in path or "lock" in path for path in files)
    card = files["README.md"].data.decode()
    assert f'load_dataset("{name}")' in card and 'load_from_disk("my-rows")' in card
    assert TOKEN not in card + said and "--hub_token '***'" in card
    edit_on_the_hub(server, name, "<!-- generated: load -->", "Written on the Hub.", "dataset")
    code, said = client(command, words_for(texts, folder, *more, "--overwrite"))
    assert code == 0, said
    assert (
        "\nWritten on the Hub.\n\n<!-- generated: load -->" in tree(server, name, "dataset")["README.md"].data.decode()
    )
    here = Activations.load(folder)
    there = client(loaded, name)
    assert there[0] == here.metadata["provenance"]
    assert there[1] == [here.splits[split].to_list() for split in here.splits]


def test_a_second_extraction_keeps_what_a_person_wrote_on_the_card(
    online: tuple[Hub, HubClient], texts: Path, tmp_path: Path
) -> None:
    server, client = online
    folder, path = tmp_path / "rows", tmp_path / "rows/README.md"
    code, said = client(command, words_for(texts, folder))
    assert code == 0, said
    mine = path.read_text("utf-8").replace("tags:", "language: en\ntags:").replace("## Norms", "edited inside")
    path.write_text(mine.replace("<!-- generated: load -->", "By hand.\n\n<!-- generated: load -->"), "utf-8")
    for name in ("notes.md", "train/mine.json", "mine.arrow"):
        (folder / name).write_text("my own")
    again = ["--positions_per_document", "2", "--overwrite", "--private", "--hub_dataset_id", "me/again"]
    code, said = client(command, words_for(texts, folder, *again))
    assert code == 0 and "to the private dataset me/again" in said, said
    files = tree(server, "me/again", "dataset")
    assert not {"notes.md", "train/mine.json", "mine.arrow"} & set(files)
    for card in (path.read_text("utf-8"), files["README.md"].data.decode()):
        assert "\nBy hand.\n\n<!-- generated: load -->" in card and "\nlanguage: en\n" in card
        assert "edited inside" not in card and "## Norms" in card
        assert "positions\\_per" not in card and "--positions_per_document 2" in card


def test_a_dataset_that_may_not_be_written_is_said_before_the_work(
    online: tuple[Hub, HubClient], texts: Path, tmp_path: Path
) -> None:
    _, client = online
    words = words_for(texts, tmp_path / "rows", "--push_to_hub", "--hub_dataset_id", "you/rows")
    code, said = client(command, words)
    assert code == 2 and "hub_dataset_id='you/rows': the Hub says 403" in said
    assert not (tmp_path / "rows/extraction.json").exists()


# ---- a whole run, and no token in anything it leaves


SMALL = [
    *["--use_cpu", "--code_length", "3", "--prompt", "w1 <A> w2", "--warm_steps", "1", "--max_steps", "2"],
    *["--per_device_train_batch_size", "6", "--per_device_eval_batch_size", "16", "--eval_strategy", "steps"],
    *["--eval_steps", "2", "--save_steps", "2", "--eval_rows", "16", "--sample_rows", "4", "--rollouts", "2"],
    *["--kl_horizon", "2", "--report_rows", "24", "--no_tail_baseline", "--trainable", "projections"],
]


@pytest.mark.parametrize("way", ["option", "environment"])
def test_a_run_ends_on_the_hub_and_no_token_is_anywhere(
    online: tuple[Hub, HubClient], texts: Path, tmp_path: Path, way: str
) -> None:
    """Given as an option or by the environment, and sent back by a server in trouble."""
    server, client = online
    folder, name = tmp_path / "whole", f"me/whole-{way}"
    words = ["--model_name_or_path", str(saved_model()), "--train_file", str(texts), "--output_dir", str(folder)]
    words += ["--sites", "resid_post.1", "--min_position", "4", "--validation_fraction", ".2", "--test_fraction", ".2"]
    words += [*SMALL, "--push_to_hub", "--hub_model_id", name, "--activations_dir", str(tmp_path / "rows")]
    words += ["--hub_token", TOKEN] if way == "option" else []
    server.trouble.append(Trouble("commit/main", 400, "you sent {token}", times=1))
    code, said = client(command, words, str(tmp_path))
    assert code == 0, said
    files = tree(server, name)
    assert {"README.md", "config.json", "model.safetensors", "samples.parquet", "report/report.json"} <= set(files)
    assert f'from_pretrained("{name}"' in files["README.md"].data.decode()
    kept = [path for path in (*folder.rglob("*"), *(tmp_path / "rows").rglob("*")) if path.is_file()]
    assert {"log.txt", "recipe.yaml", "run.json", "README.md", "training_args.json"} <= {path.name for path in kept}
    leaks = [path.name for path in kept if TOKEN.encode() in path.read_bytes()]
    leaks += [path for path, blob in files.items() if TOKEN.encode() in blob.data]
    assert not leaks and TOKEN not in said
    assert ("model", name) in billed(said)
    assert "not pushed" in said + (folder / "log.txt").read_text() and not os.environ.get("HF_TOKEN")


def test_blocks_are_published_whole(online: tuple[Hub, HubClient], texts: Path, tmp_path: Path) -> None:
    server, client = online
    words = ["extract", "--family", "sparse", "--model_name_or_path", str(saved_model()), "--train_file", str(texts)]
    words += ["--use_cpu", "--sites", "mlp_out.1", "--output_dir", str(tmp_path / "blocks"), "--hub_token", TOKEN]
    code, said = client(command, [*words, "--push_to_hub", "--hub_dataset_id", "me/blocks"])
    assert code == 0, said
    here = {shard.file for shard in Blocks.load(tmp_path / "blocks").shards()}
    assert here and here <= set(tree(server, "me/blocks", "dataset"))
