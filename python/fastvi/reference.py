"""Plain-PyTorch twins of every operation: the definition that tests and benchmarks compare with.

They run in whatever precision the inputs have, so that float64 inputs give the reference values. Draws take their
standard normal noise ``eps`` as an argument.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG_TWO_PI = math.log(2.0 * math.pi)


def rsample_normal(mean: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    """``mean + exp(logvar / 2) * eps``; ``eps`` has the shape ``sample_shape + mean.shape``."""
    return mean + torch.exp(0.5 * logvar) * eps


def kl_normal(
    mean: Tensor,
    logvar: Tensor,
    prior_mean: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    free_bits: float = 0.0,
) -> Tensor:
    """KL(N(mean, exp(logvar)) || prior), summed over the last dimension; the default prior is N(0, 1)."""
    difference = mean if prior_mean is None else mean - prior_mean
    log_ratio = logvar if prior_logvar is None else logvar - prior_logvar
    square = difference.square() if prior_logvar is None else difference.square() * torch.exp(-prior_logvar)
    divergence = 0.5 * (square + (torch.expm1(log_ratio) - log_ratio))
    if free_bits > 0.0:
        divergence = torch.clamp(divergence, min=free_bits)
    return divergence.sum(-1)


def normal_log_prob(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Log density log N(x; mean, exp(logvar)), summed over the last dimension."""
    return (-0.5 * ((x - mean).square() * torch.exp(-logvar) + logvar + LOG_TWO_PI)).sum(-1)


def normal_entropy(logvar: Tensor) -> Tensor:
    """Entropy of N(., exp(logvar)) in nats, summed over the last dimension."""
    return (0.5 * (logvar + (1.0 + LOG_TWO_PI))).sum(-1)


def rsample_normal_with_log_ratio(
    mean: Tensor,
    logvar: Tensor,
    eps: Tensor,
    prior_mean: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    detach_posterior: bool = False,
) -> tuple[Tensor, Tensor]:
    """(z, log p(z) - log q(z)); with ``detach_posterior`` q's parameters are constants inside log q."""
    z = rsample_normal(mean, logvar, eps)
    if detach_posterior:
        log_posterior = normal_log_prob(z, mean.detach(), logvar.detach())
    else:  # (z - mean)^2 / variance is eps^2 by construction: no gradient may leave it, no digit is lost in it
        log_posterior = (-0.5 * (eps.square() + logvar + LOG_TWO_PI)).sum(-1)
    prior_mean = torch.zeros((), dtype=z.dtype, device=z.device) if prior_mean is None else prior_mean
    prior_logvar = torch.zeros((), dtype=z.dtype, device=z.device) if prior_logvar is None else prior_logvar
    return z, normal_log_prob(z, prior_mean, prior_logvar) - log_posterior


def bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """sum_d x * logits - softplus(logits) over the last dimension."""
    # softplus(l) = -log sigmoid(-l): PyTorch's softplus overflows, or is linear, where its threshold says
    return (x * logits + torch.nn.functional.logsigmoid(-logits)).sum(-1)


def linear_bernoulli_log_prob(h: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """``bernoulli_log_prob(x, h @ weight.T + bias)``."""
    return bernoulli_log_prob(x, torch.nn.functional.linear(h, weight, bias))


def log_mean_exp(x: Tensor, dim: int) -> Tensor:
    """The stable log(mean(exp(x))) over ``dim``."""
    return torch.logsumexp(x, dim) - math.log(x.shape[dim])


def importance_weights(log_w: Tensor, dim: int) -> Tensor:
    """Weights proportional to exp(log_w) that sum to one over ``dim``."""
    return torch.softmax(log_w, dim)


def effective_sample_size(log_w: Tensor, dim: int) -> Tensor:
    """1 / sum of the squared normalised weights over ``dim``."""
    return 1.0 / torch.softmax(log_w, dim).square().sum(dim)


def leapfrog_step(
    q: Tensor,
    p: Tensor,
    grad: Tensor,
    step_size: Tensor | float,
    inverse_mass: Tensor | float | None = None,
    kick: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Kick and drift: p' = p - kick * step_size * grad; q' = q + step_size * inverse_mass * p'."""
    momentum = p - kick * step_size * grad
    velocity = momentum if inverse_mass is None else inverse_mass * momentum
    return q + step_size * velocity, momentum


def kinetic_energy(p: Tensor, inverse_mass: Tensor | None = None) -> Tensor:
    """1/2 sum_d p^2 * inverse_mass over the last dimension."""
    square = p.square() if inverse_mass is None else p.square() * inverse_mass
    return 0.5 * square.sum(-1)
