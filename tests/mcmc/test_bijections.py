"""Bijections against Jacobian determinants of autograd, round trips, and the density that a uniform one leaves."""

from __future__ import annotations

import math

import pytest
import torch

from fastvi.mcmc.bijections import (
    Bijection,
    Identity,
    Interval,
    LowerBounded,
    Ordered,
    Positive,
    PositiveOrdered,
    Simplex,
    UpperBounded,
)

BOUNDS = torch.tensor([-2.0, 0.5, 3.0], dtype=torch.float64)
ALL = [
    Identity(),
    Positive(),
    LowerBounded(-1.5),
    LowerBounded(BOUNDS),
    UpperBounded(2.5),
    UpperBounded(BOUNDS),
    Interval(),
    Interval(-3.0, 7.0),
    Interval(BOUNDS, BOUNDS + 2.0),
    Simplex(),
    Ordered(),
    PositiveOrdered(),
]


def unconstrained(*shape: int, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def log_determinant(bijection: Bijection, u: torch.Tensor) -> torch.Tensor:
    """Of autograd's Jacobian; of a simplex the first K - 1 parts count."""
    jacobian = torch.autograd.functional.jacobian(bijection.forward, u)
    return torch.linalg.slogdet(jacobian[: len(u)]).logabsdet


@pytest.mark.parametrize("bijection", ALL, ids=str)
def test_log_determinants_are_those_of_the_jacobian(bijection: Bijection) -> None:
    for u in unconstrained(6, 3):
        found = bijection.log_det_jacobian(u).sum()
        torch.testing.assert_close(found, log_determinant(bijection, u), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bijection", ALL, ids=str)
def test_round_trips_and_batches(bijection: Bijection) -> None:
    u = unconstrained(4, 5, 3)
    value = bijection.forward(u)
    assert bijection.contains(value).all()
    assert bijection.unconstrained_shape(tuple(value.shape)) == u.shape
    torch.testing.assert_close(bijection.inverse(value), u, rtol=1e-9, atol=1e-9)
    log_determinants = bijection.log_det_jacobian(u)
    assert log_determinants.shape == (u.shape if bijection.event_dim == 0 else u.shape[:-1])
    torch.testing.assert_close(value[2, 1], bijection.forward(u[2, 1]))
    torch.testing.assert_close(log_determinants[2, 1], bijection.log_det_jacobian(u[2, 1]))


@pytest.mark.parametrize("bijection", ALL, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_out_nothing_is_nan_and_gradients_are_finite(bijection: Bijection, dtype: torch.dtype) -> None:
    """At +-80 exponentials are finite in float32, probabilities round to 0 and 1, and log-determinants stay finite."""
    for corner in ((80.0, -80.0, 0.0), (-80.0, 80.0, 80.0), (-80.0, -80.0, -80.0)):
        u = torch.tensor(corner, dtype=dtype, requires_grad=True)
        value, log_determinant = bijection.forward(u), bijection.log_det_jacobian(u).sum()
        assert value.isfinite().all()
        assert log_determinant.isfinite()
        (gradient,) = torch.autograd.grad(value.sum() + log_determinant, u)
        assert gradient.isfinite().all()


def test_a_planted_jacobian_without_its_root_is_caught() -> None:
    """The softmax's determinant without sqrt(K) is a constant off: harmless to sampling, wrong for evidence."""
    u = unconstrained(3)
    wrong = Simplex().forward(u).log().sum()
    assert abs(wrong - log_determinant(Simplex(), u)) == pytest.approx(0.5 * math.log(4.0))


def test_a_uniform_simplex_integrates_to_its_volume() -> None:
    """The density e^(log det) over u is that of the simplex, whose volume is 1 / (K - 1)!."""
    axis = torch.linspace(-30.0, 30.0, 1201, dtype=torch.float64)
    u = torch.cartesian_prod(axis, axis)
    integral = Simplex().log_det_jacobian(u).exp().sum() * (axis[1] - axis[0]) ** 2
    assert float(integral) == pytest.approx(0.5, rel=1e-6)


def test_the_simplex_is_uniform_at_zero() -> None:
    for parts in (2, 3, 10):
        uniform = Simplex().forward(torch.zeros(parts - 1, dtype=torch.float64))
        torch.testing.assert_close(uniform, torch.full((parts,), 1.0 / parts, dtype=torch.float64))


@pytest.mark.parametrize(
    ("bijection", "outside"),
    [
        (Identity(), [0.0, math.nan]),
        (Positive(), [1.0, 0.0]),
        (LowerBounded(2.0), [3.0, 2.0]),
        (UpperBounded(2.0), [1.0, 2.0]),
        (Interval(0.0, 1.0), [0.5, 1.0]),
        (Simplex(), [0.5, 0.6]),
        (Simplex(), [1.0, 0.0]),
        (Ordered(), [1.0, 1.0]),
        (PositiveOrdered(), [-1.0, 1.0]),
    ],
    ids=str,
)
def test_values_outside_are_seen(bijection: Bijection, outside: list[float]) -> None:
    assert not bijection.contains(torch.tensor(outside)).all()


def test_wrong_bounds_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="Interval: lower must be below upper, got 1 and 1"):
        Interval(1.0, 1.0)
    with pytest.raises(ValueError, match="LowerBounded: bound must be finite, got inf"):
        LowerBounded(math.inf)
    with pytest.raises(TypeError, match="UpperBounded: bound must be a number or a tensor, got str"):
        UpperBounded("0")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Simplex is for vectors of two and more parts, got a value of shape \(1,\)"):
        Simplex().unconstrained_shape((1,))
    with pytest.raises(ValueError, match=r"Ordered is for vectors, got a value of shape \(\)"):
        Ordered().unconstrained_shape(())
