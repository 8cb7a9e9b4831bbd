"""Makes the case of one operation from its formula, and compares what the providers return before they are timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from fastvi.benchmarks.harness import FORWARD, FORWARD_BACKWARD, Case, Workload
from fastvi.benchmarks.jax_runtime import operation_call
from fastvi.benchmarks.results import COMPILE, EAGER, FASTVI, JAX
from fastvi.benchmarks.timers import Call

Operation = Callable[..., Tensor | tuple[Tensor, ...]]


def operation_case(
    family: str,
    name: str,
    make_inputs: Callable[[], Sequence[Tensor]],
    formula: Operation,
    fastvi: Operation,
    differentiable: Sequence[int] = (),
    read_again: Sequence[int] = (),
    draws: bool = False,
    jax: str | None = None,
) -> Case:
    """Make the case of one operation: the plain formula eager and compiled, and fastvi's.

    Parameters
    ----------
    make_inputs
        Returns the positional arguments of ``formula`` and ``fastvi``, float32 tensors.
    differentiable
        Positions of the inputs that get gradients in the forward+backward mode; none leaves that mode out.
    read_again
        Positions of the inputs that the backward pass cannot do without.
    draws
        The outputs are random: the providers are then compared by moments.
    jax
        Name of the formula in `fastvi.benchmarks.jax_runtime`; None: JAX is not timed.
    """

    def prepare(mode: str, with_compile: bool) -> Workload:
        inputs = list(make_inputs())
        outputs = _as_tuple(formula(*inputs))
        upstream: list[Tensor] = []
        if mode == FORWARD_BACKWARD:
            upstream = [torch.randn_like(output) for output in outputs]
            for position in differentiable:
                inputs[position].requires_grad_()
        leaves = [tensor for tensor in inputs if tensor.requires_grad]

        functions = {EAGER: formula}
        if with_compile:
            functions[COMPILE] = torch.compile(formula, dynamic=False)
        functions[FASTVI] = fastvi

        def call(function: Operation) -> Call:
            if not leaves:
                return partial(function, *inputs)
            return lambda: torch.autograd.grad(function(*inputs), leaves, upstream)

        def evaluate(function: Operation, dtype: torch.dtype) -> list[Tensor]:
            arguments = [tensor.detach().to(dtype).requires_grad_(tensor.requires_grad) for tensor in inputs]
            values = _as_tuple(function(*arguments))
            if not leaves:
                return list(values)
            wanted = [tensor for tensor in arguments if tensor.requires_grad]
            incoming = [gradient.to(dtype) for gradient in upstream]
            return [value.detach() for value in values] + list(torch.autograd.grad(values, wanted, incoming))

        def check() -> None:
            compare = assert_same_moments if draws else assert_same_values
            expected = evaluate(formula, torch.float64)
            for provider, function in functions.items():
                for value, target in zip(evaluate(function, torch.float32), expected, strict=True):
                    compare(f"{name}, {mode}, {provider}", value, target)

        def make_jax() -> Call:
            run, values = operation_call(str(jax), inputs, differentiable if leaves else (), upstream)
            for value, target in zip(values(), evaluate(formula, torch.float64), strict=True):
                assert_same_values(f"{name}, {mode}, {JAX}", value, target)
            return run

        moved = _nbytes(inputs) + _nbytes(outputs)
        if leaves:
            moved += _nbytes(inputs[position] for position in read_again) + _nbytes(upstream) + _nbytes(leaves)
        calls = {provider: call(function) for provider, function in functions.items()}
        return Workload(calls, check, moved, None if jax is None else make_jax)

    return Case(family, name, (FORWARD, FORWARD_BACKWARD) if differentiable else (FORWARD,), prepare)


def assert_same_values(label: str, value: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Compare with the float64 formula: 1e-5 of the largest value, room for a float32 sum of several thousand terms."""
    scale = expected.abs().max().item()
    torch.testing.assert_close(
        value.double(),
        expected.double(),
        rtol=tolerance,
        atol=tolerance * scale,
        msg=lambda text: f"{label}: {text}",
    )


def assert_same_moments(label: str, value: Tensor, expected: Tensor) -> None:
    """Compare two random tensors by shape, mean and mean square, to six standard errors of the difference."""
    if value.shape != expected.shape:
        raise AssertionError(f"{label}: shape {tuple(value.shape)}, expected {tuple(expected.shape)}")
    for power in (1, 2):
        first, second = value.double() ** power, expected.double() ** power
        error = math.sqrt((first.var().item() + second.var().item()) / first.numel())
        difference = abs(first.mean().item() - second.mean().item())
        if not difference <= 6.0 * error:
            raise AssertionError(f"{label}: moment {power} is off by {difference:.3g}, standard error {error:.3g}")


def _as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
