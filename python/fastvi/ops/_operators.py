"""The registered operators of an operation, ``torch.ops.fastvi.<name>`` and ``<name>_backward``.

Anybody may call them with anything: what they were given is checked here, for all operations, before a kernel gets an
address.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from fastvi.ops._batching import map_batch
from fastvi.ops._checks import PLAIN_TYPES, check_declared, check_memory, check_shape, check_size, lacks_memory
from fastvi.ops._outputs import as_tuple, only_or_tuple

if TYPE_CHECKING:
    from fastvi.ops._operation import Operation

LIBRARY = torch.library.Library("fastvi", "DEF")

# A kernel is registered for kinds of tensors that it cannot read, too: it says so, where PyTorch would print a table.
_OTHER_KINDS = ("Sparse", "SparseCsr", "NestedTensor", "Quantized")
_KEYS = ("CPU", "CUDA", "MkldnnCPU", *(f"{kind}{place}" for kind in _OTHER_KINDS for place in ("CPU", "CUDA")))


def register_kernel(name: str, kernel: Callable[..., Any]) -> None:
    """Implement an operator for the kinds of device that have kernels."""
    for key in _KEYS:
        LIBRARY.impl(name, kernel, key)


def layout_of(tensors: Sequence[Tensor | None]) -> tuple[tuple[torch.Size, torch.dtype] | None, ...]:
    """Shapes and dtypes, as a key to what follows from them."""
    return tuple([None if tensor is None else (tensor.shape, tensor.dtype) for tensor in tensors])


class KnownCalls:
    """Calls that passed all checks, by what the checks look at: a compiled program makes the same ones again and again.

    The checks of one call take some 30 us, as much as a kernel on a small batch. They look at no values.
    """

    LIMIT = 1024

    def __init__(self) -> None:
        self._known: set[tuple[Any, ...]] = set()

    def __contains__(self, call: tuple[Any, ...] | None) -> bool:
        return call in self._known

    @staticmethod
    def describe(tensors: Sequence[Tensor | None], constants: Sequence[Any]) -> tuple[Any, ...] | None:
        """A call as a key; None where it has tensors whose memory no kernel may read as it is, if there is any."""
        key: list[Any] = [tuple(each) if isinstance(each, list) else each for each in constants]
        for tensor in tensors:
            if tensor is None:
                key.append(None)
            elif (
                type(tensor) in PLAIN_TYPES
                and tensor.layout is torch.strided
                and not tensor.is_nested
                and not tensor.is_neg()
                and not lacks_memory(tensor)
            ):
                key.append((tensor.shape, tensor.dtype, tensor.device))
            else:
                return None
        return tuple(key)

    def add(self, call: tuple[Any, ...] | None) -> None:
        """Remember a call; those known before are forgotten where there are too many."""
        if call is None:
            return
        if len(self._known) >= self.LIMIT:
            self._known.clear()
        self._known.add(call)


class Operators(NamedTuple):
    """An operation's forward and backward operator."""

    forward: Any
    backward: Any


