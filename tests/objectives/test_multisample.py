"""MIWAE, CIWAE and the Rényi bound: what each is made of, and its exact value on the linear-Gaussian model."""

import doctest
import math
import types
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fastvi import normal_log_prob
from fastvi.objectives import CIWAE, ELBO, IWAE, MIWAE, Draw, Renyi, elbo_bound, iwae_bound, log_weights
from fastvi.objectives.miwae import mean_bound
from fastvi.objectives.renyi import renyi_bound
from support import linear_gaussian, one_latent
from support.linear_gaussian import assert_expectation, exact_gradients, gradient_draws

ROUNDING = {"rtol": 0.0, "atol": 1e-10}
"""Float64 sums of a few terms of size 10 and less."""

# Expectations, by quadrature


def expected(bound, model, x, num_samples):
    """E bound(log-weights of K samples), ``(1,)``, and with its path to every parameter."""
    z, masses = one_latent.grid(model, x, num_samples)
    joint, posterior = one_latent.parts(model, x, z)
    return (masses * bound(joint - posterior)).sum().reshape(1)


EXPECTED = [
    (MIWAE(3, 2), 2, iwae_bound),
    (MIWAE(4, 1), 1, elbo_bound),
    (CIWAE(2, 0.3), 2, lambda log_w: 0.3 * elbo_bound(log_w) + 0.7 * iwae_bound(log_w)),
    *(
        (Renyi(2, alpha), 2, lambda log_w, s=1.0 - alpha: (torch.logsumexp(s * log_w, 0) - math.log(2.0)) / s)
        for alpha in (-1.5, 0.5, 2.0)
    ),
    (Renyi(3, 1.0), 1, elbo_bound),
    (Renyi(1, -2.0), 1, elbo_bound),
]


@pytest.mark.parametrize("learned_prior", [True, False])
@pytest.mark.parametrize(("objective", "num_samples", "bound"), EXPECTED, ids=lambda value: str(value)[:24])
def test_value_and_gradients_in_expectation(objective, num_samples, bound, learned_prior):
    model, x = linear_gaussian.make(latent_dim=1, learned_prior=learned_prior)
    value, gradients = gradient_draws(objective, model, x, 20_000, seed=41)
    assert_expectation(value, expected(bound, model, x, num_samples), "value")
    exact = exact_gradients(lambda leaves: expected(bound, leaves, x, num_samples), model)
    for name, gradient in exact.items():
        assert_expectation(gradients[name], gradient, name)


# MIWAE


def assert_same(objective, other):
    """Of the same seed: values and gradients, to rounding."""
    model, x = linear_gaussian.make()
    found, wanted = (gradient_draws(each, model, x, 50, seed=42) for each in (objective, other))
    torch.testing.assert_close(found[0], wanted[0], **ROUNDING)
    torch.testing.assert_close(found[1], wanted[1], **ROUNDING)


def swapped(log_w, num_bounds):
    """A mistake: the logarithm of the mean over the bounds, and the mean of that over the samples."""
    return iwae_bound(log_w.unflatten(0, (num_bounds, -1)), 0).mean(0)


def test_one_bound_is_iwae_and_bounds_of_one_sample_are_the_elbo():
    assert_same(MIWAE(1, 5), IWAE(5))
    assert_same(MIWAE(5, 1), ELBO(5, analytic_kl=False))
    for num_bounds, other in ((1, IWAE(5)), (5, ELBO(5, analytic_kl=False))):
        with pytest.raises(AssertionError):
            assert_same(lambda *args, m=num_bounds, **seed: swapped(log_weights(*args, 5, **seed), m), other)


def test_the_mean_of_bounds_by_hand():
    """M is not K, and each bound takes K samples that stand together."""
    log_w = torch.tensor([[1.0], [3.0], [2.0], [8.0], [5.0], [5.0]], dtype=torch.float64).log()
    by_hand = (math.log(2.0) + math.log(5.0) + math.log(5.0)) / 3.0
    torch.testing.assert_close(mean_bound(log_w, 3), torch.tensor([by_hand], dtype=torch.float64), **ROUNDING)
    assert (swapped(log_w, 3) - by_hand).abs() > 0.01


def weighted(log_w):
    """A mistake: sum_k w_k log w_k with normalised weights, which is larger than L_K."""
    return (torch.softmax(log_w, 0) * log_w).sum(0)


