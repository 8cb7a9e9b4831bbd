"""VIMCO and the score function: their expectations over all draws of discrete variables are the exact gradients."""

import dataclasses
import doctest
import math
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from fastvi import log_mean_exp, normal_log_prob, rsample_normal
from fastvi.objectives import IWAE, VIMCO, Bound, Draw, ReweightedWakeSleep, ScoreFunction, draw, iwae_bound
from fastvi.objectives.importance import gradient_only
from support import discrete, linear_gaussian
from support.discrete import DATA, KINDS, assert_same_gradients, exact_bound, expectation, gradients
from support.linear_gaussian import assert_expectation, exact_gradients, gradient_draws

MEANS = ("geometric", "arithmetic")
SCORES = [
    ScoreFunction(1, "constant"),
    ScoreFunction(2, "constant", -2.5),
    ScoreFunction(2),
    ScoreFunction(3),
    ScoreFunction(3, "control-variate"),
    ScoreFunction(2, "network"),
]


def differs(found, expected, least=1e-3):
    return max((found[name] - expected[name]).abs().max().item() for name in expected) > least


# Expectations over every draw


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("num_samples", [2, 3])
def test_vimco_is_unbiased(kind, mean, num_samples):
    model = discrete.make(kind)
    exact = exact_bound(model, DATA, num_samples)
    value, found = expectation(VIMCO(num_samples, mean), model, num_samples)
    torch.testing.assert_close(value, exact.detach(), rtol=0.0, atol=1e-12)
    assert_same_gradients(found, gradients(exact.sum(), model))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("objective", SCORES, ids=str)
def test_the_score_function_is_unbiased(kind, objective):
    model = discrete.make(kind, baseline_dims=(3,))
    exact = exact_bound(model, DATA, 1)
    value, found = expectation(objective, model, objective.num_samples)
    torch.testing.assert_close(value, exact.detach(), rtol=0.0, atol=1e-12)
    expected = gradients(exact.sum(), model)
    of_network = {name: expected.pop(name) for name in list(expected) if name.startswith("baseline")}
    assert_same_gradients(found, expected)
    assert any(found[name].any() for name in of_network) == (objective.baseline == "network")


def test_the_baseline_network_learns_by_squared_error():
    """Its gradient, for ascent, is that of -E (log w - b)^2 / 2; no other parameter has one from it."""
    model = discrete.make("two layers", baseline_dims=(3,))
    joint, posterior, probability = discrete.log_weights_of(model, DATA, 1)
    error = (joint - posterior).squeeze(1).detach() - model.baseline(DATA)
    expected = gradients(-0.5 * (probability.detach() * error.square()).sum(), model)
    _, found = expectation(ScoreFunction(1, "network"), model, 1)
    for name in (name for name in expected if name.startswith("baseline")):
        torch.testing.assert_close(found[name], expected[name], rtol=0.0, atol=1e-12)
        assert expected[name].any()


# Mistakes of public code and their like, planted


@dataclasses.dataclass(frozen=True)
class Mistaken(Bound):
    """VIMCO or the leave-one-out score function, with a mistake."""

    mistake: str = "none"
    num_samples: int = 2

    def __call__(self, model, x, *, seed=None, row_offset=0):
        drawn = draw(model, x, self.num_samples, detach_posterior=self.mistake == "posterior", score=True, seed=seed)
        bound = iwae_bound(drawn.log_weights)
        weights = drawn.log_weights.detach()
        total = torch.logsumexp(weights, 0)
        rest = torch.log(torch.exp(total) - torch.exp(weights)) - math.log(self.num_samples - 1)
        if self.mistake == "own sample":  # in the baseline
            rest = iwae_bound(weights).expand_as(weights) * 0.5 + weights * 0.5
        if self.mistake == "axis":  # others of the batch instead of other samples
            rest = log_mean_exp(weights, 1).unsqueeze(1).expand_as(weights)
            rest = rest + (weights - weights.mean(1, keepdim=True))
        signal = bound.detach() - rest
        if self.mistake == "score left out":
            return bound
        if self.mistake == "attached":
            signal = bound - rest
        return bound + gradient_only((signal * drawn.log_posterior).sum(0))


