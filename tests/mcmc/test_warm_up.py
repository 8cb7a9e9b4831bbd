"""Warm-up: dual averaging, Welford's sums, windows, the first step size; interrupted and resumed, it is the same."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
import torch

from fastvi.mcmc import (
    HMC,
    MALA,
    DualAveraging,
    HMCAlgorithm,
    MALAAlgorithm,
    RunningCovariance,
    WarmUp,
    as_target,
    reasonable_step_size,
    step_seed,
    warm_up,
    windows,
)

SCALES = torch.tensor([0.1, 1.0, 10.0, 2.0])


def gaussian(q):
    return -0.5 * (q / SCALES.to(q.dtype)).square().sum(-1)


def start(kernel, num_chains=64, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return kernel.init(torch.randn(num_chains, 4, generator=generator).to(dtype) * SCALES)


# Dual averaging


def check_dual_averaging(update_of):
    """Algorithm 5 of Hoffman and Gelman 2014, written with their names: log steps and averages of 50 updates."""
    averaging = DualAveraging(target=0.7, gamma=0.1, t0=5.0, kappa=0.6)
    first, acceptance = 0.3, np.random.default_rng(1).uniform(size=50)
    state, update = update_of(averaging, first)
    mu, h_bar, log_eps_bar = math.log(10.0 * first), 0.0, 0.0
    for m, alpha in enumerate(acceptance, 1):
        h_bar = (1.0 - 1.0 / (m + 5.0)) * h_bar + (0.7 - alpha) / (m + 5.0)
        log_eps = mu - math.sqrt(m) / 0.1 * h_bar
        eta = m**-0.6
        log_eps_bar = eta * log_eps + (1.0 - eta) * log_eps_bar
        state = update(state, alpha)
        assert state.step_size == pytest.approx(math.exp(log_eps), rel=1e-12)
        assert state.averaged_step_size == pytest.approx(math.exp(log_eps_bar), rel=1e-12)


def ours(averaging, first):
    return averaging.init(first), averaging.update


def centred_at_ten_times_the_step(averaging, first):
    """The logarithm forgotten: log steps would shrink towards 10 eps_0."""
    return averaging.init(first)._replace(centre=10.0 * first), averaging.update


def test_dual_averaging_is_the_papers_and_a_wrong_centre_is_caught():
    check_dual_averaging(ours)
    with pytest.raises(AssertionError):
        check_dual_averaging(centred_at_ten_times_the_step)


def test_dual_averaging_of_chains_is_that_of_each():
    averaging, first = DualAveraging(), torch.tensor([0.1, 1.0, 5.0])
    together, alone = averaging.init(first), [averaging.init(each.item()) for each in first]
    for t in range(20):
        acceptance = torch.tensor([0.5 + 0.02 * t, 0.9, 0.1 * (t % 3)]).double()
        together = averaging.update(together, acceptance)
        alone = [averaging.update(state, each.item()) for state, each in zip(alone, acceptance, strict=True)]
    torch.testing.assert_close(together.step_size, torch.tensor([each.step_size for each in alone]).double())
    averages = torch.tensor([each.averaged_step_size for each in alone]).double()
    torch.testing.assert_close(together.averaged_step_size, averages)


def check_takes_probabilities(warming):
    """The steps that a warm-up makes are those of dual averaging on the mean probability of acceptance."""
    info = warming.step(1)
    state = warming._averaging.init(
        reasonable_step_size(warming_kernel(), start(warming_kernel()), WarmUp.search_seed(1))
    )
    for t in range(2, 10):
        state = warming._averaging.update(state, info.acceptance_probability.mean().item())
        assert warming.kernel.step_size == pytest.approx(state.step_size, rel=1e-9)
        info = warming.step(t)


def warming_kernel():
    return HMC(as_target(gaussian), 1.0, 3)


class ByIndicators(WarmUp):
    def _acceptance(self, info):
        return info.is_accepted.double().mean().item()


def test_adaptation_takes_the_probability_and_not_whether_it_was_accepted():
    kernel = warming_kernel()
    check_takes_probabilities(WarmUp(kernel, start(kernel), 12))
    with pytest.raises(AssertionError):
        check_takes_probabilities(ByIndicators(kernel, start(kernel), 12))


@pytest.mark.parametrize(
    ("kind", "target", "per_chain"),
    [(HMC, 0.8, False), (HMC, 0.95, False), (HMC, 0.8, True)]
    + [(MALA, target, per_chain) for target in (0.574, 0.8, 0.95) for per_chain in (False, True)],
)
def test_acceptance_comes_to_its_target(kind, target, per_chain):
    """The mean over 64 chains in 30 dimensions and 100 steps after 300 of warm-up.

    The average that dual averaging settles on need not have the average acceptance: 0.05 is what that may make.
    """
    scales = torch.logspace(-1.0, 1.0, 30)
    log_density = as_target(lambda q: -0.5 * (q / scales).square().sum(-1))
    kernel = HMC(log_density, 1.0, 3) if kind is HMC else MALA(log_density, 1.0)
    state = kernel.init(scales * torch.ones(64, 30))
    kernel, state, trace = warm_up(kernel, state, 300, seed=3, target_acceptance=target, per_chain_step_size=per_chain)
    total = 0.0
    for t in range(100):
        state, info = kernel.step(state, step_seed(4, t))
        total += info.acceptance_probability.mean().item()
    assert total / 100 == pytest.approx(target, abs=0.05)
    assert trace.step_size.shape == ((300, 64) if per_chain else (300,))
    assert trace.acceptance_probability.shape == trace.num_divergent.shape == (300,)


def test_each_chain_finds_its_own_step_size():
    """Chain c's density is a standard normal times its scale: so are the step sizes, within a quarter."""
    scales = torch.logspace(-1.0, 1.0, 16).double()
    target = as_target(lambda q: -0.5 * (q / scales.unsqueeze(-1)).square().sum(-1))
    kernel = HMC(target, 1.0, 3)
    state = kernel.init(scales.unsqueeze(-1) * torch.ones(16, 5, dtype=torch.float64))
    kernel, *_ = warm_up(kernel, state, 300, seed=1, mass=None, per_chain_step_size=True)
    ratio = kernel.step_size / scales
    assert kernel.step_size.shape == (16,)
    assert (ratio / ratio.log().mean().exp()).log().abs().max() < math.log(1.25)


