"""From rows of a user's own to a `Dataset`: their scale, their likelihood, their split, and what is wrong with them."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastvi._array_files import DataError
from fastvi.data.dataset import Dataset
from fastvi.data.image_folder import ImageFolder
from fastvi.data.parts import Part, as_array, as_labels, classes_of, not_finite
from fastvi.data.row_format import RowFormat, divisor_of, format_of
from fastvi.data.rows import RowSource, is_source, shape_of, some_rows
from fastvi.data.splitting import parse_split, split_rows
from fastvi.data.streaming import StreamedArrays
from fastvi.models.likelihoods import LIKELIHOODS, VALUES, values_of

_NAMES_SHOWN = 5
_ROWS_SEEN = 256
"""Of a source, so many rows are looked at before training; each batch is, when it is read."""
_BRIGHTEST = 255.0
"""Numbers of 0 or more, the largest of which is this or not far below it, may be grey values."""
_SPREADS = (0.1, 10.0)
"""Standard deviations of columns beyond these make training slow: then a warning tells of standardising them."""


def from_arrays(
    train: Any,
    test: Any = None,
    *,
    labels: Any = None,
    test_labels: Any = None,
    test_split: float | None = None,
    image_size: tuple[int, int] | None = None,
    likelihood: str | None = None,
    divide_by: float | None = None,
    standardize: bool = False,
    name: str = "data",
) -> Dataset:
    """Make a data set of arrays, tensors, a sparse matrix, a data frame, or a `RowSource` of training rows.

    Parameters
    ----------
    train
        Shape (N, D), (N, H, W), (N, H, W, C) or (N, C, H, W), C being 1, 3 or 4: numbers of any dtype.
    test
        The same of the test rows; None: ``test_split`` of ``train``.
    labels, test_labels
        Shapes (N,) and (M,): whole numbers of 0 or more, or words, which get the numbers of their order. None, NaN, an
        empty word, or -1 among two or more classes stands for a label that is missing; it becomes -1.
    test_split
        Fraction of the rows that test, or their number, spread evenly over all; None: a tenth, at most 10,000.
    image_size
        (H, W) of rows (N, D) that are images.
    likelihood
        A name of ``fastvi.models.LIKELIHOODS``. None: where all values are in [0, 1] ``"bernoulli"``, of images with
        channels ``"gaussian"``; ``"real-gaussian"`` for others.
    divide_by
        The values are divided by it; None: uint8 are divided by 255, unless they are counts by the likelihood or hold 0
        and 1 alone.
    standardize
        Subtract from each column its mean over the training rows, and divide it by its standard deviation. The
        likelihood is one of real numbers then, and its bounds are those of the standardised values.
    name
        For messages.

    Raises
    ------
    DataError
        If the values are not finite or not what the likelihood is of, if shapes or labels do not fit, or if nothing is
        there.

    Warns
    -----
    UserWarning
        Where columns never vary, differ much in scale, or look like grey values or counts, under a likelihood for which
        that matters.

    Examples
    --------
    >>> images = np.arange(600, dtype=np.uint8).reshape(10, 60 // 6, 6) % 200
    >>> data = from_arrays(images, test_split=2)
    >>> data.train.shape, data.test.shape, data.image_shape, data.likelihood
    (torch.Size([8, 60]), torch.Size([2, 60]), (10, 6), 'bernoulli')
    """
    if is_source(train):
        part = Part(train, None if labels is None else as_labels(f"{name}: labels", labels))
    else:
        columns = getattr(train, "columns", None)
        part = Part(
            as_array(name, train),
            None if labels is None else as_labels(f"{name}: labels", labels),
            None if columns is None else tuple(map(str, columns)),
        )
    test_part = None
    if test is not None:
        test_part = Part(
            as_array(f"{name}: test rows", test),
            None if test_labels is None else as_labels(f"{name}: test labels", test_labels),
        )
    elif test_labels is not None:
        raise DataError(f"{name}: `test_labels` belong to `test`, which was not given")
    split = parse_split(test_split)
    if split is not None and not isinstance(split, int | float):
        raise DataError(f"{name}: `test_split` must be a fraction or a number of rows, got {split}")
    return assemble(
        name,
        part,
        test_part,
        split=split,
        image_size=image_size,
        likelihood=likelihood,
        divide_by=divide_by,
        standardize=standardize,
    )


def assemble(
    name: str,
    part: Part,
    test_part: Part | None,
    *,
    split: float | None = None,
    image_size: tuple[int, int] | None = None,
    likelihood: str | None = None,
    divide_by: float | None = None,
    standardize: bool = False,
    test_name: str | None = None,
) -> Dataset:
    """Make a data set of what was read; see `from_arrays` for the parameters, errors and warnings."""
    test_name = test_name or name
    _check_choices(name, likelihood, divide_by, standardize)
    are_counts = likelihood is not None and values_of(likelihood) == VALUES[1]
    values, row_format = _opened(name, part, image_size, divide_by, are_counts)
    total, width = shape_of(values)
    if math.prod(row_format.image_shape) != width:
        raise DataError(f"{name}: expected rows of {math.prod(row_format.image_shape)} values, got {width}")
    rest, tested = torch.arange(total), None
    if test_part is None:
        rest, tested = split_rows(name, total, width, split)
        test = values[tested] if isinstance(values, Tensor) else values.rows(tested)
    else:
        test = _test_rows(test_name, test_part, image_size, row_format, part)
        _check_finite(test_name, test, test_part)
    train = _selected(values, rest, tested)
    seen = some_rows(train, _ROWS_SEEN)
    kind = likelihood or _fitting(row_format, standardize, [test, seen])
    if values_of(kind) == VALUES[0]:
        for owner, rows in ((name, seen), (test_name, test)):
            _check_unit(owner, rows, kind)
    if standardize:
        train, test = _standardized(name, train, test, row_format)
    elif values_of(kind) == VALUES[2]:
        _warn_of_scales(name, train, likelihood is None and divide_by is None)
    if len(row_format.image_shape) == 2 and row_format.image_shape[0] == 1 and not kind.endswith("bernoulli"):
        _warn_of_constants(name, train, part.columns)
    counts = (total, test.shape[0])
    numbers, test_numbers, class_names = split_labels(name, test_name, part, test_part, counts, rest, tested)
    return Dataset(name, train, test, row_format.image_shape, kind, numbers, test_numbers, class_names)


def _check_choices(name: str, likelihood: str | None, divide_by: float | None, standardize: bool) -> None:
    if likelihood is not None and likelihood not in LIKELIHOODS:
        raise DataError(f"{name}: `likelihood` must be one of {', '.join(LIKELIHOODS)}, got {likelihood!r}")
    if divide_by is not None and not 0 < divide_by < math.inf:
        raise DataError(f"{name}: `divide_by` must be a positive number, got {divide_by}")
    if standardize and likelihood is not None and values_of(likelihood) != VALUES[2]:
        real = ", ".join(each for each in LIKELIHOODS if values_of(each) == VALUES[2])
        raise DataError(
            f"{name}: standardised values are real numbers, and `likelihood` {likelihood} is of {values_of(likelihood)}"
            f": take one of {real}"
        )


def _opened(
    name: str, part: Part, image_size: tuple[int, int] | None, divide_by: float | None, are_counts: bool
) -> tuple[Tensor | RowSource, RowFormat]:
    """The rows of a part, those in memory checked, and how they came to be."""
    values = part.values
    if isinstance(values, StreamedArrays | ImageFolder):
        row_format = values.row_format
        if divide_by is None and not are_counts:
            return values, row_format
        row_format = replace(row_format, divisor=divide_by or 1.0)
        return values.with_format(row_format), row_format
    if not isinstance(values, np.ndarray):
        return values, format_of(name, shape_of(values), image_size)
    _check_numbers(name, values)
    row_format = format_of(name, values.shape, image_size)
    row_format = replace(row_format, divisor=divisor_of(values.dtype, float(values.max()), divide_by, are_counts))
    rows = row_format(values)
    _check_finite(name, rows, part)
    return rows, row_format


def _check_numbers(name: str, values: npt.NDArray[Any]) -> None:
    if values.dtype.kind not in "biuf":
        raise DataError(f"{name}: expected numbers (bool, integers or floating point), got words")


def _test_rows(name: str, part: Part, image_size: tuple[int, int] | None, row_format: RowFormat, train: Part) -> Tensor:
    values = part.values
    if isinstance(values, np.ndarray):
        _check_numbers(name, values)
        own = format_of(name, values.shape, image_size)
        of_train = getattr(train.values, "dtype", None)
        same_scale = of_train is None or of_train == values.dtype or of_train.kind != "u"
        divisor = row_format.divisor if same_scale else divisor_of(values.dtype, float(values.max()), None, False)
        own = replace(own, divisor=divisor)
    else:
        own = getattr(values, "row_format", row_format)
    if own.image_shape != row_format.image_shape:
        shapes = [" x ".join(map(str, shape)) for shape in (row_format.image_shape, own.image_shape)]
        raise DataError(f"{name}: expected test rows of the shape {shapes[0]}, as those to train, got {shapes[1]}")
    return own(values) if isinstance(values, np.ndarray) else values.rows(torch.arange(len(values)))


def _check_finite(name: str, rows: Tensor, part: Part) -> None:
    """Name the first value that is NaN or infinite by its place in the file."""
    if bool(rows.isfinite().all()):
        return
    row, column = torch.nonzero(~rows.isfinite())[0].tolist()
    where = f"row {row}" if part.lines is None else f"line {part.lines[row]}"
    which = str(column) if part.columns is None else part.columns[column]
    raise DataError(f"{name}: {where}, column {which}: {not_finite(rows[row, column].item(), np.asarray(part.values))}")


def _selected(values: Tensor | RowSource, rest: Tensor, tested: Tensor | None) -> Tensor | RowSource:
    if tested is None:
        return values
    if isinstance(values, Tensor):
        return values[rest]
    return values.select(rest) if isinstance(values, StreamedArrays | ImageFolder) else _Selected(values, rest)


class _Selected:
    """Some rows of a source."""

    def __init__(self, source: RowSource, chosen: Tensor) -> None:
        self.name = getattr(source, "name", type(source).__name__)
        self._source = source
        self._chosen = chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def rows(self, indices: Tensor) -> Tensor:
        return self._source.rows(self._chosen[indices])


def _fitting(row_format: RowFormat, standardize: bool, samples: list[Tensor]) -> str:
    """The usual likelihood of values: that of colours is a density, because no colour is a coin that was tossed."""
    are_unit = all(bool((rows.min() >= 0) & (rows.max() <= 1)) for rows in samples)
    if standardize or not are_unit:
        return "real-gaussian"
    return "bernoulli" if len(row_format.image_shape) == 2 else "gaussian"


def _check_unit(name: str, rows: Tensor, likelihood: str) -> None:
    least, largest = rows.min().item(), rows.max().item()
    if least < 0 or largest > 1:
        grey = "grey values are divided by `divide_by` 255, counts take `likelihood` poisson, " if least >= 0 else ""
        raise DataError(
            f"{name}: expected values in [0, 1] for `likelihood` {likelihood}, got values from {least:g} to "
            f"{largest:g}; {grey}real numbers take `likelihood` real-gaussian"
        )


def _standardized(
    name: str, train: Tensor | RowSource, test: Tensor, row_format: RowFormat
) -> tuple[Tensor | RowSource, Tensor]:
    scaled = row_format.standardized(some_rows(train))
    assert scaled.shift is not None
    assert scaled.scale is not None
    test = (test - scaled.shift) / scaled.scale
    if isinstance(train, Tensor):
        return (train - scaled.shift) / scaled.scale, test
    if not isinstance(train, StreamedArrays | ImageFolder):
        raise DataError(f"{name}: `standardize` is for arrays and files: a source gives its rows as they are to be")
    return train.with_format(scaled), test


def _warn_of_scales(name: str, train: Tensor | RowSource, may_be_grey: bool) -> None:
    rows = some_rows(train, 2_000)[:10_000]
    spread = rows.std(0, correction=0)
    spread = spread[spread > 0]
    least, largest = rows.min().item(), rows.max().item()
    if may_be_grey and least >= 0 and bool((rows == rows.floor()).all()):
        warnings.warn(
            f"{name}: the values, whole numbers from {least:g} to {largest:g}, are taken for real numbers; grey values "
            "are divided by `divide_by` 255, counts take `likelihood` poisson",
            stacklevel=4,
        )
    elif may_be_grey and least >= 0 and _BRIGHTEST / 2 < largest <= _BRIGHTEST:
        warnings.warn(
            f"{name}: the values, from {least:g} to {largest:g}, are taken for real numbers; grey values are divided "
            "by `divide_by` 255",
            stacklevel=4,
        )
    elif spread.numel() and (spread.min() < _SPREADS[0] or spread.max() > _SPREADS[1]):
        warnings.warn(
            f"{name}: the columns' standard deviations go from {spread.min().item():.3g} to {spread.max().item():.3g}; "
            "`standardize` brings them to 1, which training expects",
            stacklevel=4,
        )


def _warn_of_constants(name: str, train: Tensor | RowSource, columns: tuple[str, ...] | None) -> None:
    rows = some_rows(train)
    constant = torch.nonzero(rows.amax(0) == rows.amin(0)).squeeze(1).tolist()
    if constant and rows.shape[0] > 1:
        shown = [str(place) if columns is None else columns[place] for place in constant[:_NAMES_SHOWN]]
        more = f" and {len(constant) - _NAMES_SHOWN} more" if len(constant) > _NAMES_SHOWN else ""
        warnings.warn(
            f"{name}: constant columns: {', '.join(shown)}{more}; their density is limited by the likelihood's floor "
            "alone, so they raise the bound and say nothing: leave them out",
            stacklevel=4,
        )


def split_labels(
    name: str,
    test_name: str,
    part: Part,
    test_part: Part | None,
    counts: tuple[int, int],
    rest: Tensor,
    tested: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, tuple[str, ...] | None]:
    """Return the labels of the training and of the test rows as whole numbers from 0, and what these stand for.

    Parameters
    ----------
    name, test_name
        Of the training and the test rows, for messages.
    part, test_part
        Rows with their labels; the test part is None where some of the training rows test.
    counts
        How many rows ``part`` has, and how many test.
    rest, tested
        Which of the rows of ``part`` train and test; ``tested`` is None where there is a test part.

    Raises
    ------
    DataError
        If there are not as many labels as rows, or they are not what `classes_of` takes.
    """
    if part.labels is None:
        return None, None, None
    test_labels = None if test_part is None else test_part.labels
    for owner, labels, count in ((name, part.labels, counts[0]), (test_name, test_labels, counts[1])):
        if labels is not None and labels.shape[:1] != (count,):
            raise DataError(f"{owner}: expected {count:,} labels, one for each row, got the shape {labels.shape}")
    numbers, test_numbers, names = classes_of(name, part.labels, test_labels)
    of_rows = torch.from_numpy(np.ascontiguousarray(numbers))
    if tested is not None:
        return of_rows[rest], of_rows[tested], names
    return of_rows, None if test_numbers is None else torch.from_numpy(np.ascontiguousarray(test_numbers)), names
