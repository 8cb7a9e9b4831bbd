"""The squared Frobenius norm of an encoder's Jacobian, exact or by random signs, which can be differentiated."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastvi._options import check_count
from fastvi._sizes import check_integer
from fastvi.nn.sequential import FusedSequential
from fastvi.ops.random import normal_noise, seed_tensor

Encoder = Callable[[Tensor], Tensor]

SLOPES: dict[type, Callable[[Tensor], Tensor]] = {
    nn.Identity: torch.ones_like,
    nn.Sigmoid: lambda inputs: torch.sigmoid(inputs) * torch.sigmoid(-inputs),
    nn.Tanh: lambda inputs: 1.0 - torch.tanh(inputs).square(),
    nn.ReLU: lambda inputs: (inputs > 0).to(inputs.dtype),
    nn.Softplus: torch.sigmoid,
    nn.ELU: lambda inputs: torch.exp(inputs.clamp_max(0.0)),
}
"""Derivatives of activations with their default options."""


class _Layer(NamedTuple):
    """A linear layer, its activation and the derivative of that."""

    linear: nn.Linear
    activation: nn.Module
    slope: Callable[[Tensor], Tensor]


def contractive_penalty(
    encoder: Encoder, x: Tensor, *, num_probes: int | None = None, seed: int | None = None, row_offset: int = 0
) -> Tensor:
    r"""Return :math:`\|J(x)\|_F^2` of each example, J the Jacobian of the encoder at x.

    Of one linear layer W with an activation a it is :math:`\sum_j a'(w_j x + b_j)^2 \|w_j\|^2`, at the cost of the
    layer. Of a perceptron, an ``nn.Sequential`` of linear layers and activations, it comes from the products of their
    matrices; of other encoders ``torch.func`` gives the whole Jacobian, at the cost of Z backward passes. With
    ``num_probes`` vectors of signs it is an unbiased estimate at the cost of as many: see `hutchinson_penalty`.

    Parameters
    ----------
    encoder
        A function, or module, from (B, D) to (B, Z), each row for itself.
    x
        Data, shape (B, D).
    num_probes
        None: exact. Else how many vectors of random signs each example gets.
    seed
        Determines the signs; None takes the seed from PyTorch's generator.
    row_offset
        Place of ``x[0]`` in the whole batch: a shard gets the signs that it would have got in the whole.

    Returns
    -------
    Tensor
        Shape (B,), in the unit of the code squared by that of x squared.

    Raises
    ------
    TypeError, ValueError
        If x is not of the shape (B, D), or ``num_probes`` is no positive integer.

    References
    ----------
    Rifai, Vincent, Muller, Glorot & Bengio 2011, "Contractive auto-encoders", equations 7 and 9.

    Examples
    --------
    >>> layer = nn.Linear(3, 2)
    >>> norms = contractive_penalty(layer, torch.zeros(4, 3))
    >>> torch.allclose(norms, layer.weight.square().sum().expand(4))
    True
    """
    if not isinstance(x, Tensor) or x.dim() != 2:
        kind = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"contractive_penalty: x must be a tensor of shape (B, D), got {kind}")
    if num_probes is not None:
        count = check_count("contractive_penalty", "num_probes", num_probes)
        return hutchinson_penalty(encoder, x, _signs(encoder, x, count, seed, row_offset))
    layers = _perceptron(encoder)
    if layers is not None:
        return _norms_of_perceptron(layers, x)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: encoder(row.unsqueeze(0)).squeeze(0)))(x)
    norms: Tensor = jacobian.square().sum((1, 2))
    return norms


def hutchinson_penalty(encoder: Encoder, x: Tensor, probes: Tensor) -> Tensor:
    r"""Return the mean over probes v of :math:`\|v^T J(x)\|^2`: an estimate of :math:`\|J(x)\|_F^2`.

    It is unbiased where the values of v have the variance 1 and no correlation, such as independent signs.

    Parameters
    ----------
    encoder, x
        See `contractive_penalty`.
    probes
        Vectors v, shape (P, B, Z).

    Raises
    ------
    RuntimeError
        From PyTorch, if the probes do not have the shape of P codes.

    References
    ----------
    Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines".

    Examples
    --------
    >>> layer = nn.Linear(3, 2)
    >>> unit_vectors = torch.eye(2).unsqueeze(1)
    >>> torch.allclose(2 * hutchinson_penalty(layer, torch.zeros(1, 3), unit_vectors), layer.weight.square().sum())
    True
    """
    pull_back = torch.func.vjp(encoder, x)[1]
    products = torch.func.vmap(pull_back)(probes)[0]
    norms: Tensor = products.square().sum(-1).mean(0)
    return norms


def _signs(encoder: Encoder, x: Tensor, count: int, seed: int | None, row_offset: int) -> Tensor:
    """Random signs, (P, B, Z), each by its place."""
    check_integer("contractive_penalty", "row_offset", row_offset)
    with torch.no_grad():
        code = encoder(x)
    shape = (code.shape[0], code.shape[1])
    noise = normal_noise(seed_tensor("contractive_penalty", seed, x.device), (count,), shape, row_offset, code)
    return torch.where(noise < 0, -1.0, 1.0).to(code.dtype)


def _norms_of_perceptron(layers: list[_Layer], x: Tensor) -> Tensor:
    """The squared norms, (B,), by products of the layers' matrices from the code to the data."""
    slopes: list[Tensor] = []
    values = x
    for linear, activation, slope in layers:
        inputs = linear(values)
        slopes.append(slope(inputs))
        values = activation(inputs)
    first, *others = [linear.weight for linear, _, _ in layers]
    if not others:
        return slopes[0].square() @ first.square().sum(1)
    product = slopes[-1].unsqueeze(2) * others[-1]  # (B, Z, H): the derivatives by a hidden layer's values
    for weight, slope_of_layer in zip(reversed(others[:-1]), reversed(slopes[1:-1]), strict=True):
        product = (product * slope_of_layer.unsqueeze(1)) @ weight
    product = product * slopes[0].unsqueeze(1)
    if first.shape[0] > first.shape[1]:
        return (product @ first).square().sum((1, 2))
    # |P W|^2 is the trace of P (W W') P': the Jacobian itself, of D columns, is never made.
    return (product * (product @ (first @ first.t()))).sum((1, 2))


def _perceptron(encoder: Encoder) -> list[_Layer] | None:
    """The layers, where the encoder is linear layers with activations whose derivatives are known, and no more."""
    layers: list[_Layer] = []
    modules: list[object] = [encoder]
    if isinstance(encoder, nn.Sequential) and type(encoder) in (nn.Sequential, FusedSequential):
        modules = list(encoder)
    for module in modules:
        slope = _slope_of(module)
        if type(module) is nn.Linear:
            layers.append(_Layer(module, nn.Identity(), torch.ones_like))
        elif layers and slope is not None and isinstance(module, nn.Module):
            if not isinstance(layers[-1].activation, nn.Identity):
                return None
            layers[-1] = layers[-1]._replace(activation=module, slope=slope)
        else:
            return None
    return layers


def _slope_of(module: object) -> Callable[[Tensor], Tensor] | None:
    has_defaults = getattr(module, "beta", 1.0) == 1.0 and getattr(module, "alpha", 1.0) == 1.0
    return SLOPES.get(type(module)) if has_defaults else None