# The first step size


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("first", [1e-3, 1.0, 1e3])
def test_the_first_step_size_has_the_densitys_scale(scale, first):
    kernel = HMC(as_target(lambda q: -0.5 * (q / scale).square().sum(-1)), first, 7)
    state = kernel.init(torch.zeros(64, 4, dtype=torch.float64))
    step_size = reasonable_step_size(kernel, state, seed=1)
    assert 0.2 * scale < step_size < 4.0 * scale
    # Acceptance crosses 0.8 between this step size and one a factor of two beside.
    acceptance = [
        HMC(kernel.target, step_size * factor, 1).step(state, 5)[1].acceptance_probability.mean().item()
        for factor in (0.4, 2.5)
    ]
    assert acceptance[0] > 0.8 > acceptance[1]


def test_a_density_without_scale_is_refused():
    flat = HMC(as_target(lambda q: 0.0 * q.sum(-1)), 1.0, 1)
    with pytest.raises(ValueError, match="steps of any size are accepted, so the log density does not fall"):
        reasonable_step_size(flat, flat.init(torch.zeros(4, 2)), 0)

    class Wrong:
        """A gradient that is not that of the log density."""

        is_target = True

        def __call__(self, q):
            return torch.where(q[:, 0] == 0.0, 0.0, -1e3), torch.zeros_like(q)

    wrong = HMC(Wrong(), 1.0, 1)
    with pytest.raises(ValueError, match="steps of no size are accepted: is the gradient"):
        reasonable_step_size(wrong, wrong.init(torch.zeros(4, 2)), 0)


# Mass


@pytest.mark.parametrize("is_dense", [False, True])
def test_welford_is_the_two_pass_covariance(is_dense):
    """Of values far from 0, in batches of different sizes."""
    generator = torch.Generator().manual_seed(2)
    batches = [1e4 + torch.randn(count, 3, generator=generator).double() * SCALES[:3] for count in (1, 5, 64, 2)]
    covariance = RunningCovariance(is_dense)
    state = covariance.init(batches[0])
    for batch in batches:
        state = covariance.update(state, batch)
    pooled = torch.cat(batches).numpy()
    expected = torch.as_tensor(np.cov(pooled.T) if is_dense else pooled.var(0, ddof=1))
    torch.testing.assert_close(covariance.covariance(state), expected, rtol=1e-9, atol=1e-10)
    identity = torch.eye(3, dtype=torch.float64) if is_dense else torch.ones(3, dtype=torch.float64)
    regularised = (72.0 * expected + 5.0 * 1e-3 * identity) / 77.0
    torch.testing.assert_close(covariance.inverse_mass(state), regularised, rtol=1e-9, atol=1e-10)
    assert state.num_positions == 72


