"""Two processes share the work and write the bytes that one would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from extracting import ROOT, options, random_texts, saved_model, shards, write_jsonl, written

from consistency_lens.activations import Activations

pytestmark = pytest.mark.distributed


def words_for(folder: Path, corpus: Path, **more: Any) -> list[str]:
    given = {"train_file": corpus, "output_dir": folder, "model_name_or_path": saved_model(), "min_position": 4}
    given |= {"sites": ["embed", "resid_post.1"], "documents_per_shard": 30}
    return ["extract", *options(**(given | more))]


def launch(words: list[str], processes: int, log: Path) -> tuple[int, str]:
    """`accelerate launch run_lens.py words...`, as the README says it; without it, for one process."""
    by = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "ds_configs/ddp.yaml")]
    by += ["--main_process_port", "0", "--num_processes", str(processes)]
    command = [sys.executable, *(by if processes > 1 else []), str(ROOT / "run_lens.py"), *words]
    with log.open("w") as file:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, stdout=file, stderr=file, env=environment, timeout=300, check=False)
    return done.returncode, log.read_text()


def test_two_processes_write_what_one_writes(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "texts.jsonl", random_texts(400))
    for processes, said in [(1, "in one process"), (2, "in 2 processes")]:
        _, log = launch(words_for(tmp_path / str(processes), corpus), processes, tmp_path / f"log{processes}")
        # The folder counts: gloo has been seen to abort after everything was done.
        assert (tmp_path / str(processes) / "extraction.json").exists(), log
        assert said in log
    assert len(shards(tmp_path / "2")) > 30
    assert written(tmp_path / "2") == written(tmp_path / "1")
    assert len(Activations.load(tmp_path / "2").splits["train"]) > 1000
    # Each process reports its own share of the fourteen chunks: the main one has seven of 30 documents.
    assert re.search(r"extracting: 100%.* 210/210 ", log)


def test_two_processes_go_on_where_one_stopped(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "texts.jsonl", random_texts(200))
    folder = tmp_path / "rows"
    _, log = launch(words_for(folder, corpus), 1, tmp_path / "log1")
    whole = written(folder)
    for name in ("extraction.json", "dataset_dict.json"):
        (folder / name).unlink()
    for index in (0, 2, 5, 6):
        (folder / f".progress/{index:05d}.json").unlink()
        (folder / f"train/data-{index:05d}.arrow").unlink()
    _, log = launch(words_for(folder, corpus, resume=True), 2, tmp_path / "log2")
    assert (folder / "extraction.json").exists(), log
    assert written(folder) == whole


def test_what_one_process_refuses_ends_the_other_too(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "texts.jsonl", random_texts(60))
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "thesis.tex").write_text("years of work")
    code, log = launch(words_for(tmp_path / "rows", corpus), 2, tmp_path / "log")
    assert code != 0 and "it is not empty" in log
    assert [path.name for path in (tmp_path / "rows").iterdir()] == ["thesis.tex"]
