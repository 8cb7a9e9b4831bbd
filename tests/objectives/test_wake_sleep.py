"""Reweighted wake-sleep: expectations over all draws, over all that the model makes up, and per example."""

import itertools
import math
import types

import pytest
import torch
from torch import nn

from fastvi import importance_weights, rsample_normal
from fastvi.objectives import Draw, ReweightedWakeSleep, draw, iwae_bound
from fastvi.objectives.importance import gradient_only
from support import discrete, linear_gaussian
from support.discrete import DATA, KINDS, assert_same_gradients, exact_bound, expectation, gradients
from support.linear_gaussian import assert_expectation, exact_gradients, gradient_draws


def is_of_q(name):
    return name.startswith("encoder")


def wake_gradients(model, num_samples, x=DATA):
    """E sum_k w_k d log p in p's parameters, E sum_k w_k d log q in q's, over every draw."""
    joint, posterior, probability = discrete.log_weights_of(model, x, num_samples)
    weights = torch.softmax((joint - posterior).detach(), 1)
    of_p, of_q = (
        gradients((probability.detach() * (weights * part).sum(1)).sum(), model) for part in (joint, posterior)
    )
    return {name: (of_q if is_of_q(name) else of_p)[name] for name in of_p}


# The wake phases


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_samples", [2, 3])
def test_the_wake_phases_are_those_of_enumeration(kind, num_samples):
    model = discrete.make(kind)
    value, found = expectation(ReweightedWakeSleep(num_samples), model, num_samples)
    torch.testing.assert_close(value, exact_bound(model, DATA, num_samples).detach(), rtol=0.0, atol=1e-12)
    expected = wake_gradients(model, num_samples)
    assert_same_gradients(found, expected)
    # For p it is the gradient of L_K: log p(x, z) is all that has p's parameters.
    of_bound = gradients(exact_bound(model, DATA, num_samples).sum(), model)
    for name in (name for name in expected if not is_of_q(name)):
        torch.testing.assert_close(found[name], of_bound[name], rtol=0.0, atol=1e-12)


def test_the_bias_goes_as_one_over_the_number_of_samples():
    """Against d log p(x) and the posterior's E d log q, which K to infinity gives."""
    model = discrete.make("small")
    with torch.no_grad():  # a q near enough to the posterior that eight samples are many
        for parameter in model.parameters():
            parameter.mul_(0.5)
    joint, posterior = discrete.table(model, DATA[:1])
    exact_posterior = torch.softmax(joint.detach(), 0)
    of_p = gradients(torch.logsumexp(joint, 0).sum(), model)
    of_q = gradients((exact_posterior * posterior).sum(), model)
    for limit, parameters in ((of_p, "decoder"), (of_q, "encoder")):
        bias = []
        for num_samples in (2, 4, 6):
            found = wake_gradients(model, num_samples, DATA[:1])
            distances = [(found[name] - limit[name]).flatten() for name in limit if name.startswith(parameters)]
            bias.append(num_samples * torch.cat(distances).norm().item())
        # K times the bias goes to a constant: the steps of its logarithm shrink to what no slower law has.
        steps = [math.log(later / sooner) for sooner, later in itertools.pairwise(bias)]
        assert abs(steps[1]) < min(0.1, abs(steps[0])), (parameters, bias)


# The sleep phase


def made_up(model):
    """Every (z, x) of the model: samples, data, and probabilities."""
    configurations, data = discrete.configurations(model), discrete.every_bits(3)
    count = len(configurations[0])
    samples = tuple(states.repeat(len(data), *(1,) * (states.dim() - 1)).unsqueeze(0) for states in configurations)
    rows = data.repeat_interleave(count, 0)
    probability = discrete.table(model, data)[0].exp().t().flatten()
    return samples, rows, probability.detach()


