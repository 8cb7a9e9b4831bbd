"""The registered operators, called past the functions: what does not fit is refused before its memory is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import fastvi
from support.operations import SEED, TYPICAL, Sample, backward_call
from support.place import place

FULLEST = {sample.operation: sample for sample in sorted(TYPICAL, key=lambda sample: len(sample.names))}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


class Call:
    """A good call of one operator: its arguments by name."""

    def __init__(self, operator: Any, arguments: Sequence[Any]) -> None:
        self.operator = operator
        self.arguments = list(arguments)
        self.names = [argument.name for argument in operator._schema.arguments]
        self.tensors = [i for i, argument in enumerate(self.arguments) if isinstance(argument, Tensor)]

    def __call__(self, changed: dict[int, Any] | None = None) -> Any:
        return self.operator(*[(changed or {}).get(i, argument) for i, argument in enumerate(self.arguments)])

    @property
    def operation(self) -> str:
        return str(self.operator._schema.name).removeprefix("fastvi::").removesuffix("_backward")


def with_tensors(call: Call) -> Call:
    """The overload that takes float64 tensors for numbers."""
    packet = getattr(torch.ops.fastvi, str(call.operator._schema.name).removeprefix("fastvi::"))
    arguments = [
        torch.tensor(argument, dtype=torch.float64) if type(argument) is float else argument
        for argument in call.arguments
    ]
    return Call(packet.tensor, arguments)


def good_calls() -> dict[str, Call]:
    seed = place.tensor(SEED)
    calls = [
        Call(torch.ops.fastvi.standard_normal.default, (seed, [5, 3], torch.float32)),
        Call(torch.ops.fastvi.normal_noise.default, (seed, [2, 5, 3], 7, torch.float64)),
    ]
    for sample in FULLEST.values():
        operator = getattr(torch.ops.fastvi, sample.operation)
        for call in (
            Call(operator.default, sample.operator_arguments(sample.tensors())),
            Call(*backward_call(sample)),
        ):
            calls.append(call)
            if len(operator.overloads()) > 1:
                calls.append(with_tensors(call))
    return {call.operator.name(): call for call in calls}


CALLS = good_calls()
each_operator = pytest.mark.parametrize("name", CALLS)


NOT_PUBLIC = {"fastvi::perceptron_bound", "fastvi::perceptron_bound_backward"}
"""Registered with the models; what they refuse is tested where they are, and partly in the words of the operations."""


def test_every_operator_of_the_library_is_here():
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("fastvi::")}
    assert registered - NOT_PUBLIC == set(CALLS)


@each_operator
def test_the_good_call_is_good(name: str):
    CALLS[name]()


def refused(call: Call, changed: dict[int, Any], message: str = "") -> None:
    """One line that names the operation."""
    with pytest.raises((TypeError, ValueError), match=rf"^{call.operation}: .*{message}") as raised:
        call(changed)
    assert "\n" not in str(raised.value)


def outcome(call: Call, changed: dict[int, Any]) -> tuple[str | None, list[Tensor]]:
    """The error's text, or what the call returns."""
    try:
        return None, torch.utils._pytree.tree_leaves(call(changed))
    except (TypeError, ValueError) as error:
        return str(error), []


@each_operator
def test_another_dtype(name: str):
    call = CALLS[name]
    for i in call.tensors:
        tensor = call.arguments[i]
        for dtype in (*DTYPES, torch.int64, torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn):
            floating = [j for j in call.tensors if call.arguments[j].is_floating_point()]
            if dtype != tensor.dtype and (floating != [i] or dtype not in DTYPES):
                refused(call, {i: tensor.to(dtype)}, "dtype|float64 tensor")


@each_operator
def test_dtypes_without_kernels_for_all(name: str):
    """That they agree with each other does not help."""
    call = CALLS[name]
    for dtype in (torch.int64, torch.float8_e4m3fn, torch.complex64):
        floating = {i: call.arguments[i].to(dtype) for i in call.tensors if call.arguments[i].is_floating_point()}
        if floating:
            refused(call, floating, "dtype|float64 tensor")


