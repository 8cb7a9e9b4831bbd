"""The effective number of draws of Markov chains (Vehtari et al. 2021), the same function for every provider."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def effective_draws(draws: Tensor) -> Tensor:
    r"""Return how many independent draws have means as exact as those of the columns of draws ``(N, C, D)``, ``(D,)``.

    .. math:: C N / \tau, \quad \tau = -1 + 2 \sum_k \hat P_k

    with the sums of two neighbouring autocorrelations, up to the first that is not positive, made monotone (Geyer's
    initial monotone sequence); autocorrelations are those of all chains, with the variance between them. As ArviZ's
    ``ess`` with ``method="mean"`` but for the halves of chains, which are not split.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter, Burkner: Rank-normalization, folding, and localization. Bayesian Analysis 2021.
    """
    num_draws, num_chains, _ = draws.shape
    values = draws.double()
    centred = values - values.mean(0)
    spectrum = torch.fft.rfft(centred, n=2 * num_draws, dim=0)
    covariances = torch.fft.irfft(spectrum.abs().square(), n=2 * num_draws, dim=0)[:num_draws].mean(1) / num_draws
    within = covariances[0] * num_draws / (num_draws - 1)
    pooled = covariances[0] + values.mean(0).var(0)
    correlations = 1.0 - (within - covariances * num_draws / (num_draws - 1)) / pooled
    correlations[0] = 1.0
    pairs = correlations[: num_draws - num_draws % 2].unflatten(0, (-1, 2)).sum(1)
    is_counted = (pairs > 0.0).cummin(0).values
    times = 2.0 * (pairs.cummin(0).values * is_counted).sum(0) - 1.0
    total = num_draws * num_chains
    effective: Tensor = total / times.clamp_min(1.0 / math.log10(total))
    return effective


def least_effective_draws(draws: Tensor) -> float:
    """Return the least over the first and second moments of all columns of draws ``(N, C, D)``."""
    return min(effective_draws(values).min().item() for values in (draws, draws.square()))
