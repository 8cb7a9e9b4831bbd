"""Tensors that no kernel may read as they are: zeros without memory, batched, traced, nested, freed, others."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import fastvi
from support.operations import ONE_EACH, OPERATIONS, SEED, TYPICAL, Sample, as_tuple, gradients, public_name
from support.place import place

# PyTorch calls its own tracer deprecated, which works.
pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.\w+` is deprecated")

ROUNDING = {"rtol": 1e-10, "atol": 1e-10}
"""Another order of the same float64 operations, twice differentiated."""

assert {sample.operation for sample in ONE_EACH} == set(OPERATIONS)

each_operation = pytest.mark.parametrize("sample", TYPICAL, ids=str)


def zeros_without_memory(like: Tensor) -> Tensor:
    """A ZeroTensor, as PyTorch's own gradients of ``sgn`` are."""
    tensor = torch._efficientzerotensor(like.shape, dtype=like.dtype, device=like.device)
    assert tensor._is_zerotensor()
    return tensor


def assert_all_close(results: Any, expected: Any) -> None:
    for result, formula in zip(as_tuple(results), as_tuple(expected), strict=True):
        torch.testing.assert_close(result, formula, **ROUNDING, equal_nan=True)


def test_hessian_of_the_absolute_log_mean_exp():
    """The derivative of the gradient of ``abs`` is a ZeroTensor."""
    x = place.linspace(-2, 3, 12, dtype=torch.float64).reshape(4, 3)

    def formula(t: Tensor) -> Tensor:
        return (torch.logsumexp(t, 0) - math.log(4)).abs().sum()

    result = torch.autograd.functional.hessian(lambda t: fastvi.log_mean_exp(t, 0).abs().sum(), x)
    torch.testing.assert_close(result, torch.autograd.functional.hessian(formula, x), **ROUNDING)


# Functions whose derivative, or its derivative, is a ZeroTensor.
KINKED: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": lambda output: output.abs().sum(),
    "sign": lambda output: (torch.sign(output) * output).sum(),
    "sign alone": lambda output: torch.sign(output).sum(),
    "l1_loss": lambda output: torch.nn.functional.l1_loss(output, torch.full_like(output, 0.1)),
}


@pytest.mark.parametrize("kink", KINKED)
@each_operation
def test_first_and_second_derivatives_below_a_kink(sample: Sample, kink: str):
    def number(function: Callable[..., Any]) -> Callable[..., Tensor]:
        return lambda *tensors: sum(KINKED[kink](output) for output in as_tuple(function(*tensors)))

    found = []
    for function in (number(sample.call), number(sample.twin)):
        tensors = sample.tensors(requires_grad=True)
        first = torch.autograd.grad(function(*tensors), tensors, create_graph=True, materialize_grads=True)
        slope = sum((each * torch.cos(each.detach())).sum() for each in first)
        assert isinstance(slope, Tensor)
        second = (
            torch.autograd.grad(slope, tensors, materialize_grads=True)
            if slope.requires_grad
            else [torch.zeros_like(tensor) for tensor in tensors]
        )
        found.append((*first, *second))
    assert_all_close(*found)


@pytest.mark.parametrize("sample", ONE_EACH, ids=str)
def test_hessian_of_the_whole_below_a_kink(sample: Sample):
    tensors = tuple(sample.tensors())

    def hessian(function: Callable[..., Any]) -> Any:
        def number(*values: Tensor) -> Tensor:
            return sum(output.abs().sum() for output in as_tuple(function(*values)))  # type: ignore[return-value]

        return torch.autograd.functional.hessian(number, tensors)

    for row, expected in zip(hessian(sample.call), hessian(sample.twin), strict=True):
        assert_all_close(row, expected)


@each_operation
def test_zeros_without_memory_as_operands(sample: Sample):
    """Alone and among others that have a gradient, on the way that the package takes and through the raw operator."""
    for i in range(len(sample.names)):
        memory = sample.tensors()
        memory[i] = torch.zeros_like(memory[i])
        none = list(memory)
        none[i] = zeros_without_memory(memory[i])
        assert_all_close(sample.call(*none), sample.call(*memory))
        operator = getattr(torch.ops.fastvi, sample.operation)
        assert_all_close(operator(*sample.operator_arguments(none)), operator(*sample.operator_arguments(memory)))
        others = [tensor.clone().requires_grad_() for tensor in memory]
        others[i] = memory[i]
        with_none = list(others)
        with_none[i] = none[i]
        if len(others) > 1:
            assert_all_close(gradients(sample.call, with_none), gradients(sample.call, others))


