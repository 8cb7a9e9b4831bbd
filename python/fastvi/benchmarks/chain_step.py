"""Leapfrog steps of many chains on the posterior of logistic regression, beside their matrix products alone.

A call follows a trajectory of ten steps of 64 chains: 1000 rows, 25 columns and an intercept, a Gaussian prior. The
plain model is two lines of PyTorch, of which autograd takes the gradient.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastvi.benchmarks.cases import assert_same_values
from fastvi.benchmarks.harness import Case, Workload
from fastvi.benchmarks.results import EAGER, FASTVI, GEMMS
from fastvi.benchmarks.timers import Call
from fastvi.mcmc import PhasePoint, as_target, integrate
from fastvi.mcmc.targets import LogisticRegression, NormalPrior

NUM_STEPS = 10
STEP_SIZE = 0.02
PRIOR_SCALE = 2.5
TOLERANCE = 1e-4
"""Of the largest number: float32 sums over a thousand rows, ten steps in a row."""


def plain_log_density(x: Tensor, y: Tensor, q: Tensor) -> Tensor:
    """Return the log posterior, up to a constant, as one writes it in plain PyTorch."""
    predictor = q @ x.T
    log_likelihood = (y * predictor - torch.nn.functional.softplus(predictor)).sum(-1)
    return log_likelihood - 0.5 * (q / PRIOR_SCALE).square().sum(-1)


def products(x: Tensor, q: Tensor) -> Call:
    """Return the call of the two matrix products of each step, into memory of their own."""
    predictor, gradient = torch.empty(len(q), len(x), dtype=q.dtype), torch.empty_like(q)
    residual = torch.randn_like(predictor)

    def call() -> None:
        for _ in range(NUM_STEPS):
            torch.mm(q, x.T, out=predictor)
            torch.mm(residual, x, out=gradient)

    return call


def jax_call(x: Tensor, y: Tensor, position: Tensor, momentum: Tensor) -> Call:
    """Return the call of the same trajectory in JAX, compiled as one loop."""
    import jax
    from jax import lax, nn

    from fastvi.benchmarks.jax_runtime import from_jax, to_jax

    rows, outcomes, start, velocity = (to_jax(each) for each in (x, y, position, momentum))

    def log_density(q: Any) -> Any:
        predictor = q @ rows.T
        log_likelihood = (outcomes * predictor - nn.softplus(predictor)).sum(-1)
        return log_likelihood - 0.5 * ((q / PRIOR_SCALE) ** 2).sum(-1)

    gradient = jax.grad(lambda q: log_density(q).sum())

    def step(_: Any, state: Any) -> Any:
        q, v, slope = state
        v = v + 0.5 * STEP_SIZE * slope
        q = q + STEP_SIZE * v
        slope = gradient(q)
        return q, v + 0.5 * STEP_SIZE * slope, slope

    def trajectory(q: Any, v: Any, slope: Any) -> Any:
        q, v, slope = lax.fori_loop(0, NUM_STEPS, step, (q, v, slope))
        return q, v, log_density(q), slope

    state = start, velocity, gradient(start)
    follow = jax.jit(trajectory)

    def call() -> object:
        return jax.block_until_ready(follow(*state))

    ours = _trajectory(LogisticRegression(x, y) + NormalPrior(0.0, PRIOR_SCALE), position, momentum)()
    for name, found, expected in zip(("position", "momentum"), follow(*state), ours, strict=False):
        assert_same_values(f"JAX, {name}", from_jax(found), expected, TOLERANCE)
    return call


def _trajectory(target: Any, position: Tensor, momentum: Tensor) -> Any:
    start = PhasePoint.at(target, position, momentum)
    return partial(integrate, target, start, STEP_SIZE, NUM_STEPS)


def _prepare(chains: int, rows: int, columns: int, name: str, mode: str, _: bool) -> Workload:
    x = torch.cat([torch.randn(rows, columns), torch.ones(rows, 1)], 1)
    y = torch.rand(rows).round()
    position, momentum = (0.1 * torch.randn(chains, columns + 1) for _ in range(2))
    calls = {
        EAGER: _trajectory(as_target(partial(plain_log_density, x, y)), position, momentum),
        FASTVI: _trajectory(LogisticRegression(x, y) + NormalPrior(0.0, PRIOR_SCALE), position, momentum),
    }

    def check() -> None:
        in_float64 = as_target(partial(plain_log_density, x.double(), y.double()))
        expected = _trajectory(in_float64, position.double(), momentum.double())()
        for provider, call in calls.items():
            found = call()
            for field in ("position", "momentum", "gradient"):
                assert_same_values(
                    f"{name}, {provider}, {field}", getattr(found, field), getattr(expected, field), TOLERANCE
                )

    return Workload(calls | {GEMMS: products(x, position)}, check, make_jax=lambda: jax_call(x, y, position, momentum))


def _case(chains: int, rows: int, columns: int) -> Case:
    name = f"{NUM_STEPS} leapfrogs, logistic {rows}x{columns + 1}, {chains} chains"
    return Case("mcmc", name, ("trajectory",), partial(_prepare, chains, rows, columns, name))


LEAPFROG_CASES = [_case(64, 1000, 25), _case(16, 1000, 25), _case(256, 1000, 25)]
