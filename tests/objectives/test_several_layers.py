"""Every estimator on two stochastic layers, exact on the linear-Gaussian chain; the errors of public code, planted."""

import dataclasses
import doctest
from pathlib import Path

import pytest
import torch
from torch.distributions import Normal

from fastvi import normal_log_prob
from fastvi.evaluate import stream_bounds
from fastvi.objectives import ELBO, IWAE, STL, Draw, DReG, call_detached, draw, iwae_bound, log_weights, sample_layer
from support import gaussian_chain, linear_gaussian
from support.gaussian_chain import ENCODER, GENERATIVE, GaussianChain
from support.linear_gaussian import assert_expectation, exact_gradients, gradient_draws

ROUNDING = {"rtol": 0.0, "atol": 1e-10}
"""Float64 sums of a few terms of size 10 and less."""
SAMPLED_ELBO = ELBO(2, analytic_kl=False)


# The errors of public code, planted


class HookOnEachSample(GaussianChain):
    """What acts on the gradient at z1 lies on the way to z2 as well: the lower layer is weighed twice."""

    def draw(self, x, num_samples, *, detach_posterior=False, seed=None, row_offset=0, path=None):
        through = (lambda z: z) if path is None else path
        z1 = through(sample_layer(*self.first(x), num_samples, seed=seed, row_offset=row_offset))
        z2 = through(sample_layer(*self.second(z1), num_samples, 1, seed=seed, row_offset=row_offset))
        q = self.map(torch.Tensor.detach) if detach_posterior else self
        return Draw([z1, z2], self.log_joint(x, z1, z2) - q.log_posterior(x, z1, z2))


def hooking(num_samples):
    """DReG without the checks of :func:`fastvi.objectives.draw`: a hook wherever the model lets it have one."""

    def objective(model, x, seed):
        def path(z):
            z = z.view_as(z)
            z.register_hook(lambda gradient: gradient * weights.unsqueeze(-1))
            return z

        drawn = model.draw(x, num_samples, detach_posterior=True, seed=seed, path=path)
        weights = torch.softmax(drawn.log_weights.detach(), 0)
        return iwae_bound(drawn.log_weights)

    return objective


class ClosedPath(GaussianChain):
    """The parameters of q(z2|z1) are detached where the network's are meant: the way through z1 is closed."""

    def draw(self, x, num_samples, *, detach_posterior=False, seed=None, row_offset=0, path=None):
        z1 = sample_layer(*self.first(x), num_samples, seed=seed, row_offset=row_offset)
        z2 = sample_layer(*self.second(z1), num_samples, 1, seed=seed, row_offset=row_offset)
        samples = [z1, z2] if path is None else [path(z1), path(z2)]
        q = self.map(torch.Tensor.detach) if detach_posterior else self
        log_q1 = normal_log_prob(samples[0], *q.first(x))
        log_q2 = normal_log_prob(samples[1], *q.second(samples[0].detach() if detach_posterior else samples[0]))
        return Draw(samples, self.log_joint(x, *samples) - log_q1 - log_q2)


def as_kind(kind, model):
    return kind(**model.parameters())


# Expectations


@pytest.mark.parametrize(
    "objective",
    [SAMPLED_ELBO, STL(2), IWAE(2), IWAE(2, backward_samples=1), IWAE(2, backward_samples=2), DReG(2)],
    ids=str,
)
def test_value_and_gradients_in_expectation(objective):
    """40,000 draws of layers of one variable each, against L_1 in closed form and L_2 by quadrature."""
    model, x = gaussian_chain.make(latent_dim=1)
    exact = GaussianChain.second_bound if isinstance(objective, (IWAE, DReG)) else GaussianChain.elbo
    value, gradients = gradient_draws(objective, model, x, 40_000, seed=41)
    assert_expectation(value, exact(model, x), "value")
    for name, expected in exact_gradients(lambda leaves: exact(leaves, x), model).items():
        assert_expectation(gradients[name], expected, name)


