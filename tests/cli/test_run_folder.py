"""What a run folder keeps: a log without rewritten lines, a command without secrets, the id of a tracker."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier

import pytest

from consistency_lens.cli.commands.command import _kept
from consistency_lens.cli.help.page import page_for
from consistency_lens.cli.parsing.request import Request, parse
from consistency_lens.cli.run_folder import Log, Tee, claim, command_of, goes_on, keep_wandb_run, settle_folder
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


GIVEN = "not-what-a-token-looks-like"


@pytest.mark.parametrize("way", ["option", "equals", "recipe"])
def test_no_token_is_in_a_log(tmp_path: Path, way: str) -> None:
    """However it was given, and whoever says it: the run, a library, an error of the user, one that nobody foresaw."""
    (tmp_path / "mine.yaml").write_text(f"hub_token: {GIVEN}\n")
    words = {
        "option": ["--hub_token", GIVEN],
        "equals": [f"--hub_token={GIVEN}"],
        "recipe": ["--config", str(tmp_path / "mine.yaml")],
    }[way]
    token = parse(["train", *words]).values["hub_token"]
    assert GIVEN not in command_of(["train", *words])
    for error in (BadInput("hub_token", GIVEN, "Use another."), ZeroDivisionError(GIVEN)):
        with pytest.raises(type(error)), Log(tmp_path, token):
            print("sent", GIVEN)
            logging.getLogger("consistency_lens").warning("with %s", GIVEN)
            raise error
    said = (tmp_path / "log.txt").read_text()
    assert said.count("sent ***\n") == said.count("with ***\n") == 2 and GIVEN not in said
    assert "hub_token='***'. Use another." in said and "ZeroDivisionError: ***" in said


def test_how_to_go_on_is_said_where_one_can(tmp_path: Path) -> None:
    assert "--resume goes on" in _kept(Request("extract", {}))
    assert _kept(Request("evaluate", {})) == _kept(None) == ""
    assert _kept(Request("train", {}, folder=tmp_path)) == "There is no checkpoint yet: start again."


def test_what_has_no_checkpoint_is_not_gone_on_with(tmp_path: Path) -> None:
    """A lens alone, as `train` leaves one whose checkpoints somebody has taken away."""
    (tmp_path / "lens").mkdir()
    with pytest.raises(BadInput, match="a run lies there already") as caught:
        settle_folder(parse(["train", "--output_dir", str(tmp_path)]), "model", "site", "texts")
    assert "resume" not in caught.value.fix


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


def test_a_checkpoint_of_one_run_does_not_go_on_over_another(tmp_path: Path) -> None:
    for run in ("a", "b"):
        (tmp_path / run / "lens").mkdir(parents=True)
    checkpoint = tmp_path / "a/checkpoint-2"
    checkpoint.mkdir()
    assert goes_on(str(checkpoint), tmp_path / "a") and goes_on("true", tmp_path / "b")
    assert not goes_on(str(checkpoint), tmp_path / "b") and not goes_on(None, tmp_path / "a")


def test_the_data_of_a_family_has_its_name_in_the_help() -> None:
    titles = {"text": "the rows", "sparse": "the tokens", "soft": "the passages"}
    for family, title in titles.items():
        extract, evaluate = (
            page_for([command, "--help", "--family", family]) or "" for command in ("extract", "evaluate")
        )
        assert f"\n{title}:\n" in extract and ("--report_horizon" in evaluate) is (family == "text")
    with pytest.raises(BadInput, match="report_horizon=3: of a sparse lens whole documents"):
        parse(["--config", "sparse_demo", "--report_horizon", "3"])
