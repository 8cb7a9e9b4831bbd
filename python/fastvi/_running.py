"""The running log-mean-exp behind ``fastvi.LogMeanExp`` and ``fastvi.numpy.LogMeanExp``: one arithmetic for both."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from fastvi._sizes import choose_axis

ArrayType = TypeVar("ArrayType")
Self = TypeVar("Self", bound="RunningLogMeanExp[Any]")


class Summary(NamedTuple):
    """What is kept of log-weights: for each column three float64 numbers, whose arithmetic is the array library's.

    Sums are of weights relative to the largest one, which no log-weight is too large for.
    """

    num_samples: int
    dtype: Any
    maximum: Any  # the largest log-weight
    total: Any  # sum of exp(log-weight - maximum)
    squares: Any  # sum of the squares of these


def summarise(library: Any, num_samples: int, dtype: Any, maximum: Any, total: Any, effective: Any) -> Summary:
    """The summary of a chunk from its largest log-weights, relative sums, and effective sample sizes."""
    # Weights that are all zero have no effective sample size (NaN), and no part in the sum.
    squares = library.where(maximum == -math.inf, 0.0, total * total / effective)
    return Summary(num_samples, dtype, maximum, total, squares)


def finite_or_zero(library: Any, maximum: Any) -> Any:
    """What log-weights are measured from: their maximum, but 0 where that is infinite or NaN."""
    return library.where(library.isfinite(maximum), maximum, 0.0)


def join(library: Any, first: Summary, second: Summary) -> Summary:
    """The summary of both; ``library`` has ``maximum``, ``where``, ``isfinite`` and ``exp``, as torch and numpy do.

    Raises
    ------
    ValueError
        If the columns differ in shape.
    """
    if first.maximum.shape != second.maximum.shape:
        raise ValueError(
            f"LogMeanExp: got columns of shape {tuple(second.maximum.shape)}, expected "
            f"{tuple(first.maximum.shape)} as before"
        )
    maximum = library.maximum(first.maximum, second.maximum)
    origin = finite_or_zero(library, maximum)
    of_first, of_second = (library.exp(part.maximum - origin) for part in (first, second))
    return Summary(
        first.num_samples + second.num_samples,
        second.dtype,
        maximum,
        of_first * first.total + of_second * second.total,
        of_first * of_first * first.squares + of_second * of_second * second.squares,
    )


class RunningLogMeanExp(ABC, Generic[ArrayType]):
    """What both classes share; a subclass names its library and says how a chunk is summarised and a result rounded."""

    _library: ClassVar[Any]

    def __init__(self, dim: int = 0, *, axis: int | None = None) -> None:
        self.dim: int = choose_axis("LogMeanExp", dim, axis)
        self._summary: Summary | None = None

    @abstractmethod
    def _summarise(self, chunk: ArrayType) -> Summary:
        """A chunk alone, after it was checked."""

    @abstractmethod
    def _round(self, result: Any, dtype: Any) -> ArrayType:
        """A float64 result in the dtype of the chunks."""

    def _quiet(self) -> AbstractContextManager[Any]:
        """Within it the library answers NaN and infinite weights without a warning."""
        return nullcontext()

    def _add(self, added: Summary) -> None:
        self._summary = added if self._summary is None else join(self._library, self._summary, added)

    def update(self: Self, chunk: ArrayType) -> Self:
        """Add a chunk of log-weights, any number of samples along ``dim``; returns the object itself.

        Raises
        ------
        TypeError
            If ``chunk`` has another type or dtype than the operations take.
        ValueError
            If ``dim`` is out of range or empty, or the other dimensions differ from those seen before.
        """
        with self._quiet():
            self._add(self._summarise(chunk))
        return self

    def merge(self: Self, other: Self) -> Self:
        """Add what another object has seen; returns the object itself.

        Raises
        ------
        TypeError
            If ``other`` is no ``LogMeanExp`` of the same module.
        ValueError
            If the columns differ in shape.
        """
        if not isinstance(other, RunningLogMeanExp) or other._library is not self._library:
            kind = type(other)
            raise TypeError(f"LogMeanExp.merge: other must be a LogMeanExp, got {kind.__name__} of {kind.__module__}")
        if other._summary is not None:
            with self._quiet():
                self._add(other._summary)
        return self

    @property
    def count(self) -> int:
        """Number of samples seen."""
        return 0 if self._summary is None else self._summary.num_samples

    def _seen(self) -> Summary:
        if self._summary is None:
            raise ValueError("LogMeanExp: no chunk was seen yet; call update first")
        return self._summary

    @property
    def value(self) -> ArrayType:
        """Log-mean-exp of all chunks, in nats; shape of a chunk without ``dim``."""
        seen = self._seen()
        with self._quiet():
            logs = self._library.log(seen.total / seen.num_samples)
            return self._round(finite_or_zero(self._library, seen.maximum) + logs, seen.dtype)

    @property
    def ess(self) -> ArrayType:
        """Effective sample size of all chunks; shape of a chunk without ``dim``."""
        seen = self._seen()
        with self._quiet():
            return self._round(seen.total * seen.total / seen.squares, seen.dtype)