@pytest.mark.parametrize("mass", ["diagonal", "dense"])
def test_the_mass_becomes_the_covariance(mass):
    mixing = torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.5, 0.0], [-1.0, 0.3, 4.0]], dtype=torch.float64)
    covariance = mixing @ mixing.T
    precision = covariance.inverse()
    kernel = HMC(as_target(lambda q: -0.5 * (q * (q @ precision)).sum(-1)), 1.0, 6)
    kernel, *_ = warm_up(kernel, kernel.init(torch.zeros(64, 3, dtype=torch.float64)), 300, seed=2, mass=mass)
    expected = covariance if mass == "dense" else covariance.diagonal()
    # 64 chains and 200 positions each: some thousand effective draws, of a relative error of a few per cent.
    torch.testing.assert_close(kernel.inverse_mass, expected, rtol=0.15, atol=0.3)


def test_without_a_mass_the_kernels_own_stays():
    own = torch.full((4,), 2.0, dtype=torch.float64)
    kernel = HMC(as_target(gaussian), 1.0, 3, own)
    assert warm_up(kernel, start(kernel), 200, seed=1, mass=None)[0].inverse_mass is own


def test_windows_cover_warm_up_exactly():
    for num_steps in (*range(330), 1000, 1234):
        found = windows(num_steps)
        edges = [0, *(window.end for window in found)]
        assert [window.start for window in found] == edges[:-1]
        assert edges[-1] == num_steps
        assert all(window.end > window.start for window in found)
        adapts = [window.adapts_mass for window in found]
        assert adapts == ([False, *[True] * (len(found) - 2), False] if num_steps >= 40 else [False] * len(found))
        sizes = [window.end - window.start for window in found[1:-1]]
        assert all(later >= 2 * earlier for earlier, later in itertools.pairwise(sizes))


def test_windows_are_stans():
    assert [window.end for window in windows(1000)] == [75, 100, 150, 250, 450, 950, 1000]
    assert [window.end for window in windows(100)] == [15, 90, 100]


# A warm-up and a run as a whole


@pytest.mark.parametrize("stop", [0, 40, 90, 150])
@pytest.mark.parametrize("mass", ["diagonal", "dense"])
@pytest.mark.parametrize("per_chain", [False, True])
def test_a_run_that_was_interrupted_goes_on_as_it_would_have(stop, mass, per_chain):
    algorithm = HMCAlgorithm(num_steps=3, mass=mass, per_chain_step_size=per_chain)
    target, position, num_warmup = as_target(gaussian), start(warming_kernel(), 8).position, 120

    def advance(run, first, last):
        for t in range(first, last):
            run.warm_step(t) if t < num_warmup else run.sample_step(t - num_warmup)

    whole = algorithm.start(target, position, num_warmup, seed=5)
    advance(whole, 0, 160)
    part = algorithm.start(target, position, num_warmup, seed=5)
    advance(part, 0, stop)
    saved = pickle.dumps(part.state_dict())
    resumed = algorithm.start(target, torch.zeros_like(position), num_warmup, seed=5)
    resumed.load_state_dict(pickle.loads(saved))
    advance(resumed, stop, 160)
    for expected, found in zip(whole.state, resumed.state, strict=True):
        assert torch.equal(expected, found)
    for name, value in whole.description().items():
        torch.testing.assert_close(resumed.description()[name], value, rtol=0.0, atol=0.0)


