"""Priors that native targets add to their log densities: one density for each of some numbers of the position.

A parameter that has to be positive is sampled by its logarithm, a probability by its logit. The priors of such
parameters are densities of what is sampled: the logarithm of the Jacobian is in them.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

Number: TypeAlias = float | Sequence[float] | Tensor
"""One number, or one for each number of the position that a prior is on."""

Place: TypeAlias = str | int | slice | Sequence[int] | None
"""What a prior is on: the name of a target's parameter, indices of the position, or all of it."""

SQUARE, MAGNITUDE, HEAVY_TAIL, EXPONENTIAL, LOGISTIC = range(5)
"""Kinds of terms, as csrc/cpu/chains.h numbers and defines them."""


class Term(NamedTuple):
    """What one number of the position adds to the log density: a kind, its four numbers, and a constant, in nats."""

    kind: int
    location: Tensor
    rate: Tensor
    weight: Tensor
    slope: Tensor
    constant: Tensor


def _term(
    kind: int, *, location: Tensor, rate: Tensor, weight: Tensor, slope: Tensor | float, constant: Tensor
) -> Term:
    slope = torch.as_tensor(slope, dtype=torch.float64)
    return Term(kind, *torch.broadcast_tensors(location, rate, weight, slope, constant))


@dataclass(frozen=True, eq=False)
class Prior(ABC):
    """A prior on numbers of a target's position: ``target + prior`` is a target. See the classes made of it."""

    on: Place = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for each in fields(self):
            given = getattr(self, each.name)
            own = given.detach().clone() if isinstance(given, Tensor) else copy.deepcopy(given)
            object.__setattr__(self, each.name, own)

    @abstractmethod
    def terms(self) -> Term | None:
        """Its numbers in float64; None where it adds nothing."""

    def _read(self, name: str, positive: bool = False) -> Tensor:
        value = torch.as_tensor(getattr(self, name), dtype=torch.float64).detach().cpu()
        good = value.isfinite() & (value > 0.0) if positive else value.isfinite()
        if value.dim() > 1 or not bool(good.all()):
            wanted = "a positive number" if positive else "a finite number"
            raise ValueError(
                f"{type(self).__name__}: {name} must be {wanted}, or one for each number of the position, got "
                f"{getattr(self, name)}"
            )
        return value


@dataclass(frozen=True, eq=False)
class FlatPrior(Prior):
    """The same density everywhere, which is no distribution; it adds nothing, and says so.

    Examples
    --------
    >>> from fastvi.mcmc.targets import Flat
    >>> target = Flat(2) + FlatPrior()
    >>> target(torch.ones(1, 2))
    (tensor([0.]), tensor([[0., 0.]]))
    """

    def terms(self) -> None:
        """None."""
        return


