"""The leapfrog step of Hamiltonian Monte Carlo and the kinetic energy (Neal 2011), for many chains at once."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastvi import reference
from fastvi._layout import Shape, broadcast_shapes, expanded_strides, plan_rows
from fastvi.ops._backends import kernels
from fastvi.ops._checks import check_number, check_operands, kind_of, number_tensor
from fastvi.ops._precision import HALF_DTYPES, backward_in_compute_dtype, compute_dtype, widen
from fastvi.ops._registration import Operation, Tensors, batch_broadcasting
from fastvi.ops._rows import NO_VIEW, Rows, View, broadcast_shape, check_upstream, present, row_backward
from fastvi.ops._sums import sum_to_shape

_STEP_NAMES = ("q", "p", "grad", "step_size", "inverse_mass")
_ENERGY_NAMES = ("p", "inverse_mass")
_LARGEST = {dtype: torch.finfo(dtype).max for dtype in (torch.float32, torch.float64)}
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
    if torch.compiler.is_compiling():
        return number_tensor(number, dtype, like.device)
    if abs(number) > _LARGEST[dtype]:  # PyTorch refuses to round it up
        number = math.copysign(math.inf, number)
    return torch.scalar_tensor(number, dtype=dtype, device=like.device)


class _StepPlan(NamedTuple):
    """How the native code goes through the arguments, by their places; those that were not given have no strides.

    ``copies`` names the ones that must be copied first, contiguous, to a shape. ``strides`` are then those over samples
    and rows, or for the factors those over rows and columns.
    """

    full: Shape
    size: tuple[int, int]
    copies: tuple[tuple[int, Shape], ...]
    strides: tuple[tuple[int, int], ...]


@functools.lru_cache(maxsize=1024)
def _plan_step(layouts: tuple[tuple[Shape, Shape] | None, ...]) -> _StepPlan:
    """Rows that are merged, and factors that have one number a row or one a column."""
    given = [(i, *layout) for i, layout in enumerate(layouts) if layout is not None]
    full = broadcast_shapes("leapfrog_step", tuple(_STEP_NAMES[i] for i, _, _ in given), tuple(s for _, s, _ in given))
    if len(full) == 0:
        raise ValueError(_NO_DIMENSION)
    by_row = [i for i, shape, _ in given if i < 3 or (len(shape) > 0 and shape[-1] == full[-1] != 1)]
    expanded: list[Shape] = []
    for i, shape, stride in given:
        if i in by_row:
            expanded += (full, tuple(expanded_strides(shape, stride, full)))
    rows = plan_rows("leapfrog_step", ("operand",) * len(by_row), tuple(expanded), 0)
    copies = [(i, copy) for i, copy in zip(by_row, rows.copies, strict=True) if copy is not None]
    strides = [(0, 0)] * len(layouts)
    for i, (_, row_stride) in zip(by_row, rows.strides, strict=True):
        strides[i] = (0, row_stride) if i < 3 else (row_stride, 1)
    for i, shape, _ in given:
        if i not in by_row and math.prod(shape) != 1:
            copies.append((i, (*full[:-1], 1)))
            strides[i] = (1, 0)
    return _StepPlan(full, rows.extent[1:], tuple(copies), tuple(strides))


class _Step:
    """Arguments of one step as the native views."""

    __slots__ = ("full", "held", "size", "views")

    def __init__(self, tensors: Sequence[Any]) -> None:
        self.held = held = list(tensors)  # what is widened or copied here lives as long as the views of it
        if held[0].dtype in HALF_DTYPES:
            held[3:] = [widen(factor) for factor in held[3:]]
        layouts = tuple([None if tensor is None else (tensor.shape, tensor.stride()) for tensor in held])
        self.full, self.size, copies, strides = _plan_step(layouts)
        for i, shape in copies:
            held[i] = held[i].expand(shape).contiguous()
        self.views: list[View] = [
            NO_VIEW if tensor is None else (tensor.data_ptr(), *each)
            for tensor, each in zip(held, strides, strict=True)
        ]


def _step_forward(
    q: Tensor, p: Tensor, grad: Tensor, step_size: Tensor, inverse_mass: Tensor | None, kick: float
) -> tuple[Tensor, Tensor]:
    step = _Step((q, p, grad, step_size, inverse_mass))
    if q.shape == step.full and q.is_contiguous():
        position, momentum = torch.empty_like(q), torch.empty_like(q)
    else:
        position, momentum = q.new_empty(step.full), q.new_empty(step.full)
    kernels(q).leapfrog_step(*step.size, *step.views, kick, position.data_ptr(), momentum.data_ptr())
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
            by_column = i < 3 or step.views[i][2] == 1
            dtype = like.dtype if i < 3 else compute_dtype(like.dtype)
            gradients[i] = like.new_empty(step.full if by_column else (*step.full[:-1], 1), dtype=dtype)
    kernels(like).leapfrog_step_backward(
        *step.size,
        *step.views,
        *constants,
        by_position.data_ptr(),
        by_momentum.data_ptr(),
        *[0 if gradient is None else gradient.data_ptr() for gradient in gradients[1:]],
    )
    return tuple(
        [
            gradient if gradient is None or tensor is None else sum_to_shape(gradient, tensor.shape).to(tensor.dtype)
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
    factors=_STEP_NAMES[3:],
    usual_numbers=(0.5, 1.0),
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
        raise TypeError(f"{operation}: q must be a torch.Tensor, got {kind_of(q)}")
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
    kernels(p).kinetic_energy(rows.extent, *views, out.data_ptr())
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
