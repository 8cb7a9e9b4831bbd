"""Pictures of a trained model: reconstructions, samples, filters, and the manifold of a two-dimensional latent space.

The manifold is figure 4 of Kingma & Welling 2014: the unit square through the inverse Gaussian distribution function.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastvi._examples import select_examples
from fastvi._extras import require_extra
from fastvi.data import evenly_spaced
from fastvi.objectives.model import has_bound
from fastvi.training.files import atomic_write

_MINIMUM_TILE_HEIGHT = 64
_GAP_SHADE = 0.35
_COLUMNS, _ROWS = 12, 4
_FILTER_COLUMNS = 12
_FILTERS = _FILTER_COLUMNS**2
_SAMPLE_COLUMNS = 12
_SAMPLES = _SAMPLE_COLUMNS**2


@torch.inference_mode()
def write_pictures(
    model: Any,
    test_images: Tensor | tuple[Tensor, Tensor],
    image_shape: tuple[int, ...],
    folder: Path,
    grey: Tensor | None = None,
) -> list[Path]:
    """Write reconstructions.png, samples.png and, when the latent space is a plane, manifold.png.

    A model without ``reconstruct(x)`` has no reconstructions. One with ``filters()``, weights (units, D) of its first
    layer, has filters.png too, and one with ``corrupt(x, seed=...)`` denoised.png: originals, with noise, and what is
    made of these. Samples are those of a model with a bound on log p(x): of its ``sample(count, seed)``, or of
    ``latent_dim`` and ``decode(z)``, which has the manifold as well. Where nothing says how z is drawn there are none.
    Nor have rows that are no images, of the shape (1, D).

    Parameters
    ----------
    model
        A trained model.
    test_images
        Shape (M, D), M >= 1; with labels of shape (M,) in a pair where the model takes it.
    image_shape
        (height, width), or (channels, height, width) with the product D; three channels are red, green and blue.
    folder
        Where the files go.
    grey
        The test images before they were binarised, (M, D): each stands above its binarised twin.

    Returns
    -------
    list of Path
        The files written.
    """
    pictures: dict[str, tuple[Tensor, int]] = {}
    if len(image_shape) == 2 and image_shape[0] == 1:
        return []
    if hasattr(model, "reconstruct"):
        pictures["reconstructions.png"] = _reconstructions(model, test_images, grey)
    if hasattr(model, "reconstruct") and hasattr(model, "corrupt"):
        pictures["denoised.png"] = _denoised(model, test_images)
    if has_bound(model) and hasattr(model, "sample"):
        pictures["samples.png"] = model.sample(_SAMPLES, seed=0), _SAMPLE_COLUMNS
    elif has_bound(model) and hasattr(model, "decode") and hasattr(model, "latent_dim"):
        pictures["samples.png"] = _samples(model)
        if model.latent_dim == 2:
            pictures["manifold.png"] = _manifold(model)
    given = test_images if isinstance(test_images, Tensor) else test_images[0]
    brightest, darkest = max(1.0, given.max().item()), min(0.0, given.min().item())  # of counts and of real numbers
    pictures = {
        name: ((images - darkest) / (brightest - darkest), columns) for name, (images, columns) in pictures.items()
    }
    if callable(getattr(model, "filters", None)):
        pictures["filters.png"] = _filters(model)
    for name, (images, columns) in pictures.items():
        save_grid(images.reshape(-1, *image_shape), columns, folder / name)
    return [folder / name for name in pictures]


def save_grid(images: Tensor, columns: int, path: Path) -> None:
    """Save images (N, height, width), or (N, channels, height, width), with values in [0, 1] as one PNG, row by row.

    Small ones are enlarged. Three channels are red, green and blue; of another number the mean is shown, in grey. NaN
    is shown as black.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    if images.dim() == 4 and images.shape[1] != 3:
        images = images.mean(1)
    tiles = images if images.dim() == 4 else images.unsqueeze(1)
    count, channels, height, width = tiles.shape
    scale = -(-_MINIMUM_TILE_HEIGHT // height)
    tiles = tiles.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    rows = -(-count // columns)
    gap = scale
    size = rows * (height * scale + gap) + gap, columns * (width * scale + gap) + gap
    canvas = torch.full((channels, *size), _GAP_SHADE)
    for number, tile in enumerate(tiles):
        top = gap + number // columns * (height * scale + gap)
        left = gap + number % columns * (width * scale + gap)
        canvas[:, top : top + height * scale, left : left + width * scale] = tile
    shades = (canvas.nan_to_num(0.0).clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).permute(1, 2, 0)
    with atomic_write(path) as file:
        # Pillow, not matplotlib: a picture of pixels needs neither the backend nor the fonts that its settings name.
        image = require_extra("PIL.Image", "train", "a picture")
        image.fromarray((shades if channels == 3 else shades[..., 0]).contiguous().numpy()).save(file, format="PNG")


def _reconstructions(
    model: Any, test_images: Tensor | tuple[Tensor, Tensor], grey: Tensor | None
) -> tuple[Tensor, int]:
    """Rows of originals, in grey and then binarised where both are there, and the row of their reconstructions."""
    places = _places(test_images)
    chosen = select_examples(test_images, places)
    originals = chosen if isinstance(chosen, Tensor) else chosen[0]
    shown = [] if grey is None else [grey[places]]
    return _in_rows(*shown, originals, model.reconstruct(chosen).to(originals))


def _denoised(model: Any, test_images: Any) -> tuple[Tensor, int]:
    """Rows of originals, each followed by the same images with noise and by what is reconstructed from these."""
    originals = select_examples(test_images, _places(test_images))
    corrupted = model.corrupt(originals, seed=0)
    return _in_rows(originals, corrupted, model.reconstruct(corrupted))


def _places(test_images: Any) -> Tensor:
    """Which images the pictures with originals have: `_COLUMNS` for each of `_ROWS` rows."""
    count = test_images.shape[0] if isinstance(test_images, Tensor) else test_images[0].shape[0]
    return evenly_spaced(_COLUMNS * _ROWS, count)


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
