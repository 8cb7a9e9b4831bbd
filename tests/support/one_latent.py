"""Expectations over the samples of a linear-Gaussian model with one latent variable, without a random number."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import torch
from torch import Tensor

from fastvi import normal_log_prob
from fastvi.objectives import Draw
from support.linear_gaussian import LinearGaussian


def parts(model: LinearGaussian, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x, z) and log q(z|x), each ``(K, B)``, for z of the shape ``(K, B, 1)``."""
    joint = model.log_likelihood(x, z) + normal_log_prob(z, *model._prior())
    return joint, normal_log_prob(z, *model.encode(x))


def grid(model: LinearGaussian, x: Tensor, num_samples: int, nodes: int = 40) -> tuple[Tensor, Tensor]:
    """All tuples of K samples at the nodes of Gauss-Hermite quadrature: samples ``(K, N, 1)`` and masses ``(N,)``.

    For a model of one example. The samples have their path to the parameters of q.
    """
    points, masses = (torch.from_numpy(values) for values in np.polynomial.hermite_e.hermegauss(nodes))
    masses = masses / masses.sum()
    chosen = torch.tensor(list(itertools.product(range(nodes), repeat=num_samples))).t()
    mean, logvar = model.encode(x)
    return mean + torch.exp(0.5 * logvar) * points[chosen].unsqueeze(-1), masses[chosen].prod(0)


@dataclasses.dataclass
class EvenDraws:
    """Draws that are no random ones: the K quantiles (k + 1/2) / K of q, whose means are expectations for large K.

    With ``score`` they carry no gradient and have ``log_posterior``, as discrete ones do.
    """

    model: LinearGaussian
    score: bool = False

    def draw(self, x, num_samples, *, detach_posterior=False, seed=None, row_offset=0):
        levels = (torch.arange(num_samples, dtype=torch.float64) + 0.5) / num_samples
        mean, logvar = self.model.encode(x)
        z = mean + torch.exp(0.5 * logvar) * torch.special.ndtri(levels).reshape(-1, 1, 1)
        joint, posterior = parts(self.model, x, z.detach() if self.score else z)
        return Draw(z.detach() if self.score else z, joint - posterior, posterior if self.score else None)


def path(model: LinearGaussian, x: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Mean and precision, ``(B,)``, of pi_beta, proportional to q^(1 - beta) p(x, z)^beta."""
    (mean, logvar), exact = model.encode(x), model.with_exact_posterior()
    exact_mean, exact_logvar = exact.encode(x)
    of_q, of_posterior = (1.0 - beta) * torch.exp(-logvar), beta * torch.exp(-exact_logvar)
    precision = of_q + of_posterior
    return ((of_q * mean + of_posterior * exact_mean) / precision)[:, 0], precision[:, 0]


def path_mean(model: LinearGaussian, x: Tensor, beta: float) -> Tensor:
    """E_{pi_beta}[log w], ``(B,)``: that at the mean of pi_beta, less the curvature of log w times the variance."""
    mean, precision = path(model, x, beta)
    joint, posterior = parts(model, x, mean.reshape(1, -1, 1))
    exact_logvar = model.with_exact_posterior().encode(x)[1][:, 0]
    curvature = torch.exp(-exact_logvar) - torch.exp(-model.encoder_logvar[:, 0])
    return (joint - posterior)[0] - 0.5 * curvature / precision


def renyi_limit(model: LinearGaussian, x: Tensor, alpha: float) -> Tensor:
    """log p(x) - D_alpha(q || posterior), ``(B,)``: the integral of q^alpha posterior^(1 - alpha) is a Gaussian's."""
    (mean, logvar), (exact_mean, exact_logvar) = model.encode(x), model.with_exact_posterior().encode(x)
    of_q, of_posterior = alpha * torch.exp(-logvar), (1.0 - alpha) * torch.exp(-exact_logvar)
    precision = of_q + of_posterior
    square = of_q * of_posterior / precision * (mean - exact_mean).square()
    log_integral = 0.5 * (-alpha * logvar - (1.0 - alpha) * exact_logvar - torch.log(precision) - square)
    return model.log_marginal(x) + log_integral.sum(-1) / (1.0 - alpha)
