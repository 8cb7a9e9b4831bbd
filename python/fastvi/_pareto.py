"""Pareto k-hat: how heavy the tail of importance weights is.

Vehtari, Simpson, Gelman, Yao and Gabry 2024, "Pareto smoothed importance sampling", with the fit of Zhang and Stephens
2009; for variational inference: Yao, Vehtari, Simpson and Gelman 2018, "Yes, but did it work?".
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FEWEST_SAMPLES = 25
"""With fewer the tail has less than five weights, and no shape that could be told."""
_PRIOR_COUNT, _PRIOR_SHAPE = 10.0, 0.5
"""The shape's prior counts as much as ten weights (Vehtari et al. 2024, appendix G)."""


def tail_size(num_samples: int) -> int:
    """Return how many of the largest weights are fitted: the smaller of S / 5 and 3 sqrt(S)."""
    return math.ceil(min(0.2 * num_samples, 3.0 * math.sqrt(num_samples)))


def largest_reliable_k(num_samples: int) -> float:
    """Return the k-hat above which S weights do not correct q: 0.7, less for fewer than 2,200 samples."""
    return min(1.0 - 1.0 / math.log10(num_samples), 0.7) if num_samples > 1 else -math.inf


def pareto_k_hat(log_weights: Tensor) -> float:
    """Shape of the generalised Pareto distribution of the largest weights, for log weights (S,), S at least 25.

    -inf where all of them are equal.
    """
    largest = log_weights.detach().topk(tail_size(len(log_weights)) + 1, 0).values
    return float(pareto_k_hats(largest))


def pareto_k_hats(largest: Tensor) -> Tensor:
    """Return k-hat, (...) in float64, of the M + 1 largest log weights, (M + 1, ...) and falling along the first axis.

    M is the `tail_size` of all of them; the last one is the threshold that the M others exceed. NaN where a log weight
    is NaN or +inf, or all of them are -inf.
    """
    logs = largest.double()
    weights = torch.exp(logs - logs[0])
    above = (weights[:-1] - weights[-1]).flip(0)
    shape = _fitted_shape(above.flatten(1) if above.dim() > 1 else above.unsqueeze(1)).view(largest.shape[1:])
    return torch.where(above[-1] <= 1e-12, -math.inf, shape)


def _fitted_shape(above: Tensor) -> Tensor:
    """The posterior mean of the shape, (N,), for exceedances (M, N) that rise along the first axis.

    Zhang and Stephens 2009, "A new and efficient estimation method for the generalized Pareto distribution": the
    likelihood of b = -shape / scale, with the shape that is best for each b, averaged over a grid of b.
    """
    count = len(above)
    grid = 30 + math.isqrt(count)
    largest = above[-1].clamp_min(torch.finfo(above.dtype).tiny)
    above = above / largest
    quartile = above[int(0.25 * count + 0.5) - 1].clamp_min(1e-10)
    place = torch.arange(1, grid + 1, dtype=above.dtype, device=above.device).unsqueeze(1) - 0.5
    b = (1.0 - (grid / place).sqrt()) / (3.0 * quartile) + 1.0
    shape = torch.log1p(-b.unsqueeze(1) * above).mean(1)
    log_likelihood = count * (torch.log(-b / shape) - shape - 1.0)
    mean_b = (torch.softmax(log_likelihood, 0) * b).sum(0)
    found = torch.log1p(-mean_b * above).mean(0)
    return (count * found + _PRIOR_COUNT * _PRIOR_SHAPE) / (count + _PRIOR_COUNT)
