"""The multilayer perceptron as a module."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fastvi._perceptron import ACTIVATIONS
from fastvi._sizes import check_flag, check_integer
from fastvi.nn.layers import ACTIVATION_MODULES
from fastvi.nn.sequential import FusedSequential


class MLP(FusedSequential):
    """A multilayer perceptron that runs as :func:`fastvi.mlp`.

    It is the ``nn.Sequential`` of its linear layers and activations, with the same keys in its ``state_dict``, so that
    weights move from one to the other.

    Parameters
    ----------
    dims
        Numbers of features: of the input, of each hidden layer, and of the output; two at least.
    activation
        ``"tanh"``, ``"sigmoid"``, ``"relu"``, ``"softplus"``, ``"elu"``, ``"silu"`` or ``"gelu"``.
    activate_last
        Whether the activation follows the last layer, too.
    bias
        Whether the layers have biases.
    device, dtype
        Of the parameters.

    Raises
    ------
    TypeError, ValueError
        If there are fewer than two dimensions, one is not a positive integer, or there is no such activation.

    Examples
    --------
    >>> import torch
    >>> perceptron = MLP((784, 200, 10), "relu")
    >>> perceptron(torch.zeros(5, 784)).shape, sorted(perceptron.state_dict())
    (torch.Size([5, 10]), ['0.bias', '0.weight', '2.bias', '2.weight'])
    """

    def __init__(
        self,
        dims: Sequence[int],
        activation: str = "tanh",
        activate_last: bool = False,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not isinstance(dims, Sequence) or isinstance(dims, str):
            raise TypeError(f"MLP: dims must be a sequence of integers, got {type(dims).__name__}")
        sizes = [check_integer("MLP", f"dims[{i}]", size) for i, size in enumerate(dims)]
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"MLP: dims must be two positive integers at least, got {tuple(dims)}")
        if not isinstance(activation, str) or activation not in ACTIVATION_MODULES:
            raise ValueError(f"MLP: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        check_flag("MLP", "activate_last", activate_last)
        modules: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            layer = nn.Linear(fan_in, fan_out, bias=bias, device=device, dtype=dtype)
            modules += [layer, ACTIVATION_MODULES[activation]()]
        super().__init__(*(modules if activate_last else modules[:-1]))

    def __getitem__(self, index: slice | int) -> Any:
        """The module at a place, or those of a slice, which are no perceptron of their own."""
        if isinstance(index, slice):
            return FusedSequential(*list(self)[index])
        return super().__getitem__(index)
