"""Every operation with sample inputs and its plain-PyTorch twin: the one table that its tests share.

An operation of the native lists (csrc/operations.h) has samples of every kind from its declaration, unless some are
written out here.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastvi import _native, ops, reference
from fastvi.ops._operation import OPERATIONS as OPERATORS
from fastvi.ops.random import normal_noise, seed_tensor
from support.place import place

Shape = tuple[int, ...]

SEED = 20160519


class Argument(NamedTuple):
    """A tensor argument: its shape, and what its values are drawn from: ``normal``, ``unit``, ``positive``, ``weight``.

    Weights are so small that no unit is saturated: there the rounding of its value is all that is left of its slope.
    """

    shape: Shape
    domain: str = "normal"


def unit(*shape: int) -> Argument:
    return Argument(shape, "unit")


def positive(*shape: int) -> Argument:
    return Argument(shape, "positive")


def _noise(operation: str, parameters: Sequence[Tensor | None], samples: Shape, seed: Any, row_offset: int) -> Tensor:
    """What the fused draws never store, from the operator that stores it."""
    given = [parameter for parameter in parameters if parameter is not None]
    shape = torch.broadcast_shapes(*(parameter.shape for parameter in given))
    return normal_noise(seed_tensor(operation, seed, given[0].device), samples, shape, row_offset, given[0])


def sample_shape_of(sample_shape: Any) -> tuple[int, ...]:
    """The sample shape as a tuple; an integer means one axis."""
    return (sample_shape,) if isinstance(sample_shape, int) else tuple(sample_shape)


def _rsample_normal(
    mean: Tensor, logvar: Tensor, sample_shape: Any = (), seed: Any = None, row_offset: int = 0
) -> Tensor:
    samples = sample_shape_of(sample_shape)
    return reference.rsample_normal(mean, logvar, _noise("twin", (mean, logvar), samples, seed, row_offset))


def _rsample_normal_with_log_ratio(
    mean: Tensor,
    logvar: Tensor,
    num_samples: int,
    prior_mean: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    detach_posterior: bool = False,
    seed: Any = None,
    row_offset: int = 0,
) -> tuple[Tensor, Tensor]:
    parameters = (mean, logvar, prior_mean, prior_logvar)
    eps = _noise("twin", parameters, (num_samples,), seed, row_offset)
    return reference.rsample_normal_with_log_ratio(mean, logvar, eps, prior_mean, prior_logvar, detach_posterior)


def _leapfrog_step(*arguments: Any, **constants: Any) -> tuple[Tensor, Tensor]:
    position, momentum = reference.leapfrog_step(*arguments, **constants)
    return position, momentum.expand(position.shape)


def _taking_layers(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose arguments ``weights`` and ``biases`` are given as ``weight_0``, ``bias_0`` and so on."""

    def call(**arguments: Any) -> Any:
        numbers = sorted(int(name.removeprefix("weight_")) for name in arguments if name.startswith("weight_"))
        weights = [arguments.pop(f"weight_{i}") for i in numbers]
        biases = [arguments.pop(f"bias_{i}", None) for i in numbers]
        return function(weights=weights, biases=None if all(b is None for b in biases) else biases, **arguments)

    return call


def function_of(module: Any, operation: str) -> Callable[..., Any]:
    """A module's function of an operation, which takes the arguments of the operator by their names."""
    function: Callable[..., Any] = getattr(module, operation)
    return _taking_layers(function) if operation in PERCEPTRONS else function


def public_name(name: str) -> str:
    """What messages of the public function call an argument of the operator."""
    kind, _, number = name.partition("_")
    return {"weight": f"weights[{number}]", "bias": f"biases[{number}]"}.get(kind, name) if number else name


PERCEPTRONS = ("mlp", "mlp_bernoulli_log_prob")
WITH_PRODUCTS = (*PERCEPTRONS, "linear_bernoulli_log_prob")
"""Operations with matrix products, whose factors autocast rounds."""

