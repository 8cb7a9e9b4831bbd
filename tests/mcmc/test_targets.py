"""Native targets and priors against autograd of the plain formulas in float64, by the kernel and by matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, distributions

from fastvi.mcmc import HMC, PhasePoint, as_target, leapfrog, step_seed
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
    NativeTarget,
    NormalPrior,
    PoissonRegression,
    StudentTPrior,
)

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


def expected_at(formula: Formula, position: Tensor) -> tuple[Tensor, Tensor]:
    start = position.double().requires_grad_()
    value = formula(start)
    (gradient,) = torch.autograd.grad(value.sum(), start)
    return value.detach(), gradient


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=0.0, atol=tolerance * float(expected.abs().max() + 1.0))


@pytest.fixture(params=["kernel", "products"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By which of its two ways a target runs; that of a GPU is the products, in chunks of a few rows here."""
    if request.param == "products":
        monkeypatch.setattr(NativeTarget, "_runs_kernel", lambda self, position: False)
        for module in ("rows", "mixture"):
            monkeypatch.setattr(f"fastvi.mcmc.targets.{module}.CHUNK_NUMBERS", 1000)
    else:
        monkeypatch.setattr(NativeTarget, "_by_products", None)
    return str(request.param)


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
    target = NormalPrior(0.0, 2.0, on="coefficients") + target + StudentTPrior(3.0, 1.0, 2.0, on=[0, 2])
    target = target + LaplacePrior(0.0, 3.0, on=slice(1, 3)) + HalfStudentTPrior(1.0, 2.0, on=-1)
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
@pytest.mark.parametrize("per_chain", [False, True])
@pytest.mark.parametrize(
    "name", ["logistic, full", "linear, scale", "dense by covariance", "diagonal", "mixture, full"]
)
def test_trajectories_are_leapfrogs(name: str, per_chain: bool, dtype: torch.dtype, route: str) -> None:
    """Against the integrator in float64, whose gradient autograd takes."""
    case = CASES[name]
    target, reference, chains = case.make(dtype), as_target(case.formula), 37
    inverse_mass = normal(target.dimension, seed=8).exp().float()
    position, momentum = (0.3 * normal(chains, target.dimension, seed=i).to(dtype) for i in (1, 2))
    step = 0.01 * (1.0 + normal(chains, seed=3).abs()).to(dtype) if per_chain else 0.02
    start = PhasePoint.at(target, position, momentum)
    for steps, diagonal in ((1, None), (7, inverse_mass)):
        end = target.trajectory(start, step, steps, None if diagonal is None else diagonal.to(dtype))
        exact = leapfrog(
            reference,
            PhasePoint.at(reference, position.double(), momentum.double()),
            step[:, None].double() if isinstance(step, Tensor) else step,
            steps,
            None if diagonal is None else diagonal.double(),
        )
        for found, expected in zip(end, exact, strict=True):
            assert_near(found, expected, 30.0 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_trajectories_go_back(dtype: torch.dtype) -> None:
    target = CASES["logistic, full"].make(dtype) + NormalPrior(0.0, 1.0)
    start = PhasePoint.at(target, *(normal(20, target.dimension, seed=i).to(dtype) for i in (1, 2)))
    end = target.trajectory(start, 0.05, 10)
    assert (end.position - start.position).abs().max() > 0.3
    back = target.trajectory(end._replace(momentum=-end.momentum), 0.05, 10)
    assert_near(back.position, start.position.double(), TOLERANCE[dtype])
    assert_near(-back.momentum, start.momentum.double(), TOLERANCE[dtype])


@pytest.mark.parametrize("per_chain", [False, True])
def test_chains_are_those_of_the_formula(per_chain: bool) -> None:
    """Hamiltonian Monte Carlo draws the same from a native target and from the formula by autograd."""
    case = CASES["logistic, full"]
    native, position = case.make(torch.float64), 0.1 * normal(20, 10)
    step = 0.02 * (1.0 + normal(20, seed=3).abs()) if per_chain else 0.03
    kernels = [HMC(target, step, 8) for target in (native, as_target(case.formula))]
    states = [kernel.init(position) for kernel in kernels]
    for t in range(10):
        found = [kernel.step(state, step_seed(1, t)) for kernel, state in zip(kernels, states, strict=True)]
        states = [state for state, _ in found]
        torch.testing.assert_close(states[0], states[1], rtol=1e-9, atol=1e-9)
    assert (states[0].position - position).abs().amax(1).min() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["logistic, full", "poisson", "linear, scale", "dense by covariance", "mixture, full"])
