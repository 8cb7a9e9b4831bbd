"""The chains that are timed: their targets, the effective draws, and BlackJAX's chains where it is installed."""

from __future__ import annotations

import io
import math
from functools import partial
from importlib.util import find_spec

import pytest
import torch
from rich.console import Console
from torch import Tensor

from fastvi.benchmarks import harness, mcmc, report
from fastvi.benchmarks.effective_draws import effective_draws, least_effective_draws
from fastvi.benchmarks.results import BLACKJAX, EAGER, FASTVI, GEMMS, JAX, Result, Sampling, Timing

needs_jax = pytest.mark.skipif(find_spec("jax") is None, reason="JAX is not installed")
needs_blackjax = pytest.mark.skipif(find_spec("blackjax") is None, reason="BlackJAX is not installed")
SMALL = {"logistic": partial(mcmc.logistic, 60, 3, 8), "gaussian": partial(mcmc.gaussian, 4, 8)}
PROBLEMS = pytest.mark.parametrize("make", SMALL.values(), ids=SMALL.keys())


def autoregression(coefficient: float, num_draws: int, num_chains: int) -> Tensor:
    """Stationary chains x_t = a x_(t-1) + noise of variance 1: (1 - a) / (1 + a) effective draws for each draw."""
    noise = torch.randn(num_draws, num_chains, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = [noise[0] / math.sqrt(1.0 - coefficient**2)]
    for each in noise[1:]:
        draws.append(coefficient * draws[-1] + each)
    return torch.stack(draws)


@pytest.mark.parametrize("coefficient", [0.9, 0.5, 0.0, -0.5])
def test_effective_draws_are_those_of_an_autoregression(coefficient: float) -> None:
    draws = autoregression(coefficient, 2000, 32)
    expected = 2000 * 32 * (1.0 - coefficient) / (1.0 + coefficient)
    assert effective_draws(draws).item() == pytest.approx(expected, rel=0.1)


def test_squares_count_and_chains_apart_are_seen() -> None:
    draws = torch.cat([autoregression(0.9, 1000, 16), autoregression(0.0, 1000, 16)], -1)
    # Squares of an autoregression have the autocorrelations a^2k: more effective draws than the values here.
    assert least_effective_draws(draws) == pytest.approx(1000 * 16 * 0.1 / 1.9, rel=0.2)
    antithetic = autoregression(-0.9, 1000, 16)
    assert least_effective_draws(antithetic) == pytest.approx(1000 * 16 * 0.19 / 1.81, rel=0.2)
    apart = autoregression(0.0, 1000, 16)
    apart[:, 0] += 10.0
    assert effective_draws(apart).item() < 100


@PROBLEMS
def test_a_call_draws_what_the_steps_say(make: mcmc.SomeProblem) -> None:
    for num_steps in (3, None):
        workload = mcmc.chains_case("small", make, num_steps, 30, 32, (1, 2), 8).prepare("8 transitions", False)
        workload.check()
        assert list(workload.calls) == [FASTVI]
        draws, steps = workload.calls[FASTVI]()  # type: ignore[misc]  # a call may return anything
        assert draws.shape == (8, 8, make().start.shape[1])
        assert draws.isfinite().all()
        sampling = workload.sampling[FASTVI]
        assert sampling.gradients == steps * 8
        assert num_steps is None or 8 * 0.5 * num_steps <= steps <= 8 * 1.5 * num_steps  # they go up and down
        assert 0.0 < sampling.per_gradient < 10.0


def test_a_trajectory_is_that_of_plain_pytorch() -> None:
    workload = mcmc.leapfrog_case("small", SMALL["logistic"]).prepare("10 steps", False)
    workload.check()
    assert list(workload.calls) == [EAGER, FASTVI, GEMMS]
    for call in workload.calls.values():
        call()


def test_a_wrong_target_is_refused() -> None:
    problem = mcmc.logistic(60, 3, 8)
    wrong = mcmc.Problem(
        problem.target, problem.start, problem.jax_log_density, lambda q: (problem.plain(q)[0], 2.0 * q), problem.weight
    )
    workload = mcmc.chains_case("small", lambda: wrong, 3, 10, 8, (1,), 4).prepare("4 transitions", False)
    with pytest.raises(AssertionError, match="gradient"):
        workload.check()


def test_chains_of_another_density_are_refused() -> None:
    ours, theirs = autoregression(0.5, 500, 16), autoregression(0.5, 500, 16) * 1.2 + 0.3
    mcmc.check_moments("same", ours, ours.flip(0))
    with pytest.raises(AssertionError, match="other: moment 1"):
        mcmc.check_moments("other", ours, theirs)


def test_the_spread_is_that_of_the_runs() -> None:
    runs = [(autoregression(0.5, 200, 8), 100), (autoregression(0.5, 200, 8), 50)]
    sampling = mcmc.sampling_of(runs, 40)
    rates = [least_effective_draws(draws) / (steps * 8) for draws, steps in runs]
    assert sampling.gradients == 320.0
    assert sampling.per_gradient == pytest.approx(sum(rates) / 2)
    assert sampling.spread == pytest.approx(math.sqrt(2.0) / 3.0)  # rates of 1 and 2: deviation 1/sqrt 2, mean 3/2


def test_the_table_shows_effective_draws_and_their_ratios() -> None:
    timing = Timing(1e-3, 1e-3, 1e-3, 1e-3, calls_per_block=1, peak_bytes=0)
    slow = Timing(4e-3, 4e-3, 4e-3, 4e-3, calls_per_block=1, peak_bytes=None)
    sampling = {FASTVI: Sampling(20.0, 1000.0, 0.05), BLACKJAX: Sampling(10.0, 2000.0, 0.1)}
    result = Result("mcmc", "c", "m", 2, None, 1e9, {FASTVI: timing, BLACKJAX: slow}, sampling=sampling)
    assert result.effective_draws_per_second(FASTVI) == pytest.approx(20_000.0)
    assert result.effective_draws_per_second(JAX) is None
    screen = io.StringIO()
    report.print_tables([result], {"cpu": "test"}, Console(file=screen))
    rows = [line.split() for line in screen.getvalue().splitlines() if line.split()[:1] == ["c"]]
    assert rows[2] == ["c", "m", "2", "20.0", "+-5%", "5.0", "+-10%", "20000", "2500", "4.00x", "8.00x"]
    (row,) = report.as_json([result], harness.Settings(), {})["results"]  # type: ignore[misc,attr-defined]  # a dict
    assert row["effective_draws_per_second"] == {FASTVI: pytest.approx(20_000.0), BLACKJAX: pytest.approx(2500.0)}
    assert row["sampling"][FASTVI]["effective_draws"] == 20.0


@needs_jax
def test_the_trajectory_in_jax_is_the_same() -> None:
    workload = mcmc.leapfrog_case("small", SMALL["logistic"]).prepare("10 steps", False)
    assert workload.make_jax is not None
    workload.make_jax()()  # which compares


@needs_blackjax
@PROBLEMS
def test_blackjax_draws_the_same_density(make: mcmc.SomeProblem) -> None:
    for num_steps in (3, None):
        workload = mcmc.chains_case("small", make, num_steps, 100, 100, (1, 2), 8).prepare("8 transitions", False)
        assert workload.jax_name == BLACKJAX
        assert workload.make_jax is not None
        workload.make_jax()()  # which compares the moments
        assert set(workload.sampling) == {FASTVI, BLACKJAX}
