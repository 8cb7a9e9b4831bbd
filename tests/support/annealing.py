"""What tests of annealed importance sampling share: whether the mean of weights is what it should be."""

from __future__ import annotations

import math

from torch import Tensor

from support.linear_gaussian import STANDARD_ERRORS

__all__ = ["STANDARD_ERRORS", "deviation"]


def deviation(weights: Tensor, expected: float = 1.0) -> float:
    """How many standard errors the mean of weights is from what it should be."""
    return float((weights.mean() - expected).abs() / (weights.std() / math.sqrt(weights.numel())))
