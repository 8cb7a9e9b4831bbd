"""The thermodynamic objective: sums on both sides of L_S, closed forms on the Gaussian path, enumeration of draws."""

import itertools
import math
import types

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fastvi import normal_log_prob
from fastvi.objectives import ELBO, IWAE, TVO, Draw, elbo_bound, iwae_bound, log_weights
from fastvi.objectives.tvo import tempered_means
from support import linear_gaussian, one_latent
from support.linear_gaussian import ENCODER, assert_expectation, exact_gradients, gradient_draws

ROUNDING = {"rtol": 0.0, "atol": 1e-10}
"""Float64 sums of a few terms of size 10 and less."""
EXACT = {"rtol": 0.0, "atol": 1e-12}


def riemann_sum(objective, mean):
    """The sum of ``mean(beta)``, written once more."""
    betas = objective.betas()
    ends = betas[:-1] if objective.endpoint == "left" else betas[1:]
    return sum((high - low) * mean(beta) for low, high, beta in zip(betas, betas[1:], ends, strict=False))


def given_weights(log_w):
    return types.SimpleNamespace(draw=lambda *_, **__: Draw(log_w, log_w))


# The sums

arrays = npst.arrays("float64", st.tuples(st.integers(2, 6), st.integers(1, 3)), elements=st.floats(-300.0, 300.0))


@given(arrays, st.integers(1, 6), st.floats(0.001, 0.9))
def test_left_and_right_sums_enclose_the_importance_weighted_bound(array, num_partitions, first_beta):
    """Pointwise: the derivative of log-mean-exp(beta log w) in beta rises, and its integral is L_S."""
    log_w = torch.from_numpy(array)
    left, right = (
        TVO(len(log_w), num_partitions, first_beta, endpoint)(given_weights(log_w), None)
        for endpoint in ("left", "right")
    )
    rounding = 1e-12 * (1.0 + log_w.abs().amax(0))
    between = iwae_bound(log_w)
    assert (left <= between + rounding).all()
    assert (between <= right + rounding).all()
    assert (elbo_bound(log_w) <= left + rounding).all()


def test_many_partitions_give_the_importance_weighted_bound():
    log_w = torch.linspace(-6.0, 4.0, 20, dtype=torch.float64).reshape(4, 5)
    for endpoint in ("left", "right"):
        gaps = [
            (TVO(4, count, 1e-4, endpoint)(given_weights(log_w), None) - iwae_bound(log_w)).abs().max()
            for count in (50, 500)
        ]
        assert gaps[1] < 0.02
        assert gaps[1] < 0.2 * gaps[0]


def test_one_partition_by_hand():
    """Left: the ELBO; right: the weighted mean, log p(x) + KL(p(z|x) || q) for many samples."""
    log_w = torch.log(torch.tensor([[1.0, 2.0], [3.0, 2.0]], dtype=torch.float64))
    by_hand = {"left": elbo_bound(log_w), "right": torch.tensor([0.75 * math.log(3.0), math.log(2.0)]).double()}
    for endpoint, value in by_hand.items():
        torch.testing.assert_close(TVO(2, 1, endpoint=endpoint)(given_weights(log_w), None), value, rtol=0, atol=1e-7)
    model, x = linear_gaussian.make()
    value, _ = gradient_draws(TVO(6, 1), model, x, 10, seed=61)
    torch.testing.assert_close(value, gradient_draws(ELBO(6, analytic_kl=False), model, x, 10, seed=61)[0], **ROUNDING)


def test_the_ends_of_the_intervals():
    assert TVO(2, 1).betas() == (0.0, 1.0)
    assert TVO(2, 2, 0.1).betas() == (0.0, 0.1, 1.0)
    assert TVO(2, 4, 0.001).betas() == pytest.approx((0.0, 0.001, 0.01, 0.1, 1.0))


