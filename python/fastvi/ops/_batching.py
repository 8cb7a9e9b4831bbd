"""Rules for ``torch.func.vmap``: one kernel call for the whole batch where operands broadcast, else the formula."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from fastvi.ops._outputs import as_tuple, only_or_tuple

if TYPE_CHECKING:
    from fastvi.ops._operation import Operation

BatchRule: TypeAlias = Callable[[int, Sequence[Any], Sequence[Any]], list[Any]]


def _batch_first(batch_size: int, dims: Sequence[Any], tensors: Sequence[Any]) -> list[Any]:
    """Each tensor with the mapped axis in front, also where it is not mapped; None stays None."""
    return [
        tensor
        if tensor is None
        else (tensor.movedim(dim, 0) if dim is not None else tensor.unsqueeze(0).expand(batch_size, *tensor.shape))
        for tensor, dim in zip(tensors, dims, strict=True)
    ]


def batch_broadcasting(batch_size: int, dims: Sequence[Any], tensors: Sequence[Any]) -> list[Any]:
    """Batch rule for operands that broadcast from the right: the mapped axis first, then equal ranks."""
    moved = _batch_first(batch_size, dims, tensors)
    rank = max(tensor.dim() for tensor in moved if tensor is not None)
    return [
        tensor
        if tensor is None or tensor.dim() == rank
        else tensor.reshape(batch_size, *(1,) * (rank - tensor.dim()), *tensor.shape[1:])
        for tensor in moved
    ]


def map_batch(
    operation: Operation[Any],
    run: Callable[..., Any],
    of_backward: bool,
    batch_size: int,
    dims: Sequence[Any],
    arguments: Sequence[Any],
) -> tuple[Any, Any]:
    """``vmap`` of ``run``, which is the operator or its Function, or those of the backward pass."""
    num_grads = operation.num_outputs if of_backward else 0
    num_tensors = num_grads + operation.count
    if operation.batch is None:
        mapped = _map_formula(operation, of_backward, dims, arguments)
    else:
        grads = _batch_first(batch_size, dims[:num_grads], arguments[:num_grads])
        tensors = arguments[num_grads:num_tensors]
        aligned = operation.batch(batch_size, dims[num_grads:num_tensors], tensors)
        needs = list(arguments[-1:]) if of_backward else []
        constants = operation.batch_constants(tuple(arguments[num_tensors : len(arguments) - len(needs)]))
        mapped = run(*grads, *aligned, *constants, *needs)
        if of_backward:  # axes that the batch rule put in front of an operand's own go again
            mapped = only_or_tuple(
                [
                    grad.reshape(batch_size, *_own_shape(tensor, dim)) if need else grad.unsqueeze(0)
                    for grad, tensor, dim, need in zip(
                        as_tuple(mapped), tensors, dims[num_grads:num_tensors], needs[0], strict=True
                    )
                ]
            )
            if not all(needs[0]):
                unwanted = [0 if need else None for need in needs[0]]
                outputs = [g if need else g.squeeze(0) for g, need in zip(as_tuple(mapped), needs[0], strict=True)]
                return only_or_tuple(outputs), unwanted[0] if len(unwanted) == 1 else tuple(unwanted)
    return mapped, (0,) * len(mapped) if isinstance(mapped, tuple) else 0


def _map_formula(operation: Operation[Any], of_backward: bool, dims: Sequence[Any], arguments: Sequence[Any]) -> Any:
    """``vmap`` of the plain formula, or of its derivative, over the mapped arguments alone."""
    mapped = [i for i, dim in enumerate(dims[: len(arguments)]) if dim is not None and not isinstance(dim, list)]

    def of_mapped(*values: Tensor) -> Any:
        complete = list(arguments)
        for i, value in zip(mapped, values, strict=True):
            complete[i] = value
        if not of_backward:
            outputs = as_tuple(operation.formula(*complete))
            unused = tuple(outputs[0].new_empty(0) for _ in range(operation.num_auxiliary))
            return only_or_tuple([*outputs, *unused])
        grads, tensors, _, constants, needs = operation.split_backward(complete)
        return operation.plain_backward_of_all(grads, tensors, constants, needs)

    in_dims = tuple(dims[i] for i in mapped)
    outputs = as_tuple(
        torch.func.vmap(of_mapped, in_dims=in_dims, randomness="different")(*(arguments[i] for i in mapped))
    )
    # A Function may not return what it was given, as the gradient of something added.
    return only_or_tuple([o.clone() if any(o is given for given in arguments) else o for o in outputs])


def _own_shape(tensor: Tensor, dim: int | None) -> list[int]:
    return [size for axis, size in enumerate(tensor.shape) if axis != dim]
