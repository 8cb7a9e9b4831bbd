"""The importance-weighted bound and its gradient estimators, exact on the linear-Gaussian model."""

import dataclasses

import pytest
import torch

from fastvi.objectives import IWAE, STL, DReG
from fastvi.objectives.importance import draw_by_weight, gradient_only
from support import linear_gaussian
from support.linear_gaussian import ENCODER, GENERATIVE, PRIOR, assert_expectation, exact_gradients, gradient_draws

ROUNDING = {"rtol": 0.0, "atol": 1e-10}
"""Float64 sums of a few terms of size 10 and less."""


@pytest.mark.parametrize("learned_prior", [True, False])
@pytest.mark.parametrize(
    "objective",
    [IWAE(2), IWAE(3), DReG(2), DReG(3), IWAE(2, backward_samples=1), IWAE(3, backward_samples=2)],
    ids=str,
)
def test_value_and_gradients_in_expectation(objective, learned_prior):
    """Against L_K and its gradients by quadrature."""
    model, x = linear_gaussian.make(latent_dim=1, learned_prior=learned_prior)
    value, gradients = gradient_draws(objective, model, x, 20_000, seed=11)
    assert_expectation(value, model.importance_bound(x, objective.num_samples), "value")
    exact = exact_gradients(lambda leaves: leaves.importance_bound(x, objective.num_samples), model)
    for name, expected in exact.items():
        assert_expectation(gradients[name], expected, name)


@pytest.mark.parametrize("objective", [DReG(5), IWAE(5, backward_samples=1), IWAE(5, backward_samples=5)], ids=str)
def test_estimators_agree_with_iwae(objective):
    """Same samples, same value; gradients that differ by noise of mean zero, if at all."""
    model, x = linear_gaussian.make()
    value, gradients = gradient_draws(objective, model, x, 20_000, seed=12)
    expected_value, expected = gradient_draws(IWAE(5), model, x, 20_000, seed=12)
    torch.testing.assert_close(value, expected_value, **ROUNDING)
    for name in expected:
        assert_expectation(gradients[name] - expected[name], 0.0, name)
    if isinstance(objective, DReG):
        for name in (*GENERATIVE, *PRIOR):
            torch.testing.assert_close(gradients[name], expected[name], **ROUNDING)


@pytest.mark.parametrize("objective", [IWAE(4), IWAE(4, backward_samples=2), DReG(4)], ids=str)
def test_exact_posterior_gives_the_evidence(objective):
    model, x = linear_gaussian.make()
    value, gradients = gradient_draws(objective, model.with_exact_posterior(), x, 10, seed=13)
    torch.testing.assert_close(value, model.log_marginal(x).expand(10), **ROUNDING)
    largest = max(gradients[name].abs().max().item() for name in ENCODER)
    if isinstance(objective, DReG):
        assert largest <= ROUNDING["atol"]
    else:
        assert largest > 0.1


def test_one_sample_of_dreg_is_sticking_the_landing():
    model, x = linear_gaussian.make()
    value, gradients = gradient_draws(DReG(1), model, x, 20, seed=14)
    expected_value, expected = gradient_draws(STL(1), model, x, 20, seed=14)
    torch.testing.assert_close(value, expected_value, **ROUNDING)
    torch.testing.assert_close(gradients, expected, **ROUNDING)


def test_dreg_with_one_prior_parameter_that_learns():
    """The prior's mean may learn while its log-variance is a constant, or is not given."""
    model, x = linear_gaussian.make()
    for prior_logvar in (None, model.prior_logvar.expand(6, -1)):
        rows = dataclasses.replace(model.rows(6), prior_logvar=prior_logvar)
        gradients = [
            torch.autograd.grad(objective(rows, x.expand(6, -1), seed=15).sum(), (rows.prior_mean, rows.weight))
            for objective in (DReG(3), IWAE(3))
        ]
        torch.testing.assert_close(gradients[0], gradients[1], **ROUNDING)


def test_dreg_with_a_frozen_encoder_trains_the_likelihood():
    model, x = linear_gaussian.make()
    rows = model.rows(6)
    for name in ENCODER:
        getattr(rows, name).requires_grad_(False)
    gradients = [
        torch.autograd.grad(objective(rows, x.expand(6, -1), seed=16).sum(), (rows.weight, rows.prior_logvar))
        for objective in (DReG(3), IWAE(3))
    ]
    torch.testing.assert_close(gradients[0], gradients[1], **ROUNDING)