def test_values_of_a_model():
    """Of the samples that other objectives draw from the seed."""
    model, x = linear_gaussian.make()
    model, x = model.rows(20), x.expand(20, -1)
    log_w = log_weights(model, x, 7, seed=62)
    for endpoint in ("left", "right"):
        objective = TVO(7, 3, 0.05, endpoint)
        wanted = riemann_sum(objective, lambda beta: (torch.softmax(beta * log_w, 0) * log_w).sum(0))
        torch.testing.assert_close(objective(model, x, seed=62), wanted, **ROUNDING)
    assert (TVO(7)(model, x, seed=62) < IWAE(7)(model, x, seed=62)).all()


# Closed forms, with as many even draws as make means integrals


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
def test_the_mean_along_the_path(beta):
    """E log w under pi_beta, a Gaussian of precision (1 - beta) / s^2 + beta / v^2, and its slope, the variance."""
    model, x = linear_gaussian.make(latent_dim=1)
    log_w = one_latent.EvenDraws(model).draw(x, 100_000).log_weights
    exact = one_latent.path_mean(model, x, beta)
    torch.testing.assert_close(tempered_means(log_w, [beta])[0], exact, rtol=0.0, atol=1e-4)
    slope = (one_latent.path_mean(model, x, beta + 1e-5) - one_latent.path_mean(model, x, beta - 1e-5)) / 2e-5
    weights = torch.softmax(beta * log_w, 0)
    variance = (weights * (log_w - exact).square()).sum(0)
    torch.testing.assert_close(variance, slope, rtol=0.0, atol=1e-3)
    if beta == 0.0:
        torch.testing.assert_close(exact, model.elbo(x), **ROUNDING)


def test_the_evidence_upper_bound():
    model, x = linear_gaussian.make(latent_dim=1)
    (mean, logvar), (exact_mean, exact_logvar) = model.encode(x), model.with_exact_posterior().encode(x)
    ratio = torch.exp(exact_logvar - logvar)
    divergence = 0.5 * (ratio + (mean - exact_mean).square() * torch.exp(-logvar) - 1.0 - torch.log(ratio)).sum(-1)
    value = TVO(100_000, 1, endpoint="right")(one_latent.EvenDraws(model), x)
    torch.testing.assert_close(value, model.log_marginal(x) + divergence, rtol=0.0, atol=1e-4)
    assert divergence > 0.05


@pytest.mark.parametrize("score", [True, False], ids=["covariance", "path"])
@pytest.mark.parametrize("objective", [TVO(100_000, 1), TVO(100_000, 3, 0.1), TVO(100_000, 2, 0.3, "right")], ids=str)
def test_gradients_are_those_of_the_closed_form(objective, score):
    """By the covariance with the score of held samples, and along the path of others: one gradient."""
    model, x = linear_gaussian.make(latent_dim=1)
    model = model.rows(1)
    exact = riemann_sum(objective, lambda beta: one_latent.path_mean(model, x, beta))
    found = objective(one_latent.EvenDraws(model, score), x)
    leaves = list(model.parameters().values())
    gradients = [torch.autograd.grad(value.sum(), leaves) for value in (found, exact)]
    # The quantiles leave the tails out, 1e-5 of q, whose squares are as large as 20.
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0.0, atol=2e-3)
    assert max(gradient.abs().max() for gradient in gradients[1]) > 0.1


# Few samples of the Gaussian encoder, by quadrature


def covariance(log_w, log_joint, log_posterior, beta):
    """What TVO's gradient is made of: a function whose gradient it is, from the paper's words.

    E[grad f] + Cov[grad log pi_beta, f] for f = log w, by the two parts of log pi_beta; the sample covariance with
    (1 - beta) log q is unbiased at beta = 0.
    """
    weights = torch.softmax(beta * log_w, 0).detach()
    f = log_w.detach()
    deviation = weights * (f - (weights * f).sum(0))
    unbiased = len(log_w) / (len(log_w) - 1)
    tempered = beta * log_joint + (1.0 - beta) * unbiased * log_posterior
    return (weights * (log_joint - log_posterior)).sum(0) + (deviation * tempered).sum(0)


