"""The trainer of a wire: what it is given, what it samples, what it measures, and that it goes on where it stopped."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from short_runs import SHORT
from tiny import shared_lm
from wire_runs import NAMES, rows_of, wire_lens, wire_models, wire_passages

from consistency_lens.activations.passages import Passages, PromptFormat
from consistency_lens.base.engines.engine import Engine
from consistency_lens.errors import BadInput
from consistency_lens.frozen import FrozenLM, FrozenModels
from consistency_lens.soft.arguments import LatentWireArguments
from consistency_lens.soft.data import collator_of
from consistency_lens.soft.modeling import LatentWire
from consistency_lens.soft.trainer import LatentWireTrainer


def arguments(folder: Path, **changes: Any) -> LatentWireArguments:
    given: dict[str, Any] = {
        "output_dir": str(folder),
        **SHORT,
        "max_steps": 6,
        "learning_rate": 3e-3,
    }
    return LatentWireArguments(**(given | changes))


def trainer_of(folder: Path, data: Any = None, lens: Any = None, **changes: Any) -> LatentWireTrainer:
    lens = lens or wire_lens(slots=3)
    return LatentWireTrainer(lens, arguments(folder, **changes), data or wire_passages(), frozen=wire_models())


def test_one_receiver_reads_in_each_step_by_seed_and_step(tmp_path: Path) -> None:
    def chosen(seed: int) -> list[str]:
        trainer, found = trainer_of(tmp_path, seed=seed), []
        for step in range(40):
            trainer.state.global_step = step
            found.append(trainer.receiver)
        return found

    first = chosen(0)
    assert first == chosen(0) != chosen(1) and min(first.count(name) for name in NAMES) > 10


def test_receivers_read_in_runs_and_take_turns_on_the_device(tmp_path: Path) -> None:
    """The losses are those of models that all stay where they are."""
    told = {"receiver_batches": 2, "max_steps": 8}
    apart = trainer_of(tmp_path, **told)
    readers = []
    for step in range(8):
        apart.state.global_step = step
        readers.append(apart.receiver)
    assert readers[::2] == readers[1::2] and len(set(readers)) == 2
    apart.state.global_step = 0
    apart.train()
    own = [FrozenLM(copy.deepcopy(m.model), m.tokenizer, m.model_id, name=name) for name, m in wire_models().items()]
    models = FrozenModels(own)
    seat = models.take_turns("cpu")
    args = arguments(tmp_path, **told)
    trainer = LatentWireTrainer(wire_lens(slots=3), args, wire_passages(), frozen=models)
    before = seat.changes
    trainer.train()
    losses = [[entry["loss"] for entry in each.state.log_history if "loss" in entry] for each in (apart, trainer)]
    assert losses[0] == losses[1] and len(losses[0]) == 8
    assert 0 < seat.changes - before <= 4


def test_it_logs_its_terms_and_measures_each_receiver(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, kd_weight="0.5", train_ratio="linear(1, 3, 6)", eval_strategy="steps", eval_steps=6)
    trainer.train()
    logged = [each for each in trainer.state.log_history if "loss/ce" in each]
    assert all({"loss/kd", "weight/kd", "ratio"} <= each.keys() for each in logged)
    assert [round(each["ratio"], 2) for each in logged] == [1.0, 1.33, 1.67, 2.0, 2.33, 2.67]
    names = {f"ce/{name}" for name in NAMES}
    assert all(len(names & each.keys()) == 1 for each in logged) and names <= {n for each in logged for n in each}
    measured = next(each for each in trainer.state.log_history if "eval_nll" in each)
    for name in NAMES:
        assert {f"eval_nll/{name}", f"eval_nll/{name}_of_text", f"eval_first_token/{name}"} <= measured.keys()
        assert {f"eval_nll_recovered/{name}", f"eval_kl/{name}"} <= measured.keys()
    mean = sum(measured[f"eval_nll/{name}"] for name in NAMES) / 2
    assert measured["eval_nll"] == pytest.approx(mean) and "eval_kl_recovered" in measured


def test_no_context_is_the_baseline(tmp_path: Path) -> None:
    """At one token per vector and without calibration, the first model has the text: everything is recovered."""
    found = trainer_of(tmp_path, lens=wire_lens(calibrate=False)).measure()
    assert found["nll_recovered/words"] == pytest.approx(1, abs=0.05) and found["kl/words"] < 0.01
    assert found["kl_recovered"] > 0.7 and abs(found["nll"] - found["nll_of_text"]) < 1


def test_prompts_are_those_of_the_lens(tmp_path: Path) -> None:
    text = Passages.from_dataset(Dataset.from_list(rows_of(20)), validation_fraction=0.2)
    lens = wire_lens(slots=2, anchor={"answer": " w89 w91"}, bos="auto", preamble="w88 w87")
    trainer = trainer_of(tmp_path, text, lens)
    batch = trainer.data.collate([trainer.data.train[0]])
    ids = batch["tokens"]["words"]["bare"]["input_ids"][0]
    words = wire_models()["words"].tokenizer.convert_ids_to_tokens(ids)
    assert words[:3] == ["<bos>", "w88", "w87"] and words[-3:-1] == ["w89", "w91"], words
    assert [edit.positions for edit in lens.restore(lens.compress(batch), batch)] == [3, 2], "the other has no BOS"
    with pytest.raises(BadInput, match="anchor"):
        trainer_of(tmp_path, wire_passages(), lens)
    with pytest.raises(BadInput, match="preamble=''"):
        trainer_of(tmp_path, wire_passages(), wire_lens(slots=2, preamble="w88"))
    same = text.tokenised(wire_models(), PromptFormat(preamble="w88 w87", anchor={"answer": " w89 w91"}))
    assert trainer_of(tmp_path, same, lens).data.train[0]["row"] == 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"kd_words": 0}, "kd_words"),
        ({"kd_temperature": 0.0}, "kd_temperature"),
        ({"first_weight": -1.0}, "first_weight"),
        ({"receiver_batches": 0}, "receiver_batches"),
        ({"receiver_learning_rate": -1.0}, "receiver_learning_rate"),
        ({"train_ratio": "0.5"}, "train_ratio"),
        ({"train_ratio": "linear(1, 4, 9, warmup=2)"}, "train_ratio"),
        ({"kd_weight": "often"}, "kd_weight"),
    ],
)
def test_knobs_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput, match=f"^{named}="):
        arguments(tmp_path, **changes)


@pytest.mark.parametrize("name", ["zero3", "fsdp2"])
def test_engines_that_would_spread_several_models_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(Engine, "of", classmethod(lambda cls, args: Engine(name, 2)))
    said = f"engine='{name}': it would spread the weights of several frozen models. Use ds_configs/zero2.json"
    with pytest.raises(BadInput, match=said):
        trainer_of(tmp_path)


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="ratio"):
        trainer_of(tmp_path, lens=wire_lens(slots=3, pooling="learned"), train_ratio="2")
    with pytest.raises(BadInput, match="train_dataset"):
        trainer_of(tmp_path, [1, 2])
    assert arguments(tmp_path, receiver_learning_rate=0.5).learning_rate_of("receivers") == 0.5


def test_a_prompt_without_a_token_is_refused(tmp_path: Path) -> None:
    """The BOS in front of the code would predict the first token of the answer."""
    rows = [row | {"prompt": "", "task": "reconstruction"} for row in rows_of(4)]
    lens = LatentWire.from_models(FrozenLM(shared_lm("llama").model, shared_lm("llama").tokenizer), slots=2)
    assert lens.models is not None
    with pytest.raises(BadInput, match="between the code and the answer"):
        collator_of(lens.config, lens.models)([row | {"answers": ["w1"], "ends": True} for row in rows])
