"""One way to make a kernel a PyTorch operation: eager autograd, transforms, compilation, export.

Two routes lead to the same kernels. Plain CPU and CUDA tensors in eager mode take the native function itself, or a
ctx-style ``autograd.Function`` over it, the cheapest there is, where PyTorch records. Everything else takes operators
registered with ``torch.library``: ``torch.compile`` and ``torch.export`` as they are; ``torch.func``, tensor
subclasses, modes and meta tensors through a second pair of Functions; and a transform inside of ``torch.compile`` the
plain formula. Second derivatives are those of the plain formula, taken by ``torch.func.vjp``, but for operations that
have functions of their own for them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar, cast

import torch
from torch import Tensor

from fastvi.ops._backends import MODULES, Functions, functions_of
from fastvi.ops._batching import BatchRule
from fastvi.ops._checks import PLAIN_TYPES, check_operands, number_tensor
from fastvi.ops._functions import fast_function, gradient_function, transformable_function
from fastvi.ops._operators import Operators, define_operators, register_autograd
from fastvi.ops._outputs import as_tuple, only_or_tuple
from fastvi.ops._precision import SUPPORTED_DTYPES, SUPPORTED_NAMES, compute_dtype, in_compute_dtype
from fastvi.ops._private import compiled_transforms, functionalised, in_forward_mode, tracing_state, transforms_active

Tensors: TypeAlias = tuple[Tensor | None, ...]
Outputs: TypeAlias = Tensor | tuple[Tensor, ...]
Result = TypeVar("Result")

OPERATIONS: dict[str, Operation[Any]] = {}
"""Every operation that is public, by name."""

_vjp: Any = torch.func.vjp  # typed as if a third result, auxiliary ones, might come unasked


def _as_given(*arguments: Any) -> tuple[Any, ...]:
    return arguments


@dataclass(eq=False)
class Operation(Generic[Result]):
    """A differentiable operation: its native functions, and its definition in plain PyTorch.

    ``tensors`` and ``constants`` are the arguments' declarations as in a ``torch.library`` schema; all tensors have the
    dtype of the first, except a ``seed``, and ``factors``, which may have that of the arithmetic. Factors and those
    named in ``numbers`` may also be numbers. ``functions`` makes the native functions from a module's; without it they
    are those of the operation's name. ``normalise`` turns the public function's arguments, whose tensors are checked,
    into the operators'. The last ``num_auxiliary`` outputs are kept for the backward pass and have no gradient; they
    have the dtype of the arithmetic. ``check`` is called with all arguments on every route but that of ``attempt``,
    which checks them itself; it rejects values that belong to no single argument. ``batch`` brings mapped operands to
    shapes on which the same kernels do the whole batch; without it, ``vmap`` maps the plain formula. Under
    torch.compile a number that is none of the ``usual_numbers`` is an input of the program, whose change compiles
    nothing anew. ``second`` is the derivative of the backward pass, for plain tensors where PyTorch does not record it:
    of outer gradients, one for each operand; of the upstream gradients, operands and auxiliary tensors; of the
    constants; and of what is wanted, by upstream gradients and operands, it returns that, or NotImplemented where the
    plain formula is to give it. ``compiles_formula`` says of all arguments whether torch.compile makes a faster program
    of the formula than of the operator. ``public_names`` are what the public function's messages call arguments that
    have another name there. An operation that is not public has no function of its own: others call its operator. The
    tensors named in ``truths`` may hold truth values, which become 0 and 1 of the first other one's dtype on the way to
    the operator.
    """

    name: str
    tensors: tuple[str, ...]
    constants: tuple[str, ...]
    formula: Callable[..., Outputs]
    fake: Callable[..., Outputs]
    functions: Callable[[Any], Functions] | None = None
    normalise: Callable[..., tuple[Any, ...]] = _as_given
    num_outputs: int = 1
    num_auxiliary: int = 0
    factors: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    check: Callable[..., object] = lambda *arguments: None
    batch: BatchRule | None = None
    batch_constants: Callable[[tuple[Any, ...]], tuple[Any, ...]] = lambda constants: constants
    usual_numbers: tuple[float, ...] = ()
    second: Callable[..., Any] | None = None
    compiles_formula: Callable[..., bool] = lambda *arguments: False
    public_names: dict[str, str] = field(default_factory=dict)
    is_public: bool = True
    truths: tuple[str, ...] = ()
    fast: type[torch.autograd.Function] = field(init=False)
    transformable: type[torch.autograd.Function] = field(init=False)

    def __post_init__(self) -> None:
        self.count = len(self.tensors)
        self.names = tuple(declared.split()[1] for declared in self.tensors)
        operands = [declared.split() for declared in self.tensors if not declared.endswith(" seed")]
        self._operands = tuple(self.public_names.get(name, name) for _, name in operands)
        self._truths = tuple(i for i, (_, name) in enumerate(operands) if name in self.truths)
        self._optional = tuple(self.public_names.get(name, name) for kind, name in operands if kind == "Tensor?")
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
        self._by_module: dict[int, Functions] = {}
        self.bind()
        if self.is_public:
            OPERATIONS[self.name] = self

    def bind(self) -> None:
        """Take the functions of the module that is in use for the CPU."""
        self.attempt = self.functions_in(MODULES.cpu).attempt

    def functions_in(self, module: Any) -> Functions:
        """The operation's functions in a native module."""
        found = self._by_module.get(id(module))
        if found is None:
            found = functions_of(module, self.name) if self.functions is None else self.functions(module)
            self._by_module[id(module)] = found
        return found

    def functions_for(self, tensor: Tensor) -> Functions:
        """The operation's functions for the device that a tensor is on."""
        return self.functions_in(MODULES.of(tensor))

    def __call__(self, *arguments: Any) -> Result:
        """Run on the arguments of the public function, by the route that they need."""
        if not torch.compiler.is_compiling():
            try:
                result = self.attempt(*arguments)
            except TypeError:
                given = self._without_truths(arguments)
                if given is arguments:
                    raise
                result, arguments = self.attempt(*given), given
            if result is None:
                given = self._without_truths(arguments) if self.truths else arguments
                return self._recorded(self.normalise(*given))
            if result is not NotImplemented:
                return cast("Result", result)
        return self._by_any_route(arguments)

    def _recorded(self, arguments: tuple[Any, ...]) -> Result:
        return self._visible(self.fast.apply(*arguments))

    def _by_any_route(self, arguments: tuple[Any, ...]) -> Result:
        count = len(self._operands)
        if self.truths:
            arguments = self._without_truths(arguments)
        may_be_numbers = self.factors + self.numbers
        operands = check_operands(self.name, self._operands, arguments[:count], self._optional, may_be_numbers)
        arguments = self.normalise(*operands, *arguments[count:])
        if torch.compiler.is_compiling():
            self.check(*arguments)
            # Under transforms PyTorch refuses Functions over custom operators.
            if compiled_transforms() > 0 or self.compiles_formula(*arguments):
                return self._formula(*arguments)
            return self._visible(self._compiled(*arguments))
        if in_forward_mode():  # a Function's rule for tangents is silent about those of an outer level
            self.check(*arguments)
            return self._formula(*arguments)
        first = arguments[0]
        if type(first) in PLAIN_TYPES and (first.is_cpu or first.is_cuda):
            route = MODULES.of(first).route(*arguments[: self.count])
            if route is not NotImplemented:
                self.check(*arguments)
                if route is None:
                    return self._recorded(arguments)
                return self._visible(self.functions_for(first).forward(*arguments))
        return self._watched(*arguments)

    def _without_truths(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments with truth values as numbers: they have no gradient."""
        places = [i for i in self._truths if getattr(arguments[i], "dtype", None) is torch.bool]
        if not places:
            return arguments
        others = (getattr(each, "dtype", None) for i, each in enumerate(arguments) if i not in self._truths)
        dtype = next((each for each in others if each in SUPPORTED_DTYPES), None)
        if dtype is None:  # what is wrong is told by the check of the operands
            return arguments
        return tuple(each.to(dtype) if i in places else each for i, each in enumerate(arguments))

    def _formula(self, *arguments: Any) -> Result:
        return cast("Result", self.formula(*arguments))

    def _compiled(self, *arguments: Any) -> Any:
        """The operator that torch.compile puts into its program."""
        tensors, constants = arguments[: self.count], arguments[self.count :]
        if self.tensor_operator is None or all(number in self.usual_numbers for number in constants):
            return self.operator(*arguments)
        cpu = torch.device("cpu")  # where the kernels' arguments are read
        numbers = [number_tensor(number, torch.float64, cpu) for number in constants]
        return self.tensor_operator(*tensors, *numbers)

    def _watched(self, *arguments: Any) -> Result:
        """Under transforms, modes and torch.jit.trace, and for tensors whose memory no kernel may read as it is."""
        tracing = tracing_state() is not None
        if tracing and not transforms_active():  # the graph has the operator, which checks each of its calls
            return self._visible(self.operator(*arguments))
        if tracing:  # vmap in what is traced, say: its sizes are no numbers that could be checked
            return self._formula(*arguments)
        self.check(*arguments)
        if functionalised():
            return self._formula(*arguments)
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

    def _output_shapes(self, layout: tuple[Any, ...], constants: tuple[Any, ...]) -> tuple[torch.Size, ...]:
        """Shapes of the outputs, auxiliary ones last, for operands of such a layout, and constants."""
        metas = [None if each is None else torch.empty(each[0], dtype=each[1], device="meta") for each in layout]
        return tuple(output.shape for output in as_tuple(self.fake(*metas, *constants)))

    def _visible(self, outputs: Any) -> Result:
        if self.num_auxiliary:
            outputs = outputs[0] if self.num_outputs == 1 else outputs[: self.num_outputs]
        return cast("Result", outputs)

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
        return self.plain_backward_of_all(grads, tensors, constants, needs)

    def plain_backward_of_all(self, grads: Tensors, tensors: Tensors, constants: Any, needs: Sequence[bool]) -> Any:
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