@pytest.mark.parametrize(
    ("mistake", "found"),
    [("none", False), *((name, True) for name in ("own sample", "axis", "posterior", "score left out", "attached"))],
)
def test_mistakes_in_vimco_are_found(mistake, found):
    model = discrete.make("two layers")
    exact = gradients(exact_bound(model, DATA, 2).sum(), model)
    assert differs(expectation(Mistaken(mistake), model, 2)[1], exact) == found


def own_mean(model, x, seed=None):
    """The leave-one-out baseline with the sample itself in the mean."""
    drawn = draw(model, x, 3, detach_posterior=True, score=True, seed=seed)
    weights = drawn.log_weights.detach()
    signal = weights - weights.mean(0)
    return drawn.log_weights.mean(0) + gradient_only((signal * drawn.log_posterior).mean(0))


def control_kept(model, x, seed=None):
    """A control variate of which nothing is given back."""
    drawn = draw(model, x, 3, detach_posterior=True, score=True, seed=seed)
    values, _ = model.control_variate(x, drawn.samples)
    signal = drawn.log_weights.detach() - values
    return drawn.log_weights.mean(0) + gradient_only((signal * drawn.log_posterior).mean(0))


@pytest.mark.parametrize("mistaken", [own_mean, control_kept])
def test_mistakes_in_the_score_function_are_found(mistaken):
    model = discrete.make("two layers")
    exact = gradients(exact_bound(model, DATA, 1).sum(), model)
    assert differs(expectation(mistaken, model, 3)[1], exact)


def test_values_of_an_example_are_its_own():
    """[K, B] with K != B: each column's gradient is that of the example alone."""
    model = discrete.make("two layers", baseline_dims=(3,))
    x = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(4)
    chosen = [(torch.rand(3, 5, 2, generator=generator) < 0.5).double(), torch.ones(3, 5, 1, dtype=torch.float64)]
    estimators = [*(VIMCO(3, mean) for mean in MEANS), *(dataclasses.replace(each, num_samples=3) for each in SCORES)]
    for objective in [*estimators, ReweightedWakeSleep(3)]:
        model.chosen = tuple(chosen)
        whole = objective(model, x, seed=0)
        for row in range(5):
            model.chosen = tuple(states[:, row : row + 1] for states in chosen)
            alone = objective(model, x[row : row + 1], seed=0)
            torch.testing.assert_close(whole[row], alone[0], rtol=0.0, atol=1e-12)
            model.chosen = tuple(chosen)
            assert_same_gradients(gradients(objective(model, x, seed=0)[row], model), gradients(alone[0], model))


# Variances, exact too


def test_variances():
    """The best constant baseline is E f s^2 / E s^2; leaving one out has less noise than no baseline."""
    model = discrete.make("one layer", baseline_dims=(3,))
    parameters = [model.encoder[0].bias]
    joint, posterior, probability = (part.detach() for part in discrete.log_weights_of(model, DATA[:1], 1))
    (states,) = discrete.configurations(model)
    square = (states - torch.sigmoid(model.encoder[0](DATA[:1])).detach()).square().sum(-1)  # of the score
    mass = probability.squeeze(-1) * square
    best = float((mass * (joint - posterior).flatten()).sum() / mass.sum())

    def moment(objective):
        return float(discrete.second_moments(objective, model, objective.num_samples, parameters))

    at_best = moment(ScoreFunction(1, "constant", best))
    for shift in (-0.5, 0.5):
        further = moment(ScoreFunction(1, "constant", best + shift))
        assert further - at_best == pytest.approx(0.25 * float(mass.sum()), abs=1e-12)  # a parabola
    assert moment(ScoreFunction(3)) < moment(ScoreFunction(3, "constant"))


def nearly_linear():
    """A model whose log p(x, z) is nearly linear in z: the Taylor polynomial says nearly all."""
    model = discrete.make("one layer")
    with torch.no_grad():
        model.decoder[0].weight.mul_(0.2)
    return model


