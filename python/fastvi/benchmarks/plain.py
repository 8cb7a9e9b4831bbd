"""The formulas as one writes them in plain PyTorch: what the eager and the compiled providers run.

:mod:`fastvi.reference` has more operators in them, for variances and logits beyond what these can do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastvi.reference import LOG_TWO_PI


def normal_log_prob(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Log density of a diagonal Gaussian, summed over the last dimension."""
    return (-0.5 * ((x - mean).square() * torch.exp(-logvar) + logvar + LOG_TWO_PI)).sum(-1)


def rsample_normal_with_log_ratio(mean: Tensor, logvar: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """Samples z of q, and log p(z) - log q(z) for the standard normal p."""
    z = mean + torch.exp(0.5 * logvar) * eps
    return z, 0.5 * (eps.square() - z.square() + logvar).sum(-1)


def bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """Bernoulli log-likelihood, summed over the last dimension."""
    return (x * logits + torch.nn.functional.logsigmoid(-logits)).sum(-1)


def linear_bernoulli_log_prob(h: Tensor, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """The same for the logits of a linear layer."""
    return bernoulli_log_prob(x, torch.nn.functional.linear(h, weight, bias))


def kinetic_energy(p: Tensor, inverse_mass: Tensor) -> Tensor:
    """Half the sum of p^2 / m over the last dimension."""
    return 0.5 * (p.square() * inverse_mass).sum(-1)