@each_operation
def test_zeros_without_memory_as_gradients(sample: Sample):
    """Handed to autograd from outside, once for each output, to record a graph of the gradient and not to."""
    for create_graph in (False, True):
        tensors = sample.tensors(requires_grad=True)
        outputs = as_tuple(sample.call(*tensors))
        for i in range(len(outputs)):
            grads = [zeros_without_memory(o) if i == j else torch.ones_like(o) for j, o in enumerate(outputs)]
            zeros = [torch.zeros_like(o) if i == j else torch.ones_like(o) for j, o in enumerate(outputs)]
            found, expected = (
                torch.autograd.grad(
                    outputs, tensors, each, retain_graph=True, create_graph=create_graph, materialize_grads=True
                )
                for each in (grads, zeros)
            )
            assert_all_close(found, expected)


def test_a_seed_without_memory_is_seed_zero():
    seed = zeros_without_memory(place.ones((), dtype=torch.int64))
    mean = place.ones(3, 2, dtype=torch.float64)
    assert torch.equal(fastvi.rsample_normal(mean, mean, 4, seed=seed), fastvi.rsample_normal(mean, mean, 4, seed=0))
    for result, expected in zip(
        fastvi.rsample_normal_with_log_ratio(mean, mean, 4, seed=seed),
        fastvi.rsample_normal_with_log_ratio(mean, mean, 4, seed=0),
        strict=True,
    ):
        assert torch.equal(result, expected)
    assert torch.equal(
        fastvi.standard_normal(5, seed, device=place.device), fastvi.standard_normal(5, 0, device=place.device)
    )


def test_a_running_mean_of_zeros_without_memory():
    running = fastvi.LogMeanExp().update(zeros_without_memory(place.ones(4, 3)))
    assert running.value.tolist() == [0.0, 0.0, 0.0]
    assert running.ess.tolist() == [4.0, 4.0, 4.0]


def test_a_distribution_of_zeros_without_memory():
    none, zeros = zeros_without_memory(place.ones(3, 2)), place.zeros(3, 2)
    distributions = [fastvi.distributions.DiagNormal(each, each) for each in (none, zeros)]
    found = []
    for each in distributions:
        torch.manual_seed(0)
        found.append((each.rsample((4,)), each.log_prob(none), each.entropy()))
    assert_all_close(*found)


@each_operation
def test_batched_gradients(sample: Sample):
    """``is_grads_batched`` and ``vectorize`` hand tensors of PyTorch's older vmap to the backward pass."""
    found = []
    for function in (sample.call, sample.twin):
        tensors = sample.tensors(requires_grad=True)
        outputs = as_tuple(function(*tensors))
        grads = tuple(
            torch.cos(place.arange(3 * output.numel(), dtype=output.dtype)).reshape(3, *output.shape)
            for output in outputs
        )
        found.append(
            torch.autograd.grad(outputs, tensors, grads, is_grads_batched=True, retain_graph=True, allow_unused=True)
        )
    for result, expected in zip(*found, strict=True):
        if result is not None and expected is not None:
            torch.testing.assert_close(result, expected, **ROUNDING)
        else:
            assert result is expected or not torch.count_nonzero(result if expected is None else expected)


@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
@pytest.mark.parametrize("sample", ONE_EACH, ids=str)
def test_vectorised_jacobians_and_hessians(sample: Sample, strategy: str):
    tensors = tuple(sample.tensors())
    functional = torch.autograd.functional
    with warnings.catch_warnings():
        # PyTorch's: logsigmoid in a formula, batched in forward mode, resizes a buffer of its own.
        warnings.filterwarnings("ignore", "An output with one or more elements was resized")
        warnings.filterwarnings("ignore", "There is a performance drop")  # PyTorch's loops over what it cannot batch
        results, expected = (
            functional.jacobian(function, tensors, vectorize=True, strategy=strategy)
            for function in (sample.call, sample.twin)
        )
    assert_all_close(tuple(torch.utils._pytree.tree_leaves(results)), tuple(torch.utils._pytree.tree_leaves(expected)))