def define_operators(operation: Operation[Any], overload: str = "") -> Operators:
    """Define and implement both operators, or their overload ``tensor``: numbers are float64 tensors there."""
    as_tensors = overload == "tensor"
    constants = [declared.replace("float ", "Tensor ") if as_tensors else declared for declared in operation.constants]
    suffix = f".{overload}" if overload else ""
    name, count, num_outputs = operation.name, operation.count, operation.num_outputs
    with_defaults = [f"{declared}=None" if "?" in declared else declared for declared in constants]
    arguments = ", ".join((*operation.tensors, *with_defaults))
    LIBRARY.define(f"{name}{suffix}({arguments}) -> {_returns(num_outputs + operation.num_auxiliary)}")
    inputs = ", ".join(
        (
            *(f"Tensor? grad_{i}" for i in range(num_outputs)),
            *operation.tensors,
            *(f"Tensor auxiliary_{i}" for i in range(operation.num_auxiliary)),
            *constants,
            "bool[] needs",
        )
    )
    LIBRARY.define(f"{name}_backward{suffix}({inputs}) -> {_returns(count)}")

    known_forward, known_backward = KnownCalls(), KnownCalls()

    def run_forward(*arguments: Any) -> Any:
        arguments = _complete(operation, arguments)
        tensors: Sequence[Any] = arguments[:count]
        constants: Sequence[Any] = arguments[count:]
        call = None if as_tensors else KnownCalls.describe(tensors, constants)
        if call not in known_forward:
            _check_tensors(operation, tensors)
            constants = _numbers(operation, constants) if as_tensors else constants
            _check_call(operation, tensors, constants)
            known_forward.add(call)
            tensors = _plain(tensors)
        return operation.functions_for(tensors[0]).forward(*tensors, *constants)

    def run_backward(*arguments: Any) -> Any:
        grads, tensors, auxiliary, constants, needs = operation.split_backward(arguments)
        given: Sequence[Any] = (*grads, *tensors, *auxiliary)
        call = None if as_tensors else KnownCalls.describe(given, (*constants, needs))
        if call not in known_backward:
            others = (*auxiliary, *grads)
            _check_tensors(operation, (*tensors, *others))
            constants = _numbers(operation, constants) if as_tensors else constants
            _check_call(operation, tensors, constants, others)
            _check_needs(operation, tensors, needs)
            if all(grad is None for grad in grads):
                raise ValueError(f"{name}: no gradient was given; expected one at least")
            known_backward.add(call)
            given = _plain(given)
        found = operation.functions_for(tensors[0]).backward(*given, *constants, needs)
        return only_or_tuple([tensors[0].new_empty(0) if grad is None else grad for grad in found])

    def fake_forward(*arguments: Any) -> Any:
        _check_tensors(operation, arguments[:count])
        return operation.fake(*_complete(operation, arguments))

    def fake_backward(*arguments: Any) -> Any:
        grads, tensors, auxiliary, _, needs = operation.split_backward(arguments)
        _check_tensors(operation, (*tensors, *auxiliary, *grads))
        _check_needs(operation, tensors, needs)
        return only_or_tuple(
            [
                tensor.new_empty(tensor.shape) if need and tensor is not None else tensors[0].new_empty(0)
                for tensor, need in zip(tensors, needs, strict=True)
            ]
        )

    for target, kernel, fake in (("", run_forward, fake_forward), ("_backward", run_backward, fake_backward)):
        register_kernel(f"{name}{target}{suffix}", kernel)
        torch.library.register_fake(f"fastvi::{name}{target}{suffix}", fake, lib=LIBRARY)
    forward, backward = (getattr(torch.ops.fastvi, f"{name}{target}") for target in ("", "_backward"))
    return Operators(getattr(forward, overload or "default"), getattr(backward, overload or "default"))


