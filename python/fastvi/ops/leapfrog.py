"""The leapfrog step of Hamiltonian Monte Carlo and the kinetic energy (Neal 2011), for many chains at once."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from fastvi import reference
from fastvi._layout import Shape, broadcast_shapes
from fastvi.ops._registration import Operation, Tensors, batch_broadcasting, check_operands
from fastvi.ops._rows import KERNELS, NO_VIEW, Rows, View, broadcast_shape, present, row_backward

_STEP_NAMES = ("q", "p", "grad", "step_size", "inverse_mass")
_ENERGY_NAMES = ("p", "inverse_mass")
_NO_DIMENSION = "leapfrog_step: q has no dimension; expected the position's in the last one"


def _as_factor(operation: str, name: str, value: object, like: Tensor) -> Tensor | None:
    """A number becomes a tensor like the others."""
    if value is None or isinstance(value, Tensor):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{operation}: {name} must be a torch.Tensor or a number, got {type(value).__name__}")
    return torch.scalar_tensor(value, dtype=like.dtype, device=like.device)


@functools.lru_cache(maxsize=1024)
def _plan_step(names: tuple[str, ...], shapes: tuple[Shape, ...]) -> tuple[Shape, tuple[bool, ...]]:
    """The broadcast shape, and which of the factors (the arguments after the third) have one number a column."""
    full = broadcast_shapes("leapfrog_step", names, shapes)
    if len(full) == 0:
        raise ValueError(_NO_DIMENSION)
    return full, tuple(len(shape) > 0 and shape[-1] == full[-1] > 1 for shape in shapes[3:])


class _Step:
    """Arguments of one step as the native views: rows that are merged, and factors by row or by column."""

    def __init__(self, tensors: Sequence[Tensor | None]) -> None:
        names, given = present(_STEP_NAMES, tensors)
        self.full, by_column = _plan_step(names, tuple([tensor.shape for tensor in given]))
        states = [tensor if tensor.shape == self.full else tensor.expand(self.full) for tensor in given[:3]]
        columns = [factor for factor, column in zip(given[3:], by_column, strict=True) if column]
        self.rows = Rows("leapfrog_step", (*_STEP_NAMES[:3], *("factor",) * len(columns)), states + columns, 0)
        self.state_views = self.rows.views[:3]
        self.held: list[Tensor] = []
        self.factors: list[View] = []
        column_views = iter(self.rows.views[3:])
        for factor, column in zip(given[3:], by_column, strict=True):
            if column:
                address, _, row_stride = next(column_views)
                self.factors.append((address, row_stride, 1))
            elif factor.numel() == 1:
                self.factors.append((factor.data_ptr(), 0, 0))
            else:
                by_row = factor.expand((*self.full[:-1], 1)).contiguous()
                self.held.append(by_row)
                self.factors.append((by_row.data_ptr(), 1, 0))
        if tensors[4] is None:
            self.factors.append(NO_VIEW)

    @property
    def size(self) -> tuple[int, int]:
        _, count, columns = self.rows.extent
        return count, columns


def _step_forward(
    q: Tensor, p: Tensor, grad: Tensor, step_size: Tensor, inverse_mass: Tensor | None, kick: float
) -> tuple[Tensor, Tensor]:
    step = _Step((q, p, grad, step_size, inverse_mass))
    position, momentum = q.new_empty(step.full), q.new_empty(step.full)
    KERNELS[q.dtype].leapfrog_step(
        *step.size, *step.state_views, *step.factors, kick, position.data_ptr(), momentum.data_ptr()
    )
    return position, momentum


def _step_backward(
    grads: Tensors, tensors: Tensors, constants: tuple[float], needs: Sequence[bool], _: Tensors
) -> tuple[Tensor | None, ...]:
    step = _Step(tensors)
    like = tensors[0]
    assert like is not None
    by_position, by_momentum = (like.new_zeros(step.full) if grad is None else grad.contiguous() for grad in grads)
    gradients: list[Tensor | None] = [None] * 5
    if needs[0]:  # a copy: an output of an operator may not be one of its inputs
        gradients[0] = by_position.clone()
    for i in range(1, 5):
        if needs[i]:
            by_column = i < 3 or step.factors[i - 3][2] == 1
            gradients[i] = like.new_empty(step.full if by_column else (*step.full[:-1], 1))
    KERNELS[like.dtype].leapfrog_step_backward(
        *step.size,
        *step.state_views,
        *step.factors,
        *constants,
        by_position.data_ptr(),
        by_momentum.data_ptr(),
        *[0 if gradient is None else gradient.data_ptr() for gradient in gradients[1:]],
    )
    return tuple(
        [
            gradient if gradient is None or tensor is None else gradient.sum_to_size(tensor.shape)
            for gradient, tensor in zip(gradients, tensors, strict=True)
        ]
    )


def _step_fake(*arguments: Tensor) -> tuple[Tensor, Tensor]:
    names, given = present(_STEP_NAMES, arguments[:5])
    if not any(tensor.dim() for tensor in given):
        raise ValueError(_NO_DIMENSION)
    shape = broadcast_shape("leapfrog_step", names, [tensor if tensor.dim() else tensor.reshape(1) for tensor in given])
    return arguments[0].new_empty(shape), arguments[0].new_empty(shape)


_STEP = Operation(
    name="leapfrog_step",
    tensors=("Tensor q", "Tensor p", "Tensor grad", "Tensor step_size", "Tensor? inverse_mass"),
    constants=("float kick",),
    forward=_step_forward,
    backward=_step_backward,
    formula=reference.leapfrog_step,
    fake=_step_fake,
    num_outputs=2,
    batch=batch_broadcasting,
)


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
        If shapes do not broadcast or devices differ.

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
    operation = "leapfrog_step"
    if not isinstance(q, Tensor):
        raise TypeError(f"{operation}: q must be a torch.Tensor, got {type(q).__name__}")
    step = _as_factor(operation, "step_size", step_size, q)
    if step is None:
        raise TypeError(f"{operation}: step_size must be a torch.Tensor or a number, got None")
    mass = _as_factor(operation, "inverse_mass", inverse_mass, q)
    check_operands(operation, _STEP_NAMES, (q, p, grad, step, mass))
    position, momentum = _STEP(q, p, grad, step, mass, float(kick))
    return position, momentum


def _energy_forward(p: Tensor, inverse_mass: Tensor | None) -> Tensor:
    names, given = present(_ENERGY_NAMES, (p, inverse_mass))
    rows = Rows("kinetic_energy", names, given)
    out = p.new_empty(rows.plan.leading)
    views = rows.views if inverse_mass is not None else (*rows.views, NO_VIEW)
    KERNELS[p.dtype].kinetic_energy(rows.extent, *views, out.data_ptr())
    return out


def _energy_backward(
    grads: Tensors, tensors: Tensors, _: tuple[()], needs: Sequence[bool], __: Tensors
) -> tuple[Tensor | None, ...]:
    names, given = present(_ENERGY_NAMES, tensors)
    rows = Rows("kinetic_energy", names, given)
    (grad,) = grads
    assert grad is not None
    views = [*rows.views, *[NO_VIEW] * (2 - len(given))]
    found = row_backward("kinetic_energy_backward", rows, views, (), grad, given, needs)
    return *found, *(None,) * (2 - len(given))


_ENERGY = Operation(
    name="kinetic_energy",
    tensors=("Tensor p", "Tensor? inverse_mass"),
    constants=(),
    forward=_energy_forward,
    backward=_energy_backward,
    formula=reference.kinetic_energy,
    fake=lambda *tensors: tensors[0].new_empty(broadcast_shape("kinetic_energy", _ENERGY_NAMES, tensors)[:-1]),
    batch=batch_broadcasting,
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
        If shapes do not broadcast or devices differ.

    Examples
    --------
    >>> import torch, fastvi
    >>> fastvi.kinetic_energy(torch.tensor([[3.0, 4.0]]))
    tensor([12.5000])
    """
    check_operands("kinetic_energy", ("p",), (p,))
    mass = _as_factor("kinetic_energy", "inverse_mass", inverse_mass, p)
    check_operands("kinetic_energy", _ENERGY_NAMES, (p, mass))
    if mass is not None and mass.dim() == 0:
        mass = mass.reshape(1)
    result: Tensor = _ENERGY(p, mass)
    return result
