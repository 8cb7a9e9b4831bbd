"""Layers of an autoencoder: perceptrons, and maps whose weights are those of another one, transposed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastvi.models.vae import ACTIVATIONS, _glorot_linear
from fastvi.nn.sequential import FusedSequential

HIDDEN_ACTIVATIONS: dict[str, type[nn.Module]] = {**ACTIVATIONS, "sigmoid": nn.Sigmoid}
"""Of the hidden layers, by name."""
CODE_ACTIVATIONS: dict[str, type[nn.Module]] = {"linear": nn.Identity, **HIDDEN_ACTIVATIONS}
"""Of the code, by name; ``"linear"`` is none."""


class TransposedLinear(nn.Module):
    """The linear map whose matrix is the transpose of another layer's: both have the same numbers in memory.

    Parameters
    ----------
    source
        The layer whose weights it takes, of the shape (H, D).
    parts
        Numbers for each of its D outputs. The first kind, outputs 0 to D - 1, has the weights of ``source``, the
        others have their own.

    Examples
    --------
    >>> encoder = nn.Linear(6, 2)
    >>> decoder = TransposedLinear(encoder)
    >>> decoder(torch.ones(3, 2)).shape, [name for name, _ in decoder.named_parameters()]
    (torch.Size([3, 6]), ['bias'])
    """

    def __init__(self, source: nn.Linear, parts: int = 1) -> None:
        super().__init__()
        self._source = (source,)  # in a tuple, so that its parameters stay those of one module
        self.bias = nn.Parameter(torch.zeros(source.in_features))
        self.others = _glorot_linear(source.out_features, source.in_features, parts - 1) if parts > 1 else None

    @property
    def weight(self) -> Tensor:
        """The matrix, (D, H): a view of the source's parameter."""
        return self._source[0].weight.t()

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs, (..., parts * D), of (..., H)."""
        first = nn.functional.linear(input, self.weight, self.bias)
        return first if self.others is None else torch.cat([first, self.others(input)], -1)


def perceptron(dims: Sequence[int], activation: str, code_activation: str) -> FusedSequential:
    """Return linear layers with ``activation`` between them and ``code_activation`` at the end."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(dims):
        layers += [_glorot_linear(fan_in, fan_out), HIDDEN_ACTIVATIONS[activation]()]
    layers.pop()
    if code_activation != "linear":
        layers.append(CODE_ACTIVATIONS[code_activation]())
    return FusedSequential(*layers)


def mirrored(encoder: nn.Sequential, activation: str, parts: int, tied: bool) -> tuple[FusedSequential, nn.Module]:
    """Return the decoder's hidden layers and its last layer, which mirror those of the encoder, with its weights."""
    sources = [layer for layer in reversed(list(encoder)) if isinstance(layer, nn.Linear)]
    hidden: list[nn.Module] = []
    for source in sources[:-1]:
        inner = TransposedLinear(source) if tied else _glorot_linear(source.out_features, source.in_features)
        hidden += [inner, HIDDEN_ACTIVATIONS[activation]()]
    last = sources[-1]
    head = TransposedLinear(last, parts) if tied else _glorot_linear(last.out_features, last.in_features, parts)
    return FusedSequential(*hidden), head
