"""Annealed importance sampling: weights whose mean is the normaliser, closed forms on Gaussians, planted mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Laplace, MultivariateNormal, Normal

from fastvi.distributions import DiagNormal
from fastvi.mcmc import (
    AnnealedWeights,
    Annealing,
    annealed_importance_sampling,
    bidirectional_monte_carlo,
    chain_normals,
    tune_annealing,
)
from fastvi.mcmc import annealing as annealing_module
from fastvi.mcmc.ais import pilot_transitions
from fastvi.mcmc.paths import GeometricPath, equal_steps, interpolate, linear_schedule, sigmoidal_schedule
from support.annealing import STANDARD_ERRORS, deviation

START = DiagNormal(torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
MEAN, LOGVAR = torch.tensor([1.0, -0.5]).double(), torch.tensor([-1.0, 0.5]).double()
LOG_Z = 3.0


def log_target(z: Tensor) -> Tensor:
    """Log density of N(MEAN, exp(LOGVAR)) times exp(LOG_Z)."""
    return DiagNormal(MEAN, LOGVAR).log_prob(z) + LOG_Z


def assert_unbiased(found: AnnealedWeights, log_z: float) -> None:
    sign = -1.0 if found.is_reverse else 1.0
    assert deviation((sign * (found.log_weights - log_z)).exp()) < STANDARD_ERRORS


# Schedules


def test_schedules() -> None:
    """Of Grosse, Ancell and Roy 2016, and equal steps."""
    torch.testing.assert_close(linear_schedule(4), torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]).double())
    schedule, radius = sigmoidal_schedule(10, 3.0), 3.0
    logits = [radius * (2.0 * t / 10 - 1.0) for t in range(11)]
    values = [1.0 / (1.0 + math.exp(-each)) for each in logits]
    expected = [(value - values[0]) / (values[-1] - values[0]) for value in values]
    torch.testing.assert_close(schedule, torch.tensor(expected).double())
    assert schedule[0] == 0.0
    assert schedule[-1] == 1.0


def test_equal_steps_keep_the_spread_of_the_weights_constant() -> None:
    """From N(0, 1) to N(0, 1 / L) the spread is |L - 1| / (sqrt(2) l), l = 1 - beta + beta L the precision, so that its
    integral is proportional to log l; a tenth of the way is that of beta."""
    fine = linear_schedule(20_000)
    precisions = torch.tensor([50.0, 0.1], dtype=torch.float64)
    spreads = (precisions - 1.0).abs() / (
        math.sqrt(2.0) * torch.lerp(torch.ones(2).double(), precisions, fine[:-1, None])
    )
    found = equal_steps(fine, spreads, 7)
    travelled = torch.log(1.0 + found * (precisions - 1.0)) / precisions.log()
    # The trapezoids' error on 20,000 steps.
    torch.testing.assert_close(
        0.9 * travelled + 0.1 * found, linear_schedule(7)[:, None].expand(-1, 2), atol=1e-5, rtol=0.0
    )


def test_equal_steps_of_spreads_that_tell_nothing_are_equal() -> None:
    spreads = torch.tensor([[math.nan], [0.0], [math.inf], [0.0]])
    torch.testing.assert_close(equal_steps(linear_schedule(4), spreads, 5)[:, 0], linear_schedule(5))


def test_interpolation() -> None:
    places = torch.tensor([[0.0, 1.0], [1.0, 2.0], [3.0, 4.0]]).double()
    values = torch.tensor([[0.0, 5.0], [2.0, 6.0], [4.0, 8.0]]).double()
    found = interpolate(places, values, torch.tensor([-1.0, 0.5, 1.0, 2.0, 9.0]).double())
    torch.testing.assert_close(found.T, torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 5.0, 6.0, 8.0]]).double())


# Weights


def test_a_single_step_is_importance_sampling() -> None:
    found = Annealing(log_target, START, torch.tensor([0.0, 1.0]), 0.1).forward(100, seed=3)
    expected = log_target(found.position) - START.log_prob(found.position)
    torch.testing.assert_close(found.log_weights, expected)
    assert found.acceptance.shape == (0,)


def moments_path(z: Tensor, beta: Tensor) -> Tensor:
    """Gaussians whose mean and log-variance lie on lines, with constants that cancel."""
    weight = beta.unsqueeze(-1)
    return -0.5 * ((z - weight * MEAN).square() * torch.exp(-weight * LOGVAR)).sum(-1) + 7.0 * beta


STARTS = {
    "diagonal": START,
    "full": MultivariateNormal(torch.zeros(2).double(), torch.tensor([[1.0, 0.5], [0.5, 1.0]]).double()),
    "laplace": Independent(Laplace(torch.zeros(2).double(), torch.ones(2).double()), 1),
    "normal": Independent(Normal(torch.zeros(2).double(), torch.ones(2).double()), 1),
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("between", [None, moments_path])
def test_the_mean_weight_is_the_normaliser(start: str, between: Any) -> None:
    """For few temperatures, from every start, on every path, with step sizes that a pilot run chose."""
    found = annealed_importance_sampling(
        log_target, STARTS[start], num_chains=4000, num_temperatures=5, between=between, seed=4
    )
    assert_unbiased(found, LOG_Z)
    assert abs(float(found.log_normalizer) - LOG_Z) < STANDARD_ERRORS * float(found.standard_error)


@pytest.mark.parametrize("schedule", ["linear", "sigmoidal", "adaptive", torch.tensor([0.0, 0.3, 0.3, 1.0])])
@pytest.mark.parametrize("step_size", [None, 1.5])
def test_schedules_and_step_sizes_leave_the_mean_as_it_is(schedule: Any, step_size: float | None) -> None:
    """A step size of 1.5 rejects much."""
    tuned = tune_annealing(
        log_target, START, num_temperatures=3, schedule=schedule, step_size=step_size, num_steps=2, seed=1
    )
    found = tuned.forward(8000, seed=2)
    assert_unbiased(found, LOG_Z)
    if step_size is not None:
        assert float(found.acceptance.min()) < 0.9


def test_between_normalised_gaussians_the_logarithm_is_zero() -> None:
    """P problems at once, of which each has its own schedule, step sizes and answer."""
    means, logvars = torch.linspace(-2.0, 2.0, 8).double().view(4, 2), torch.linspace(-3.0, 1.0, 8).double().view(4, 2)

    def log_targets(z: Tensor) -> Tensor:
        by_problem = z.view(4, -1, 2).transpose(0, 1)
        return DiagNormal(means, logvars).log_prob(by_problem).T.reshape(-1)

    start = DiagNormal(torch.zeros(4, 2).double(), torch.zeros(4, 2).double())
    found = annealed_importance_sampling(log_targets, start, num_chains=200, num_temperatures=100, seed=0)
    assert found.log_weights.shape == (4, 200)
    assert found.acceptance.shape == (99, 4)
    assert found.position.shape == (4, 200, 2)
    assert bool((found.standard_error < 0.1).all())
    assert bool((found.log_normalizer.abs() < STANDARD_ERRORS * found.standard_error).all())
    # The chains end as draws of the targets, all but exact ones here: 200 of them, with weights that differ little.
    assert bool(((found.position.mean(1) - means).abs() < 0.6 * torch.exp(0.5 * logvars)).all())
    assert bool(((found.acceptance.mean(0) - 0.8).abs() < 0.1).all())


def gaussian_at(beta: float) -> tuple[Tensor, Tensor]:
    """Mean and precision of the geometric path from START to the target."""
    precision = 1.0 - beta + beta * torch.exp(-LOGVAR)
    return beta * torch.exp(-LOGVAR) * MEAN / precision, precision


def divergence(first: float, second: float) -> float:
    """KL of the path's Gaussians at two inverse temperatures."""
    (m0, l0), (m1, l1) = gaussian_at(first), gaussian_at(second)
    return float(0.5 * (l1 / l0 + (m1 - m0).square() * l1 - 1.0 - torch.log(l1 / l0)).sum())


