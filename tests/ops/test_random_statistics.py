"""The draws put to statistical test: their distribution, its tails, and the independence of whatever lies near.

Seeds are fixed, so that a test passes always or never. All p-values of a test go through ``assert_plausible`` together:
a right generator fails a test for at most one seed in a million (``FALSE_ALARM``), and any of these less than a hundred
tests for fewer than one seed in ten thousand. ``pytest tests/ops/test_random_statistics.py -rP`` prints the p-values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import scipy.fft
import scipy.integrate
import scipy.stats
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

import fastvi
from support.operations import SEED
from support.place import place

Array = NDArray[np.float64]

FALSE_ALARM = 1e-6
"""Fraction of seeds for which a test of a right generator may fail."""

COUNT = 10_000_000


def assert_plausible(**p_values: ArrayLike) -> None:
    """Fail if the smallest of n p-values is not above ``FALSE_ALARM / n``: Bonferroni's bound, however they depend."""
    everything = np.concatenate([np.ravel(each) for each in p_values.values()])
    for name, each in p_values.items():
        print(f"{name}: p = {np.min(each):.3g}, the smallest of {np.size(each)}")
    smallest = everything.min()
    assert smallest > FALSE_ALARM / everything.size, f"p = {smallest:.3g} among {everything.size} p-values"


# Statistics: each takes a sample, and returns the p-values that it has if the sample is what it should be.


def both_sides(at_most: ArrayLike, at_least: ArrayLike) -> Array:
    """Two-sided p-values from the probabilities of no more and of no less than what was found."""
    return np.minimum(1.0, 2.0 * np.minimum(at_most, at_least))


def of_z(z: ArrayLike) -> Array:
    """Two-sided p-values of standard normal statistics."""
    return 2.0 * ndtr(-np.abs(z))


def kolmogorov_smirnov(uniform: Array) -> Array:
    """Of sorted numbers that should be uniform; numbers that are too even are as implausible as uneven ones."""
    count = uniform.size
    rank = np.arange(count)
    distance = max(((rank + 1) / count - uniform).max(), (uniform - rank / count).max())
    law = scipy.stats.kstwo(count)
    return both_sides(law.cdf(distance), law.sf(distance))


def anderson_darling(below: Array, above: Array) -> float:
    """Of the distribution function at sorted numbers, and of one minus it."""
    count = below.size
    weight = (2 * np.arange(count) + 1) / count
    return anderson_darling_survival(-count - np.dot(weight, np.log(below) + np.log(above[::-1])))


def anderson_darling_survival(statistic: float) -> float:
    """P(A^2 > statistic) for very many numbers.

    A^2 tends to the sum over j of Z_j^2 / (j (j + 1)), whose characteristic function is in closed form (Anderson and
    Darling 1952, Annals of Mathematical Statistics 23). Smirnov's formula (1937) for such a sum is an alternating
    series of integrals over [m_(2k-1), m_2k], m_j = j (j + 1). With 1 + 4 u = (4 k + s)^2 each is one over -1 < s < 1,
    and its integrand is smooth but for (1 - s^2)^(-1/2): Gauss-Chebyshev nodes.
    """
    k = np.arange(1, 40)[:, None]
    s = np.cos((np.arange(64) + 0.5) * np.pi / 64)
    v = 4 * k + s
    u = (v * v - 1) / 4
    integrand = np.exp(-statistic * u / 2) * np.sqrt(np.pi * (1 - s * s) / (u * np.cos(np.pi * s / 2))) * v / 2
    return float(((-1.0) ** (k + 1) * integrand).sum() / s.size)


def goodness_of_fit(draws: NDArray[np.floating]) -> dict[str, ArrayLike]:
    """Kolmogorov-Smirnov and Anderson-Darling for N(0, 1)."""
    ordered = np.sort(draws, axis=None).astype(np.float64)
    below, above = ndtr(ordered), ndtr(-ordered)
    return {"Kolmogorov-Smirnov": kolmogorov_smirnov(below), "Anderson-Darling": anderson_darling(below, above)}


def magnitude(draws: Array) -> Array:
    """The squares, with mean 0 and variance 1."""
    return (draws * draws - 1.0) / np.sqrt(2.0)


def correlation(first: Array, second: Array) -> Array:
    """Of two arrays of N(0, 1) numbers that should be independent, and of their squares.

    Sums of products are normal in the limit: with 10^5 of them, a p-value of 10^-6 is right within a factor of two.
    """
    pairs = ((first, second), (magnitude(first), magnitude(second)))
    return of_z([np.vdot(a, b) / np.sqrt(first.size) for a, b in pairs])


