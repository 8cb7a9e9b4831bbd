"""One way to make a kernel a PyTorch operation: eager autograd, transforms, compilation, export.

Two routes lead to the same kernels. Plain CPU and CUDA tensors in eager mode take a ctx-style ``autograd.Function``,
the cheapest there is. Everything else takes operators registered with ``torch.library``: ``torch.compile`` and
``torch.export`` as they are; ``torch.func``, tensor subclasses, modes and meta tensors through a second pair of
Functions; and a transform inside of ``torch.compile`` the plain formula. Second derivatives are those of the plain
formula, taken by ``torch.func.vjp``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fastvi.ops._checks import is_plain, number_tensor
from fastvi.ops._functions import fast_function, gradient_function, transformable_function
from fastvi.ops._operators import (
    Operators,
    adopt_thread_count,
    as_tuple,
    define_operators,
    layout_of,
    only_or_tuple,
    register_autograd,
)
from fastvi.ops._precision import SUPPORTED_DTYPES, SUPPORTED_NAMES, compute_dtype, in_compute_dtype
from fastvi.ops._private import compiled_transforms, functionalised, in_forward_mode, tracing_state, transforms_active

Tensors: TypeAlias = tuple[Tensor | None, ...]
Outputs: TypeAlias = Tensor | tuple[Tensor, ...]
BatchRule: TypeAlias = Callable[[int, Sequence[Any], Sequence[Any]], list[Any]]

_NO_DTYPES: tuple[tuple[torch.dtype, ...], ...] = ((),)

_vjp: Any = torch.func.vjp  # typed as if a third result, auxiliary ones, might come unasked


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

    ``tensors`` and ``constants`` are the arguments' declarations as in a ``torch.library`` schema; all tensors have the
    dtype of the first, except a ``seed``, and ``factors``, which may have that of the arithmetic. Kernels see plain
    tensors. ``backward(grads, tensors, constants, needs, auxiliary)`` returns one gradient, or None, a tensor.
    The last ``num_auxiliary`` outputs are kept for the backward pass and have no gradient; they have the dtype of the
    arithmetic. ``check`` is called with all arguments on every route; it rejects values that belong to no single
    argument. ``batch`` brings mapped operands to shapes on which the same kernels do the whole batch; without it,
    ``vmap`` maps the plain formula. Under torch.compile a number that is none of the ``usual_numbers`` is an input of
    the program, whose change compiles nothing anew.
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
    factors: tuple[str, ...] = ()
    check: Callable[..., object] = lambda *arguments: None
    batch: BatchRule | None = None
    batch_constants: Callable[[tuple[Any, ...]], tuple[Any, ...]] = lambda constants: constants
    usual_numbers: tuple[float, ...] = ()
    fast: type[torch.autograd.Function] = field(init=False)
    transformable: type[torch.autograd.Function] = field(init=False)

    def __post_init__(self) -> None:
        self.count = len(self.tensors)
        self.names = tuple(declared.split()[1] for declared in self.tensors)
        self.formula = in_compute_dtype(self.formula)
        self.output_shapes = functools.lru_cache(maxsize=1024)(self._output_shapes)
        self._dtypes = {dtype: self._dtypes_among(dtype) for dtype in SUPPORTED_DTYPES}
        self.operator, self.backward_operator = operators = define_operators(self)
        self.gradient = gradient_function(self)
        self.transformable = transformable_function(self)
        self.fast = fast_function(self)
        register_autograd(self, operators)
        self.tensor_operator = None
        if any(declared.startswith("float ") for declared in self.constants):
            with_tensors: Operators = define_operators(self, "tensor")
            register_autograd(self, with_tensors)
            self.tensor_operator = with_tensors.forward

    def __call__(self, *arguments: Any) -> Any:
        """Run on checked arguments, by the route that they need."""
        tensors = arguments[: self.count]
        if torch.compiler.is_compiling():
            self.check(*arguments)
            if compiled_transforms() > 0:  # PyTorch refuses Functions over custom operators there
                return self.formula(*arguments)
            return self._visible(self._compiled(*arguments))
        if in_forward_mode():  # a Function's rule for tangents is silent about those of an outer level
            self.check(*arguments)
            return self.formula(*arguments)
        if not is_plain(tensors):
            return self._watched(*arguments)
        self.check(*arguments)
        adopt_thread_count()
        if torch.is_grad_enabled():
            for tensor in tensors:
                if tensor is not None and tensor.requires_grad:
                    return self._visible(self.fast.apply(*arguments))
        return self._visible(self.forward(*arguments, *(False,) * bool(self.num_auxiliary)))

    def _compiled(self, *arguments: Any) -> Any:
        """The operator that torch.compile puts into its program."""
        tensors, constants = arguments[: self.count], arguments[self.count :]
        if self.tensor_operator is None or all(number in self.usual_numbers for number in constants):
            return self.operator(*arguments)
        cpu = torch.device("cpu")  # where the kernels' arguments are read
        numbers = [number_tensor(number, torch.float64, cpu) for number in constants]
        return self.tensor_operator(*tensors, *numbers)

    def _watched(self, *arguments: Any) -> Any:
        """Under transforms, modes and torch.jit.trace, and for tensors whose memory no kernel may read as it is."""
        tracing = tracing_state() is not None
        if tracing and not transforms_active():  # the graph has the operator, which checks each of its calls
            return self._visible(self.operator(*arguments))
        if tracing:  # vmap in what is traced, say: its sizes are no numbers that could be checked
            return self.formula(*arguments)
        self.check(*arguments)
        if functionalised():
            return self.formula(*arguments)
        return self._visible(self.transformable.apply(*arguments))

    def dtypes_with(self, first: Tensor) -> tuple[tuple[torch.dtype, ...], ...]:
        """The dtypes that each tensor of a backward call may have: operands, auxiliary ones, gradients.

        Raises
        ------
        TypeError
            If the first operand has a dtype without kernels.
        """
        if first.dtype not in self._dtypes:
            raise TypeError(f"{self.name}: {self.names[0]} has dtype {first.dtype}, expected {SUPPORTED_NAMES}")
        return self._dtypes[first.dtype]

    def _dtypes_among(self, dtype: torch.dtype) -> tuple[tuple[torch.dtype, ...], ...]:
        own, wide = (dtype,), (compute_dtype(dtype),)
        of_tensors = [(torch.int64,) if n == "seed" else own + wide if n in self.factors else own for n in self.names]
        return (*of_tensors, *[wide] * self.num_auxiliary, *[own] * self.num_outputs)

    def fits(self, given: Sequence[Tensor | None], constants: tuple[Any, ...]) -> bool:
        """Whether plain tensors of a backward call may go to the kernels: what was saved, and then the gradients."""
        first: Any = given[0]
        on_cpu = first.is_cpu
        for tensor, expected in zip(given, self._dtypes.get(first.dtype, _NO_DTYPES), strict=False):
            if tensor is not None and (tensor.dtype not in expected or tensor.is_cpu is not on_cpu):
                return False
        if not on_cpu and any(tensor is not None and tensor.device != first.device for tensor in given):
            return False
        if self.num_auxiliary:
            shapes = self.output_shapes(layout_of(given[: self.count]), constants)[self.num_outputs :]
            auxiliary = given[self.count : self.count + self.num_auxiliary]
            return all(t is not None and t.shape == s for t, s in zip(auxiliary, shapes, strict=True))
        return True

    def _output_shapes(self, layout: tuple[Any, ...], constants: tuple[Any, ...]) -> tuple[torch.Size, ...]:
        """Shapes of the outputs, auxiliary ones last, for operands of such a layout, and constants."""
        metas = [None if each is None else torch.empty(each[0], dtype=each[1], device="meta") for each in layout]
        return tuple(output.shape for output in as_tuple(self.fake(*metas, *constants)))

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
            return as_tuple(self.formula(*complete, *constants))

        outputs, pull_back = _vjp(of_wanted, *(tensors[i] for i in wanted))
        cotangents = tuple(
            torch.zeros_like(output) if grad is None else grad for grad, output in zip(grads, outputs, strict=True)
        )
        return pull_back(cotangents)

    def split_backward(self, arguments: Sequence[Any]) -> tuple[Any, Any, Any, Any, Any]:
        a = self.num_outputs
        b = a + self.count
        c = b + self.num_auxiliary
        return arguments[:a], arguments[a:b], arguments[b:c], arguments[c:-1], arguments[-1]

    def transformable_backward(self, *arguments: Any) -> Any:
        """The backward operator under any transform; what nobody needs is an empty tensor."""
        if not in_forward_mode():
            return self.gradient.apply(*arguments)
        grads, tensors, _, constants, needs = self.split_backward(arguments)
        return self._plain_backward_of_all(grads, tensors, constants, needs)

    def _plain_backward_of_all(self, grads: Tensors, tensors: Tensors, constants: Any, needs: Sequence[bool]) -> Any:
        found = iter(self.plain_backward(grads, tensors, constants, needs))
        reference = next(tensor for tensor in tensors if tensor is not None)
        return only_or_tuple([next(found) if need else reference.new_empty(0) for need in needs])

    def backward_by(
        self,
        run: Callable[..., Any],
        ctx: Any,
        grads: Sequence[Tensor | None],
        saved: Sequence[Tensor | None],
        constants: Sequence[Any],
    ) -> Any:
        """Call ``run`` with the backward operator's arguments; None for whatever has no gradient."""
        grads = grads[: self.num_outputs]
        nothing = (None,) * (self.count + len(constants))
        if all(grad is None for grad in grads):
            return nothing
        if tracing_state() is not None:
            raise RuntimeError(
                f"{self.name}: torch.jit.trace records no backward pass; trace the forward pass, whose graph has one"
            )
        needs = list(ctx.needs_input_grad[: self.count])
        found = as_tuple(run(*grads, *saved, *constants, needs))
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

    def _map_formula(self, of_backward: bool, dims: Sequence[Any], arguments: Sequence[Any]) -> Any:
        """``vmap`` of the plain formula, or of its derivative, over the mapped arguments alone."""
        mapped = [i for i, dim in enumerate(dims[: len(arguments)]) if dim is not None and not isinstance(dim, list)]

        def of_mapped(*values: Tensor) -> Any:
            complete = list(arguments)
            for i, value in zip(mapped, values, strict=True):
                complete[i] = value
            if not of_backward:
                outputs = as_tuple(self.formula(*complete))
                unused = tuple(outputs[0].new_empty(0) for _ in range(self.num_auxiliary))
                return only_or_tuple([*outputs, *unused])
            grads, tensors, _, constants, needs = self.split_backward(complete)
            return self._plain_backward_of_all(grads, tensors, constants, needs)

        in_dims = tuple(dims[i] for i in mapped)
        outputs = as_tuple(
            torch.func.vmap(of_mapped, in_dims=in_dims, randomness="different")(*(arguments[i] for i in mapped))
        )
        # A Function may not return what it was given, as the gradient of something added.
        return only_or_tuple([o.clone() if any(o is given for given in arguments) else o for o in outputs])


def _own_shape(tensor: Tensor, dim: int | None) -> list[int]:
    return [size for axis, size in enumerate(tensor.shape) if axis != dim]
