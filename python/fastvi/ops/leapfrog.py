"""The leapfrog step of Hamiltonian Monte Carlo and the kinetic energy (Neal 2011), for many chains at once."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastvi import reference
from fastvi._layout import Shape, broadcast_shapes, expanded_strides, plan_rows
from fastvi.ops._precision import HALF_DTYPES, backward_in_compute_dtype, compute_dtype, widen
from fastvi.ops._registration import Operation, Tensors, batch_broadcasting, check_number, check_operands
from fastvi.ops._rows import KERNELS, NO_VIEW, Rows, broadcast_shape, check_upstream, present, row_backward

_STEP_NAMES = ("q", "p", "grad", "step_size", "inverse_mass")
_ENERGY_NAMES = ("p", "inverse_mass")
_NO_DIMENSION = "leapfrog_step: q has no dimension; expected the position's in the last one"


def _split_factor(operation: str, name: str, value: object) -> tuple[Tensor | None, float | None]:
    """A factor as a tensor or as a number; anything else is refused."""
    if value is None or isinstance(value, Tensor):
        return value, None
    return None, check_number(operation, name, value, "a torch.Tensor or a number")


def _as_factor(tensor: Tensor | None, number: float | None, like: Tensor) -> Tensor | None:
    """The checked tensor, or the number as one, which half precision would round."""
    if number is None:
        return tensor
    dtype = compute_dtype(like.dtype)
    if abs(number) > torch.finfo(dtype).max:  # PyTorch refuses to round it up
        number = math.copysign(math.inf, number)
    return torch.scalar_tensor(number, dtype=dtype, device=like.device)


class _StepPlan(NamedTuple):
    full: Shape
    size: tuple[int, int]
    states: tuple[tuple[int, Shape | None], ...]  # row stride, after a copy to the shape that is not None
    factors: tuple[tuple[int, int, Shape | None], ...]  # row stride, column step, the same


@functools.lru_cache(maxsize=1024)
def _plan_step(names: tuple[str, ...], layouts: tuple[Shape, ...]) -> _StepPlan:
    """Rows that are merged, and factors that have one number a row or one a column."""
    shapes, strides = layouts[::2], layouts[1::2]
    full = broadcast_shapes("leapfrog_step", names, shapes)
    if len(full) == 0:
        raise ValueError(_NO_DIMENSION)
    by_column = [i >= 3 and len(shape) > 0 and shape[-1] == full[-1] != 1 for i, shape in enumerate(shapes)]
    expanded: list[Shape] = []
    for i, (shape, stride) in enumerate(zip(shapes, strides, strict=True)):
        if i < 3 or by_column[i]:
            expanded += (full, tuple(expanded_strides(shape, stride, full)))
    rows = plan_rows("leapfrog_step", ("operand",) * (len(expanded) // 2), tuple(expanded), 0)
    views = [(row_stride, copy) for (_, row_stride), copy in zip(rows.strides, rows.copies, strict=True)]
    column_views = iter(views[3:])
    factors: list[tuple[int, int, Shape | None]] = []
    for i, shape in enumerate(shapes[3:], 3):
        if by_column[i]:
            row_stride, copy = next(column_views)
            factors.append((row_stride, 1, copy))
        elif math.prod(shape) == 1:
            factors.append((0, 0, None))
        else:
            factors.append((1, 0, (*full[:-1], 1)))
    return _StepPlan(full, rows.extent[1:], tuple(views[:3]), tuple(factors))


class _Step:
    """Arguments of one step as the native views."""

    __slots__ = ("factors", "full", "held", "size", "states")

    def __init__(self, tensors: Sequence[Tensor | None]) -> None:
        names, given = present(_STEP_NAMES, tensors)
        given[3:] = [widen(factor) for factor in given[3:]]
        layouts: list[Shape] = []
        for tensor in given:
            layouts += (tensor.shape, tensor.stride())
        self.full, self.size, states, factors = _plan_step(names, tuple(layouts))
        self.held = given[3:]  # copies live as long as the views that point into them
        self.states = [
            (self._address(tensor, copy), 0, row_stride)
            for tensor, (row_stride, copy) in zip(given[:3], states, strict=True)
        ]
        self.factors = [
            (self._address(tensor, copy), row_stride, column_step)
            for tensor, (row_stride, column_step, copy) in zip(given[3:], factors, strict=True)
        ]
        if tensors[4] is None:
            self.factors.append(NO_VIEW)

    def _address(self, tensor: Tensor, copy: Shape | None) -> int:
        if copy is not None:
            tensor = tensor.expand(copy).contiguous()
            self.held.append(tensor)
        return tensor.data_ptr()


def _step_forward(
    q: Tensor, p: Tensor, grad: Tensor, step_size: Tensor, inverse_mass: Tensor | None, kick: float
) -> tuple[Tensor, Tensor]:
    step = _Step((q, p, grad, step_size, inverse_mass))
    if q.shape == step.full and q.is_contiguous():
        position, momentum = torch.empty_like(q), torch.empty_like(q)
    else:
        position, momentum = q.new_empty(step.full), q.new_empty(step.full)
    KERNELS[q.dtype].leapfrog_step(
        *step.size, *step.states, *step.factors, kick, position.data_ptr(), momentum.data_ptr()
    )
    return position, momentum


def _step_backward(
    grads: Tensors, tensors: Tensors, constants: tuple[float], needs: Sequence[bool], _: Tensors
) -> tuple[Tensor | None, ...]:
    step = _Step(tensors)
    like = tensors[0]
    assert like is not None
    broadcast = [state is not None and state.shape != step.full for state in tensors[:3]]
    if like.dtype in HALF_DTYPES and any(need and each for need, each in zip(needs, broadcast, strict=False)):
        return _wide_step_backward(grads, tensors, constants, needs, ())
    for grad in grads:
        if grad is not None:
            check_upstream("leapfrog_step", grad, step.full)
    by_position, by_momentum = (like.new_zeros(step.full) if grad is None else grad.contiguous() for grad in grads)
    gradients: list[Tensor | None] = [None] * 5
    if needs[0]:
        gradients[0] = by_position
    for i in range(1, 5):
        if needs[i]:
            by_column = i < 3 or step.factors[i - 3][2] == 1
            dtype = like.dtype if i < 3 else compute_dtype(like.dtype)
            gradients[i] = like.new_empty(step.full if by_column else (*step.full[:-1], 1), dtype=dtype)
    KERNELS[like.dtype].leapfrog_step_backward(
        *step.size,
        *step.states,
        *step.factors,
        *constants,
        by_position.data_ptr(),
        by_momentum.data_ptr(),
        *[0 if gradient is None else gradient.data_ptr() for gradient in gradients[1:]],
    )
    return tuple(
        [
            gradient if gradient is None or tensor is None else gradient.sum_to_size(tensor.shape).to(tensor.dtype)
            for gradient, tensor in zip(gradients, tensors, strict=True)
        ]
    )


_wide_step_backward = backward_in_compute_dtype(_step_backward)


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
    if step_size is None:
        raise TypeError(f"{operation}: step_size must be a torch.Tensor or a number, got None")
    step, step_number = _split_factor(operation, "step_size", step_size)
    mass, mass_number = _split_factor(operation, "inverse_mass", inverse_mass)
    q, p, grad, step, mass = check_operands(operation, _STEP_NAMES, (q, p, grad, step, mass), optional=_STEP_NAMES[3:])
    step, mass = _as_factor(step, step_number, q), _as_factor(mass, mass_number, q)
    position, momentum = _STEP(q, p, grad, step, mass, check_number(operation, "kick", kick))
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
    mass, number = _split_factor("kinetic_energy", "inverse_mass", inverse_mass)
    p, mass = check_operands("kinetic_energy", _ENERGY_NAMES, (p, mass), optional=("inverse_mass",))
    mass = _as_factor(mass, number, p)
    dtype = p.dtype
    if mass is not None:
        mass = mass.reshape(1) if mass.dim() == 0 else mass
        p = p.to(mass.dtype)
    result: Tensor = _ENERGY(p, mass)
    return result.to(dtype)
