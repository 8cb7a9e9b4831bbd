"""Bad input: a TypeError or ValueError that names the operation and the argument, on every route, and never a crash."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import fastvi
from fastvi.ops._operation import OPERATIONS
from support.operations import TYPICAL, Sample, function_of, public_name
from support.place import place

# With every tensor argument that the operation has.
FULLEST = {sample.operation: sample for sample in sorted(TYPICAL, key=lambda sample: len(sample.names))}.values()
ARGUMENTS = [(sample, name) for sample in FULLEST for name in sample.names]
AMONG_OTHERS = [(sample, name) for sample, name in ARGUMENTS if len(sample.names) > 1]


def named_id(value: object) -> str:
    """An id without an address in it: workers that share the tests compare what they collect."""
    return getattr(value, "__name__", str(value))


def may_be_number(sample: Sample, name: str) -> bool:
    operation = OPERATIONS[sample.operation]
    return name in (*operation.factors, *operation.numbers)


def named(name: str) -> str:
    return re.escape(public_name(name))


def call_with(sample: Sample, **changed: object):
    arguments = dict(zip(sample.names, sample.tensors(torch.float32), strict=True)) | sample.constants | changed
    return function_of(fastvi, sample.operation)(**arguments)


def each(pairs: list[tuple[Sample, str]]):
    return pytest.mark.parametrize(
        ("sample", "name"), pairs, ids=[f"{sample.operation}-{name}" for sample, name in pairs]
    )


@each(ARGUMENTS)
@pytest.mark.parametrize(
    "wrong", ["text", [1.0], np.ones((3, 5), np.float32), True, object()], ids=lambda wrong: type(wrong).__name__
)
def test_not_a_tensor(sample, name, wrong):
    message = rf"{sample.operation}: {named(name)} must be a torch.Tensor.*got {type(wrong).__name__}"
    with pytest.raises(TypeError, match=message):
        call_with(sample, **{name: wrong})


@each([pair for pair in ARGUMENTS if not may_be_number(*pair)])
def test_numbers_are_no_tensors(sample, name):
    with pytest.raises(TypeError, match=rf"{sample.operation}: {named(name)} must be a torch.Tensor, got float"):
        call_with(sample, **{name: 1.0})


REQUIRED = [p for p in ARGUMENTS if not p[1].startswith(("prior_", "bias")) and p[1] != "inverse_mass"]


@each(REQUIRED)
def test_none_for_a_required_tensor(sample, name):
    with pytest.raises(TypeError, match=rf"{sample.operation}: {named(name)} must be a torch.Tensor.*, got None"):
        call_with(sample, **{name: None})


WRONG_DTYPES = [torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn]


@pytest.mark.parametrize("dtype", WRONG_DTYPES, ids=str)
@each(ARGUMENTS)
def test_wrong_dtype(sample, name, dtype):
    if dtype is torch.bool and name in OPERATIONS[sample.operation].truths:
        return  # zeros and ones, as tests/test_numpy_arguments.py has them
    wrong = place.ones(sample.arguments[name].shape, dtype=dtype)
    with pytest.raises(TypeError, match=rf"{sample.operation}: {named(name)} has dtype {dtype}, expected"):
        call_with(sample, **{name: wrong})


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@each(AMONG_OTHERS)
def test_mismatched_dtypes(sample, name, dtype):
    wrong = place.ones(sample.arguments[name].shape, dtype=dtype)
    other = named(name if name != sample.names[0] else sample.names[1])  # the first that differs from the first one
    with pytest.raises(TypeError, match=rf"{sample.operation}: {other} has dtype .*, but {sample.names[0]} has"):
        call_with(sample, **{name: wrong})


@each([(sample, name) for sample, name in ARGUMENTS if sample.arguments[name].shape])
def test_sparse(sample, name):
    wrong = place.ones(sample.arguments[name].shape).to_sparse()
    message = rf"{sample.operation}: {named(name)} has layout torch.sparse_coo, expected torch.strided"
    with pytest.raises(ValueError, match=message):
        call_with(sample, **{name: wrong})


@pytest.mark.parametrize("device", [place.device, "meta"])
@each(AMONG_OTHERS)
def test_shapes_that_do_not_broadcast(sample, name, device):
    """The message names the argument and tells its shape; also where only shapes are known."""
    tensors = {each: torch.ones(argument.shape, device=device) for each, argument in sample.arguments.items()}
    shape = (*sample.arguments[name].shape[:-1], 7)
    tensors[name] = torch.ones(shape, device=device)
    with pytest.raises(ValueError, match=rf"{sample.operation}: .*{named(name)}.*7") as raised:
        function_of(fastvi, sample.operation)(**tensors, **sample.constants)
    assert "expected" in str(raised.value) or "do not broadcast" in str(raised.value)


@each(AMONG_OTHERS)
def test_another_device(sample, name):
    wrong = torch.ones(sample.arguments[name].shape, device="meta")
    with pytest.raises(ValueError, match=rf"{sample.operation}: .* is on .*, but .* is on .*"):
        call_with(sample, **{name: wrong})


# Operands whose last dimension is the event: not those of maps, of which any may be a number.
EVENTS = [
    (sample, name)
    for sample, name in ARGUMENTS
    if not OPERATIONS[sample.operation].factors
    and not may_be_number(sample, name)
    and not name.startswith(("weight", "bias"))
]


@pytest.mark.parametrize("device", [place.device, "meta"])
@each(EVENTS)
def test_no_dimension(sample, name, device):
    tensors = {each: torch.ones(argument.shape, device=device) for each, argument in sample.arguments.items()}
    tensors[name] = torch.ones((), device=device)
    with pytest.raises(ValueError, match=rf"{sample.operation}: .*{name if name not in {'x', 'log_weights'} else ''}"):
        function_of(fastvi, sample.operation)(**tensors, **sample.constants)


@pytest.mark.parametrize("device", [place.device, "meta"])
def test_no_dimension_anywhere(device):
    number = torch.ones((), device=device)
    with pytest.raises(ValueError, match="leapfrog_step: q has no dimension"):
        fastvi.leapfrog_step(number, number, number, number)
    with pytest.raises(ValueError, match="kinetic_energy: p has no dimension"):
        fastvi.kinetic_energy(number)


def test_shapes_of_the_linear_layer():
    h, weight, bias, x = place.ones(3, 4), place.ones(5, 4), place.ones(5), place.ones(3, 5)
    for wrong, message in (
        ((h, weight[0], bias, x), r"weight has shape \(4,\)"),
        ((h, weight.t(), bias, x), r"h has shape \(3, 4\), expected \(\.\.\., 5\)"),
        ((h, weight, bias[:4], x), r"bias has shape \(4,\), expected \(5,\)"),
        ((h, weight, bias.unsqueeze(0), x), r"bias has shape \(1, 5\), expected \(5,\)"),
        ((h, weight, bias, x[:, :4]), r"x has shape \(3, 4\), expected \(\.\.\., 5\)"),
        ((h[:2], weight, bias, x), r"leading shapes do not broadcast: got h \(2, 4\), x \(3, 5\)"),
    ):
        with pytest.raises(ValueError, match=f"linear_bernoulli_log_prob: {message}"):
            fastvi.linear_bernoulli_log_prob(*wrong)


def test_layers_of_a_perceptron():
    x, first, second, bias = place.ones(3, 4), place.ones(5, 4), place.ones(2, 5), place.ones(5)
    for error, arguments, message in (
        (ValueError, ([],), "got 0 weights, expected one for each layer"),
        (ValueError, ([], []), "got 0 weights, expected one for each layer"),
        (ValueError, ([first, second], [bias]), "got 2 weights and 1 biases, expected one of each for a layer"),
        (
            ValueError,
            ([second, first],),
            r"weights[0] has shape (2, 5), expected (features out, 4) for x of shape (3, 4)",
        ),
        (
            ValueError,
            ([first, second.t()],),
            "weights[1] has shape (5, 2), expected (features out, 5) for the 5 features of the layer before",
        ),
        (ValueError, ([first, second], [bias, bias]), "biases[1] has shape (5,), expected (2,)"),
        (ValueError, ([first, second[0]],), "weights[1] has shape (5,)"),
        (TypeError, (first,), "weights must be a list or a tuple of torch.Tensors, got Tensor"),
        (TypeError, ([first], bias), "biases must be None, a list or a tuple, got Tensor"),
        (TypeError, (iter([first]),), "weights must be a list or a tuple of torch.Tensors, got list_iterator"),
        (TypeError, ("weights",), "weights must be a list or a tuple of torch.Tensors, got str"),
        (TypeError, (None,), "weights must be a list or a tuple of torch.Tensors, got NoneType"),
    ):
        with pytest.raises(error, match=rf"^mlp: {re.escape(message)}"):
            fastvi.mlp(x, *arguments)
    with pytest.raises(ValueError, match=r"^mlp_bernoulli_log_prob: weights\[1\] has shape \(5, 2\)"):
        fastvi.mlp_bernoulli_log_prob(x, [first, second.t()], None, place.ones(3, 2))
    with pytest.raises(ValueError, match=r"^mlp_bernoulli_log_prob: x has shape \(3, 3\), expected \(..., 2\)"):
        fastvi.mlp_bernoulli_log_prob(x, [first, second], None, place.ones(3, 3))
    with pytest.raises(ValueError, match=r"^mlp_bernoulli_log_prob: leading shapes do not broadcast: got z \(3, 4\)"):
        fastvi.mlp_bernoulli_log_prob(x, [first, second], None, place.ones(2, 2))


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_layers_are_named_by_their_place_in_any_depth(count):
    weights = [place.ones(3, 3) for _ in range(count)]
    x = place.ones(2, 3)
    for i in range(count):
        for wrong, error in ((place.ones(3, 3, dtype=torch.float64), TypeError), (place.ones(3, 2), ValueError)):
            changed = [wrong if j == i else weight for j, weight in enumerate(weights)]
            with pytest.raises(error, match=rf"^mlp: weights\[{i}\] has"):
                fastvi.mlp(x, changed)
            biases = [wrong[0] if j == i and error is TypeError else place.ones(3) for j in range(count)]
            if error is TypeError:
                with pytest.raises(error, match=rf"^mlp: biases\[{i}\] has"):
                    fastvi.mlp(x, weights, biases)
            with pytest.raises(error, match=rf"^mlp_bernoulli_log_prob: weights\[{i}\] has"):
                fastvi.mlp_bernoulli_log_prob(x, changed, None, x)


@pytest.mark.parametrize(
    "activation", ["leaky_relu", "identity", "Tanh", "", None, 1, torch.tanh, ["tanh"]], ids=named_id
)
def test_activation(activation):
    weight = place.ones(3, 3)
    for operation, call in (
        ("mlp", lambda: fastvi.mlp(weight, [weight], activation=activation)),
        ("mlp_bernoulli_log_prob", lambda: fastvi.mlp_bernoulli_log_prob(weight, [weight], None, weight, activation)),
    ):
        with pytest.raises(
            (TypeError, ValueError), match=rf"^{operation}: activation must be one of tanh, sigmoid, .*, got "
        ):
            call()


def test_activation_of_the_raw_operators():
    weight = place.ones(3, 3)
    none = [None] * 7
    for operation, arguments in (
        ("mlp", (weight, weight, *none, "sin", False)),
        ("mlp_bernoulli_log_prob", (weight, weight, weight, *none, "sin")),
    ):
        with pytest.raises(ValueError, match=f"^{operation}: activation must be one of tanh, .*, got 'sin'"):
            getattr(torch.ops.fastvi, operation)(*arguments)


def test_activate_last_is_a_flag():
    weight = place.ones(3, 3)
    with pytest.raises(TypeError, match=r"^mlp: activate_last must be"):
        fastvi.mlp(weight, [weight], activate_last="no")


@pytest.mark.parametrize("free_bits", [-0.1, float("nan"), float("-inf")])
def test_free_bits_out_of_range(free_bits):
    with pytest.raises(ValueError, match=r"kl_normal: free_bits is .*, expected a non-negative number"):
        fastvi.kl_normal(place.ones(3), place.ones(3), free_bits=free_bits)


@pytest.mark.parametrize("free_bits", ["much", None, [0.5], place.ones(3)], ids=str)
def test_free_bits_of_the_wrong_type(free_bits):
    with pytest.raises(TypeError, match="kl_normal: free_bits must be a number, got"):
        fastvi.kl_normal(place.ones(3), place.ones(3), free_bits=free_bits)


@pytest.mark.parametrize("kick", ["half", None, [0.5]], ids=str)
def test_kick_of_the_wrong_type(kick):
    q = place.ones(3)
    with pytest.raises(TypeError, match="leapfrog_step: kick must be a number, got"):
        fastvi.leapfrog_step(q, q, q, 0.1, kick=kick)


AXIS_OPERATIONS = ["log_mean_exp", "importance_weights", "effective_sample_size"]


@pytest.mark.parametrize("operation", AXIS_OPERATIONS)
def test_dim(operation):
    function, x = getattr(fastvi, operation), place.ones(2, 3)
    for dim in (2, -3, 100):
        message = rf"{operation}: dim is {dim}, expected one of the 2 dimensions of \(2, 3\)"
        with pytest.raises(ValueError, match=message):
            function(x, dim)
    for wrong in (0.0, "0", None, True, (0,), torch.tensor(0)):
        with pytest.raises(TypeError, match=rf"{operation}: dim must be an int, got {type(wrong).__name__}"):
            function(x, wrong)
    with pytest.raises(ValueError, match=rf"{operation}: .*\(2, 0\), expected"):
        function(place.ones(2, 0), 1)


MEAN = place.ones(3, 5)
DRAWS = {
    "rsample_normal": lambda **changed: fastvi.rsample_normal(MEAN, MEAN, **changed),
    "rsample_normal_with_log_ratio": lambda **changed: fastvi.rsample_normal_with_log_ratio(
        MEAN, MEAN, **({"num_samples": 2} | changed)
    ),
    "standard_normal": lambda **changed: fastvi.standard_normal((3, 5), **changed, device=place.device),
}


@pytest.mark.parametrize("operation", DRAWS)
def test_seed(operation):
    draw = DRAWS[operation]
    for seed in (-1, 2**63, 2**64):
        with pytest.raises(ValueError, match=rf"{operation}: seed is {seed}, expected a number in \[0, 2\^63\)"):
            draw(seed=seed)
    for seed in (1.0, "1", True, [1]):
        with pytest.raises(TypeError, match=rf"{operation}: seed must be an int.*, got {type(seed).__name__}"):
            draw(seed=seed)
    for dtype in (torch.int32, torch.float32, torch.bool):
        with pytest.raises(TypeError, match=rf"{operation}: seed has dtype {dtype}, expected torch.int64"):
            draw(seed=place.ones((), dtype=dtype))
    with pytest.raises(ValueError, match=rf"{operation}: seed has shape \(1,\), expected a tensor without dimensions"):
        draw(seed=place.ones(1, dtype=torch.int64))
    with pytest.raises(ValueError, match=rf"{operation}: seed is on meta, expected {place.device}"):
        draw(seed=torch.ones((), dtype=torch.int64, device="meta"))


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        ("rsample_normal", "sample_shape"),
        ("rsample_normal", "row_offset"),
        ("rsample_normal_with_log_ratio", "num_samples"),
        ("rsample_normal_with_log_ratio", "row_offset"),
    ],
)
def test_sizes(operation, name):
    draw = DRAWS[operation]
    with pytest.raises(ValueError, match=rf"{operation}: {name} is -1, expected a non-negative integer"):
        draw(**{name: -1})
    for wrong in (1.0, "2", True, None):
        with pytest.raises(TypeError, match=rf"{operation}: {name} must be an integer.*, got {type(wrong).__name__}"):
            draw(**{name: wrong})


def test_shapes_of_draws():
    for operation, draw in (
        ("rsample_normal", lambda shape: fastvi.rsample_normal(MEAN, MEAN, shape)),
        ("standard_normal", fastvi.standard_normal),
    ):
        name = "sample_shape" if operation == "rsample_normal" else "shape"
        with pytest.raises(ValueError, match=rf"{operation}: {name}\[1\] is -2, expected a non-negative integer"):
            draw((3, -2))
        with pytest.raises(TypeError, match=rf"{operation}: {name}\[0\] must be an integer, got float"):
            draw((3.0,))


def test_counts_past_the_counter():
    """What the generator's counter cannot tell apart would repeat silently; nothing is allocated before the check."""
    with pytest.raises(ValueError, match=r"rsample_normal: 4294967296 samples, expected at most 4294967295"):
        fastvi.rsample_normal(place.ones(0, 1), place.ones(0, 1), 2**32)
    with pytest.raises(ValueError, match=r"rsample_normal_with_log_ratio: 4294967296 samples"):
        fastvi.rsample_normal_with_log_ratio(place.ones(0, 1), place.ones(0, 1), 2**32)
    wide = place.ones(()).expand(2**34 + 1)
    with pytest.raises(ValueError, match=r"rsample_normal: the event has \d+ dimensions, expected at most"):
        fastvi.rsample_normal(wide, wide, 0)
    for name, draw in DRAWS.items():
        if name != "standard_normal":
            with pytest.raises(ValueError, match=rf"{name}: row_offset"):
                draw(row_offset=2**63)