@each_operator
def test_another_device(name: str):
    call = CALLS[name]
    floating = [i for i in call.tensors if call.arguments[i].dim()]
    for i in floating if len(call.tensors) > 1 else []:
        refused(call, {i: call.arguments[i].to("meta")}, "is on")
    seed = [i for i in call.tensors if call.names[i] == "seed"]
    for i in seed if floating else []:
        refused(call, {i: call.arguments[i].to("meta")}, "is on")


@each_operator
def test_tensors_without_values(name: str):
    """On the meta device the shapes and dtypes are checked alike."""
    call = CALLS[name]
    metas = {i: call.arguments[i].to("meta") for i in call.tensors}
    results, expected = (torch.utils._pytree.tree_leaves(outputs) for outputs in (call(metas), call()))
    for result, real in zip(results, expected, strict=True):
        assert (result.device.type, result.shape, result.dtype) == ("meta", real.shape, real.dtype)
    floating = [i for i in call.tensors if call.arguments[i].is_floating_point()]
    for i in floating if len(floating) > 1 else []:
        if call.arguments[i].dim():  # a number is read on the CPU alone
            refused(call, metas | {i: metas[i].to(torch.int64)}, "dtype")
            refused(call, metas | {i: metas[i].half()}, "dtype")


@pytest.mark.filterwarnings("ignore:.*is in (beta|prototype) (state|stage):UserWarning")
@pytest.mark.parametrize(
    "layout",
    [
        Tensor.to_sparse,
        Tensor.to_sparse_csr,
        lambda tensor: tensor.float().cpu().to_mkldnn(),
        lambda tensor: torch.nested.nested_tensor([tensor, tensor]),
    ],
    ids=["sparse", "compressed rows", "oneDNN", "nested"],
)
@each_operator
def test_another_layout(name: str, layout: Callable[[Tensor], Tensor]):
    call = CALLS[name]
    for i in call.tensors:
        tensor = call.arguments[i]
        if tensor.dim() > 1:
            refused(call, {i: layout(tensor)}, "layout|nested")


@each_operator
def test_freed_memory(name: str):
    call = CALLS[name]
    for i in call.tensors:
        if call.arguments[i].numel():
            tensor = call.arguments[i].clone()
            tensor.untyped_storage().resize_(0)
            refused(call, {i: tensor}, "has no memory")


SHAPES = [(), (1,), (7,), (0,), (2, 7), (3, 5, 2), (1, 1, 1, 7), (0, 3), (64, 64)]


@each_operator
def test_other_shapes(name: str):
    """Whatever broadcasts may pass; else one line. Gradients, seeds, and what was kept, have one shape."""
    call = CALLS[name]
    for i in call.tensors:
        tensor = call.arguments[i]
        one_shape = call.names[i].startswith(("grad_", "auxiliary_", "seed")) or tensor.dtype == torch.int64
        for shape in SHAPES:
            if shape == tuple(tensor.shape):
                continue
            other = place.ones(shape, dtype=tensor.dtype)
            if one_shape:
                refused(call, {i: other}, "shape")
                continue
            error, outputs = outcome(call, {i: other})
            if error is not None:
                assert error.startswith(f"{call.operation}: ")
                assert "\n" not in error
            for output in outputs:
                output.double().sum().item()  # reads all of its memory


@pytest.mark.parametrize("name", [name for name in CALLS if "_backward" in name])
def test_needs(name: str):
    call = CALLS[name]
    needs = call.arguments[-1]
    for wrong in ([], needs[1:], [*needs, True], [True] * 20):
        refused(call, {len(call.arguments) - 1: wrong}, "needs has")
    for i, argument in enumerate(call.arguments):
        if call.names[i] == "seed":
            refused(call, {len(call.arguments) - 1: [True] * len(needs)}, "needs asks for the gradient of seed")
        elif call.names[i].startswith("grad_") and isinstance(argument, Tensor):
            given = {j: None for j, each in enumerate(call.names) if each.startswith("grad_")}
            refused(call, given, "no gradient was given")


