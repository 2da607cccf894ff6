"""What a run folder keeps: a log without rewritten lines, a command without secrets, the id of a tracker."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier

import pytest

from consistency_lens.cli.parsing import Request
from consistency_lens.cli.run_folder import Log, Tee, claim, command_of, keep_wandb_run
from consistency_lens.errors import BadInput


def test_of_a_line_that_was_written_over_the_log_keeps_the_end(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as out, (tmp_path / "log").open("w") as log:
        tee = Tee(out, log)
        for i in range(1000):
            tee.write(f"\rbar {i}")
        assert len(tee.line) < 20
        tee.write("\n\x1b[1mbold\x1b[0m\ra\n\r   \rlast")
        tee.write(" line\n")
    assert (tmp_path / "log").read_text() == "bar 999\na\nlast line\n"
    assert (tmp_path / "out").read_text().count("bar") == 1000


def test_an_error_nobody_foresaw_leaves_its_trace_in_the_log(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Log(tmp_path):
        print("before")
        print(1 / 0)
    said = (tmp_path / "log.txt").read_text()
    assert said.startswith("before\n") and "Traceback" in said and "ZeroDivisionError" in said


def test_the_command_without_secrets() -> None:
    assert command_of(["--hub_token", "hf_x", "--seed", "1"]) == "run_lens.py --hub_token '***' --seed 1"
    assert command_of(["train", "--hub_token=hf_x"]) == "run_lens.py train '--hub_token=***'"
    assert command_of(["--hub-token", "hf_x", "--hub-token=hf_x"]) == "run_lens.py --hub-token '***' '--hub-token=***'"
    assert "aB3" not in command_of(["train", "--run_name", "hf_" + "aB3" * 11]), "what looks like one"


def test_wandb_goes_on_under_the_id_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WANDB_RUN_ID", "another"), ("WANDB_RESUME", "never"), ("WANDB_PROJECT", "mine")):
        monkeypatch.setenv(name, value)  # and puts back what was there
    keep_wandb_run(tmp_path, "consistency-lens")
    first = os.environ["WANDB_RUN_ID"]
    keep_wandb_run(tmp_path, "consistency-lens")
    assert os.environ["WANDB_RUN_ID"] == first == (tmp_path / "wandb_id.txt").read_text() and len(first) == 8
    assert (os.environ["WANDB_RESUME"], os.environ["WANDB_PROJECT"]) == ("allow", "mine")


@pytest.mark.parametrize("named_itself", [True, False])
def test_of_runs_that_start_together_each_has_a_folder_or_is_refused(tmp_path: Path, named_itself: bool) -> None:
    all_there, wanted = Barrier(3), tmp_path / "outputs/run"

    def found() -> str:
        """What a run gets that starts at the same moment as others; it stays until all have got something."""
        with ExitStack() as exits:
            all_there.wait(60)
            try:
                return claim(Request("train", {}, named_itself=named_itself), wanted, exits).name
            except BadInput as error:
                return error.why
            finally:
                all_there.wait(60)

    with ThreadPoolExecutor(3) as pool:
        names = sorted(run.result(200) for run in [pool.submit(found) for _ in range(3)])
    busy = "another run is writing there"
    assert names == (["run", "run-2", "run-3"] if named_itself else [busy, busy, "run"])
    with ExitStack() as exits:
        assert claim(Request("train", {}), wanted, exits).name == "run", "it is free again"
