"""`hsdp.yaml`: four real processes, weights spread over two of them and a copy on the other two. Losses, and what is
saved, are those of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from extracting import extract_to, random_texts, run, saved_model
from launching import JUDGED, LORA, PLAIN, SAVED, STEPS, TERMS, launch, logged, same, witness, words_for
from safetensors.torch import load_file
from tiny import shared_lm

from consistency_lens.frozen import FrozenLM

pytestmark = pytest.mark.distributed

PROCESSES, SHARDS = 4, 2
TENSORS = ("model.safetensors", "decoder/model.safetensors", "encoder/model.safetensors")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process and of four: to the end, from the middle on, and with adapters."""
    place = tmp_path_factory.mktemp("copies")
    texts = random_texts(60, shortest=8, longest=20)
    rows = place / "rows"
    extract_to(rows, texts, FrozenLM.from_pretrained(saved_model()), continuation_length=4)
    often = ["--gradient_accumulation_steps", str(PROCESSES)]
    alone = [
        words_for(rows, place / "alone", *often, *PLAIN),
        words_for(rows, place / "alone-lora", *often, *LORA),
    ]
    launch("alone", alone, place / "launch-alone")
    middle = ["--resume_from_checkpoint", str(place / f"hsdp/checkpoint-{SAVED}")]
    spread = [
        words_for(rows, place / "hsdp", *PLAIN),
        words_for(rows, place / "again", *PLAIN, *middle),
        words_for(rows, place / "hsdp-lora", *LORA),
    ]
    launch("hsdp", spread, place / "launch-hsdp")
    return place


def test_weights_lie_on_two_of_four(place: Path) -> None:
    found = witness(place / "hsdp")
    assert len(found) == PROCESSES
    whole = sum(p.numel() for p in shared_lm("llama").model.parameters())
    for process in found:
        assert process["world_size"] == PROCESSES and process["distributed_type"] == "FSDP"
        assert process["kind"] == process["subject_kind"] == "DTensor"
        assert process["trained_held"] == process["trained_whole"] // SHARDS
        assert process["subject_held"] == whole // SHARDS
    assert len({process["seeds"][0] for process in found}) == PROCESSES, "copies draw the same noise"


@pytest.mark.parametrize(
    ("run_of_four", "run_of_one"), [("hsdp", "alone"), ("again", "hsdp"), ("hsdp-lora", "alone-lora")]
)
def test_losses_are_the_same(place: Path, run_of_four: str, run_of_one: str) -> None:
    found, expected = (logged(place / name, *TERMS, *JUDGED) for name in (run_of_four, run_of_one))
    assert len(expected["loss"]) == STEPS and any(expected["loss/policy"])
    same(found, expected)


def test_what_is_saved_is_the_same_lens(place: Path) -> None:
    assert len(witness(place / "again")[0]["seeds"]) == STEPS - SAVED, "it began anew"
    for file in TENSORS:
        expected = load_file(place / "alone/lens" / file)
        for folder in ("hsdp", "again"):
            found = load_file(place / folder / "lens" / file)
            assert all(torch.allclose(found[name], tensor, atol=1e-4) for name, tensor in expected.items()), file


def test_another_layout_is_refused(place: Path, tmp_path: Path) -> None:
    resume = ["--resume_from_checkpoint", str(place / f"hsdp/checkpoint-{SAVED}")]
    code, said = run(words_for(place / "rows", tmp_path / "run", *resume, *PLAIN), tmp_path / "log")
    assert code == 2 and "it was written by fsdp2 with 4 processes and 2 copies of the weights" in said
