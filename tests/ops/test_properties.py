"""Whatever hypothesis makes of shapes, strides, dtypes and values: the formula's result or the documented error.

``FASTVI_FUZZ=100`` runs a hundred times as many examples, for a campaign; ``--hypothesis-seed`` makes it repeatable.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fastvi
from fastvi._perceptron import ACTIVATIONS
from fastvi.ops._operation import OPERATIONS as OPERATORS
from support.operations import DOMAINS, OPERATIONS, PERCEPTRONS, TWINS, WITH_PRODUCTS, as_tuple, function_of
from support.place import place

# Sums of at most a hundred float64 terms of size e^3 or of the huge ones below, where only the relative error counts.
# Half precision: float32 inside, then two roundings at most; eps is twice the error of one.
TOLERANCE = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-10},
    torch.float32: {"rtol": 1e-4, "atol": 1e-3},
    torch.bfloat16: {"rtol": torch.finfo(torch.bfloat16).eps, "atol": 1e-3},
    torch.float16: {"rtol": torch.finfo(torch.float16).eps, "atol": 1e-3},
}

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
OTHERS = [torch.int64, torch.bool, torch.complex64]
WIDE = FLOATS[:2]
# Not so small that a product of two is zero in float32: whether it then meets an infinity depends on the order.
SPECIAL = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-15, -1e-15, 40.0, -40.0]
# Variances that no float32, or no float64, holds, and logits that are certain.
LOGARITHMS = [-1e3, -745.0, -100.0, -60.0, 60.0, 100.0, 745.0, 1e3]
LOGITS = [math.inf, -math.inf, 1e4, -1e4]

ARGUMENTS = {
    name: tuple(argument for argument in operator.names if argument != "seed") for name, operator in OPERATORS.items()
}
OPTIONAL = {
    declared.split()[1]
    for operator in OPERATORS.values()
    for declared in operator.tensors
    if declared.startswith("Tensor? ")
}
SCALARS_TOO = {name for operator in OPERATORS.values() for name in (*operator.factors, *operator.numbers)}


def extremes(name: str) -> list[float]:
    """Values at the ends of what is right for an argument, which its name tells."""
    if name.endswith("logits"):
        return LOGITS
    return LOGARITHMS if name.startswith("log_") or name.endswith("logvar") else []


FACTOR = int(os.environ.get("FASTVI_FUZZ", "1"))

sizes = st.sampled_from([0, 1, 1, 2, 3, 5, 9, 33])


@st.composite
def values(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype, special: Sequence[float] = ()) -> Tensor:
    """Normal numbers, a few of them, or all, replaced by special ones."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    tensor = torch.randn(shape, generator=generator, dtype=torch.float64).to(place.device)
    if special and tensor.numel():
        places = st.tuples(st.integers(0, tensor.numel() - 1), st.sampled_from(special))
        for index, value in draw(st.lists(places, max_size=3)):
            tensor.view(-1)[index] = value
        if draw(st.integers(0, 9)) == 0:
            tensor.fill_(draw(st.sampled_from(special)))
    return tensor.to(dtype)