def test_values_are_bounds():
    """Of the same samples the ELBO <= CIWAE <= L_MK and the ELBO <= MIWAE <= L_MK; the weighted mean is above L_MK."""
    model, x = linear_gaussian.make()
    model, x = model.rows(200), x.expand(200, -1)
    elbo, iwae, miwae, ciwae = (
        objective(model, x, seed=43).detach()
        for objective in (ELBO(12, analytic_kl=False), IWAE(12), MIWAE(3, 4), CIWAE(12, 0.2))
    )
    for between in (miwae, ciwae):
        assert ((elbo < between) & (between < iwae)).all()
    assert (weighted(log_weights(model, x, 12, seed=43)) > iwae).all()


@pytest.mark.parametrize("num_samples", [2, 3])
def test_more_samples_raise_miwae_and_more_bounds_do_not(num_samples):
    """L_K is at most L_(K + 1), by quadrature; the expectation does not know M."""
    model, x = linear_gaussian.make(latent_dim=1)
    exact = [model.importance_bound(x, count) for count in (num_samples - 1, num_samples)]
    assert exact[0] < exact[1] < model.log_marginal(x)
    for num_bounds in (1, 4):
        value, _ = gradient_draws(MIWAE(num_bounds, num_samples), model, x, 10_000, seed=44)
        assert_expectation(value, exact[1], f"{num_bounds} bounds")


# CIWAE


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_combination(beta):
    elbo, iwae = ELBO(4, analytic_kl=False), IWAE(4)
    assert_same(CIWAE(4, beta), lambda *args, **seed: beta * elbo(*args, **seed) + (1.0 - beta) * iwae(*args, **seed))


def test_a_bound_without_weight_is_left_out():
    log_w = torch.tensor([[-torch.inf], [2.0]])
    model = types.SimpleNamespace(draw=lambda *_, **__: Draw(log_w, log_w))
    assert CIWAE(2, 0.0)(model, None).item() == pytest.approx(2.0 - math.log(2.0))
    assert CIWAE(2, 1.0)(model, None).item() == -math.inf
    assert CIWAE(2, 0.5)(model, None).item() == -math.inf


# The Rényi bound

arrays = npst.arrays("float64", st.tuples(st.integers(1, 6), st.integers(0, 3)), elements=st.floats(-300.0, 300.0))


