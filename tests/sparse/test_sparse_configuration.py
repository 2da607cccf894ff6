"""What a transcoder may be, and what is refused before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import shared_lm

from consistency_lens.errors import BadInput
from consistency_lens.sparse.configuration import CrosslayerTranscoderConfig, parse_layers


@pytest.mark.parametrize(
    ("layers", "expected"), [("all", [0, 1, 2, 3]), ("1:3", [1, 2]), ([0, 3], [0, 3]), (" 2:4 ", [2, 3])]
)
def test_layers_are_all_a_window_or_a_list(layers: Any, expected: list[int]) -> None:
    assert parse_layers(layers, 4) == expected


@pytest.mark.parametrize("layers", ["2:9", "3", "3:3", "-1:2", [], [1, 1], [2, 1], [4], [-1]])
def test_layers_that_the_model_does_not_have(layers: Any) -> None:
    with pytest.raises(BadInput, match="layers="):
        parse_layers(layers, 4)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"nonlinearity": "topk"}, "k"),
        ({"nonlinearity": "topk", "k": 17}, "k"),
        ({"nonlinearity": "batchtopk", "k": 0}, "k"),
        ({"nonlinearity": "jumprelu", "k": 4}, "k"),
        ({"nonlinearity": "topk", "k": 4, "across_layers": True}, "across_layers"),
        ({"nonlinearity": "gelu"}, "nonlinearity"),
        ({"standardisation": "batch"}, "standardisation"),
        ({"features": 0}, "features"),
        ({"threshold": 0.0}, "threshold"),
        ({"bandwidth": float("nan")}, "bandwidth"),
        ({"tied_decoder": True, "crosslayer": False}, "tied_decoder"),
        ({"read_stage": "resid_post"}, "read_stage"),
        ({"write_stage": "logits"}, "write_stage"),
        ({"read_stage": "mlp_out"}, "crosslayer"),
        ({"chosen_layers": [0, 7]}, "chosen_layers"),
    ],
)
def test_nonsense_is_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(BadInput) as caught:
        CrosslayerTranscoderConfig(**{"depth": 4, "features": 16} | settings)
    assert caught.value.field == field and caught.value.fix


def test_sites_and_reach() -> None:
    config = CrosslayerTranscoderConfig(depth=12, chosen_layers=[8, 9, 11])
    assert config.read_sites == ["resid_mid.8", "resid_mid.9", "resid_mid.11"]
    assert config.written_sites == ["mlp_out.8", "mlp_out.9", "mlp_out.11"]
    assert [config.reach(i) for i in range(3)] == [3, 2, 1]
    alone = CrosslayerTranscoderConfig(depth=12, chosen_layers=[8, 9, 11], crosslayer=False)
    assert [alone.reach(i) for i in range(3)] == [1, 1, 1]
    sae = CrosslayerTranscoderConfig(depth=12, chosen_layers=[5], read_stage="resid_post", write_stage="resid_post")
    assert sae.all_sites == ["resid_post.5"]


def test_for_a_subject() -> None:
    lm = shared_lm("llama")
    config = CrosslayerTranscoderConfig.for_subject(lm, "1:3", features=8)
    assert (config.sites, config.written) == (["resid_mid.1", "resid_mid.2"], ["mlp_out.1", "mlp_out.2"])
    assert (config.hidden_size, config.depth, config.window) == (32, 4, [1, 2])
    config.require_subject(lm)
    with pytest.raises(BadInput, match="4 layers"):
        CrosslayerTranscoderConfig.for_subject(lm, "2:5")


def test_a_stage_that_the_model_does_not_offer_is_named() -> None:
    lm = shared_lm("gpt_neox")  # attention and MLP side by side: there is nothing between them
    with pytest.raises(BadInput, match="does not offer resid_mid") as caught:
        CrosslayerTranscoderConfig.for_subject(lm)
    assert caught.value.field == "read_stage" and "resid_pre" in caught.value.fix


def test_it_comes_back_from_a_folder(tmp_path: Path) -> None:
    config = CrosslayerTranscoderConfig(depth=4, chosen_layers=[1, 3], nonlinearity="batchtopk", k=3, skip=True)
    config.save_pretrained(tmp_path)
    again = CrosslayerTranscoderConfig.from_pretrained(tmp_path)
    assert (again.window, again.nonlinearity, again.k, again.skip) == ([1, 3], "batchtopk", 3, True)
    assert "about 3 active" in again.code_in_words
