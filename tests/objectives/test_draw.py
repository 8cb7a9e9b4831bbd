"""Samples and log-weights by ``draw``: of a Gaussian encoder, and of models that draw for themselves."""

import itertools
import types
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from fastvi import normal_log_prob, rsample_normal
from fastvi.evaluate import active_units, evaluate, stream_bounds
from fastvi.objectives import (
    CIWAE,
    ELBO,
    IWAE,
    MIWAE,
    PIWAE,
    STL,
    TVO,
    Bound,
    Draw,
    DReG,
    Renyi,
    draw,
    elbo_bound,
    log_weights,
    option,
)
from support import linear_gaussian
from support.linear_gaussian import STANDARD_ERRORS, assert_expectation, exact_gradients, gradient_draws

# The Gaussian encoder


@pytest.mark.parametrize("learned_prior", [True, False])
@pytest.mark.parametrize("detach_posterior", [True, False])
def test_samples_and_weights_of_a_gaussian_encoder(learned_prior, detach_posterior):
    model, x = linear_gaussian.make(learned_prior=learned_prior)
    model, x = model.rows(5), x.expand(5, -1)
    drawn = draw(model, x, 3, detach_posterior=detach_posterior, seed=4, row_offset=2)
    assert isinstance(drawn, Draw)
    mean, logvar = model.encode(x)
    torch.testing.assert_close(drawn.samples, rsample_normal(mean, logvar, (3,), seed=4, row_offset=2))
    prior = [torch.zeros_like(mean) if value is None else value for value in (model.prior_mean, model.prior_logvar)]
    expected = model.log_likelihood(x, drawn.samples) + normal_log_prob(drawn.samples, *prior)
    expected = expected - normal_log_prob(drawn.samples, mean, logvar)
    torch.testing.assert_close(drawn.log_weights, expected, rtol=0.0, atol=1e-10)  # float64 sums of some ten terms
    assert drawn.log_posterior is None
    again = log_weights(model, x, 3, detach_posterior=detach_posterior, seed=4, row_offset=2)
    torch.testing.assert_close(again, drawn.log_weights, rtol=0.0, atol=0.0)


@dataclass(frozen=True)
class ScoreFunction(Bound):
    """ELBO whose gradient at fixed samples is that of log w plus log w times the score (Paisley et al. 2012)."""

    num_samples: int = option("samples for each example", 1, at_least=1)

    def __call__(self, model, x, *, seed=None, row_offset=0):
        drawn = draw(model, x, self.num_samples, score=True, seed=seed, row_offset=row_offset)
        score = drawn.log_posterior * drawn.log_weights.detach()
        return elbo_bound(drawn.log_weights + score - score.detach())


@pytest.mark.parametrize("learned_prior", [True, False])
def test_the_score_of_a_gaussian_encoder(learned_prior):
    """Samples are constants: the score function's gradient is unbiased, and the value is that of the same samples."""
    model, x = linear_gaussian.make(learned_prior=learned_prior)
    value, gradients = gradient_draws(ScoreFunction(2), model, x, 40_000, seed=12)
    assert_expectation(value, model.elbo(x), "value")
    for name, expected in exact_gradients(lambda leaves: leaves.elbo(x), model).items():
        assert_expectation(gradients[name], expected, name)
    rows, data = model.rows(5), x.expand(5, -1)
    scored, plain = draw(rows, data, 3, score=True, seed=1), draw(rows, data, 3, seed=1)
    torch.testing.assert_close(scored.samples, plain.samples.detach(), rtol=0.0, atol=1e-12)
    torch.testing.assert_close(scored.log_weights, plain.log_weights, rtol=0.0, atol=1e-10)
    assert not scored.samples.requires_grad


# A model that draws for itself: binary latent variables, whose bounds are sums over a few states


