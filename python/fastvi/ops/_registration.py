"""One way to make a kernel a PyTorch operation: eager autograd, transforms, compilation, export.

Two routes lead to the same kernels. Plain CPU and CUDA tensors in eager mode take a ctx-style ``autograd.Function``,
the cheapest there is. Everything else takes operators registered with ``torch.library``: ``torch.compile`` and
``torch.export`` as they are; ``torch.func``, tensor subclasses, modes and meta tensors through a second pair of
Functions; and a transform inside of ``torch.compile`` the plain formula. Second derivatives are those of the plain
formula, taken by ``torch.func.vjp``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor

from fastvi.ops._backends import check_device
from fastvi.ops._precision import HALF_DTYPES, SUPPORTED_DTYPES, SUPPORTED_NAMES, in_compute_dtype

Tensors: TypeAlias = tuple[Tensor | None, ...]
Outputs: TypeAlias = Tensor | tuple[Tensor, ...]
BatchRule: TypeAlias = Callable[[int, Sequence[Any], Sequence[Any]], list[Any]]

LIBRARY = torch.library.Library("fastvi", "DEF")

_PLAIN_TYPES = frozenset({torch.Tensor, torch.nn.Parameter})
_transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active
# The same question in the one form that torch.compile answers while it traces.
_compiled_transforms: Callable[[], int] = torch._C._functorch.get_dynamic_layer_stack_depth
_function_modes: Callable[[], int] = torch._C._len_torch_function_stack
_dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
_vjp: Any = torch.func.vjp  # typed as if a third result, auxiliary ones, might come unasked
# PyTorch hands its number of threads to OpenMP in each thread of the program when it is first asked there.
adopt_thread_count: Callable[[], int] = torch.get_num_threads
_autocast_active: Callable[[], bool] = torch._C._is_any_autocast_enabled


def register_kernel(name: str, kernel: Callable[..., Any]) -> None:
    """Implement an operator for the kinds of device that have kernels."""
    for key in ("CPU", "CUDA"):
        LIBRARY.impl(name, kernel, key)


def check_operands(
    operation: str, names: Sequence[str], operands: Sequence[object], optional: Sequence[str] = ()
) -> Sequence[Any]:
    """Reject anything but floating-point tensors of one dtype on one device; what is ``optional`` may be None.

    Returns
    -------
    Sequence[Tensor | None]
        The operands; in a region of ``torch.autocast`` float32 stands for bfloat16 and float16, as in PyTorch's losses.

    Raises
    ------
    TypeError
        If an operand is no tensor, or no floating-point one, or the dtypes differ.
    ValueError
        If the devices differ, or the device has no kernels, or the tensor is not strided.
    """
    if _autocast_active():
        operands = [_as_in_autocast(operand) for operand in operands]
    first: Tensor | None = None
    for name, operand in zip(names, operands, strict=True):
        if operand is None and name in optional:
            continue
        if not isinstance(operand, Tensor):
            raise TypeError(f"{operation}: {name} must be a torch.Tensor, got {type(operand).__name__}")
        dtype, on_cpu = operand.dtype, operand.is_cpu
        if dtype not in SUPPORTED_DTYPES:
            raise TypeError(f"{operation}: {name} has dtype {dtype}, expected {SUPPORTED_NAMES}")
        if operand.layout is not torch.strided:
            raise ValueError(f"{operation}: {name} has layout {operand.layout}, expected torch.strided")
        if not on_cpu:
            check_device(operation, name, operand.device)
        if first is None:
            first, first_name, first_dtype, first_on_cpu = operand, name, dtype, on_cpu
        elif dtype is not first_dtype:
            raise TypeError(f"{operation}: {name} has dtype {dtype}, but {first_name} has {first_dtype}")
        elif on_cpu is not first_on_cpu or (not on_cpu and operand.device != first.device):
            raise ValueError(f"{operation}: {name} is on {operand.device}, but {first_name} is on {first.device}")
    return operands


def _as_in_autocast(operand: object) -> object:
    if isinstance(operand, Tensor) and operand.dtype in HALF_DTYPES and torch.is_autocast_enabled(operand.device.type):
        return operand.float()
    return operand


def check_number(operation: str, name: str, value: object, expected: str = "a number") -> float:
    """A Python number, as float.

    Raises
    ------
    TypeError
        If ``value`` is anything else.
    ValueError
        If it is an integer that no float can hold.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{operation}: {name} must be {expected}, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{operation}: {name} is an integer beyond all floating-point numbers") from None


