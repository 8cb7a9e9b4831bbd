"""Native targets and priors against autograd of the plain formulas in float64, by the kernel and by matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, distributions

from fastvi.mcmc import PhasePoint, as_target
from fastvi.mcmc.targets import (
    BetaPrior,
    CompiledTarget,
    DenseGaussian,
    DiagonalGaussian,
    Flat,
    FlatPrior,
    GammaPrior,
    GaussianMixture,
    HalfNormalPrior,
    HalfStudentTPrior,
    InverseGammaPrior,
    LaplacePrior,
    LinearRegression,
    LogisticRegression,
    NormalPrior,
    PoissonRegression,
    StudentTPrior,
)
from support.chain_targets import (
    CASES,
    TOLERANCE,
    Formula,
    assert_near,
    expected_at,
    normal,
    numbers,
)


def of_log(density: distributions.Distribution) -> Formula:
    """The density of a logarithm whose exponential has the given one, summed over numbers."""
    return lambda q: (density.log_prob(q.exp()) + q).sum(-1)


def of_all(density: distributions.Distribution) -> Formula:
    return lambda q: density.log_prob(q).sum(-1)


def of_logit(density: distributions.Distribution) -> Formula:
    return lambda q: (
        density.log_prob(q.sigmoid()) + torch.nn.functional.logsigmoid(q) - torch.nn.functional.softplus(q)
    ).sum(-1)


PRIORS = {
    "normal": (NormalPrior(0.5, numbers(1.0, 2.0, 3.0)), of_all(distributions.Normal(0.5, numbers(1.0, 2.0, 3.0)))),
    "laplace": (
        LaplacePrior(numbers(-1.0, 0.0, 1.0), 0.5),
        of_all(distributions.Laplace(numbers(-1.0, 0.0, 1.0), 0.5)),
    ),
    "student t": (StudentTPrior(4.0, -0.5, 2.5), of_all(distributions.StudentT(numbers(4.0), -0.5, 2.5))),
    "cauchy": (StudentTPrior(1.0, 0.0, 0.2), of_all(distributions.Cauchy(numbers(0.0), 0.2))),
    "half-normal": (HalfNormalPrior(2.0), of_log(distributions.HalfNormal(numbers(2.0)))),
    "half-cauchy": (HalfStudentTPrior(1.0, 5.0), of_log(distributions.HalfCauchy(numbers(5.0)))),
    "half-t": (
        HalfStudentTPrior(3.0, 2.0),
        lambda q: (distributions.StudentT(numbers(3.0), 0.0, 2.0).log_prob(q.exp()) + math.log(2.0) + q).sum(-1),
    ),
    "gamma": (
        GammaPrior(2.5, numbers(0.5, 1.0, 2.0)),
        of_log(distributions.Gamma(numbers(2.5), numbers(0.5, 1.0, 2.0))),
    ),
    "exponential": (GammaPrior(1.0, 0.25), of_log(distributions.Exponential(numbers(0.25)))),
    "inverse gamma": (InverseGammaPrior(3.0, 2.0), of_log(distributions.InverseGamma(numbers(3.0), numbers(2.0)))),
    "beta": (BetaPrior(2.0, 0.5), of_logit(distributions.Beta(numbers(2.0), numbers(0.5)))),
    "flat": (FlatPrior(), lambda q: 0.0 * q.sum(-1)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CASES)
def test_log_density_and_gradient(name: str, dtype: torch.dtype, route: str) -> None:
    case = CASES[name]
    target = case.make(dtype)
    for chains in (1, 3, 16, 37):
        position = normal(chains, target.dimension, seed=chains).to(dtype)
        value, gradient = target(position)
        assert value.dtype is gradient.dtype is dtype
        expected_value, expected_gradient = expected_at(case.formula, position)
        assert_near(value, expected_value, TOLERANCE[dtype])
        assert_near(gradient, expected_gradient, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", PRIORS)
def test_priors(name: str, dtype: torch.dtype, route: str) -> None:
    prior, formula = PRIORS[name]
    target = Flat(3, dtype) + prior
    position = normal(21, 3).to(dtype)
    value, gradient = target(position)
    expected_value, expected_gradient = expected_at(formula, position)
    assert_near(value, expected_value, TOLERANCE[dtype])
    assert_near(gradient, expected_gradient, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_priors_of_some_numbers(dtype: torch.dtype, route: str) -> None:
    """Two on the same numbers add up, whichever way a place is named."""
    case = CASES["linear, scale"]
    target = case.make(dtype)
    assert list(target.parameters) == ["coefficients", "intercept", "log_scale"]
    target = NormalPrior(0.0, 2.0, on="coefficients") + target + StudentTPrior(3.0, 1.0, 2.0, on=(0, 2))
    target = target + LaplacePrior(0.0, 3.0, on=slice(1, 3)) + HalfStudentTPrior(1.0, 2.0, on=-1) + NormalPrior(on=[])
    position = normal(10, target.dimension).to(dtype)

    def formula(q: Tensor) -> Tensor:
        value = case.formula(q) + of_all(distributions.Normal(numbers(0.0), 2.0))(q[:, :6])
        value = value + of_all(distributions.StudentT(numbers(3.0), 1.0, 2.0))(q[:, [0, 2]])
        value = value + of_all(distributions.Laplace(numbers(0.0), 3.0))(q[:, 1:3])
        return value + of_log(distributions.HalfCauchy(numbers(2.0)))(q[:, 7:])

    value, gradient = target(position)
    expected_value, expected_gradient = expected_at(formula, position)
    assert_near(value, expected_value, TOLERANCE[dtype])
    assert_near(gradient, expected_gradient, TOLERANCE[dtype])


def test_sums_with_functions() -> None:
    case = CASES["logistic"]
    native = case.make(torch.float64)

    def own(q: Tensor) -> Tensor:
        return -q.square().square().sum(-1)

    position = normal(5, native.dimension)
    prior = NormalPrior(0.0, 2.0)
    expected = expected_at(
        lambda q: case.formula(q) + own(q) + of_all(distributions.Normal(numbers(0.0), 2.0))(q), position
    )
    for target in (native + own + prior, prior + (own + native), native + prior + as_target(own)):
        assert target.is_target
        found = target(position)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert not native(position)[0].equal(native.__add__(own)(position)[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "name", ["logistic, full", "poisson", "linear", "linear, scale", "dense by covariance", "mixture, full"]
)
def test_nan_and_infinity_stay_in_their_chain(name: str, dtype: torch.dtype, route: str) -> None:
    target = CASES[name].make(dtype) + NormalPrior(0.0, 3.0)
    position = normal(5, target.dimension).to(dtype)
    usual = target(position)
    position[1, 0], position[3, -1] = math.nan, math.inf
    value, gradient = target(position)
    assert value[1].isnan()
    assert not value[3].isfinite()
    others = [0, 2, 4]
    torch.testing.assert_close(value[others], usual[0][others])
    torch.testing.assert_close(gradient[others], usual[1][others])
    start = PhasePoint(position, torch.ones_like(position), value, gradient)
    end = target.trajectory(start, 0.01, 2)
    assert end.log_density[1].isnan()
    assert end.position[others].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_large_predictors(dtype: torch.dtype, route: str) -> None:
    """Far out neither value nor gradient overflows or loses its digits: -|eta| or 0, and the residual."""
    x = torch.ones(2, 1, dtype=dtype)
    target = LogisticRegression(x, torch.tensor([0.0, 1.0], dtype=dtype))
    position = torch.tensor([[1e4], [-1e4], [60.0], [-60.0], [1e30]], dtype=dtype)
    value, gradient = target(position)
    torch.testing.assert_close(value, -position[:, 0].abs())
    torch.testing.assert_close(gradient[:, 0], -position[:, 0].sign())
    poisson = PoissonRegression(x, torch.tensor([0.0, 3.0], dtype=dtype))
    value, gradient = poisson(torch.tensor([[-500.0], [1e4]], dtype=dtype))
    assert value[0].item() == pytest.approx(-1500.0 - math.log(6.0), rel=1e-6)
    assert gradient[0].item() == pytest.approx(3.0)
    assert value[1] == -math.inf


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_heavy_tails_far_out(dtype: torch.dtype, route: str) -> None:
    target = Flat(1, dtype) + StudentTPrior(1.0)
    far = torch.tensor([[1e25], [-1e25]], dtype=dtype)
    value, gradient = target(far)
    expected = -math.log(math.pi) - 2.0 * math.log(1e25)
    torch.testing.assert_close(value, torch.full((2,), expected, dtype=dtype))
    torch.testing.assert_close(gradient, -2.0 / far)
    scale = Flat(1, dtype) + HalfStudentTPrior(1.0)
    value, gradient = scale(torch.tensor([[300.0], [-300.0]], dtype=dtype))
    torch.testing.assert_close(value, torch.full((2,), math.log(2.0 / math.pi) - 300.0, dtype=dtype))
    torch.testing.assert_close(gradient[:, 0], torch.tensor([-1.0, 1.0], dtype=dtype))


def test_rows_without_weight_are_not_there(route: str) -> None:
    x, y = normal(9, 2), (normal(9, seed=1) > 0.0).double()
    weight = torch.ones(9, dtype=torch.float64)
    weight[[2, 5]] = 0.0
    kept = weight > 0.0
    huge = torch.where(kept[:, None], x, torch.full_like(x, 1e300))
    position = normal(4, 2, seed=2)
    for found, expected in zip(
        LogisticRegression(huge, y, sample_weight=weight)(position),
        LogisticRegression(x[kept], y[kept])(position),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)
    nothing = LogisticRegression(x, y, sample_weight=torch.zeros(9, dtype=torch.float64))
    assert not nothing(position)[0].any()
    assert LogisticRegression(x, y)(position[:0])[0].shape == (0,)


def test_linear_regression_of_the_noise_alone(route: str) -> None:
    """Without columns the outcomes are N(0, sigma^2): the gradient by log sigma is the sum of y^2 / sigma^2 - 1."""
    y = 3.0 * normal(20)
    target = LinearRegression(torch.zeros(20, 0, dtype=torch.float64), y)
    assert target.parameters == {"log_scale": slice(0, 1)}
    position = numbers(-0.5, 0.0, 1.0)[:, None]
    value, gradient = target(position)
    density = distributions.Normal(numbers(0.0), position.exp())
    torch.testing.assert_close(value, density.log_prob(y).sum(1))
    torch.testing.assert_close(gradient, (y / position.exp()).square().sum(1, keepdim=True) - 20.0)


def test_strided_positions() -> None:
    target = CASES["logistic"].make(torch.float64)
    wide = normal(6, 2 * target.dimension)[:, ::2]
    assert target(wide)[0].equal(target(wide.contiguous())[0])


def test_transforms_and_the_compiler_take_the_products() -> None:
    target = CASES["logistic"].make(torch.float64) + NormalPrior()
    position = normal(4, 3, target.dimension)
    values, _ = torch.func.vmap(target)(position)
    torch.testing.assert_close(values, torch.stack([target(each)[0] for each in position]))
    compiled = torch.compile(target.__call__, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(position[0]), target(position[0]))


def test_compiled_log_densities() -> None:
    """By the compiler's front end: one graph, the gradient in it, and no history."""
    case = CASES["logistic"]
    target = CompiledTarget(case.formula, backend="eager")
    position = normal(3, 5)
    for chains in (3, 2):
        found = target(position[:chains].requires_grad_())
        assert not found[0].requires_grad
        torch.testing.assert_close(found, expected_at(case.formula, position[:chains].detach()))
    with pytest.raises(ValueError, match=r"must have the shape \(3,\), got \(\)"):
        CompiledTarget(lambda q: q.sum())(position)


