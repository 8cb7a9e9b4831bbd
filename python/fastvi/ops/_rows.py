"""Tensors as the views that the native row kernels take; gradients back in their operands' shapes."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from fastvi import _native
from fastvi._layout import RowPlan, plan_rows

View = tuple[int, int, int]
NO_VIEW: View = (0, 0, 0)
NO_GRADIENT = (0, 0)

_native_module = _native.module()
KERNELS: dict[torch.dtype, ModuleType] = {
    torch.float32: _native_module.float32,
    torch.float64: _native_module.float64,
}


class Rows:
    """Operands that broadcast over ``(samples, rows)`` and are summed, or drawn, over their last dimension."""

    __slots__ = ("extent", "held", "plan", "shapes", "views")

    def __init__(
        self, operation: str, names: tuple[str, ...], tensors: Sequence[Tensor], sample_rank: int | None = None
    ) -> None:
        layouts: list[tuple[int, ...]] = []
        for tensor in tensors:
            layouts.append(tensor.shape)
            layouts.append(tensor.stride())
        plan: RowPlan = plan_rows(operation, names, tuple(layouts), sample_rank)
        self.plan = plan
        self.extent = plan.extent
        self.shapes = layouts[::2]
        self.held: list[Tensor] = []  # copies live as long as the views that point into them
        self.views: list[View] = []
        for tensor, (sample_stride, row_stride), copy in zip(tensors, plan.strides, plan.copies, strict=True):
            if copy is not None:
                tensor = tensor.expand(copy).contiguous()
                self.held.append(tensor)
            self.views.append((tensor.data_ptr(), sample_stride, row_stride))

    def upstream(self, grad: Tensor) -> View:
        """View of a gradient of shape ``leading``, of any strides."""
        samples, rows, _ = self.extent
        if grad.is_contiguous():
            return (grad.data_ptr(), rows, 1)
        if samples == 1 and grad.dim() == 1:
            return (grad.data_ptr(), 0, grad.stride(0))
        grad = grad.contiguous()
        self.held.append(grad)
        return (grad.data_ptr(), rows, 1)

    def new_gradient(self, i: int, like: Tensor, needed: bool) -> tuple[Tensor | None, tuple[int, int]]:
        """Memory for operand i's gradient, samples summed where the operand has none, and its view."""
        if not needed:
            return None, NO_GRADIENT
        leading, columns = self.plan.leading, self.extent[2]
        sums_samples = self.plan.strides[i][0] == 0 and self.extent[0] != 1
        if sums_samples:
            split = self.plan.split
            full = (*(1,) * split, *leading[split:], columns)
        else:
            full = (*leading, columns)
        gradient = like.new_empty(full)
        return gradient, (gradient.data_ptr(), int(sums_samples))

    def in_operand_shape(self, i: int, gradient: Tensor | None) -> Tensor | None:
        """Sum what the operand was broadcast over."""
        if gradient is None or gradient.shape == self.shapes[i]:
            return gradient
        return gradient.sum_to_size(self.shapes[i])


def row_backward(
    kernel: str,
    rows: Rows,
    views: Sequence[View],
    constants: Sequence[float],
    grad: Tensor,
    needs: Sequence[bool],
    count: int,
) -> tuple[Tensor | None, ...]:
    """Gradients of a row operation for its first ``count`` operands."""
    gradients, targets = [], []
    for i in range(count):
        gradient, target = rows.new_gradient(i, grad, needs[i])
        gradients.append(gradient)
        targets.append(target)
    targets += [NO_GRADIENT] * (len(views) - count)
    getattr(KERNELS[grad.dtype], kernel)(rows.extent, *views, *constants, rows.upstream(grad), *targets)
    return tuple([rows.in_operand_shape(i, gradient) for i, gradient in enumerate(gradients)])


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
        return torch.broadcast_shapes(*(tensor.shape for tensor in given))
    except RuntimeError:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in zip(given_names, given, strict=True))
        raise ValueError(f"{operation}: shapes do not broadcast: got {shapes}") from None
