"""Exponential families as the components of mixtures and as the emissions of hidden Markov models.

p(x) = h(x) exp(<theta, T(x)> - A(theta)): an E step reads the sufficient statistics T(x), an M step takes the
parameters whose mean statistics are the weighted means of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fastvi._estimators import check_integers, check_numbers

__all__ = ["Bernoulli", "Categorical", "ExponentialFamily", "Poisson"]


class ExponentialFamily(Protocol):
    """What `fastvi.em.Mixture` and `fastvi.em.HiddenMarkovModel` ask of a family with S sufficient statistics.

    Rows ``x`` have the shape (N, D), in float32 or float64; parameters have the shape (K, S), one row for each
    component, in float64. A family whose statistics are the row itself returns ``x``, and no copy is made.
    """

    def check_support(self, x: Tensor) -> None:
        """Raise a ValueError of one line where a row lies outside of the family's support."""

    def sufficient_statistics(self, x: Tensor) -> Tensor:
        """T(x), (N, S)."""
        ...

    def log_base_measure(self, x: Tensor) -> Tensor | None:
        """Log h(x), (N,); None where it is 0."""
        ...

    def natural_parameters(self, mean: Tensor) -> Tensor:
        """theta(mu), (K, S), of mean statistics: the M step. They must be finite, at the edge of the domain, too."""
        ...

    def log_normalizer(self, natural: Tensor) -> Tensor:
        """A(theta), (K,)."""
        ...

    def num_parameters(self, statistics: int) -> int:
        """Free parameters of a component with S statistics, for BIC and AIC."""
        ...

    def sample(self, natural: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Draws of one component, whose parameters have the shape (S,): (count, D)."""
        ...


METHODS = (
    "check_support",
    "sufficient_statistics",
    "log_base_measure",
    "natural_parameters",
    "log_normalizer",
    "num_parameters",
    "sample",
)
"""What an `ExponentialFamily` has."""


def _check_margin(family: Bernoulli | Poisson | Categorical, most: float) -> None:
    name = type(family).__name__
    check_numbers(name, margin=family.margin)
    if not 0.0 < family.margin < most:
        raise ValueError(f"{name}: margin must be more than 0 and less than {most:g}, got {family.margin!r}")


def _refuse(name: str, expected: str, x: Tensor, wrong: Tensor) -> None:
    if bool(wrong.any()):
        raise ValueError(f"{name}: x must hold {expected}, got {float(x[wrong][0]):g}")


@dataclass(frozen=True)
class Bernoulli:
    """Independent bits: theta = log(p / (1 - p)), A = sum log(1 + e^theta).

    Values between 0 and 1 are taken as they stand, as the probability of a one.

    Attributes
    ----------
    margin
        Probabilities stay between this and one minus this, so that a bit which no row has does not make all else
        impossible.

    Examples
    --------
    >>> Bernoulli().natural_parameters(torch.tensor([[0.5, 0.0]]))
    tensor([[  0.0000, -18.4207]])
    """

    margin: float = 1e-8

    def __post_init__(self) -> None:
        _check_margin(self, 0.5)

    def check_support(self, x: Tensor) -> None:
        """Raise a ValueError where a value is not between 0 and 1."""
        _refuse("Bernoulli", "values in [0, 1]", x, (x < 0) | (x > 1))

    def sufficient_statistics(self, x: Tensor) -> Tensor:
        """The row itself."""
        return x

    def log_base_measure(self, x: Tensor) -> None:
        """It is 0."""

    def natural_parameters(self, mean: Tensor) -> Tensor:
        """The logits of the probabilities."""
        return mean.clamp(self.margin, 1.0 - self.margin).logit()

    def log_normalizer(self, natural: Tensor) -> Tensor:
        """The sum of softplus."""
        return torch.nn.functional.softplus(natural, threshold=40.0).sum(-1)

    def num_parameters(self, statistics: int) -> int:
        """One for each bit."""
        return statistics

    def sample(self, natural: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Bits, (count, D)."""
        uniform = torch.rand(count, len(natural), generator=generator, dtype=natural.dtype)
        return (uniform < natural.sigmoid()).to(natural.dtype)


@dataclass(frozen=True)
class Poisson:
    """Independent counts: theta = log(rate), A = sum e^theta, log h = -sum log x!.

    Attributes
    ----------
    margin
        The least rate.

    Examples
    --------
    >>> Poisson().log_base_measure(torch.tensor([[0.0, 3.0]]))
    tensor([-1.7918])
    """

    margin: float = 1e-8

    def __post_init__(self) -> None:
        _check_margin(self, math.inf)

    def check_support(self, x: Tensor) -> None:
        """Raise a ValueError where a value is not a whole number of 0 or more."""
        _refuse("Poisson", "whole numbers of 0 or more", x, (x < 0) | (x != x.floor()))

    def sufficient_statistics(self, x: Tensor) -> Tensor:
        """The row itself."""
        return x

    def log_base_measure(self, x: Tensor) -> Tensor:
        """Minus the sum of log x!."""
        return -torch.lgamma(x + 1.0).sum(-1)

    def natural_parameters(self, mean: Tensor) -> Tensor:
        """The logarithms of the rates."""
        return mean.clamp_min(self.margin).log()

    def log_normalizer(self, natural: Tensor) -> Tensor:
        """The sum of the rates."""
        return natural.exp().sum(-1)

    def num_parameters(self, statistics: int) -> int:
        """One for each count."""
        return statistics

    def sample(self, natural: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Counts, (count, D)."""
        return torch.poisson(natural.exp().expand(count, -1), generator=generator)


@dataclass(frozen=True)
class Categorical:
    """Independent categories, each column one of 0 to ``num_categories`` - 1.

    theta = log p, A = sum_d log sum_c e^theta.

    The sufficient statistics are indicators, (N, D C).

    Attributes
    ----------
    num_categories
        C, of every column.
    margin
        The least probability, before normalisation.

    Examples
    --------
    >>> Categorical(3).sufficient_statistics(torch.tensor([[2.0, 0.0]]))
    tensor([[0., 0., 1., 1., 0., 0.]])
    """

    num_categories: int
    margin: float = 1e-8

    def __post_init__(self) -> None:
        check_integers("Categorical", num_categories=self.num_categories)
        _check_margin(self, 1.0)

    def check_support(self, x: Tensor) -> None:
        """Raise a ValueError where a value is not a category."""
        wrong = (x < 0) | (x >= self.num_categories) | (x != x.floor())
        _refuse("Categorical", f"whole numbers from 0 to {self.num_categories - 1}", x, wrong)

    def sufficient_statistics(self, x: Tensor) -> Tensor:
        """Indicators of the categories, those of a column behind each other."""
        return torch.nn.functional.one_hot(x.long(), self.num_categories).to(x.dtype).flatten(-2)

    def log_base_measure(self, x: Tensor) -> None:
        """It is 0."""

    def natural_parameters(self, mean: Tensor) -> Tensor:
        """The logarithms of the probabilities."""
        of_columns: Tensor = mean.unflatten(-1, (-1, self.num_categories)).clamp_min(self.margin)
        return (of_columns / of_columns.sum(-1, keepdim=True)).log().flatten(-2)

    def log_normalizer(self, natural: Tensor) -> Tensor:
        """The sum over columns of log-sum-exp over categories."""
        of_columns: Tensor = natural.unflatten(-1, (-1, self.num_categories))
        return of_columns.logsumexp(-1).sum(-1)

    def num_parameters(self, statistics: int) -> int:
        """One less than the categories for each column."""
        return statistics // self.num_categories * (self.num_categories - 1)

    def sample(self, natural: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Categories, (count, D)."""
        probabilities: Tensor = natural.unflatten(-1, (-1, self.num_categories)).softmax(-1)
        drawn = torch.multinomial(probabilities, count, replacement=True, generator=generator)
        return drawn.T.to(natural.dtype)


FAMILIES: dict[str, Any] = {"bernoulli": Bernoulli, "poisson": Poisson}
"""Families that need no argument, by the names under which a mixture takes them."""
