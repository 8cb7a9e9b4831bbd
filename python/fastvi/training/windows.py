"""Training and test frames with their neighbours, for models of sequences; and the sequences themselves."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastvi.autoencoders.sequences import WINDOW, consecutive_frames, sequences
from fastvi.data import TEST_BINARIZATION_SEED, Dataset, Presenter, binarize, test_images


class WindowPresenter:
    """Gives windows of three training frames in a row by the index of the window, binarised as asked.

    A batch is one of windows, so that the order of batches, shards and resumed runs are those of any other data.

    Parameters
    ----------
    frames
        Gives the single frames.
    rows
        Which frames are in each window, (W, 3).
    """

    def __init__(self, frames: Presenter, rows: Tensor) -> None:
        self._frames = frames
        self._rows = rows

    def __len__(self) -> int:
        """Return the number of windows, W."""
        return self._rows.shape[0]

    def to(self, device: torch.device) -> None:
        """Move the frames to a device: there the indices must be, and there the batches are made."""
        self._frames.to(device)
        self._rows = self._rows.to(device)

    def __call__(self, indices: Tensor, seed: int, row_offset: int = 0) -> Tensor:
        """Return the windows ``indices`` (B,) as a (B, 3, D) tensor; see `fastvi.data.Presenter`."""
        rows = self._rows.index_select(0, indices)
        frames = self._frames(rows.flatten(), seed, WINDOW * row_offset)
        return frames.reshape(*rows.shape, frames.shape[1])


def training_windows(data: Dataset) -> Tensor:
    """Return which training frames are three in a row, (W, 3); no window where the data have no order."""
    if data.train_times is None:
        return torch.empty(0, WINDOW, dtype=torch.int64)
    return consecutive_frames(data.train_times)


def held_out_windows(data: Dataset, binarization: str) -> Tensor:
    """Return each test frame between its neighbours, (W, 3, D), as a model sees them.

    The neighbours are test frames where the test frames are sequences of their own, else the training frames beside
    them.
    """
    rows = _of_all_times(data)
    if rows is None:
        return data.test.new_empty(0, WINDOW, data.test.shape[1])
    return _all_frames(data, binarization)[rows]


def held_out_sequences(data: Dataset, binarization: str) -> Iterator[Tensor]:
    """Give each sequence of three frames or more that has a test frame, (T, D), in the order of time."""
    if data.train_times is None or data.test_times is None:
        return
    frames = _all_frames(data, binarization)
    for rows in sequences(torch.cat([data.train_times, data.test_times])):
        if len(rows) >= WINDOW and bool((rows >= len(data.train)).any()):
            yield frames[rows]


def check_windows(data: Dataset, user: str) -> None:
    """Check that there are frames with neighbours to train and to test ``user``, a model.

    Raises
    ------
    ValueError
        If there are none.
    """
    if data.train_times is None or data.test_times is None:
        raise ValueError(
            f"{user} needs frames with neighbours, and the data {data.name} have no order; moving-spot has one"
        )
    rows = _of_all_times(data)
    for purpose, found in (("training", training_windows(data)), ("test", rows)):
        if found is None or len(found) == 0:
            raise ValueError(
                f"{user} needs frames with neighbours, and the data {data.name} have no {purpose} frame between two "
                "others"
            )


def _of_all_times(data: Dataset) -> Tensor | None:
    """Which frames, of the training and the test frames one after the other, are the windows of test frames."""
    if data.train_times is None or data.test_times is None:
        return None
    rows = consecutive_frames(torch.cat([data.train_times, data.test_times]))
    return rows[rows[:, 1] >= len(data.train)]


def _all_frames(data: Dataset, binarization: str) -> Tensor:
    assert isinstance(data.train, Tensor)  # as images with times are
    train = data.train if binarization == "none" else binarize(data.train, TEST_BINARIZATION_SEED)
    return torch.cat([train, test_images(data, binarization)])