@pytest.mark.parametrize("objective", [SAMPLED_ELBO, ELBO(2, analytic_kl=False, beta=0.4), STL(2)], ids=str)
def test_the_evidence_lower_bound_of_more_variables(objective):
    model, x = gaussian_chain.make()
    beta = getattr(objective, "beta", 1.0)
    value, gradients = gradient_draws(objective, model, x, 40_000, seed=42)
    assert_expectation(value, model.elbo(x, beta), "value")
    for name, expected in exact_gradients(lambda leaves: leaves.elbo(x, beta), model).items():
        assert_expectation(gradients[name], expected, name)


@pytest.mark.parametrize("objective", [DReG(5), IWAE(5, backward_samples=1), IWAE(5, backward_samples=5)], ids=str)
def test_estimators_agree_with_iwae(objective):
    """Same samples, same value; gradients that differ by noise of mean zero, and DReG's for the model not at all."""
    model, x = gaussian_chain.make()
    value, gradients = gradient_draws(objective, model, x, 20_000, seed=43)
    expected_value, expected = gradient_draws(IWAE(5), model, x, 20_000, seed=43)
    torch.testing.assert_close(value, expected_value, **ROUNDING)
    for name in expected:
        assert_expectation(gradients[name] - expected[name], 0.0, name)
    if isinstance(objective, DReG):
        torch.testing.assert_close(
            {name: gradients[name] for name in GENERATIVE}, {name: expected[name] for name in GENERATIVE}, **ROUNDING
        )


@pytest.mark.parametrize("kind", [HookOnEachSample, ClosedPath])
def test_the_planted_errors_are_found(kind):
    """By the two tests above: the lower layer's gradient is another one in expectation."""
    model, x = gaussian_chain.make(latent_dim=1)
    expected = exact_gradients(lambda leaves: leaves.second_bound(x), model)
    _, wrong = gradient_draws(hooking(2), as_kind(kind, model), x, 40_000, seed=41)
    model, x = gaussian_chain.make()
    _, plain = gradient_draws(IWAE(5), model, x, 20_000, seed=43)
    _, wrong_of_five = gradient_draws(hooking(5), as_kind(kind, model), x, 20_000, seed=43)
    for name in ("first_weight", "first_bias", "first_logvar"):
        with pytest.raises(AssertionError, match="standard errors"):
            assert_expectation(wrong[name], expected[name], name)
    for name in ("first_weight", "first_bias"):
        with pytest.raises(AssertionError, match="standard errors"):
            assert_expectation(wrong_of_five[name] - plain[name], 0.0, name)


def test_the_planted_errors_are_all_that_is_wrong_with_them():
    """The estimator that they were found with is DReG where the model is right."""
    model, x = gaussian_chain.make()
    found = gradient_draws(hooking(5), model, x, 30, seed=43)
    torch.testing.assert_close(found, gradient_draws(DReG(5), model, x, 30, seed=43), **ROUNDING)


def test_bounds_rise_with_the_number_of_samples():
    """L_1 <= L_2 <= log p exactly; and L_1 <= L_2 <= L_5 <= L_20 <= log p as the means of 40,000 draws have it."""
    model, x = gaussian_chain.make(latent_dim=1)
    bounds = [model.elbo(x).item(), model.second_bound(x).item(), model.log_marginal(x).item()]
    assert bounds == sorted(bounds)
    assert bounds[0] < bounds[1] - 0.01
    rows, data = model.rows(40_000), x.expand(40_000, -1)
    with torch.no_grad():
        means = [IWAE(count)(rows, data, seed=44).mean().item() for count in (1, 2, 5, 20)]
    # The gaps are hundreds of standard errors wide, below 0.005 for each mean.
    assert [*means, bounds[2]] == sorted([*means, bounds[2]])


# Identities of each draw