@given(arrays, st.floats(-3.0, 3.0), st.floats(-3.0, 3.0))
def test_the_bound_falls_with_alpha(array, first, second):
    """Between the least and the largest log-weight, for any alpha: means of powers rise with the power."""
    log_w = torch.from_numpy(array)
    low, high = renyi_bound(log_w, max(first, second)), renyi_bound(log_w, min(first, second))
    # Rounding of float64 sums, enlarged by 1 / (1 - alpha) near 1; alpha within 1e-8 of 1 is taken for 1.
    rounding = 1e-6 * (1.0 + log_w.abs().amax(0))
    assert (low <= high + rounding).all()
    assert ((log_w.amin(0) - rounding <= low) & (high <= log_w.amax(0) + rounding)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_limits_of_alpha(dtype):
    log_w = torch.linspace(-120.0, -80.0, 50, dtype=dtype).reshape(5, 10).requires_grad_()
    torch.testing.assert_close(renyi_bound(log_w, 0.0), iwae_bound(log_w), rtol=0.0, atol=0.0)
    for distance in (1e-3, 1e-5, 1e-7, 1e-9, 1e-15, 0.0):
        for alpha in (1.0 - distance, 1.0 + distance):
            bound = renyi_bound(log_w, alpha)
            assert bound.dtype == dtype
            # Half of 1 - alpha times the variance is the first term of the difference, and 160 the variance.
            tolerance = 100.0 * distance + (1e-6 if dtype == torch.float64 else 2e-5)
            torch.testing.assert_close(bound, elbo_bound(log_w), rtol=0.0, atol=tolerance)
            (gradient,) = torch.autograd.grad(bound.sum(), log_w)
            torch.testing.assert_close(gradient, torch.full_like(log_w, 0.2), rtol=0.0, atol=10.0 * distance + 1e-6)
    torch.testing.assert_close(renyi_bound(log_w, 1e6), log_w.amin(0), rtol=0.0, atol=1e-4)
    torch.testing.assert_close(renyi_bound(log_w, -1e6), log_w.amax(0), rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("alpha", [-1.0, -0.3, 0.0, 0.5, 0.999, 1.0, 1.5])
def test_many_samples_give_the_closed_form(alpha):
    """Value and gradients of 100,000 quantiles of q, whose mean is the integral but for the tails beyond them."""
    model, x = linear_gaussian.make(latent_dim=1)
    model = model.rows(1)
    exact = model.elbo(x) if alpha == 1.0 else one_latent.renyi_limit(model, x, alpha)
    found = Renyi(100_000, alpha)(one_latent.EvenDraws(model), x)
    torch.testing.assert_close(found, exact, rtol=0.0, atol=1e-4)
    leaves = list(model.parameters().values())
    gradients = [torch.autograd.grad(value.sum(), leaves) for value in (found, exact)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0.0, atol=2e-3)
    side = (found - model.log_marginal(x)).item()
    assert (side > 0.01) if alpha < 0.0 else (side < -0.01) if alpha > 0.0 else (abs(side) < 1e-4)


def test_weights_of_zero():
    """Minus infinity where a weight of zero has a power that is not positive, and no NaN in a gradient."""
    log_w = torch.tensor([[-torch.inf, -torch.inf, 1.0], [2.0, -torch.inf, 1.0]], requires_grad=True)
    for alpha, bounds in ((0.5, [2.0 - 2.0 * math.log(2.0), -math.inf, 1.0]), (2.0, [-math.inf, -math.inf, 1.0])):
        bound = renyi_bound(log_w, alpha)
        assert bound.tolist() == pytest.approx(bounds)
        (gradient,) = torch.autograd.grad(bound.sum(), log_w)
        assert gradient.isfinite().all()
        assert gradient[:, 2].tolist() == pytest.approx([0.5, 0.5])


# The gap to the evidence


class Toy:
    """z ~ N(m, I), x ~ N(z, I), q = N((x + m) / 2, 2/3 I) of 20 dimensions (the toy of Rainforth et al. 2018)."""

    prior_mean = torch.linspace(-1.0, 1.0, 20, dtype=torch.float64)

    def encode(self, x):
        return 0.5 * (x + self.prior_mean), torch.full_like(x, 2.0 / 3.0).log()

    def log_likelihood(self, x, z):
        return normal_log_prob(x, z, torch.zeros_like(x))

    def log_marginal(self, x):
        return normal_log_prob(x, self.prior_mean, torch.full_like(x, 2.0).log())


def test_the_gap_falls_as_one_over_k():
    """K (log p - L_K) goes to chi^2 / 2, which is .4534 in the toy: 1 + chi^2 = (4 / sqrt(15))^20.

    The next term of the series, by the third and fourth moments of a mean of K weights, is .034 / K. The mean weight
    less 1 is subtracted, whose expectation is zero, because it is nearly all of the noise.
    """
    chi_square = (4.0 / math.sqrt(15.0)) ** 20 - 1.0
    assert chi_square / 2.0 == pytest.approx(0.4534, abs=5e-5)
    model = Toy()
    x = torch.linspace(-2.0, 2.0, 500, dtype=torch.float64).unsqueeze(1).expand(-1, 20)
    for num_bounds, num_samples in ((40, 16), (10, 64)):
        log_w = log_weights(model, x, num_bounds * num_samples, seed=45) - model.log_marginal(x)
        bounds = iwae_bound(log_w.unflatten(0, (num_bounds, num_samples)), 1)
        torch.testing.assert_close(
            bounds.mean(0) + model.log_marginal(x), MIWAE(num_bounds, num_samples)(model, x, seed=45), **ROUNDING
        )
        gap = num_samples * (torch.expm1(bounds) - bounds).flatten()
        assert_expectation(gap, chi_square / 2.0 + 0.034 / num_samples, f"K = {num_samples}")
        assert gap.std() / len(gap) ** 0.5 < 0.01  # so that another constant would be seen


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: MIWAE(0, 5), ValueError, "MIWAE: num_bounds must be at least 1, got 0"),
        (lambda: MIWAE(5, 0), ValueError, "MIWAE: num_samples must be at least 1, got 0"),
        (lambda: MIWAE(5, 2.0), TypeError, "MIWAE: num_samples must be an int, got 2.0 of type float"),
        (lambda: CIWAE(5, 1.5), ValueError, "CIWAE: beta must be at most 1, got 1.5"),
        (lambda: CIWAE(5, -0.5), ValueError, "CIWAE: beta must be finite and not negative, got -0.5"),
        (lambda: CIWAE(0), ValueError, "CIWAE: num_samples must be at least 1, got 0"),
        (lambda: Renyi(0), ValueError, "Renyi: num_samples must be at least 1, got 0"),
        (lambda: Renyi(5, math.inf), ValueError, "Renyi: alpha must be finite, got inf"),
        (lambda: Renyi(5, "half"), TypeError, "Renyi: alpha must be a float, got 'half' of type str"),
    ],
)
def test_bad_options(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_documentation_page():
    page = Path(__file__).parents[2] / "docs" / "bounds" / "multisample.md"
    results = doctest.testfile(str(page), module_relative=False)
    assert results.attempted > 0
    assert results.failed == 0
