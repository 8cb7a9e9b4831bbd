"""The von Mises distribution of an angle: T(x) = (cos x, sin x), eta = concentration times its direction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions import VonMises as TorchVonMises

from fastvi.expfam._checks import check_values
from fastvi.expfam._noise import Noise
from fastvi.expfam.base import ExponentialFamily

_SMALL = 2.5e-3
_LARGE = 60.0**2
"""Squares of the concentration below and above which series are exact to rounding."""
_AT_ZERO = (1.0 / 2.0, -1.0 / 16.0, 1.0 / 96.0, -11.0 / 6144.0, 19.0 / 61440.0)


@dataclass(frozen=True)
class VonMises(ExponentialFamily):
    """x an angle in radians, A = log(2 pi I_0(|eta|)); minimal.

    mu = (E cos x, E sin x), whose length I_1 / I_0 is below 1; h = 1. Natural parameters are found by Newton's method
    in one variable. For concentrations above 60 the ratio I_1 / I_0 is its asymptotic series, because its slope would
    lose its digits. The conjugate prior has no closed normaliser.

    Examples
    --------
    >>> family = VonMises()
    >>> eta = torch.tensor([0.0, 2.0])  # concentration 2 about pi / 2
    >>> family.mean_parameters(eta)
    tensor([0.0000, 0.6978])
    """

    mean_range = "(E cos x, E sin x), of a length below 1"

    @property
    def num_statistics(self) -> int:
        """2."""
        return 2

    def _statistics(self, x: Tensor) -> Tensor:
        return torch.stack([x.cos(), x.sin()], -1)

    def _log_partition(self, eta: Tensor) -> Tensor:
        log_bessel: Tensor = _LogBessel.apply(eta.square().sum(-1))  # type: ignore[no-untyped-call, unused-ignore]
        return log_bessel + math.log(2.0 * math.pi)

    def _mean(self, eta: Tensor) -> Tensor:
        return eta * ratio(eta.square().sum(-1, keepdim=True))

    def _fisher(self, eta: Tensor) -> Tensor:
        square = eta.square().sum(-1)[..., None, None]
        identity = torch.eye(2, dtype=eta.dtype, device=eta.device)
        return ratio(square) * identity + 2.0 * ratio(square, 1) * eta.unsqueeze(-1) * eta.unsqueeze(-2)

    def _solve(self, mu: Tensor) -> Tensor:
        length = mu.square().sum(-1, keepdim=True).sqrt()
        kappa = length * (2.0 - length.square()) / ((1.0 - length) * (1.0 + length))
        for _ in range(50):
            square = kappa.square()
            slope = ratio(square) + 2.0 * square * ratio(square, 1)
            new = torch.maximum(kappa - (kappa * ratio(square) - length) / slope, 0.5 * kappa)
            settled = (new - kappa).abs() <= 1e-9 * kappa
            kappa = new
            if bool(settled.all()):
                break
        return mu / ratio(kappa.square())

    def _sample(self, eta: Tensor, noise: Noise) -> Tensor:
        # Best and Fisher 1979, "Efficient simulation of the von Mises distribution".
        parameters = eta.double()
        kappa = parameters.square().sum(-1).sqrt().clamp_min(1e-12)
        root = (1.0 + (1.0 + 4.0 * kappa.square()).sqrt()).sqrt()
        rho = 2.0 * kappa / (root * (root + math.sqrt(2.0)))
        bound = (1.0 + rho.square()) / (2.0 * rho)

        def propose(first: int) -> tuple[Tensor, Tensor]:
            z = (math.pi * noise.uniform(first + 1)).cos()
            cosine = (1.0 + bound * z) / (bound + z)
            c = kappa * (bound - cosine)
            u = noise.uniform(first + 2)
            return cosine, (c * (2.0 - c) > u) | (c.log() - u.log() + 1.0 >= c)

        cosine = noise.until_accepted(propose, 2).clamp(-1.0, 1.0)
        sign = (noise.uniform(0) - 0.5).sign()
        angle = torch.atan2(parameters[..., 1], parameters[..., 0]) + sign * cosine.acos()
        return torch.remainder(angle + math.pi, 2.0 * math.pi) - math.pi

    def _mean_domain(self, mu: Tensor) -> Tensor:
        return mu.square().sum(-1) < 1.0

    def to_distribution(self, eta: Tensor) -> Distribution:
        """``torch.distributions.VonMises``, which has no concentration 0: that is the uniform distribution.

        Raises
        ------
        ValueError
            If a concentration is 0.
        """
        eta = self._natural_values("eta", eta)
        concentration = torch.linalg.vector_norm(eta, dim=-1)
        check_values(
            self._name,
            "the concentration",
            concentration,
            lambda value: value > 0.0,
            "positive in torch.distributions.VonMises, which has no uniform distribution",
            0,
            always=True,
        )
        return TorchVonMises(torch.atan2(eta[..., 1], eta[..., 0]), concentration)

    def from_distribution(self, distribution: Distribution) -> Tensor:
        """From ``torch.distributions.VonMises``."""
        angle = self._expect(distribution, TorchVonMises)
        eta: Tensor = angle.concentration.unsqueeze(-1) * torch.stack([angle.loc.cos(), angle.loc.sin()], -1)
        return eta


class _LogBessel(torch.autograd.Function):
    """log I_0(k) as a function of k^2, smooth at 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(square: Tensor) -> Tensor:
        kappa = square.sqrt()
        scaled: Tensor = torch.special.i0e(kappa)
        return scaled.log() + kappa

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> Tensor:
        return upstreams[0] * 0.5 * ratio(ctx.saved_tensors[0])


def _at_infinity(terms: int) -> tuple[float, ...]:
    """Coefficients of I_1(k) / I_0(k) in 1 / k, from those of its Riccati equation r' = 1 - r / k - r^2."""
    series = [1.0, -0.5]
    for order in range(2, terms):
        products = sum(series[i] * series[order - i] for i in range(1, order))
        series.append(0.5 * ((order - 2) * series[order - 1] - products))
    return tuple(series)


_LIMIT = _at_infinity(12)


def ratio(square: Tensor, derivative: int = 0) -> Tensor:
    """I_1(k) / (k I_0(k)) as a function of k^2, or its first derivative in k^2."""
    small, large = square < _SMALL, square > _LARGE
    near = torch.where(small, square, 0.0)
    kappa = torch.where(small | large, 1.0, square).sqrt()
    inverse = 1.0 / torch.where(large, square, _LARGE).sqrt()
    at_zero, at_infinity = torch.zeros_like(square), torch.zeros_like(square)
    quotient = torch.special.i1e(kappa) / (kappa * torch.special.i0e(kappa))
    if derivative == 0:
        for factor in reversed(_AT_ZERO):
            at_zero = at_zero * near + factor
        for factor in reversed(_LIMIT):
            at_infinity = at_infinity * inverse + factor
        between, at_infinity = quotient, at_infinity * inverse
    else:
        for order in range(len(_AT_ZERO) - 1, 0, -1):
            at_zero = at_zero * near + order * _AT_ZERO[order]
        # d (1 / k)^(j + 1) / d (k^2) = -(j + 1) / 2 (1 / k)^(j + 3)
        for order in range(len(_LIMIT) - 1, -1, -1):
            at_infinity = at_infinity * inverse - 0.5 * (order + 1) * _LIMIT[order]
        at_infinity = at_infinity * inverse**3
        middle = kappa.square()
        between = (1.0 - 2.0 * quotient - middle * quotient.square()) / (2.0 * middle)
    return torch.where(small, at_zero, torch.where(large, at_infinity, between))
