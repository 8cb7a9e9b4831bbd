"""The data set ``moving-spot``: short films of a soft spot that crosses an image in a straight line at constant speed.

Its frames lie on a surface of two dimensions, the place of the spot, along which a film is a straight line; among the
pixels the same film is a curve.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SIZE = 16
"""Height and width of a frame."""
FRAMES = 20
"""Frames of a film."""
TRAIN_FILMS, TEST_FILMS = 100, 40
_MARGIN = 2.0  # of the spot's centre to the outermost pixels
_WIDTH = 1.5  # standard deviation of the spot, in pixels
_SEED = 2002


def moving_spot() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the films to train with and to test with, shapes (100, 20, 256) and (40, 20, 256), values in [0, 1].

    A film's first and last place are uniform in the image but for a margin, and its frames are equally spaced between.
    The values are rounded to multiples of 1 / 255, so that they are the same bits on every machine.
    """
    # The numbers of a RandomState stay the same in every version of NumPy.
    ends = np.random.RandomState(_SEED).uniform(_MARGIN, SIZE - 1 - _MARGIN, (TRAIN_FILMS + TEST_FILMS, 2, 2))
    share = np.linspace(0.0, 1.0, FRAMES)[:, None]
    places = ends[:, None, 0] * (1.0 - share) + ends[:, None, 1] * share  # (films, frames, 2)
    profiles = np.exp(-0.5 * ((np.arange(SIZE) - places[..., None]) / _WIDTH) ** 2)  # (films, frames, 2, pixels)
    frames = profiles[..., 0, :, None] * profiles[..., 1, None, :]
    films = (np.round(255.0 * frames).astype(np.float32) / np.float32(255.0)).reshape(*frames.shape[:2], -1)
    return films[:TRAIN_FILMS], films[TRAIN_FILMS:]