TRACED = [pytest.param(sample, id=str(sample)) for sample in TYPICAL]


@pytest.mark.parametrize("sample", TRACED)
def test_traced_graph_computes(sample: Sample):
    """Its values are those of new inputs, with their gradients, after it went through a file, too."""
    for requires_grad in (False, True):
        traced = torch.jit.trace(sample.call, tuple(sample.tensors(requires_grad=requires_grad)))
        file = io.BytesIO()
        torch.jit.save(traced, file)
        file.seek(0)
        for module in (traced, torch.jit.load(file)):
            tensors = sample.tensors(seed=1, requires_grad=True)
            assert_all_close(module(*tensors), sample.call(*tensors))
            assert_all_close(gradients(module, tensors), gradients(sample.twin, tensors))


def test_traced_graph_takes_other_sizes():
    """Nothing that depends on sizes is recorded as a number."""
    small, large = place.ones(3, 5, dtype=torch.float64), place.ones(7, 4, dtype=torch.float64).cumsum(0)
    for function in (
        lambda x: fastvi.log_mean_exp(x, 0),
        lambda x: fastvi.importance_weights(x, -1),
        lambda x: fastvi.kl_normal(x, -x, free_bits=0.1),
        lambda x: fastvi.kinetic_energy(x, 0.5),
        lambda x: fastvi.rsample_normal(x, -x, (3, 2), seed=SEED),
        lambda x: fastvi.rsample_normal_with_log_ratio(x, -x, 6, seed=x.shape[0])[1],
        lambda x: fastvi.distributions.DiagNormal(x, -x, validate_args=False).log_prob(x),
    ):
        torch.testing.assert_close(torch.jit.trace(function, small)(large), function(large), **ROUNDING)


def test_a_traced_size_is_no_integer():
    """The tracer would record its number, silently, or fail in itself."""
    for draw in (
        lambda x: fastvi.rsample_normal(x, x, (x.shape[0], 2)),
        lambda x: fastvi.rsample_normal(x, x, x.shape[0]),
        lambda x: fastvi.rsample_normal(x, x, row_offset=x.shape[0]),
        lambda x: fastvi.rsample_normal_with_log_ratio(x, x, x.shape[0])[0],
        lambda x: fastvi.standard_normal((x.shape[0], 2), device=place.device),
    ):
        with pytest.raises(TypeError, match=r"must be an integer.*, got a size that torch\.jit\.trace follows"):
            torch.jit.trace(draw, place.ones(3, 2))


def test_traced_draws_follow_the_generator():
    mean = place.zeros(3, 2)
    traced = torch.jit.trace(lambda t: fastvi.rsample_normal(t, t, 4), mean, check_trace=False)
    torch.manual_seed(1)
    first, second = traced(mean), traced(mean)
    torch.manual_seed(1)
    assert torch.equal(traced(mean), first)
    assert not torch.equal(first, second)


def test_traced_graph_checks_its_inputs():
    traced = torch.jit.trace(lambda t: fastvi.log_mean_exp(t, 0), place.ones(3, 2))
    with pytest.raises(
        RuntimeError, match=r"log_mean_exp: x has shape \(0, 2\), expected elements along dimension 0"
    ):  # torch.jit's own words around ours
        traced(place.ones(0, 2))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_vmap_within_a_trace():
    """PyTorch's own tracer refuses vmap of what asks for sizes; what it takes is right."""
    x, other = place.ones(4, 3, dtype=torch.float64), place.linspace(0, 1, 12, dtype=torch.float64).reshape(4, 3)
    function = torch.func.vmap(lambda t: fastvi.kl_normal(t, t))
    torch.testing.assert_close(torch.jit.trace(function, x)(other), function(other), **ROUNDING)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_gradient_within_a_trace_is_refused():
    x = place.ones(4, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"log_mean_exp: torch\.jit\.trace records no backward pass"):
        torch.jit.trace(lambda t: torch.autograd.grad(fastvi.log_mean_exp(t, 0).sum(), t), x)