X, Y = torch.ones(4, 2), torch.tensor([0.0, 1.0, 0.0, 1.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LogisticRegression(X, Y * 2), r"LogisticRegression: y must be in \[0, 1\], got 0 to 2"),
        (
            lambda: PoissonRegression(X, Y + 0.5),
            "PoissonRegression: y must be whole numbers, got 0.5; the logarithm of an",
        ),
        (lambda: PoissonRegression(X, Y - 1), "PoissonRegression: y must be at least 0, got -1 to 0"),
        (lambda: LogisticRegression(X, Y[:3]), r"LogisticRegression: y must have the shape \(4,\), got \(3,\)"),
        (lambda: LogisticRegression(X[0], Y), r"x must have the shape \(N, P\), got \(2,\)"),
        (lambda: LogisticRegression(X * math.nan, Y), "x must be finite, but holds NaN or infinity"),
        (lambda: LogisticRegression(X.int(), Y), "x must be a tensor of float32 or float64, got torch.int32"),
        (lambda: LogisticRegression(X, [0, 1, 0, 1]), "y must be a tensor, got list"),
        (lambda: LogisticRegression(X, Y, sample_weight=-Y), "sample_weight must not be negative, got -1"),
        (lambda: LinearRegression(X, Y, scale=0.0), "LinearRegression: scale must be a positive number, or None"),
        (lambda: DenseGaussian(torch.zeros(2)), "DenseGaussian: needs one of covariance and precision"),
        (lambda: DenseGaussian(torch.zeros(2), -torch.eye(2)), "must be symmetric and positive definite"),
        (lambda: DiagonalGaussian(torch.zeros(2), torch.zeros(2)), "scale must be positive"),
        (lambda: GaussianMixture(Y, 0), "GaussianMixture: num_components must be positive, got 0"),
        (lambda: GaussianMixture(Y, 2, concentration=0.0), "GaussianMixture: concentration must be positive, got 0"),
        (
            lambda: GaussianMixture(X[:, :0], 2),
            r"x must have at least one column, got the shape \(4, 0\)",
        ),
        (lambda: LogisticRegression(X[:, :0], Y), "LogisticRegression: x has no columns, and no other parameter is"),
        (lambda: PoissonRegression(X[:, :0], Y), "PoissonRegression: x has no columns, and no other parameter is sam"),
        (
            lambda: LinearRegression(X[:, :0], Y, scale=1.0),
            "LinearRegression: x has no columns, and no other",
        ),
        (lambda: Flat(0), "Flat: dimension must be positive, got 0"),
        (lambda: Flat(2) + NormalPrior(0.0, -1.0), "NormalPrior: scale must be a positive number"),
        (lambda: Flat(2) + NormalPrior([1.0, 2.0, 3.0]), "NormalPrior: has 3 numbers, but is on 2 of the 2"),
        (lambda: DiagonalGaussian(torch.zeros(2), torch.full((2,), 1e-25)), "DiagonalGaussian: torch.float32 does not"),
        (lambda: Flat(2) + NormalPrior(1e300), "NormalPrior: torch.float32 does not hold"),
        (lambda: Flat(2) + NormalPrior(on="slope"), "NormalPrior: on must be one of position, or indices"),
        (lambda: Flat(2) + NormalPrior(on=5), "NormalPrior: on must be one of position, or indices"),
        (
            lambda: Flat(2) + NormalPrior(on=[0.5]),
            r"NormalPrior: on must be one of position, or indices .* got \[0.5\]",
        ),
        (lambda: Flat(2) + NormalPrior(on=0.5), "NormalPrior: on must be one of position, or indices .* got 0.5"),
        (lambda: Flat(2) + NormalPrior(on=["position"]), "NormalPrior: on must be one of position, or indices"),
        (
            lambda: Flat(2) + NormalPrior(on=[0, 2]),
            r"NormalPrior: on must be one of position, or indices .* got \[0, 2\]",
        ),
        (lambda: Flat({"a": 3, "b": -1}), "Flat: dimension must be positive, got {'a': 3, 'b': -1}"),
        (lambda: Flat(2.5), "Flat: dimension must be positive, got 2.5"),
        (lambda: Flat({"a": 2.5}), "Flat: dimension must be positive, got {'a': 2.5}"),
        (lambda: Flat({}), "Flat: dimension must be positive, got {}"),
        (lambda: Flat(2)(torch.zeros(3)), r"Flat: positions must have the shape \(C, 2\), got \(3,\)"),
        (lambda: Flat(2)(torch.zeros(3, 2).double()), "Flat: positions must be torch.float32, got torch.float64"),
        (lambda: Flat(2)(torch.zeros(3, 2, device="meta")), "Flat: positions must be on cpu, got meta"),
        (lambda: Flat(2).trajectory(POINT, 0.1, 0), "num_steps must be positive, got 0"),
        (
            lambda: Flat(2).trajectory(POINT, 0.1, 1, torch.ones(3)),
            r"inverse_mass must have the shape \(2,\) or \(2, 2\)",
        ),
        (lambda: Flat(2).trajectory(POINT, torch.ones(4), 1), r"step_size must be a number or have the shape \(\) or"),
    ],
)
def test_mistakes_are_told_in_one_line(call: Callable[[], Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


POINT = PhasePoint(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3), torch.zeros(3, 2))


@pytest.mark.parametrize("on", [[0, 0], [0, -3], [1, 2, 1], torch.tensor([2, -1])])
@pytest.mark.parametrize("prior", [NormalPrior, LaplacePrior, FlatPrior])
def test_a_prior_is_on_each_number_once(prior, on):
    """Twice on one number it would be another prior there: the square of its density."""
    with pytest.raises(ValueError, match=rf"^{prior.__name__}: on must be different numbers of the position, got "):
        Flat(3) + prior(on=on)


def test_a_scale_of_the_right_shape_is_told_its_value():
    mean = torch.ones(4)
    with pytest.raises(ValueError, match=r"^DiagonalGaussian: scale must be positive, got 0 among it$"):
        DiagonalGaussian(mean, 0.0 * mean)
    with pytest.raises(ValueError, match=r"^DiagonalGaussian: scale must be positive, got nan among it$"):
        DiagonalGaussian(mean, math.nan * mean)
    with pytest.raises(ValueError, match=r"^DiagonalGaussian: scale must have the shape of mean, \(4,\), got \(3,\)$"):
        DiagonalGaussian(mean, mean[:3])