def path_gradients(leaves, x, num_samples, seed):
    """d log w_k / d phi along the path of each sample, with q's parameters constant in log q: a list of K dicts.

    In plain PyTorch: z1 and z2 are the samples of ``draw``, their noise recovered from them.
    """
    with torch.no_grad():
        z1, z2 = draw(leaves, x, num_samples, seed=seed).samples
        noise = []
        for z, (mean, logvar) in ((z1, leaves.first(x)), (z2, leaves.second(z1))):
            noise.append((z - mean) * torch.exp(-0.5 * logvar))
    found = []
    fixed = leaves.map(torch.Tensor.detach)

    def density(z, mean, logvar):
        return Normal(mean, torch.exp(0.5 * logvar)).log_prob(z).sum(-1)

    for k in range(num_samples):
        mean, logvar = leaves.first(x)
        z1 = mean + torch.exp(0.5 * logvar) * noise[0][k]
        mean, logvar = leaves.second(z1)
        z2 = mean + torch.exp(0.5 * logvar) * noise[1][k]
        log_q = density(z1, *fixed.first(x)) + density(z2, *fixed.second(z1))
        log_w = fixed.log_joint(x, z1, z2) - log_q
        gradients = torch.autograd.grad(log_w.sum(), [getattr(leaves, name) for name in ENCODER])
        found.append(dict(zip(ENCODER, gradients, strict=True)))
    return found


def weighted(weights, gradients, name):
    """sum_k of weights[k] gradients[k], example by example."""
    return sum(
        weight.reshape(-1, *(1,) * (each[name].dim() - 1)) * each[name]
        for weight, each in zip(weights, gradients, strict=True)
    )


def test_sticking_the_landing_is_dreg_and_the_wake_phase():
    """w = w^2 + (w - w^2): for L_K, STL's gradient of the encoder is DReG's and that of wake-phi in its path form."""
    count, num_samples = 50, 4
    model, x = gaussian_chain.make()
    leaves, data = model.rows(count), x.expand(count, -1)
    each = path_gradients(leaves, data, num_samples, seed=45)
    with torch.no_grad():
        weights = torch.softmax(log_weights(leaves, data, num_samples, seed=45), 0)

    def sticking(model, x, seed):
        return iwae_bound(log_weights(model, x, num_samples, detach_posterior=True, seed=seed))

    _, landing = gradient_draws(sticking, model, x, count, seed=45)
    _, doubly = gradient_draws(DReG(num_samples), model, x, count, seed=45)
    _, averaged = gradient_draws(STL(num_samples), model, x, count, seed=45)
    for name in ENCODER:
        torch.testing.assert_close(landing[name], weighted(weights, each, name), **ROUNDING)
        torch.testing.assert_close(doubly[name], weighted(weights.square(), each, name), **ROUNDING)
        wake = weighted(weights - weights.square(), each, name)
        torch.testing.assert_close(landing[name], doubly[name] + wake, **ROUNDING)
        torch.testing.assert_close(averaged[name], weighted(torch.full_like(weights, 0.25), each, name), **ROUNDING)
        assert wake.abs().max() > 1e-3
    for kind in (HookOnEachSample, ClosedPath):
        _, wrong = gradient_draws(hooking(num_samples), as_kind(kind, model), x, count, seed=45)
        assert (wrong["first_bias"] - doubly["first_bias"]).abs().max() > 1e-3


def test_the_wake_phase_in_its_path_form_is_that_of_its_score():
    """E sum_k (w - w^2) d log w_k / d phi along the path = E sum_k w d log q(z_k|x) / d phi at fixed samples."""
    count, num_samples = 20_000, 3
    model, x = gaussian_chain.make()
    leaves, data = model.rows(count), x.expand(count, -1)
    each = path_gradients(leaves, data, num_samples, seed=46)
    with torch.no_grad():
        drawn = draw(leaves, data, num_samples, seed=46)
        weights = torch.softmax(drawn.log_weights, 0)
    total = (weights * leaves.log_posterior(data, *drawn.samples)).sum()
    scores = torch.autograd.grad(total, [getattr(leaves, name) for name in ENCODER])
    for name, score in zip(ENCODER, scores, strict=True):
        assert_expectation(weighted(weights - weights.square(), each, name) - score, 0.0, name)


