"""MEADS: generalised HMC keeps its density, mistakes in it are caught; folds do not adapt to themselves; far starts."""

import io
import math
from functools import partial

import pytest
import torch
from scipy import stats

from fastvi import ops
from fastvi.mcmc import (
    GeneralisedHMC,
    MEADSAlgorithm,
    PersistentState,
    PhasePoint,
    chain_noise,
    chain_normals,
    leapfrog,
    step_seed,
)
from fastvi.mcmc.meads import Parameters, largest_eigenvalue
from support.densities import Funnel, Gaussian

LEVEL = 1e-6
"""Probability that a test of moments fails although the moments are right."""
SCALE = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)


def largest_score(values, expected):
    """How many standard errors the columns' means over independent chains (C, ...) are off, at most."""
    return ((values.mean(0) - expected) / (values.std(0) / math.sqrt(len(values)))).abs().max().item()


# The transition leaves its density as it is


def stepped_by_hand(kernel, state, seed, mistake="none"):
    """A copy of the transition, right or with a mistake."""
    position, log_density, gradient, momentum, place = state
    damping, shift = kernel.damping, kernel.slice_shift
    noise = chain_normals(seed, 0, position.shape[1], position)
    kept = 1.0 - damping if mistake == "the square root forgotten" else math.sqrt(1.0 - damping)
    momentum = kept * momentum + math.sqrt(damping) * noise
    place = (place + 1.0 + shift).remainder(2.0) - 1.0
    if mistake == "the slice drawn in (0, 1) kept in (0, 2)":
        place = (place + 1.0).abs()
    end = leapfrog(kernel.target, PhasePoint(position, momentum, log_density, gradient), kernel.step_size, 1)
    end_momentum = end.momentum
    if mistake == "the closing half kick forgotten":
        end_momentum = end.momentum - 0.5 * kernel.step_size * end.gradient
    error = ops.kinetic_energy(end_momentum) - end.log_density - ops.kinetic_energy(momentum) + log_density
    accepted = place.abs() <= (-error).exp()
    chosen = accepted.unsqueeze(-1)
    rejected_momentum = momentum if mistake == "the momentum not negated" else -momentum
    new_place = place if mistake == "the slice not rescaled" else place / (-error).exp()
    return PersistentState(
        torch.where(chosen, end.position, position),
        torch.where(accepted, end.log_density, log_density),
        torch.where(chosen, end.gradient, gradient),
        torch.where(chosen, end_momentum, rejected_momentum),
        torch.where(accepted, new_place, place),
    )


KERNEL = GeneralisedHMC(Gaussian(SCALE), 0.8, damping=0.3, slice_shift=0.4)
NUM_CHAINS, NUM_STEPS = 40_000, 12


def exact_start(kernel):
    """Independent draws of the density, its momenta and slices."""
    normal, _ = chain_noise(11, 0, torch.zeros(NUM_CHAINS, 3, dtype=torch.float64))
    return kernel.init(normal * SCALE, seed=12)


def score_after(step, kernel=KERNEL):
    """How far moments of position, momentum and slice, with their products, are off after some steps."""
    state = exact_start(kernel)
    for t in range(NUM_STEPS):
        state = step(state, step_seed(13, t))
    position, momentum, place = state.position / SCALE, state.momentum, state.slice.unsqueeze(-1)
    values = [position, momentum, place, position * momentum, place * momentum]
    expected = [torch.zeros(value.shape[-1]) for value in values]
    for value, second, fourth in ((position, 1.0, 3.0), (momentum, 1.0, 3.0), (place, 1.0 / 3.0, 1.0 / 5.0)):
        values += [value**2, value**4]
        expected += [torch.full(value.shape[-1:], second), torch.full(value.shape[-1:], fourth)]
    values.append(place**2 * position**2)
    expected.append(torch.full((3,), 1.0 / 3.0))
    return largest_score(torch.cat(values, -1), torch.cat(expected))


LIMIT = stats.norm.isf(LEVEL / 2 / 31)


def test_the_transition_leaves_its_density_as_it_is():
    def step(state, seed):
        return KERNEL.step(state, seed)[0]

    assert score_after(step) < LIMIT


