"""Pareto k-hat: how heavy the tail of importance weights is.

Vehtari, Simpson, Gelman, Yao and Gabry 2024, "Pareto smoothed importance sampling"; for variational inference: Yao,
Vehtari, Simpson and Gelman 2018, "Yes, but did it work?".
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import genpareto
from torch import Tensor


def pareto_k_hat(log_weights: Tensor) -> float:
    """Shape of the generalised Pareto distribution of the largest weights, for log weights (S,), S at least 25.

    The largest min(S / 5, 3 sqrt(S)) weights are fitted by maximum likelihood. -inf where all of them are equal.
    """
    values = np.sort(log_weights.detach().double().cpu().numpy())
    tail = math.ceil(min(0.2 * len(values), 3.0 * math.sqrt(len(values))))
    weights = np.exp(values - values[-1])
    threshold = weights[-tail - 1]
    above = weights[-tail:] - threshold
    if above[-1] <= 1e-12:
        return -math.inf
    shape, _, _ = genpareto.fit(above / above.mean(), floc=0.0)
    return float(shape)