@pytest.mark.parametrize("objective", [SAMPLED_ELBO, STL(3), IWAE(4), IWAE(4, backward_samples=2), DReG(4)], ids=str)
def test_the_exact_posterior(objective):
    """Every value is log p(x); the path derivatives of the encoder are zero in every draw, the others are not."""
    model, x = gaussian_chain.make()
    value, gradients = gradient_draws(objective, model.with_exact_posterior(), x, 10, seed=47)
    torch.testing.assert_close(value, model.log_marginal(x).expand(10), **ROUNDING)
    largest = max(gradients[name].abs().max().item() for name in ENCODER)
    if isinstance(objective, (STL, DReG)):
        assert largest <= ROUNDING["atol"]
    else:
        assert largest > 0.1


@pytest.mark.parametrize("objective", [STL(3), DReG(4)], ids=str)
def test_a_closed_path_does_not_land(objective):
    """Where log q(z2|z1) loses the way through z1, the gradient at the exact posterior keeps its noise."""
    model, x = gaussian_chain.make()
    _, gradients = gradient_draws(objective, as_kind(ClosedPath, model.with_exact_posterior()), x, 10, seed=47)
    assert max(gradients[name].abs().max().item() for name in ENCODER) > 0.01


def test_one_sample_of_dreg_is_sticking_the_landing():
    model, x = gaussian_chain.make()
    found = gradient_draws(DReG(1), model, x, 20, seed=48)
    torch.testing.assert_close(found, gradient_draws(STL(1), model, x, 20, seed=48), **ROUNDING)


@pytest.mark.parametrize("objective", [SAMPLED_ELBO, IWAE(3)], ids=str)
@pytest.mark.parametrize("name", [*ENCODER, "middle_weight", "weight"])
def test_gradients_against_finite_differences(objective, name):
    """With common noise, in a fixed direction of each parameter."""
    model, x = gaussian_chain.make()
    _, gradients = gradient_draws(objective, model, x, 3, seed=49)
    value = getattr(model, name)
    direction = torch.linspace(-1.0, 1.5, value.numel(), dtype=torch.float64).reshape(value.shape)
    step = 1e-5
    ends = [
        gradient_draws(objective, dataclasses.replace(model, **{name: value + sign * step * direction}), x, 3, seed=49)
        for sign in (1.0, -1.0)
    ]
    slope = (ends[0][0] - ends[1][0]) / (2.0 * step)
    # A central difference errs by the third derivative times 1e-10, and the rounding of 1e-15 over the step.
    torch.testing.assert_close((gradients[name] * direction).flatten(1).sum(-1), slope, rtol=0.0, atol=1e-8)


# The protocol


class OneLayer(linear_gaussian.LinearGaussian):
    """A Gaussian encoder that draws for itself."""

    def draw(self, x, num_samples, *, detach_posterior=False, seed=None, row_offset=0, path=None):
        plain = linear_gaussian.LinearGaussian(**self.parameters())
        options = {"detach_posterior": detach_posterior, "seed": seed, "row_offset": row_offset}
        return draw(plain, x, num_samples, path=(lambda z: z.clone()) if path is None else path, **options)


@pytest.mark.parametrize("objective", [STL(3), DReG(4), IWAE(4, backward_samples=2)], ids=str)
def test_one_layer_that_is_drawn_is_the_gaussian_encoder(objective):
    """The general way and the fused one are the same estimator, draw by draw."""
    model, x = linear_gaussian.make()
    found = gradient_draws(objective, OneLayer(**model.parameters()), x, 30, seed=50)
    torch.testing.assert_close(found, gradient_draws(objective, model, x, 30, seed=50), **ROUNDING)


@pytest.mark.parametrize("objective", [SAMPLED_ELBO, STL(3), IWAE(4), IWAE(4, backward_samples=2), DReG(4)], ids=str)
def test_a_shard_is_what_it_was_in_the_whole(objective):
    model, x = gaussian_chain.make()
    whole, data = model.rows(7), x + torch.linspace(-1.0, 1.0, 7, dtype=torch.float64).unsqueeze(1)

    def result(leaves, x, **options):
        value = objective(leaves, x, seed=51, **options)
        return value.detach(), torch.autograd.grad(value.sum(), tuple(leaves.parameters().values()))

    value, gradients = result(whole, data)
    assert len(set(value.tolist())) == 7
    for rows in (slice(0, 3), slice(3, 7)):
        shard = whole.map(lambda leaf, rows=rows: leaf.detach()[rows].clone().requires_grad_())
        found = result(shard, data[rows], row_offset=rows.start)
        expected = value[rows], tuple(gradient[rows] for gradient in gradients)
        torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-12)  # matrix products may sum in another order