def test_the_copy_is_the_transition():
    state = other = exact_start(KERNEL)
    for t in range(3):
        (state, info), other = KERNEL.step(state, t), stepped_by_hand(KERNEL, other, t)
    for found, expected in zip(state, other, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert 0.5 < info.is_accepted.double().mean() < 0.95  # both ways are taken


@pytest.mark.parametrize(
    "mistake",
    [
        "the momentum not negated",
        "the slice not rescaled",
        "the slice drawn in (0, 1) kept in (0, 2)",
        "the closing half kick forgotten",
        "the square root forgotten",
    ],
)
def test_a_mistake_is_caught(mistake):
    assert score_after(partial(stepped_by_hand, KERNEL, mistake=mistake)) > 2.0 * LIMIT


# What the chains say


def test_the_eigenvalue_is_estimated_without_bias_from_pairs():
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((5, 3), (3, 5)):  # products of rows, and of columns
        x = torch.randn(2, rows, columns, dtype=torch.float64, generator=generator)
        for each, found in zip(x, largest_eigenvalue(x), strict=True):
            pairs = [float(each[i] @ each[j]) ** 2 for i in range(rows) for j in range(rows) if i != j]
            expected = (sum(pairs) / len(pairs)) / each.square().sum(-1).mean()
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=0.0)
    # Of N(0, diag(9, 1, 1)): (81 + 1 + 1) / (9 + 1 + 1).
    x = torch.randn(20_000, 3, dtype=torch.float64, generator=generator) * torch.tensor([3.0, 1.0, 1.0])
    assert largest_eigenvalue(x).item() == pytest.approx(83 / 11, rel=0.05)
    assert largest_eigenvalue(torch.zeros(4, 3)) == 0.0


def test_parameters_are_those_of_the_paper():
    generator = torch.Generator().manual_seed(1)
    position = torch.randn(16, 4, dtype=torch.float64, generator=generator) * 3.0 + 1.0
    gradient = torch.randn(16, 4, dtype=torch.float64, generator=generator)
    for t, gradient_scale in ((0, 1.0), (10_000, 1.0), (10_000, 1e-6)):
        found = Parameters.of(position, gradient_scale * gradient, t)
        scale = position.std(0)
        step_size = min(1.0, 0.5 / math.sqrt(largest_eigenvalue(gradient_scale * gradient * scale)))
        rate = max(
            1.0 / math.sqrt(largest_eigenvalue((position - position.mean(0)) / scale)), 1.0 / ((t + 1) * step_size)
        )
        assert found.step_size.item() == pytest.approx(step_size)
        assert found.damping.item() == pytest.approx(1.0 - math.exp(-2.0 * step_size * rate))
        kernel = found.kernel(Gaussian(torch.ones(4)), 1000.0)
        assert kernel.slice_shift.item() == pytest.approx(0.5 * found.damping.item())
        torch.testing.assert_close(kernel.step_size, step_size * scale)


