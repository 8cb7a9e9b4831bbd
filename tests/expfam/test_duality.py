"""Convex conjugates, the duality gap, families of one's own, and bad input."""

import doctest
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvi.expfam import (
    FAMILIES,
    Bernoulli,
    Beta,
    BoltzmannMachine,
    Categorical,
    Dirichlet,
    ExponentialFamily,
    Gamma,
    Gaussian,
    Ising,
    Laplace,
    MultivariateGaussian,
    NotConvergedError,
    Poisson,
    duality_gap,
    legendre,
    option,
)
from support.families import CASES

every_case = pytest.mark.parametrize("case", CASES, ids=repr)
DOUBLE = torch.float64


def double(*values):
    return torch.tensor(values, dtype=DOUBLE)


@every_case
@settings(max_examples=10, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_duality_gap(case, seed):
    """KL(p_mu || p_eta): zero at mu = grad A(eta), positive elsewhere."""
    family, eta, other = case.family, case.eta(seed), case.eta(seed + 1)
    mu = family.mean_parameters(torch.stack([eta, other]))
    gap = duality_gap(family, eta, mu)
    assert gap.shape == (2,)
    assert 0.0 <= gap[0].item() < 1e-9 * (1.0 + family.log_partition(eta).abs().item())
    torch.testing.assert_close(gap[1], family.kl_divergence(other, eta), rtol=1e-8, atol=1e-9)
    assert gap[1].item() > 0.0


def test_the_gap_is_infinite_where_means_are_not_attainable():
    gap = duality_gap(Bernoulli(), double(0.3), double(0.5, 1.0, 1.5).unsqueeze(-1))
    assert gap[:2].isfinite().all()
    assert gap[2].item() == math.inf
    assert Gaussian().log_partition(double(0.0, 0.0)).item() == math.inf
    assert Bernoulli().log_partition(double(math.nan)).isnan().item()


@pytest.mark.parametrize(
    ("f", "conjugate", "start", "y"),
    [
        (lambda x: 0.5 * x.square().sum(-1), lambda y: 0.5 * y.square().sum(-1), None, [1.5, -2.0]),
        (lambda x: x.exp().sum(-1), lambda y: (y * y.log() - y).sum(-1), None, [1e-3, 50.0]),
        (lambda x: -x.log().sum(-1), lambda y: -(1.0 + (-y).log()).sum(-1), double(1.0, 1.0), [-0.1, -20.0]),
        (lambda x: (1.0 + x.square().sum(-1)).sqrt(), lambda y: -(1.0 - y.square().sum(-1)).sqrt(), None, [0.6, -0.7]),
        (
            lambda x: x.pow(4).sum(-1) / 4.0,
            lambda y: 0.75 * y.abs().pow(4.0 / 3.0).sum(-1),
            double(1.0, 1.0),
            [3.0, -5.0],
        ),
    ],
)
def test_known_conjugates(f, conjugate, start, y):
    """Values, gradients and second derivatives; and back again."""
    y = double(*y).requires_grad_()
    found = legendre(f, start)
    torch.testing.assert_close(found(y), conjugate(y), rtol=1e-10, atol=1e-10)
    (gradient,) = torch.autograd.grad(found(y), y, create_graph=True)
    (expected,) = torch.autograd.grad(conjugate(y), y, create_graph=True)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)
    assert torch.autograd.gradgradcheck(found, y, atol=1e-5)
    x = gradient.detach()
    torch.testing.assert_close(legendre(found, y.detach())(x), f(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(legendre(found, 0.7 * y.detach())(x), f(x), rtol=1e-9, atol=1e-9)
    batch = torch.stack([y.detach(), 0.5 * y.detach()])
    torch.testing.assert_close(found(batch)[1], found(0.5 * y.detach()))


def test_the_conjugate_of_a_conjugate_beyond_whose_domain_steps_lead():
    """A step out of (0, 1) is halved, for each row of a batch by itself."""
    eta = double(2.0, -9.0, 0.0).unsqueeze(-1)
    back = legendre(legendre(Bernoulli().log_partition), double(0.5))
    torch.testing.assert_close(back(eta), Bernoulli().log_partition(eta), rtol=1e-9, atol=1e-9)


def test_conjugates_that_are_infinite():
    for f, y in ((lambda x: x.exp().sum(-1), [-1.0]), (lambda x: (1.0 + x.square().sum(-1)).sqrt(), [1.5])):
        with pytest.raises(NotConvergedError, match=r"legendre: no maximum of <x, y> - f\(x\) is found for y = \("):
            legendre(f)(double(*y))
    with pytest.raises(ValueError, match="legendre: f must be finite at start"):
        legendre(lambda x: -x.log().sum(-1))(double(-1.0))


# A family of one's own


@dataclass(frozen=True)
class Rayleigh(ExponentialFamily):
    """x > 0, T = x^2, eta = -1 / (2 sigma^2), A = -log(-2 eta), h = x; only what has to be given."""

    natural_range = "negative"
    mean_range = "positive"
    support = "positive"

    unit: float = option("of length", 1.0)

    @property
    def num_statistics(self):
        return 1

    def _statistics(self, x):
        return x.square().unsqueeze(-1)

    def _log_base_measure(self, x):
        return x.log()

    def _log_partition(self, eta):
        return -(-2.0 * eta).log().squeeze(-1)

    def _natural_domain(self, eta):
        return (eta < 0.0).all(-1)

    def _mean_domain(self, mu):
        return (mu > 0.0).all(-1)

    def _support(self, x):
        return x > 0.0

    def _any_natural(self, like):
        return torch.full_like(like, -1.0)

    def _newton_start(self, mu):
        return torch.full_like(mu, -1.0)


def test_a_family_of_ones_own(monkeypatch):
    """Means, Fisher information and natural parameters follow by autograd and Newton's method."""
    monkeypatch.setitem(FAMILIES, "rayleigh", Rayleigh)
    family = FAMILIES.make("rayleigh")
    eta = torch.tensor([[-0.5], [-2.0], [-1e-4]], dtype=DOUBLE, requires_grad=True)
    torch.testing.assert_close(family.mean_parameters(eta), -1.0 / eta)
    torch.testing.assert_close(family.fisher_information(eta), eta.square().reciprocal().unsqueeze(-1))
    mu = double(2.0, 0.5, 1e4).unsqueeze(-1).requires_grad_()
    torch.testing.assert_close(family.natural_parameters(mu), -1.0 / mu)
    assert torch.autograd.gradcheck(family.natural_parameters, (mu,))
    assert torch.autograd.gradgradcheck(family.natural_parameters, (mu,))
    assert torch.autograd.gradgradcheck(family.mean_parameters, (eta[:2].detach().requires_grad_(),))
    torch.testing.assert_close(family.mean_parameters(eta.detach()), -1.0 / eta.detach())
    with pytest.raises(NotImplementedError, match=r"Rayleigh: the entropy needs E\[log h\(x\)\]"):
        family.entropy(eta)
    gamma = 0.5772156649015329  # E log x = -(log(-eta) + gamma) / 2

    class WithEntropy(Rayleigh):
        def _mean_log_base_measure(self, eta, mu):
            return -0.5 * ((-eta).log().squeeze(-1) + gamma)

    scale = (-0.5 / eta.detach()).sqrt().squeeze(-1)
    expected = 1.0 + (scale / math.sqrt(2.0)).log() + 0.5 * gamma
    torch.testing.assert_close(WithEntropy().entropy(eta.detach()), expected)
    slope = torch.func.vmap(torch.func.grad(WithEntropy().entropy))(eta.detach())
    torch.testing.assert_close(slope, -0.5 / eta.detach())
    torch.testing.assert_close(torch.func.vmap(torch.func.jacrev(family.natural_parameters))(mu)[..., 0], mu**-2.0)
    assert family.log_prob(double(1.0), eta.detach()).exp().sum().item() == pytest.approx(
        math.exp(-0.5) + 4.0 * math.exp(-2.0) + 2e-4 * math.exp(-1e-4)
    )
    for call, message in (
        (lambda: family.sample(eta), "Rayleigh draws no samples: it has no method _sample"),
        (lambda: family.to_distribution(eta), "Rayleigh: PyTorch has no such distribution"),
        (lambda: family.conjugate_prior(double(1.0), 1.0).log_normaliser(), "Rayleigh: the normaliser"),
        (lambda: family.conjugate_prior(double(1.0), 1.0).to_distribution(), "Rayleigh: PyTorch has no distribution"),
    ):
        with pytest.raises(NotImplementedError, match=message):
            call()


# Bad input

ONE = double(0.5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Bernoulli().log_partition([0.0]), TypeError, "Bernoulli: eta must be a tensor, got list"),
        (
            lambda: Bernoulli().log_partition(torch.tensor([1])),
            TypeError,
            "Bernoulli: eta has dtype torch.int64, expected torch.float32 or torch.float64",
        ),
        (lambda: Gaussian().entropy(ONE), ValueError, r"Gaussian: eta has shape \(1,\), expected \(..., 2\)"),
        (lambda: Gaussian().entropy(ONE.sum()), ValueError, r"Gaussian: eta has shape \(\), expected \(..., 2\)"),
        (lambda: Gaussian().entropy(double(0.0, 1.0)), ValueError, r"eta must be \(finite, negative\), got \(0, 1\)"),
        (
            lambda: Gamma().mean_parameters(torch.stack([double(1.0, -1.0), double(-1.0, -1.0)])),
            ValueError,
            r"Gamma: eta must be \(positive, negative\), got \(-1, -1\) at \[1\]",
        ),
        (
            lambda: MultivariateGaussian(2).entropy(double(0.0, 0.0, -0.5, 2.0, -0.5)),
            ValueError,
            "eta must be those of a positive definite precision matrix",
        ),
        (
            lambda: Bernoulli().natural_parameters(double(1.0)),
            ValueError,
            r"Bernoulli: mu must be in \(0, 1\), got \(1\)",
        ),
        (
            lambda: Beta().natural_parameters(double(-0.1, -0.1)),
            ValueError,
            "Beta: mu must be means of logarithms, the sum of whose exponentials is below 1",
        ),
        (
            lambda: Bernoulli().maximum_likelihood(torch.ones(5)),
            ValueError,
            r"the moments of x must be in \(0, 1\) for a maximum of the likelihood, got \(1\)",
        ),
        (
            lambda: Gaussian().maximum_likelihood(double(2.0, 2.0)),
            ValueError,
            "Gaussian: the moments of x must be the means",
        ),
        (lambda: Poisson().log_prob(double(1.5), ONE), ValueError, "x must be a whole number, not negative, got 1.5"),
        (
            lambda: Poisson().log_prob(double(math.nan), ONE),
            ValueError,
            "x must be a whole number, not negative, got nan",
        ),
        (
            lambda: Categorical(3).log_prob(torch.tensor([0, 3]), double(0.0, 0.0, 0.0)),
            ValueError,
            r"x must be a whole number from 0 to the number of categories - 1, got 3 at \[1\]",
        ),
        (
            lambda: Poisson().log_prob(torch.ones(2), ONE),
            TypeError,
            "Poisson: x has dtype torch.float32, expected that of eta, torch.float64",
        ),
        (
            lambda: Dirichlet(3).log_prob(double(0.5, 0.5), double(1.0, 1.0, 1.0)),
            ValueError,
            r"Dirichlet: x has shape \(2,\), expected \(..., 3\)",
        ),
        (
            lambda: Dirichlet(2).log_prob(double(0.5, 0.6), double(1.0, 1.0)),
            ValueError,
            r"Dirichlet: x must be positive, with the sum 1, got \(0.5, 0.6\)",
        ),
        (
            lambda: Poisson().log_prob(torch.ones(3, dtype=DOUBLE), torch.zeros(2, 1, dtype=DOUBLE)),
            ValueError,
            r"Poisson: the batches of x and eta must broadcast, got \(3,\) and \(2,\)",
        ),
        (
            lambda: Poisson().kl_divergence(torch.zeros(3, 1), torch.zeros(2, 1)),
            ValueError,
            r"the batches of eta and other must broadcast, got \(3,\) and \(2,\)",
        ),
        (
            lambda: Poisson().moments(torch.ones(0)),
            ValueError,
            r"x must have an axis of rows, and one row or more, got \(0,\)",
        ),
        (lambda: Poisson().moments(torch.tensor(1.0)), ValueError, "x must have an axis of rows"),
        (
            lambda: Poisson().moments(torch.ones(3), torch.ones(2)),
            ValueError,
            r"Poisson: weights have shape \(2,\), expected \(3,\) or \(3,\)",
        ),
        (
            lambda: Poisson().moments(torch.ones(2), torch.tensor([1.0, -1.0])),
            ValueError,
            "weights must be not negative",
        ),
        (
            lambda: Poisson().moments(torch.ones(2), torch.zeros(2)),
            ValueError,
            "the sum of weights must be positive, got 0",
        ),
        (lambda: Poisson().sample(ONE, seed=-1), ValueError, "Poisson: seed is -1"),
        (lambda: Poisson().sample(ONE, -1), ValueError, "Poisson: sample_shape"),
        (lambda: Poisson().sample(ONE, row_offset=1.5), TypeError, "Poisson: row_offset"),
        (
            lambda: Bernoulli().conjugate_prior(double(1.0), -1.0),
            ValueError,
            "conjugate_prior: nu must be positive, got -1",
        ),
        (
            lambda: Bernoulli().conjugate_prior(double(3.0), 2.0),
            ValueError,
            r"chi / nu must be in \(0, 1\), got \(1.5\)",
        ),
        (lambda: Dirichlet(1), ValueError, "Dirichlet: size must be at least 2, got 1"),
        (lambda: Ising(17), ValueError, "all states are enumerated, so that there may be 16 units at most, got 17"),
        (lambda: Ising(2.5), TypeError, "Ising: nodes must be an int"),
        (lambda: Laplace(math.nan), ValueError, "Laplace: location must be finite"),
        (
            lambda: Ising(2).natural_from_couplings(double(0.0, 0.0), ONE),
            ValueError,
            r"Ising: couplings have shape \(1,\), expected \(..., 2, 2\)",
        ),
        (
            lambda: BoltzmannMachine(2, 1).visible_log_prob(ONE, torch.zeros(6, dtype=DOUBLE)),
            ValueError,
            r"BoltzmannMachine: v has shape \(1,\), expected \(..., 2\)",
        ),
        (
            lambda: Gamma().from_distribution(torch.distributions.Normal(0.0, 1.0)),
            TypeError,
            "Gamma: distribution must be a torch.distributions.Gamma, got Normal",
        ),
        (
            lambda: Laplace().from_distribution(torch.distributions.Laplace(1.0, 1.0)),
            ValueError,
            "Laplace: distribution must have the location 0.0",
        ),
        (
            lambda: Dirichlet(2).from_distribution(torch.distributions.Dirichlet(torch.ones(3))),
            ValueError,
            r"Dirichlet: concentration has shape \(3,\), expected \(..., 2\)",
        ),
        (
            lambda: Ising(2).from_distribution(torch.distributions.Categorical(logits=torch.zeros(3))),
            ValueError,
            "Ising: distribution must have 4 categories, one for each state, got 3",
        ),
        (
            lambda: Ising(3).from_distribution(torch.distributions.Categorical(logits=torch.arange(8.0) ** 3 / 99.0)),
            ValueError,
            "Ising: distribution is not of this family: probabilities differ by",
        ),
        (lambda: legendre(3.0), TypeError, "legendre: f must be a function of a tensor, got float"),
        (lambda: legendre(torch.sum, 0.0), TypeError, "legendre: start must be a tensor, got float"),
        (lambda: legendre(torch.sum)(torch.tensor(1.0)), ValueError, "legendre: y must have an axis"),
        (lambda: duality_gap(Bernoulli, ONE, ONE), TypeError, "duality_gap: family must be an ExponentialFamily, got"),
        (
            lambda: duality_gap(Gaussian(), ONE, ONE),
            ValueError,
            r"duality_gap: eta has shape \(1,\), expected \(..., 2\)",
        ),
    ],
)
def test_bad_input_is_one_line(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_documentation_page():
    page = Path(__file__).parents[2] / "docs" / "expfam.md"
    results = doctest.testfile(str(page), module_relative=False)
    assert results.attempted > 0
    assert results.failed == 0


# Conjugates of functions that are not strictly convex


@pytest.mark.parametrize(
    ("f", "y"),
    [
        (lambda x: x.sum(-1), [2.0, 1.0]),
        (lambda x: x.new_zeros(x.shape[:-1]), [0.0, 1.0]),
        (lambda x: x[..., 0].square() + x[..., 1], [1.0, 2.0]),
    ],
)
def test_affine_functions_have_no_conjugate(f, y):
    """The supremum is infinite off the slope, and along it has no place of its own."""
    with pytest.raises(NotConvergedError, match=r"^legendre: no maximum .* not strictly convex$"):
        legendre(f)(torch.tensor(y))
