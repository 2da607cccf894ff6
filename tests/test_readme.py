"""The README from top to bottom, as somebody does it who has cloned the project: each command as it is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from snippets import ROOT, commands, snippets

from consistency_lens import Activations, Report

BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# What another place runs, or no machine without a GPU and the network can.
ELSEWHERE = {
    "python3.11 -m venv .venv": "`.ci/run`, in a fresh environment",
    ".venv/bin/pip install -c constraints.txt -e .": "`.ci/run`",
    ".venv/bin/pip install -c constraints.txt -e '.[test]'": "`.ci/run`",
    ".venv/bin/pytest": "`.ci/run`; this test is a part of it",
    "python run_lens.py plan --config llama3_8b_lora --gpu_memory 80": "a gated model of the Hub",
    "accelerate launch run_lens.py --config qwen3_0.6b": "a model of the Hub, and hours of a GPU",
    "accelerate launch --config_file ds_configs/ddp.yaml --num_processes 8 run_lens.py --config my.yaml": "eight GPUs",
    snippets()["train"].code: "gpt2 of the Hub; test_docs.py runs it on a tiny one",
}
# What is written behind a command that would take a quarter of an hour: fewer steps, rows and documents.
SHORT = {
    ".venv/bin/accelerate launch run_lens.py": "--max_documents 1500 --warm_steps 8 --max_steps 12 --eval_steps 6 "
    "--save_steps 6 --report_rows 64 --eval_rows 64",
    "accelerate launch run_lens.py evaluate --lens outputs/demo": "--report_rows 64",
    "accelerate launch run_lens.py --config sparse_demo": "--max_documents 300 --max_steps 4 --eval_steps 4 "
    "--save_steps 4 --report_rows 16 --eval_rows 16 --context_documents 20",
    "accelerate launch run_lens.py --config wire_demo": "--max_documents 400 --max_steps 4 --eval_steps 4 "
    "--save_steps 4 --report_rows 16 --eval_rows 16",
}


def steps() -> list[tuple[str, str]]:
    """Language and code, in order; a command line is taken apart at its `&&`."""
    found = []
    for language, code in BLOCK.findall((ROOT / "README.md").read_text("utf-8")):
        if language == "python":
            found.append((language, code))
        else:
            lines = [re.sub(r"\s+#.*$", "", line) for line in commands(code)]
            found += [(language, part) for line in lines for part in line.split(" && ")]
    return found


def test_what_is_left_out_stands_in_the_readme() -> None:
    assert {*ELSEWHERE, *SHORT} <= {code for _, code in steps()}


@pytest.mark.slow
def test_the_readme_runs_from_top_to_bottom(tmp_path: Path, subject_folder: Path, online: Any) -> None:
    hub, client = online
    for name in ("run_lens.py", "ds_configs", "constraints.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix, target_is_directory=True)
    path = f"{tmp_path / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"
    here = os.environ | {"PATH": path, "COLUMNS": "80", "ACCELERATE_USE_CPU": "true"}
    there = here | {name: value for name, value in client.settings.items() if value is not None and name != "HF_HOME"}
    said: dict[str, str] = {}
    for language, code in steps():
        if code in ELSEWHERE:
            continue
        words = ["python", "-c", code] if language == "python" else ["bash", "-c", f"{code} {SHORT.get(code, '')}"]
        environment = there | {"HF_HUB_OFFLINE": "0"} if " publish " in code else here
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        said[code] = done.stdout
    first, *_ = said.values()
    for title in ("Needed facts said, new stories", "first row: document", "verdict", "4 explanations", "next"):
        assert title in first
    report = Report.load(tmp_path / "outputs/demo/report")
    assert {"fact_recall", "fact_words"} <= set(report.judged["lens"])  # precision, once a text says a fact word
    assert "reworded" in report.groups["tampered"] and "context_tail_trained" in report.groups["text"]
    assert len(Activations.load(tmp_path / "outputs/demo-activations").splits["train"]) > 2_000
    evaluated = next(text for code, text in said.items() if " evaluate " in code).splitlines()
    assert report.verdict.split()[0] in evaluated[1] and len(evaluated) <= 100, "two screens"
    assert Report.load(tmp_path / "outputs/sparse_demo/report").lens["family"] == "crosslayer_transcoder"
    assert Report.load(tmp_path / "outputs/wire_demo/report").lens["family"] == "latent_wire"
    assert hub.repos["model", "me/demo-lens"].private
