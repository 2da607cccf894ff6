"""A run that is on the Hub: every part of the lens is pushed, and it goes on from there on another machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from lens_runs import copies, tiny_rows, trainer_of

from consistency_lens import BadInput, ConsistencyLens

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from hub_client import HubClient
from hub_server import TOKEN, Blob, Hub, Trouble
from tiny import tiny_lm

STEPS = 4
SAVING = {"save_strategy": "steps", "save_steps": 2, "max_steps": STEPS}
PUSHED = SAVING | {"push_to_hub": True, "hub_always_push": True}


def run(folder: str, resume: str | None = None, **changes: Any) -> tuple[list[float], dict[str, list[Any]]]:
    """Losses by step, and all that was trained, in the process of the client."""
    trainer = trainer_of(folder, lens=None, **changes)
    trainer.train(resume)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, {name: value.tolist() for name, value in copies(trainer.trainable).items()}


def run_with_adapters(folder: str, resume: str | None = None, **changes: Any) -> Any:
    from lens_runs import arguments, tiny_lens

    from consistency_lens import ConsistencyLensTrainer

    frozen = tiny_lm()
    lens = tiny_lens(frozen, trainable="lora")
    trainer = ConsistencyLensTrainer(lens, arguments(folder, **changes), tiny_rows(), frozen=frozen)
    trainer.train(resume)
    return [e["loss"] for e in trainer.state.log_history if "loss" in e]


def finish(folder: str, name: str) -> Any:
    trainer = trainer_of(folder, hub_model_id=name, **SAVING)
    trainer.train()
    address = trainer.push_to_hub(private=True)
    return address, {name: value.tolist() for name, value in copies(trainer.trainable).items()}


def parameters(name: str, **more: Any) -> dict[str, list[Any]]:
    lens = ConsistencyLens.from_pretrained(name, subject=tiny_lm(), **more)
    return {n: p.tolist() for part in lens.parts().values() for n, p in copies(part).items()}


def tree(server: Hub, name: str) -> dict[str, Blob]:
    repo = server.repos["model", name]
    return repo.commits[repo.heads["main"]]


LENS = {"config.json", "model.safetensors", "decoder/model.safetensors", "encoder/model.safetensors", "README.md"}
STATE = {"last-checkpoint/optimizer.pt", "last-checkpoint/trainer_state.json", "last-checkpoint/encoder/config.json"}


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints", "end"])
def test_what_is_pushed_while_training_goes_on(online: tuple[Hub, HubClient], strategy: str, tmp_path: Path) -> None:
    server, client = online
    name = f"me/run-{strategy}"
    settings = PUSHED | {"hub_model_id": name, "hub_strategy": strategy, "save_total_limit": 1}
    _, trained = client(run_pushed, str(tmp_path / "run"), settings)
    there = set(tree(server, name))
    if strategy == "end":
        assert not there, "nothing before the end"
        return
    assert there >= LENS and not any(path.startswith(("log", "_push")) for path in there)
    assert (there >= STATE) is (strategy == "checkpoint")
    saves = {path.partition("/")[0] for path in there if path.startswith("checkpoint-")}
    assert saves == ({"checkpoint-2", "checkpoint-4"} if strategy == "all_checkpoints" else set())
    assert len(server.repos["model", name].commits) == 1 + 2, "one commit for each save"
    assert client(parameters, name) == trained
    assert not list((tmp_path / "run").glob("_push-*")) and not any(
        p.endswith((".bin", "training_args")) for p in there
    )


def run_pushed(folder: str, settings: dict[str, Any]) -> Any:
    return run(folder, **settings)


@pytest.mark.parametrize("resume", ["last-checkpoint", "me/moved", "me/moved/last-checkpoint"])
def test_it_goes_on_from_the_hub_on_another_machine(
    online: tuple[Hub, HubClient], resume: str, tmp_path: Path
) -> None:
    _, client = online
    whole = client(run_pushed, str(tmp_path / "whole"), SAVING | {"ema_decay": 0.9})
    settings = {"hub_model_id": "me/moved", "hub_strategy": "checkpoint", "ema_decay": 0.9}
    client(run_to, str(tmp_path / "first"), PUSHED | settings, 2)
    shutil.rmtree(tmp_path / "first")
    losses, trained = client(run_on, str(tmp_path / "second"), resume, SAVING | settings)
    assert losses == whole[0] and trained == whole[1], "bit for bit"


def run_to(folder: str, settings: dict[str, Any], step: int) -> Any:
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step >= step

    trainer = trainer_of(folder, **settings)
    trainer.add_callback(Stop())
    trainer.train()


def run_on(folder: str, resume: str, settings: dict[str, Any]) -> Any:
    return run(folder, resume, **settings)


def test_adapters_move_too(online: tuple[Hub, HubClient], tmp_path: Path) -> None:
    server, client = online
    settings = PUSHED | {"hub_model_id": "me/adapted", "hub_strategy": "checkpoint"}
    losses = client(adapted, str(tmp_path / "first"), None, settings)
    at = "last-checkpoint/decoder/adapter_model.safetensors"
    assert {at, "decoder/adapter_model.safetensors", "encoder/adapter_config.json"} <= set(tree(server, "me/adapted"))
    server.repos["model", "me/adapted"].heads["main"] = list(server.repos["model", "me/adapted"].commits)[1]
    again = client(adapted, str(tmp_path / "second"), "me/adapted", SAVING)
    assert again == losses


def adapted(folder: str, resume: str | None, settings: dict[str, Any]) -> Any:
    return run_with_adapters(folder, resume, **settings)


def test_the_end_is_pushed_with_all_parts_and_the_card(online: tuple[Hub, HubClient], tmp_path: Path) -> None:
    server, client = online
    (tmp_path / "run").mkdir()
    (tmp_path / "run/log.txt").write_text("not for the Hub")
    address, trained = client(finish, str(tmp_path / "run"), "me/finished")
    assert "me/finished" in address and server.repos["model", "me/finished"].private
    there = set(tree(server, "me/finished"))
    assert there >= LENS and not any("checkpoint" in path or "log" in path for path in there)
    assert client(parameters, "me/finished") == trained


def test_what_is_written_on_the_hub_while_training_goes_on_stays(
    online: tuple[Hub, HubClient], tmp_path: Path
) -> None:
    server, client = online
    settings = PUSHED | {"hub_model_id": "me/watched", "hub_strategy": "every_save"}
    client(run_pushed, str(tmp_path / "run"), settings)
    repo = server.repos["model", "me/watched"]
    card = tree(server, "me/watched")["README.md"].data.decode()
    edited = Blob(card.replace("<!-- generated: use -->", "Mine.\n\n<!-- generated: use -->").encode(), large=False)
    repo.commit("main", repo.commits[repo.heads["main"]] | {"README.md": edited}, "by hand")
    client(run_pushed, str(tmp_path / "again"), settings | {"max_steps": 2})
    after = tree(server, "me/watched")["README.md"].data.decode()
    assert "\n\nMine.\n\n<!-- generated: use -->" in after and "at step 2 of 2" in after and "at step 4" in card
    here = (tmp_path / "again/checkpoint-2/README.md").read_text()
    assert "Mine." not in here, "the file of this machine is as it was"


def test_a_push_that_fails_does_not_stop_the_training(online: tuple[Hub, HubClient], tmp_path: Path) -> None:
    server, client = online
    settings = PUSHED | {"hub_model_id": "me/flaky", "hub_strategy": "every_save"}
    server.trouble.append(Trouble("commit/main", 400, "sent {token}", times=1))
    losses, trained, logged = client(run_logged, str(tmp_path / "run"), settings)
    assert len(losses) == STEPS and client(parameters, "me/flaky") == trained, "the second save arrived"
    assert "not pushed: hub_model_id='me/flaky': the Hub says 400" in logged and TOKEN not in logged


def test_what_is_saved_later_arrives_later(online: tuple[Hub, HubClient], tmp_path: Path) -> None:
    server, client = online
    settings = PUSHED | {"hub_model_id": "me/slowly", "hub_strategy": "every_save"}
    server.trouble.append(Trouble("commit/main", 200, times=1, delay=2.0))
    _, trained = client(run_pushed, str(tmp_path / "run"), settings)
    assert len(server.repos["model", "me/slowly"].commits) == 1 + 2 and client(parameters, "me/slowly") == trained


def test_what_nobody_expected_of_a_push_is_said_too(online: tuple[Hub, HubClient], tmp_path: Path) -> None:
    _, client = online
    settings = PUSHED | {"hub_model_id": "me/odd", "hub_strategy": "every_save"}
    logged = client(run_with_odd_client, str(tmp_path / "run"), settings)
    assert "not pushed: KeyError: 'sent ***'" in logged and TOKEN not in logged


def run_with_odd_client(folder: str, settings: dict[str, Any]) -> str:
    from unittest import mock

    from consistency_lens import hub

    with mock.patch.object(hub, "upload", side_effect=KeyError(f"sent {TOKEN}")):
        return str(run_logged(folder, settings)[-1])


def test_what_a_killed_run_left_ready_to_be_sent_goes(online: tuple[Hub, HubClient], tmp_path: Path) -> None:
    _, client = online
    left = tmp_path / "run/_push-abc/decoder"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_text("half")
    client(run_pushed, str(tmp_path / "run"), PUSHED | {"hub_model_id": "me/after-a-kill"})
    assert not list((tmp_path / "run").glob("_push-*"))


def run_logged(folder: str, settings: dict[str, Any]) -> Any:
    import io
    import logging

    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    try:
        return (*run(folder, **settings), stream.getvalue())
    finally:
        logging.getLogger().removeHandler(handler)


def test_a_token_is_asked_for_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(BadInput, match="hub_token=None"):
        trainer_of(tmp_path, **PUSHED)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("me/stateless", "holds no last-checkpoint"),
        ("me/stateless/checkpoint-2", "holds no checkpoint-2"),
        ("me/never-was", "there is no such repository, or it is private"),
        ("last-checkpoint", "Name its repository, too: --hub_model_id owner/name"),
    ],
)
def test_a_checkpoint_that_is_not_on_the_hub(
    online: tuple[Hub, HubClient], given: str, said: str, tmp_path: Path
) -> None:
    _, client = online
    client(make_repo, "me/stateless")
    with pytest.raises(BadInput, match="resume_from_checkpoint=") as caught:
        client(run_on, str(tmp_path / "run"), given, SAVING)
    assert said in str(caught.value)


def make_repo(name: str) -> str:
    from consistency_lens import hub

    return hub.create(name)
