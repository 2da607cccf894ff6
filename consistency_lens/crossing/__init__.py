"""Families beside each other and on each other: what a feature writes in words, which features words kept, what soft
tokens say in words, and what a bit buys in each.

Lenses of two families never know of each other. Here both are given, and only what every lens can do is asked of them,
and of the transcoder and the wire what their families say in public.
"""

from .features_in_words import FeatureInWords, words_of_feature
from .rates import RatePoint, rate_points
from .slots_in_words import words_of_slots
from .words_in_features import KeptFeatures, features_kept

__all__ = [
    "FeatureInWords",
    "KeptFeatures",
    "RatePoint",
    "features_kept",
    "rate_points",
    "words_of_feature",
    "words_of_slots",
]