# Dynamo itself makes an instance of autograd.Function, and warns of it, when it traces one (PyTorch 2.13).
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    ("objective", "seed"), [(STL(3), 52), (IWAE(3, backward_samples=2), None), (DReG(3), None)], ids=str
)
def test_compiled_whole(objective, seed):
    model, x = gaussian_chain.make()
    torch._dynamo.reset()
    compiled = torch.compile(objective, backend="aot_eager", fullgraph=True)
    found, expected = [], []
    for results, call in ((found, compiled), (expected, objective)):
        torch.manual_seed(54)
        results.extend(gradient_draws(call, model, x, 6, seed=seed))
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-12)  # another order of float64 operations


@pytest.mark.parametrize("objective", [SAMPLED_ELBO, STL(3), IWAE(4, backward_samples=2), DReG(4)], ids=str)
def test_functional_gradient(objective):
    """torch.func.grad, in which tensors are wrapped, gives the gradients of autograd."""
    model, x = gaussian_chain.make()

    def total(parameters):
        return objective(GaussianChain(**parameters), x, seed=58).sum()

    found = torch.func.grad(total)(model.parameters())
    _, expected = gradient_draws(objective, model, x, 1, seed=58)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-12)  # another order of sums


def test_layers_of_one_seed_are_independent_standard_normals():
    """20,000 samples of 2 x 3 numbers a layer: means, variances and all products across layers."""
    zeros = torch.zeros(2, 3, dtype=torch.float64)
    first = sample_layer(zeros, zeros, 20_000, seed=55)
    second = sample_layer(torch.zeros_like(first), torch.zeros_like(first), 20_000, 1, seed=55)
    third = sample_layer(zeros, zeros, 20_000, 2, seed=55)
    layers = torch.stack([first, second, third], 1).flatten(1)
    products = layers.unsqueeze(-1) * layers.unsqueeze(-2)
    assert_expectation(layers, 0.0, "means")
    assert_expectation(products, torch.eye(18, dtype=torch.float64), "covariance")


def test_parameters_of_every_sample_or_of_all_give_the_same_noise():
    mean, logvar = torch.randn(5, 3, dtype=torch.float64), torch.full((5, 3), -1.0, dtype=torch.float64)
    shared = sample_layer(mean, logvar, 4, 1, seed=56, row_offset=2)
    own = sample_layer(mean.expand(4, 5, 3), logvar, 4, 1, seed=56, row_offset=2)
    torch.testing.assert_close(own, shared, rtol=0.0, atol=1e-14)


def test_call_detached_leaves_the_module_as_it_is():
    network, z = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh()), torch.ones(4, 3, requires_grad=True)
    result = call_detached(network, z)
    torch.testing.assert_close(result, network(z), rtol=0.0, atol=0.0)
    result.sum().backward()
    assert z.grad.abs().sum() > 0.0
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_streamed_bounds_reach_the_evidence():
    model, x = gaussian_chain.make()
    bounds = stream_bounds(model.map(lambda value: value.expand(2, *value.shape[1:])), x.expand(2, -1), 20_000)
    # Weights of finite variance: an error of some 1 / sqrt(20,000).
    torch.testing.assert_close(bounds.importance_weighted, model.log_marginal(x).expand(2), rtol=0.0, atol=0.05)


def test_a_warm_up_of_the_divergence():
    model, x = gaussian_chain.make()
    warmed = ELBO(2, analytic_kl=False, warm_up_steps=10)
    drawn = draw(model, x, 2, seed=57)
    for step, beta in ((0, 0.0), (4, 0.4), (10, 1.0)):
        expected = (model.log_likelihood(x, drawn.samples[0]) + beta * drawn.log_ratio).mean(0)
        torch.testing.assert_close(warmed.at_step(step)(model, x, seed=57), expected, **ROUNDING)
    tensor = ELBO(2, analytic_kl=False, beta=torch.tensor(0.4, dtype=torch.float64))
    torch.testing.assert_close(tensor(model, x, seed=57), warmed.at_step(4)(model, x, seed=57), **ROUNDING)


