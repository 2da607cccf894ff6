"""One launch of `run_lens.py train` per engine with two real processes: it trains, evaluates, saves, is resumed, and
says what a single process says that accumulates the same batches. Noise is of the batch's number: it is the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from extracting import extract_to, random_texts, run, saved_model
from launching import (
    JUDGED,
    LORA,
    PLAIN,
    PROCESSES,
    SAVED,
    STEPS,
    TERMS,
    engine_words,
    history,
    launch,
    logged,
    same,
    start,
    witness,
    words_for,
)  # fmt: skip
from safetensors.torch import load_file
from tiny import shared_lm

from consistency_lens.base.saving.checkpoint import is_complete
from consistency_lens.frozen import FrozenLM
from consistency_lens.text.modeling import ConsistencyLens

pytestmark = pytest.mark.distributed
pytest.importorskip("deepspeed")

ENGINES = ["zero3", "zero2", "fsdp2", "ddp", "zero1", "zero2_offload"]
# What is trained in the same processes as well.
MORE = {
    "zero3": ["lora", "often"], "fsdp2": ["lora", "often"],
    "zero1": ["lora", "bf16"], "zero2": ["bf16"], "zero2_offload": ["bf16"], "ddp": ["bf16"],
}  # fmt: skip
SPREAD = ["zero3", "fsdp2"]
KINDS = {"lora": LORA, "bf16": ["--bf16", *PLAIN], "often": [*LORA, "--gradient_accumulation_steps", "2"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def rows(place: Path) -> Path:
    """A few hundred rows of the model as it lies in its folder."""
    texts = random_texts(60, shortest=8, longest=20)
    extract_to(place / "rows", texts, FrozenLM.from_pretrained(saved_model()), continuation_length=4)
    return place / "rows"


@pytest.fixture(scope="module")
def alone(place: Path, rows: Path) -> Path:
    """One process, two batches to each step: both kinds of lens."""
    twice, four_times = (["--gradient_accumulation_steps", str(n * PROCESSES)] for n in (1, 2))
    commands = [
        words_for(rows, place / "alone", *twice, *PLAIN),
        words_for(rows, place / "alone-lora", *twice, *LORA),
        words_for(rows, place / "alone-often", *LORA, *four_times),
    ]
    launch("alone", commands, place / "launch-alone")
    return place / "alone"


@pytest.fixture(scope="module", params=ENGINES)
def trained(request: pytest.FixtureRequest, place: Path, rows: Path) -> Path:
    """Trained to the end; then once more from the middle, beside it; then what else the engine is asked for."""
    engine = request.param
    folder, again = place / engine, place / f"{engine}-again"
    # Of one engine that keeps weights whole, the baseline too: a second training in the same processes.
    tail = "true" if engine == "zero2" else "false"
    given = [*engine_words(engine), "--tail_baseline", tail]
    middle = ["--resume_from_checkpoint", str(folder / f"checkpoint-{SAVED}")]
    commands = [words_for(rows, folder, *given), words_for(rows, again, *given[:-1], "false", *middle)]
    for kind in MORE[engine]:
        more = [*engine_words(engine), *KINDS[kind]]
        first = place / f"{engine}-{kind}"
        commands.append(words_for(rows, first, *more))
        if kind == "bf16":
            middle = ["--resume_from_checkpoint", str(first / f"checkpoint-{SAVED}")]
            commands.append(words_for(rows, place / f"{engine}-bf16-again", *more, *middle))
    (folder.parent / f"{engine}.txt").write_text(launch(engine, commands, place / f"launch-{engine}"))
    return folder


def kind_of(trained: Path) -> str:
    """The name of the engine: where its optimizer lies makes no other one of it."""
    return trained.name.partition("_")[0]


def test_losses_are_those_of_one_process(trained: Path, alone: Path) -> None:
    assert len(logged(alone, "loss")["loss"]) == STEPS
    same(logged(trained, *TERMS), logged(alone, *TERMS))
    same(logged(trained, *JUDGED), logged(alone, *JUDGED))


def test_it_is_the_engine_that_was_asked_for(trained: Path) -> None:
    kinds = {"ddp": "MULTI_CPU", "fsdp2": "FSDP"}
    found = witness(trained)
    assert len(found) == PROCESSES
    for process in found:
        assert process["world_size"] == PROCESSES and process["engine"] == kind_of(trained)
        assert process["distributed_type"] == kinds.get(trained.name, "DEEPSPEED")
        assert process["kind"] == ("DTensor" if trained.name == "fsdp2" else "Parameter")
    whole = sum(p.numel() for p in shared_lm("llama").model.parameters())
    parts = PROCESSES if trained.name in SPREAD else 1
    for process in found:
        assert process["trained_held"] == process["trained_whole"] // parts
        assert process["subject_held"] == whole // parts


def test_numbers_are_not_cast_on_their_way_to_the_loss(trained: Path, alone: Path) -> None:
    """DeepSpeed alone would cast them; it trains weights that are bfloat16 themselves, elsewhere they are float32."""
    if "bf16" not in MORE[trained.name]:
        pytest.skip("not run in bfloat16")
    folder = trained.with_name(f"{trained.name}-bf16")
    half = witness(folder)
    kind = "float32" if trained.name == "ddp" else "bfloat16"
    assert {process["trained_dtype"] for process in half} == {f"torch.{kind}"}
    assert {process["dtype"] for process in half} == {"torch.float32"}
    losses, expected = (logged(each, "loss")["loss"] for each in (folder, alone))
    assert losses[0] == pytest.approx(expected[0], rel=0.02) and losses != expected and len(losses) == STEPS
    again = folder.with_name(f"{folder.name}-again")
    assert len(witness(again)[0]["seeds"]) == STEPS - SAVED, "it began anew"
    same(logged(again, *TERMS), logged(folder, *TERMS))


def test_it_goes_on_from_the_middle_with_the_same_losses(trained: Path) -> None:
    again = trained.with_name(f"{trained.name}-again")
    assert len(witness(again)[0]["seeds"]) == STEPS - SAVED, "it began anew"
    same(logged(again, *TERMS), logged(trained, *TERMS))
    for file in ("model.safetensors", "decoder/model.safetensors", "encoder/model.safetensors"):
        first, second = (load_file(folder / "lens" / file) for folder in (trained, again))
        for name, tensor in first.items():
            assert torch.allclose(tensor, second[name], atol=1e-6), (file, name)


def test_what_is_saved_is_a_lens_by_itself(trained: Path, alone: Path) -> None:
    expected = ConsistencyLens.from_pretrained(alone / "lens").files()
    checkpoint = trained / f"checkpoint-{STEPS}"
    for folder in (trained / "lens", checkpoint):
        for file, tensors in ConsistencyLens.from_pretrained(folder).files().items():
            for name, tensor in tensors.items():
                assert torch.allclose(tensor, expected[file][name], atol=1e-4), (folder.name, file, name)
    assert is_complete(checkpoint)
    (checkpoint / "rng_state_1.pth").rename(checkpoint / "away")
    assert not is_complete(checkpoint), "the second process has written nothing"
    (checkpoint / "away").rename(checkpoint / "rng_state_1.pth")


def test_the_subject_is_in_no_checkpoint(trained: Path) -> None:
    checkpoint = trained.with_name(f"{trained.name}-lora") / f"checkpoint-{STEPS}"
    if not checkpoint.is_dir():
        pytest.skip("no adapters")
    files = [p for p in checkpoint.rglob("*") if p.suffix in (".pt", ".bin", ".safetensors")]
    largest = shared_lm("llama").model.get_input_embeddings().weight.shape
    assert files
    for file in files:
        held = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=False)
        assert largest not in [t.shape for t in _tensors(held)], file


def _tensors(held: Any) -> list[torch.Tensor]:
    if isinstance(held, torch.Tensor):
        return [held]
    inside = held.values() if isinstance(held, dict) else held if isinstance(held, (list, tuple)) else []
    return [tensor for each in inside for tensor in _tensors(each)]


def test_one_process_writes_and_speaks(trained: Path) -> None:
    said = trained.with_suffix(".txt").read_text()
    runs = 2 + sum(2 if kind == "bf16" else 1 for kind in MORE[trained.name])
    assert said.count(f"step {STEPS}: 4 of 8 held-out activations") == runs
    assert (trained / "log.txt").read_text().count(f"step {STEPS}: 4 of 8") == 1
    assert len(json.loads((trained / "run.json").read_text())["starts"]) == 1


def test_processes_draw_apart_and_agree_on_the_weights_of_terms(trained: Path, alone: Path) -> None:
    first, second = witness(trained)
    assert not set(first["seeds"]) & set(second["seeds"])
    assert first["weights"] == second["weights"] == witness(alone)[0]["weights"]
    assert first["seeds"][0] == witness(alone)[0]["seeds"][0]


def test_adapters_on_one_backbone_with_the_subject(trained: Path, alone: Path) -> None:
    if "lora" not in MORE[trained.name]:
        pytest.skip("no adapters")
    folder, expected = trained.with_name(f"{trained.name}-lora"), alone.with_name("alone-lora")
    same(logged(folder, *TERMS, *JUDGED), logged(expected, *TERMS, *JUDGED))
    file = "lens/decoder/adapter_model.safetensors"
    first, second = load_file(folder / file), load_file(expected / file)
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)


def test_several_passes_make_a_step(trained: Path, alone: Path) -> None:
    """Gradients of spread weights are spread before the next pass, and lose nothing by it."""
    if "often" not in MORE[trained.name]:
        pytest.skip("weights are whole")
    folder, expected = trained.with_name(f"{trained.name}-often"), alone.with_name("alone-often")
    same(logged(folder, *TERMS, *JUDGED), logged(expected, *TERMS, *JUDGED))
    if trained.name == "fsdp2":  # DeepSpeed keeps its own
        for process in witness(folder):
            assert 0 < process["gradients"]["held"] == process["gradients"]["whole"] // PROCESSES


def test_another_number_of_processes_or_another_engine_is_refused(trained: Path, rows: Path, tmp_path: Path) -> None:
    resume = ["--resume_from_checkpoint", str(trained / f"checkpoint-{SAVED}"), "--tail_baseline", "false"]
    code, said = run(words_for(rows, tmp_path / "run", *resume), tmp_path / "log")
    assert code == 2 and "Traceback" not in said
    assert f"it was written by {kind_of(trained)} with 2 processes, this is alone with 1 process" in said
    assert not (tmp_path / "run").exists()


def test_a_process_that_is_killed_ends_the_other_and_nothing_is_lost(alone: Path, place: Path, rows: Path) -> None:
    """Then, in new processes, from the last checkpoint on."""
    folder = place / "killed"
    words = words_for(rows, folder, *engine_words("zero2"), "--tail_baseline", "false")
    running = start("zero2", [words], place / "launch-killed", TEST_SLOW_FROM=str(SAVED + 1))
    second, others = folder / "witness/waiting-1", folder / "witness/waiting-0"
    deadline = time.monotonic() + 400
    while not (second.is_file() and others.is_file() and second.read_text() and others.read_text()):
        assert running.poll() is None and time.monotonic() < deadline, (place / "launch-killed/said").read_text()
        time.sleep(0.2)
    pids = [int(file.read_text()) for file in (second, others)]
    os.kill(pids[0], signal.SIGKILL)
    assert running.wait(timeout=60) != 0, "the other waited for it"
    said = (place / "launch-killed/said").read_text()
    assert "SIGKILL" in said
    assert not any(Path(f"/proc/{pid}").exists() and _runs(pid) for pid in pids)
    assert is_complete(folder / f"checkpoint-{SAVED}")
    shutil.rmtree(folder / "witness")
    launch("zero2", [[*words, "--resume_from_checkpoint", "true"]], place / "launch-again")
    same(logged(folder, *TERMS), logged(alone, *TERMS))
    assert max(row["step"] for row in history(folder)) == STEPS


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
