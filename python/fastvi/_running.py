"""The running log-mean-exp behind ``fastvi.LogMeanExp`` and ``fastvi.numpy.LogMeanExp``: one arithmetic for both."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from fastvi._sizes import choose_axis

ArrayType = TypeVar("ArrayType")
Self = TypeVar("Self", bound="RunningLogMeanExp[Any]")


class Summary(NamedTuple):
    """What is kept of log-weights: for each column two float64 numbers, whose arithmetic is the array library's."""

    num_samples: int
    dtype: Any
    log_sum: Any  # logarithm of the sum of the weights
    concentration: Any  # sum of the squared normalised weights


def join(library: Any, first: Summary, second: Summary) -> Summary:
    """The summary of both; ``library`` has ``logaddexp``, ``where`` and ``exp``, as torch and numpy do.

    Raises
    ------
    ValueError
        If the columns differ in shape.
    """
    if first.log_sum.shape != second.log_sum.shape:
        raise ValueError(
            f"LogMeanExp: got columns of shape {tuple(second.log_sum.shape)}, expected "
            f"{tuple(first.log_sum.shape)} as before"
        )
    total = library.logaddexp(first.log_sum, second.log_sum)
    empty = total == -math.inf
    shift = library.where(empty, 0.0, total)
    joined = sum(
        # Weights that are all zero have no concentration (NaN), and no part in the sum.
        library.where(log_sum == -math.inf, 0.0, library.exp(2.0 * (log_sum - shift)) * concentration)
        for _, _, log_sum, concentration in (first, second)
    )
    return Summary(first.num_samples + second.num_samples, second.dtype, total, library.where(empty, math.nan, joined))


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
        return self._round(seen.log_sum - math.log(seen.num_samples), seen.dtype)

    @property
    def ess(self) -> ArrayType:
        """Effective sample size of all chunks; shape of a chunk without ``dim``."""
        seen = self._seen()
        return self._round(1.0 / seen.concentration, seen.dtype)
