"""Pictures of a trained model: reconstructions, samples, filters, and the manifold of a two-dimensional latent space.

The manifold is figure 4 of Kingma & Welling 2014: the unit square through the inverse Gaussian distribution function.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fastvi._examples import select_examples
from fastvi.data import evenly_spaced
from fastvi.objectives.model import has_bound
from fastvi.training.files import atomic_write

_MINIMUM_TILE_HEIGHT = 28
_GAP_SHADE = 0.35
_COLUMNS, _ROWS = 12, 4
_FILTER_COLUMNS = 12
_FILTERS = _FILTER_COLUMNS**2
_SAMPLE_COLUMNS = 12
_SAMPLES = _SAMPLE_COLUMNS**2


@torch.inference_mode()
def write_pictures(
    model: Any, test_images: Tensor | tuple[Tensor, Tensor], image_shape: tuple[int, int], folder: Path
) -> list[Path]:
    """Write reconstructions.png, samples.png and, when the latent space is a plane, manifold.png.

    A model without ``reconstruct(x)`` has no reconstructions. One with ``filters()``, weights (units, D) of its first
    layer, has filters.png too, and one with ``corrupt(x, seed=...)`` denoised.png: originals, with noise, and what is
    made of these. Samples are those of a model with a bound on log p(x): of its ``sample(count, seed)``, or of
    ``latent_dim`` and ``decode(z)``, which has the manifold as well. Where nothing says how z is drawn there are none.

    Parameters
    ----------
    model
        A trained model.
    test_images
        Shape (M, D), M >= 1; with labels of shape (M,) in a pair where the model takes it.
    image_shape
        (height, width), height * width = D.
    folder
        Where the files go.

    Returns
    -------
    list of Path
        The files written.
    """
    pictures = {}
    if hasattr(model, "reconstruct"):
        pictures["reconstructions.png"] = _reconstructions(model, test_images)
    if hasattr(model, "reconstruct") and hasattr(model, "corrupt"):
        pictures["denoised.png"] = _denoised(model, test_images)
    if has_bound(model) and hasattr(model, "sample"):
        pictures["samples.png"] = model.sample(_SAMPLES, seed=0), _SAMPLE_COLUMNS
    elif has_bound(model) and hasattr(model, "decode") and hasattr(model, "latent_dim"):
        pictures["samples.png"] = _samples(model)
        if model.latent_dim == 2:
            pictures["manifold.png"] = _manifold(model)
    given = test_images if isinstance(test_images, Tensor) else test_images[0]
    brightest = max(1.0, given.max().item())  # of counts
    pictures = {name: (images / brightest, columns) for name, (images, columns) in pictures.items()}
    if callable(getattr(model, "filters", None)):
        pictures["filters.png"] = _filters(model)
    for name, (images, columns) in pictures.items():
        save_grid(images.reshape(-1, *image_shape), columns, folder / name)
    return [folder / name for name in pictures]


def save_grid(images: Tensor, columns: int, path: Path) -> None:
    """Save images (N, height, width) with values in [0, 1] as one grey PNG, row by row, small ones enlarged.

    NaN is shown as black.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    height, width = images.shape[1:]
    scale = -(-_MINIMUM_TILE_HEIGHT // height)
    tiles = images.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    rows = -(-images.shape[0] // columns)
    gap = scale
    canvas = torch.full((rows * (height * scale + gap) + gap, columns * (width * scale + gap) + gap), _GAP_SHADE)
    for number, tile in enumerate(tiles):
        top = gap + number // columns * (height * scale + gap)
        left = gap + number % columns * (width * scale + gap)
        canvas[top : top + height * scale, left : left + width * scale] = tile
    grey = (canvas.nan_to_num(0.0).clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    with atomic_write(path) as file:
        # Pillow, not matplotlib: a picture of pixels needs neither the backend nor the fonts that its settings name.
        Image.fromarray(grey.numpy()).save(file, format="PNG")


def _reconstructions(model: Any, test_images: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
    """Rows of originals, each followed by the row of their reconstructions."""
    chosen = _chosen(test_images)
    return _in_rows(chosen if isinstance(chosen, Tensor) else chosen[0], model.reconstruct(chosen))


def _denoised(model: Any, test_images: Any) -> tuple[Tensor, int]:
    """Rows of originals, each followed by the same images with noise and by what is reconstructed from these."""
    originals = _chosen(test_images)
    corrupted = model.corrupt(originals, seed=0)
    return _in_rows(originals, corrupted, model.reconstruct(corrupted))


def _chosen(test_images: Any) -> Any:
    """The images of the pictures with originals: `_COLUMNS` for each of `_ROWS` rows."""
    count = test_images.shape[0] if isinstance(test_images, Tensor) else test_images[0].shape[0]
    return select_examples(test_images, evenly_spaced(_COLUMNS * _ROWS, count))


def _in_rows(*images: Tensor) -> tuple[Tensor, int]:
    rows = [each.reshape(_ROWS, _COLUMNS, -1) for each in images]
    return torch.stack(rows, 1).flatten(0, 2), _COLUMNS


def _filters(model: Any) -> tuple[Tensor, int]:
    """The filters with the largest norms, in the order of their units; zero is grey, each has its own scale."""
    weights = model.filters()
    largest = weights.square().sum(1).topk(min(_FILTERS, weights.shape[0])).indices.sort().values
    chosen = weights[largest].cpu()
    scale = chosen.abs().amax(1, keepdim=True).clamp_min(torch.finfo(chosen.dtype).tiny)
    return 0.5 + 0.5 * chosen / scale, _FILTER_COLUMNS


def _samples(model: Any) -> tuple[Tensor, int]:
    generator = torch.Generator().manual_seed(0)  # the same z for every run: pictures of two runs can be compared
    return model.decode(torch.randn(_SAMPLES, model.latent_dim, generator=generator)), _SAMPLE_COLUMNS


def _manifold(model: Any) -> tuple[Tensor, int]:
    columns = 20
    quantiles = torch.special.ndtri((torch.arange(columns) + 0.5) / columns)
    return model.decode(torch.cartesian_prod(quantiles, quantiles)), columns
