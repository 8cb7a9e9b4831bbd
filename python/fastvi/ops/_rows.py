"""Tensors as the views that the native row kernels take; gradients back in their operands' shapes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastvi._layout import RowPlan, plan_rows
from fastvi.ops._backends import kernels
from fastvi.ops._precision import HALF_DTYPES
from fastvi.ops._sums import sum_to_shape

View = tuple[int, int, int]
NO_VIEW: View = (0, 0, 0)
NO_GRADIENT = (0, False)


class Rows:
    """Operands that broadcast over ``(samples, rows)`` and are summed, or drawn, over their last dimension."""

    __slots__ = ("extent", "held", "names", "operation", "plan", "views")

    def __init__(
        self, operation: str, names: tuple[str, ...], tensors: Sequence[Tensor], sample_rank: int | None = None
    ) -> None:
        layouts: list[tuple[int, ...]] = []
        for tensor in tensors:
            layouts += (tensor.shape, tensor.stride())
        plan: RowPlan = plan_rows(operation, names, tuple(layouts), sample_rank)
        self.operation, self.names = operation, names
        self.plan = plan
        self.extent = plan.extent
        self.held: list[Tensor] = []  # copies live as long as the views that point into them
        self.views: list[View] = []
        for tensor, (sample_stride, row_stride), copy in zip(tensors, plan.strides, plan.copies, strict=True):
            if copy is not None:
                tensor = tensor.expand(copy).contiguous()
                self.held.append(tensor)
            self.views.append((tensor.data_ptr(), sample_stride, row_stride))

    def rounds_too_early(self, dtype: torch.dtype, needs: Sequence[bool]) -> bool:
        """Whether half-precision gradients would be rounded before they are summed to their operands' shapes."""
        if dtype not in HALF_DTYPES:
            return False
        return any(need and plan.broadcast for need, plan in zip(needs, self.plan.gradients, strict=False))

    def upstream(self, grad: Tensor) -> View:
        """View of a gradient of shape ``leading``, of any strides."""
        check_upstream(self.operation, grad, self.plan.leading)
        samples, rows, _ = self.extent
        if grad.is_contiguous():
            return (grad.data_ptr(), rows, 1)
        if samples == 1 and grad.dim() == 1:
            return (grad.data_ptr(), 0, grad.stride(0))
        grad = grad.contiguous()
        self.held.append(grad)
        return (grad.data_ptr(), rows, 1)

    def new_gradient(self, i: int, operand: Tensor) -> tuple[Tensor, tuple[int, bool]]:
        """Memory for the gradient of operand i, samples summed where it has none, and the kernel's view of it."""
        shape, sums_samples, like_operand, _ = self.plan.gradients[i]
        if like_operand:
            gradient = torch.empty_like(operand)
        elif self.extent[0] == 0:
            gradient = operand.new_zeros(shape)  # no samples: an empty sum
        else:
            gradient = operand.new_empty(shape)
        return gradient, (gradient.data_ptr(), sums_samples)

    def in_operand_shape(self, i: int, gradient: Tensor | None, operand: Tensor) -> Tensor | None:
        """Sum what the operand was broadcast over."""
        if gradient is None or not self.plan.gradients[i].broadcast:
            return gradient
        return sum_to_shape(gradient, operand.shape)


def check_upstream(operation: str, grad: Tensor, shape: Sequence[int]) -> None:
    """Reject a gradient that has not the output's shape: autograd sends none, but the raw operators may be called.

    Raises
    ------
    ValueError
        If the shape is another one.
    """
    if grad.shape != shape:
        raise ValueError(f"{operation}: gradient has shape {tuple(grad.shape)}, expected {tuple(shape)}")


def row_backward(
    kernel: str,
    rows: Rows,
    views: Sequence[View],
    constants: Sequence[float],
    grad: Tensor,
    operands: Sequence[Tensor],
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of a row operation for its operands."""
    if rows.rounds_too_early(grad.dtype, needs):
        wide = [operand.float() for operand in operands]
        wide_rows = Rows(rows.operation, rows.names, wide)
        wide_views = [*wide_rows.views, *views[len(operands) :]]
        found = row_backward(kernel, wide_rows, wide_views, constants, grad.float(), wide, needs)
        return tuple([None if gradient is None else gradient.to(grad.dtype) for gradient in found])
    gradients: list[Tensor | None] = []
    targets: list[tuple[int, bool]] = []
    for i, operand in enumerate(operands):
        if needs[i]:
            gradient, target = rows.new_gradient(i, operand)
            gradients.append(gradient)
            targets.append(target)
        else:
            gradients.append(None)
            targets.append(NO_GRADIENT)
    targets += [NO_GRADIENT] * (len(views) - len(operands))
    getattr(kernels(grad), kernel)(rows.extent, *views, *constants, rows.upstream(grad), *targets)
    return tuple([rows.in_operand_shape(i, gradient, operands[i]) for i, gradient in enumerate(gradients)])


def present(names: Sequence[str], tensors: Sequence[Tensor | None]) -> tuple[tuple[str, ...], list[Tensor]]:
    """Names and tensors of the arguments that were given."""
    given = [(name, tensor) for name, tensor in zip(names, tensors, strict=True) if tensor is not None]
    return tuple(name for name, _ in given), [tensor for _, tensor in given]


def broadcast_shape(operation: str, names: Sequence[str], tensors: Sequence[Tensor | None]) -> torch.Size:
    """The operands' common shape, event included; it may hold sizes that are not known yet."""
    for name, tensor in zip(names, tensors, strict=True):
        if tensor is not None and tensor.dim() == 0:
            raise ValueError(f"{operation}: {name} has no dimension; expected the event in the last one")
    given_names, given = present(names, tensors)
    try:
        shape: torch.Size = torch.broadcast_shapes(*(tensor.shape for tensor in given))
    except RuntimeError:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in zip(given_names, given, strict=True))
        raise ValueError(f"{operation}: shapes do not broadcast: got {shapes}") from None
    return shape
