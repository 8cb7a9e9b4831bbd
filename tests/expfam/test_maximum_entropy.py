"""Maximum entropy: distributions known in closed form, and what is attainable decided and explained."""

import math
import runpy
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvi.expfam import Gamma, Grid, Ising, VonMises, attainable, max_entropy
from support.families import CASES

DOUBLE = torch.float64
EXAMPLE = Path(__file__).parents[2] / "examples" / "maximum_entropy.py"


def double(*values):
    return torch.tensor(values, dtype=DOUBLE)


def powers(x):
    return torch.stack([x, x.square()], -1)


def pairs(x):
    first, second = torch.triu_indices(x.shape[1], x.shape[1], 1)
    return torch.cat([x, x[:, first] * x[:, second]], -1)


# Distributions that are known


@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (3.0, 0.25), (-1.0, 9.0)])
def test_gaussian(mean, variance):
    """Of mean and variance on the line."""
    scale = math.sqrt(variance)
    line = Grid.interval(mean - 14.0 * scale, mean + 11.0 * scale, open_ends=(True, True))
    found = max_entropy(powers, double(mean, mean**2 + variance), line)
    torch.testing.assert_close(found.eta, double(mean / variance, -0.5 / variance), rtol=1e-8, atol=1e-8)
    assert found.entropy.item() == pytest.approx(0.5 * math.log(2.0 * math.pi * math.e * variance), abs=1e-8)
    expected = torch.distributions.Normal(mean, scale).log_prob(line.points)
    torch.testing.assert_close(found.log_density, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("mean", [0.2, 1.0, 5.0])
def test_exponential(mean):
    """Of a mean on the half line."""
    line = Grid.interval(0.0, 60.0 * mean, open_ends=(False, True))
    found = max_entropy(lambda x: x, torch.tensor(mean, dtype=DOUBLE), line)
    torch.testing.assert_close(found.eta, double(-1.0 / mean), rtol=1e-8, atol=1e-8)
    assert found.entropy.item() == pytest.approx(1.0 + math.log(mean), abs=1e-8)


def test_gamma_and_von_mises():
    """Of the means of x and log x; of an angle's mean direction."""
    eta = double(3.0, -2.0)
    line = Grid.interval(0.0, 60.0, 4000, open_ends=(False, True))
    found = max_entropy(lambda x: torch.stack([x.log(), x], -1), Gamma().mean_parameters(eta), line)
    torch.testing.assert_close(found.eta, double(2.0, -2.0), rtol=1e-8, atol=1e-8)  # shape - 1: h is 1 here
    torch.testing.assert_close(found.entropy, Gamma().entropy(eta), rtol=1e-8, atol=1e-8)
    eta = double(1.0, -2.0)
    circle = Grid.interval(-math.pi, math.pi)
    found = max_entropy(VonMises().statistics, VonMises().mean_parameters(eta), circle)
    torch.testing.assert_close(found.eta, eta, rtol=1e-8, atol=1e-8)


@settings(max_examples=10, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_ising(seed):
    """Of the means of spins and of their products."""
    (case,) = (case for case in CASES if isinstance(case.family, Ising))
    eta = case.eta(seed)
    found = max_entropy(pairs, case.family.mean_parameters(eta), case.family.states)
    torch.testing.assert_close(found.eta, eta, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.entropy, case.family.entropy(eta), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.probabilities, case.family.probabilities(eta), rtol=1e-8, atol=1e-10)


def test_twelve_spins():
    ising = Ising(12)
    generator = torch.Generator().manual_seed(3)
    eta = 0.3 * torch.randn(ising.num_statistics, generator=generator, dtype=DOUBLE)
    found = max_entropy(pairs, ising.mean_parameters(eta), ising.states)
    torch.testing.assert_close(found.eta, eta, rtol=1e-8, atol=1e-8)


def test_uniform_where_moments_say_nothing():
    """A fair die, and a density on an interval."""
    faces = torch.arange(1.0, 7.0, dtype=DOUBLE)
    found = max_entropy(lambda x: x, torch.tensor(3.5, dtype=DOUBLE), faces)
    torch.testing.assert_close(found.probabilities, torch.full((6,), 1.0 / 6.0, dtype=DOUBLE))
    assert found.entropy.item() == pytest.approx(math.log(6.0))
    found = max_entropy(powers, double(1.0, 4.0 / 3.0), Grid.interval(0.0, 2.0))
    assert found.entropy.item() == pytest.approx(math.log(2.0))
    torch.testing.assert_close(found.eta, double(0.0, 0.0), rtol=0.0, atol=1e-8)


def test_the_moments_are_reached_and_scale_does_not_matter():
    """Statistics of sizes from 1e-6 to 1e12, and two that depend on each other."""
    x = torch.linspace(0.0, 1.0, 50, dtype=DOUBLE)
    plain = max_entropy(lambda x: torch.stack([x, x**2], -1), double(0.4, 0.2), x)
    torch.testing.assert_close(plain.moments, double(0.4, 0.2), rtol=1e-12, atol=0.0)
    scaled = max_entropy(lambda x: torch.stack([1e12 * x + 3.0, 1e-6 * x**2], -1), double(0.4e12 + 3.0, 0.2e-6), x)
    torch.testing.assert_close(scaled.probabilities, plain.probabilities, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(scaled.eta * double(1e12, 1e-6), plain.eta, rtol=1e-8, atol=1e-8)
    twice = max_entropy(lambda x: torch.stack([x, x**2, x - x**2], -1), double(0.4, 0.2, 0.2), x)
    torch.testing.assert_close(twice.probabilities, plain.probabilities, rtol=1e-9, atol=1e-12)


def test_the_entropy_falls_along_the_natural_parameters():
    """d entropy / d moments = -eta, and the second derivative is minus the inverse Fisher information."""
    moments = double(0.4, 0.25).requires_grad_()
    x = torch.linspace(0.0, 1.0, 20, dtype=DOUBLE)
    found = max_entropy(powers, moments, x)
    (slope,) = torch.autograd.grad(found.entropy, moments, create_graph=True)
    torch.testing.assert_close(slope, -found.eta)
    assert torch.autograd.gradcheck(lambda m: max_entropy(powers, m, x).probabilities, (moments,))
    assert torch.autograd.gradgradcheck(lambda m: max_entropy(powers, m, x).entropy, (moments,))


# What is attainable


@settings(max_examples=15, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 4), count=st.integers(6, 30))
def test_inside_on_the_boundary_and_outside(seed, size, count):
    """Of random points: a mean of all of them, a vertex, what is beyond the vertex."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn((count, size), generator=generator, dtype=DOUBLE)
    weights = torch.rand(count, generator=generator, dtype=DOUBLE) + 0.05
    inside = weights @ table / weights.sum()
    points = torch.arange(count)
    found = max_entropy(table, inside, points)
    torch.testing.assert_close(found.moments, inside, rtol=1e-9, atol=1e-9)
    assert attainable(table, inside, points).status == "inside"
    vertex = table[torch.argmax(table @ torch.randn(size, generator=generator, dtype=DOUBLE))]
    at_vertex = attainable(table, vertex, points)
    assert at_vertex.status == "boundary"
    assert at_vertex.direction is not None
    products = (table - vertex) @ at_vertex.direction
    assert products.max() <= 1e-8
    assert products.min() < -1e-3
    beyond = vertex + 0.01 * (vertex - table.mean(0))
    outside = attainable(table, beyond, points)
    assert outside.status == "outside"
    assert outside.direction is not None
    assert ((table - beyond) @ outside.direction).max() < 0.0
    for moments, status in ((vertex, "on the boundary: "), (beyond, "outside: ")):
        with pytest.raises(ValueError, match=f"max_entropy: moments: {status}"):
            max_entropy(table, moments, points)


@pytest.mark.parametrize(
    ("moments", "message"),
    [
        ([1.5, 0.0, 0.0], "outside: statistic 0 is at most 1 on the support, its mean cannot be 1.5"),
        ([0.0, -1.5, 0.0], "outside: statistic 1 is at least -1 on the support, its mean cannot be -1.5"),
        ([0.9, 0.9, -0.5], r"outside: T0 \+ T1 - T2 is at most 1 on the support, its mean cannot be 2.3"),
        (
            [0.4, 0.4, 1.0],
            r"on the boundary: .* is at most 1 on the support and has that mean, so that 1 of 4 points or more have "
            "probability 0 and no finite natural parameters exist",
        ),
        (
            [0.5, 0.0, -0.5],
            r"on the boundary: T0 \+ T1 - T2 is at most 1 on the support and has that mean, so that 1 of 4",
        ),
    ],
)
def test_two_spins(moments, message):
    """The marginal polytope of two spins is a tetrahedron: its faces are the explanations."""
    ising = Ising(2)
    for call in (
        lambda: max_entropy(pairs, double(*moments), ising.states),
        lambda: ising.natural_parameters(double(*moments)),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_moments_that_contradict_each_other():
    """Statistics that depend on each other, with means that do not."""
    x = torch.linspace(0.0, 1.0, 9, dtype=DOUBLE)
    with pytest.raises(ValueError, match=r"outside: .* its mean cannot be"):
        max_entropy(lambda x: torch.stack([x, 2.0 * x], -1), double(0.4, 0.7), x)
    with pytest.raises(ValueError, match="outside: statistic 0 is at most 2 on the support, its mean cannot be 3"):
        max_entropy(lambda x: 0.0 * x + 2.0, double(3.0), x)
    found = max_entropy(lambda x: 0.0 * x + 2.0, double(2.0), x)
    assert found.entropy.item() == pytest.approx(math.log(9.0))


def test_near_the_boundary():
    """A bit that is 1 with probability 1 - 1e-6 has natural parameters; certainty has none."""
    bits = double(0.0, 1.0)
    found = max_entropy(lambda x: x, double(1.0 - 1e-6), bits)
    assert found.eta.item() == pytest.approx(math.log((1.0 - 1e-6) / 1e-6), rel=1e-8)
    with pytest.raises(ValueError, match="on the boundary: T0 is at most 1 on the support"):
        max_entropy(lambda x: x, double(1.0), bits)
    with pytest.raises(ValueError, match="on the boundary: - T0 is at most 0 on the support"):
        max_entropy(lambda x: x, double(0.0), bits)


def test_densities_that_do_not_fall_off():
    """E x^2 > 2 (E x)^2 on the half line: the supremum of the entropy is not attained there."""
    line = Grid.interval(0.0, 40.0, open_ends=(False, True))
    with pytest.raises(
        ValueError, match=r"max_entropy: at the last point of the grid .* of the largest density is left"
    ):
        max_entropy(powers, double(1.0, 2.5), line)
    assert max_entropy(powers, double(1.0, 1.5), line).eta[1] < 0.0
    with pytest.raises(ValueError, match="max_entropy: at the first point of the grid"):
        max_entropy(powers, double(0.0, 1.0), Grid.interval(-3.0, 12.0, open_ends=(True, True)))


def test_without_scipy(monkeypatch):
    """What is attainable is found; why not is a question of SciPy."""
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    bits = double(0.0, 1.0)
    assert max_entropy(lambda x: x, double(0.5), bits).eta.item() == pytest.approx(0.0)
    with pytest.raises(
        ValueError,
        match=r'no natural parameters .* needs SciPy, which is not installed: pip install "fastvi\[expfam\]"',
    ):
        max_entropy(lambda x: x, double(1.0), bits)
    with pytest.raises(ImportError, match="to decide what is attainable needs SciPy"):
        attainable(lambda x: x, double(1.0), bits)


def test_the_example(tmp_path, capsys, monkeypatch):
    """Its short form: pairs explain more than means alone, and less than the patterns themselves."""
    example = runpy.run_path(str(EXAMPLE))
    for _, found, known in example["densities"]():
        torch.testing.assert_close(found, known, rtol=1e-8, atol=1e-8)
    pixels = example["compare"](example["digits"](4))
    assert pixels.independent > pixels.pairwise > pixels.observed > 0.0
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--pixels", "4", "--out", str(tmp_path / "picture.png")])
    example["main"]()
    assert f"4 pixels, entropy in nats: {pixels.independent:.3f} independent" in capsys.readouterr().out
    assert (tmp_path / "picture.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: max_entropy(powers, double(1.0), double(0.0, 1.0)),
            ValueError,
            r"moments have shape \(1,\), expected \(2",
        ),
        (lambda: max_entropy(powers, [1.0, 2.0], double(0.0, 1.0)), TypeError, "moments must be a tensor, got list"),
        (lambda: max_entropy(powers, double(1.0), [0.0]), TypeError, "support must be a tensor, got list"),
        (
            lambda: max_entropy(lambda x: x.sum(), double(1.0), double(0.0, 1.0)),
            ValueError,
            r"statistics must be \(S, n\) for S = 2 points, got the shape \(\)",
        ),
        (lambda: max_entropy(powers, double(1.0, math.nan), double(0.0, 1.0)), ValueError, "moments must be finite"),
        (lambda: max_entropy(torch.log, double(1.0), double(0.0, 1.0)), ValueError, "statistics must be finite"),
        (lambda: max_entropy(powers, double(1.0, 1.0), double()), ValueError, r"support must have the shape \(S,\) or"),
        (lambda: Grid(double(0.0, 1.0), double(1.0)), ValueError, r"points and weights must have the shapes \(S,\) or"),
        (
            lambda: Grid(double(0.0).unsqueeze(0), double(1.0), (True, False)),
            ValueError,
            r"Grid: open_ends are those of a line, and points have the shape \(1, 1\)",
        ),
        (lambda: Grid(double(0.0), double(-1.0)), ValueError, "Grid: weights must be positive"),
        (lambda: Grid.interval(1.0, 0.0), ValueError, "Grid.interval: low and high must be finite and low < high"),
    ],
)
def test_bad_input_is_one_line(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
