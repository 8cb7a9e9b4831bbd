"""Many chains at once: HMC and ChEES-HMC, fastvi's beside BlackJAX's, and the leapfrog steps that they are made of.

The targets are a logistic regression of German credit's shape, with data made here, and the ill-conditioned Gaussian of
Sountsov, Radul and others' inference gym: 100 dimensions, eigenvalues from a Gamma distribution of shape 1/2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fastvi.benchmarks.blackjax_chains import BlackJAXChains, is_installed
from fastvi.benchmarks.cases import assert_same_values
from fastvi.benchmarks.effective_draws import effective_draws, least_effective_draws
from fastvi.benchmarks.harness import Case, Workload
from fastvi.benchmarks.jax_runtime import from_jax, to_jax
from fastvi.benchmarks.results import BLACKJAX, EAGER, FASTVI, GEMMS, Sampling
from fastvi.benchmarks.timers import Call
from fastvi.mcmc import Algorithm, ChEESAlgorithm, HMCAlgorithm, PhasePoint, Target, integrate
from fastvi.mcmc.targets import DenseGaussian, LogisticRegression, NormalPrior

SEEDS = (1, 2, 3)
"""Of the runs, warm-up and draws, whose effective draws are counted."""
TRANSITIONS = 64
"""Of a timed call: the jitter of the trajectory lengths is spread evenly over them."""
LEAPFROGS = 10
"""Of a timed trajectory."""


@dataclass(frozen=True)
class Problem:
    """A target with starts (C, D), the same log density in JAX of one position, and what its gradient multiplies."""

    target: Target
    start: Tensor
    jax_log_density: Callable[[], Callable[[Any], Any]]
    plain: Target
    weight: Tensor


SomeProblem: TypeAlias = Callable[[], Problem]


def logistic(num_rows: int = 1000, num_columns: int = 25, num_chains: int = 64) -> Problem:
    """Logistic regression of standardised columns with correlations of 0.36, and an intercept; the prior is N(0, 1)."""
    generator = np.random.default_rng(10)
    x = 0.6 * generator.standard_normal((num_rows, 1)) + 0.8 * generator.standard_normal((num_rows, num_columns))
    x = (x - x.mean(0)) / x.std(0)
    x = np.concatenate([x, np.ones((num_rows, 1))], 1)
    logits = x @ (0.5 * generator.standard_normal(num_columns + 1))
    y = generator.random(num_rows) < 1.0 / (1.0 + np.exp(-logits))
    start = 0.1 * generator.standard_normal((num_chains, num_columns + 1))
    rows, outcomes, starts = (torch.tensor(array, dtype=torch.float32) for array in (x, y, start))
    target = LogisticRegression(rows[:, :-1].contiguous(), outcomes, intercept=True) + NormalPrior(0.0, 1.0)

    def in_jax() -> Callable[[Any], Any]:
        from jax import nn

        jax_rows, jax_outcomes = to_jax(rows), to_jax(outcomes)

        def log_density(position: Any) -> Any:
            logits = jax_rows @ position
            return (jax_outcomes * logits - nn.softplus(logits)).sum() - 0.5 * (position**2).sum()

        return log_density

    def plain(position: Tensor) -> tuple[Tensor, Tensor]:
        x, y = rows.to(position.dtype), outcomes.to(position.dtype)
        logits = position @ x.T
        value = (y * logits - functional.softplus(logits)).sum(-1) - 0.5 * position.square().sum(-1)
        return value, (y - torch.sigmoid(logits)) @ x - position

    return Problem(target, starts, in_jax, plain, rows)


def gaussian(dimension: int = 100, num_chains: int = 64) -> Problem:
    """A Gaussian whose precision has eigenvalues from a Gamma distribution of shape 1/2, in directions drawn evenly.

    Chains start at exact draws: how soon they would arrive is another question than how they move.
    """
    generator = np.random.default_rng(10)
    eigenvalues = generator.gamma(0.5, size=dimension)
    directions, _ = np.linalg.qr(generator.standard_normal((dimension, dimension)))
    precision = torch.tensor(directions * eigenvalues @ directions.T, dtype=torch.float32)
    exact = generator.standard_normal((num_chains, dimension)) / np.sqrt(eigenvalues) @ directions.T
    start = torch.tensor(exact, dtype=torch.float32)
    target = DenseGaussian(torch.zeros(dimension), precision=precision)

    def in_jax() -> Callable[[Any], Any]:
        jax_precision = to_jax(precision)
        return lambda position: -0.5 * position @ (jax_precision @ position)

    def plain(position: Tensor) -> tuple[Tensor, Tensor]:
        gradient = -(position @ precision.to(position.dtype))
        return 0.5 * (position * gradient).sum(-1), gradient

    return Problem(target, start, in_jax, plain, precision)


def _run(algorithm: Algorithm, problem: Problem, num_warmup: int, num_draws: int, seed: int) -> tuple[Any, Tensor, int]:
    """The run after warm-up and draws, the draws (N, C, D), and how many leapfrog steps a chain took for them."""
    run = algorithm.start(problem.target, problem.start, num_warmup, seed)
    for t in range(num_warmup):
        run.warm_step(t)
    draws, num_steps = problem.start.new_empty(num_draws, *problem.start.shape), 0
    for t in range(num_draws):
        state, info = run.sample_step(t)
        draws[t] = state.position
        num_steps += info.num_steps
    return run, draws, num_steps


def sampling_of(runs: list[tuple[Tensor, int]], num_steps: int) -> Sampling:
    """What a call of so many leapfrog steps draws, by runs: their draws, and their leapfrog steps."""
    num_chains = runs[0][0].shape[1]
    rates = np.array([least_effective_draws(draws) / (steps * num_chains) for draws, steps in runs])
    gradients = float(num_steps * num_chains)
    spread = rates.std(ddof=1) / rates.mean() if len(rates) > 1 else 0.0
    return Sampling(float(rates.mean()) * gradients, gradients, float(spread))


def _prepare_chains(
    make: SomeProblem,
    num_steps: int | None,
    num_warmup: int,
    num_draws: int,
    seeds: tuple[int, ...],
    transitions: int,
    name: str,
    mode: str,
    _: bool,
) -> Workload:
    problem = make()
    algorithm = ChEESAlgorithm() if num_steps is None else HMCAlgorithm(num_steps)
    found = [_run(algorithm, problem, num_warmup, num_draws, seed) for seed in seeds]
    run, sampling = found[-1][0], {}

    def sample() -> tuple[Tensor, int]:
        draws, steps = problem.start.new_empty(transitions, *problem.start.shape), 0
        for t in range(transitions):
            state, info = run.sample_step(t)
            draws[t] = state.position
            steps += info.num_steps
        return draws, steps

    sampling[FASTVI] = sampling_of([pair[1:] for pair in found], sample()[1])
    ours = torch.cat([draws for _, draws, _ in found], 1)

    def make_blackjax() -> Call:
        chains = BlackJAXChains(problem.jax_log_density(), problem.start, num_steps, num_warmup, num_draws)
        runs = [chains.draws(seed) for seed in seeds]
        call, steps = chains.call(transitions)
        sampling[BLACKJAX] = sampling_of(runs, steps)
        check_moments(name, ours, torch.cat([draws for draws, _ in runs], 1))
        return call

    def check() -> None:
        value, gradient = problem.target(problem.start)
        expected = problem.plain(problem.start.double())
        # A constant is no matter of the chains.
        assert_same_values(f"{name}, gradient", gradient, expected[1], 1e-4)
        assert_same_values(f"{name}, log density", value - value[0], expected[0] - expected[0][0], 1e-4)

    return Workload(
        {FASTVI: sample},
        check,
        make_jax=make_blackjax if is_installed() else None,
        jax_name=BLACKJAX,
        sampling=sampling,
    )


def check_moments(name: str, ours: Tensor, theirs: Tensor) -> None:
    """The first and second moments of draws (N, C, D) must agree to seven standard errors of their difference."""
    for power in (1, 2):
        first, second = ours**power, theirs**power
        errors = (x.flatten(0, 1).var(0) / effective_draws(x) for x in (first, second))
        scores = (first.mean((0, 1)) - second.mean((0, 1))).abs() / torch.stack(list(errors)).sum(0).sqrt()
        if not scores.max() < 7.0:
            raise AssertionError(
                f"{name}: moment {power} of {FASTVI} and {BLACKJAX} differs by {scores.max():.2g} standard errors"
            )


def _prepare_leapfrog(make: SomeProblem, name: str, mode: str, with_compile: bool) -> Workload:
    problem = make()
    start = PhasePoint.at(problem.target, problem.start, torch.ones_like(problem.start))
    step_size = 0.02

    def follow(target: Target, point: PhasePoint) -> PhasePoint:
        """Leapfrogs as one writes them in PyTorch."""
        position, momentum, _, gradient = point
        for _ in range(LEAPFROGS):
            momentum = momentum + 0.5 * step_size * gradient
            position = position + step_size * momentum
            value, gradient = target(position)
            momentum = momentum + 0.5 * step_size * gradient
        return PhasePoint(position, momentum, value, gradient)

    weight, transposed = problem.weight, problem.weight.T.contiguous()
    logits = problem.start.new_empty(len(problem.start), len(weight))
    gradient = torch.empty_like(problem.start)

    def products() -> None:
        for _ in range(LEAPFROGS):
            torch.mm(problem.start, transposed, out=logits)
            torch.mm(logits, weight, out=gradient)

    def check() -> None:
        exact = follow(problem.plain, PhasePoint(*(x.double() for x in start)))
        found = integrate(problem.target, start, step_size, LEAPFROGS)
        for what, value, expected in zip(("position", "momentum"), found, exact, strict=False):
            assert_same_values(f"{name}, {what}", value, expected, 1e-4)

    def make_jax() -> Call:
        import jax

        with_gradient = jax.vmap(jax.value_and_grad(problem.jax_log_density()))

        def trajectory(position: Any, momentum: Any, gradient: Any) -> tuple[Any, ...]:
            def step(_: Any, point: tuple[Any, Any, Any, Any]) -> tuple[Any, Any, Any, Any]:
                position, momentum, _, gradient = point
                momentum = momentum + 0.5 * step_size * gradient
                position = position + step_size * momentum
                value, gradient = with_gradient(position)
                return position, momentum + 0.5 * step_size * gradient, value, gradient

            found = jax.lax.fori_loop(0, LEAPFROGS, step, (position, momentum, position[:, 0], gradient))
            return tuple(found)

        compiled = jax.jit(trajectory)
        arguments = [to_jax(x) for x in (start.position, start.momentum, start.gradient)]
        exact = follow(problem.plain, PhasePoint(*(x.double() for x in start)))
        for value, expected in zip(compiled(*arguments), exact[:2], strict=False):
            assert_same_values(f"{name}, JAX", from_jax(value), expected, 1e-4)
        return lambda: jax.block_until_ready(compiled(*arguments))

    calls: dict[str, Call] = {
        EAGER: partial(follow, problem.plain, start),
        FASTVI: partial(integrate, problem.target, start, step_size, LEAPFROGS),
        GEMMS: products,
    }
    return Workload(calls, check, make_jax=make_jax)


def chains_case(
    what: str,
    make: SomeProblem,
    num_steps: int | None = None,
    num_warmup: int = 1000,
    num_draws: int = 512,
    seeds: tuple[int, ...] = SEEDS,
    transitions: int = TRANSITIONS,
) -> Case:
    """Return the case of an algorithm: HMC with trajectories of ``num_steps`` steps, or, without them, ChEES."""
    name = f"{'ChEES' if num_steps is None else f'HMC, L {num_steps}'}, {what}"
    prepare = partial(_prepare_chains, make, num_steps, num_warmup, num_draws, seeds, transitions, name)
    return Case("mcmc", name, (f"{transitions} transitions",), prepare)


def leapfrog_case(what: str, make: SomeProblem) -> Case:
    """Return the case of a trajectory alone, beside the products of two matrices for each of its steps."""
    name = f"leapfrog, {what}"
    return Case("mcmc", name, (f"{LEAPFROGS} steps",), partial(_prepare_leapfrog, make, name))


_LOGISTIC, _GAUSSIAN = "logistic 1000x26, 64 chains", "Gaussian 100, 64 chains"
CASES = [
    leapfrog_case(_LOGISTIC, logistic),
    chains_case(_LOGISTIC, logistic, 4),
    chains_case(_LOGISTIC, logistic),
    chains_case(_GAUSSIAN, gaussian, 64, num_warmup=500, num_draws=256),
    chains_case(_GAUSSIAN, gaussian, num_draws=256),
]
