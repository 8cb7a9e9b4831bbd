"""Convolutional sparse coding: whole images as sums of small filters, each wherever its map of codes says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvi import ops
from fastvi._options import check_count
from fastvi._sizes import check_integer
from fastvi.coding._arrays import check_alpha, check_start, read_array
from fastvi.coding._atoms import normalised

_TRIES = 30
"""Of halved steps for the filters."""


@dataclass(frozen=True)
class CodeMaps:
    """Codes (N, A, H - h + 1, W - w + 1) of images (N, C, H, W), and the objective of each image, (N,)."""

    codes: Any
    objective: Any


def convolutional_lipschitz(filters: Any, image_size: tuple[int, int]) -> float:
    """A bound on the largest eigenvalue of the filters' operator on images of a size: 1 over it is a safe step.

    On a torus of that size the operator is diagonal in frequencies: the largest singular value of the filters' (A, C)
    Fourier coefficients over all frequencies, squared. Images with borders are a subspace of it, so that the true value
    is no larger.

    Parameters
    ----------
    filters
        (A, C, h, w), float32 or float64: a tensor or a NumPy array.
    image_size
        (H, W), at least (h, w).

    Examples
    --------
    >>> import torch
    >>> convolutional_lipschitz(torch.full((1, 1, 1, 1), 2.0), (8, 8))
    4.0
    """
    values = _read_filters("convolutional_lipschitz", filters)
    height, width = image_size
    if height < values.shape[2] or width < values.shape[3]:
        raise ValueError(
            f"convolutional_lipschitz: image_size is {tuple(image_size)}, expected at least the filters' "
            f"{tuple(values.shape[2:])}"
        )
    coefficients = torch.fft.rfft2(values.double(), s=(height, width)).permute(2, 3, 0, 1)
    largest: Tensor = torch.linalg.matrix_norm(coefficients, ord=2).max()
    return float(largest.square())


def synthesise(codes: Tensor, filters: Tensor) -> Tensor:
    """Images (N, C, H, W) that codes (N, A, H - h + 1, W - w + 1) stand for, each filter (A, C, h, w) at its places."""
    return F.conv_transpose2d(codes, filters)


def convolutional_fista(
    images: Any, filters: Any, alpha: float, *, start: Any = None, num_steps: int = 200
) -> CodeMaps:
    """Minimise 1/2 |x - sum_a z_a * d_a|^2 + alpha sum |z| for each image by FISTA with restarts.

    Parameters
    ----------
    images
        (N, C, H, W), float32 or float64: a tensor or a NumPy array.
    filters
        (A, C, h, w), of the same kind, no larger than the images.
    alpha
        Weight of the L1 norm, positive.
    start
        Codes to begin with; None: zeros.
    num_steps
        Steps, 0 or more.

    Raises
    ------
    TypeError, ValueError
        For an argument of a wrong type or out of its range.

    Examples
    --------
    >>> import torch
    >>> image = torch.zeros(1, 1, 4, 4)
    >>> image[0, 0, 1, 2] = 3.0
    >>> found = convolutional_fista(image, torch.ones(1, 1, 1, 1), 1.0)
    >>> found.codes[0, 0, 1, 2].item(), found.codes.count_nonzero().item()
    (2.0, 1)
    """
    function = "convolutional_fista"
    is_numpy = not isinstance(images, Tensor)
    x, atoms = _read_images(function, images), _read_filters(function, filters)
    _check_fit(function, x, atoms)
    weight, steps = check_alpha(function, alpha), check_integer(function, "num_steps", num_steps)
    if steps < 0:
        raise ValueError(f"{function}: num_steps must be 0 or more, got {steps}")
    shape = (len(x), len(atoms), x.shape[2] - atoms.shape[2] + 1, x.shape[3] - atoms.shape[3] + 1)
    codes = x.new_zeros(shape) if start is None else read_array(function, "start", start).detach().to(x)
    if tuple(codes.shape) != shape:
        raise ValueError(f"{function}: start has shape {tuple(codes.shape)}, expected {shape}")
    check_start(function, codes)
    with torch.no_grad():
        codes = _descend(x, atoms, weight, codes, steps)
        objective = objective_of_images(x, codes, atoms, weight)
    return CodeMaps(codes.numpy(), objective.numpy()) if is_numpy else CodeMaps(codes, objective)


def objective_of_images(x: Tensor, codes: Tensor, filters: Tensor, alpha: float) -> Tensor:
    """1/2 |x - sum_a z_a * d_a|^2 + alpha sum |z| of each image, (N,)."""
    rest = (x - synthesise(codes, filters)).square().flatten(1).sum(1)
    return 0.5 * rest + alpha * codes.abs().flatten(1).sum(1)


def _descend(x: Tensor, filters: Tensor, alpha: float, codes: Tensor, num_steps: int) -> Tensor:
    bound = convolutional_lipschitz(filters, (x.shape[2], x.shape[3]))
    step = 1.0 / bound if bound > 0.0 else 1.0
    origin, t = codes, x.new_ones(len(x), 1, 1, 1)
    for _ in range(num_steps):
        direction = F.conv2d(x - synthesise(origin, filters), filters)
        moved = ops.soft_threshold(origin + step * direction, step * alpha)
        uphill = ((origin - moved) * (moved - codes)).flatten(1).sum(1) > 0.0
        before = torch.where(uphill[:, None, None, None], 1.0, t)
        t = (1.0 + (1.0 + 4.0 * before.square()).sqrt()) / 2.0
        origin = moved + (before - 1.0) / t * (moved - codes)
        codes = moved
    return codes


class ConvolutionalSparseCoding:
    """Learns filters of unit norm whose sparse maps of codes sum to images; codes and filters in turn.

    Source of the model: Zeiler, Krishnan, Taylor and Fergus 2010, "Deconvolutional networks".

    Parameters
    ----------
    num_filters, filter_size
        A and (h, w).
    alpha
        Weight of the L1 norm, positive.
    num_steps
        Steps of FISTA for codes, of which each round begins where the one before it ended.
    seed
        Of the first filters, which are pieces of the images.

    Attributes
    ----------
    filters
        (A, C, h, w), each of norm 1; after :meth:`fit`.
    objectives
        Mean objective over images after each round.

    Raises
    ------
    TypeError, ValueError
        For an argument of a wrong type or out of its range.

    Examples
    --------
    >>> import torch
    >>> images = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    >>> model = ConvolutionalSparseCoding(4, (3, 3), alpha=0.5, num_steps=20).fit(images, rounds=3)
    >>> model.transform(images).shape
    torch.Size([2, 4, 10, 10])
    """

    filters: Tensor

    def __init__(
        self, num_filters: int, filter_size: tuple[int, int], alpha: float, *, num_steps: int = 50, seed: int = 0
    ) -> None:
        name = type(self).__name__
        self.num_filters = check_count(name, "num_filters", num_filters)
        if not isinstance(filter_size, tuple | list) or len(filter_size) != 2:
            raise TypeError(f"{name}: filter_size must be (height, width), got {filter_size!r}")
        self.filter_size = tuple(check_count(name, "filter_size", size) for size in filter_size)
        self.alpha = check_alpha(name, alpha)
        self.num_steps = check_count(name, "num_steps", num_steps)
        self.seed = check_integer(name, "seed", seed)
        self.objectives: list[float] = []

    def fit(self, images: Any, *, rounds: int = 20) -> ConvolutionalSparseCoding:
        """Learn from images (N, C, H, W)."""
        name = type(self).__name__
        x = _read_images(name, images)
        check_count(name, "rounds", rounds)
        if len(x) == 0:
            raise ValueError(f"{name}: there are no images")
        if not bool(torch.isfinite(x).all()):
            raise ValueError(f"{name}: images contain NaN or infinity; expected finite numbers")
        self.filters = self._first_filters(x)
        _check_fit(name, x, self.filters)
        self.objectives = []
        codes, step = None, 1.0
        for _ in range(rounds):
            codes = convolutional_fista(x, self.filters, self.alpha, start=codes, num_steps=self.num_steps).codes
            with torch.no_grad():
                self.filters, value, step = _better_filters(x, codes, self.filters, self.alpha, step)
            self.objectives.append(value)
        return self

    def transform(self, images: Any, *, num_steps: int = 200) -> Any:
        """Return the codes (N, A, H - h + 1, W - w + 1) of images (N, C, H, W)."""
        filters = self._fitted()
        given = filters if isinstance(images, Tensor) else filters.numpy()
        return convolutional_fista(images, given, self.alpha, num_steps=num_steps).codes

    def inverse_transform(self, codes: Any) -> Any:
        """Return the images (N, C, H, W) that codes stand for."""
        values = read_array(type(self).__name__, "codes", codes)
        found = synthesise(values, self._fitted().to(values))
        return found if isinstance(codes, Tensor) else found.numpy()

    def _fitted(self) -> Tensor:
        if not hasattr(self, "filters"):
            raise RuntimeError(f"{type(self).__name__}: there are no filters yet: call fit first")
        return self.filters

    def _first_filters(self, x: Tensor) -> Tensor:
        """Pieces of the images about their mean, and a little noise."""
        height, width = self.filter_size
        if x.shape[2] < height or x.shape[3] < width:
            raise ValueError(
                f"{type(self).__name__}: images have shape {tuple(x.shape)}, expected at least the filters' "
                f"{height} x {width}"
            )
        generator = torch.Generator().manual_seed(self.seed)
        pieces = []
        for _ in range(self.num_filters):
            image = int(torch.randint(len(x), (), generator=generator))
            top = int(torch.randint(x.shape[2] - height + 1, (), generator=generator))
            left = int(torch.randint(x.shape[3] - width + 1, (), generator=generator))
            piece = x[image, :, top : top + height, left : left + width]
            pieces.append(piece - piece.mean())
        filters = torch.stack(pieces)
        noise = torch.randn(filters.shape, generator=generator, dtype=x.dtype).to(x.device)
        return normalised(filters + (0.1 * float(filters.std(correction=0)) or 1.0) * noise)


def _better_filters(
    x: Tensor, codes: Tensor, filters: Tensor, alpha: float, step: float
) -> tuple[Tensor, float, float]:
    """Filters after a projected step down their gradient, halved until the objective falls; it and the next step."""
    rest = x - synthesise(codes, filters)
    value = float(objective_of_images(x, codes, filters, alpha).mean())
    gradient = _filter_gradient(rest, codes)
    for _ in range(_TRIES):
        moved = normalised(filters + step * gradient)
        found = float(objective_of_images(x, codes, moved, alpha).mean())
        if found < value:
            return moved, found, 2.0 * step
        step *= 0.5
    return filters, value, step


def _filter_gradient(rest: Tensor, codes: Tensor) -> Tensor:
    """Minus the gradient of 1/2 |rest|^2 by the filters, (A, C, h, w), a mean over images."""
    found = F.conv2d(rest.transpose(0, 1), codes.transpose(0, 1))  # (C, A, h, w)
    return found.transpose(0, 1) / len(rest)


def _read_images(function: str, images: Any) -> Tensor:
    x = read_array(function, "images", images).detach()
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise ValueError(f"{function}: images has shape {tuple(x.shape)}, expected (N, C, H, W)")
    return x


def _read_filters(function: str, filters: Any) -> Tensor:
    values = read_array(function, "filters", filters).detach()
    if values.dim() != 4 or values.numel() == 0:
        raise ValueError(f"{function}: filters has shape {tuple(values.shape)}, expected (A, C, h, w)")
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{function}: filters contains NaN or infinity; expected finite numbers")
    return values


def _check_fit(function: str, x: Tensor, filters: Tensor) -> None:
    if x.dtype != filters.dtype or x.device != filters.device:
        raise TypeError(f"{function}: images is {x.dtype} on {x.device}, filters {filters.dtype} on {filters.device}")
    if x.shape[1] != filters.shape[1]:
        raise ValueError(f"{function}: images have {x.shape[1]} channels, the filters {filters.shape[1]}")
    if x.shape[2] < filters.shape[2] or x.shape[3] < filters.shape[3]:
        raise ValueError(
            f"{function}: images are {x.shape[2]} x {x.shape[3]}, smaller than the filters' "
            f"{filters.shape[2]} x {filters.shape[3]}"
        )
