"""The leapfrog step of Hamiltonian Monte Carlo and the kinetic energy (Neal 2011), for many chains at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastvi import reference
from fastvi.ops._checks import PLAIN_TYPES, check_layout
from fastvi.ops._patterns import map_operation, number_factor, row_operation
from fastvi.ops._values import check_not_negative

_STEP = map_operation("leapfrog_step", reference.leapfrog_step, usual_numbers=(0.5, 1.0))
_KICK = map_operation("momentum_kick", reference.momentum_kick, usual_numbers=(0.5, 1.0))


def leapfrog_step(
    q: Tensor,
    p: Tensor,
    grad: Tensor,
    step_size: Tensor | float,
    inverse_mass: Tensor | float | None = None,
    kick: float = 0.5,
) -> tuple[Tensor, Tensor]:
    r"""Kick and drift: :math:`p' = p - \kappa\,\epsilon\,\nabla U`, then :math:`q' = q + \epsilon\,M^{-1} p'`.

    Half kicks (``kick=0.5``) at both ends of a trajectory and full ones (``kick=1``) between make the leapfrog
    integrator. Differentiable in all of q, p, grad, step_size and inverse_mass.

    Parameters
    ----------
    q, p
        Positions and momenta, shape (..., D).
    grad
        Gradient of the potential energy U = -log p(q) at q, shape (..., D).
    step_size
        :math:`\epsilon`: a number, or a tensor that broadcasts: (C, 1) for one a chain, (D,) for one a dimension.
    inverse_mass
        Diagonal of :math:`M^{-1}`, broadcast likewise; the identity where not given.
    kick
        :math:`\kappa`, the part of a step that the momentum is moved by.

    Returns
    -------
    tuple[Tensor, Tensor]
        New positions and momenta, of the broadcast shape.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If shapes do not broadcast or devices differ, or ``inverse_mass`` is a negative number.

    References
    ----------
    Neal: MCMC using Hamiltonian dynamics. Handbook of Markov Chain Monte Carlo, 2011, section 2.3.

    Examples
    --------
    >>> import torch, fastvi
    >>> q, p = torch.ones(2), torch.zeros(2)
    >>> fastvi.leapfrog_step(q, p, grad=q, step_size=0.1)
    (tensor([0.9950, 0.9950]), tensor([-0.0500, -0.0500]))
    """
    if not isinstance(inverse_mass, Tensor):
        check_not_negative("leapfrog_step", "inverse_mass", inverse_mass)
    position, momentum = _STEP(q, p, grad, step_size, inverse_mass, kick)
    return position, momentum


def momentum_kick(p: Tensor, grad: Tensor, step_size: Tensor | float, kick: float = 0.5) -> Tensor:
    r"""The kick alone, :math:`p - \kappa\,\epsilon\,\nabla U`: the half step that closes a leapfrog trajectory.

    Parameters
    ----------
    p
        Momenta, shape (..., D).
    grad
        Gradient of the potential energy U = -log p(q) where the trajectory ends, shape (..., D).
    step_size
        :math:`\epsilon`: a number, or a tensor that broadcasts: (C, 1) for one a chain, (D,) for one a dimension.
    kick
        :math:`\kappa`, the part of a step that the momentum is moved by; negative where ``grad`` is that of log p.

    Returns
    -------
    Tensor
        New momenta, of the broadcast shape.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If shapes do not broadcast or devices differ.

    References
    ----------
    Neal: MCMC using Hamiltonian dynamics. Handbook of Markov Chain Monte Carlo, 2011, section 2.3.

    Examples
    --------
    >>> import torch, fastvi
    >>> q, p = torch.ones(2), torch.zeros(2)
    >>> q, p = fastvi.leapfrog_step(q, p, grad=q, step_size=0.1)
    >>> fastvi.momentum_kick(p, grad=q, step_size=0.1)
    tensor([-0.0998, -0.0998])
    """
    momentum: Tensor = _KICK(p, grad, step_size, kick)
    return momentum


def _normalise_energy(p: Tensor, inverse_mass: Any) -> tuple[Any, ...]:
    if inverse_mass is not None and not isinstance(inverse_mass, Tensor):
        inverse_mass = number_factor("kinetic_energy", "inverse_mass", inverse_mass, p).reshape(1)
    if inverse_mass is None:
        return p, None
    return p.to(inverse_mass.dtype), inverse_mass


_ENERGY = row_operation(
    "kinetic_energy", reference.kinetic_energy, normalise=_normalise_energy, numbers=("inverse_mass",)
)


def kinetic_energy(p: Tensor, inverse_mass: Tensor | float | None = None) -> Tensor:
    r"""Kinetic energy :math:`\tfrac12 \sum_d p_d^2 M^{-1}_d`, over the last dimension.

    Parameters
    ----------
    p
        Momenta, shape (..., D).
    inverse_mass
        Diagonal of :math:`M^{-1}`: a number or a tensor that broadcasts; the identity where not given.

    Returns
    -------
    Tensor
        Shape (...).

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If shapes do not broadcast or devices differ, or ``inverse_mass`` is a negative number.

    Examples
    --------
    >>> import torch, fastvi
    >>> fastvi.kinetic_energy(torch.tensor([[3.0, 4.0]]))
    tensor([12.5000])
    """
    if not isinstance(inverse_mass, Tensor):
        check_not_negative("kinetic_energy", "inverse_mass", inverse_mass)
    else:
        if type(inverse_mass) not in PLAIN_TYPES:  # one that is not initialised has no number of dimensions
            check_layout("kinetic_energy", "inverse_mass", inverse_mass)
        if inverse_mass.dim() == 0:
            inverse_mass = inverse_mass.reshape(1)
    result = _ENERGY(p, inverse_mass)
    if inverse_mass is None or isinstance(inverse_mass, Tensor) or result.dtype is p.dtype:
        return result
    # Half precision was computed in float32, where the number is not rounded; under autocast it stays there.
    device = p.device.type
    return result if device != "meta" and torch.is_autocast_enabled(device) else result.to(p.dtype)
