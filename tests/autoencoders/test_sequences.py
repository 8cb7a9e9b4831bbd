"""Neighbours in time, and how slow and how straight a code is, against closed forms; and the loss that has them."""

from __future__ import annotations

import math

import pytest
import torch

from fastvi.autoencoders import (
    SlowAutoencoder,
    consecutive_frames,
    linearisation_error,
    sequences,
    slowness,
    squared_step,
    windows,
)


def circle(count, angle, radius=1.0):
    angles = angle * torch.arange(count, dtype=torch.float64)
    return radius * torch.stack([angles.cos(), angles.sin()], -1)


def test_a_line_of_constant_speed_is_straight():
    line = torch.tensor([1.0, -2.0, 0.5]) + torch.arange(10.0)[:, None] * torch.tensor([0.5, 0.25, -1.0])
    assert linearisation_error(windows(line)).tolist() == [0.0] * 8


@pytest.mark.parametrize("angle", [0.01, 0.3, math.pi / 2, 3.0])
@pytest.mark.parametrize("radius", [1e-6, 1.0, 1e6])
def test_a_circle_turns_by_its_angle(angle, radius):
    """1 - cos(angle), of any radius: a smaller code has the same error."""
    z = circle(9, angle, radius) + 3.0 * radius
    expected = torch.full((7,), 2.0 * math.sin(angle / 2) ** 2, dtype=torch.float64)
    torch.testing.assert_close(linearisation_error(windows(z)), expected, rtol=1e-9, atol=1e-9)


def test_extremes_of_the_linearisation_error():
    back_and_forth = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    assert linearisation_error(windows(back_and_forth)).tolist() == [2.0, 2.0]
    still = torch.ones(3, 4, requires_grad=True)
    found = linearisation_error(windows(still))
    assert found.tolist() == [0.0]
    (gradient,) = torch.autograd.grad(found.sum(), still)
    assert gradient.tolist() == [[0.0] * 4] * 3
    stop = torch.tensor([[0.0], [1.0], [1.0]])  # |b - a| = |a|
    assert linearisation_error(stop[None]).tolist() == [1.0]


def test_a_random_walk_has_the_mean_one_and_white_noise_the_ratio_of_means_one_and_a_half():
    steps = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = linearisation_error(windows(steps.cumsum(0)))
    # 1 - 2 a.b / (|a|^2 + |b|^2) is symmetric about 1; windows that share no step are independent.
    apart = errors[::2]
    assert abs(float(apart.mean()) - 1.0) < 5.0 * float(apart.std()) / math.sqrt(len(apart))
    noise = windows(steps)
    bend = (noise[:, 0] - 2.0 * noise[:, 1] + noise[:, 2]).square().sum(-1)  # variance 6 for each value, steps 2
    assert abs(float(bend.mean() / (2.0 * squared_step(noise).mean())) - 1.5) < 0.03  # standard error 0.005


def test_slowness_of_a_circle_is_that_of_its_angle():
    """All of a full circle's windows: the variance is R^2, the squared step 4 R^2 sin^2(angle / 2)."""
    for count in (5, 24):
        angle = 2.0 * math.pi / count
        for radius in (1e-3, 2.0):
            z = windows(circle(count + 2, angle, radius))
            torch.testing.assert_close(float(slowness(z)), 1.0 - math.cos(angle), rtol=1e-9, atol=0)


def test_slowness_of_white_noise_is_one_and_of_one_place_zero():
    noise = torch.randn(20_000, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert abs(float(slowness(windows(noise))) - 1.0) < 0.02  # standard error below 0.004
    assert float(slowness(torch.ones(4, 3, 2))) == 0.0


def test_squared_step_is_the_mean_over_both_neighbours():
    z = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]]])
    assert squared_step(z).tolist() == [13.0]


def test_gradients_of_the_linearisation_error():
    z = torch.randn(4, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    assert torch.autograd.gradcheck(linearisation_error, (z,))


def test_neighbours_are_frames_at_consecutive_times_in_any_order():
    times = torch.tensor([12, 3, 1, 2, 11, 20, 10, 4])
    assert times[consecutive_frames(times)].tolist() == [[1, 2, 3], [2, 3, 4], [10, 11, 12]]
    assert [times[part].tolist() for part in sequences(times)] == [[1, 2, 3, 4], [10, 11, 12], [20]]
    frames = times[:, None].double()
    assert windows(frames, times)[..., 0].tolist() == [[1, 2, 3], [2, 3, 4], [10, 11, 12]]
    for count in (0, 1, 2):
        assert consecutive_frames(torch.arange(count)).shape == (0, 3)
    assert sequences(torch.arange(0)) == []


@pytest.mark.parametrize(("call", "words"), [
    (lambda: consecutive_frames([1, 2]), "times must be a tensor of whole numbers"),
    (lambda: consecutive_frames(torch.tensor([0.0, 1.0])),
     r"times must be a tensor of whole numbers of shape \(N,\), got one of torch.float32"),
    (lambda: consecutive_frames(torch.arange(4).reshape(2, 2)), r"times must have the shape \(N,\), got \(2, 2\)"),
    (lambda: consecutive_frames(torch.tensor([4, 5, 4])), "times must all be different"),
    (lambda: windows(torch.zeros(3, 1), torch.arange(4)), "times must be those of 3 frames, got 4"),
    (lambda: windows([1.0]), r"windows: frames must be a tensor of shape \(N, ...\)"),
    (lambda: linearisation_error(torch.zeros(5, 2, 3)), r"z must have the shape \(..., 3, Z\), got \(5, 2, 3\)"),
    (lambda: slowness(torch.zeros(3)), r"slowness: z must have the shape"),
    (lambda: linearisation_error(torch.zeros(3, 2, dtype=torch.int64)), "z must be a floating-point tensor"),
])  # fmt: skip
def test_mistakes_are_named(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()


def test_loss_is_the_error_of_all_frames_and_both_penalties():
    torch.manual_seed(0)
    model = SlowAutoencoder(6, 2, (5,), linearisation=2.0, slowness=0.5).double()
    x = torch.rand(7, 3, 6, dtype=torch.float64)
    z = torch.stack([model.code(x[:, place]) for place in range(3)], 1)
    errors = torch.stack([(model.decode(z[:, place]) - x[:, place]).square().sum(-1) for place in range(3)])
    first, second = z[:, 1] - z[:, 0], z[:, 2] - z[:, 1]
    lengths = first.square().sum(-1) + second.square().sum(-1)
    bend = (z[:, 1] - 0.5 * (z[:, 0] + z[:, 2])).square().sum(-1)
    expected = errors.mean(0) + 2.0 * 4.0 * bend / lengths + 0.5 * 0.5 * lengths
    torch.testing.assert_close(model.loss(x), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(model.loss(x[2:], row_offset=2), model.loss(x)[2:])
    figures = model.figures(x)
    torch.testing.assert_close(figures["squared error"], errors[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(figures["squared step of the code"], 0.5 * lengths, rtol=1e-12, atol=1e-12)
    for wrong in (x[:, 0], x[:, :2]):
        with pytest.raises(ValueError, match=r"x must have the shape \(B, 3, 6\), three frames in a row, got "):
            model.loss(wrong)


@pytest.mark.parametrize("name", ["linearisation", "slowness"])
def test_weights_are_not_negative(name):
    with pytest.raises(ValueError, match=f"SlowAutoencoder: {name} must be finite and not negative, got -1"):
        SlowAutoencoder(4, **{name: -1.0})
