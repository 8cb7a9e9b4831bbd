"""ChEES-HMC: its gradient is that of the criterion, it finds the largest scale, keeps exact moments, can be resumed."""

import io
import math
from dataclasses import replace

import pytest
import torch
from scipy import stats

from fastvi.mcmc import HMC, ChEESAlgorithm, JitteredHMC, PhasePoint, as_target, step_seed
from fastvi.mcmc.chees import DECAY, RATE, LengthState, trajectory_gradient
from support.densities import Funnel, Gaussian

LEVEL = 1e-6
"""Probability that a test of moments fails although the moments are right."""


def scores(draws, expected):
    """Of each column's mean over chains and draws (N, C, D): the chains are independent, so Student's t of C - 1."""
    of_chains = draws.mean(0)
    error = of_chains.std(0) / math.sqrt(len(of_chains))
    return ((of_chains.mean(0) - expected) / error).abs()


def assert_moments(draws, means, variances):
    """First moments, and second moments around the exact means, all at once at `LEVEL`."""
    columns = torch.cat([draws, (draws - means).square()], -1)
    found = scores(columns, torch.cat([means, variances]))
    limit = stats.t.isf(LEVEL / (2 * found.numel()), draws.shape[1] - 1)
    assert found.max() < limit, (found, limit)


def run_of(target, start, num_warmup, num_draws, seed=1, **options):
    """The draws (N, C, D), the run at its end, what each sampling step reported."""
    run = ChEESAlgorithm(**options).start(target, start, num_warmup, seed)
    for t in range(num_warmup):
        run.warm_step(t)
    draws, infos = zip(*(run.sample_step(t) for t in range(num_draws)), strict=True)
    return torch.stack([state.position for state in draws]), run, infos


# The criterion's gradient


PRECISION = torch.tensor([0.2, 1.0, 7.0], dtype=torch.float64)


def flow(x, p, inverse_mass, time):
    """The exact flow of N(0, 1/PRECISION): position and momentum after a time (C,)."""
    frequency = (PRECISION * inverse_mass).sqrt()
    cos, sin = (f(time.unsqueeze(-1) * frequency) for f in (torch.cos, torch.sin))
    return x * cos + inverse_mass * p * sin / frequency, p * cos - PRECISION * x * sin / frequency


