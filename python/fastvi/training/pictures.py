"""Pictures of a trained model: reconstructions, samples, filters, a plane of latent variables, styles and analogies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastvi._examples import select_examples
from fastvi._extras import require_extra
from fastvi.data import evenly_spaced
from fastvi.evaluate import analogies, manifold, styles
from fastvi.evaluate._classes import has_classes
from fastvi.evaluate.decoding import has_drawable_prior, has_plane
from fastvi.objectives.model import has_bound
from fastvi.training.files import atomic_write

_MINIMUM_TILE_HEIGHT = 64
_GAP_SHADE = 0.35
_WIDE_GAP = 3  # times another one is added
_COLUMNS, _ROWS = 12, 4
_FILTER_COLUMNS = 12
_FILTERS = _FILTER_COLUMNS**2
_SAMPLE_COLUMNS = 12
_SAMPLES = _SAMPLE_COLUMNS**2
_MANIFOLD_COLUMNS = 20
_STYLES = 12
_STYLE_PLANE_COLUMNS = 10
_STYLE_PLANES = (2, 3, 4)
"""The classes of the figure in the paper."""
_ANALOGIES = 10
_MOST_CLASSES = 50


class _Picture(NamedTuple):
    """Images (N, D) row by row, and before which columns there is a wide gap."""

    images: Tensor
    columns: int
    wide_gaps: tuple[int, ...] = ()


@torch.inference_mode()
def write_pictures(
    model: Any,
    test_images: Tensor | tuple[Tensor, Tensor],
    image_shape: tuple[int, ...],
    folder: Path,
    grey: Tensor | None = None,
    labels: Tensor | None = None,
) -> list[Path]:
    """Write reconstructions.png, samples.png and, when the latent space is a plane, manifold.png.

    A model without ``reconstruct(x)`` has no reconstructions. One with ``filters()``, weights (units, D) of its first
    layer, has filters.png too, and one with ``corrupt(x, seed=...)`` denoised.png: originals, with noise, and what is
    made of these. Samples are those of a model with a bound on log p(x): of its ``sample(count, seed)``, or of
    ``latent_dim`` and ``decode(z)``. Where nothing says how z is drawn there are none. The manifold is that of
    `fastvi.evaluate.manifold`, for a Gaussian prior. Rows that are no images, of the shape (1, D), have no pictures.

    A model of classes has an integer ``num_classes``, ``latent_dim`` and ``decode(z, labels)``: of it there are
    styles.png in place of the manifold, and with ``encode((images, labels))``, a pair (mean, logvar) or a distribution,
    analogies.png of test images whose class is known.

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
    labels
        Classes of the test images, (M,), where they are not in a pair with them; those that are not from 0 to
        ``num_classes`` - 1 are unknown ones.

    Returns
    -------
    list of Path
        The files written.
    """
    pictures: dict[str, _Picture] = {}
    if len(image_shape) == 2 and image_shape[0] == 1:
        return []
    if hasattr(model, "reconstruct"):
        pictures["reconstructions.png"] = _reconstructions(model, test_images, grey)
    if hasattr(model, "reconstruct") and hasattr(model, "corrupt"):
        pictures["denoised.png"] = _denoised(model, test_images)
    if has_bound(model) and hasattr(model, "sample"):
        pictures["samples.png"] = _Picture(model.sample(_SAMPLES, seed=0), _SAMPLE_COLUMNS)
    elif has_bound(model) and hasattr(model, "decode") and hasattr(model, "latent_dim"):
        pictures["samples.png"] = _samples(model)
    given, labels = (test_images, labels) if isinstance(test_images, Tensor) else test_images
    if has_classes(model):
        pictures |= _of_classes(model, given, labels)
    elif has_bound(model) and has_plane(model):
        pictures["manifold.png"] = _Picture(manifold(model, _MANIFOLD_COLUMNS), _MANIFOLD_COLUMNS)
    brightest, darkest = max(1.0, given.max().item()), min(0.0, given.min().item())  # of counts and of real numbers
    pictures = {
        name: picture._replace(images=(picture.images - darkest) / (brightest - darkest))
        for name, picture in pictures.items()
    }
    if callable(getattr(model, "filters", None)):
        pictures["filters.png"] = _filters(model)
    for name, (images, columns, wide_gaps) in pictures.items():
        save_grid(images.reshape(-1, *image_shape), columns, folder / name, wide_gaps)
    return [folder / name for name in pictures]


def make_grid(images: Tensor, columns: int, wide_gaps: Sequence[int] = ()) -> Tensor:
    """Return one image of images, row by row: (height, width), or (height, width, 3) of colours, in [0, 1].

    Small ones are enlarged. Three channels are red, green and blue; of another number the mean is shown, in grey. NaN
    is shown as black.

    Parameters
    ----------
    images
        Shape (N, height, width), or (N, channels, height, width), with values in [0, 1]: others are cut off.
    columns
        Images in a row.
    wide_gaps
        Columns, from 0, before which the gap is wider than between others.

    Examples
    --------
    >>> make_grid(torch.rand(10, 64, 64), columns=5).shape  # gaps are one pixel wide here
    torch.Size([131, 326])
    """
    if images.dim() == 4 and images.shape[1] != 3:
        images = images.mean(1)
    tiles = images if images.dim() == 4 else images.unsqueeze(1)
    count, channels, height, width = tiles.shape
    scale = -(-_MINIMUM_TILE_HEIGHT // height)
    tiles = tiles.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    rows = -(-count // columns)
    gap = scale
    lefts = [gap + column * (width * scale + gap) for column in range(columns)]
    for first in wide_gaps:
        lefts = [left + _WIDE_GAP * gap if column >= first else left for column, left in enumerate(lefts)]
    canvas = torch.full((channels, rows * (height * scale + gap) + gap, lefts[-1] + width * scale + gap), _GAP_SHADE)
    for number, tile in enumerate(tiles):
        top, left = gap + number // columns * (height * scale + gap), lefts[number % columns]
        canvas[:, top : top + height * scale, left : left + width * scale] = tile
    shown = canvas.nan_to_num(0.0).clamp(0.0, 1.0).permute(1, 2, 0)
    return shown if channels == 3 else shown[..., 0]


def save_grid(images: Tensor, columns: int, path: Path, wide_gaps: Sequence[int] = ()) -> None:
    """Save images as one PNG, see `make_grid`.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    shades = (make_grid(images, columns, wide_gaps) * 255.0).round().to(torch.uint8)
    with atomic_write(path) as file:
        # Pillow, not matplotlib: a picture of pixels needs neither the backend nor the fonts that its settings name.
        image = require_extra("PIL.Image", "train", "a picture")
        image.fromarray(shades.contiguous().numpy()).save(file, format="PNG")


