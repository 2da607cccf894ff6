"""What `plan` prints for a model that no GPU holds: adapters on a spread subject in bfloat16, two passes to a step."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from extracting import extract_to, random_texts, saved_model
from launching import (
    JUDGED,
    LORA,
    PROCESSES,
    SAVED,
    STEPS,
    TERMS,
    engine_words,
    launch,
    logged,
    same,
    witness,
    words_for,
)

from consistency_lens.frozen import FrozenLM
from consistency_lens.text.modeling import ConsistencyLens

pytestmark = pytest.mark.distributed
pytest.importorskip("deepspeed")

LARGE = [*LORA, "--dtype", "bfloat16", "--bf16", "--activation_checkpointing", "--gradient_accumulation_steps"]
WARM = 2


@pytest.mark.parametrize("engine", ["fsdp2", "zero3"])
def test_it_trains_as_one_process_does_and_goes_on_from_the_middle(engine: str, tmp_path: Path) -> None:
    """Sums in bfloat16 are rounded in another order: near while both write the same, the same after a restart."""
    rows, folder, again = (tmp_path / name for name in ("rows", "run", "again"))
    subject = FrozenLM.from_pretrained(saved_model(), dtype="bfloat16")
    extract_to(rows, random_texts(60, shortest=8, longest=20), subject, continuation_length=4)
    alone = words_for(rows, tmp_path / "alone", *LARGE, str(2 * PROCESSES))
    launch("alone", [alone], tmp_path / "launch-alone")
    words = [*engine_words(engine), *LARGE, "2"]
    middle = ["--resume_from_checkpoint", str(folder / f"checkpoint-{SAVED}")]
    launch(engine, [words_for(rows, folder, *words), words_for(rows, again, *words, *middle)], tmp_path / "launch")
    found, expected, resumed = (logged(path, *TERMS, *JUDGED) for path in (folder, tmp_path / "alone", again))
    assert len(found["loss"]) == STEPS and all(map(math.isfinite, found["loss"]))
    assert found["loss"][:WARM] == pytest.approx(expected["loss"][:WARM], rel=0.01)
    assert len(witness(again)[0]["seeds"]) == STEPS - SAVED, "it began anew"
    same(resumed, found)
    kind = {"fsdp2": "DTensor", "zero3": "Parameter"}[engine]
    assert {(process["engine"], process["subject_kind"]) for process in witness(folder)} == {(engine, kind)}
    lens = ConsistencyLens.from_pretrained(folder / "lens", subject)
    assert all(p.dtype.is_floating_point and bool(p.isfinite().all()) for p in lens.parameters())