def some_chains():
    generator = torch.Generator().manual_seed(3)
    x, p = (torch.randn(6, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    return x, p, torch.rand(6, generator=generator, dtype=torch.float64).clamp_min(0.1)


MASSES = [None, torch.tensor([3.0, 0.4, 0.1], dtype=torch.float64)]


def by_autograd(x, p, weights, inverse_mass, time, jitter=0.7):
    """The derivative of each chain's criterion by its own log T, at h T = time; the means are held fixed."""
    metric = torch.ones(3, dtype=torch.float64) if inverse_mass is None else inverse_mass
    log_length = torch.full((6,), math.log(time / jitter), dtype=torch.float64, requires_grad=True)
    end, _ = flow(x, p, metric, jitter * log_length.exp())
    centre = ((weights.unsqueeze(-1) * end).sum(0) / weights.sum()).detach()
    off_end, off_start = end - centre, x - x.mean(0)
    criterion = 0.25 * ((off_end.square() - off_start.square()) / metric).sum(-1).square()
    (gradient,) = torch.autograd.grad(criterion.sum(), log_length)
    return gradient


def proposal_of(x, p, inverse_mass, time):
    metric = torch.ones(3, dtype=torch.float64) if inverse_mass is None else inverse_mass
    end = flow(x, p, metric, torch.full((6,), time, dtype=torch.float64))
    return PhasePoint(*end, torch.zeros(6), torch.zeros(6, 3))


@pytest.mark.parametrize("inverse_mass", MASSES)
def test_the_gradient_is_that_of_the_criterion(inverse_mass):
    x, p, weights = some_chains()
    found = trajectory_gradient(x, proposal_of(x, p, inverse_mass, 1.3), weights, 1.3, inverse_mass)
    torch.testing.assert_close(found, by_autograd(x, p, weights, inverse_mass, 1.3), rtol=1e-12, atol=1e-12)


def mistaken(position, proposal, weights, length, inverse_mass, mistake):
    """A copy of the gradient, with the mistakes of other programs."""
    centre = (weights.unsqueeze(-1) * proposal.position).sum(0) / weights.sum()
    off_end, off_start = proposal.position - centre, position - position.mean(0)
    velocity = proposal.momentum * inverse_mass
    if mistake == "momentum for velocity":
        velocity = proposal.momentum
    if mistake == "not centred":
        off_end, off_start = proposal.position, position
    change = ((off_end.square() - off_start.square()) / inverse_mass).sum(-1)
    if mistake == "the mass in the norm forgotten":
        change = (off_end.square() - off_start.square()).sum(-1)
    if mistake == "the squares' sum for their difference":
        change = ((off_end.square() + off_start.square()) / inverse_mass).sum(-1)
    return length * change * (off_end / inverse_mass * velocity).sum(-1)


@pytest.mark.parametrize(
    ("mistake", "is_right"),
    [
        ("none", True),
        ("momentum for velocity", False),
        ("not centred", False),
        ("the mass in the norm forgotten", False),
        ("the squares' sum for their difference", False),
    ],
)
def test_a_mistaken_gradient_is_another(mistake, is_right):
    (x, p, weights), inverse_mass = some_chains(), MASSES[1]
    found = mistaken(x, proposal_of(x, p, inverse_mass, 1.3), weights, 1.3, inverse_mass, mistake)
    assert torch.allclose(found, by_autograd(x, p, weights, inverse_mass, 1.3), rtol=1e-6) is is_right


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_a_proposal_that_is_not_accepted_does_not_count(bad):
    x, p, weights = some_chains()
    proposal = proposal_of(x, p, None, 1.3)
    weights[2] = 0.0 if math.isfinite(bad) else 1.0  # what is not finite does not count, whatever its probability says
    found = []
    for value in (bad, 5.0):
        position = proposal.position.clone()
        position[2] = value
        found.append(trajectory_gradient(x, proposal._replace(position=position), weights, 1.3))
    assert found[0][2] == 0.0
    if weights[2] == 0.0:
        assert torch.equal(found[0], found[1])
    assert found[0].isfinite().all()


# The ascent and the jitter


def test_the_ascent_has_the_stated_constants():
    assert (RATE, DECAY) == (0.025, 0.95)
    state = LengthState(0.0)
    state = state.updated(-3.0, 100.0)
    assert state.log_length == pytest.approx(-0.025)  # the first step is the rate, whatever the gradient
    for gradient in (2.0, -1.0, 0.5):
        state = state.updated(gradient, 100.0)
    squares, logs = [], [0.0]
    for t, gradient in enumerate((-3.0, 2.0, -1.0, 0.5), 1):
        squares = [0.95 * square for square in squares] + [0.05 * gradient**2]
        logs.append(logs[-1] + 0.025 * gradient / math.sqrt(sum(squares) / (1.0 - 0.95**t)))
    assert state.log_length == pytest.approx(logs[-1], rel=1e-12)
    average = 0.0
    for t, log in enumerate(logs[1:], 1):
        average += t**-0.5 * (log - average)
    assert state.averaged_length == pytest.approx(math.exp(average), rel=1e-12)


def test_no_gradient_leads_far_away():
    state = LengthState(0.0)
    for gradient in (1e-9, 1e9, math.inf, math.nan, 1e300, 0.0):
        before, state = state, state.updated(gradient, 1e9)
        assert abs(state.log_length - before.log_length) <= 0.025 / math.sqrt(0.05)
    assert LengthState(5.0).updated(1.0, longest=2.0).length == pytest.approx(2.0)
    assert LengthState(3.0).averaged_length == math.exp(3.0)


def test_the_numbers_of_steps_follow_halton_up_to_the_most():
    hmc = HMC(Gaussian(torch.ones(1)), 0.25, 1)
    kernel = JitteredHMC(hmc, trajectory_length=4.0)
    halton = [1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]
    assert [kernel.num_steps(t) for t in range(7)] == [math.ceil(16 * h) for h in halton]
    assert JitteredHMC(hmc, 1e-9).num_steps(0) == 1
    assert JitteredHMC(hmc, 1e9).num_steps(0) == 1000
    state = hmc.init(torch.zeros(2, 1))
    for t in range(2):
        (moved, info), (expected, _) = (
            kernel.step(state, 7, t=t),
            replace(hmc, num_steps=kernel.num_steps(t)).step(state, 7),
        )
        assert info.num_steps == kernel.num_steps(t)
        assert torch.equal(moved.position, expected.position)


# Whole runs


def test_the_length_is_near_the_largest_scale_and_moments_are_exact():
    scale = torch.logspace(-0.5, 1.0, 100, dtype=torch.float64)
    start = torch.zeros(64, 100, dtype=torch.float64)
    draws, run, infos = run_of(Gaussian(scale), start, 300, 100, mass=None)
    # The slowest direction's quarter period is 15.7; with parts of the length, the best one is somewhat longer.
    assert 10.0 < run.description()["trajectory_length"] < 30.0
    assert_moments(draws, torch.zeros(100, dtype=torch.float64), scale.square())
    acceptance = torch.stack([info.acceptance_probability for info in infos])
    harmonic = 1.0 / acceptance.reciprocal().mean(1)
    assert 0.55 < harmonic.mean() < 0.75  # 0.651 is what it was adapted to


def test_with_a_mass_the_length_is_that_of_a_round_density():
    scale = torch.logspace(-1.0, 1.0, 100, dtype=torch.float64)
    draws, run, _ = run_of(Gaussian(scale), torch.zeros(64, 100, dtype=torch.float64), 400, 200)
    # Of equal scales 1 the criterion with even parts is 1/2 - sin(2 T) / (4 T), largest at T = 2.25.
    assert 1.5 < run.description()["trajectory_length"] < 3.0
    assert (run.description()["inverse_mass"] / scale.square()).log().abs().max() < 0.5
    assert_moments(draws, torch.zeros(100, dtype=torch.float64), scale.square())


class Banana:
    """The first is N(0, 100), the second N(0.03 (first^2 - 100), 1)."""

    is_target = True

    def __call__(self, position):
        first, second = position.unbind(-1)
        rest = second - 0.03 * (first.square() - 100.0)
        value = -0.5 * ((first / 10.0).square() + rest.square())
        return value, torch.stack([-first / 100.0 + 0.06 * first * rest, -rest], -1)


def test_the_banana_has_its_moments():
    start = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    draws, _, _ = run_of(Banana(), start, 200, 200, mass=None)
    # The second is N(0, 1) plus 0.03 times the square of N(0, 100) less its mean: variance 1 + 0.0009 * 2 * 10^4.
    assert_moments(draws, torch.zeros(2, dtype=torch.float64), torch.tensor([100.0, 19.0], dtype=torch.float64))


def test_divergences_of_the_funnel_are_reported():
    start = torch.randn(32, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, _, infos = run_of(Funnel(), start, 200, 200, target_acceptance=0.4, max_steps=50)
    divergent = torch.stack([info.is_divergent for info in infos])
    assert divergent.any()
    assert torch.equal(divergent, torch.stack([info.energy_error for info in infos]) > 1000.0)
    assert torch.stack([info.acceptance_probability for info in infos])[divergent].max() == 0.0


def saved_and_loaded(state):
    memory = io.BytesIO()
    torch.save(state, memory)
    memory.seek(0)
    return torch.load(memory)


@pytest.mark.parametrize("stop", [3, 4, 30, 60, 70])
def test_resumed_is_uninterrupted_to_the_bit(stop):
    scale = torch.tensor([0.3, 1.0, 5.0])

    def walk(run, start, end):
        return [(run.warm_step(t) if t < 60 else run.sample_step(t - 60))[0].position for t in range(start, end)]

    def new_run():
        return ChEESAlgorithm().start(Gaussian(scale), torch.zeros(16, 3), 60, seed=5)

    whole = walk(new_run(), 0, 80)
    first, second = new_run(), new_run()
    before = walk(first, 0, stop)
    second.load_state_dict(saved_and_loaded(first.state_dict()))
    after = walk(second, stop, 80)
    assert all(map(torch.equal, whole, before + after))


def test_threads_change_nothing():
    scale, threads = torch.logspace(-1, 1, 40), torch.get_num_threads()
    draws = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            draws.append(run_of(Gaussian(scale), torch.zeros(64, 40), 60, 10)[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*draws)


def test_a_chain_that_never_accepts_does_not_spoil_the_step_size():
    """The harmonic mean of a probability of 0 is 0 and not NaN; all step sizes and lengths stay finite."""

    def log_density(q):
        return torch.where(q[:, 0] > 0.0, -0.5 * q.square().sum(-1), torch.nan)

    run = ChEESAlgorithm().start(as_target(log_density), torch.rand(16, 2, dtype=torch.float64) + 1.0, 50, seed=2)
    infos = [run.warm_step(t)[1] for t in range(50)]
    assert any((info.acceptance_probability == 0.0).any() for info in infos)
    description = run.description()
    assert 0.0 < description["step_size"] < math.inf
    assert 0.0 < description["trajectory_length"] < math.inf
    assert run.state.position.isfinite().all()


def test_without_warm_up_it_samples():
    draws, run, _ = run_of(Gaussian(torch.ones(2)), torch.zeros(4, 2), 0, 3)
    assert draws.isfinite().all()
    assert run.description()["inverse_mass"] is None


def test_one_chain_is_one_line():
    with pytest.raises(ValueError, match=r"ChEES: needs at least 2 chains.*\(1, 3\); take more chains, or HMC"):
        ChEESAlgorithm().start(Gaussian(torch.ones(3)), torch.zeros(1, 3), 10, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mass": "full"}, "mass must be auto, diagonal, dense or None, got 'full'"),
        ({"target_acceptance": 1.0}, "target_acceptance must be between 0 and 1, got 1.0"),
        ({"max_steps": 0}, "max_steps must be positive, got 0"),
    ],
)
def test_a_bad_option_is_one_line(options, message):
    with pytest.raises(ValueError, match=f"ChEES: {message}"):
        ChEESAlgorithm(**options)


def test_seeds_give_other_draws():
    draws = [run_of(Gaussian(torch.ones(2)), torch.zeros(4, 2), 5, 3, seed=seed)[0] for seed in (1, 2, 1)]
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])
    assert step_seed(1, 0) != step_seed(2, 0)