def _of_classes(model: Any, images: Tensor, labels: Tensor | None) -> dict[str, _Picture]:
    """Styles, where the prior can be drawn from, and analogies of images whose class is known."""
    pictures = {}
    if has_plane(model):
        pictures["styles.png"] = _style_planes(model)
    elif has_drawable_prior(model):
        rows = styles(model, _shown_classes(model), num_styles=_STYLES)
        pictures["styles.png"] = _Picture(rows.flatten(0, 1), _STYLES)
    if labels is not None and hasattr(model, "encode"):
        known = ((labels >= 0) & (labels < model.num_classes)).nonzero()[:, 0]
        if len(known) > 0:
            places = known[evenly_spaced(min(_ANALOGIES, len(known)), len(known))]
            rows = analogies(model, images[places], labels[places], classes=_shown_classes(model))
            pictures["analogies.png"] = _Picture(rows.flatten(0, 1), rows.shape[1], wide_gaps=(1,))
    return pictures


def _shown_classes(model: Any) -> list[int]:
    count = model.num_classes
    found: list[int] = evenly_spaced(min(_MOST_CLASSES, count), count).tolist()
    return found


def _style_planes(model: Any) -> _Picture:
    """The planes of three classes, side by side; of fewer than five classes the first ones."""
    planes = len(_STYLE_PLANES)
    chosen = _STYLE_PLANES if model.num_classes > max(_STYLE_PLANES) else range(min(planes, model.num_classes))
    side = _STYLE_PLANE_COLUMNS
    found = [manifold(model, side, label=label).reshape(side, side, -1) for label in chosen]
    gaps = tuple(range(side, side * len(found), side))
    return _Picture(torch.cat(found, 1).flatten(0, 1), side * len(found), gaps)


def _reconstructions(model: Any, test_images: Tensor | tuple[Tensor, Tensor], grey: Tensor | None) -> _Picture:
    """Rows of originals, in grey and then binarised where both are there, and the row of their reconstructions."""
    places = _places(test_images)
    chosen = select_examples(test_images, places)
    originals = chosen if isinstance(chosen, Tensor) else chosen[0]
    shown = [] if grey is None else [grey[places]]
    return _in_rows(*shown, originals, model.reconstruct(chosen).to(originals))


def _denoised(model: Any, test_images: Any) -> _Picture:
    """Rows of originals, each followed by the same images with noise and by what is reconstructed from these."""
    originals = select_examples(test_images, _places(test_images))
    corrupted = model.corrupt(originals, seed=0)
    return _in_rows(originals, corrupted, model.reconstruct(corrupted))


def _places(test_images: Any) -> Tensor:
    """Which images the pictures with originals have: `_COLUMNS` for each of `_ROWS` rows."""
    count = test_images.shape[0] if isinstance(test_images, Tensor) else test_images[0].shape[0]
    return evenly_spaced(_COLUMNS * _ROWS, count)


def _in_rows(*images: Tensor) -> _Picture:
    rows = [each.reshape(_ROWS, _COLUMNS, -1) for each in images]
    return _Picture(torch.stack(rows, 1).flatten(0, 2), _COLUMNS)


def _filters(model: Any) -> _Picture:
    """The filters with the largest norms, in the order of their units; zero is grey, each has its own scale."""
    weights = model.filters()
    largest = weights.square().sum(1).topk(min(_FILTERS, weights.shape[0])).indices.sort().values
    chosen = weights[largest].cpu()
    scale = chosen.abs().amax(1, keepdim=True).clamp_min(torch.finfo(chosen.dtype).tiny)
    return _Picture(0.5 + 0.5 * chosen / scale, _FILTER_COLUMNS)


def _samples(model: Any) -> _Picture:
    generator = torch.Generator().manual_seed(0)  # the same z for every run: pictures of two runs can be compared
    return _Picture(model.decode(torch.randn(_SAMPLES, model.latent_dim, generator=generator)), _SAMPLE_COLUMNS)
