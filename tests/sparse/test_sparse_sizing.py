"""The arithmetic of large transcoders: it counts the weights of real ones, and says what 1.5 million features take."""

from __future__ import annotations

from typing import Any

import pytest

from consistency_lens.errors import BadInput
from consistency_lens.sparse.configuration import CrosslayerTranscoderConfig
from consistency_lens.sparse.modeling import CrosslayerTranscoder
from consistency_lens.sparse.sizing import TRAINED, Bill, bill_of

GB, EIGHT, STEP = 10**9, 8, 4000  # tokens


def config_of(depth: int, size: int, features: int, **settings: Any) -> CrosslayerTranscoderConfig:
    return CrosslayerTranscoderConfig(depth=depth, hidden_size=size, features=features, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"nonlinearity": "topk", "k": 4, "skip": True},
        {"crosslayer": False, "nonlinearity": "relu"},
        {"tied_decoder": True},
        {"chosen_layers": [1, 2]},
    ],
)
def test_it_counts_the_weights_of_a_real_one(settings: dict[str, Any]) -> None:
    config = config_of(4, 8, 24, **settings)
    held = sum(p.numel() for part in CrosslayerTranscoder(config).parts().values() for p in part.values())
    whole, half = bill_of(config, 16), bill_of(config, 16, 2)
    assert whole.features + whole.shared == held and whole.weights == TRAINED * held and whole.sent == 0
    assert half.weights == TRAINED * (whole.features // 2 + whole.shared)
    with pytest.raises(BadInput, match=r"features=24\. Use a multiple of 5"):
        bill_of(config, 16, 5)


def million_and_a_half(depth: int, size: int, **settings: Any) -> Bill:
    features = 1_500_000 // depth // EIGHT * EIGHT
    return bill_of(config_of(depth, size, features, **settings), STEP, EIGHT)


def test_one_and_a_half_million_features_on_eight_gpus() -> None:
    """The table of docs/transcoder.md."""
    gpt2 = million_and_a_half(12, 768)
    assert gpt2.weights == pytest.approx(17.3 * GB, rel=0.01)
    assert gpt2.memory == pytest.approx(23.8 * GB, rel=0.01) and gpt2.sent == pytest.approx(0.26 * GB, rel=0.01)
    llama = million_and_a_half(32, 4096)
    assert llama.weights == pytest.approx(215 * GB, rel=0.01), "the whole triangle fits on no GPU"
    tied, per_layer = (million_and_a_half(32, 4096, **way) for way in ({"tied_decoder": True}, {"crosslayer": False}))
    assert tied.weights == per_layer.weights == pytest.approx(24.6 * GB, rel=0.01)
    assert tied.memory == pytest.approx(34.9 * GB, rel=0.01)
    window = bill_of(config_of(32, 4096, 187_496, chosen_layers=list(range(8, 16))), STEP, EIGHT)
    assert window.weights == pytest.approx(67.6 * GB, rel=0.01) and window.memory == pytest.approx(75 * GB, rel=0.01)
