"""The ``autograd.Function`` of an operation over its kernels, that over its operators, and that of its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastvi.ops._batching import map_batch
from fastvi.ops._outputs import as_tuple
from fastvi.ops._private import without_dead_levels

if TYPE_CHECKING:
    from fastvi.ops._operation import Operation

_vjp: Any = torch.func.vjp  # typed as if a third result, auxiliary ones, might come unasked


def gradient_function(operation: Operation[Any]) -> type[torch.autograd.Function]:
    num_outputs, num_saved, second = operation.num_outputs, operation.num_outputs + operation.count, operation.second

    def by_formula(
        saved: Sequence[Any], outer: Sequence[Tensor | None], ctx: Any, needed: Sequence[bool]
    ) -> list[Tensor | None]:
        wanted = [i for i, need in enumerate(needed) if need]

        def of_wanted(*values: Tensor) -> Any:
            complete = list(saved)
            for i, value in zip(wanted, values, strict=True):
                complete[i] = value
            grads, tensors = complete[:num_outputs], complete[num_outputs:]
            return operation.plain_backward(tuple(grads), tuple(tensors), ctx.constants, ctx.needs)

        # Autocast would round the products in the derivatives of the formula.
        with torch.autocast(saved[wanted[0]].device.type, enabled=False):
            outputs, pull_back = _vjp(of_wanted, *(saved[i] for i in wanted))
            given = [grad for grad, need in zip(outer, ctx.needs, strict=True) if need]
            found = iter(
                pull_back(
                    tuple(torch.zeros_like(o) if grad is None else grad for grad, o in zip(given, outputs, strict=True))
                )
            )
        return [next(found) if need else None for need in needed]

    class Gradient(torch.autograd.Function):
        """The backward pass as an operation of its own, with derivatives of its own or those of the plain formula."""

        @staticmethod
        def forward(*arguments: Any) -> Any:
            return operation.backward_operator(*arguments)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            _, _, auxiliary, ctx.constants, ctx.needs = operation.split_backward(inputs)
            ctx.save_for_backward(*inputs[:num_saved], *(() if second is None else auxiliary))
            ctx.set_materialize_grads(False)
            unwanted = [o for o, need in zip(as_tuple(output), ctx.needs, strict=True) if not need]
            ctx.mark_non_differentiable(*unwanted)

        @staticmethod
        def backward(ctx: Any, *outer_grads: Tensor | None) -> Any:
            saved: list[Any] = [without_dead_levels(tensor) for tensor in ctx.saved_tensors]
            given = zip(outer_grads, ctx.needs, strict=True)
            outer = [without_dead_levels(grad) if need else None for grad, need in given]
            needed = ctx.needs_input_grad[:num_saved]
            found = NotImplemented if second is None else second(outer, saved, ctx.constants, needed)
            if found is NotImplemented:
                found = by_formula(saved[:num_saved], outer, ctx, needed)
            return *found, *(None,) * (len(ctx.needs_input_grad) - num_saved)

        @staticmethod
        def vmap(info: Any, dims: tuple[Any, ...], *arguments: Any) -> Any:
            return map_batch(operation, Gradient.apply, True, info.batch_size, dims, arguments)

    return Gradient


def transformable_function(operation: Operation[Any]) -> type[torch.autograd.Function]:
    class Transformable(torch.autograd.Function):
        """The operation over its registered operator: composes with torch.func, torch.compile and torch.export."""

        @staticmethod
        def forward(*arguments: Any) -> Any:
            return operation.operator(*arguments)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            auxiliary = as_tuple(output)[operation.num_outputs :]
            ctx.save_for_backward(*inputs[: operation.count], *auxiliary)
            ctx.mark_non_differentiable(*auxiliary)
            ctx.constants = inputs[operation.count :]
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> Any:
            return operation.backward_by(operation.transformable_backward, ctx, grads, ctx.saved_tensors, ctx.constants)

        @staticmethod
        def vmap(info: Any, dims: tuple[Any, ...], *arguments: Any) -> Any:
            return map_batch(operation, Transformable.apply, False, info.batch_size, dims, arguments)

    return Transformable


def fast_function(operation: Operation[Any]) -> type[torch.autograd.Function]:
    count, num_outputs, has_auxiliary = operation.count, operation.num_outputs, operation.num_auxiliary > 0
    nothing = (None,) * (count + len(operation.constants))

    class Fast(torch.autograd.Function):
        """The operation straight over its kernels, for plain tensors in eager mode."""

        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            output = operation.functions_for(arguments[0]).forward(*arguments)
            if has_auxiliary:
                auxiliary = output[num_outputs:]
                ctx.mark_non_differentiable(*auxiliary)
                ctx.save_for_backward(*arguments[:count], *auxiliary)
            else:
                ctx.save_for_backward(*arguments[:count])
            ctx.constants = arguments[count:]
            ctx.set_materialize_grads(False)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> Any:
            grads = grads[:num_outputs]
            if grads[0] is None and all(grad is None for grad in grads):
                return nothing
            # Hooks may have changed what was saved, or what comes from above, and FSDP frees parameters' memory.
            saved, needs = ctx.saved_tensors, ctx.needs_input_grad[:count]
            found = operation.functions_for(saved[0]).attempt_backward(*grads, *saved, *ctx.constants, needs)
            if found is NotImplemented:
                return operation.backward_by(operation.transformable_backward, ctx, grads, saved, ctx.constants)
            return found + nothing[count:]

    return Fast