class Recorder:
    """A model that notes, for each likelihood, the number of samples and whether a graph is recorded."""

    def __init__(self, model):
        self.model, self.calls = model, []
        self.prior_mean, self.prior_logvar, self.encode = model.prior_mean, model.prior_logvar, model.encode

    def log_likelihood(self, x, z):
        self.calls.append((len(z), torch.is_grad_enabled()))
        return self.model.log_likelihood(x, z)


@pytest.mark.parametrize(
    ("objective", "calls"),
    [
        (IWAE(50), [(50, True)]),
        (IWAE(50, backward_samples=3), [(50, False), (3, True)]),
        (DReG(50), [(50, True)]),
    ],
    ids=str,
)
def test_samples_that_are_differentiated(objective, calls):
    model, x = linear_gaussian.make()
    recorder = Recorder(model.rows(2))
    trained = objective(recorder, x.expand(2, -1), seed=17)
    assert recorder.calls == calls
    with torch.no_grad():
        recorder.calls.clear()
        torch.testing.assert_close(objective(recorder, x.expand(2, -1), seed=17), trained.detach(), rtol=0.0, atol=0.0)
    assert recorder.calls == [(50, False)]  # nothing to differentiate: one pass


def test_draws_follow_the_weights():
    count = 40_000
    weights = torch.tensor([0.0, 0.05, 0.6, 0.0, 0.35, 0.0], dtype=torch.float64)
    log_w = (torch.log(weights) - 700.0).unsqueeze(1).expand(-1, count)
    torch.manual_seed(18)
    index = draw_by_weight(log_w, 2, None, 0)
    assert index.shape == (2, count)
    for draw in index:
        # What has no weight is never drawn: its zeros have no standard error, and must be zeros.
        assert_expectation(torch.nn.functional.one_hot(draw, len(weights)).double(), weights, "frequencies")
    together = (index[0] == index[1]).double()
    assert_expectation(together, weights.square().sum(), "independence of the two draws")


def test_backward_samples_where_nothing_is_possible():
    """An example that no sample explains has the bound -inf, and does not spoil the gradient of its neighbour."""
    model, x = linear_gaussian.make()

    class Impossible(Recorder):
        def log_likelihood(self, x, z):
            allowed = torch.tensor([True, False])
            return torch.where(allowed, super().log_likelihood(x, z), -torch.inf)

    rows = model.rows(2)
    value = IWAE(4, backward_samples=2)(Impossible(rows), x.expand(2, -1), seed=19)
    possible, impossible = value.tolist()
    assert impossible == -torch.inf
    assert abs(possible) < 100.0
    (gradient,) = torch.autograd.grad(value.sum(), rows.weight)
    assert gradient[0].abs().min() > 0.0
    assert (gradient[1] == 0.0).all()


def test_backward_samples_of_a_scale_that_underflows():
    """exp(logvar / 2) = 0 leaves z at the mean: the gradients are those of the whole bound, not NaN."""
    model, x = linear_gaussian.make()
    model.encoder_logvar = torch.full_like(model.encoder_logvar, -2000.0)
    _, sampled = gradient_draws(IWAE(3, backward_samples=1), model, x, 4, seed=20)
    _, whole = gradient_draws(IWAE(3), model, x, 4, seed=20)
    torch.testing.assert_close(sampled, whole, rtol=0.0, atol=1e-9)


def test_gradient_only():
    x = torch.tensor([2.0, -torch.inf, torch.nan], requires_grad=True)
    result = gradient_only(3.0 * x)
    assert result.tolist() == [0.0, 0.0, 0.0]
    assert torch.autograd.grad(result.sum(), x)[0].tolist() == [3.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: IWAE(0), ValueError, "IWAE: num_samples must be at least 1, got 0"),
        (lambda: IWAE(5, 0), ValueError, "IWAE: backward_samples must be at least 1, got 0"),
        (lambda: IWAE(5, 6), ValueError, "IWAE: backward_samples must be at most num_samples = 5, got 6"),
        (lambda: IWAE(5, 1.0), TypeError, "IWAE: backward_samples must be an int, got 1.0 of type float"),
        (lambda: DReG("5"), TypeError, "DReG: num_samples must be an int, got '5' of type str"),
    ],
)
def test_bad_options(make, error, message):
    with pytest.raises(error, match=message):
        make()