def _complete(operation: Operation[Any], arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The forward operator's arguments with those that PyTorch leaves out: the last ones that have their default."""
    return arguments + (None,) * (operation.count + len(operation.constants) - len(arguments))


def _plain(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The tensors as the native functions read them: of PyTorch's own class, and not to be negated first."""
    return [None if tensor is None else tensor.resolve_neg().as_subclass(Tensor) for tensor in tensors]


def register_autograd(operation: Operation[Any], operators: Operators) -> None:
    """The derivative of the forward operator, which is the backward operator, and of that none."""
    num_saved = operation.count + operation.num_auxiliary

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        auxiliary = as_tuple(output)[operation.num_outputs :]
        constants = inputs[operation.count :]
        ctx.numbers_are_tensors = any(isinstance(constant, Tensor) for constant in constants)
        saved = constants if ctx.numbers_are_tensors else ()
        ctx.save_for_backward(*inputs[: operation.count], *auxiliary, *saved)
        ctx.constants = constants if not ctx.numbers_are_tensors else ()
        ctx.set_materialize_grads(False)

    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        saved = ctx.saved_tensors
        constants = saved[num_saved:] if ctx.numbers_are_tensors else ctx.constants
        return operation.backward_by(operators.backward, ctx, grads, saved[:num_saved], constants)

    def no_second_order(ctx: Any, *_: Any) -> NoReturn:
        raise RuntimeError(
            f"torch.ops.fastvi.{operation.name}: no second derivative of the raw operator; call fastvi.{operation.name}"
        )

    def rule(operator: Any, of_backward: bool) -> Callable[..., Any]:
        def batched(info: Any, dims: tuple[Any, ...], *arguments: Any) -> Any:
            complete = arguments if of_backward else _complete(operation, arguments)
            return map_batch(operation, operator, of_backward, info.batch_size, dims, complete)

        return batched

    forward_name, backward_name = (operator.name() for operator in operators)
    torch.library.register_autograd(forward_name, backward, setup_context=keep, lib=LIBRARY)
    torch.library.register_autograd(backward_name, no_second_order, lib=LIBRARY)
    torch.library.register_vmap(forward_name, rule(operators.forward, False), lib=LIBRARY)
    torch.library.register_vmap(backward_name, rule(operators.backward, True), lib=LIBRARY)


def _returns(count: int) -> str:
    return "Tensor" if count == 1 else f"({', '.join(['Tensor'] * count)})"


def _names(operation: Operation[Any]) -> tuple[str, ...]:
    """Names of the tensors, then of what is kept for the backward pass, then of the gradients."""
    return (
        *(operation.public_names.get(name, name) for name in operation.names),
        *(f"auxiliary_{i}" for i in range(operation.num_auxiliary)),
        *(f"grad_{i}" for i in range(operation.num_outputs)),
    )


def _check_tensors(operation: Operation[Any], given: Sequence[Any]) -> None:
    """Layouts, dtypes and devices: what is known of tensors without values, too."""
    names = _names(operation)[: len(given)]
    for declared, name, tensor in zip(operation.tensors, names, given, strict=False):
        if tensor is None and "?" not in declared:
            raise TypeError(f"{operation.name}: {name} must be a torch.Tensor, got NoneType")
    check_declared(operation.name, names, given, operation.dtypes_with(given[0])[: len(given)])


def _check_call(
    operation: Operation[Any], tensors: Sequence[Any], constants: Sequence[Any], others: Sequence[Any] = ()
) -> None:
    """Memory, constants and shapes; those of the operands alone are checked where they are laid out for the kernel.

    A backward pass has ``others``: what was kept for it, and the gradients.
    """
    given = (*tensors, *others)
    names = _names(operation)[: len(given)]
    check_memory(operation.name, names, given)
    for declared, constant in zip(operation.constants, constants, strict=True):
        kind, name = declared.split()
        if kind == "SymInt":
            check_size(operation.name, name, constant)
        elif kind == "SymInt[]":
            check_shape(operation.name, name, constant)
    operation.check(*tensors, *constants)
    if others:
        hashable = tuple(tuple(each) if isinstance(each, list) else each for each in constants)
        shapes = operation.output_shapes(layout_of(tensors), hashable)
        shapes = shapes[operation.num_outputs :] + shapes[: operation.num_outputs]
        for name, tensor, shape in zip(names[operation.count :], others, shapes, strict=True):
            if tensor is not None and tensor.shape != shape:
                raise ValueError(f"{operation.name}: {name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")


def _check_needs(operation: Operation[Any], tensors: Sequence[Any], needs: Sequence[bool]) -> None:
    if len(needs) != operation.count:
        raise ValueError(f"{operation.name}: needs has {len(needs)} elements, expected {operation.count}")
    for name, tensor, need in zip(_names(operation), tensors, needs, strict=False):
        if need and (tensor is None or not tensor.is_floating_point()):
            what = "None" if tensor is None else "an integer"
            raise ValueError(f"{operation.name}: needs asks for the gradient of {name}, which is {what}")


def _numbers(operation: Operation[Any], constants: Sequence[Tensor]) -> tuple[float, ...]:
    """The values of numbers that were given as tensors."""
    for declared, constant in zip(operation.constants, constants, strict=True):
        name = declared.split()[1]
        if constant.dtype != torch.float64 or constant.dim() != 0:
            raise TypeError(
                f"{operation.name}: {name} is a {constant.dtype} tensor of shape {tuple(constant.shape)}, expected a "
                "torch.float64 tensor without dimensions"
            )
    check_memory(operation.name, [declared.split()[1] for declared in operation.constants], constants)
    return tuple(constant.item() for constant in constants)