class PerfectPath(GeometricPath):
    """Transitions that draw anew from the density at the temperature."""

    def transition(self, place, beta, step_size, num_steps, seed, first_chain):
        mean, precision = gaussian_at(float(beta[0]))
        info = super().transition(place, beta, step_size, num_steps, seed, first_chain)[1]
        return self.at(mean + chain_normals(seed + 1, first_chain, 2, place.position) * precision.rsqrt(), beta), info


def test_with_perfect_transitions_the_mean_of_log_w_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """log Z less the divergences to the next density; in reverse log Z and those to the one before."""
    monkeypatch.setattr(annealing_module, "GeometricPath", PerfectPath)
    schedule = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0]).double()
    pairs = list(zip(schedule[:-1].tolist(), schedule[1:].tolist(), strict=True))
    annealing = Annealing(log_target, START, schedule, 0.1, num_steps=1)
    forward = annealing.forward(20_000, seed=0).log_weights
    assert deviation(forward, LOG_Z - sum(divergence(*pair) for pair in pairs)) < STANDARD_ERRORS
    exact = DiagNormal(MEAN, LOGVAR).rsample((20_000,), seed=1)
    backward = annealing.reverse(exact, seed=0).log_weights
    assert deviation(backward, LOG_Z + sum(divergence(b, a) for a, b in pairs)) < STANDARD_ERRORS