def _in_forward_mode() -> bool:
    """Whether tensors may carry tangents: within ``torch.func.jvp``, and within ``forward_ad.dual_level``."""
    return torch.autograd.forward_ad._current_level >= 0


def _is_plain(tensors: Sequence[Tensor | None]) -> bool:
    """Whether every tensor has memory that a kernel may read, and nothing watches what is done with it."""
    if _transforms_active() or _function_modes() or _dispatch_modes():
        return False
    for tensor in tensors:
        if tensor is not None and (
            type(tensor) not in _PLAIN_TYPES or not (tensor.is_cpu or tensor.is_cuda) or tensor.is_neg()
        ):
            return False
    return True


def _as_tuple(outputs: Any) -> tuple[Any, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def batch_broadcasting(batch_size: int, dims: Sequence[Any], tensors: Sequence[Any]) -> list[Any]:
    """Batch rule for operands that broadcast from the right: the mapped axis first, then equal ranks."""
    moved = [
        tensor
        if tensor is None
        else (tensor.movedim(dim, 0) if dim is not None else tensor.unsqueeze(0).expand(batch_size, *tensor.shape))
        for tensor, dim in zip(tensors, dims, strict=True)
    ]
    rank = max(tensor.dim() for tensor in moved if tensor is not None)
    return [
        tensor
        if tensor is None or tensor.dim() == rank
        else tensor.reshape(batch_size, *(1,) * (rank - tensor.dim()), *tensor.shape[1:])
        for tensor in moved
    ]


@dataclass(eq=False)
class Operation:
    """A differentiable operation: its kernels, and its definition in plain PyTorch.

    ``tensors`` and ``constants`` are the arguments' declarations as in a ``torch.library`` schema. Kernels see plain
    tensors. ``backward(grads, tensors, constants, needs, auxiliary)`` returns one gradient, or None, a tensor.
    The last ``num_auxiliary`` outputs are kept for the backward pass and have no gradient. ``batch`` brings mapped
    operands to shapes on which the same kernels do the whole batch; without it, ``vmap`` maps the plain formula.
    """

    name: str
    tensors: tuple[str, ...]
    constants: tuple[str, ...]
    forward: Callable[..., Outputs]
    backward: Callable[..., tuple[Tensor | None, ...]]
    formula: Callable[..., Outputs]
    fake: Callable[..., Outputs]
    num_outputs: int = 1
    num_auxiliary: int = 0
    batch: BatchRule | None = None
    batch_constants: Callable[[tuple[Any, ...]], tuple[Any, ...]] = lambda constants: constants
    fast: type[torch.autograd.Function] = field(init=False)
    transformable: type[torch.autograd.Function] = field(init=False)

    def __post_init__(self) -> None:
        self.count = len(self.tensors)
        self.formula = in_compute_dtype(self.formula)
        self._register_operators()
        self.gradient = _gradient_function(self)
        self.transformable = _transformable_function(self)
        self.fast = _fast_function(self)
        self._register_autograd()

    def __call__(self, *arguments: Any) -> Any:
        """Run on checked arguments, by the route that they need."""
        tensors = arguments[: self.count]
        if torch.compiler.is_compiling():
            if _compiled_transforms() > 0:  # PyTorch refuses Functions over custom operators there
                return self.formula(*arguments)
            return self._visible(self.operator(*arguments))
        if _in_forward_mode():  # a Function's rule for tangents is silent about those of an outer level
            return self.formula(*arguments)
        if not _is_plain(tensors):
            return self._visible(self.transformable.apply(*arguments))
        adopt_thread_count()
        if torch.is_grad_enabled():
            for tensor in tensors:
                if tensor is not None and tensor.requires_grad:
                    return self._visible(self.fast.apply(*arguments))
        return self._visible(self.forward(*arguments, *(False,) * bool(self.num_auxiliary)))

    def _visible(self, outputs: Any) -> Any:
        if not self.num_auxiliary:
            return outputs
        return outputs[0] if self.num_outputs == 1 else outputs[: self.num_outputs]

    def plain_backward(
        self, grads: Tensors, tensors: Tensors, constants: tuple[Any, ...], needs: Sequence[bool]
    ) -> Any:
        """The gradients that ``needs`` asks for, by differentiating the plain formula; itself differentiable."""
        wanted = [i for i, need in enumerate(needs) if need]

        def of_wanted(*values: Tensor) -> tuple[Tensor, ...]:
            complete = list(tensors)
            for i, value in zip(wanted, values, strict=True):
                complete[i] = value
            return _as_tuple(self.formula(*complete, *constants))

        outputs, pull_back = _vjp(of_wanted, *(tensors[i] for i in wanted))
        cotangents = tuple(
            torch.zeros_like(output) if grad is None else grad for grad, output in zip(grads, outputs, strict=True)
        )
        return pull_back(cotangents)

    def _register_operators(self) -> None:
        arguments = ", ".join((*self.tensors, *self.constants))
        returned = self.num_outputs + self.num_auxiliary
        LIBRARY.define(f"{self.name}({arguments}) -> {_returns(returned)}")
        inputs = ", ".join(
            (
                *(f"Tensor? grad_{i}" for i in range(self.num_outputs)),
                *self.tensors,
                *(f"Tensor auxiliary_{i}" for i in range(self.num_auxiliary)),
                *self.constants,
                "bool[] needs",
            )
        )
        LIBRARY.define(f"{self.name}_backward({inputs}) -> {_returns(self.count)}")
        self.operator = getattr(torch.ops.fastvi, self.name).default
        self.backward_operator = getattr(torch.ops.fastvi, f"{self.name}_backward").default

        def run_forward(*arguments: Any) -> Outputs:
            adopt_thread_count()
            return self.forward(*arguments, *(True,) * bool(self.num_auxiliary))

        def run_backward(*arguments: Any) -> Any:
            adopt_thread_count()
            grads, tensors, auxiliary, constants, needs = self._split_backward(arguments)
            grads = tuple(None if grad is None else grad.resolve_neg() for grad in grads)
            found = self.backward(grads, tensors, constants, needs, auxiliary)
            reference = next(tensor for tensor in tensors if tensor is not None)
            given = [grad for grad in grads if grad is not None]
            own = [reference.new_empty(0) if grad is None else grad for grad in found]
            # An output of an operator may not be one of its inputs.
            return _only_or_tuple([out.clone() if any(out is grad for grad in given) else out for out in own])

        def fake_backward(*arguments: Any) -> Any:
            _, tensors, _, _, needs = self._split_backward(arguments)
            reference = next(tensor for tensor in tensors if tensor is not None)
            return _only_or_tuple(
                [
                    tensor.new_empty(tensor.shape) if need and tensor is not None else reference.new_empty(0)
                    for tensor, need in zip(tensors, needs, strict=True)
                ]
            )

        for suffix, kernel, fake in (("", run_forward, self.fake), ("_backward", run_backward, fake_backward)):
            register_kernel(f"{self.name}{suffix}", kernel)
            torch.library.register_fake(f"fastvi::{self.name}{suffix}", fake, lib=LIBRARY)

    def _register_autograd(self) -> None:
        def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            auxiliary = _as_tuple(output)[self.num_outputs :]
            ctx.save_for_backward(*inputs[: self.count], *auxiliary)
            ctx.constants = inputs[self.count :]
            ctx.set_materialize_grads(False)

        def backward(ctx: Any, *grads: Tensor | None) -> Any:
            return self._backward_by(self.backward_operator, ctx, grads)

        def no_second_order(ctx: Any, *_: Any) -> NoReturn:
            raise RuntimeError(
                f"torch.ops.fastvi.{self.name}: no second derivative of the raw operator; call fastvi.{self.name}"
            )

        def rule(operator: Any, of_backward: bool) -> Callable[..., Any]:
            def batched(info: Any, dims: tuple[Any, ...], *arguments: Any) -> Any:
                return self.map_batch(operator, of_backward, info.batch_size, dims, arguments)

            return batched

        name = f"fastvi::{self.name}"
        torch.library.register_autograd(name, backward, setup_context=keep, lib=LIBRARY)
        torch.library.register_autograd(f"{name}_backward", no_second_order, lib=LIBRARY)
        torch.library.register_vmap(name, rule(self.operator, False), lib=LIBRARY)
        torch.library.register_vmap(f"{name}_backward", rule(self.backward_operator, True), lib=LIBRARY)

    def _split_backward(self, arguments: Sequence[Any]) -> tuple[Any, Any, Any, Any, Any]:
        a = self.num_outputs
        b = a + self.count
        c = b + self.num_auxiliary
        return arguments[:a], arguments[a:b], arguments[b:c], arguments[c:-1], arguments[-1]

    def _transformable_backward(self, *arguments: Any) -> Any:
        """The backward operator under any transform; what nobody needs is an empty tensor."""
        if not _in_forward_mode():
            return self.gradient.apply(*arguments)
        grads, tensors, _, constants, needs = self._split_backward(arguments)
        return self._plain_backward_of_all(grads, tensors, constants, needs)

    def _plain_backward_of_all(self, grads: Tensors, tensors: Tensors, constants: Any, needs: Sequence[bool]) -> Any:
        found = iter(self.plain_backward(grads, tensors, constants, needs))
        reference = next(tensor for tensor in tensors if tensor is not None)
        return _only_or_tuple([next(found) if need else reference.new_empty(0) for need in needs])

    def _backward_by(self, run: Callable[..., Any], ctx: Any, grads: Sequence[Tensor | None]) -> Any:
        """Call ``run`` with the backward operator's arguments; None for whatever has no gradient."""
        grads = grads[: self.num_outputs]
        nothing = (None,) * (self.count + len(ctx.constants))
        if all(grad is None for grad in grads):
            return nothing
        needs = list(ctx.needs_input_grad[: self.count])
        found = _as_tuple(run(*grads, *ctx.saved_tensors, *ctx.constants, needs))
        return *(grad if need else None for grad, need in zip(found, needs, strict=True)), *nothing[self.count :]

    def map_batch(
        self, run: Callable[..., Any], of_backward: bool, batch_size: int, dims: Sequence[Any], arguments: Sequence[Any]
    ) -> tuple[Any, Any]:
        """``vmap`` of ``run``, which is the operator or its Function, or those of the backward pass."""
        num_grads = self.num_outputs if of_backward else 0
        num_tensors = num_grads + self.count
        if self.batch is None:
            mapped = self._map_formula(of_backward, dims, arguments)
        else:
            grads = [
                grad
                if grad is None
                else (grad.movedim(dim, 0) if dim is not None else grad.unsqueeze(0).expand(batch_size, *grad.shape))
                for grad, dim in zip(arguments[:num_grads], dims[:num_grads], strict=True)
            ]
            tensors = arguments[num_grads:num_tensors]
            aligned = self.batch(batch_size, dims[num_grads:num_tensors], tensors)
            needs = list(arguments[-1:]) if of_backward else []
            constants = self.batch_constants(tuple(arguments[num_tensors : len(arguments) - len(needs)]))
            mapped = run(*grads, *aligned, *constants, *needs)
            if of_backward:  # axes that the batch rule put in front of an operand's own go again
                mapped = _only_or_tuple(
                    [
                        grad.reshape(batch_size, *_own_shape(tensor, dim)) if need else grad.unsqueeze(0)
                        for grad, tensor, dim, need in zip(
                            _as_tuple(mapped), tensors, dims[num_grads:num_tensors], needs[0], strict=True
                        )
                    ]
                )
                if not all(needs[0]):
                    unwanted = [0 if need else None for need in needs[0]]
                    outputs = [g if need else g.squeeze(0) for g, need in zip(_as_tuple(mapped), needs[0], strict=True)]
                    return _only_or_tuple(outputs), unwanted[0] if len(unwanted) == 1 else tuple(unwanted)
        return mapped, (0,) * len(mapped) if isinstance(mapped, tuple) else 0

    def _map_formula(self, of_backward: bool, dims: Sequence[Any], arguments: Sequence[Any]) -> Any:
        """``vmap`` of the plain formula, or of its derivative, over the mapped arguments alone."""
        mapped = [i for i, dim in enumerate(dims[: len(arguments)]) if dim is not None and not isinstance(dim, list)]

        def of_mapped(*values: Tensor) -> Any:
            complete = list(arguments)
            for i, value in zip(mapped, values, strict=True):
                complete[i] = value
            if not of_backward:
                outputs = _as_tuple(self.formula(*complete))
                unused = tuple(outputs[0].new_empty(0) for _ in range(self.num_auxiliary))
                return _only_or_tuple([*outputs, *unused])
            grads, tensors, _, constants, needs = self._split_backward(complete)
            return self._plain_backward_of_all(grads, tensors, constants, needs)

        in_dims = tuple(dims[i] for i in mapped)
        outputs = _as_tuple(
            torch.func.vmap(of_mapped, in_dims=in_dims, randomness="different")(*(arguments[i] for i in mapped))
        )
        # A Function may not return what it was given, as the gradient of something added.
        return _only_or_tuple([o.clone() if any(o is given for given in arguments) else o for o in outputs])


def _without_dead_levels(tensor: Tensor | None) -> Tensor | None:
    """What a tensor of ``torch.func`` levels that have ended holds; PyTorch itself looks through one of them only."""
    while tensor is not None and (held := torch._C._functorch.unwrap_if_dead(tensor)) is not tensor:
        tensor = held
    return tensor


def _own_shape(tensor: Tensor, dim: int | None) -> list[int]:
    return [size for axis, size in enumerate(tensor.shape) if axis != dim]


def _returns(count: int) -> str:
    return "Tensor" if count == 1 else f"({', '.join(['Tensor'] * count)})"


def _only_or_tuple(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else tuple(values)


def _gradient_function(operation: Operation) -> type[torch.autograd.Function]:
    class Gradient(torch.autograd.Function):
        """The backward pass as an operation of its own, with the derivatives of the plain formula."""

        @staticmethod
        def forward(*arguments: Any) -> Any:
            return operation.backward_operator(*arguments)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            grads, tensors, _, ctx.constants, ctx.needs = operation._split_backward(inputs)
            ctx.save_for_backward(*grads, *tensors)
            ctx.set_materialize_grads(False)
            unwanted = [o for o, need in zip(_as_tuple(output), ctx.needs, strict=True) if not need]
            ctx.mark_non_differentiable(*unwanted)

        @staticmethod
        def backward(ctx: Any, *outer_grads: Tensor | None) -> Any:
            saved: list[Any] = [_without_dead_levels(tensor) for tensor in ctx.saved_tensors]
            wanted = [i for i, need in enumerate(ctx.needs_input_grad[: len(saved)]) if need]
            outer = [_without_dead_levels(grad) for grad, need in zip(outer_grads, ctx.needs, strict=True) if need]

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


def _transformable_function(operation: Operation) -> type[torch.autograd.Function]:
    class Transformable(torch.autograd.Function):
        """The operation over its registered operator: composes with torch.func, torch.compile and torch.export."""

        @staticmethod
        def forward(*arguments: Any) -> Any:
            return operation.operator(*arguments)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            auxiliary = _as_tuple(output)[operation.num_outputs :]
            ctx.save_for_backward(*inputs[: operation.count], *auxiliary)
            ctx.mark_non_differentiable(*auxiliary)
            ctx.constants = inputs[operation.count :]
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> Any:
            return operation._backward_by(operation._transformable_backward, ctx, grads)

        @staticmethod
        def vmap(info: Any, dims: tuple[Any, ...], *arguments: Any) -> Any:
            return operation.map_batch(Transformable.apply, False, info.batch_size, dims, arguments)

    return Transformable


def _fast_function(operation: Operation) -> type[torch.autograd.Function]:
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
            if torch.is_grad_enabled() or _in_forward_mode() or not _is_plain(grads):
                return operation._backward_by(operation._transformable_backward, ctx, grads)
            grads = grads[:num_outputs]
            if grads[0] is None and all(grad is None for grad in grads):
                return nothing
            adopt_thread_count()
            saved = ctx.saved_tensors
            found = operation.backward(grads, saved[:count], ctx.constants, ctx.needs_input_grad, saved[count:])
            return found + nothing[count:]

    return Fast
