"""The ``autograd.Function`` of an operation over its kernels, that over its operators, and that of its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastvi.ops._checks import is_plain
from fastvi.ops._operators import adopt_thread_count, as_tuple
from fastvi.ops._private import in_forward_mode, without_dead_levels

if TYPE_CHECKING:
    from fastvi.ops._registration import Operation

_vjp: Any = torch.func.vjp  # typed as if a third result, auxiliary ones, might come unasked


def gradient_function(operation: Operation) -> type[torch.autograd.Function]:
    class Gradient(torch.autograd.Function):
        """The backward pass as an operation of its own, with the derivatives of the plain formula."""

        @staticmethod
        def forward(*arguments: Any) -> Any:
            return operation.backward_operator(*arguments)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            grads, tensors, _, ctx.constants, ctx.needs = operation.split_backward(inputs)
            ctx.save_for_backward(*grads, *tensors)
            ctx.set_materialize_grads(False)
            unwanted = [o for o, need in zip(as_tuple(output), ctx.needs, strict=True) if not need]
            ctx.mark_non_differentiable(*unwanted)

        @staticmethod
        def backward(ctx: Any, *outer_grads: Tensor | None) -> Any:
            saved: list[Any] = [without_dead_levels(tensor) for tensor in ctx.saved_tensors]
            wanted = [i for i, need in enumerate(ctx.needs_input_grad[: len(saved)]) if need]
            outer = [without_dead_levels(grad) for grad, need in zip(outer_grads, ctx.needs, strict=True) if need]

            def of_wanted(*values: Tensor) -> Any:
                complete = list(saved)
                for i, value in zip(wanted, values, strict=True):
                    complete[i] = value
                grads, tensors = complete[: operation.num_outputs], complete[operation.num_outputs :]
                return operation.plain_backward(tuple(grads), tuple(tensors), ctx.constants, ctx.needs)

            # Autocast would round the products in the derivatives of the formula.
            with torch.autocast(saved[wanted[0]].device.type, enabled=False):
                outputs, pull_back = _vjp(of_wanted, *(saved[i] for i in wanted))
                found = pull_back(
                    tuple(torch.zeros_like(o) if grad is None else grad for grad, o in zip(outer, outputs, strict=True))
                )
            result: list[Tensor | None] = [None] * (len(saved) + operation.num_auxiliary + len(ctx.constants) + 1)
            for i, grad in zip(wanted, found, strict=True):
                result[i] = grad
            return tuple(result)

        @staticmethod
        def vmap(info: Any, dims: tuple[Any, ...], *arguments: Any) -> Any:
            return operation.map_batch(Gradient.apply, True, info.batch_size, dims, arguments)

    return Gradient


def transformable_function(operation: Operation) -> type[torch.autograd.Function]:
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
            return operation.map_batch(Transformable.apply, False, info.batch_size, dims, arguments)

    return Transformable


def fast_function(operation: Operation) -> type[torch.autograd.Function]:
    count, num_outputs = operation.count, operation.num_outputs
    keep = (True,) * bool(operation.num_auxiliary)
    nothing = (None,) * (count + len(operation.constants))

    class Fast(torch.autograd.Function):
        """The operation straight over its kernels, for plain tensors in eager mode."""

        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Any:
            output = operation.forward(*arguments, *keep)
            if keep:
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
            saved = ctx.saved_tensors
            given = (*saved, *grads)
            if (
                torch.is_grad_enabled()
                or in_forward_mode()
                or not is_plain(given)
                or not operation.fits(given, ctx.constants)
            ):
                return operation.backward_by(operation.transformable_backward, ctx, grads, saved, ctx.constants)
            adopt_thread_count()
            auxiliary = saved[count:]
            found = operation.backward(grads, saved[:count], ctx.constants, ctx.needs_input_grad, auxiliary)
            return found + nothing[count:]

    return Fast
