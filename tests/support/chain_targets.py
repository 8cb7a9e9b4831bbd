"""Native targets beside their log densities in plain PyTorch, for the tests of their values and their trajectories."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, distributions

from fastvi.mcmc.targets import (
    DenseGaussian,
    DiagonalGaussian,
    GaussianMixture,
    LinearRegression,
    LogisticRegression,
    NativeTarget,
    PoissonRegression,
)

ROUTES = ("kernel", "products")


Formula = Callable[[Tensor], Tensor]

TOLERANCE = {torch.float64: 1e-12, torch.float32: 4e-6}
"""Of the largest number among the chains': sums over a few hundred rows, in the dtype of positions."""


@dataclass
class Case:
    """A target as a function of its dtype, and its log density in plain PyTorch."""

    make: Callable[[torch.dtype], Any]
    formula: Formula


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Numbers that float32 holds, so that a target of either dtype has the same data."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float32).double()


def regression_case(kind: str, rows: int, columns: int, *, full: bool, scale: float | None = 0.7) -> Case:
    x = normal(rows, columns, seed=rows) / math.sqrt(columns)
    weight = (normal(rows, seed=2).abs() * (normal(rows, seed=5) > -0.5)).float().double() if full else None
    offset = 0.5 * normal(rows, seed=3) if full else None
    outcomes = {
        "logistic": (normal(rows, seed=4) > 0.0).double()
        if not full
        else normal(rows, seed=4).sigmoid().float().double(),
        "poisson": normal(rows, seed=4).exp().floor(),
        "linear": 3.0 * normal(rows, seed=4) + 20.0,
    }
    y = outcomes[kind]
    makers = {"logistic": LogisticRegression, "poisson": PoissonRegression, "linear": LinearRegression}

    def make(dtype: torch.dtype) -> NativeTarget:
        own: dict[str, Any] = {"scale": scale} if kind == "linear" else {}
        given = [None if each is None else each.to(dtype) for each in (weight, offset)]
        return makers[kind](x.to(dtype), y.to(dtype), intercept=full, sample_weight=given[0], offset=given[1], **own)

    def formula(q: Tensor) -> Tensor:
        eta = q[:, :columns] @ x.T
        if full:
            eta = eta + q[:, columns : columns + 1]
        if offset is not None:
            eta = eta + offset
        if kind == "logistic":
            terms = y * eta - torch.nn.functional.softplus(eta)
        elif kind == "poisson":
            terms = distributions.Poisson(eta.exp()).log_prob(y)
        else:
            sigma = q[:, -1:].exp() if scale is None else torch.tensor(scale, dtype=torch.float64)
            terms = distributions.Normal(eta, sigma).log_prob(y)
        return (terms if weight is None else weight * terms).sum(-1)

    return Case(make, formula)


def dense_case(by: str) -> Case:
    mean, factor = normal(7, seed=1), normal(7, 7, seed=2).tril(-1) + 2.0 * torch.eye(7, dtype=torch.float64)
    matrix = factor @ factor.T
    given = {f"{by}_matrix": matrix}
    density = distributions.MultivariateNormal(mean, **given)
    return Case(lambda dtype: DenseGaussian(mean.to(dtype), **{by: matrix}), density.log_prob)


def diagonal_case() -> Case:
    mean, scale = normal(5, seed=1), normal(5, seed=2).exp().float().double()
    density = distributions.Independent(distributions.Normal(mean, scale), 1)
    return Case(lambda dtype: DiagonalGaussian(mean.to(dtype), scale.to(dtype)), density.log_prob)


def mixture_case(rows: int, columns: int, components: int, *, full: bool) -> Case:
    x = 2.0 * normal(rows, columns, seed=rows)
    weight = (normal(rows, seed=2).abs() * (normal(rows, seed=5) > -0.5)).float().double() if full else None
    concentration = numbers(*[0.5 + i for i in range(components)]) if full else None

    def make(dtype: torch.dtype) -> NativeTarget:
        own = None if weight is None else weight.to(dtype)
        return GaussianMixture(x.to(dtype), components, sample_weight=own, concentration=concentration)

    def formula(q: Tensor) -> Tensor:
        size = components * columns
        means, log_scales = (
            q[:, :size].reshape(-1, components, columns),
            q[:, size : 2 * size].reshape(-1, components, columns),
        )
        logits = torch.cat([q[:, 2 * size :], torch.zeros_like(q[:, :1])], 1)
        density = distributions.MixtureSameFamily(
            distributions.Categorical(logits=logits),
            distributions.Independent(distributions.Normal(means, log_scales.exp()), 1),
        )
        terms = density.log_prob(x[:, None])
        value = (terms if weight is None else weight[:, None] * terms).sum(0)
        if concentration is not None:
            # The determinant of the logits' Jacobian, of all probabilities but one, is the product of all of them.
            probability = logits.softmax(-1)
            value = value + distributions.Dirichlet(concentration).log_prob(probability) + probability.log().sum(-1)
        return value

    return Case(make, formula)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


CASES = {
    "logistic": regression_case("logistic", 300, 5, full=False),
    "logistic, full": regression_case("logistic", 531, 9, full=True),
    "poisson": regression_case("poisson", 67, 4, full=False),
    "poisson, full": regression_case("poisson", 300, 17, full=True),
    "linear": regression_case("linear", 200, 4, full=False),
    "linear, full": regression_case("linear", 300, 6, full=True),
    "linear, scale": regression_case("linear", 300, 6, full=True, scale=None),
    "linear, more columns than rows": regression_case("linear", 5, 8, full=False, scale=None),
    "one row": regression_case("logistic", 1, 1, full=False),
    "dense by covariance": dense_case("covariance"),
    "dense by precision": dense_case("precision"),
    "diagonal": diagonal_case(),
    "mixture": mixture_case(300, 1, 2, full=False),
    "mixture, full": mixture_case(531, 3, 4, full=True),
    "one component": mixture_case(7, 2, 1, full=False),
}


def expected_at(formula: Formula, position: Tensor) -> tuple[Tensor, Tensor]:
    start = position.double().requires_grad_()
    value = formula(start)
    (gradient,) = torch.autograd.grad(value.sum(), start)
    return value.detach(), gradient


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=0.0, atol=tolerance * float(expected.abs().max() + 1.0))


def take_route(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By which of its two ways a target runs; that of a GPU is the products, in chunks of a few rows here."""
    if name == "products":
        monkeypatch.setattr(NativeTarget, "_runs_kernel", lambda self, position: False)
        for module in ("rows", "mixture"):
            monkeypatch.setattr(f"fastvi.mcmc.targets.{module}.CHUNK_NUMBERS", 1000)
    else:
        monkeypatch.setattr(NativeTarget, "_by_products", None)