# The documentation


def test_documentation_page():
    page = Path(__file__).parents[2] / "docs" / "bounds" / "several-layers.md"
    results = doctest.testfile(str(page), module_relative=False)
    assert results.attempted > 0
    assert results.failed == 0


# What a model lacks


class WithoutRatio(GaussianChain):
    def draw(self, x, num_samples, **options):
        return super().draw(x, num_samples, **options)._replace(log_ratio=None)


class Discrete:
    def draw(self, x, num_samples, *, detach_posterior=False, seed=None, row_offset=0, path=None):
        zeros = torch.zeros(num_samples, len(x))
        return Draw(zeros if path is None else path(zeros), zeros, zeros)


class Forgetful(GaussianChain):
    def draw(self, x, num_samples, *, detach_posterior=False, seed=None, row_offset=0, path=None):
        return super().draw(x, num_samples, detach_posterior=detach_posterior, seed=seed, row_offset=row_offset)


class WithoutPath(GaussianChain):
    def draw(self, x, num_samples, **options):
        return super().draw(x, num_samples, **options)


@pytest.mark.parametrize(
    ("objective", "kind", "error", "message"),
    [
        (
            DReG(2),
            WithoutPath,
            TypeError,
            "DReG: needs the samples of an encode; WithoutPath has a draw of its",
        ),
        (IWAE(2, 1), WithoutPath, TypeError, "IWAE with backward_samples: needs .* without the argument path"),
        (
            ELBO(2, analytic_kl=False, beta=0.5),
            WithoutRatio,
            ValueError,
            "WithoutRatio.draw: expected a log_ratio for ELBO to weigh by beta=0.5, got None",
        ),
        (
            DReG(2),
            HookOnEachSample,
            ValueError,
            "HookOnEachSample.draw: expected each layer to be sampled from the samples of the layer before",
        ),
        (
            IWAE(2, 2),
            HookOnEachSample,
            ValueError,
            r"HookOnEachSample.draw: .* samples of shape \(2, 1, 2\) that were made of what path returned",
        ),
        (DReG(2), Forgetful, ValueError, "Forgetful.draw: expected samples to be what path returned for each layer"),
        (IWAE(2, 1), Forgetful, ValueError, "Forgetful.draw: expected samples to be what path returned for each"),
    ],
)
def test_a_draw_that_does_not_serve_the_estimator(objective, kind, error, message):
    model, x = gaussian_chain.make()
    with pytest.raises(error, match=message) as raised:
        objective(as_kind(kind, model.rows(1)), x)
    assert "\n" not in str(raised.value)


def test_samples_without_a_path_derivative_are_refused():
    with pytest.raises(ValueError, match=r"DReG: needs samples that are reparameterised in all layers; Discrete\.draw"):
        DReG(2)(Discrete(), torch.ones(5, 3))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (torch.zeros(4, 5, 2), torch.zeros(2), 3),
            ValueError,
            r"shape \(batch, .* or \(3, batch.* \(4, 5, 2\) and \(2,",
        ),
        ((torch.zeros(2), torch.zeros(2), 3), ValueError, r"sample_layer: mean and logvar .* got \(2,\) and \(2,\)"),
        ((torch.zeros(5, 2), torch.zeros(5, 2), 3, -1), ValueError, "sample_layer: layer must be at least 0, got -1"),
        ((torch.zeros(5, 2), torch.zeros(5, 2), 3, 1 << 13), ValueError, "sample_layer: layer must be below 8192"),
        ((torch.zeros(5, 2), torch.zeros(5, 2), 3, 1.0), TypeError, "sample_layer: layer must be an int, got 1.0"),
    ],
)
def test_wrong_arguments_of_sample_layer(arguments, error, message):
    with pytest.raises(error, match=message):
        sample_layer(*arguments)
