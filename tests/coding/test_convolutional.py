"""Convolutional sparse coding: the dense Lasso of the filters' matrix, safe steps, learned filters, and bad input."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastvi.coding import ConvolutionalSparseCoding, active_set, convolutional_fista, convolutional_lipschitz, fista
from fastvi.coding.convolutional import objective_of_images, synthesise

ALPHA = 0.2
SHAPES = [(3, 1, 2, 3, 7, 6), (2, 3, 3, 3, 5, 6), (4, 2, 1, 1, 3, 4), (2, 1, 4, 5, 4, 5)]
"""Filters, channels, their height and width, the images' height and width."""


def some_filters(count: int, channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    filters = torch.randn(count, channels, height, width, generator=generator, dtype=torch.float64)
    return filters / filters.flatten(1).norm(dim=1)[:, None, None, None]


def some_images(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def dense_matrix(filters: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The images of single codes as rows, each made by placing a filter: (codes of an image, C H W)."""
    count, channels, h, w = filters.shape
    rows = []
    for k in range(count):
        for top in range(height - h + 1):
            for left in range(width - w + 1):
                image = torch.zeros(channels, height, width, dtype=filters.dtype)
                image[:, top : top + h, left : left + w] = filters[k]
                rows.append(image.flatten())
    return torch.stack(rows)


# The operator.


@pytest.mark.parametrize("shape", SHAPES)
def test_images_of_codes_are_placed_filters(shape: tuple[int, ...]) -> None:
    count, channels, h, w, height, width = shape
    filters = some_filters(count, channels, h, w)
    codes = some_images(2, count, height - h + 1, width - w + 1)
    expected = (codes.flatten(1) @ dense_matrix(filters, height, width)).reshape(2, channels, height, width)
    torch.testing.assert_close(synthesise(codes, filters), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_correlation_is_the_adjoint(shape: tuple[int, ...]) -> None:
    """<A z, x> = <z, A' x>, A' x being what a step is made of."""
    count, channels, h, w, height, width = shape
    filters = some_filters(count, channels, h, w)
    codes, images = some_images(2, count, height - h + 1, width - w + 1), some_images(2, channels, height, width)
    left = (synthesise(codes, filters) * images).sum()
    torch.testing.assert_close(left, (codes * F.conv2d(images, filters)).sum())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_step_is_safe(shape: tuple[int, ...]) -> None:
    """The bound is no less than the largest eigenvalue of the dense matrix, and no more than sum |filter|_1^2."""
    count, channels, h, w, height, width = shape
    filters = some_filters(count, channels, h, w)
    matrix = dense_matrix(filters, height, width)
    bound = convolutional_lipschitz(filters, (height, width))
    assert bound >= float(torch.linalg.eigvalsh(matrix @ matrix.mT)[-1]) * (1.0 - 1e-12)
    assert bound <= float(filters.abs().sum((1, 2, 3)).square().sum()) * (1.0 + 1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_bound_is_exact_on_a_torus(shape: tuple[int, ...]) -> None:
    """Where filters that leave an image on one side come in on the other."""
    count, channels, h, w, height, width = shape
    filters = some_filters(count, channels, h, w)
    padded = F.pad(filters, (0, width - w, 0, height - h))
    rows = [torch.roll(padded, (top, left), (2, 3)).flatten(1) for top in range(height) for left in range(width)]
    matrix = torch.cat(rows)
    expected = float(torch.linalg.eigvalsh(matrix.mT @ matrix)[-1])
    assert convolutional_lipschitz(filters, (height, width)) == pytest.approx(expected, rel=1e-12)
    assert convolutional_lipschitz(filters.numpy(), (height, width)) == pytest.approx(expected, rel=1e-12)
    assert convolutional_lipschitz(filters.float(), (height, width)) == pytest.approx(expected, rel=1e-5)


def test_the_bound_of_equal_filters_written_out() -> None:
    """A filter of four ones sums to 4 where all are in step, at frequency 0: 16, and 32 for two of them."""
    assert convolutional_lipschitz(torch.ones(2, 1, 2, 2), (8, 8)) == pytest.approx(32.0)


# Codes.


@pytest.mark.parametrize("shape", SHAPES)
def test_codes_are_those_of_the_dense_lasso(shape: tuple[int, ...]) -> None:
    """By two solvers of the matrix, in the objective, and in the images where codes are not unique."""
    count, channels, h, w, height, width = shape
    filters, images = some_filters(count, channels, h, w), some_images(3, channels, height, width)
    matrix = dense_matrix(filters, height, width)
    found = convolutional_fista(images, filters, ALPHA, num_steps=3000)
    dense = fista(images.flatten(1), matrix, ALPHA, num_steps=20_000, tolerance=1e-11)
    exact = active_set(images.flatten(1), matrix, ALPHA)
    assert found.codes.shape == (3, count, height - h + 1, width - w + 1)
    for other in (dense, exact):
        torch.testing.assert_close(found.objective, other.objective, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(
            synthesise(found.codes, filters).flatten(1), other.codes @ matrix, rtol=1e-3, atol=1e-3
        )


def test_the_objective() -> None:
    filters, images = some_filters(3, 2, 2, 3), some_images(4, 2, 6, 7)
    codes = some_images(4, 3, 5, 5)
    rest = images.flatten(1) - codes.flatten(1) @ dense_matrix(filters, 6, 7)
    expected = 0.5 * rest.square().sum(1) + ALPHA * codes.abs().sum((1, 2, 3))
    torch.testing.assert_close(objective_of_images(images, codes, filters, ALPHA), expected)
    none = convolutional_fista(images, filters, ALPHA, num_steps=0)
    torch.testing.assert_close(none.objective, 0.5 * images.square().sum((1, 2, 3)))
    assert not none.codes.any()


def test_one_step_written_out() -> None:
    """From zero: S(A' x / L, alpha / L)."""
    filters, images = some_filters(3, 2, 2, 3), some_images(4, 2, 6, 7)
    bound = convolutional_lipschitz(filters, (6, 7))
    values = F.conv2d(images, filters) / bound
    expected = values.sign() * (values.abs() - ALPHA / bound).clamp_min(0.0)
    torch.testing.assert_close(convolutional_fista(images, filters, ALPHA, num_steps=1).codes, expected)


def test_the_bound_of_fista_holds() -> None:
    """After t steps without a restart it is 2 L |z*|^2 / (t + 1)^2; restarts, to the minimum at t = 200, do no harm."""
    filters, images = some_filters(3, 1, 3, 3), some_images(2, 1, 8, 8)
    best = convolutional_fista(images, filters, ALPHA, num_steps=3000)
    above = [
        (convolutional_fista(images, filters, ALPHA, num_steps=count).objective - best.objective).max()
        for count in (1, 10, 50, 200)
    ]
    distance = best.codes.square().sum((1, 2, 3)).max()
    bound = convolutional_lipschitz(filters, (8, 8))
    for count, value in zip((1, 10, 50, 200), above, strict=True):
        assert value <= 2.0 * bound * distance / (count + 1) ** 2


def test_images_do_not_mix_and_starts_are_taken() -> None:
    filters, images = some_filters(3, 1, 3, 3), some_images(3, 1, 8, 8)
    together = convolutional_fista(images, filters, ALPHA, num_steps=40)
    for k in range(3):
        alone = convolutional_fista(images[k : k + 1], filters, ALPHA, num_steps=40)
        torch.testing.assert_close(alone.codes[0], together.codes[k])
    again = convolutional_fista(images, filters, ALPHA, start=together.codes, num_steps=0)
    torch.testing.assert_close(again.codes, together.codes, rtol=0.0, atol=0.0)


def test_arrays_of_numpy() -> None:
    filters, images = some_filters(3, 1, 3, 3).float(), some_images(2, 1, 8, 8).float()
    expected = convolutional_fista(images, filters, ALPHA, num_steps=20)
    found = convolutional_fista(images.numpy(), filters.numpy(), ALPHA, num_steps=20)
    assert found.codes.dtype == np.float32
    np.testing.assert_array_equal(found.codes, expected.codes.numpy())
    np.testing.assert_array_equal(found.objective, expected.objective.numpy())


# Learning.


def test_filters_are_of_norm_one_and_the_objective_falls() -> None:
    """Each round codes from where the one before ended and takes a step that lowers the objective."""
    model = ConvolutionalSparseCoding(4, (3, 3), ALPHA, num_steps=30, seed=1)
    images = some_images(3, 2, 10, 9).float()
    for rounds in (1, 2, 10):
        model.fit(images, rounds=rounds)
        assert model.filters.shape == (4, 2, 3, 3)
        torch.testing.assert_close(model.filters.flatten(1).norm(dim=1), torch.ones(4))
        assert len(model.objectives) == rounds
    assert (np.diff(model.objectives) < 0.0).all()


def test_a_planted_filter_is_found() -> None:
    """Spikes that are far apart, each with the same cross: the filter is found up to its sign."""
    cross = torch.tensor([[0.0, 1.0, 0.0], [1.0, 2.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    cross = cross / cross.norm()
    random = np.random.default_rng(0)
    codes = torch.zeros(6, 1, 18, 18, dtype=torch.float64)
    for image in range(6):
        for top in range(0, 18, 6):
            for left in range(0, 18, 6):
                place = (image, 0, top + int(random.integers(3)), left + int(random.integers(3)))
                codes[place] = float(random.uniform(2.0, 3.0) * random.choice([-1.0, 1.0]))
    images = F.conv_transpose2d(codes, cross[None, None])
    cosines = []
    for seed in range(3):
        model = ConvolutionalSparseCoding(1, (3, 3), 0.1, num_steps=20, seed=seed).fit(images, rounds=25)
        cosines.append((model.objectives[-1], float((model.filters[0, 0] * cross).sum().abs())))
    assert min(cosines)[1] > 0.99


def test_methods_and_seeds() -> None:
    images = some_images(2, 1, 9, 9).float()
    model = ConvolutionalSparseCoding(3, (3, 2), ALPHA, seed=2).fit(images, rounds=2)
    codes = model.transform(images, num_steps=30)
    torch.testing.assert_close(codes, convolutional_fista(images, model.filters, ALPHA, num_steps=30).codes)
    torch.testing.assert_close(model.inverse_transform(codes), synthesise(codes, model.filters))
    arrays = model.transform(images.numpy(), num_steps=30)
    np.testing.assert_array_equal(arrays, codes.numpy())
    np.testing.assert_allclose(model.inverse_transform(arrays), model.inverse_transform(codes).numpy())
    other = ConvolutionalSparseCoding(3, (3, 2), ALPHA, seed=2).fit(images.numpy(), rounds=2)
    torch.testing.assert_close(other.filters, model.filters, rtol=0.0, atol=0.0)
    assert not torch.equal(ConvolutionalSparseCoding(3, (3, 2), ALPHA).fit(images, rounds=2).filters, model.filters)


def test_images_without_anything_in_them() -> None:
    model = ConvolutionalSparseCoding(2, (3, 3), ALPHA).fit(torch.zeros(1, 1, 6, 6), rounds=2)
    torch.testing.assert_close(model.filters.flatten(1).norm(dim=1), torch.ones(2))
    assert model.objectives == [0.0, 0.0]


# What is refused.

IMAGES, FILTERS = torch.ones(2, 1, 6, 6), torch.ones(3, 1, 2, 2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"images": torch.ones(6, 6)}, ValueError, "images has shape (6, 6), expected (N, C, H, W)"),
        ({"images": IMAGES.double()}, TypeError, "images is torch.float64 on cpu, filters torch.float32 on cpu"),
        ({"images": IMAGES.int()}, TypeError, "images is torch.int32, expected float32 or float64"),
        ({"images": torch.ones(2, 2, 6, 6)}, ValueError, "images have 2 channels, the filters 1"),
        ({"images": torch.ones(2, 1, 6, 1)}, ValueError, "images are 6 x 1, smaller than the filters' 2 x 2"),
        ({"filters": torch.ones(2, 2)}, ValueError, "filters has shape (2, 2), expected (A, C, h, w)"),
        ({"filters": torch.full((1, 1, 2, 2), float("nan"))}, ValueError, "filters contains NaN or infinity"),
        ({"filters": [[1.0]]}, TypeError, "filters must be a NumPy array or a torch.Tensor, got list"),
        ({"alpha": 0.0}, ValueError, "convolutional_fista: alpha must be positive and finite, got 0"),
        ({"num_steps": -1}, ValueError, "convolutional_fista: num_steps must be 0 or more, got -1"),
        ({"num_steps": 1.5}, TypeError, "num_steps"),
        ({"start": torch.zeros(2, 3, 6, 6)}, ValueError, "start has shape (2, 3, 6, 6), expected (2, 3, 5, 5)"),
    ],
)
def test_bad_codes(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        convolutional_fista(**{"images": IMAGES, "filters": FILTERS, "alpha": ALPHA, **options})


@pytest.mark.parametrize("size", [(1, 8), (8, 1)])
def test_bad_sizes_of_images(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"image_size is {size}, expected at least the filters' (2, 2)")):
        convolutional_lipschitz(FILTERS, size)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_filters": 0}, ValueError, "ConvolutionalSparseCoding: num_filters must be at least 1, got 0"),
        ({"num_filters": 1.5}, TypeError, "num_filters"),
        ({"filter_size": 3}, TypeError, "filter_size must be (height, width), got 3"),
        ({"filter_size": (3, 0)}, ValueError, "ConvolutionalSparseCoding: filter_size must be at least 1, got 0"),
        ({"alpha": -1.0}, ValueError, "ConvolutionalSparseCoding: alpha must be positive and finite, got -1"),
        ({"num_steps": 0}, ValueError, "ConvolutionalSparseCoding: num_steps must be at least 1, got 0"),
        ({"seed": "x"}, TypeError, "seed"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        ConvolutionalSparseCoding(**{"num_filters": 2, "filter_size": (3, 3), "alpha": ALPHA, **options})


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.ones(3, 3), "images has shape (3, 3), expected (N, C, H, W)"),
        (torch.ones(0, 1, 6, 6), "there are no images"),
        (torch.full((1, 1, 6, 6), float("inf")), "images contain NaN or infinity"),
        (torch.ones(1, 1, 2, 6), "images have shape (1, 1, 2, 6), expected at least the filters' 3 x 3"),
    ],
)
def test_bad_images(images: torch.Tensor, message: str) -> None:
    model = ConvolutionalSparseCoding(2, (3, 3), ALPHA)
    with pytest.raises(ValueError, match=re.escape(f"ConvolutionalSparseCoding: {message}")):
        model.fit(images)


def test_codes_before_there_are_filters() -> None:
    model = ConvolutionalSparseCoding(2, (3, 3), ALPHA)
    for call in (model.transform, model.inverse_transform):
        with pytest.raises(RuntimeError, match="there are no filters yet: call fit first"):
            call(IMAGES)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_start_that_is_not_finite(bad):
    start = torch.full((1, 1, 3, 3), bad)
    with pytest.raises(ValueError, match=r"^convolutional_fista: start contains NaN or infinity; expected finite"):
        convolutional_fista(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2), 0.5, start=start)