# The formula of the same name, but where the arguments are others.
TWINS: dict[str, Callable[..., Any]] = {name: function_of(reference, name) for name in OPERATORS} | {
    "leapfrog_step": _leapfrog_step,
    "rsample_normal": _rsample_normal,
    "rsample_normal_with_log_ratio": _rsample_normal_with_log_ratio,
}


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def weighted_sum(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """A number whose gradient by each of 61 neighbouring elements of an output is another one, and never zero."""
    total = None
    for output in as_tuple(outputs):
        odd = 2 * (torch.arange(output.numel(), device=output.device) % 61) - 59
        weights = (odd / 64).to(output.dtype)  # exact in every dtype
        part = (output * weights.reshape(output.shape)).sum()
        total = part if total is None else total + part
    assert total is not None
    return total


@dataclass(frozen=True)
class Sample:
    """One way to call an operation: tensors by name, drawn anew for each dtype and seed, and constants."""

    operation: str
    label: str
    arguments: dict[str, Argument]
    constants: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.operation}-{self.label}"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.arguments)

    @property
    def is_empty(self) -> bool:
        return any(0 in argument.shape for argument in self.arguments.values()) or 0 in (
            self.constants.get("num_samples", 1),
            *sample_shape_of(self.constants.get("sample_shape", 1)),
        )

    @property
    def gradient_is_the_derivative(self) -> bool:
        """Not so where the gradient through the posterior is stopped."""
        return not self.constants.get("detach_posterior", False)

    def tensors(self, dtype: torch.dtype = torch.float64, seed: int = 0, requires_grad: bool = False) -> list[Tensor]:
        """Values that depend on the sample and ``seed`` alone; those of float32 are the others', rounded."""
        generator = torch.Generator().manual_seed(zlib.crc32(str(self).encode()) + seed)
        tensors = []
        for shape, domain in self.arguments.values():
            normal = torch.randn(shape, generator=generator, dtype=torch.float64)
            values = {
                "normal": normal,
                "unit": torch.sigmoid(normal),
                "positive": 0.1 + normal.abs(),
                "weight": 0.5 * normal * max(1, shape[-1]) ** -0.5 if shape else normal,
            }[domain]
            tensors.append(values.to(place.device, dtype).requires_grad_(requires_grad))
        return tensors

    def call(self, *tensors: Tensor) -> Any:
        """The operation."""
        function = function_of(ops, self.operation)
        return function(**dict(zip(self.arguments, tensors, strict=True)), **self.constants)

    def twin(self, *tensors: Tensor) -> Any:
        """The plain formula; draws use the same noise."""
        return TWINS[self.operation](**dict(zip(self.arguments, tensors, strict=True)), **self.constants)

    def operator_arguments(self, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        """Arguments of ``torch.ops.fastvi.<operation>``: every tensor, None for those not given, then constants."""
        given: dict[str, Any] = dict(zip(self.arguments, tensors, strict=True)) | self.constants
        if "seed" in given:
            given["seed"] = place.tensor(given["seed"], dtype=torch.int64)
        if "sample_shape" in given:
            given["sample_shape"] = list(sample_shape_of(given["sample_shape"]))
        parameters = inspect.signature(getattr(ops, self.operation)).parameters
        defaults = {name: parameter.default for name, parameter in parameters.items()}
        schema = getattr(torch.ops.fastvi, self.operation).default._schema
        for argument in schema.arguments:
            if "Tensor" in str(argument.type) and isinstance(given.get(argument.name), float):
                given[argument.name] = place.tensor(given[argument.name], dtype=tensors[0].dtype)
        return tuple(given.get(argument.name, defaults.get(argument.name)) for argument in schema.arguments)


def backward_call(sample: Sample, wanted: Sequence[str] | None = None) -> tuple[Any, tuple[Any, ...]]:
    """``torch.ops.fastvi.<operation>_backward`` and arguments for it: for all gradients, or the ``wanted`` ones."""
    arguments = sample.operator_arguments(sample.tensors())
    outputs = as_tuple(getattr(torch.ops.fastvi, sample.operation)(*arguments))
    backward = getattr(torch.ops.fastvi, f"{sample.operation}_backward").default
    names = [argument.name for argument in backward._schema.arguments]
    num_grads = sum(name.startswith("grad_") for name in names)
    num_auxiliary = sum(name.startswith("auxiliary_") for name in names)
    declared = getattr(torch.ops.fastvi, sample.operation).default._schema.arguments
    num_tensors = sum("Tensor" in str(argument.type) for argument in declared)
    tensors, constants = arguments[:num_tensors], arguments[num_tensors:]
    needs = [
        isinstance(tensor, Tensor) and tensor.is_floating_point() and (wanted is None or name in wanted)
        for name, tensor in zip(names[num_grads:], tensors, strict=False)
    ]
    grads = [torch.cos(output) for output in outputs[:num_grads]]
    return backward, (*grads, *tensors, *outputs[len(outputs) - num_auxiliary :], *constants, needs)


def _sample(
    operation: str, label: str, constants: dict[str, Any] | None = None, **arguments: Shape | Argument
) -> Sample:
    given = {name: a if isinstance(a, Argument) else Argument(a) for name, a in arguments.items()}
    return Sample(operation, label, given, constants or {})


def _of_axis(operation: str, name: str) -> list[Sample]:
    return [
        _sample(operation, "first axis", {"dim": 0}, **{name: (6, 4)}),
        _sample(operation, "last axis", {"dim": -1}, **{name: (4, 6)}),
        _sample(operation, "middle axis", {"dim": 1}, **{name: (2, 5, 3)}),
        _sample(operation, "vector", {"dim": 0}, **{name: (5,)}),
        _sample(operation, "one element", {"dim": 0}, **{name: (1, 3)}),
        _sample(operation, "no columns", {"dim": 0}, **{name: (5, 0)}),
        _sample(operation, "no rows", {"dim": 2}, **{name: (3, 0, 5)}),
    ]


def _perceptron(
    operation: str,
    label: str,
    first: Shape,
    widths: Sequence[int],
    constants: dict[str, Any] | None = None,
    without_bias: Sequence[int] = (),
    **others: Argument,
) -> Sample:
    """A sample of a perceptron whose layers have as many features as ``widths`` says."""
    arguments: dict[str, Any] = {"z" if others else "x": first, **others}
    for i, shape in enumerate(zip(widths, (first[-1], *widths), strict=False)):
        arguments[f"weight_{i}"] = Argument(shape, "weight")
        if i not in without_bias:
            arguments[f"bias_{i}"] = shape[:1]
    return _sample(operation, label, constants, **arguments)


_ACTIVATIONS = ("sigmoid", "relu", "softplus", "elu", "silu", "gelu")
_PERCEPTRONS = [
    _perceptron("mlp", "two layers", (3, 4), (5, 2)),
    _perceptron("mlp", "slopes kept", (3, 4), (5, 2), {"activation": "silu", "activate_last": True}, [1]),
    _perceptron("mlp", "one layer", (2, 3, 4), (5,)),
    _perceptron("mlp", "one layer, activated", (3, 4), (5,), {"activate_last": True}),
    _perceptron("mlp", "three layers without biases", (2, 3, 4), (5, 3, 2), {}, [0, 1, 2]),
    _perceptron("mlp", "four layers", (3, 4), (5, 2, 6, 3), {"activate_last": True}, [1]),
    *[_perceptron("mlp", name, (3, 4), (5, 2, 3), {"activation": name}) for name in _ACTIVATIONS],
    _perceptron("mlp", "vector", (4,), (5, 2)),
    _perceptron("mlp", "no rows", (2, 0, 4), (5, 2)),
    _perceptron("mlp", "no features", (3, 0), (5, 2), {"activation": "sigmoid"}),
    _perceptron("mlp", "no units", (3, 4), (0, 2)),
    _perceptron("mlp", "no columns", (3, 4), (5, 0), {"activate_last": True}),
    _perceptron("mlp_bernoulli_log_prob", "samples", (2, 3, 4), (5, 6), x=unit(3, 6)),
    _perceptron("mlp_bernoulli_log_prob", "slopes kept", (3, 4), (5, 6), {"activation": "gelu"}, [1], x=unit(3, 6)),
    _perceptron("mlp_bernoulli_log_prob", "one layer", (2, 3, 4), (5,), x=unit(5)),
    _perceptron("mlp_bernoulli_log_prob", "three layers", (3, 4), (5, 3, 6), {}, [0, 1, 2], x=unit(2, 3, 6)),
    _perceptron("mlp_bernoulli_log_prob", "four layers", (1, 4), (5, 2, 3, 6), {}, [2], x=unit(2, 3, 6)),
    *[
        _perceptron("mlp_bernoulli_log_prob", name, (2, 3, 4), (5, 6), {"activation": name}, x=unit(3, 6))
        for name in _ACTIVATIONS
    ],
    _perceptron("mlp_bernoulli_log_prob", "vectors", (4,), (5, 6), x=unit(6)),
    _perceptron("mlp_bernoulli_log_prob", "no rows", (0, 4), (5, 6), x=unit(6)),
    _perceptron("mlp_bernoulli_log_prob", "no features", (3, 0), (5, 6), x=unit(3, 6)),
    _perceptron("mlp_bernoulli_log_prob", "no units", (3, 4), (0, 6), x=unit(3, 6)),
    _perceptron("mlp_bernoulli_log_prob", "no columns", (3, 4), (5, 0), x=unit(3, 0)),
]

# The shapes of a row operation's operands; further operands have the last one.
_ROW_SHAPES: dict[str, list[Shape]] = {
    "same shape": [(3, 5)],
    "broadcast": [(4, 3, 5), (3, 5), (5,)],
    "broadcast {first}": [(5,), (3, 1), (2, 1, 5)],
    "vectors": [(5,)],
    "no columns": [(3, 0), (3, 0), (1,)],
    "no rows": [(0, 5), (5,)],
}
_LARGE_ROW_SHAPES: dict[str, list[Shape]] = {
    "many samples": [(50, 70, 33), (70, 33), (33,)],
    "long rows": [(3, 40_001), (3, 40_001), (40_001,)],
}
# The shapes of a map operation's states, and those of its factors, or a number for each.
_MAP_SHAPES: dict[str, tuple[list[Shape], list[Shape] | float]] = {
    "{factor} a column": ([(3, 5)], [(5,), (3, 1)]),
    "{factor} a row": ([(2, 3, 5)], [(3, 1), (5,)]),
    "number": ([(3, 5)], 0.5),
    "scalar tensor": ([(3, 5)], [()]),
    "broadcast {first}": ([(5,), (3, 1)], [(2, 3, 5)]),
    "no columns": ([(3, 0)], [(1,)]),
    "no rows": ([(0, 5)], [(5,)]),
}
_LARGE_MAP_SHAPES: dict[str, tuple[list[Shape], list[Shape] | float]] = {
    "many rows": ([(3000, 65)], [(3000, 1), (65,)]),
    "long rows": ([(3, 40_001)], [(40_001,)]),
}


# Arguments of listed operations for which normal numbers would not do.
DOMAINS: dict[tuple[str, str], str] = {
    ("negative_binomial_log_prob", "x"): "positive",
    ("negative_binomial_log_prob", "total_count"): "positive",
    ("poisson_log_prob", "x"): "positive",
    ("zero_inflated_negative_binomial_log_prob", "x"): "positive",
    ("zero_inflated_negative_binomial_log_prob", "total_count"): "positive",
}


def _shaped(names: Sequence[str], shapes: Sequence[Shape]) -> dict[str, Shape]:
    return {name: shapes[min(i, len(shapes) - 1)] for i, name in enumerate(names)}


def _in_domain(operation: str, shapes: dict[str, Shape]) -> dict[str, Argument]:
    return {name: Argument(shape, DOMAINS.get((operation, name), "normal")) for name, shape in shapes.items()}


def _of_rows(shapes: dict[str, list[Shape]]) -> list[Sample]:
    """Samples of every row operation: with all its operands, and with those that it requires."""
    return [
        _sample(name, label.format(first=operands[0]) + note, **_in_domain(name, _shaped(operands[:count], given)))
        for name, operands, required, _ in _native.module().row_operations()
        for count, note in {required: ", no others", len(operands): ""}.items()
        for label, given in shapes.items()
    ]


def _of_maps(shapes: dict[str, tuple[list[Shape], list[Shape] | float]]) -> list[Sample]:
    """Samples of every map operation, likewise."""
    made = []
    for name, states, factors, required, _, _ in _native.module().map_operations():
        for count, note in {required: ", no others", len(factors): ""}.items():
            for label, (of_states, of_factors) in shapes.items():
                named, arguments = factors[:count], _shaped(states, of_states)
                constants = dict.fromkeys(named, of_factors) if isinstance(of_factors, float) else {}
                if not isinstance(of_factors, float):
                    arguments |= _shaped(named, of_factors)
                if named or "{factor}" not in label:
                    label = label.format(first=states[0], factor="".join(named[:1])) + note
                    made.append(_sample(name, label, constants, **arguments))
    return made


def _and_listed(written: list[Sample], listed: list[Sample]) -> list[Sample]:
    """The samples that are written out, and those of listed operations that have none of these."""
    known = {sample.operation for sample in written}
    return written + [sample for sample in listed if sample.operation not in known]


_DRAW = {"seed": SEED, "row_offset": 3}
_RATIO = {"seed": SEED, "num_samples": 3}

_WRITTEN: list[Sample] = [
    _sample("kl_normal", "standard prior", mean=(3, 5), logvar=(3, 5)),
    _sample("kl_normal", "prior", mean=(3, 5), logvar=(3, 5), prior_mean=(3, 5), prior_logvar=(3, 5)),
    _sample("kl_normal", "free bits", {"free_bits": 0.5}, mean=(3, 9), logvar=(3, 9)),
    _sample(
        "kl_normal",
        "broadcast prior, free bits",
        {"free_bits": 0.5},
        mean=(2, 1, 5),
        logvar=(3, 5),
        prior_mean=(5,),
        prior_logvar=(1, 5),
    ),
    _sample("kl_normal", "prior mean alone", mean=(3, 5), logvar=(3, 5), prior_mean=(5,)),
    _sample("kl_normal", "prior logvar alone", mean=(3, 5), logvar=(3, 5), prior_logvar=(2, 1, 5)),
    _sample("kl_normal", "broadcast events", mean=(3, 1), logvar=(1,), prior_mean=(3, 5), prior_logvar=(2, 1, 1)),
    _sample("kl_normal", "three steps", mean=(2, 1, 3, 1, 4), logvar=(2, 3, 1, 2, 4)),
    _sample("kl_normal", "vectors", mean=(5,), logvar=(5,)),
    _sample("kl_normal", "no columns", mean=(3, 0), logvar=(3, 0)),
    _sample("kl_normal", "no rows", mean=(0, 5), logvar=(5,)),
    _sample("normal_log_prob", "same shapes", x=(3, 5), mean=(3, 5), logvar=(3, 5)),
    _sample("normal_log_prob", "broadcast parameters", x=(2, 3, 5), mean=(3, 5), logvar=(5,)),
    _sample("normal_log_prob", "broadcast x", x=(5,), mean=(3, 1), logvar=(2, 1, 5)),
    _sample("normal_log_prob", "ones", x=(1, 1), mean=(1,), logvar=(1, 1, 1)),
    _sample("normal_log_prob", "no columns", x=(3, 0), mean=(1,), logvar=(2, 1, 0)),
    _sample("normal_log_prob", "no rows", x=(0, 3, 5), mean=(3, 5), logvar=(3, 5)),
    _sample("normal_entropy", "matrix", logvar=(3, 5)),
    _sample("normal_entropy", "vector", logvar=(9,)),
    _sample("normal_entropy", "no columns", logvar=(2, 3, 0)),
    _sample("normal_entropy", "no rows", logvar=(2, 0, 3)),
    _sample("rsample_normal", "no sample axis", {"seed": SEED}, mean=(3, 5), logvar=(3, 5)),
    _sample("rsample_normal", "one sample axis", {"sample_shape": 3, **_DRAW}, mean=(3, 5), logvar=(5,)),
    _sample("rsample_normal", "two sample axes", {"sample_shape": (2, 2), **_DRAW}, mean=(2, 1, 3), logvar=(2, 1)),
    _sample("rsample_normal", "many samples", {"sample_shape": (19,), **_DRAW}, mean=(1, 2), logvar=(3, 2)),
    _sample("rsample_normal", "vectors", {"sample_shape": (2,), **_DRAW}, mean=(5,), logvar=(5,)),
    _sample("rsample_normal", "no samples", {"sample_shape": (0, 2), **_DRAW}, mean=(3, 5), logvar=(3, 5)),
    _sample("rsample_normal", "no columns", {"sample_shape": (2,), **_DRAW}, mean=(3, 0), logvar=(3, 0)),
    _sample("rsample_normal", "no rows", {"sample_shape": (2,), **_DRAW}, mean=(0, 5), logvar=(0, 5)),
    _sample("rsample_normal_with_log_ratio", "standard prior", _RATIO, mean=(3, 5), logvar=(3, 5)),
    _sample(
        "rsample_normal_with_log_ratio",
        "prior",
        _RATIO | {"row_offset": 3},
        mean=(3, 5),
        logvar=(3, 5),
        prior_mean=(3, 5),
        prior_logvar=(3, 5),
    ),
    _sample(
        "rsample_normal_with_log_ratio", "detached", _RATIO | {"detach_posterior": True}, mean=(3, 5), logvar=(3, 5)
    ),
    _sample(
        "rsample_normal_with_log_ratio",
        "broadcast prior, detached",
        _RATIO | {"detach_posterior": True},
        mean=(2, 3, 5),
        logvar=(5,),
        prior_mean=(3, 1),
        prior_logvar=(5,),
    ),
    _sample(
        "rsample_normal_with_log_ratio", "prior mean alone", _RATIO, mean=(5,), logvar=(2, 1), prior_mean=(3, 1, 5)
    ),
    _sample(
        "rsample_normal_with_log_ratio", "prior logvar alone", _RATIO, mean=(3, 5), logvar=(3, 5), prior_logvar=(5,)
    ),
    _sample("rsample_normal_with_log_ratio", "many samples", _RATIO | {"num_samples": 19}, mean=(2, 9), logvar=(2, 9)),
    _sample("rsample_normal_with_log_ratio", "no samples", _RATIO | {"num_samples": 0}, mean=(3, 5), logvar=(3, 5)),
    _sample("rsample_normal_with_log_ratio", "no columns", _RATIO, mean=(3, 0), logvar=(3, 0)),
    _sample("rsample_normal_with_log_ratio", "no rows", _RATIO, mean=(0, 5), logvar=(0, 5), prior_mean=(5,)),
    _sample("bernoulli_log_prob", "same shapes", x=unit(3, 5), logits=(3, 5)),
    _sample("bernoulli_log_prob", "broadcast x", x=unit(3, 5), logits=(2, 3, 5)),
    _sample("bernoulli_log_prob", "broadcast logits", x=unit(2, 3, 5), logits=(3, 1)),
    _sample("bernoulli_log_prob", "no columns", x=unit(0), logits=(2, 0)),
    _sample("bernoulli_log_prob", "no rows", x=unit(3, 5), logits=(0, 3, 5)),
    _sample("continuous_bernoulli_log_prob", "same shapes", x=unit(3, 5), logits=(3, 5)),
    _sample("continuous_bernoulli_log_prob", "broadcast x", x=unit(3, 5), logits=(2, 3, 5)),
    _sample("continuous_bernoulli_log_prob", "broadcast logits", x=unit(2, 3, 5), logits=(3, 1)),
    _sample("continuous_bernoulli_log_prob", "no columns", x=unit(0), logits=(2, 0)),
    _sample("continuous_bernoulli_log_prob", "no rows", x=unit(3, 5), logits=(0, 3, 5)),
    _sample("linear_bernoulli_log_prob", "samples", h=(2, 3, 4), weight=(5, 4), bias=(5,), x=unit(3, 5)),
    _sample("linear_bernoulli_log_prob", "no bias", {"bias": None}, h=(3, 4), weight=(5, 4), x=unit(3, 5)),
    _sample("linear_bernoulli_log_prob", "broadcast h", h=(1, 4), weight=(9, 4), bias=(9,), x=unit(2, 3, 9)),
    _sample("linear_bernoulli_log_prob", "vectors", h=(4,), weight=(5, 4), bias=(5,), x=unit(5)),
    _sample("linear_bernoulli_log_prob", "no rows", h=(0, 4), weight=(5, 4), bias=(5,), x=unit(5)),
    _sample("linear_bernoulli_log_prob", "no hidden units", h=(3, 0), weight=(5, 0), bias=(5,), x=unit(3, 5)),
    _sample("linear_bernoulli_log_prob", "no columns", h=(3, 4), weight=(0, 4), bias=(0,), x=unit(3, 0)),
    *_PERCEPTRONS,
    *_of_axis("log_mean_exp", "x"),
    *_of_axis("importance_weights", "log_weights"),
    *_of_axis("effective_sample_size", "log_weights"),
    _sample("leapfrog_step", "number", {"step_size": 0.3}, q=(3, 5), p=(3, 5), grad=(3, 5)),
    _sample(
        "leapfrog_step",
        "numbers, full kick",
        {"step_size": 0.3, "inverse_mass": 2.0, "kick": 1.0},
        q=(3, 5),
        p=(3, 5),
        grad=(3, 5),
    ),
    _sample("leapfrog_step", "scalar tensors", q=(3, 5), p=(3, 5), grad=(3, 5), step_size=(), inverse_mass=positive()),
    _sample(
        "leapfrog_step",
        "step a chain, mass a dimension",
        q=(3, 5),
        p=(3, 5),
        grad=(3, 5),
        step_size=(3, 1),
        inverse_mass=positive(5),
    ),
    _sample(
        "leapfrog_step",
        "step a dimension, mass a chain",
        q=(2, 3, 5),
        p=(2, 3, 5),
        grad=(2, 3, 5),
        step_size=(5,),
        inverse_mass=positive(3, 1),
    ),
    _sample(
        "leapfrog_step",
        "everything broadcast",
        q=(5,),
        p=(2, 1, 5),
        grad=(3, 1),
        step_size=(2, 3, 5),
        inverse_mass=positive(1, 3, 5),
    ),
    _sample("leapfrog_step", "one dimension", q=(3, 1), p=(3, 1), grad=(3, 1), step_size=(3, 1)),
    _sample("leapfrog_step", "no columns", {"step_size": 0.3}, q=(3, 0), p=(3, 0), grad=(3, 0), inverse_mass=(3, 1)),
    _sample("leapfrog_step", "no chains", q=(0, 5), p=(0, 5), grad=(0, 5), step_size=(0, 1), inverse_mass=(5,)),
    _sample("kinetic_energy", "identity", p=(3, 5)),
    _sample("kinetic_energy", "number", {"inverse_mass": 2.0}, p=(3, 5)),
    _sample("kinetic_energy", "scalar tensor", p=(3, 5), inverse_mass=positive()),
    _sample("kinetic_energy", "mass a dimension", p=(2, 3, 5), inverse_mass=positive(5)),
    _sample("kinetic_energy", "mass a chain", p=(3, 5), inverse_mass=positive(2, 3, 1)),
    _sample("kinetic_energy", "no columns", p=(3, 0), inverse_mass=positive(1)),
    _sample("kinetic_energy", "no rows", p=(0, 5), inverse_mass=positive(5)),
]
SAMPLES = _and_listed(_WRITTEN, [*_of_rows(_ROW_SHAPES), *_of_maps(_MAP_SHAPES)])

OPERATIONS: list[str] = sorted(TWINS)

WITH_PRODUCTS = ("linear_bernoulli_log_prob", *PERCEPTRONS)
"""Operations with matrix products, whose bits are PyTorch's unless the products are exact."""

# The first sample of each operation, and those that take another way through it.
_OTHER_WAYS = {
    "prior",
    "broadcast prior, free bits",
    "broadcast prior, detached",
    "no bias",
    "scalar tensors",
    "slopes kept",
}
TYPICAL: list[Sample] = [
    sample
    for i, sample in enumerate(SAMPLES)
    if sample.label in _OTHER_WAYS or sample.operation not in {earlier.operation for earlier in SAMPLES[:i]}
]

# For tests that take long: what one compiles takes about a second.
ONE_EACH = [sample for i, sample in enumerate(TYPICAL) if sample.operation not in {s.operation for s in TYPICAL[:i]}]
"""One sample of each operation."""

_WRITTEN_LARGE: list[Sample] = [
    _sample("kl_normal", "long rows", {"free_bits": 0.1}, mean=(3, 40_001), logvar=(3, 40_001)),
    _sample("kl_normal", "many rows", mean=(2, 700, 65), logvar=(700, 65), prior_mean=(65,), prior_logvar=(65,)),
    _sample("kl_normal", "one mean for all", mean=(1,), logvar=(700, 65), prior_mean=(2, 1, 1), prior_logvar=(700, 1)),
    _sample("normal_log_prob", "many samples", x=(50, 70, 33), mean=(70, 33), logvar=(33,)),
    _sample("normal_log_prob", "long rows", x=(3, 40_001), mean=(3, 40_001), logvar=(40_001,)),
    _sample("normal_entropy", "many rows", logvar=(3000, 65)),
    _sample("rsample_normal", "many samples", {"sample_shape": (50,), **_DRAW}, mean=(70, 33), logvar=(70, 33)),
    _sample("rsample_normal", "one mean for all", {"sample_shape": (3,), **_DRAW}, mean=(1,), logvar=(700, 65)),
    _sample("rsample_normal", "long rows", {"sample_shape": (3,), **_DRAW}, mean=(5, 5003), logvar=(5003,)),
    _sample(
        "rsample_normal_with_log_ratio", "many samples", _RATIO | {"num_samples": 50}, mean=(70, 33), logvar=(70, 33)
    ),
    _sample(
        "rsample_normal_with_log_ratio",
        "long rows",
        _RATIO | {"detach_posterior": True},
        mean=(5, 5003),
        logvar=(5, 5003),
        prior_mean=(5003,),
        prior_logvar=(5, 1),
    ),
    _sample("bernoulli_log_prob", "many samples", x=unit(70, 65), logits=(30, 70, 65)),
    _sample("bernoulli_log_prob", "long rows", x=unit(40_001), logits=(3, 40_001)),
    _sample(
        "linear_bernoulli_log_prob", "many samples", h=(30, 20, 16), weight=(200, 16), bias=(200,), x=unit(20, 200)
    ),
    _perceptron("mlp", "wide", (150, 20), (1100, 33)),
    _perceptron("mlp", "many rows", (7, 100, 16), (65, 70), {"activation": "elu", "activate_last": True}),
    _perceptron(
        "mlp_bernoulli_log_prob", "many samples", (30, 20, 16), (90, 200), {"activation": "silu"}, x=unit(20, 200)
    ),
    _sample("log_mean_exp", "many samples", {"dim": 0}, x=(5001, 21)),
    _sample("log_mean_exp", "long rows", {"dim": -1}, x=(3, 70_001)),
    _sample("importance_weights", "many samples", {"dim": 1}, log_weights=(3, 2001, 21)),
    _sample("importance_weights", "long rows", {"dim": -1}, log_weights=(3, 70_001)),
    _sample("effective_sample_size", "many samples", {"dim": 0}, log_weights=(5001, 21)),
    _sample("effective_sample_size", "long rows", {"dim": -1}, log_weights=(3, 70_001)),
    _sample(
        "leapfrog_step",
        "many chains",
        q=(3000, 65),
        p=(3000, 65),
        grad=(3000, 65),
        step_size=(3000, 1),
        inverse_mass=positive(65),
    ),
    _sample("leapfrog_step", "one step size for all", q=(40_000, 3), p=(3,), grad=(40_000, 3), step_size=()),
    _sample("leapfrog_step", "long rows", {"step_size": 0.3}, q=(3, 40_001), p=(3, 40_001), grad=(3, 40_001)),
    _sample("kinetic_energy", "one mass for all", p=(3000, 65), inverse_mass=positive(1)),
    _sample("kinetic_energy", "many chains", p=(3000, 65), inverse_mass=positive(65)),
]
LARGE = _and_listed(_WRITTEN_LARGE, [*_of_rows(_LARGE_ROW_SHAPES), *_of_maps(_LARGE_MAP_SHAPES)])
"""Long and many rows: work for several threads, and more than one piece of whatever the kernels cut rows into."""


def gradients(
    function: Callable[..., Any], tensors: Sequence[Tensor], create_graph: bool = False
) -> tuple[Tensor, ...]:
    """Gradients of :func:`weighted_sum` of what ``function`` returns, by those tensors that require one.

    They are zeros where the sum does not depend on a tensor.
    """
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    number = weighted_sum(function(*tensors))
    if not number.requires_grad:
        return tuple(torch.zeros_like(tensor) for tensor in wanted)
    return torch.autograd.grad(number, wanted, create_graph=create_graph, materialize_grads=True)


def derivative(function: Callable[..., Any]) -> Callable[..., tuple[Tensor, ...]]:
    """The function that returns :func:`gradients`, to be differentiated again."""
    return lambda *tensors: gradients(function, tensors, create_graph=True)
