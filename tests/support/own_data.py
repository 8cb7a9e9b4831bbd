"""Data of a user's own, as users write them."""

import numpy as np
import torch
from PIL import Image

from fastvi.data.splitting import evenly_spaced

BYTES = np.random.default_rng(0).integers(0, 256, (30, 6, 5), dtype=np.uint8)


def table_rows(count, width):
    return np.random.default_rng(1).normal(size=(count, width)).astype(np.float32)


def write_csv(path, rows, names=None, delimiter=","):
    lines = [] if names is None else [delimiter.join(names)]
    lines += [delimiter.join(map(str, row)) for row in (rows.tolist() if isinstance(rows, np.ndarray) else rows)]
    path.write_text("\n".join(lines) + "\n")


def write_images(folder, count, shape=(4, 6), suffix=".png", seed=0):
    """Images of noise, and their pixels (count, *shape)."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
    for place, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{place:03d}{suffix}")
    return pixels


def rows_of(array, divisor=255.0):
    return torch.from_numpy(array.reshape(len(array), -1).astype(np.float32)) / divisor


def assert_split(data, rows, count):
    """The test rows are spread evenly, and the others train in their order."""
    tested = evenly_spaced(count, len(rows))
    rest = [row for row in range(len(rows)) if row not in tested.tolist()]
    torch.testing.assert_close(data.test, rows[tested], rtol=0, atol=0)
    torch.testing.assert_close(data.train, rows[rest], rtol=0, atol=0)
