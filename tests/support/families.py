"""Every exponential family with random natural parameters, and sums or quadratures that are exact to rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastvi.expfam import (
    Bernoulli,
    Beta,
    Binomial,
    BoltzmannMachine,
    Categorical,
    Dirichlet,
    Exponential,
    ExponentialFamily,
    Gamma,
    Gaussian,
    Ising,
    Laplace,
    MultivariateGaussian,
    Poisson,
    VonMises,
)

Points = tuple[Tensor, Tensor]
"""Places x, and the logarithms of their weights."""


@dataclass(frozen=True)
class Case:
    """A family; natural parameters of free numbers between -1 and 1; a rule that integrates over x."""

    family: ExponentialFamily
    free: int
    natural: Callable[[Tensor], Tensor]
    rule: Callable[[Tensor], Points]

    def __repr__(self) -> str:
        return type(self.family).__name__

    def eta(self, seed: int, size: float = 1.0) -> Tensor:
        """Natural parameters of random numbers between -size and size."""
        generator = torch.Generator().manual_seed(seed)
        return self.natural(size * (2.0 * torch.rand(self.free, generator=generator, dtype=torch.float64) - 1.0))

    def integrals(self, eta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A, the places, their probabilities, and T: from statistics and base measure alone."""
        x, log_weights = self.rule(eta)
        statistics = self.family.statistics(x)
        scores = statistics @ eta + self.family.log_base_measure(x) + log_weights
        log_partition = torch.logsumexp(scores, 0)
        return log_partition, x, (scores - log_partition).exp(), statistics


def whole_numbers(count: int) -> Callable[[Tensor], Points]:
    def rule(eta: Tensor) -> Points:
        x = torch.arange(count, dtype=torch.float64)
        return x, torch.zeros_like(x)

    return rule


def all_states(family: Any) -> Callable[[Tensor], Points]:
    return lambda eta: (family.states, torch.zeros(len(family.states), dtype=torch.float64))


def line(low: float, high: float, step: float) -> tuple[Tensor, float]:
    """The trapezoidal rule for what vanishes at both ends, which is then exact to rounding."""
    return torch.arange(low, high, step, dtype=torch.float64), math.log(step)


def half_line(eta: Tensor) -> Points:
    """x = e^t."""
    t, log_step = line(-120.0, 8.0, 0.05)
    return t.exp(), t + log_step


def both_half_lines(location: float) -> Callable[[Tensor], Points]:
    def rule(eta: Tensor) -> Points:
        x, log_weights = half_line(eta)
        return torch.cat([location - x, location + x]), torch.cat([log_weights, log_weights])

    return rule


def unit_interval(eta: Tensor) -> Points:
    """x = 1 / (1 + e^-t), up to where 1 - x has digits."""
    t, log_step = line(-36.0, 36.0, 0.05)
    return torch.sigmoid(t), torch.nn.functional.logsigmoid(t) + torch.nn.functional.logsigmoid(-t) + log_step


def simplex(eta: Tensor) -> Points:
    """Three proportions: x_1 = s, x_2 = (1 - s) t."""
    t, log_step = line(-30.0, 30.0, 0.15)
    log_s, log_rest = (torch.nn.functional.logsigmoid(sign * t) for sign in (1.0, -1.0))
    first = [log_s[:, None].expand(-1, len(t)), log_rest[:, None] + log_s, log_rest[:, None] + log_rest]
    x = torch.stack([part.flatten() for part in first], -1).exp()
    jacobian = (log_s + 2.0 * log_rest)[:, None] + (log_s + log_rest)
    return x / x.sum(-1, keepdim=True), jacobian.flatten() + 2.0 * log_step


def gaussian(eta: Tensor) -> Points:
    scale = (-0.5 / eta[1]).sqrt()
    t, log_step = line(-12.0, 12.0, 0.05)
    return -0.5 * eta[0] / eta[1] + scale * t, (scale.log() + log_step).expand(len(t))


def plane(eta: Tensor) -> Points:
    """For a Gaussian in two dimensions, whose precision its packed parameters say."""
    precision = -torch.stack([torch.stack([2.0 * eta[2], eta[3]]), torch.stack([eta[3], 2.0 * eta[4]])])
    root = torch.linalg.cholesky(torch.linalg.inv(precision))
    t, log_step = line(-10.0, 10.0, 0.2)
    z = torch.cartesian_prod(t, t)
    weight = root.diagonal().log().sum() + 2.0 * log_step
    return torch.linalg.solve(precision, eta[:2]) + z @ root.T, weight.expand(len(z))


def circle(eta: Tensor) -> Points:
    x = torch.linspace(-math.pi, math.pi, 2001, dtype=torch.float64)[1:]
    return x, torch.full_like(x, math.log(2.0 * math.pi / 2000))


def precise(u: Tensor) -> Tensor:
    """Natural parameters of a Gaussian vector in two dimensions."""
    root = torch.stack([torch.stack([1.5 + u[2], u[3]]), torch.stack([torch.zeros_like(u[3]), 1.5 + u[4]])])
    precision = root @ root.T
    linear = precision @ (2.0 * u[:2])
    return torch.cat([linear, torch.stack([-0.5 * precision[0, 0], -precision[1, 0], -0.5 * precision[1, 1]])])


CASES = [
    Case(Bernoulli(), 1, lambda u: 4.0 * u, whole_numbers(2)),
    Case(Categorical(4), 4, lambda u: 3.0 * u, whole_numbers(4)),
    Case(Binomial(7), 1, lambda u: 3.0 * u, whole_numbers(8)),
    Case(Poisson(), 1, lambda u: 4.0 * u, whole_numbers(300)),
    Case(Exponential(), 1, lambda u: -(2.0 * u).exp(), half_line),
    Case(Laplace(0.5), 1, lambda u: -(2.0 * u).exp(), both_half_lines(0.5)),
    Case(Gamma(), 2, lambda u: torch.stack([(2.0 * u[0] + 1.0).exp(), -u[1].exp()]), half_line),
    Case(Beta(), 2, lambda u: 1.5 * (1.5 * u + 1.5).exp(), unit_interval),
    Case(Dirichlet(3), 3, lambda u: 1.5 * (1.2 * u + 1.2).exp(), simplex),
    Case(Gaussian(), 2, lambda u: torch.stack([4.0 * u[0], -(2.0 * u[1]).exp()]), gaussian),
    Case(MultivariateGaussian(2), 5, precise, plane),
    Case(VonMises(), 2, lambda u: 40.0 * u**3, circle),
    Case(Ising(3), 6, lambda u: 1.5 * u, all_states(Ising(3))),
    Case(BoltzmannMachine(2, 1), 6, lambda u: 3.0 * u, all_states(BoltzmannMachine(2, 1))),
]