def correlation_at_any_lag(first: Array, second: Array) -> Array:
    """A p-value for each shift, up to half the length and in both directions, of one sample against the other.

    A sample against itself is shifted in one direction, and by at least one.
    """
    count = first.size
    length = scipy.fft.next_fast_len(2 * count, real=True)
    spectrum = np.conj(scipy.fft.rfft(first, length)) * scipy.fft.rfft(second, length)
    products = scipy.fft.irfft(spectrum, length)
    lags = np.arange(count // 2)
    if first is second:
        lags = lags[1:]
        return of_z(products[lags] / np.sqrt(count - lags))
    return of_z(np.stack([products[lags], products[-lags]]) / np.sqrt(count - lags))


def equal_counts(cells: NDArray[np.integer], number: int) -> Array:
    """Chi-squared of numbers in [0, number) that should be equally probable."""
    expected = cells.size / number
    statistic = ((np.bincount(cells.ravel(), minlength=number) - expected) ** 2).sum() / expected
    law = scipy.stats.chi2(number - 1)
    return both_sides(law.cdf(statistic), law.sf(statistic))


def joint_uniformity(first: Array, second: Array, cells: int = 64) -> Array:
    """Of pairs that should be uniform on the unit square."""
    return equal_counts((cells * first).astype(int) * cells + (cells * second).astype(int), cells**2)


def exact_counts(found: ArrayLike, trials: int, probability: ArrayLike) -> Array:
    """Two-sided binomial p-values."""
    law = scipy.stats.binom(trials, probability)
    return both_sides(law.cdf(found), law.sf(np.asarray(found) - 1))


def words(radial: Array, turn: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The 32-bit numbers that float64 pairs were made of; a radius' stands for the middle of its cell."""
    return (2.0**32 * radial).astype(np.int64), np.rint(2.0**32 * turn).astype(np.int64) % 2**32


def equal_bytes(numbers: NDArray[np.int64]) -> Array:
    """Chi-squared of each of the four bytes of 32-bit numbers."""
    return np.array([equal_counts(numbers >> shift & 0xFF, 256) for shift in (0, 8, 16, 24)])


def polar(first: Array, second: Array) -> tuple[Array, Array]:
    """What Box and Muller start from: exp(-radius^2 / 2), and the angle in turns; both should be uniform on [0, 1)."""
    turn = np.arctan2(second, first) / (2 * np.pi)
    return np.exp(-0.5 * (first * first + second * second)), turn - np.floor(turn)


# Samples.


def flat_draws(count: int = COUNT, seed: int = SEED, dtype: torch.dtype = torch.float64) -> NDArray[np.floating]:
    return fastvi.standard_normal(count, seed, dtype=dtype, device=place.device).cpu().numpy()


def noise(
    samples: int = 100,
    rows: int = 2000,
    columns: int = 50,
    seed: int = SEED,
    row_offset: int = 0,
    dtype: torch.dtype = torch.float64,
) -> NDArray[np.floating]:
    """The noise of ``rsample_normal``, (samples, rows, columns); the last quad of a row of 50 is cut."""
    zeros = place.zeros(1, dtype=dtype).expand(rows, columns)
    return fastvi.rsample_normal(zeros, zeros, samples, seed, row_offset).cpu().numpy()


DRAWS: dict[str, Callable[..., NDArray[np.floating]]] = {"standard_normal": flat_draws, "rsample_normal": noise}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("draw", DRAWS)
def test_distribution(draw, dtype):
    draws = DRAWS[draw](dtype=dtype)
    assert draws.size == COUNT
    assert draws.dtype == {torch.float32: np.float32, torch.float64: np.float64}[dtype]
    assert_plausible(**goodness_of_fit(draws))


SURVEYED_CHUNKS = 20
STRETCH = 200_000
FIRST_THRESHOLD = 4.0


class Survey(NamedTuple):
    """What was kept of very many draws."""

    count: int
    power_sums: Array  # of the powers 1 to 4
    tails: Array  # draws beyond FIRST_THRESHOLD
    radii: Array  # of pairs, beyond FIRST_THRESHOLD
    maxima: Array  # of each STRETCH draws in a row
    minima: Array


@pytest.fixture(scope="module")
def survey() -> Survey:
    """2 * 10^8 float32 draws, each chunk with the next seed."""
    power_sums, tails, radii, maxima, minima = np.zeros(4), [], [], [], []
    for chunk in range(SURVEYED_CHUNKS):
        draws = flat_draws(COUNT, SEED + chunk, torch.float32)
        assert np.isfinite(draws).all()
        squares = draws * draws
        # Products of float32 numbers lose up to 6e-8 of each number, without preference: far below the standard errors.
        powers = (draws, squares, squares * draws, squares * squares)
        power_sums += [each.sum(dtype=np.float64) for each in powers]
        tails.append(draws[squares > FIRST_THRESHOLD**2])
        squared_radii = squares[::2] + squares[1::2]
        radii.append(np.sqrt(squared_radii[squared_radii > FIRST_THRESHOLD**2]))
        stretches = draws.reshape(-1, STRETCH)
        maxima.append(stretches.max(1))
        minima.append(stretches.min(1))
    kept = [np.concatenate(each).astype(np.float64) for each in (tails, radii, maxima, minima)]
    return Survey(SURVEYED_CHUNKS * COUNT, power_sums, *kept)


def moments(power_sums: Array, count: int) -> Array:
    """Of the sums of the powers 1 to 4; the variance of x^m is E x^(2m) - (E x^m)^2."""
    means, variances = np.array([0.0, 1.0, 0.0, 3.0]), np.array([1.0, 2.0, 15.0, 96.0])
    return of_z((power_sums / count - means) / np.sqrt(variances / count))


def sides(x: ArrayLike) -> Array:
    """P(X > x) of a draw, which is that of X < -x."""
    return ndtr(-np.asarray(x))


def radius(x: ArrayLike) -> Array:
    """P(R > x) of the radius of a pair."""
    return np.exp(-0.5 * np.square(x))


def exceedances(values: Array, survival: Callable[[ArrayLike], Array], trials: int) -> Array:
    """Numbers of values between 4, 4.5, 5, 5.5 and 6, and beyond, against the exact counts."""
    edges = np.array([4.0, 4.5, 5.0, 5.5, 6.0, np.inf])
    return exact_counts(np.histogram(values, edges)[0], trials, -np.diff(survival(edges)))


def excesses(values: Array, survival: Callable[[ArrayLike], Array], thresholds: tuple[float, ...]) -> Array:
    """How the values beyond each threshold are distributed: Kolmogorov-Smirnov; NaN, never plausible, if none is."""
    beyond = [np.sort(survival(values[values > threshold]) / survival(threshold)) for threshold in thresholds]
    return np.array([kolmogorov_smirnov(each) if each.size else np.nan for each in beyond])


def extremes(maxima: Array, length: int) -> Array:
    """The maxima of stretches of draws: their distribution, and the largest of all. F(max)^n should be uniform."""
    uniform = np.exp(length * np.log1p(-ndtr(-np.sort(maxima))))
    largest = uniform[-1] ** maxima.size
    return np.array([kolmogorov_smirnov(uniform), both_sides(largest, 1.0 - largest)])


def test_moments(survey):
    assert_plausible(moments=moments(survey.power_sums, survey.count))


def test_tails_to_six_sigma(survey):
    """Expected are 6334 draws a side from 4 on, 57 from 5 on, and 0.2 from 6 on.

    The radius of a pair reaches farther: 1.5 of 10^8 pairs have one of 6 or more, 27 one of 5.5 or more.
    """
    right, left, radii = (survey.tails, sides), (-survey.tails, sides), (survey.radii, radius)
    assert_plausible(
        right=exceedances(*right, survey.count),
        left=exceedances(*left, survey.count),
        radius=exceedances(*radii, survey.count // 2),
        right_excess=excesses(*right, (4.0, 4.5, 5.0)),
        left_excess=excesses(*left, (4.0, 4.5, 5.0)),
        radius_excess=excesses(*radii, (4.0, 4.5, 5.0, 5.5)),
    )


def test_extremes(survey):
    """Of 1000 stretches of 200 000 draws each, whose largest number is about 4.5."""
    assert_plausible(
        maxima=extremes(survey.maxima, STRETCH),
        minima=extremes(-survey.minima, STRETCH),
    )


def test_neighbours_in_the_flat_stream():
    draws = flat_draws()
    assert_plausible(lags=[correlation(draws[:-lag], draws[lag:]) for lag in range(1, 33)])


def test_no_lag_repeats():
    """All distances at once: a stream that repeats itself anywhere, or another seed's, shows here."""
    count = 2**20
    draws = flat_draws(count)
    sizes = magnitude(draws)
    next_seed, same_seed = flat_draws(count, SEED + 1), noise(1, 1, count).ravel()
    assert_plausible(
        stream=correlation_at_any_lag(draws, draws),
        squares=correlation_at_any_lag(sizes, sizes),
        next_seed=correlation_at_any_lag(draws, next_seed),
        squares_of_next_seed=correlation_at_any_lag(sizes, magnitude(next_seed)),
        noise_of_same_seed=correlation_at_any_lag(draws, same_seed),
    )


OFFSETS = [
    *((0, 0, lag) for lag in (1, 2, 3, 4, 5, 8)),
    *((0, lag, 0) for lag in (1, 2, 3, 4)),
    *((lag, 0, 0) for lag in (1, 2, 3, 4)),
    *((0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1)),
    *((0, 1, -1), (-1, 0, 1), (-1, 1, 0)),
]
"""Differences in (sample, row, column)."""


def correlation_at(eps: Array, offset: tuple[int, ...]) -> Array:
    ahead = tuple(slice(max(step, 0), min(step, 0) or None) for step in offset)
    behind = tuple(slice(max(-step, 0), min(-step, 0) or None) for step in offset)
    return correlation(eps[ahead], eps[behind])


def test_neighbouring_samples_rows_and_columns():
    eps = noise(20)
    assert_plausible(**{f"sample, row, column {offset}": correlation_at(eps, offset) for offset in OFFSETS})


def test_shards():
    """Rows of other shards, near and as far as two words count them."""
    shape = (20, 1000, 50)
    shard = noise(*shape)
    offsets = [1000, 2000, 2**31, 2**32 - 1000, 2**32, 2**32 + 1000, 2**40, 2**61]
    assert_plausible(
        **{f"rows from {start} on": correlation(shard, noise(*shape, row_offset=start)) for start in offsets}
    )


@pytest.mark.parametrize("draw", DRAWS)
def test_seeds_that_differ_in_one_bit(draw):
    """Any of the 63; the upper 31 go into a word of their own."""

    def sample(seed: int) -> Array:
        return flat_draws(1_000_000, seed) if draw == "standard_normal" else noise(10, seed=seed)

    draws = sample(SEED)
    assert_plausible(seeds=[correlation(draws, sample(SEED ^ 1 << bit)) for bit in range(63)])


def test_seeds_in_a_row():
    """The same few draws of many consecutive seeds are a good sample too."""
    draws = np.stack([flat_draws(64, seed) for seed in range(SEED, SEED + 20_000)])
    assert_plausible(
        **goodness_of_fit(draws),
        **{f"seeds {lag} apart": correlation(draws[:-lag], draws[lag:]) for lag in (1, 2, 3, 4, 8, 16)},
    )


PAIRS = [(i, j) for i in range(4) for j in range(i + 1, 4)]
"""Of the four numbers of a quad; (0, 1) and (2, 3) come out of one Box-Muller transform each."""


@pytest.mark.parametrize("draw", DRAWS)
def test_pairs_of_a_quad(draw):
    """Angles and radii are uniform and independent, in the pairs that were made together and in the others."""
    quads = (flat_draws() if draw == "standard_normal" else noise(columns=40)).reshape(-1, 4)
    p_values = {}
    for i, j in PAIRS:
        radial, angle = polar(quads[:, i], quads[:, j])
        p_values[f"radius of {i, j}"] = kolmogorov_smirnov(np.sort(radial))
        p_values[f"angle of {i, j}"] = kolmogorov_smirnov(np.sort(angle))
        p_values[f"radius and angle of {i, j}"] = joint_uniformity(radial, angle)
    assert_plausible(**p_values)


def test_pairs_of_neighbouring_quads():
    """Radii and angles are uniform together with those of the next pair."""
    radial, angle = polar(*flat_draws().reshape(-1, 2).T)
    assert_plausible(
        radii=joint_uniformity(radial[:-1], radial[1:]),
        angles=joint_uniformity(angle[:-1], angle[1:]),
        radius_and_next_angle=joint_uniformity(radial[:-1], angle[1:]),
        angle_and_next_radius=joint_uniformity(angle[:-1], radial[1:]),
    )


@pytest.mark.parametrize("draw", DRAWS)
def test_every_bit_counts(draw):
    """The bytes of the 32-bit words behind float64 draws: a uniform number of 24 bits would have empty ones."""
    draws = flat_draws(1_000_000) if draw == "standard_normal" else noise(10, columns=40)
    radius_words, angle_words = words(*polar(*draws.reshape(-1, 2).T))
    assert_plausible(radius=equal_bytes(radius_words), angle=equal_bytes(angle_words))


# The tests can fail: each statistic rejects a sample in which a defect was planted.


def good_draws(*shape: int) -> Array:
    """Not our own, so that what is wrong below is what was planted."""
    return np.random.default_rng(1).standard_normal(shape)


def repeated_rows() -> Array:
    draws = good_draws(20, 100, 50)
    draws[:, 1::2] = draws[:, ::2]
    return draws


def sign_flips() -> tuple[Array, Array]:
    """Uncorrelated, and not independent."""
    draws, signs = good_draws(2, 100_000)
    return draws, np.copysign(draws, signs)


def repeated_stretch() -> Array:
    draws = good_draws(100_000)
    draws[50_000:55_000] = draws[20_000:25_000]
    return draws


def uniform_words() -> NDArray[np.int64]:
    return np.random.default_rng(1).integers(2**32, size=100_000)


DEFECTS: dict[str, Callable[[], ArrayLike]] = {
    "Kolmogorov-Smirnov, shifted": lambda: goodness_of_fit(good_draws(100_000) + 0.03)["Kolmogorov-Smirnov"],
    "Kolmogorov-Smirnov, too even": lambda: kolmogorov_smirnov((np.arange(1000) + 0.5) / 1000),
    "Anderson-Darling, scaled": lambda: goodness_of_fit(1.03 * good_draws(100_000))["Anderson-Darling"],
    "Anderson-Darling, cut tails": lambda: goodness_of_fit(good_draws(100_000).clip(-2, 2))["Anderson-Darling"],
    "moments, scaled": lambda: moments(((1.03 * good_draws(100_000)) ** [[1], [2], [3], [4]]).sum(1), 100_000),
    "correlation, shared part": lambda: correlation(*(good_draws(2, 100_000) + 0.2 * good_draws(100_000))),
    "correlation, magnitudes": lambda: correlation(*sign_flips()),
    "neighbours, repeated rows": lambda: correlation_at(repeated_rows(), (0, 1, 0)),
    "any lag, repeated stretch": lambda: correlation_at_any_lag(*[repeated_stretch()] * 2),
    "counts, low bits missing": lambda: equal_bytes(uniform_words() & ~0xFF),
    "counts, too even": lambda: equal_counts(np.arange(25_600) % 256, 256),
    "joint uniformity, equal": lambda: joint_uniformity(*np.random.default_rng(1).random((1, 100_000)).repeat(2, 0)),
    "tails, none": lambda: exceedances(np.array([]), sides, 1_000_000),
    "tails, twice as many": lambda: exceedances(np.full(126, 4.1), sides, 1_000_000),
    "tails, cut": lambda: excesses(np.full(40, 5.5), radius, (5.4,)),
    "extremes, of longer stretches": lambda: extremes(good_draws(200, 4000).max(1), 2000),
    "extremes, one too large": lambda: extremes(np.append(good_draws(200, 2000).max(1), 9.0), 2000),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_are_found(defect):
    with pytest.raises(AssertionError, match="p-values"):
        assert_plausible(defect=DEFECTS[defect]())


def test_no_p_value_is_no_excuse():
    """NaN is not plausible."""
    with pytest.raises(AssertionError):
        assert_plausible(fine=0.5, unknown=np.nan)


def test_anderson_darling_distribution():
    """Its mean 1 and variance 2 (pi^2 - 9) / 3, and the upper 10, 5 and 1 % points of Marsaglia and Marsaglia 2004
    (Journal of Statistical Software 9(2)); the tolerances are float64's after a sum of 40 alternating terms."""
    start = 0.03  # all but 1e-14 of the distribution lies above
    mean = start + scipy.integrate.quad(anderson_darling_survival, start, 60, epsabs=1e-12, limit=500)[0]
    square = (
        start**2
        + scipy.integrate.quad(lambda x: 2 * x * anderson_darling_survival(x), start, 60, epsabs=1e-12, limit=500)[0]
    )
    np.testing.assert_allclose([mean, square - mean**2], [1, 2 * (np.pi**2 - 9) / 3], rtol=1e-10)
    points = (1.9329578327415937, 2.4923671600494096, 3.8781250216053948)
    np.testing.assert_allclose([anderson_darling_survival(x) for x in points], [0.1, 0.05, 0.01], rtol=1e-12)
