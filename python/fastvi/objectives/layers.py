"""For a ``draw`` of several stochastic layers: samples of one of them, and a network whose parameters are constants.

Both are what the estimators of :class:`fastvi.objectives.STL` and :class:`fastvi.objectives.DReG` ask of such a model
(Bauer and Mnih 2021, "Generalized doubly reparameterized gradient estimators").
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastvi import ops
from fastvi._options import check_count
from fastvi.ops.random import Seed, normal_noise, seed_tensor

_ROWS_OF_A_LAYER = 1 << 48
"""A layer's noise is that of rows which no batch of the layer below reaches."""
_MOST_LAYERS = 1 << 13


def sample_layer(
    mean: Tensor, logvar: Tensor, num_samples: int, layer: int = 0, *, seed: Seed = None, row_offset: int = 0
) -> Tensor:
    """Reparameterised samples of one Gaussian layer, whose parameters may differ from sample to sample.

    The noise of sample k, row b and column d depends on ``(seed, layer, k, b + row_offset, d)`` alone: so a shard of a
    batch draws what it would have drawn in the whole, and the layers of one seed are independent. Layer 0 has the noise
    of :func:`fastvi.rsample_normal`.

    Parameters
    ----------
    mean, logvar
        ``(B, Z)``, or ``(K, B, Z)`` where they come from samples of the layer before.
    num_samples
        K.
    layer
        Number of the layer, from 0.
    seed, row_offset
        Those that ``draw`` was given; a seed of None takes another one from PyTorch's generator for each layer.

    Returns
    -------
    Tensor
        ``(K, B, Z)``.

    Raises
    ------
    TypeError, ValueError
        If ``mean`` and ``logvar`` are not of one of these shapes, or ``layer``, ``seed`` or ``row_offset`` is wrong.

    Examples
    --------
    >>> import torch
    >>> z1 = sample_layer(torch.zeros(5, 3), torch.zeros(5, 3), 7, seed=0)
    >>> z2 = sample_layer(0.5 * z1, torch.zeros_like(z1), 7, layer=1, seed=0)
    >>> z1.shape, z2.shape
    (torch.Size([7, 5, 3]), torch.Size([7, 5, 3]))
    """
    if check_count("sample_layer", "layer", layer, at_least=0) >= _MOST_LAYERS:
        raise ValueError(f"sample_layer: layer must be below {_MOST_LAYERS}, got {layer}")
    row_offset = row_offset + layer * _ROWS_OF_A_LAYER
    if mean.dim() == 2 and logvar.dim() == 2:
        return ops.rsample_normal(mean, logvar, (num_samples,), seed, row_offset)
    shape = torch.broadcast_shapes(mean.shape, logvar.shape)
    if len(shape) != 3 or shape[0] != num_samples:
        raise ValueError(
            f"sample_layer: mean and logvar must be of the shape (batch, latent variables) or ({num_samples}, batch, "
            f"latent variables), got {tuple(mean.shape)} and {tuple(logvar.shape)}"
        )
    seeds = seed_tensor("sample_layer", seed, mean.device)
    noise = normal_noise(seeds, shape[:1], shape[1:], row_offset, mean)
    return torch.addcmul(mean, torch.exp(0.5 * logvar), noise)


def call_detached(module: nn.Module, *inputs: Any) -> Any:
    """Call a module whose parameters are constants, while the gradient of what it returns still reaches its inputs.

    A density log q(z2|z1) has to be so where ``detach_posterior`` is asked for: without the gradient of q's
    parameters, with that of the path through z1.

    Parameters
    ----------
    module
        A network.
    inputs
        What it is called with.

    Returns
    -------
    Any
        What ``module(*inputs)`` returns.

    Examples
    --------
    >>> import torch
    >>> network, z = torch.nn.Linear(3, 2), torch.ones(4, 3, requires_grad=True)
    >>> call_detached(network, z).sum().backward()
    >>> network.weight.grad is None, z.grad is None
    (True, False)
    """
    constants = {name: parameter.detach() for name, parameter in module.named_parameters()}
    return torch.func.functional_call(module, constants, inputs)