def test_reverse_weights() -> None:
    """E 1/w = 1/Z from exact draws, one for each chain; T - 1 transitions in the same order of temperatures."""
    annealing = tune_annealing(log_target, START, num_temperatures=6, seed=0)
    found = annealing.reverse(DiagNormal(MEAN, LOGVAR).rsample((8000,), seed=5), seed=1)
    assert_unbiased(found, LOG_Z)
    assert found.is_reverse
    assert found.acceptance.shape == (5,)
    torch.testing.assert_close(found.acceptance, annealing.forward(8000, seed=2).acceptance, atol=0.1, rtol=0.0)


def test_both_ends_enclose_the_normaliser() -> None:
    found = bidirectional_monte_carlo(
        log_target, START, DiagNormal(MEAN, LOGVAR).rsample((), seed=1), num_temperatures=200, seed=0
    )
    # At most e^-7 = 0.001 for either.
    assert float(found.forward.log_normalizer) < LOG_Z + 7.0
    assert float(found.reverse.log_normalizer) > LOG_Z - 7.0
    assert abs(float(found.gap)) < 1.0


def test_figures_of_weights() -> None:
    log_weights = torch.tensor([[0.0, 1.0, -2.0], [5.0, 5.0, 5.0]]).double()
    for is_reverse in (False, True):
        w = (-log_weights if is_reverse else log_weights).exp()
        found = AnnealedWeights(log_weights, torch.zeros(0, 2), torch.zeros(2, 3, 1), is_reverse)
        torch.testing.assert_close(found.log_normalizer, w.mean(1).log() * (-1.0 if is_reverse else 1.0))
        torch.testing.assert_close(found.effective_sample_size, w.sum(1).square() / w.square().sum(1))
        torch.testing.assert_close(found.standard_error, w.std(1) / w.mean(1) / 3**0.5, atol=1e-7, rtol=1e-7)
    assert bool(
        AnnealedWeights(log_weights[:, :1], torch.zeros(0, 2), torch.zeros(2, 1, 1)).standard_error.isnan().all()
    )


@pytest.mark.parametrize("nothing", [-math.inf, math.nan])
@pytest.mark.parametrize("between", [None, lambda z, beta: -0.5 * z.square().sum(-1) + torch.zeros_like(beta)])
def test_chains_where_the_target_has_no_density_weigh_nothing(nothing: float, between: Any) -> None:
    """Half of a normalised Gaussian: Z = 1 / 2."""

    def half(z: Tensor) -> Tensor:
        return torch.where(z[:, 0] > 0.0, START.log_prob(z), nothing * torch.ones_like(z[:, 0]))

    found = Annealing(half, START, linear_schedule(5), 0.5, 3, between).forward(5000, seed=0)
    assert deviation(found.log_weights.exp(), 0.5) < STANDARD_ERRORS
    assert bool((found.log_weights == -math.inf).any())


def test_noise_is_that_of_the_seed_and_the_problem() -> None:
    start = DiagNormal(torch.zeros(5, 2).double(), torch.zeros(5, 2).double())
    part = DiagNormal(torch.zeros(2, 2).double(), torch.zeros(2, 2).double())
    options: dict[str, Any] = {"num_chains": 3, "num_temperatures": 10}
    whole = annealed_importance_sampling(log_target, start, seed=1, **options)
    shard = annealed_importance_sampling(log_target, part, seed=1, row_offset=3, **options)
    torch.testing.assert_close(shard.log_weights, whole.log_weights[3:], rtol=1e-12, atol=1e-12)
    other = annealed_importance_sampling(log_target, start, seed=2, **options)
    assert not bool((other.log_weights == whole.log_weights).any())
    torch.manual_seed(0)
    first = annealed_importance_sampling(log_target, start, **options)
    torch.manual_seed(0)
    assert torch.equal(first.log_weights, annealed_importance_sampling(log_target, start, **options).log_weights)
    assert not torch.equal(first.log_weights, annealed_importance_sampling(log_target, start, **options).log_weights)


