"""The reverse model of Hamiltonian variational inference, r(v|x, z), and what it may depend on (Salimans 2015)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastvi import ops


class Arrival(NamedTuple):
    """The end of a transition: what a reverse model may depend on.

    Attributes
    ----------
    x
        Data, ``(B, ...)``: whatever the model takes.
    position
        z_t, ``(K, B, Z)``.
    gradient
        Of log p(x, z) by z at z_t, ``(K, B, Z)``.
    mean, logvar
        Mean and log-variance of the encoder's q(z|x), ``(B, Z)``; zeros where it knows none, as a normalising flow.
    """

    x: Any
    position: Tensor
    gradient: Tensor
    mean: Tensor
    logvar: Tensor


class ReverseNetwork(nn.Module):
    """The reverse model r(v|x, z), a diagonal Gaussian whose mean and log-variance a network gives.

    The network has one hidden layer with tanh, and beside it a linear map, which suffices where the log joint density
    is quadratic. It starts as N(0, I), what the momenta are drawn from. Of x it knows what the encoder tells.

    Parameters
    ----------
    latent_dim
        Z.
    hidden_dim
        Width of the hidden layer.

    Examples
    --------
    >>> mean, logvar = torch.zeros(5, 2), torch.zeros(5, 2)
    >>> z = torch.ones(3, 5, 2)
    >>> [each.shape for each in ReverseNetwork(2, 8)(Arrival(None, z, -z, mean, logvar))]
    [torch.Size([3, 5, 2]), torch.Size([3, 5, 2])]
    """

    def __init__(self, latent_dim: int, hidden_dim: int = 200) -> None:
        super().__init__()
        self.hidden = nn.Linear(4 * latent_dim, hidden_dim)
        self.head = nn.Linear(hidden_dim + 4 * latent_dim, 2 * latent_dim)
        nn.init.xavier_uniform_(self.hidden.weight)
        for parameter in (self.hidden.bias, self.head.weight, self.head.bias):
            nn.init.zeros_(parameter)

    def forward(self, arrival: Arrival) -> tuple[Tensor, Tensor]:
        """Return the mean and the log-variance of r(v|x, z), each (K, B, Z)."""
        mean, logvar, z = arrival.mean, arrival.logvar, arrival.position
        scale = torch.exp(0.5 * logvar)
        # Both in the encoder's units, in which they are of the order of 1.
        moved = [(z - mean) / scale, arrival.gradient * scale]
        features = torch.cat([*moved, mean.expand_as(z), logvar.expand_as(z)], -1)
        hidden = ops.mlp(features, [self.hidden.weight], [self.hidden.bias], "tanh", activate_last=True)
        found = ops.mlp(torch.cat([hidden, features], -1), [self.head.weight], [self.head.bias])
        reverse_mean, reverse_logvar = found.chunk(2, -1)
        return reverse_mean, reverse_logvar