@dataclass(frozen=True, eq=False)
class ZeroPrior(Prior):
    """0 at every number, and NaN at NaN and infinity: what a target without rows has in their place."""

    def terms(self) -> Term:
        """Magnitudes of the weight 0."""
        return Term(MAGNITUDE, *torch.zeros(5, dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class NormalPrior(Prior):
    r"""N(location, scale²). On a logarithm it is the log-normal prior of what that is the logarithm of.

    Parameters
    ----------
    location, scale
        Mean and standard deviation: a number, or one for each number of the position.
    on
        The name of a parameter of the target, an index, a slice or indices of the position; all of it if not given.

    Raises
    ------
    ValueError
        Where it is added to a target, if a number is not finite, the scale is not positive, the target's dtype does
        not hold 1 / scale², or their count or the place does not fit.

    Examples
    --------
    >>> from fastvi.mcmc.targets import Flat
    >>> target = Flat(2) + NormalPrior(1.0, 2.0, on=0)
    >>> target(torch.tensor([[3.0, 5.0]]))
    (tensor([-2.1121]), tensor([[-0.5000,  0.0000]]))
    """

    location: Number = 0.0
    scale: Number = 1.0

    def terms(self) -> Term:
        """Squares."""
        scale = self._read("scale", positive=True)
        return _term(
            SQUARE,
            location=self._read("location"),
            rate=torch.zeros_like(scale),
            weight=0.5 / scale.square(),
            slope=0.0,
            constant=-scale.log() - 0.5 * math.log(2.0 * math.pi),
        )


@dataclass(frozen=True, eq=False)
class LaplacePrior(Prior):
    """Laplace(location, scale): the arguments are those of :class:`NormalPrior`."""

    location: Number = 0.0
    scale: Number = 1.0

    def terms(self) -> Term:
        """Magnitudes."""
        scale = self._read("scale", positive=True)
        return _term(
            MAGNITUDE,
            location=self._read("location"),
            rate=torch.zeros_like(scale),
            weight=1.0 / scale,
            slope=0.0,
            constant=-(2.0 * scale).log(),
        )


@dataclass(frozen=True, eq=False)
class StudentTPrior(Prior):
    """Student's t with ``df`` degrees of freedom: a Cauchy prior with 1. The others as in :class:`NormalPrior`."""

    df: Number
    location: Number = 0.0
    scale: Number = 1.0

    def terms(self) -> Term:
        """Heavy tails."""
        df, scale = self._read("df", positive=True), self._read("scale", positive=True)
        return _term(
            HEAVY_TAIL,
            location=self._read("location"),
            rate=1.0 / (df.sqrt() * scale),
            weight=0.5 * (df + 1.0),
            slope=0.0,
            constant=_student_t_constant(df) - scale.log(),
        )


@dataclass(frozen=True, eq=False)
class HalfNormalPrior(Prior):
    """The half-normal distribution of exp(q), which is positive: ``scale`` and ``on`` as in :class:`NormalPrior`."""

    scale: Number = 1.0

    def terms(self) -> Term:
        """exp(2 q - 2 log scale) / 2."""
        scale = self._read("scale", positive=True)
        return _term(
            EXPONENTIAL,
            location=-2.0 * scale.log(),
            rate=torch.full_like(scale, 2.0),
            weight=torch.full_like(scale, 0.5),
            slope=1.0,
            constant=0.5 * math.log(2.0 / math.pi) - scale.log(),
        )


@dataclass(frozen=True, eq=False)
class HalfStudentTPrior(Prior):
    """Half of Student's t, the distribution of exp(q): half-Cauchy with ``df`` 1.

    Parameters
    ----------
    df, scale
        Degrees of freedom, and the scale: a number, or one for each number of the position.
    on
        As in :class:`NormalPrior`.

    Examples
    --------
    >>> from fastvi.mcmc.targets import Flat
    >>> target = Flat(1) + HalfStudentTPrior(1.0, 5.0)  # half-Cauchy(5) of exp(q)
    >>> target(torch.tensor([[5.0]])[:, :1].log())[0].exp()  # 2 / (pi 5 (1 + 1)) times the Jacobian, 5
    tensor([0.3183])
    """

    df: Number
    scale: Number = 1.0

    def terms(self) -> Term:
        """log(1 + exp(2 q - 2 log scale - log df))."""
        df, scale = self._read("df", positive=True), self._read("scale", positive=True)
        df, scale = torch.broadcast_tensors(df, scale)
        return _term(
            LOGISTIC,
            location=-2.0 * scale.log() - df.log(),
            rate=torch.full_like(scale, 2.0),
            weight=0.5 * (df + 1.0),
            slope=1.0,
            constant=math.log(2.0) + _student_t_constant(df) - scale.log(),
        )


@dataclass(frozen=True, eq=False)
class GammaPrior(Prior):
    """Gamma(shape, rate) of exp(q), exponential with the shape 1: numbers, or one for each number of the position."""

    shape: Number
    rate: Number

    def terms(self) -> Term:
        """exp(q + log rate)."""
        shape, rate = self._read("shape", positive=True), self._read("rate", positive=True)
        return _term(
            EXPONENTIAL,
            location=rate.log(),
            rate=torch.ones_like(rate),
            weight=torch.ones_like(rate),
            slope=shape,
            constant=shape * rate.log() - torch.lgamma(shape),
        )


@dataclass(frozen=True, eq=False)
class InverseGammaPrior(Prior):
    """Inverse gamma (shape, scale) of exp(q): numbers, or one for each number of the position."""

    shape: Number
    scale: Number

    def terms(self) -> Term:
        """exp(-q + log scale)."""
        shape, scale = self._read("shape", positive=True), self._read("scale", positive=True)
        return _term(
            EXPONENTIAL,
            location=scale.log(),
            rate=torch.full_like(scale, -1.0),
            weight=torch.ones_like(scale),
            slope=-shape,
            constant=shape * scale.log() - torch.lgamma(shape),
        )


@dataclass(frozen=True, eq=False)
class BetaPrior(Prior):
    """Beta(alpha, beta) of the probability whose logit is q: numbers, or one for each number of the position."""

    alpha: Number
    beta: Number

    def terms(self) -> Term:
        """log(1 + exp(q))."""
        alpha, beta = self._read("alpha", positive=True), self._read("beta", positive=True)
        total = alpha + beta
        return _term(
            LOGISTIC,
            location=torch.zeros_like(total),
            rate=torch.ones_like(total),
            weight=total,
            slope=alpha,
            constant=torch.lgamma(total) - torch.lgamma(alpha) - torch.lgamma(beta),
        )


def _student_t_constant(df: Tensor) -> Tensor:
    return torch.lgamma(0.5 * (df + 1.0)) - torch.lgamma(0.5 * df) - 0.5 * (df * math.pi).log()