@pytest.mark.cpu_kernels
def test_a_chain_has_the_same_bits_beside_any_others(name: str, dtype: torch.dtype) -> None:
    target = CASES[name].make(dtype) + StudentTPrior(3.0) + HalfNormalPrior(2.0, on=0)
    start = PhasePoint.at(target, *(0.3 * normal(70, target.dimension, seed=i).to(dtype) for i in (1, 2)))
    end = target.trajectory(start, 0.02, 5)
    for chosen in (slice(0, 1), slice(3, 20), slice(17, 50), slice(69, 70)):
        own = target.trajectory(PhasePoint(*[each[chosen] for each in start]), 0.02, 5)
        for found, expected in zip(own, end, strict=True):
            assert found.equal(expected[chosen])


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("chains", [1, 70])
def test_the_same_bits_for_any_number_of_threads(chains: int) -> None:
    """With so many rows that threads share those of one chain."""
    rows = 20_000
    x, y = normal(rows, 6).float(), (normal(rows, seed=1) > 0.0).float()
    target = LogisticRegression(x, y, intercept=True) + NormalPrior()
    start = PhasePoint.at(target, *(0.1 * normal(chains, 7, seed=i).float() for i in (1, 2)))
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append((*target(start.position), *target.trajectory(start, 0.001, 3)))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


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


def test_strided_positions() -> None:
    target = CASES["logistic"].make(torch.float64)
    wide = normal(6, 2 * target.dimension)[:, ::2]
    assert target(wide)[0].equal(target(wide.contiguous())[0])


def test_transforms_and_the_compiler_take_the_products() -> None:
    target = CASES["logistic"].make(torch.float64) + NormalPrior()
    position = normal(4, 3, target.dimension)
    values, _ = torch.func.vmap(target)(position)
    torch.testing.assert_close(values, torch.stack([target(each)[0] for each in position]))


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
        (lambda: Flat(0), "Flat: dimension must be positive, got 0"),
        (lambda: Flat(2) + NormalPrior(0.0, -1.0), "NormalPrior: scale must be a positive number"),
        (lambda: Flat(2) + NormalPrior([1.0, 2.0, 3.0]), "NormalPrior: has 3 numbers, but is on 2 of the 2"),
        (lambda: Flat(2) + NormalPrior(on="slope"), "NormalPrior: on must be one of position, or indices"),
        (lambda: Flat(2) + NormalPrior(on=5), "NormalPrior: on must be one of position, or indices"),
        (lambda: Flat(2)(torch.zeros(3)), r"Flat: positions must have the shape \(C, 2\), got \(3,\)"),
        (lambda: Flat(2)(torch.zeros(3, 2).double()), "Flat: positions must be torch.float32, got torch.float64"),
        (lambda: Flat(2)(torch.zeros(3, 2, device="meta")), "Flat: positions must be on cpu, got meta"),
        (lambda: Flat(2).trajectory(POINT, 0.1, 0), "num_steps must be positive, got 0"),
        (lambda: Flat(2).trajectory(POINT, 0.1, 1, torch.ones(3)), r"inverse_mass must have the shape \(2,\)"),
        (lambda: Flat(2).trajectory(POINT, torch.ones(4), 1), r"step_size must be a number or have the shape \(\) or"),
    ],
)
def test_mistakes_are_told_in_one_line(call: Callable[[], Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


POINT = PhasePoint(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3), torch.zeros(3, 2))
