"""Rows of examples by index: a tensor, or a source that gathers them where they lie, such as files beyond memory."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fastvi.data.splitting import evenly_spaced

MOST_ROWS_LOOKED_AT = 10_000
"""Of a source, statistics come from no more rows than these, spread evenly over all."""
_MOST_VALUES_LOOKED_AT = 2**23


@runtime_checkable
class RowSource(Protocol):
    """What gives examples by index, (B, D) at a time, the same each time; D is the width of its rows.

    A data set whose training rows are such a source is trained like one in memory, resumed to the bit included. Where
    it has ``digest()``, a hexadecimal text, a run remembers that to know its data again; else a digest of some rows.

    Examples
    --------
    >>> class Squares:
    ...     def __len__(self):
    ...         return 100
    ...     def rows(self, indices):
    ...         return (indices / 100.0).square().unsqueeze(-1).expand(-1, 4)
    >>> isinstance(Squares(), RowSource)
    True
    """

    def __len__(self) -> int:
        """Return the number of rows, N."""
        ...

    def rows(self, indices: Tensor) -> Tensor:
        """Return the rows ``indices``, int64 of shape (B,), as float32 of shape (B, D) on the CPU."""
        ...


def is_source(rows: object) -> bool:
    """Whether rows are a source, and nothing that is an array: data frames have methods of that name, too."""
    return isinstance(rows, RowSource) and not hasattr(rows, "__array__")


def shape_of(rows: Tensor | RowSource) -> tuple[int, ...]:
    """Return (N, D)."""
    if isinstance(rows, Tensor):
        return tuple(rows.shape)
    count = len(rows)
    return count, *(rows.rows(torch.zeros(1, dtype=torch.int64)).shape[1:] if count else (0,))


def some_rows(rows: Tensor | RowSource, most: int = MOST_ROWS_LOOKED_AT) -> Tensor:
    """Return a tensor's rows, all of them, or at most ``most`` of a source, evenly spaced."""
    if isinstance(rows, Tensor):
        return rows
    count, width = shape_of(rows)
    most = max(1, min(most, count, _MOST_VALUES_LOOKED_AT // max(1, width)))
    return rows.rows(evenly_spaced(most, count))


def mean_of_rows(rows: Tensor | RowSource) -> Tensor:
    """Return the mean of the rows, shape (D,): of all of a tensor's, of at most 10,000 of a source's.

    Examples
    --------
    >>> mean_of_rows(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    tensor([0.5000, 1.0000])
    """
    return some_rows(rows).mean(0)