@pytest.mark.parametrize("kind", KINDS)
def test_the_sleep_phase_is_that_of_enumeration(kind):
    model = discrete.make(kind)
    samples, rows, probability = made_up(model)
    assert probability.sum().item() == pytest.approx(1.0, abs=1e-12)
    model.made_up = samples, rows
    # Draws of the wake phase do not matter: their own gradient is taken off.
    model.chosen = tuple(states.expand(2, *states.shape[1:]) for states in samples)
    total = probability * ReweightedWakeSleep(2, wake_phi=False, sleep_phi=True)(model, rows, seed=0)
    joint, posterior = discrete.table(model, discrete.every_bits(3))
    expected = gradients((joint.detach().exp() * posterior).sum(), model)
    found = gradients(total.sum(), model)
    assert_same_gradients(
        {name: found[name] for name in found if is_of_q(name)},
        {name: expected[name] for name in expected if is_of_q(name)},
    )
    both = gradients((probability * ReweightedWakeSleep(2, sleep_phi=True)(model, rows, seed=0)).sum(), model)
    awake = gradients((probability * ReweightedWakeSleep(2)(model, rows, seed=0)).sum(), model)
    assert_same_gradients(
        {name: awake[name] + found[name] for name in found if is_of_q(name)},
        {name: both[name] for name in found if is_of_q(name)},
    )
    # Nothing of what was made up trains p.
    assert_same_gradients(*({name: part[name] for name in found if not is_of_q(name)} for part in (both, awake)))


class Dreaming(linear_gaussian.LinearGaussian):
    """A Gaussian encoder is enough for log q."""

    def sample_prior_and_data(self, x, *, seed=None, row_offset=0):
        prior_mean, prior_logvar = self._prior()
        z = rsample_normal(prior_mean, prior_logvar, (1,), seed, row_offset)
        mean = self.bias + torch.einsum("bdz,kbz->kbd", self.weight, z)[0]
        return z, rsample_normal(mean, self.noise_logvar.expand_as(mean), (), seed + 1, row_offset)


def expected_log_posterior(model):
    """E log q(z|x) under p(x, z), in closed form: z has mean m and variance v, x given z the mean W z + b."""
    prior_mean, prior_logvar = (part.detach() for part in model._prior())
    variance, weight, bias = prior_logvar.exp(), model.weight.detach(), model.bias.detach()
    a, c, logvar = model.encoder_weight, model.encoder_bias, model.encoder_logvar
    through = torch.eye(weight.shape[-1], dtype=weight.dtype) - a @ weight  # z - A x - c = (I - A W) z - A noise - ...
    mean = torch.einsum("bzy,by->bz", through, prior_mean) - torch.einsum("bzd,bd->bz", a, bias) - c
    noise = model.noise_logvar.detach().exp() * a.square().sum(-1)
    square = mean.square() + (through.square() * variance.unsqueeze(-2)).sum(-1) + noise
    return -0.5 * (square * torch.exp(-logvar) + logvar + linear_gaussian.LOG_TWO_PI).sum(-1)


def test_gaussian_encoders_sleep():
    model, x = linear_gaussian.make()
    model = Dreaming(**model.parameters())
    _, found = gradient_draws(ReweightedWakeSleep(2, wake_phi=False, sleep_phi=True), model, x, 20_000, seed=8)
    expected = exact_gradients(expected_log_posterior, model)
    for name in linear_gaussian.ENCODER:
        assert expected[name].abs().max() > 0.05
        assert_expectation(found[name], expected[name], name)


def test_gaussian_encoders_wake():
    """The gradient in p's parameters is that of L_K; a q that is the posterior has weights of one, hence no drift."""
    model, x = linear_gaussian.make(latent_dim=1)
    _, found = gradient_draws(ReweightedWakeSleep(3), model, x, 20_000, seed=9)
    expected = exact_gradients(lambda leaves: leaves.importance_bound(x, 3), model)
    for name in (*linear_gaussian.GENERATIVE, *linear_gaussian.PRIOR):
        assert_expectation(found[name], expected[name], name)
    _, found = gradient_draws(ReweightedWakeSleep(3), model.with_exact_posterior(), x, 20_000, seed=10)
    for name in linear_gaussian.ENCODER:
        assert_expectation(found[name], torch.zeros_like(found[name][0]), name)


# Mistakes of public code, planted


def weights_of_the_batch(model, x, *, seed=None):
    """Log-weights summed over the batch before they are normalised."""
    drawn = draw(model, x, 3, detach_posterior=True, score=True, seed=seed)
    weights = importance_weights(drawn.log_weights.detach().sum(1), 0).unsqueeze(1)
    return iwae_bound(drawn.log_weights) + gradient_only((weights * drawn.log_posterior).sum(0))


