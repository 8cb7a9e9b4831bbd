"""A folder of images, read by Pillow: all at once, or each when a batch asks for it."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fastvi._array_files import DataError
from fastvi.data.parts import NoLabelsError, read_error
from fastvi.data.row_format import RowFormat
from fastvi.data.splitting import evenly_spaced

IMAGE_SUFFIXES = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"
)  # fmt: skip
_GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16L", "I;16B")
_ORIENTATION = 0x0112
_TURNED = 5
"""From this orientation on, of those in a photograph's Exif data, height and width are exchanged."""
_ROWS_IN_DIGEST = 256
_DIGEST_BYTES = 32


class ImageFolder:
    """The images below a folder, in the order of their names, as rows with values in [0, 1].

    They are grey where all of them are, else red, green and blue; 16 bits are cut to 8, transparency is dropped.

    Parameters
    ----------
    folder
        Where they lie, in folders below it, too. Hidden files and other files are passed over.
    image_size
        (height, width) to which each is scaled after its middle is cut out with that ratio; None: all have one size.
    colour
        Whether they are colour images; None: as they are.

    Attributes
    ----------
    paths
        Of the images.
    shape
        (N, D).
    row_format
        Shape and scale of an example.

    Raises
    ------
    DataError
        If Pillow is missing, there are no images, one cannot be read, or they differ in size.
    """

    def __init__(
        self, folder: Path | str, image_size: tuple[int, int] | None = None, colour: bool | None = None
    ) -> None:
        self.folder = Path(folder)
        self.name = str(folder)
        try:
            self._pillow = importlib.import_module("PIL.Image")
            self._operations = importlib.import_module("PIL.ImageOps")
        except ImportError as error:
            raise DataError(f'{folder}: images are read by Pillow: pip install "fastvi[train]"') from error
        self.paths = tuple(_image_paths(self.folder))
        if not self.paths:
            raise DataError(
                f"{folder}: expected images ({', '.join(suffix[1:] for suffix in IMAGE_SUFFIXES)}) or npy files in the "
                "folder, found none"
            )
        size, are_grey = self._look(image_size)
        self.colour = not are_grey if colour is None else colour
        self.resized = image_size is not None
        self.row_format = RowFormat((3, *size) if self.colour else size, self.colour, divisor=255.0)
        self._chosen: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        image_shape = self.row_format.image_shape
        return len(self), int(np.prod(image_shape))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths) if self._chosen is None else len(self._chosen)

    def rows(self, indices: Tensor) -> Tensor:
        """Return the images ``indices`` (B,) in their order, float32 of shape (B, D).

        Raises
        ------
        DataError
            If one cannot be read.
        """
        return self.row_format(self.raw(indices))

    def raw(self, indices: Tensor) -> npt.NDArray[np.uint8]:
        """Return the images as bytes, (B, H, W) or (B, H, W, 3); raises as `rows` does."""
        places = indices if self._chosen is None else self._chosen[indices]
        return np.stack([self._read(self.paths[place]) for place in places.tolist()])

    def select(self, indices: Tensor) -> ImageFolder:
        """Return the same folder with the images ``indices`` alone."""
        return self._with(_chosen=indices if self._chosen is None else self._chosen[indices])

    def with_format(self, row_format: RowFormat) -> ImageFolder:
        """Return the same folder whose values become rows in another way."""
        return self._with(row_format=row_format)

    def _with(self, **attributes: Any) -> ImageFolder:
        other = object.__new__(ImageFolder)
        other.__dict__.update(self.__dict__, **attributes)
        return other

    def digest(self) -> str:
        """Return a digest of the images' names below the folder, their sizes in bytes, and 256 of them as read."""
        digest = hashlib.blake2b(repr((self.row_format.image_shape, self.shape)).encode(), digest_size=_DIGEST_BYTES)
        chosen = range(len(self.paths)) if self._chosen is None else self._chosen.tolist()
        for path in (self.paths[place] for place in chosen):
            digest.update(f"{path.relative_to(self.folder).as_posix()!r} {path.stat().st_size}\n".encode())
        digest.update(self.rows(evenly_spaced(min(_ROWS_IN_DIGEST, len(self)), len(self))).numpy().tobytes())
        return digest.hexdigest()

    def folder_labels(self) -> npt.NDArray[np.str_]:
        """Return for each image the name of the folder that it lies in, the first one below this folder.

        Raises
        ------
        DataError
            If an image lies in none; `fastvi.data.parts.NoLabelsError` if none of them lies in one.
        """
        parts = [path.relative_to(self.folder).parts for path in self.paths]
        for path, names in zip(self.paths, parts, strict=True):
            if len(names) < 2:
                kind = DataError if any(len(others) > 1 for others in parts) else NoLabelsError
                raise kind(
                    f"{path}: expected the image in a folder that says its label, as `labels_from` folders asks, "
                    f"found it in {self.folder} itself"
                )
        return np.array([names[0] for names in parts])

    def _look(self, image_size: tuple[int, int] | None) -> tuple[tuple[int, int], bool]:
        """The size of all images, and whether all are grey, from the beginning of each file."""
        first: tuple[Path, tuple[int, int]] | None = None
        are_grey = True
        for path in self.paths:
            size, mode = self._header(path)
            are_grey = are_grey and mode in _GREY_MODES
            first = first or (path, size)
            if image_size is None and size != first[1]:
                raise DataError(
                    f"{self.folder}: expected images of one size, {first[0].name} is {first[1][0]}x{first[1][1]} and "
                    f"{path.name} is {size[0]}x{size[1]}: `image_size` HxW scales all of them"
                )
        assert first is not None
        return image_size or first[1], are_grey

    def _header(self, path: Path) -> tuple[tuple[int, int], str]:
        try:
            with self._pillow.open(path) as image:
                width, height = image.size
                turned = image.getexif().get(_ORIENTATION, 1) >= _TURNED
                return ((width, height) if turned else (height, width)), image.mode
        except Exception as error:  # of Pillow's formats, each of which has its own
            raise read_error(path, error, "an image") from error

    def _read(self, path: Path) -> npt.NDArray[np.uint8]:
        """Bytes (H, W), or (H, W, 3)."""
        height, width = self.row_format.image_shape[-2:]
        try:
            with self._pillow.open(path) as image:
                upright = self._operations.exif_transpose(image)
                if upright.mode.startswith("I"):
                    deep = np.asarray(upright).astype(np.int64)
                    upright = self._pillow.fromarray((deep.clip(0, 2**16 - 1) >> 8).astype(np.uint8))
                plain = upright.convert("RGB" if self.colour else "L")
                if self.resized:
                    plain = self._operations.fit(plain, (width, height), self._pillow.Resampling.BILINEAR)
                pixels = np.asarray(plain)
        except Exception as error:
            raise read_error(path, error, "an image") from error
        if pixels.shape[:2] != (height, width):
            raise DataError(f"{path}: expected {height}x{width} pixels, got {pixels.shape[0]}x{pixels.shape[1]}")
        return pixels


def holds_images(folder: Path) -> bool:
    """Return whether an image lies below a folder."""
    return next(_image_paths(folder), None) is not None


def _image_paths(folder: Path) -> Iterator[Path]:
    try:
        found: Sequence[Path] = sorted(folder.rglob("*"))
    except OSError as error:
        raise read_error(folder, error, "a folder of images") from error
    for path in found:
        is_hidden = any(name.startswith(".") for name in path.relative_to(folder).parts)
        if path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden and path.is_file():
            yield path
