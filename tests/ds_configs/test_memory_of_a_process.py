"""Where weights are spread, no process ever holds a whole copy of the frozen model by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from extracting import extract_to, random_texts
from launching import PROCESSES, engine_words, launch, witness
from tiny import tiny_model, tiny_tokenizer

from consistency_lens.frozen import FrozenLM

pytestmark = pytest.mark.distributed
pytest.importorskip("deepspeed")

SIZES = {"hidden_size": 640, "intermediate_size": 2560, "num_hidden_layers": 6, "num_attention_heads": 10}
WORDS = [
    *["--use_cpu", "--code_length", "2", "--prompt", "w1 <A> w2", "--warm_steps", "1", "--max_steps", "1"],
    *["--per_device_train_batch_size", "4", "--eval_strategy", "no", "--save_strategy", "no", "--logging_steps", "1"],
    *["--trainable", "lora", "--lora_rank", "4", "--tail_baseline", "false", "--report_to", "none"],
]


def test_a_process_grows_by_its_part_and_a_block(tmp_path: Path) -> None:
    model = tiny_model("llama", num_key_value_heads=10, **{**SIZES, "head_dim": 64})
    whole = sum(4 * p.numel() for p in model.parameters())
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    texts = random_texts(24, shortest=8, longest=12)
    extract_to(tmp_path / "rows", texts, FrozenLM.from_pretrained(tmp_path / "model"), continuation_length=2)
    named = ["--model_name_or_path", str(tmp_path / "model"), "--activations", str(tmp_path / "rows")]
    words = ["train", *named, "--output_dir", str(tmp_path / "run"), *WORDS, *engine_words("zero3")]
    launch("zero3", [words], tmp_path / "launch")
    found = witness(tmp_path / "run")
    assert len(found) == PROCESSES and whole > 1.4e8
    for process in found:
        assert process["subject_held"] * 4 < 0.6 * whole
        assert (
            process["grown"] < (1 / PROCESSES + 1 / SIZES["num_hidden_layers"] + 0.3) * whole
        )  # .3: what imports bring