def test_standard_normal():
    freed = place.ones(3)  # whose text nobody may ask for
    freed.untyped_storage().resize_(0)
    for dtype in (torch.int64, torch.complex64, torch.float8_e4m3fn):
        with pytest.raises(TypeError, match=rf"standard_normal: dtype is {dtype}, expected torch.float32, "):
            fastvi.standard_normal(3, dtype=dtype, device=place.device)
    for wrong in ("float32", 1.0, freed):
        message = rf"standard_normal: dtype must be a torch\.dtype, got {type(wrong).__name__}"
        with pytest.raises(TypeError, match=message):
            fastvi.standard_normal(3, dtype=wrong, device=place.device)
    with pytest.raises(TypeError, match=r"standard_normal: shape must be an integer or a sequence of them, got str"):
        fastvi.standard_normal("3", device=place.device)


def test_unknown_arguments_and_names():
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        fastvi.kl_normal(MEAN, MEAN, prior=MEAN)
    with pytest.raises(AttributeError, match="module 'fastvi' has no attribute 'kl_gaussian'"):
        _ = fastvi.kl_gaussian


@pytest.mark.parametrize("sample", [sample for sample in FULLEST if len(sample.names) > 1], ids=str)
def test_raw_operator_with_bad_shapes(sample):
    """Called past the checks, the registered operators refuse what the kernels could not read."""
    tensors = sample.tensors()
    wrong = [*tensors[:-1], place.ones((*tensors[-1].shape[:-1], 7), dtype=torch.float64)]
    with pytest.raises((ValueError, RuntimeError)):
        getattr(torch.ops.fastvi, sample.operation)(*sample.operator_arguments(wrong))