def test_the_control_variate_takes_what_is_linear():
    model = nearly_linear()
    moments = [
        float(discrete.second_moments(objective, model, 3, [model.encoder[0].bias]))
        for objective in (ScoreFunction(3, "control-variate"), ScoreFunction(3))
    ]
    squared_mean = float(gradients(exact_bound(model, DATA[:1], 1).sum(), model)["encoder.0.bias"].square().sum())
    assert moments[0] - squared_mean < 0.75 * (moments[1] - squared_mean)


# Gaussian samples


def test_gaussian_samples_in_vimco():
    model, x = linear_gaussian.make(latent_dim=1)
    for mean in MEANS:
        value, found = gradient_draws(VIMCO(3, mean), model, x, 20_000, seed=5)
        assert_expectation(value, model.importance_bound(x, 3), "value")
        for name, expected in exact_gradients(lambda leaves: leaves.importance_bound(x, 3), model).items():
            assert_expectation(found[name], expected, name)


@pytest.mark.parametrize(
    "objective", [ScoreFunction(2), ScoreFunction(1, "constant", -6.0), ScoreFunction(4, "control-variate")], ids=str
)
def test_gaussian_samples_in_the_score_function(objective):
    model, x = linear_gaussian.make()
    value, found = gradient_draws(objective, model, x, 20_000, seed=6)
    assert_expectation(value, model.elbo(x), "value")
    for name, expected in exact_gradients(lambda leaves: leaves.elbo(x), model).items():
        assert_expectation(found[name], expected, name)


def both_counted(model, x, *, seed=None):
    """The score function on samples that carry a gradient themselves: path and score."""
    mean, logvar = model.encode(x)
    z = rsample_normal(mean, logvar, 2, seed)
    prior = normal_log_prob(z, model.prior_mean, model.prior_logvar)
    weights = model.log_likelihood(x, z) + prior - normal_log_prob(z, mean, logvar)
    return (weights + gradient_only(weights.detach() * normal_log_prob(z.detach(), mean, logvar))).mean(0)


def test_path_and_score_counted_both_is_found():
    model, x = linear_gaussian.make()
    _, found = gradient_draws(both_counted, model, x, 20_000, seed=7)
    expected = exact_gradients(lambda leaves: leaves.elbo(x), model)
    with pytest.raises(AssertionError, match="standard errors"):
        assert_expectation(found["encoder_bias"], expected["encoder_bias"], "encoder_bias")


# Extremes


class SetWeights(nn.Module):
    """Its log-weights and scores are parameters."""

    def __init__(self, log_weights):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(log_weights).unsqueeze(1))
        self.scores = nn.Parameter(torch.zeros_like(self.weights))

    def draw(self, x, num_samples, **_):
        return Draw(torch.zeros_like(self.weights), self.weights + 0.0, self.scores + 0.0)


ESTIMATORS = [*(VIMCO(3, mean) for mean in MEANS), ScoreFunction(3), ReweightedWakeSleep(3)]


@pytest.mark.parametrize("objective", ESTIMATORS, ids=str)
@pytest.mark.parametrize("large", [2000.0, -2000.0])
def test_weights_far_from_one(objective, large):
    """The maximum is taken off before the exponential: signals are those of weights that are shifted by 2000 nats."""
    found = []
    for shift in (0.0, large):
        model = SetWeights([0.5 + shift, -1.0 + shift, 0.25 + shift])
        value = objective(model, torch.zeros(1, 1), seed=0)
        assert value.isfinite().all()
        value.sum().backward()
        found.append((value.detach() - shift, model.scores.grad, model.weights.grad))
    torch.testing.assert_close(found[1], found[0], rtol=0.0, atol=5e-4)  # float32 beside 2000


def naive(model, x, seed=None):
    weights = torch.exp(model.draw(x, 3).log_weights)
    return torch.log(weights.mean(0))


@pytest.mark.parametrize("large", [2000.0, -2000.0])
def test_the_exponential_of_large_weights_is_found(large):
    assert not naive(SetWeights([large, large, large]), None).isfinite().all()