@pytest.mark.parametrize("objective", [TVO(2, 1), TVO(2, 3, 0.1), TVO(2, 1, endpoint="right")], ids=str)
def test_value_and_gradients_in_expectation(objective):
    """The likelihood's and the prior's are those of the value's expectation; the encoder's that of the covariance."""
    model, x = linear_gaussian.make(latent_dim=1)
    value, gradients = gradient_draws(objective, model, x, 40_000, seed=63)

    def expectation(leaves, of):
        z, masses = one_latent.grid(leaves, x, 2)
        joint, posterior = one_latent.parts(leaves, x, z.detach())
        return (masses * riemann_sum(objective, lambda beta: of(joint, posterior, beta))).sum()

    def sum_of(joint, posterior, beta):
        log_w = joint - posterior
        return (torch.softmax(beta * log_w, 0) * log_w).sum(0)

    assert_expectation(value, expectation(model, sum_of), "value")
    of_value = exact_gradients(lambda leaves: expectation(leaves, sum_of), model)
    of_form = exact_gradients(
        lambda leaves: expectation(leaves, lambda joint, post, beta: covariance(joint - post, joint, post, beta)), model
    )
    for name, gradient in gradients.items():
        assert_expectation(gradient, (of_form if name in ENCODER else of_value)[name], name)
    if objective == TVO(2, 1):
        for name, exact in exact_gradients(lambda leaves: leaves.elbo(x), model).items():
            torch.testing.assert_close((of_form if name in ENCODER else of_value)[name], exact, rtol=0.0, atol=1e-8)


def test_path_and_score_together_are_refused():
    """And would be wrong: twice the gradient of the encoder, where the ELBO's is wanted."""
    model, x = linear_gaussian.make(latent_dim=1)
    model = model.rows(1)

    class Both(one_latent.EvenDraws):
        def draw(self, *args, **options):
            drawn = super().draw(*args, **options)
            return drawn._replace(log_posterior=one_latent.parts(model, x, drawn.samples.detach())[1])

    with pytest.raises(ValueError, match=r"^TVO: Both\.draw gives log_posterior for samples that carry their gradient"):
        TVO(10, 1)(Both(model), x)
    drawn = Both(model).draw(x, 100_000)
    leaves = [model.encoder_bias, model.encoder_logvar]
    both = torch.autograd.grad(tempered_means(drawn.log_weights, [0.0], drawn.log_posterior).sum(), leaves)
    exact = torch.autograd.grad(model.elbo(x).sum(), leaves)
    torch.testing.assert_close(torch.cat(both, 1), 2.0 * torch.cat(exact, 1), rtol=0.0, atol=2e-3)


# Discrete latent variables, all draws enumerated


class Enumerated:
    """Two binary variables, S = 2: one example for each of the 16 pairs of states, with the pair's probability."""

    def __init__(self):
        self.leaves = {
            name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
            for name, value in (("posterior", [0.3, -0.4]), ("prior", [0.2, 0.5]), ("levels", [0.7, -1.1]))
        }
        states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)), dtype=torch.float64)
        self.samples = states[torch.tensor(list(itertools.product(range(4), repeat=2)))].transpose(0, 1)
        self.states = states.unsqueeze(1)

    def parts(self, z):
        def bernoulli(logits):
            return (z * logits - torch.nn.functional.softplus(logits)).sum(-1)

        level = (self.leaves["levels"] * z).sum(-1, keepdim=True)
        x = torch.full_like(level, 0.4)
        joint = normal_log_prob(x, level, torch.zeros_like(level)) + bernoulli(self.leaves["prior"])
        return joint, bernoulli(self.leaves["posterior"])

    def draw(self, x, num_samples, *, detach_posterior=False, seed=None, row_offset=0):
        joint, posterior = self.parts(self.samples)
        return Draw(self.samples, joint - posterior, posterior)

    def gradients(self, value):
        return dict(zip(self.leaves, torch.autograd.grad(value, list(self.leaves.values())), strict=True))


