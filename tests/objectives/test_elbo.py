"""The evidence lower bound, its options and its path derivative, exact on the linear-Gaussian model."""

import dataclasses

import pytest
import torch

from fastvi.objectives import ELBO, STL, LinearWarmUp
from support import linear_gaussian
from support.linear_gaussian import ENCODER, GENERATIVE, PRIOR, assert_expectation, exact_gradients, gradient_draws

ROUNDING = {"rtol": 0.0, "atol": 1e-10}
"""Float64 sums of a few terms of size 10 and less."""


@pytest.mark.parametrize("learned_prior", [True, False])
@pytest.mark.parametrize(
    "objective",
    [ELBO(), ELBO(3), ELBO(analytic_kl=False), ELBO(3, analytic_kl=False), STL(), STL(3)],
    ids=str,
)
def test_value_and_gradients_in_expectation(objective, learned_prior):
    model, x = linear_gaussian.make(learned_prior=learned_prior)
    value, gradients = gradient_draws(objective, model, x, 20_000, seed=5)
    assert_expectation(value, model.elbo(x), "value")
    for name, expected in exact_gradients(lambda leaves: leaves.elbo(x), model).items():
        assert_expectation(gradients[name], expected, name)


@pytest.mark.parametrize("objective", [ELBO(2, analytic_kl=False), STL(2)], ids=str)
def test_exact_posterior_gives_the_evidence(objective):
    model, x = linear_gaussian.make()
    value, gradients = gradient_draws(objective, model.with_exact_posterior(), x, 10, seed=6)
    torch.testing.assert_close(value, model.log_marginal(x).expand(10), **ROUNDING)
    largest = max(gradients[name].abs().max().item() for name in ENCODER)
    if isinstance(objective, STL):
        assert largest <= ROUNDING["atol"]
    else:
        assert largest > 0.1  # the score of q is what the path derivative leaves out
    # By Fisher's identity the generative gradient is that of log p(x) on average, not for each draw.
    evidence = exact_gradients(lambda leaves: leaves.log_marginal(x), model)
    _, gradients = gradient_draws(objective, model.with_exact_posterior(), x, 20_000, seed=7)
    for name in (*GENERATIVE, *PRIOR):
        assert_expectation(gradients[name], evidence[name], name)


def test_analytic_divergence_has_its_own_noise_only():
    """Given the samples, the analytic bound differs from the sampled one by the divergence's estimate alone."""
    model, x = linear_gaussian.make()
    rows, data = model.rows(6), x.expand(6, -1)
    log_likelihood = ELBO(4, beta=0.0)(rows, data, seed=8)
    torch.testing.assert_close(log_likelihood, ELBO(4, analytic_kl=False, beta=0.0)(rows, data, seed=8), **ROUNDING)
    divergence = rows.divergence(data).sum(-1)
    torch.testing.assert_close(ELBO(4)(rows, data, seed=8), log_likelihood - divergence, **ROUNDING)


@pytest.mark.parametrize("analytic_kl", [True, False])
def test_beta_weighs_the_divergence(analytic_kl):
    model, x = linear_gaussian.make()
    objective = ELBO(analytic_kl=analytic_kl).with_beta(0.25)
    value, gradients = gradient_draws(objective, model, x, 20_000, seed=9)

    def expected(leaves):
        return leaves.expected_log_likelihood(x) - 0.25 * leaves.divergence(x).sum(-1)

    assert_expectation(value, expected(model), "value")
    for name, gradient in exact_gradients(expected, model).items():
        assert_expectation(gradients[name], gradient, name)


def test_free_bits_charge_each_variable_at_least_that_much():
    model, x = linear_gaussian.make()
    small, large = model.divergence(x)[0].sort().values.tolist()
    between = 0.5 * (small + large)
    plain, plain_gradients = gradient_draws(ELBO(), model, x, 3, seed=10)
    value, gradients = gradient_draws(ELBO(free_bits=between), model, x, 3, seed=10)
    torch.testing.assert_close(value, plain - (between - small), **ROUNDING)
    # The cheap variable's prior is out of the bound; the dear one's gradient is untouched.
    cheap = int(model.divergence(x)[0].argmin())
    assert (gradients["prior_mean"][:, cheap] == 0.0).all()
    assert (plain_gradients["prior_mean"][:, cheap] != 0.0).all()
    torch.testing.assert_close(gradients["prior_mean"][:, 1 - cheap], plain_gradients["prior_mean"][:, 1 - cheap])
    half, _ = gradient_draws(ELBO(free_bits=between, beta=0.5), model, x, 3, seed=10)
    free, _ = gradient_draws(ELBO(beta=0.0), model, x, 3, seed=10)
    torch.testing.assert_close(half, 0.5 * (value + free), **ROUNDING)