BAD_CONSTANTS: dict[str, list[Any]] = {
    "free_bits": [-0.1, float("nan"), float("-inf")],
    "num_samples": [-1, -(2**62), 2**32, 2**63 - 1],
    "row_offset": [-1, 2**63 - 1],
    "sample_shape": [[-1], [2, -3], [2**62, 2], [2**32]],
    "shape": [[-1], [3, -2]],
    "extent": [[], [2, 5], [-1, 5, 3], [2, 5, 3, 1], [2**32, 1, 1], [1, 0, 2**34 + 1]],
    "dtype": [torch.int64, torch.complex64, torch.float8_e4m3fn],
    "dim": [2, -3, 100, 2**62],
}


@each_operator
def test_constants(name: str):
    call = CALLS[name]
    for i, argument in enumerate(call.names):
        for wrong in BAD_CONSTANTS.get(argument, []):
            value = torch.tensor(wrong, dtype=torch.float64) if isinstance(call.arguments[i], Tensor) else wrong
            refused(call, {i: value})


@pytest.mark.parametrize("operation", ["kl_normal", "rsample_normal_with_log_ratio"])
@pytest.mark.parametrize("suffix", ["", "_backward"])
def test_half_a_prior(operation: str, suffix: str):
    """The functions complete it; the kernels would read the logvar as the mean."""
    call = CALLS[f"fastvi::{operation}{suffix}"]
    for prior in ("prior_mean", "prior_logvar"):
        changed: dict[int, Any] = {call.names.index(prior): None}
        if suffix:
            changed[len(call.names) - 1] = [False] * len(call.arguments[-1])
        refused(call, changed, "both prior_mean and prior_logvar, or neither")


def test_nothing_is_read_past_an_operand():
    """What once read past the end of float32 memory, as if it were float64."""
    x, mean = place.ones(4, 1000, dtype=torch.float64), place.ones(4, 1000)
    with pytest.raises(TypeError, match=r"normal_log_prob: mean has dtype torch\.float32, expected torch\.float64"):
        torch.ops.fastvi.normal_log_prob(x, mean, mean)


def test_factors_of_half_precision_states():
    """Numbers, which half precision would round, reach the kernels as float32; other dtypes do not."""
    q = place.ones(3, 5, dtype=torch.bfloat16)
    for step in (place.tensor(0.1), place.tensor(0.1, dtype=torch.bfloat16)):
        position, _ = torch.ops.fastvi.leapfrog_step(q, q, q, step, None, 0.5)
        assert position.dtype == torch.bfloat16
    with pytest.raises(TypeError, match=r"leapfrog_step: step_size has dtype torch\.float64"):
        torch.ops.fastvi.leapfrog_step(q, q, q, place.tensor(0.1, dtype=torch.float64), None, 0.5)


@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_numbers_as_tensors_change_nothing(sample: Sample):
    operator = getattr(torch.ops.fastvi, sample.operation)
    if len(operator.overloads()) == 1:
        return
    call = Call(operator.default, sample.operator_arguments(sample.tensors()))
    for by_number, by_tensor in ((call, with_tensors(call)), (Call(*backward_call(sample)),) * 2):
        if by_number is by_tensor:
            by_tensor = with_tensors(by_number)
        for result, expected in zip(
            torch.utils._pytree.tree_leaves(by_tensor()), torch.utils._pytree.tree_leaves(by_number()), strict=True
        ):
            assert torch.equal(result, expected)


@pytest.mark.parametrize("name", [name for name in CALLS if name.endswith(".tensor")])
def test_opcheck_of_numbers_as_tensors(name: str):
    torch.library.opcheck(CALLS[name].operator, tuple(CALLS[name].arguments))


def test_the_functions_stay_as_they_are_after_all_that():
    assert fastvi.log_mean_exp(place.zeros(3, 2)).tolist() == [0.0, 0.0]