@pytest.mark.parametrize("objective", ESTIMATORS, ids=str)
@pytest.mark.parametrize("weights", [[-math.inf, 0.5, 1.0], [-math.inf, -math.inf, 1.0], [-math.inf] * 3], ids=str)
def test_impossible_samples_leave_gradients_finite(objective, weights):
    model = SetWeights(weights)
    value = objective(model, torch.zeros(1, 1))
    value.sum().backward()
    assert not value.isnan().any()
    assert model.scores.grad.isfinite().all()


@pytest.mark.parametrize("objective", ESTIMATORS, ids=str)
def test_nan_flows_into_the_value(objective):
    model = SetWeights([math.nan, 0.5, 1.0])
    assert objective(model, torch.zeros(1, 1)).isnan().all()


# Options and models


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: VIMCO(1), ValueError, "VIMCO: num_samples must be at least 2, got 1"),
        (lambda: VIMCO(2, "harmonic"), ValueError, "VIMCO: mean must be one of geometric, arithmetic, got 'harmonic'"),
        (lambda: ScoreFunction(1), ValueError, "num_samples must be at least 2 for baseline='leave-one-out', got 1"),
        (lambda: ScoreFunction(2, "control-variate"), ValueError, "at least 3 for baseline='control-variate', got 2"),
        (lambda: ScoreFunction(2, "mean"), ValueError, "baseline must be one of constant, leave-one-out, control-var"),
        (lambda: ScoreFunction(2, baseline_value=-1.0), ValueError, "baseline_value=-1.0 needs baseline='constant'"),
        (lambda: ScoreFunction(2, "constant", math.inf), ValueError, "baseline_value must be finite, got inf"),
    ],
)
def test_options_that_cannot_be(make, error, message):
    with pytest.raises(error, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


def drawing(**members):
    good = torch.zeros(3, 2)
    return types.SimpleNamespace(draw=lambda *_, **__: Draw(good, good, good), **members)


@pytest.mark.parametrize(
    ("baseline", "model", "error", "message"),
    [
        (
            "network",
            drawing(),
            TypeError,
            "ScoreFunction with baseline='network': needs a model with a network baseline",
        ),
        ("network", discrete.make("small"), TypeError, "SetNetwork has none .*where baseline_dims is given"),
        (
            "network",
            drawing(baseline=lambda x: 1.0),
            TypeError,
            r"SimpleNamespace.baseline: expected the shape .*float",
        ),
        ("network", drawing(baseline=lambda x: x), ValueError, r"\(batch,\) = \(2,\), got \(2, 5\)"),
        ("control-variate", drawing(), TypeError, "needs a model with the method control_variate; SimpleNamespace has"),
        ("control-variate", nn.Linear(1, 1), TypeError, "needs a model with the methods encode and log_likelihood"),
        (
            "control-variate",
            drawing(control_variate=lambda x, z: z),
            TypeError,
            r"control_variate: expected two tensors of the shape .* = \(3, 2\), got one tensor of shape \(3, 2\)",
        ),
        (
            "control-variate",
            drawing(control_variate=lambda x, z: (z, z[0])),
            ValueError,
            "got a tuple of 2: one tensor",
        ),
    ],
)
def test_what_a_baseline_lacks_is_one_line(baseline, model, error, message):
    with pytest.raises(error, match=message) as raised:
        ScoreFunction(3, baseline)(model, torch.zeros(2, 5))
    assert "\n" not in str(raised.value)


def test_values_are_those_of_iwae_and_of_the_mean():
    model, x = linear_gaussian.make()
    model, x = model.rows(4), x.expand(4, -1)
    for objective in (VIMCO(5), ReweightedWakeSleep(5)):
        torch.testing.assert_close(objective(model, x, seed=1), IWAE(5)(model, x, seed=1), rtol=0.0, atol=1e-12)


def test_documentation_page():
    page = Path(__file__).parents[2] / "docs" / "bounds" / "discrete.md"
    results = doctest.testfile(str(page), module_relative=False)
    assert results.attempted > 0
    assert results.failed == 0