@st.composite
def layouts(draw: st.DrawFn, tensor: Tensor) -> Tensor:
    """The same values laid out otherwise: permuted, with gaps, shifted, stride zero, or lazily negated.

    Or zeros that have no memory.
    """
    kind = draw(st.sampled_from(["plain", "permuted", "gaps", "shifted", "expanded", "negated", "no memory"]))
    if kind == "permuted":
        order = draw(st.permutations(range(tensor.dim())))
        return tensor.permute(order).contiguous().permute([order.index(axis) for axis in range(tensor.dim())])
    if kind == "gaps" and tensor.dim():
        axis, step = draw(st.integers(0, tensor.dim() - 1)), draw(st.integers(2, 3))
        apart = place.full((*tensor.shape[:axis], tensor.shape[axis] * step, *tensor.shape[axis + 1 :]), math.nan)
        view = apart.to(tensor.dtype).movedim(axis, 0)[::step].movedim(0, axis)
        return view.copy_(tensor)
    if kind == "shifted":
        return torch.cat((tensor.new_zeros(1), tensor.flatten()))[1:].view(tensor.shape)
    if kind == "expanded" and tensor.dim() and tensor.numel():
        axis = draw(st.integers(0, tensor.dim() - 1))
        return tensor.narrow(axis, 0, 1).expand(tensor.shape)
    if kind == "negated" and tensor.dtype in WIDE:
        return torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
    if kind == "no memory":
        return torch._efficientzerotensor(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    return tensor


INTEGERS = [int, np.int64, np.uint64]
NUMBERS = [float, np.float64, np.float32, np.float16]


@st.composite
def in_numpy(draw: st.DrawFn, constants: dict[str, Any]) -> dict[str, Any]:
    """The same arguments, some of whose integers and numbers are NumPy's, and shapes lists or PyTorch's."""
    changed: dict[str, Any] = {}
    for name, value in constants.items():
        if type(value) is int:
            kinds = INTEGERS if value >= 0 else [int, np.int64, np.int16]
            changed[name] = draw(st.sampled_from(kinds))(value)
        elif type(value) is float:
            changed[name] = draw(st.sampled_from(NUMBERS))(value)
        elif type(value) is tuple:
            sizes = [draw(st.sampled_from(INTEGERS))(size) for size in value]
            changed[name] = draw(st.sampled_from([tuple, list, torch.Size]))(sizes)
        else:
            changed[name] = value
    return changed


@st.composite
def broadcastable(draw: st.DrawFn, full: tuple[int, ...], least_rank: int) -> tuple[int, ...]:
    """A shape that broadcasts to ``full``: leading axes left out, others of size one."""
    rank = draw(st.integers(least_rank, len(full)))
    return tuple(1 if draw(st.booleans()) and draw(st.booleans()) else size for size in full[len(full) - rank :])


@st.composite
def calls(draw: st.DrawFn, special: Sequence[float] = SPECIAL) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    """An operation, its tensors and its other arguments, all of them good."""
    operation = draw(st.sampled_from(OPERATIONS))
    dtype = draw(st.sampled_from(FLOATS))
    full = tuple(draw(st.lists(sizes, min_size=1, max_size=4)))
    names = [name for name in ARGUMENTS[operation] if name not in OPTIONAL or draw(st.booleans())]
    shapes = {name: draw(broadcastable(full, 0 if name in SCALARS_TOO else 1)) for name in names}
    constants: dict[str, Any] = {}
    if operation == "linear_bernoulli_log_prob":
        columns, hidden = draw(sizes), draw(sizes)
        shapes = {
            "h": (*draw(broadcastable(full, 0)), hidden),
            "weight": (columns, hidden),
            "bias": (columns,),
            "x": (*draw(broadcastable(full, 0)), columns),
        }
        shapes = {name: shape for name, shape in shapes.items() if name in names}
        constants = {"bias": None} if "bias" not in names else {}
    elif operation in PERCEPTRONS:
        first = draw(broadcastable(full, 0))
        widths = [draw(sizes) for _ in range(draw(st.integers(2, 5)))]
        shapes = {"x" if operation == "mlp" else "z": (*first, widths[0])}
        if operation == "mlp_bernoulli_log_prob":
            shapes["x"] = (*draw(broadcastable(full, 0)), widths[-1])
        for i, shape in enumerate(zip(widths[1:], widths, strict=False)):
            shapes |= {f"weight_{i}": shape} | ({f"bias_{i}": shape[:1]} if draw(st.booleans()) else {})
        constants = {"activation": draw(st.sampled_from(ACTIVATIONS))}
        if operation == "mlp":
            constants["activate_last"] = draw(st.booleans())
    elif operation in ("log_mean_exp", "importance_weights", "effective_sample_size"):
        shape = tuple(draw(st.lists(sizes, min_size=1, max_size=4)))
        dim = draw(st.integers(-len(shape), len(shape) - 1))
        shapes, constants = {names[0]: shape}, {"dim": dim}
    elif operation == "kl_normal":
        constants = {"free_bits": draw(st.sampled_from([0.0, 0.5]))}
    elif operation in ("leapfrog_step", "momentum_kick"):
        constants = {"kick": draw(st.sampled_from([0.5, 1.0]))}
    elif operation == "rsample_normal":
        constants = {"sample_shape": tuple(draw(st.lists(sizes, max_size=2)))}
    elif operation == "rsample_normal_with_log_ratio":
        constants = {"num_samples": draw(sizes), "detach_posterior": draw(st.booleans())}
    if operation.startswith("rsample"):
        constants |= {"seed": draw(st.integers(0, 2**63 - 1)), "row_offset": draw(st.sampled_from([0, 7, 2**32 - 1]))}
    tensors = {}
    for name, shape in shapes.items():
        tensor = draw(values(shape, dtype, [*special, *extremes(name)]))
        tensors[name] = draw(layouts(tensor.abs() if DOMAINS.get((operation, name)) == "positive" else tensor))
    return operation, tensors, constants


def or_limit(result: Tensor, formula: Tensor, of_finite: Tensor, own: Tensor) -> Tensor:
    """The formula; where it lost an infinity that came in or was made (inf - inf), whatever we return.

    That may be so in the arguments' ``own`` type alone, where the scale of a variance that float64 holds is infinite.
    Unless a NaN came in too: ``of_finite`` is the formula of the same arguments with ones in place of all extreme ones.
    """
    return torch.where((formula.isnan() | own.isnan()) & ~of_finite.isnan(), result, formula)


def expected_error(operation: str, tensors: dict[str, Tensor], constants: dict[str, Any]) -> type[Exception] | None:
    """ValueError for a reduction over nothing, and for a state that has no dimension at all."""
    if "dim" in constants:
        (tensor,) = tensors.values()
        return ValueError if tensor.shape[constants["dim"]] == 0 else None
    if operation in ("leapfrog_step", "momentum_kick") and all(tensor.dim() == 0 for tensor in tensors.values()):
        return ValueError
    return None


@settings(max_examples=300 * FACTOR)
@given(calls(), st.data())
def test_result_is_the_formulas_or_the_documented_error(call, data):
    operation, tensors, constants = call
    function = function_of(fastvi, operation)
    given = data.draw(in_numpy(constants))
    error = expected_error(operation, tensors, constants)
    if error is not None:
        with pytest.raises(error, match=f"^{operation}: "):
            function(**tensors, **given)
        return
    # Detaching changes gradients alone, and costs the formula digits that we keep.
    known = constants | ({"detach_posterior": False} if "num_samples" in constants else {})
    # Copies have memory: PyTorch's own products of zeros without one are zero, those with NaN too.
    arguments = {name: tensor.double().clone() for name, tensor in tensors.items()}
    finite = {name: torch.where(tensor.abs() > 50.0, 1.0, tensor) for name, tensor in arguments.items()}
    own = {name: tensor if tensor.dtype in WIDE else tensor.float() for name, tensor in tensors.items()}
    formulas = (as_tuple(TWINS[operation](**each, **known)) for each in (arguments, finite, own))
    for result, *found in zip(as_tuple(function(**tensors, **given)), *formulas, strict=True):
        expected, *others = (value.to(result.dtype) for value in found)  # which float16 may overflow
        tolerance = dict(TOLERANCE[result.dtype])
        size = expected[expected.isfinite()].abs()
        if operation == "rsample_normal_with_log_ratio" and size.numel():
            # A sample's rounding is in units of its mean and its noise, whose sum may be small beside both.
            tolerance["atol"] = max(tolerance["atol"], tolerance["rtol"] * size.max().item())
        if operation in WITH_PRODUCTS and size.numel():  # the terms of a product may cancel
            tolerance["atol"] *= max(1.0, size.max().item())
        torch.testing.assert_close(result, or_limit(result, expected, *others), **tolerance, equal_nan=True)


def uneven(shape):
    """Numbers from 1 to 2, no two sums of which are equal: terms of opposite signs do not cancel."""
    count = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return (1.0 + 0.6180339887498949 * count % 1.0).reshape(shape).to(place.device)


@settings(max_examples=200 * FACTOR)
@given(calls(special=()), st.data())
def test_gradients_are_the_formulas(call, data):
    """For any subset of the arguments and an upstream gradient of any layout."""
    operation, tensors, constants = call
    if expected_error(operation, tensors, constants) is not None:
        return
    # Copies have memory: PyTorch's own products of zeros without one are zero, those with an infinity too.
    double = {name: tensor.double().clone() for name, tensor in tensors.items()}
    wanted = data.draw(st.sets(st.sampled_from(sorted(tensors)), min_size=1))
    upstreams: list[Tensor] = []
    found = []
    # The last one tells, with numbers from above that cancel nowhere, whether a gradient overflows on the way.
    for function, arguments in (
        (function_of(fastvi, operation), tensors),
        (TWINS[operation], double),
        (TWINS[operation], double),
    ):
        leaves = {name: tensor.detach().requires_grad_(name in wanted) for name, tensor in arguments.items()}
        outputs = as_tuple(function(**leaves, **constants))
        if not found:
            upstreams = [data.draw(layouts(data.draw(values(o.shape, o.dtype)))) for o in outputs]
        # A sum that is there even where no output depends on what is wanted.
        number = sum(leaf.sum() * 0.0 for leaf in leaves.values() if bool(leaf.isfinite().all()))
        for output, upstream in zip(outputs, upstreams, strict=True):
            above = (upstream, upstream.double().clone(), uneven(output.shape))[len(found)]
            number = number + (output * above).sum()
        wanted_leaves = [leaves[name] for name in sorted(wanted)]
        found.append(
            torch.autograd.grad(number, wanted_leaves, materialize_grads=True)
            if number.requires_grad
            else [torch.zeros_like(leaf) for leaf in wanted_leaves]
        )
    dtype = next(iter(tensors.values())).dtype
    largest = torch.finfo(torch.float32 if dtype != torch.float64 else dtype).max
    for result, expected, of_uneven in zip(*found, strict=True):
        known = ~expected.isnan()
        if not bool((of_uneven.abs() <= largest * 1e-6).all()):
            known &= result.isfinite() & expected.isfinite()
        size = expected[known & expected.isfinite()].abs()
        scale = max(1.0, size.max().item() if size.numel() else 1.0)
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(
            result.double()[known],
            expected.to(dtype).double()[known],
            rtol=tolerance["rtol"],
            atol=tolerance["atol"] * scale,
        )


@settings(max_examples=150 * FACTOR)
@given(calls(), st.data())
def test_bad_input_is_refused(call, data):
    """One argument in another dtype, or of a shape that does not fit."""
    operation, tensors, constants = call
    name = data.draw(st.sampled_from(sorted(tensors)))
    tensor = tensors[name]
    if data.draw(st.booleans()) and len(tensors) > 1:
        dtype = data.draw(st.sampled_from([dtype for dtype in FLOATS if dtype != tensor.dtype]))
    else:
        takes_truths = name in OPERATORS[operation].truths
        dtype = data.draw(st.sampled_from([dtype for dtype in OTHERS if not (takes_truths and dtype is torch.bool)]))
    wrong = place.zeros(tensor.shape, dtype=dtype)
    with pytest.raises(TypeError, match=f"^{operation}: "):
        function_of(fastvi, operation)(**(tensors | {name: wrong}), **constants)


@settings(max_examples=150 * FACTOR)
@given(calls(), st.data())
def test_any_shapes_never_crash(call, data):
    """Shapes drawn without regard to each other: a result of the formula's shape, or the operation's ValueError."""
    operation, tensors, constants = call
    shapes = {name: tuple(data.draw(st.lists(sizes, max_size=3))) for name in tensors}
    strangers = {name: place.ones(shapes[name], dtype=tensor.dtype) for name, tensor in tensors.items()}
    try:
        results = as_tuple(function_of(fastvi, operation)(**strangers, **constants))
    except ValueError as error:
        if str(error).startswith(f"{operation}: "):
            return
        raise
    for result, expected in zip(results, as_tuple(TWINS[operation](**strangers, **constants)), strict=True):
        assert result.shape == expected.shape


def freed(tensor: Tensor) -> Tensor:
    tensor.untyped_storage().resize_(0)
    return tensor


# Tensors that no kernel can read, and some that it can.
ODD = {
    "number": lambda: place.ones(()),
    "empty": lambda: place.ones(0),
    "float64 with a gradient": lambda: place.ones(3, 5, dtype=torch.float64, requires_grad=True),
    "bfloat16": lambda: place.ones(3, 5, dtype=torch.bfloat16),
    "expanded": lambda: place.ones(5).expand(3, 5),
    "parameter": lambda: torch.nn.Parameter(place.ones(3, 5)),
    "sparse": lambda: place.ones(3, 5).to_sparse(),
    "mkldnn": lambda: torch.ones(3, 5).to_mkldnn(),
    "meta": lambda: torch.ones(3, 5, device="meta"),
    "int": lambda: place.ones(3, 5, dtype=torch.int32),
    "bool": lambda: place.ones(3, 5, dtype=torch.bool),
    "complex": lambda: place.ones(3, 5, dtype=torch.complex64),
    "no memory": lambda: torch._efficientzerotensor((3, 5), dtype=torch.float32, device=place.device),
    "freed": lambda: freed(place.ones(3, 5)),
    "freed seed": lambda: freed(place.ones((), dtype=torch.int64)),
    "nested": lambda: torch.nested.nested_tensor([place.ones(3, 5), place.ones(3, 5)]),
    "jagged": lambda: torch.nested.nested_tensor([place.ones(3, 5), place.ones(2, 5)], layout=torch.jagged),
    "uninitialised": torch.nn.UninitializedParameter,
    "conjugate": lambda: place.ones(3, 5, dtype=torch.complex64).conj(),
    "float8": lambda: place.ones(3, 5).to(torch.float8_e4m3fn),
    "seed": lambda: place.ones((), dtype=torch.int64),
    "meta seed": lambda: torch.ones((), dtype=torch.int64, device="meta"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
@pytest.mark.parametrize("odd", sorted(ODD))
@pytest.mark.parametrize(
    "operation",
    [
        "bernoulli_log_prob",
        "continuous_bernoulli_log_prob",
        "linear_bernoulli_log_prob",
        "mlp_bernoulli_log_prob",
        "negative_binomial_log_prob",
        "poisson_log_prob",
    ],
)
def test_a_look_at_odd_observations_leaves_their_fault_to_the_operation(operation, odd):
    parameters, weight = place.ones(3, 5), place.ones(5, 5)
    others = {
        "bernoulli_log_prob": {"logits": parameters},
        "continuous_bernoulli_log_prob": {"logits": parameters},
        "linear_bernoulli_log_prob": {"h": parameters, "weight": weight, "bias": None},
        "mlp_bernoulli_log_prob": {"z": parameters, "weights": [weight], "biases": None},
        "negative_binomial_log_prob": {"total_count": parameters, "logits": parameters},
        "poisson_log_prob": {"log_rate": parameters},
    }[operation]

    def outcome(**options):
        try:
            return getattr(fastvi, operation)(x=ODD[odd](), **others, **options)
        except (TypeError, ValueError) as error:
            return str(error)

    expected, found = outcome(), outcome(validate_args=True)
    if isinstance(expected, Tensor) and not expected.is_meta:
        torch.testing.assert_close(found, expected)
        return
    assert str(found) == str(expected)
    assert isinstance(expected, Tensor) or expected.startswith(f"{operation}: ")


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5),
    st.sampled_from([-(2**70), 2**63, 2**70]),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.lists(st.one_of(st.none(), st.integers(-2, 3), st.floats()), max_size=3),
    st.tuples(st.integers(-2, 3), st.integers(0, 3)),
    st.sampled_from([np.ones(3), np.float32(1.0), np.int64(1), np.uint8(2), np.True_]),
    st.sampled_from([object(), int, len, {}, slice(None), Ellipsis]),
    st.sampled_from(sorted(ODD)).map(lambda name: ODD[name]()),
)
CONSTANTS = {
    "dim": st.integers(-2, 1),
    "free_bits": st.just(0.1),
    "kick": st.just(0.5),
    "num_samples": st.integers(0, 3),
    "sample_shape": st.just((2,)),
    "seed": st.integers(0, 9),
    "row_offset": st.integers(0, 9),
    "shape": st.just((2, 3)),
    "dtype": st.just(torch.float64),
    "device": st.just(place.device),
    "detach_posterior": st.booleans(),
    "activation": st.sampled_from(ACTIVATIONS),
    "activate_last": st.booleans(),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
@settings(max_examples=400 * FACTOR)
@given(st.sampled_from([*OPERATIONS, "standard_normal"]), st.data())
def test_any_call_gives_a_result_or_the_documented_error(operation, data):
    """Each argument is a good one, or anything at all."""
    function = getattr(fastvi, operation)
    dtype = data.draw(st.sampled_from(FLOATS))
    good = st.just(place.ones(3, 5, dtype=dtype))
    layers = {
        name: st.lists(st.one_of(st.just(place.ones(*shape, dtype=dtype)), junk), max_size=6)
        for name, shape in (("weights", (5, 5)), ("biases", (5,)))
    }
    arguments = {
        name: data.draw(st.one_of((CONSTANTS | layers).get(name, good), junk), label=name)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is parameter.empty or data.draw(st.booleans())
    }
    try:
        results = as_tuple(function(**arguments))
    except (TypeError, ValueError) as error:
        if str(error).startswith(f"{operation}: "):
            return
        raise
    assert all(isinstance(result, Tensor) for result in results)
    for result in results:
        if not result.is_meta:
            result.detach().double().sum().item()  # reads all of its memory
