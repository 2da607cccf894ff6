"""What a wire may be, and what is refused before anything is made of it."""

from __future__ import annotations

from typing import Any

import pytest

from consistency_lens.errors import BadInput
from consistency_lens.soft.configuration import LatentWireConfig
from consistency_lens.soft.options import WireOptions

TWO = {"receivers": ["a", "b"], "widths": [8, 16], "embedding_rms": [0.5, 1.0], "compressor_model": "a"}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "slots"),
        ({"slots": 4, "ratio": 2.0}, "slots"),
        ({"slots": 0}, "slots"),
        ({"ratio": 0.5}, "ratio"),
        ({"ratio": float("nan")}, "ratio"),
        ({"ratio": 2.0, "pooling": "learned"}, "pooling"),
        ({"slots": 4, "pooling": "max"}, "pooling"),
        ({"slots": 4, "start": "words"}, "start"),
        ({"slots": 4, "bos": "sometimes"}, "bos"),
        ({"slots": 4, "activation": "relu"}, "activation"),
        ({"slots": 4, "bits": 5}, "bits"),
        ({"slots": 4, "bits": 8, "group": 0}, "group"),
        ({"slots": 4, "d_z": 0}, "d_z"),
        ({"slots": 4, "modes": ["recall", "recall"]}, "modes"),
        ({"slots": 4, "max_answer_tokens": 0}, "max_answer_tokens"),
        ({"slots": 4, **TWO, "compressor_model": "c"}, "compressor_model"),
        ({"slots": 4, **TWO, "start": "byte"}, "compressor_model"),
        ({"slots": 4, **TWO, "widths": [8]}, "widths"),
        ({"slots": 4, **TWO, "embedding_rms": [1.0]}, "embedding_rms"),
        ({"slots": 4, **TWO, "receivers": ["a", "a"]}, "receivers"),
        ({"slots": 4, **TWO, "answer_choice": {"c": 1}}, "answer_choice"),
    ],
)
def test_it_refuses_by_name(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput, match=f"^{named}="):
        LatentWireConfig(**settings)


def test_it_says_its_size() -> None:
    assert LatentWireConfig(slots=4, d_z=8, bits=4).code_in_words == "4 vectors of 8 numbers, 4 bits each"
    assert "one vector for every 2.5 tokens, of 64" in LatentWireConfig(ratio=2.5).code_in_words
    assert "one vector for each token, of 64" in LatentWireConfig(ratio=1.0).code_in_words
    assert LatentWireConfig(slots=4, **TWO).names == ["a", "b"]


def test_options_of_the_command_line_become_settings() -> None:
    found = WireOptions(answer_choice=["right=1"], opening="; ", anchor=" is", nested=[4], ratio=3.0).settings()
    assert found["answer_choice"] == {"right": 1} and found["nested"] == [4] and found["ratio"] == 3
    assert found["opening"] == {"answer": "; "} and found["anchor"] == {"answer": " is"}
    assert WireOptions().settings()["answer_choice"] is None and WireOptions().settings()["anchor"] is None
    for wrong in (["right"], ["right=one"], ["right=1", "right=0"], ["=1"]):
        with pytest.raises(BadInput, match="answer_choice"):
            WireOptions(answer_choice=wrong).choices  # noqa: B018


def test_places_of_a_machine_are_not_kept() -> None:
    said = {"model_type": "llama", "vocab_size": 4, "name_or_path": "x/y", "text_config": {"_name_or_path": "x/y"}}
    assert LatentWireConfig(slots=1, compressor=said).compressor == {
        "model_type": "llama",
        "vocab_size": 4,
        "text_config": {},
    }
