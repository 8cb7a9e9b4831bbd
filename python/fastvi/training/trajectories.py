"""A picture of latent trajectories: the path that a model's code takes along each of some sequences."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from fastvi.training.files import atomic_write

_MOST_SEQUENCES = 12
_MOST_FRAMES = 400  # of each
_SIZE = 640
_MARGIN = 24
_FINER = 3  # lines are drawn larger and made smaller, which smooths them
_FIRST, _LAST = (38, 70, 150), (214, 90, 40)
"""Colours of the first and the last frame of a sequence."""


@torch.inference_mode()
def write_trajectories(model: Any, sequences: Iterable[Tensor], folder: Path) -> list[Path]:
    """Write trajectories.png: codes of the first sequences, in the plane in which they vary most.

    Each sequence is a line from blue, its first frame, to orange, its last, with a dot for each frame.

    Parameters
    ----------
    model
        A trained model with ``code(x)``, (T, Z); for others nothing is written.
    sequences
        Frames of each, (T, D), in the order of time; without any nothing is written.
    folder
        Where the file goes.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    if not callable(getattr(model, "code", None)):
        return []
    codes = [model.code(frames[:_MOST_FRAMES]) for frames in islice(sequences, _MOST_SEQUENCES)]
    if not codes:
        return []
    path = folder / "trajectories.png"
    with atomic_write(path) as file:
        _drawn(plane(codes)).save(file, format="PNG")
    return [path]


def plane(codes: list[Tensor]) -> list[Tensor]:
    """Return the codes' two first principal components, (T, 2) for each (T, Z); where Z is 1 the second is 0.

    NaN counts as 0.
    """
    together = torch.cat(codes).double().nan_to_num(0.0)
    centre = together.mean(0)
    directions = torch.linalg.svd(together - centre, full_matrices=False).Vh[:2]
    # A direction and its opposite are as good: the largest part is positive, so that pictures can be compared.
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    directions = directions * largest.sign()
    found = (together - centre) @ directions.T
    return list(torch.nn.functional.pad(found, (0, 2 - found.shape[1])).split([len(each) for each in codes]))


def _drawn(paths: list[Tensor]) -> Image.Image:
    together = torch.cat(paths)
    low, high = together.amin(0), together.amax(0)
    extent = float((high - low).max()) or 1.0  # the same for both axes, so that angles stay
    size, margin = _SIZE * _FINER, _MARGIN * _FINER
    canvas = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(canvas)
    for path in paths:
        places = 0.5 * size + (path - (low + high) / 2) * ((size - 2 * margin) / extent)
        points = [(x, size - y) for x, y in places.tolist()]
        colours = [_between(number / max(1, len(points) - 1)) for number in range(len(points))]
        for number in range(1, len(points)):
            pen.line([points[number - 1], points[number]], fill=colours[number], width=2 * _FINER)
        for (x, y), colour in zip(points, colours, strict=True):
            pen.ellipse([x - 3 * _FINER, y - 3 * _FINER, x + 3 * _FINER, y + 3 * _FINER], fill=colour)
    return canvas.resize((_SIZE, _SIZE), Image.Resampling.LANCZOS)


def _between(share: float) -> tuple[int, int, int]:
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(_FIRST, _LAST, strict=True))
    return red, green, blue