@pytest.mark.parametrize("endpoint", ["left", "right"])
@pytest.mark.parametrize("num_partitions", [1, 2, 5])
def test_expectations_by_enumeration(num_partitions, endpoint):
    model, objective = Enumerated(), TVO(2, num_partitions, 0.2, endpoint)
    joint, posterior = model.parts(model.samples)
    masses = torch.exp(posterior.sum(0))
    torch.testing.assert_close(masses.sum().item(), 1.0, **EXACT)
    value = objective(model, torch.zeros(16, 1))
    log_w = joint - posterior
    sums = riemann_sum(objective, lambda beta: (torch.softmax(beta * log_w, 0) * log_w).sum(0))
    torch.testing.assert_close(value, sums, **EXACT)
    # The draws' gradients are weighed by their probabilities, which are constants there and not in the expectation.
    found = model.gradients((masses.detach() * value).sum())
    of_expectation = model.gradients((masses * sums).sum())
    joint, posterior = model.parts(model.samples)
    form = riemann_sum(objective, lambda beta: covariance(joint - posterior, joint, posterior, beta))
    of_form = model.gradients((masses.detach() * form).sum())
    for name, gradient in found.items():
        wanted = of_form if name == "posterior" else of_expectation
        torch.testing.assert_close(gradient, wanted[name], **EXACT)
        assert gradient.abs().max() > 1e-3
    if (num_partitions, endpoint) == (1, "left"):  # the ELBO: unbiased with two samples
        joint, posterior = model.parts(model.states)
        exact = model.gradients((torch.exp(posterior) * (joint - posterior)).sum())
        torch.testing.assert_close(found, exact, **EXACT)
    if (num_partitions, endpoint) == (1, "right"):  # the wake-phi update: the weighted score, with its sign
        joint, posterior = model.parts(model.samples)
        weights = torch.softmax(joint - posterior, 0).detach()
        wake = -(masses.detach() * (weights * posterior).sum(0)).sum()
        (wanted,) = torch.autograd.grad(wake, model.leaves["posterior"])
        torch.testing.assert_close(found["posterior"], wanted, **EXACT)


def test_one_sample_has_no_covariance():
    """With S = 1 the encoder would never be trained: refused."""
    with pytest.raises(ValueError, match=r"^TVO: num_samples must be at least 2, got 1$"):
        TVO(1)


# Weights of zero


def test_weights_of_zero():
    log_w = torch.tensor([[-torch.inf, -torch.inf, 1.0], [2.0, -torch.inf, 1.0]], requires_grad=True)
    for beta, means in ((0.0, [-math.inf, -math.inf, 1.0]), (0.5, [2.0, -math.inf, 1.0])):
        log_posterior = torch.zeros(2, 3, requires_grad=True)
        mean = tempered_means(log_w, [beta], log_posterior)[0]
        assert mean.tolist() == pytest.approx(means)
        for gradient in torch.autograd.grad(mean.sum(), (log_w, log_posterior)):
            assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: TVO(5, 0), ValueError, "TVO: num_partitions must be at least 1, got 0"),
        (lambda: TVO(5, first_beta=0.0), ValueError, "TVO: first_beta must be between 0 and 1, got 0.0"),
        (lambda: TVO(5, first_beta=1.0), ValueError, "TVO: first_beta must be between 0 and 1, got 1.0"),
        (lambda: TVO(5, endpoint="middle"), ValueError, "TVO: endpoint must be one of left, right, got 'middle'"),
    ],
)
def test_bad_options(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_draw_without_the_score_has_its_path():
    """A model of its own that reparameterises everything: the gradient is that of the value."""
    log_w = torch.tensor([[0.3], [-0.7], [1.1]], dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(TVO(3, 2, 0.3)(given_weights(log_w), None).sum(), log_w)
    objective = TVO(3, 2, 0.3)
    value = riemann_sum(objective, lambda beta: (torch.softmax(beta * log_w, 0) * log_w).sum(0))
    torch.testing.assert_close(found, torch.autograd.grad(value.sum(), log_w), **EXACT)