@pytest.mark.parametrize("analytic_kl", [True, False])
def test_beta_may_be_a_tensor(analytic_kl):
    model, x = linear_gaussian.make()
    expected = gradient_draws(ELBO(2, analytic_kl, beta=0.25), model, x, 3, seed=9)
    beta = torch.tensor(0.25, dtype=torch.float64)
    torch.testing.assert_close(gradient_draws(ELBO(2, analytic_kl, beta=beta), model, x, 3, seed=9), expected)


def test_warm_up_with_a_tensor_is_compiled_once():
    model, x = linear_gaussian.make()
    programs = []

    def count(graph, _):
        programs.append(graph)
        return graph

    torch._dynamo.reset()
    bound = torch.compile(lambda beta: ELBO().with_beta(beta)(model, x), backend=count, fullgraph=True)
    for step in range(5):
        torch.manual_seed(step)
        beta = LinearWarmUp(4)(step)
        value = bound(torch.tensor(beta, dtype=torch.float64))
        torch.manual_seed(step)
        torch.testing.assert_close(value, ELBO(beta=beta)(model, x), rtol=0.0, atol=1e-12)  # reordered float64 sums
    assert len(programs) == 1


def test_warm_up():
    warm_up = LinearWarmUp(4, start=0.5, end=1.5)
    assert [warm_up(step) for step in (0, 1, 2, 4, 5, 1000)] == [0.5, 0.75, 1.0, 1.5, 1.5, 1.5]
    assert [LinearWarmUp(10)(step) for step in (0, 5, 10)] == [0.0, 0.5, 1.0]
    assert LinearWarmUp(0)(0) == 1.0


def test_with_beta_keeps_the_other_options():
    objective = ELBO(num_samples=3, free_bits=0.125)
    assert objective.with_beta(0.5) == ELBO(num_samples=3, free_bits=0.125, beta=0.5)
    assert objective.beta == 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.beta = 0.5


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ELBO(0), ValueError, "ELBO: num_samples must be at least 1, got 0"),
        (lambda: ELBO(2.0), TypeError, "ELBO: num_samples must be an int, got 2.0 of type float"),
        (lambda: ELBO(True), TypeError, "ELBO: num_samples must be an int, got True of type bool"),
        (lambda: STL(-1), ValueError, "STL: num_samples must be at least 1, got -1"),
        (lambda: ELBO(beta=-0.5), ValueError, "ELBO: beta must be finite and not negative, got -0.5"),
        (lambda: ELBO(beta=float("nan")), ValueError, "ELBO: beta must be finite and not negative, got nan"),
        (
            lambda: ELBO(beta=torch.ones(2)),
            ValueError,
            r"ELBO: beta must be a float or a tensor without axes, got \(2,\)",
        ),
        (lambda: ELBO().with_beta("1"), TypeError, "ELBO: beta must be a float, got '1' of type str"),
        (lambda: ELBO(free_bits=float("inf")), ValueError, "ELBO: free_bits must be finite"),
        (lambda: ELBO(analytic_kl=False, free_bits=0.1), ValueError, "free_bits=0.1 needs analytic_kl=True"),
        (lambda: LinearWarmUp(-1), ValueError, "LinearWarmUp: steps must be at least 0, got -1"),
        (lambda: LinearWarmUp(3)(-1), ValueError, "LinearWarmUp: step must be at least 0, got -1"),
        (lambda: LinearWarmUp(3)(0.5), TypeError, "LinearWarmUp: step must be an int, got 0.5 of type float"),
    ],
)
def test_bad_options(make, error, message):
    with pytest.raises(error, match=message):
        make()