def test_a_fold_is_adapted_by_another():
    """Another position of one chain changes no other of its fold, but all that move of the fold after."""
    start = torch.randn(16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    moved = []
    for change in (0.0, 0.5):
        run = MEADSAlgorithm().start(Gaussian(SCALE), start, 40, seed=3)
        for t in range(5):
            run.warm_step(t)
        folds = run._folds.view(4, 4)  # rows are folds; at t = 5 the fold 1 rests
        changed = folds[2, 0]
        position = run.chains.position.clone()
        position[changed] += change
        run.chains = run.chains._replace(position=position)
        run.warm_step(5)
        moved.append(run.chains.position)
    for fold, same in ((0, True), (1, True), (2, True), (3, False)):
        chains = folds[fold][folds[fold] != changed]
        assert (moved[0][chains] == moved[1][chains]).all(-1).tolist() == [same] * len(chains)


# Whole runs


def run_of(target, start, num_warmup, num_draws, seed=1):
    """The draws (N, C, D), the run at its end, what each sampling step reported."""
    run = MEADSAlgorithm().start(target, start, num_warmup, seed)
    for t in range(num_warmup):
        run.warm_step(t)
    draws, infos = zip(*(run.sample_step(t) for t in range(num_draws)), strict=True)
    return torch.stack([state.position for state in draws]), run, infos


@pytest.mark.parametrize("distance", [0.0, 100.0])
def test_moments_are_exact_from_any_start(distance):
    """All chains in one place, and up to a thousand standard deviations away, where MEADS by itself stands still."""
    scale = torch.logspace(-1.0, 1.0, 20, dtype=torch.float64)
    spread = torch.randn(128, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    start = distance + spread if distance else torch.zeros_like(spread)
    draws, run, infos = run_of(Gaussian(scale), start, 1000 if distance else 500, 300)
    found = run.description()
    assert (found["scale"] / scale).log().abs().max() < 0.3
    assert torch.stack([info.acceptance_probability for info in infos]).mean() > 0.9
    of_chains = torch.cat([draws.mean(0), draws.square().mean(0)], -1)
    expected = torch.cat([torch.zeros(20, dtype=torch.float64), scale.square()])
    assert largest_score(of_chains, expected) < stats.t.isf(LEVEL / 2 / 40, 127)


def test_divergences_of_the_funnel_are_reported():
    kernel = GeneralisedHMC(Funnel(), 1.0, damping=0.5, slice_shift=0.25)
    state = kernel.init(torch.randn(128, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(5)))
    divergent = 0
    for t in range(50):
        state, info = kernel.step(state, step_seed(6, t))
        assert torch.equal(info.is_divergent, info.energy_error > 1000.0)
        assert not info.is_accepted[info.is_divergent].any()
        divergent += int(info.is_divergent.sum())
    assert divergent > 0
    assert state.position.isfinite().all()


def test_where_there_is_no_density_a_chain_turns_round():
    class Half:
        is_target = True

        def __call__(self, position):
            inside = position > 0.0
            return (
                torch.where(inside, -0.5 * position.square(), torch.nan).sum(-1),
                torch.where(inside, -position, torch.nan),
            )

    kernel = GeneralisedHMC(Half(), 1.0, damping=1e-12, slice_shift=0.0)
    state = kernel.init(torch.full((64, 1), 0.1, dtype=torch.float64), seed=7)
    moved, info = kernel.step(state, 8)
    rejected = info.is_divergent
    assert rejected.any()
    assert not rejected.all()
    assert info.acceptance_probability[rejected].max() == 0.0
    assert torch.equal(moved.position[rejected], state.position[rejected])
    torch.testing.assert_close(moved.momentum[rejected], -state.momentum[rejected], rtol=1e-4, atol=1e-4)
    assert torch.equal(moved.slice[rejected], state.slice[rejected])


@pytest.mark.parametrize("stop", [2, 4, 17, 31, 45])
def test_resumed_is_uninterrupted_to_the_bit(stop):
    def walk(run, start, end):
        return [(run.warm_step(t) if t < 40 else run.sample_step(t - 40))[0].position for t in range(start, end)]

    def new_run():
        return MEADSAlgorithm().start(Gaussian(SCALE.float()), torch.zeros(16, 3), 40, seed=5)

    whole = walk(new_run(), 0, 50)
    first, second = new_run(), new_run()
    before = walk(first, 0, stop)
    memory = io.BytesIO()
    torch.save(first.state_dict(), memory)
    memory.seek(0)
    second.load_state_dict(torch.load(memory))
    assert all(map(torch.equal, whole, before + walk(second, stop, 50)))


def test_threads_change_nothing():
    draws, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            draws.append(run_of(Gaussian(torch.logspace(-1, 1, 40)), torch.zeros(64, 40), 40, 10)[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*draws)


@pytest.mark.parametrize("num_chains", [1, 4, 10])
def test_too_few_chains_are_one_line(num_chains):
    message = rf"MEADS: the number of chains must be a multiple of 4 and at least 8.*\({num_chains}, 3\)"
    with pytest.raises(ValueError, match=message):
        MEADSAlgorithm().start(Gaussian(SCALE), torch.zeros(num_chains, 3, dtype=torch.float64), 10, 0)