@pytest.mark.parametrize("sample", ONE_EACH, ids=str)
def test_functionalize(sample: Sample):
    tensors = sample.tensors()
    assert_all_close(torch.func.functionalize(sample.call)(*tensors), sample.call(*tensors))
    wanted = tuple(range(len(tensors)))

    def slopes(function: Callable[..., Any]) -> Callable[..., Any]:
        def number(*values: Tensor) -> Tensor:
            return sum(torch.cos(output).sum() for output in as_tuple(function(*values)))  # type: ignore[return-value]

        return torch.func.grad(number, wanted)

    expected = slopes(sample.twin)(*tensors)
    assert_all_close(torch.func.functionalize(slopes(sample.call))(*tensors), expected)
    assert_all_close(slopes(torch.func.functionalize(sample.call))(*tensors), expected)
    graph = make_fx(torch.func.functionalize(sample.call))(*tensors)
    others = sample.tensors(seed=1)
    assert_all_close(graph(*others), sample.twin(*others))


@pytest.mark.parametrize("sample", ONE_EACH, ids=str)
def test_symbolic_trace_is_refused_in_a_sentence(sample: Sample):
    proxies = torch.fx.symbolic_trace(torch.nn.Identity()).graph.nodes
    proxy = torch.fx.Proxy(next(iter(proxies)), torch.fx.proxy.GraphAppendingTracer(torch.fx.Graph()))
    with pytest.raises(TypeError, match=rf"{sample.operation}: {sample.names[0]} must be a torch.Tensor, got a Proxy"):
        sample.call(proxy, *sample.tensors()[1:])


def freed(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(0)
    return tensor


def freed_behind_its_start(tensor: Tensor) -> Tensor:
    """A view whose address is its distance from the start of a storage that is nowhere."""
    return freed(torch.cat([tensor, tensor])[tensor.shape[0] :])


UNREADABLE: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "freed": (freed, "has no memory: its storage was freed"),
    "freed behind its start": (freed_behind_its_start, "has no memory: its storage was freed"),
    "nested": (lambda tensor: torch.nested.nested_tensor([tensor, tensor]), "is a nested tensor"),
    "jagged": (
        lambda tensor: torch.nested.nested_tensor([tensor, tensor], layout=torch.jagged),
        "has layout torch.jagged, expected torch.strided",
    ),
    "sparse": (lambda tensor: tensor.to_sparse(), "has layout torch.sparse_coo, expected torch.strided"),
    "oneDNN": (
        lambda tensor: tensor.float().cpu().to_mkldnn(),
        "has layout torch._mkldnn, expected torch.strided",
    ),
    "uninitialised": (
        lambda tensor: torch.nn.UninitializedParameter(dtype=tensor.dtype, device=tensor.device),
        "is a parameter of a lazy module that is not initialised",
    ),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("sample", ONE_EACH, ids=str)
def test_what_cannot_be_read_is_refused_in_a_sentence(sample: Sample, kind: str):
    make, message = UNREADABLE[kind]
    for i, name in enumerate(sample.names):
        tensors = sample.tensors(torch.float32)
        tensors[i] = make(tensors[i])
        with pytest.raises(ValueError, match=rf"{sample.operation}: {re.escape(public_name(name))} {message}"):
            sample.call(*tensors)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_optional_operand_that_cannot_be_read(kind: str):
    make, message = UNREADABLE[kind]
    p = place.ones(3, 2)
    for call in (
        lambda mass: fastvi.kinetic_energy(p, mass),
        lambda mass: fastvi.leapfrog_step(p, p, p, 0.1, mass),
    ):
        with pytest.raises(ValueError, match=rf"(kinetic_energy|leapfrog_step): inverse_mass {message}"):
            call(make(place.ones(2)))


def test_a_freed_seed_is_refused():
    mean, seed = place.ones(3, 2), freed(place.ones((), dtype=torch.int64))
    for call in (
        lambda: fastvi.rsample_normal(mean, mean, seed=seed),
        lambda: fastvi.rsample_normal_with_log_ratio(mean, mean, 2, seed=seed),
        lambda: fastvi.standard_normal(2, seed, device=place.device),
    ):
        with pytest.raises(ValueError, match="seed has no memory: its storage was freed"):
            call()


@each_operation
def test_memory_freed_between_the_passes(sample: Sample):
    """As FSDP frees that of parameters."""
    tensors = sample.tensors(requires_grad=True)
    outputs = as_tuple(sample.call(*tensors))
    number = sum(output.sum() for output in outputs)
    for tensor in tensors:
        tensor.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=rf"{sample.operation}: \w+ has no memory: its storage was freed"):
        torch.autograd.grad(number, tensors, allow_unused=True)  # type: ignore[arg-type]