def test_steps_are_counted() -> None:
    calls: list[None] = []
    annealed_importance_sampling(log_target, START, num_temperatures=12, seed=0, on_step=lambda: calls.append(None))
    assert len(calls) == pilot_transitions(12) + 11


def test_a_gradient_is_taken_once_for_each_leapfrog() -> None:
    """And once for the place where a run begins, where the densities are looked at, too."""
    calls: list[int] = []

    def counted(z: Tensor) -> Tensor:
        calls.append(len(z))
        return log_target(z)

    annealing = Annealing(counted, START, linear_schedule(9), 0.5, num_steps=4)
    annealing.forward(3, seed=0)
    assert calls == [3] * (8 * 4 + 2)


# What is refused


def tune(**options: Any) -> Annealing:
    return tune_annealing(log_target, START, **options)


def frozen(schedule: Any, step_size: Any = 0.1, target: Callable[[Tensor], Any] = log_target) -> Annealing:
    return Annealing(target, START, schedule, step_size)


def estimate(target: Any, start: Any = START) -> AnnealedWeights:
    return annealed_importance_sampling(target, start, seed=0)


LINE = linear_schedule(3)
MIXTURE = torch.distributions.MixtureSameFamily(
    torch.distributions.Categorical(torch.ones(2)), Independent(Normal(torch.zeros(2, 2), 1.0), 1)
)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tune(num_temperatures=0), ValueError, "num_temperatures must be at least 1"),
        (lambda: tune(num_steps=1.5), TypeError, "num_steps must be an int, got 1.5"),
        (lambda: tune(schedule="cubic"), ValueError, "linear, sigmoidal, adaptive"),
        (lambda: tune(target_acceptance=1.0), ValueError, "between 0 and 1, got 1.0"),
        (lambda: tune(num_pilot_chains=1), ValueError, "num_pilot_chains must be at least 2"),
        (lambda: tune(step_size=-1.0, schedule="linear"), ValueError, "step_sizes must be positive"),
        (lambda: estimate(log_target, torch.zeros(2)), TypeError, "start must be a torch.distributions.Distribution"),
        (lambda: estimate(log_target, Normal(0.0, 1.0)), ValueError, r"got Normal with \(\) and \(\)"),
        (lambda: estimate(log_target, MIXTURE), TypeError, "start: cannot draw a MixtureSameFamily by a seed"),
        (lambda: frozen(torch.tensor([0.0, 0.5])), ValueError, "must rise from 0 to 1"),
        (lambda: frozen(torch.tensor([0.0, 0.6, 0.5, 1.0])), ValueError, "must rise from 0 to 1"),
        (lambda: frozen([0.0, 1.0]), TypeError, "must be a tensor, got list"),
        (lambda: frozen(torch.zeros(3, 2)), ValueError, r"\(T \+ 1, 1\), got \(3, 2\)"),
        (lambda: frozen(LINE, torch.ones(3)), ValueError, r"\(2,\) or \(2, 1\), got \(3,\)"),
        (lambda: frozen(LINE).forward(0), ValueError, "num_chains must be at least 1"),
        (lambda: frozen(LINE).reverse(torch.zeros(3)), ValueError, r"\(2,\), or \('C', 2\), got \(3,\)"),
        (
            lambda: frozen(LINE, target=lambda z: torch.log(z[:, 0])).reverse(-torch.ones(2).double()),
            ValueError,
            "give exact draws of the target",
        ),
        (
            lambda: estimate(lambda z: torch.log(z[:, 0] - 99.0)),
            ValueError,
            "no finite log density where its chains start: take a start that covers the target",
        ),
        (lambda: estimate(lambda z: z), ValueError, "must have the shape"),
        (lambda: estimate(lambda z: z.detach().sum(-1)), ValueError, "has no gradient"),
        (lambda: estimate(Wrong()), ValueError, "no proposal was accepted.*is the gradient that of the log density"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


class Wrong:
    """A gradient that is not finite."""

    is_target = True

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(z[:, 0]), torch.full_like(z, math.nan)