class Binary(nn.Module):
    """z_1, z_2 in {0, 1}; each example has its own parameters, so that a batch holds independent gradients."""

    def __init__(self, batch):
        super().__init__()
        start = torch.tensor([0.3, -0.4], dtype=torch.float64)
        self.posterior = nn.Parameter(start.expand(batch, 2).clone())
        self.prior = nn.Parameter((0.5 * start).expand(batch, 2).clone())
        self.levels = nn.Parameter(torch.tensor([0.7, -1.1], dtype=torch.float64).expand(batch, 2).clone())

    def log_ratio_parts(self, x, z):
        def bernoulli(logits):
            return (z * logits - nn.functional.softplus(logits)).sum(-1)

        likelihood = normal_log_prob(x, (self.levels * z).sum(-1, keepdim=True), torch.zeros_like(x))
        return likelihood + bernoulli(self.prior), bernoulli(self.posterior)

    def draw(self, x, num_samples, *, detach_posterior=False, seed=None, row_offset=0):
        zeros = torch.zeros_like(self.posterior)
        noise = rsample_normal(zeros, zeros, (num_samples,), seed, row_offset)
        z = (noise < torch.special.ndtri(torch.sigmoid(self.posterior.detach()))).double()
        joint, posterior = self.log_ratio_parts(x, z)
        return Draw(z, joint - (posterior.detach() if detach_posterior else posterior), posterior)

    def exact(self, x, value):
        """Sum over the states of ``value(log p(x, z), log q(z|x))``, for one sample each."""
        states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)), dtype=torch.float64)
        joint, posterior = self.log_ratio_parts(x, states.unsqueeze(1).expand(-1, len(x), -1))
        return value(joint, posterior)


def binary_elbo(joint, posterior):
    return (torch.exp(posterior) * (joint - posterior)).sum(0)


def binary_second_bound(joint, posterior):
    """E log (w_1 + w_2) / 2 over all pairs of states."""
    weights = joint - posterior
    pairs = torch.logaddexp(weights.unsqueeze(1), weights.unsqueeze(0)) - torch.log(torch.tensor(2.0))
    return (torch.exp(posterior.unsqueeze(1) + posterior.unsqueeze(0)) * pairs).sum((0, 1))


@pytest.mark.parametrize(
    ("objective", "exact"),
    [(ELBO(3, analytic_kl=False), binary_elbo), (STL(2), binary_elbo), (IWAE(2), binary_second_bound)],
    ids=("ELBO", "STL", "IWAE"),
)
def test_bounds_of_discrete_variables_are_those_of_enumeration(objective, exact):
    model, x = Binary(20_000), torch.full((20_000, 1), 0.4, dtype=torch.float64)
    value = objective(model, x, seed=3).detach()
    assert_expectation(value, model.exact(x[:1].expand(20_000, 1), exact)[:1].detach(), "value")


def test_the_score_of_discrete_variables_gives_the_gradient_of_enumeration():
    batch = 40_000
    model, x = Binary(batch), torch.full((batch, 1), 0.4, dtype=torch.float64)
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(ScoreFunction(2)(model, x, seed=5).sum(), list(parameters.values()))
    one = Binary(1)
    expected = torch.autograd.grad(one.exact(x[:1], binary_elbo).sum(), list(one.parameters()))
    for name, gradient, exact in zip(parameters, found, expected, strict=True):
        assert_expectation(gradient, exact, name)
        assert exact.abs().max() > 0.01  # there is something to estimate