@each_operation
def test_what_hooks_make_of_the_saved_tensors(sample: Sample):
    """Zeros without memory are zeros in the backward pass; another dtype or shape is refused before it is read."""

    def found(unpack: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        tensors = sample.tensors(requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.detach(), unpack):
            return gradients(sample.call, tensors)

    assert_all_close(found(zeros_without_memory), found(torch.zeros_like))
    with pytest.raises((TypeError, ValueError), match=f"{sample.operation}: "):
        found(lambda tensor: tensor if tensor.dim() == 0 else tensor.float())


def test_a_hook_that_makes_another_shape_of_a_saved_tensor():
    """One that fits has a gradient of that shape, which PyTorch refuses; one that does not is refused before."""

    def slopes(unpack: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        x = place.linspace(-1, 1, 12).reshape(4, 3).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.detach(), unpack):
            value = fastvi.log_mean_exp(x)
        return torch.autograd.grad(value.sum(), x)

    with pytest.raises(RuntimeError, match=r"invalid gradient at index 0 - got \[1, 3\] .* compatible with \[4, 3\]"):
        slopes(lambda tensor: tensor[:1])
    with pytest.raises(ValueError, match=r"log_mean_exp: gradient has shape \(3,\), expected \(2,\)"):
        slopes(lambda tensor: tensor[:, :2])


@each_operation
def test_a_parameter_that_changes_its_dtype_between_the_passes(sample: Sample):
    """As ``module.double()`` does: the saved tensor is the parameter itself."""
    tensors = sample.tensors(torch.float32, requires_grad=True)
    number = sum(output.sum() for output in as_tuple(sample.call(*tensors)))
    if len(tensors) == 1:
        return  # alone it agrees with itself
    tensors[-1].data = tensors[-1].data.double()
    with pytest.raises((TypeError, RuntimeError), match=r"dtype|type"):
        torch.autograd.grad(number, tensors, allow_unused=True)  # type: ignore[arg-type]


@each_operation
def test_hooks_that_change_the_gradient_from_above(sample: Sample):
    """PyTorch refuses another dtype, layout or shape itself; zeros without memory pass."""

    def found(change: Callable[[Tensor], Tensor]) -> tuple[Tensor | None, ...]:
        tensors = sample.tensors(requires_grad=True)
        outputs = as_tuple(sample.call(*tensors))
        node = outputs[0].grad_fn
        assert node is not None
        node.register_prehook(lambda grads: tuple(None if grad is None else change(grad) for grad in grads))
        number = sum(output.sum() for output in outputs)
        return torch.autograd.grad(number, tensors, materialize_grads=True)  # type: ignore[arg-type]

    assert_all_close(found(zeros_without_memory), found(torch.zeros_like))
    for change in (torch.Tensor.float, torch.Tensor.to_sparse, lambda grad: grad.new_zeros(2, 2, 2, 2)):
        with pytest.raises(
            (TypeError, ValueError, RuntimeError), match=rf"changed the (type|size)|{sample.operation}: "
        ):
            found(change)


def test_inference_tensors():
    with torch.inference_mode():
        x = place.ones(4, 3)
    assert fastvi.log_mean_exp(x, 0).tolist() == [1.0, 1.0, 1.0]
    mean = place.zeros(4, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        fastvi.normal_log_prob(x, mean, mean)


def test_lazily_negated_and_conjugated_operands():
    complex_numbers = torch.complex(place.zeros(3, 5), place.ones(3, 5)).conj()
    negated = complex_numbers.imag  # -1, which only a bit says
    assert negated.is_neg()
    torch.testing.assert_close(fastvi.normal_entropy(negated), fastvi.normal_entropy(negated.clone()))
    with pytest.raises(TypeError, match=r"normal_entropy: logvar has dtype torch\.complex64"):
        fastvi.normal_entropy(complex_numbers)
