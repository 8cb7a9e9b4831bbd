"""What the functions of sparse coding are given: NumPy arrays or PyTorch tensors, checked, as tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastvi._sizes import check_number

_DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Problem:
    """Rows to be coded, (N, D), and the dictionary, (A, D), of one dtype on one device.

    Attributes
    ----------
    leading
        The shape that the rows came in, without the last axis.
    is_numpy
        Whether results are NumPy arrays.
    """

    x: Tensor
    dictionary: Tensor
    alpha: float
    leading: tuple[int, ...]
    is_numpy: bool

    def like_given(self, values: Tensor, *trailing: int) -> Any:
        """A result for each row as what the rows came as: the leading shape and then ``trailing``."""
        values = values.reshape((*self.leading, *trailing))
        return values.numpy() if self.is_numpy else values


def read_problem(function: str, x: Any, dictionary: Any, alpha: object) -> Problem:
    """Check the data, the dictionary and alpha of a function, for its messages.

    Raises
    ------
    TypeError
        If an array is no NumPy array and no tensor, or not of floating point, or x and the dictionary differ in that.
    ValueError
        If shapes do not fit, if the dictionary is not finite, or if alpha is not a positive number.
    """
    is_numpy = not isinstance(x, Tensor) and not isinstance(dictionary, Tensor)
    x, dictionary = read_array(function, "x", x), read_array(function, "dictionary", dictionary)
    if x.dim() < 1:
        raise ValueError(f"{function}: x has shape {tuple(x.shape)}, expected (..., D)")
    if dictionary.dim() != 2 or dictionary.shape[0] < 1 or dictionary.shape[1] < 1:
        raise ValueError(
            f"{function}: dictionary has shape {tuple(dictionary.shape)}, expected (A, D): A atoms of D values"
        )
    if x.shape[-1] != dictionary.shape[1]:
        raise ValueError(
            f"{function}: x has shape {tuple(x.shape)}, expected (..., {dictionary.shape[1]}) for atoms of "
            f"{dictionary.shape[1]} values"
        )
    if x.dtype != dictionary.dtype or x.device != dictionary.device:
        raise TypeError(
            f"{function}: x is {x.dtype} on {x.device}, the dictionary {dictionary.dtype} on {dictionary.device}; "
            "expected the same"
        )
    if not bool(torch.isfinite(dictionary).all()):
        raise ValueError(f"{function}: dictionary contains NaN or infinity; expected finite numbers")
    return Problem(
        x.reshape(math.prod(x.shape[:-1]), x.shape[-1]),
        dictionary,
        check_alpha(function, alpha),
        tuple(x.shape[:-1]),
        is_numpy,
    )


def check_alpha(function: str, alpha: object) -> float:
    """The weight of the L1 norm, a positive number."""
    value = check_number(function, "alpha", alpha)
    if not 0.0 < value < math.inf:
        raise ValueError(f"{function}: alpha must be positive and finite, got {value:g}")
    return value


def read_array(function: str, name: str, given: Any) -> Tensor:
    """An array or tensor of floating point as a tensor; integers of an array are taken for float64."""
    if isinstance(given, Tensor):
        if given.dtype not in _DTYPES:
            raise TypeError(f"{function}: {name} is {given.dtype}, expected float32 or float64")
        return given
    if not isinstance(given, np.ndarray):
        raise TypeError(f"{function}: {name} must be a NumPy array or a torch.Tensor, got {type(given).__name__}")
    if np.issubdtype(given.dtype, np.integer) or given.dtype == np.bool_:
        given = given.astype(np.float64)
    if given.dtype not in (np.float32, np.float64):
        raise TypeError(f"{function}: {name} is {given.dtype}, expected float32 or float64")
    if any(stride < 0 for stride in given.strides) or not given.flags.writeable or not given.dtype.isnative:
        given = given.astype(given.dtype.newbyteorder("="))
    return torch.from_numpy(given)


def check_rows(owner: str, x: Tensor, dictionary: Tensor) -> None:
    """Check that a network of codes takes x: (..., D), in the dictionary's dtype."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{owner}: x must be a torch.Tensor, got {type(x).__name__}")
    if x.dim() < 1 or x.shape[-1] != dictionary.shape[1]:
        raise ValueError(f"{owner}: x has shape {tuple(x.shape)}, expected (..., {dictionary.shape[1]})")
    if x.dtype != dictionary.dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(f"{owner}: x is {x.dtype}, and the network {dictionary.dtype}; expected the same")


def check_start(function: str, values: Tensor) -> None:
    """Refuse codes to start from that are not finite: no step leads away from them.

    Raises
    ------
    ValueError
        In one line.
    """
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{function}: start contains NaN or infinity; expected finite numbers")


def read_start(function: str, start: Any, problem: Problem) -> Tensor:
    """Codes to start from, (N, A), a copy: those that were given, or zeros."""
    atoms = problem.dictionary.shape[0]
    if start is None:
        return problem.x.new_zeros(len(problem.x), atoms)
    values = read_array(function, "start", start).detach()
    expected = (*problem.leading, atoms)
    if tuple(values.shape) != expected:
        raise ValueError(f"{function}: start has shape {tuple(values.shape)}, expected {expected}")
    if values.dtype != problem.x.dtype or values.device != problem.x.device:
        raise TypeError(
            f"{function}: start is {values.dtype} on {values.device}, x is {problem.x.dtype} on {problem.x.device}"
        )
    check_start(function, values)
    return values.reshape(len(problem.x), atoms).clone(memory_format=torch.contiguous_format)