class TwoLayers:
    """z_2 -> z_1 -> x, Gaussian, with the exact posterior for q: every log-weight is log p(x)."""

    def draw(self, x, num_samples, *, detach_posterior=False, seed=None, row_offset=0):
        def normal(mean, variance, seed):
            logvar = torch.full_like(mean, variance).log()
            return rsample_normal(mean, logvar, seed=seed, row_offset=row_offset)

        def density(value, mean, variance):
            return normal_log_prob(value, mean, torch.full_like(mean, variance).log())

        # Variances 1 of z_2, of z_1 given z_2, of x given z_1: x has 3, z_1 given x has mean 2x/3 and variance 2/3,
        # z_2 given z_1 has mean z_1 / 2 and variance 1/2.
        first = normal((2.0 * x / 3.0).expand(num_samples, -1, -1), 2.0 / 3.0, seed)
        second = normal(first / 2.0, 0.5, None if seed is None else seed + 1)
        joint = density(second, torch.zeros_like(second), 1.0) + density(first, second, 1.0) + density(x, first, 1.0)
        posterior = density(first, 2.0 * x / 3.0, 2.0 / 3.0) + density(second, first / 2.0, 0.5)
        return Draw([first, second], joint - posterior)


SERVED = [
    *(ELBO(3, analytic_kl=False), STL(2), IWAE(4), IWAE(1)),
    *(MIWAE(2, 3), PIWAE(2, 3), CIWAE(3, 0.3), Renyi(3, -0.5), Renyi(3, 2.0), TVO(3), TVO(3, endpoint="right")),
]


@pytest.mark.parametrize("objective", SERVED, ids=str)
def test_several_layers(objective):
    x = torch.linspace(-1.0, 2.0, 10, dtype=torch.float64).reshape(5, 2)
    exact = normal_log_prob(x, torch.zeros_like(x), torch.full_like(x, 3.0).log())
    torch.testing.assert_close(objective(TwoLayers(), x, seed=1), exact, rtol=0.0, atol=1e-10)
    bounds = stream_bounds(TwoLayers(), x, 20, chunk=7)
    torch.testing.assert_close(bounds.importance_weighted, exact, rtol=0.0, atol=1e-10)


def test_evaluation_of_a_model_without_an_encoder():
    model, x = Binary(300), torch.full((300, 1), 0.4, dtype=torch.float64)
    whole = Binary(128)  # as many as evaluate takes at a time
    model.draw = lambda x, *arguments, **options: whole_draw(whole, x, *arguments, **options)
    result = evaluate(model, x, num_samples=500)
    assert (result.images, result.active_units, result.latent_dim) == (300, None, None)
    exact = model.exact(x, binary_elbo).mean().item()
    # 300 examples of 500 draws, whose standard deviation is below 1.
    assert result.elbo == pytest.approx(exact, abs=STANDARD_ERRORS / (300 * 500) ** 0.5)
    with pytest.raises(TypeError, match="active_units: needs a model with the methods encode and log_likelihood; Bin"):
        active_units(model, x)


def whole_draw(model, x, *arguments, **options):
    """Of the first rows, where there are fewer examples than the model has parameters for."""
    part = Binary(len(x))
    part.load_state_dict({name: value[: len(x)] for name, value in model.state_dict().items()})
    return part.draw(x, *arguments, **options)


# What a model lacks, and what it returns wrongly


class Gaussian:
    def encode(self, x):
        return x, torch.zeros_like(x)

    def log_likelihood(self, x, z):
        return -z.square().sum(-1)


class GaussianThatDraws(Gaussian):
    def draw(self, x, num_samples, **_):
        return Draw(x.expand(num_samples, *x.shape), torch.full((num_samples, len(x)), -7.0))


x = torch.ones(5, 3)


def test_a_draw_of_its_own_comes_first():
    model = GaussianThatDraws()
    for objective in (ELBO(2, analytic_kl=False), STL(2), IWAE(2)):
        assert objective(model, x).tolist() == [-7.0] * 5
    assert (log_weights(model, x, 4) == -7.0).all()
    # The closed form is that of encode, whatever is drawn.
    torch.testing.assert_close(ELBO(2)(model, x, seed=0), ELBO(2)(Gaussian(), x, seed=0))