def weighed_value(model, x, *, seed=None):
    """sum_k w_k log w_k for a value."""
    log_weights = draw(model, x, 3, detach_posterior=True, score=True, seed=seed).log_weights
    return (importance_weights(log_weights.detach(), 0) * log_weights).sum(0)


def posterior_inside(model, x, *, seed=None):
    """log q not held constant inside log w: wake-phi cancels."""
    drawn = draw(model, x, 3, score=True, seed=seed)
    weights = importance_weights(drawn.log_weights.detach(), 0)
    return iwae_bound(drawn.log_weights) + gradient_only((weights * drawn.log_posterior).sum(0))


def batch_and_parts(objective):
    """Gradient of a batch of three, and the sum of its examples' own, for one and the same draw."""
    model = discrete.make("two layers")
    generator = torch.Generator().manual_seed(11)
    x = torch.rand(3, 3, dtype=torch.float64, generator=generator)
    chosen = [(torch.rand(3, 3, size, generator=generator) < 0.5).double() for size in (2, 1)]
    model.chosen = tuple(chosen)
    whole = gradients(objective(model, x, seed=0).sum(), model)
    parts = []
    for row in range(3):
        model.chosen = tuple(states[:, row : row + 1] for states in chosen)
        parts.append(gradients(objective(model, x[row : row + 1], seed=0).sum(), model))
    return whole, {name: sum(part[name] for part in parts) for name in whole}


def test_the_gradient_of_a_batch_is_the_sum_of_its_examples():
    whole, parts = batch_and_parts(ReweightedWakeSleep(3))
    assert_same_gradients(whole, parts)
    whole, parts = batch_and_parts(weights_of_the_batch)
    assert (whole["encoder.0.bias"] - parts["encoder.0.bias"]).abs().max() > 1e-3


def test_the_value_is_the_bound_and_no_more():
    model = discrete.make("two layers")
    exact = exact_bound(model, DATA, 3).detach()
    assert (expectation(ReweightedWakeSleep(3), model, 3)[0] - exact).abs().max() < 1e-12
    assert (expectation(weighed_value, model, 3)[0] - exact).min() > 1e-2


def test_a_posterior_inside_the_weights_is_found():
    model = discrete.make("two layers")
    expected = wake_gradients(model, 3)
    found = expectation(posterior_inside, model, 3)[1]
    assert (found["encoder.0.bias"] - expected["encoder.0.bias"]).abs().max() > 1e-2


# Options and models


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 1}, "ReweightedWakeSleep: num_samples must be at least 2 with wake_phi=True, got 1"),
        ({"num_samples": 0, "wake_phi": False, "sleep_phi": True}, "num_samples must be at least 1, got 0"),
        ({"num_samples": 2, "wake_phi": False}, "wake_phi or sleep_phi must be True, else nothing trains the encoder"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        ReweightedWakeSleep(**options)


def drawing(**members):
    good = torch.zeros(2, 4)
    return types.SimpleNamespace(draw=lambda *_, **__: Draw(good, good, good), **members)


def giving(result, log_posterior=None):
    return drawing(sample_prior_and_data=lambda x, **_: result, log_posterior=lambda x, z: log_posterior)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (
            drawing(),
            TypeError,
            "ReweightedWakeSleep with sleep_phi=True: needs a model with the methods sample_prior_and_data and "
            "log_posterior; SimpleNamespace lacks sample_prior_and_data and log_posterior",
        ),
        (drawing(sample_prior_and_data=0), TypeError, "SimpleNamespace lacks log_posterior"),
        (
            linear_gaussian.make()[0],
            TypeError,
            "the methods sample_prior_and_data; LinearGaussian lacks sample_prior_a",
        ),
        (nn.Linear(1, 1), TypeError, "needs a model with the methods encode and log_likelihood; Linear lacks"),
        (giving(None), TypeError, r"sample_prior_and_data: expected a pair \(samples, examples\), got NoneType"),
        (giving((0, 0), 1.0), ValueError, r"log_posterior: expected log q of the shape .* = \(1, 4\) .*, got float"),
        (giving((0, 0), torch.zeros(4)), ValueError, r"got one tensor of shape \(4,\)"),
    ],
)
def test_what_the_sleep_phase_lacks_is_one_line(model, error, message):
    with pytest.raises(error, match=message) as raised:
        ReweightedWakeSleep(2, sleep_phi=True)(model, torch.zeros(4, 3))
    assert "\n" not in str(raised.value)
