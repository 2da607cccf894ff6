"""What training a transcoder takes of each device, by arithmetic on its configuration: no weight is made.

Weights, gradients and Adam's moments are float32. With `shard_features` the features of every layer are dealt out.
"""

from __future__ import annotations

from dataclasses import dataclass

from .coding.sharing import Shards
from .configuration import CrosslayerTranscoderConfig

TRAINED = 16  # bytes of a number that Adam trains: itself, its gradient, two moments
NUMBER = 4  # bytes of a float32
# Tensors as large as the pre-activations that a dense step holds of one layer at its peak: themselves, the features,
# their gradient. Those of all layers are kept for the backward pass but the last.
KEPT, PASSING = 2, 1


@dataclass(frozen=True)
class Bill:
    """Of one step.

    Args:
        features: numbers that belong to features, of all layers.
        shared: numbers that every process holds: biases and skips.
        weights: bytes that each device holds of weights, gradients and moments.
        kept: bytes of pre-activations, features and reconstructions on each device, in a dense step.
        sent: bytes that each device sends and receives in a forward pass, by a ring; a backward pass sends none.
        flops: of each device, in a dense step.
    """

    features: int
    shared: int
    weights: int
    kept: int
    sent: int
    flops: int

    @property
    def memory(self) -> int:
        return self.weights + self.kept


def bill_of(config: CrosslayerTranscoderConfig, tokens: int, processes: int = 1) -> Bill:
    """The bill of a training whose features lie on so many devices.

    Args:
        config: of the lens.
        tokens: of a step; every process reads all of them.
        processes: that share the features.
    """
    Shards(0, processes).require(config.features, config.across_layers)
    layers, size, count = len(config.window), config.hidden_size, config.features
    targets = layers if config.tied_decoder else sum(config.reach(i) for i in range(layers))
    thresholds = config.nonlinearity == "jumprelu"
    per_feature = layers * (size + 1 + thresholds) + targets * size
    shared = layers * size * (1 + size * config.skip)
    own = count // processes
    written = tokens * layers * size * NUMBER
    compared = tokens * layers * (config.k or 0) * NUMBER
    kept = NUMBER * tokens * own * (layers * KEPT + PASSING) + 2 * written
    # Twice what is summed goes through each device of a ring, and what the others found largest comes to each.
    sent = (2 * written // processes + compared) * (processes - 1)
    products = layers * size + (sum(range(1, layers + 1)) if config.tied_decoder else targets) * size
    return Bill(
        features=count * per_feature,
        shared=shared,
        weights=TRAINED * (own * per_feature + shared),
        kept=kept,
        sent=sent,
        flops=6 * tokens * own * products,
    )