def test_a_run_of_another_seed_is_another():
    target, position = as_target(gaussian), start(warming_kernel(), 8).position
    runs = [HMCAlgorithm(step_size=0.05).start(target, position, 0, seed) for seed in (1, 1, 2)]
    ends = [run.sample_step(0)[0].position for run in runs]
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_warm_up_and_sampling_share_no_noise():
    target, position = as_target(lambda q: -0.5 * q.square().sum(-1)), torch.zeros(4, 2)
    infos = []
    for step in ("warm_step", "sample_step"):
        run = MALAAlgorithm(mass=None).start(target, position, 1, 1)
        infos.append(getattr(run, step)(0)[1])
    assert not torch.equal(infos[0].start_momentum, infos[1].start_momentum)


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_numbers_of_steps_are_spread_about_their_mean(jitter):
    run = HMCAlgorithm(num_steps=8, jitter=jitter).start(as_target(gaussian), start(warming_kernel(), 2).position, 0, 0)
    counts = [run.sample_step(t)[1].num_steps for t in range(64)]
    assert abs(sum(counts) / 64 - 8.0) < 0.5
    assert min(counts) == max(1, round(8 * (1 - jitter))) or jitter > 0.0
    assert max(counts) <= 8 * (1 + jitter)
    assert len(set(counts)) > 5 * jitter


def test_all_of_it_moves_chains_of_float32_to_the_right_moments():
    """From starts ten scales off: every fourth of 100 steps of 64 chains, within 4.9 standard errors of 64 draws."""
    run = HMCAlgorithm(num_steps=6).start(as_target(gaussian), 10.0 * SCALES * torch.ones(64, 4), 300, seed=8)
    for t in range(300):
        run.warm_step(t)
    draws = torch.stack([run.sample_step(t)[0].position for t in range(100)])[::4] / SCALES
    assert draws.dtype == torch.float32
    for moment, expected, sd in ((draws, 0.0, 1.0), (draws.square(), 1.0, math.sqrt(2.0))):
        assert (moment.mean((0, 1)) - expected).abs().max() < 4.9 * sd / math.sqrt(64)


def test_a_warm_up_is_the_same_for_any_number_of_threads():
    """To the bit with a diagonal mass: its sums over chains are large enough to be shared by threads."""
    target = as_target(lambda q: -0.5 * (q * q * torch.linspace(0.5, 3.0, 9)).sum(-1))
    kernel = HMC(target, 1.0, 2)
    threads, ends = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            ends.append(warm_up(kernel, kernel.init(torch.zeros(4096, 9)), 40, seed=1)[:2])
    finally:
        torch.set_num_threads(threads)
    (one, at_one), (two, at_two) = ends
    assert one.step_size == two.step_size
    assert torch.equal(one.inverse_mass, two.inverse_mass)
    assert torch.equal(at_one.position, at_two.position)


@pytest.mark.parametrize("mass", ["diagonal", "dense"])
def test_step_sizes_that_stay_on_a_device_are_the_same_numbers(mass):
    """What a device other than the CPU gets, tensors without dimensions, beside Python's numbers."""
    kernel = warming_kernel()
    numbers, tensors = (WarmUp(kernel, start(kernel), 60, mass=mass) for _ in range(2))
    tensors._keeps_tensors = True
    for t in range(60):
        numbers.step(t)
        tensors.step(t)
        assert tensors.kernel.step_size.shape == ()
        assert tensors.kernel.step_size.item() == pytest.approx(numbers.kernel.step_size, rel=1e-6)
    torch.testing.assert_close(tuple(tensors.state), tuple(numbers.state), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mass": "full"}, "dense or None, got 'full'"),
        ({"target_acceptance": 1.0}, "target_acceptance must be between 0 and 1, got 1.0"),
    ],
)
def test_wrong_options_of_a_warm_up(options, message):
    kernel = warming_kernel()
    with pytest.raises(ValueError, match=message):
        WarmUp(kernel, start(kernel), 10, **options)
    with pytest.raises(ValueError, match=message):
        HMCAlgorithm(**options).start(kernel.target, start(kernel).position, 10, 0)


@pytest.mark.parametrize(("options", "message"), [({"num_steps": 0}, "num_steps"), ({"jitter": 1.5}, "jitter must be")])
def test_wrong_options_of_an_algorithm(options, message):
    with pytest.raises(ValueError, match=message):
        HMCAlgorithm(**options)


def test_more_steps_than_the_warm_up_has():
    kernel = warming_kernel()
    warming = WarmUp(kernel, start(kernel), 1)
    warming.step(0)
    with pytest.raises(ValueError, match="all of its 1 steps are done"):
        warming.step(1)


def test_a_callback_sees_every_step():
    kernel, seen = warming_kernel(), []
    kernel, state, _ = warm_up(kernel, start(kernel), 25, 1, callback=lambda *arguments: seen.append(arguments))
    assert [each[0] for each in seen] == list(range(25))
    assert seen[-1][1] is kernel
    assert seen[-1][2] is state