OUTSIDE = {
    "grey values": ([0.0, 128.0, 255.0], r"values from 0 to 255; grey values from 0 to 255 are divided by 255 first"),
    "negative": ([0.0, -0.5, 1.0], r"values from -0\.5 to 1"),
    "NaN": ([0.0, float("nan"), 1.0], r"NaN among them"),
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_observations_outside_the_unit_interval_are_named_where_that_is_asked_for(kind):
    values, words = OUTSIDE[kind]
    x, logits, weight, bias = place.tensor([values]), place.zeros(1, 3), place.zeros(3, 2), place.zeros(3)
    calls = {
        "bernoulli_log_prob": lambda validate: fastvi.bernoulli_log_prob(x, logits, validate),
        "continuous_bernoulli_log_prob": lambda validate: fastvi.continuous_bernoulli_log_prob(x, logits, validate),
        "linear_bernoulli_log_prob": lambda validate: fastvi.linear_bernoulli_log_prob(
            place.zeros(1, 2), weight, bias, x, validate
        ),
        "mlp_bernoulli_log_prob": lambda validate: fastvi.mlp_bernoulli_log_prob(
            place.zeros(1, 2), [weight], [bias], x, validate_args=validate
        ),
    }
    for name, call in calls.items():
        call(False)
        with pytest.raises(ValueError, match=rf"^{name}: x must lie in \[0, 1\], got {words}$"):
            call(True)


def test_observations_in_the_unit_interval_pass():
    x, logits = place.tensor([[0.0, 0.25, 1.0]], requires_grad=True), place.zeros(1, 3)
    checked = fastvi.bernoulli_log_prob(x, logits, validate_args=True)
    assert torch.equal(checked, fastvi.bernoulli_log_prob(x, logits))
    assert fastvi.bernoulli_log_prob(x[:, :0], logits[:, :0], validate_args=True).item() == 0.0
