"""What a user gives as data: a name, a path, arrays, sparse matrices, datasets of torch; each becomes a `Dataset`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.utils.data as torch_data
from torch import Tensor

from fastvi.data import DATASET_NAMES, DataError, Dataset, DataSource, from_arrays, load_dataset
from fastvi.data.assembling import split_labels
from fastvi.data.parts import Part, as_array, as_labels
from fastvi.data.rows import RowSource, shape_of
from fastvi.data.splitting import evenly_spaced, split_rows

_NAME = "data"
_EXAMPLES_LOOKED_AT = 64


class GivenData(NamedTuple):
    """Data as a run takes them.

    Attributes
    ----------
    dataset
        The data set.
    example_shape
        Shape of one example as it was given; None for rows.
    place
        What a run remembers of where they were.
    """

    dataset: Dataset
    example_shape: tuple[int, ...] | None = None
    place: Path | DataSource | None = None


class DatasetRows:
    """The examples of a torch Dataset as rows, read when they are needed.

    Parameters
    ----------
    examples
        Anything with a length whose items are tensors or arrays of one shape, or pairs of them and labels.

    Examples
    --------
    >>> rows = DatasetRows([(torch.ones(2, 3), 0), (torch.zeros(2, 3), 1)])
    >>> rows.rows(torch.tensor([1])).shape, rows.labels()
    (torch.Size([1, 6]), array([0, 1]))
    """

    def __init__(self, examples: Any) -> None:
        self._examples = examples
        self.name = type(examples).__name__
        self._divisor = 1.0
        if len(examples):
            looked_at = evenly_spaced(min(len(examples), _EXAMPLES_LOOKED_AT), len(examples)).tolist()
            if as_array(self.name, self._values(0)).dtype == np.uint8:
                self._divisor = max(divisor_of(self._example(index), True) for index in looked_at)

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self._examples)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self._example(0).shape)

    def rows(self, indices: Tensor) -> Tensor:
        """Return the examples, flat, as float32."""
        return torch.stack([self._example(index) for index in indices.tolist()]).flatten(1)

    @property
    def has_labels(self) -> bool:
        """Whether the examples come with labels."""
        first = self._examples[0] if len(self) else None
        in_pairs = isinstance(first, tuple | list) and len(first) > 1
        return in_pairs or getattr(self._examples, "targets", None) is not None

    def labels(self) -> npt.NDArray[Any]:
        """Return the label of each example, a number or a word; see `fastvi.data.parts.as_labels` for missing ones.

        Raises
        ------
        DataError
            If the examples have none.
        """
        kept = getattr(self._examples, "targets", None)
        if kept is not None:
            return as_labels(f"{self.name}: its targets", kept)
        if not self.has_labels:
            got = type(self._examples[0]).__name__
            raise DataError(f"{self.name}: expected pairs of an example and a label, got {got}")
        found = [self._examples[index][1] for index in range(len(self))]
        plain = [each.tolist() if isinstance(each, Tensor | np.ndarray) else each for each in found]
        return as_labels(f"{self.name}: its labels", plain)

    def _example(self, index: int) -> Tensor:
        return as_floats(self.name, self._values(index), self._divisor)

    def _values(self, index: int) -> Any:
        found = self._examples[index]
        return found[0] if isinstance(found, tuple | list) else found


class SparseRows:
    """The rows of a sparse matrix of SciPy, made dense a batch at a time."""

    name = "sparse matrix"

    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix.tocsr()

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._matrix.shape[0])

    def rows(self, indices: Tensor) -> Tensor:
        """Return the rows as float32."""
        return torch.from_numpy(np.asarray(self._matrix[indices.numpy()].toarray(), dtype=np.float32))


def as_floats(name: str, values: Any, divisor: float | None = None) -> Tensor:
    """Return float32 values divided by ``divisor``; None: bytes by 255, unless they are 0 and 1 alone.

    Raises
    ------
    DataError
        If they are no numbers.
    """
    array = as_array(name, values)
    if array.dtype.kind in "US":
        raise DataError(f"{name}: expected numbers, got words")
    tensor = torch.tensor(array, dtype=torch.float32)
    return tensor / (divisor_of(tensor, array.dtype == np.uint8) if divisor is None else divisor)


def divisor_of(values: Tensor, are_bytes: bool) -> float:
    """Return 255 for bytes above 1, else 1."""
    return 255.0 if are_bytes and values.numel() and float(values.max()) > 1.0 else 1.0


def is_stream(data: Any) -> bool:
    """Return whether data come as batches, one after the other: a DataLoader, an IterableDataset, any iterable."""
    if isinstance(data, torch_data.DataLoader | torch_data.IterableDataset):
        return True
    is_array = any(hasattr(data, name) for name in ("__getitem__", "__array__", "tocsr", "rows", "X"))
    return isinstance(data, Iterable) and not is_array and not isinstance(data, Dataset | Path)


def given_data(
    data: Any,
    *,
    keep_values: bool,
    with_labels: bool,
    may_lack_labels: bool = False,
    test: Any = None,
    test_split: float | None = None,
    image_size: tuple[int, int] | None = None,
    likelihood: str | None = None,
) -> GivenData:
    """Return data as a run takes them.

    Parameters
    ----------
    data, test, test_split, image_size
        See `fastvi.fit`.
    keep_values
        Take any finite numbers, as a model of the user's own does.
    with_labels
        Whether the run uses labels.
    may_lack_labels
        Whether the examples of a torch dataset may come without.
    likelihood
        Of the model, where it was chosen.

    Raises
    ------
    DataError
        If they are not what they must be, in one line.
    """
    if isinstance(data, Dataset):
        return GivenData(data)
    if isinstance(data, str) and data in DATASET_NAMES:
        return GivenData(load_dataset(data))
    if isinstance(data, str | Path):
        split = str(test) if isinstance(test, str | Path) else test_split
        source = DataSource(str(data), split, image_size=image_size, likelihood=likelihood)
        return GivenData(source.load(), None, source)
    data, labels = _with_labels(data)
    test, test_labels = _with_labels(test)
    if with_labels and test_labels is None and isinstance(test, torch_data.Dataset):
        tests = DatasetRows(test)
        test_labels = tests.labels() if tests.has_labels else None
    if _is_sparse(data):
        return GivenData(_of_rows(SparseRows(data), labels, test, test_labels, test_split, image_size, likelihood))
    if isinstance(data, torch_data.Dataset):
        rows = DatasetRows(data)
        if with_labels and labels is None and (rows.has_labels or not may_lack_labels):
            labels = rows.labels()
        shape = rows.example_shape
        size = image_size or ((shape[-2], shape[-1]) if len(shape) in (2, 3) else None)
        found = _of_rows(rows, labels, test, test_labels, test_split, size, likelihood)
        return GivenData(found, shape if len(shape) > 1 else None)
    if not keep_values:
        return GivenData(
            from_arrays(
                data,
                test,
                labels=labels,
                test_labels=test_labels,
                test_split=test_split,
                image_size=image_size,
                likelihood=likelihood,
                name=_NAME,
            )
        )
    tensor = as_floats(_NAME, data)
    shape = tuple(tensor.shape[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what a likelihood of ours would mind
        found = from_arrays(
            tensor.flatten(1) if tensor.dim() > 1 else tensor,
            None if test is None else as_floats("test", test).flatten(1),
            labels=labels,
            test_labels=test_labels,
            test_split=test_split,
            likelihood="real-gaussian",
            name=_NAME,
        )
    return GivenData(found, shape if len(shape) > 1 else None)


def _with_labels(data: Any) -> tuple[Any, Any]:
    """Take a pair apart, and what keeps a matrix under ``X``, as AnnData does, or tensors, as TensorDataset does."""
    labels = None
    if isinstance(data, torch_data.TensorDataset):
        data = data.tensors
    if isinstance(data, tuple):
        if len(data) not in (1, 2):
            raise DataError(f"{_NAME}: expected a pair (examples, labels), got a tuple of {len(data)}")
        data, labels = (*data, None)[:2]
    if not isinstance(data, type) and hasattr(data, "X") and hasattr(data, "obs"):
        data = data.X
    return data, labels


def _is_sparse(data: Any) -> bool:
    return callable(getattr(data, "tocsr", None)) and callable(getattr(data, "toarray", None))


def _of_rows(
    rows: Any,
    labels: Any,
    test: Any,
    test_labels: Any,
    test_split: float | None,
    image_size: tuple[int, int] | None,
    likelihood: str | None,
) -> Dataset:
    """Make a data set of rows that are read when they are needed."""
    if test is not None:
        test = SparseRows(test) if _is_sparse(test) else DatasetRows(test) if hasattr(test, "__getitem__") else test
    total, width = shape_of(rows)
    image_shape = (1, width) if image_size is None else tuple(image_size)
    if image_size is not None and width != image_size[0] * image_size[1]:
        image_shape = (width // (image_size[0] * image_size[1]), *image_size)
    if test is None:
        chosen, tested = split_rows(rows.name, total, width, test_split)
        tests = rows.rows(tested)
    else:
        chosen, tested = torch.arange(total), torch.arange(len(test))
        tests = test.rows(tested)
    part = Part(rows, None if labels is None else as_labels(f"{_NAME}: labels", labels))
    test_part = None
    if test is not None:
        test_part = Part(test, None if test_labels is None else as_labels(f"{_NAME}: test labels", test_labels))
    counts = (total, tests.shape[0])
    numbers, others, class_names = split_labels(
        _NAME, "test", part, test_part, counts, chosen, tested if test is None else None
    )
    if likelihood is None:
        likelihood = "bernoulli" if bool(((tests >= 0) & (tests <= 1)).all()) else "real-gaussian"
    train = rows if test is not None else _Chosen(rows, chosen)
    return Dataset(_NAME, train, tests, image_shape, likelihood, numbers, others, class_names)


class _Chosen:
    """Some rows of a source."""

    def __init__(self, source: RowSource, chosen: Tensor) -> None:
        self._source = source
        self._chosen = chosen
        self.name = getattr(source, "name", type(source).__name__)

    def __len__(self) -> int:
        return len(self._chosen)

    def rows(self, indices: Tensor) -> Tensor:
        return self._source.rows(self._chosen[indices])