@pytest.mark.parametrize(
    ("objective", "model", "message"),
    [
        (
            ELBO(),
            Binary(5),
            "ELBO with analytic_kl=True: needs .* encode and log_likelihood; Binary lacks encode and lo",
        ),
        (DReG(2), Binary(5), "DReG: needs the samples of an encode; Binary has a draw of its own"),
        (DReG(2), GaussianThatDraws(), "DReG: needs .*; GaussianThatDraws has a draw of its own"),
        (IWAE(2, 1), Binary(5), "IWAE with backward_samples: needs .*; Binary has a draw of its own"),
        (DReG(2), types.SimpleNamespace(encode=0), "DReG: needs a model .*; SimpleNamespace lacks log_likelihood"),
        (IWAE(2), object(), "a bound on log p.x.: needs a model .*; object lacks encode and log_likelihood"),
        (STL(2), nn.Linear(2, 2), "a bound on log p.x.: needs .*; Linear lacks encode and log_likelihood"),
    ],
)
def test_what_a_model_lacks_is_one_line(objective, model, message):
    with pytest.raises(TypeError, match=message) as raised:
        objective(model, x)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("options", [{"beta": 0.5}, {"beta": torch.tensor(1.0)}, {"warm_up_steps": 3}], ids=str)
def test_a_draw_is_not_weighed_by_beta(options):
    with pytest.raises(
        ValueError,
        match="ELBO: beta must be 1 without a warm-up for Binary, whose draw gives likelihood and divergence",
    ):
        ELBO(analytic_kl=False, **options)(Binary(5), x)


good = torch.zeros(2, 5)


@pytest.mark.parametrize("objective", [ELBO(2, analytic_kl=False), STL(2), IWAE(2), ScoreFunction(2)], ids=str)
@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (good, TypeError, r"a fastvi.objectives.Draw, got one tensor of shape \(2, 5\)"),
        ((good, good, good), TypeError, "a fastvi.objectives.Draw, got a tuple of 3"),
        (None, TypeError, "a fastvi.objectives.Draw, got NoneType"),
        (Draw(good, None), TypeError, "log_weights of floating-point nats, got NoneType"),
        (Draw(good, good.long()), TypeError, "log_weights .* got a tensor of torch.int64"),
        (Draw(good, good[0]), ValueError, r"log_weights of the shape \(num_samples, batch\) = \(2, 5\), got \(5,\)"),
        (Draw(good, good.t()), ValueError, r"log_weights of the shape .* = \(2, 5\), got \(5, 2\)"),
        (Draw(good, good[:, :1]), ValueError, r"log_weights of the shape .* = \(2, 5\), got \(2, 1\)"),
        (Draw(good, good, good[0]), ValueError, r"log_posterior of the shape .* = \(2, 5\), got \(5,\)"),
        (Draw(good, good, 1.0), TypeError, "log_posterior of floating-point nats, got float"),
        (Draw([], good, good), TypeError, "samples to be a tensor, or one for each layer, got a list of 0: nothing"),
        (Draw(None, good, good), TypeError, "samples to be a tensor, or one for each layer, got NoneType"),
        (Draw([good, 3], good, good), TypeError, "one for each layer, got a list of 2: one tensor .*, int"),
        (Draw([good, good[:1]], good, good), ValueError, r"samples of the shape .* and more, got \(1, 5\)"),
    ],
)
def test_what_draw_returns_wrongly_is_named(objective, returned, error, message):
    model = types.SimpleNamespace(draw=lambda *_, **__: returned)
    with pytest.raises(error, match=rf"^SimpleNamespace\.draw: expected .*{message}") as raised:
        objective(model, x)
    assert "\n" not in str(raised.value)


def test_a_draw_without_the_score_is_no_draw_for_an_estimator_that_needs_it():
    with pytest.raises(ValueError, match=r"TwoLayers\.draw: the estimator needs the score, and the draw has no log_po"):
        ScoreFunction(2)(TwoLayers(), x)


def test_examples_of_any_structure_are_for_the_model_alone():
    model = types.SimpleNamespace(draw=lambda x, count, **_: Draw(good, good + x["shift"]))
    assert IWAE(2)(model, {"shift": torch.ones(5)}).tolist() == [1.0] * 5
