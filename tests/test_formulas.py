"""The scalar formulas of the native modules against a wider floating-point type: errors in units in the last place.

Every value passes through the vectorised loop the operations use, on every instruction set this processor has.
`python tests/test_formulas.py` prints the table of measured errors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch

from fastvi import _native

Array = npt.NDArray[Any]

# What the formulas promise. The best possible is half an ulp; each of the two or three roundings behind the last one
# adds up to another half.
MAX_ULP = 2.0
# Those that cancel, which they do where said: log_gamma between 2/3 and 4/3 is a difference of two numbers of its size,
# and digamma below 8 one whose parts are up to three times as large as its unit, which is that of 1.
CANCELLING = {"log_gamma": 6.0, "digamma": 5.5}

DTYPES = ("float32", "float64")
WIDER: dict[str, type[np.floating[Any]]] = {"float32": np.float64, "float64": np.longdouble}
ISAS = tuple(_native.available_isas())

# A float64 formula can only be judged by a type with several more bits; where long double has none, that half of the
# table is left out.
NEEDS_LONG_DOUBLE = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < np.finfo(np.float64).nmant + 8, reason="long double is no wider than double here"
)
DTYPE_PARAMS = [pytest.param("float32"), pytest.param("float64", marks=NEEDS_LONG_DOUBLE)]


def _exp_minus_1_minus(x: Array) -> Array:
    """e^x - 1 - x; the series for |x| < 1/2, where the difference would cancel."""
    near = np.where(np.abs(x) < 0.5, x, 0)
    series = np.zeros_like(x)
    for order in range(24, 1, -1):
        series = (series * near) + x.dtype.type(1) / math.factorial(order)
    return np.where(np.abs(x) < 0.5, near * near * series, np.where(x == np.inf, x, np.expm1(x) - x))


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _sigmoid(x: Array) -> Array:
    exponential = np.exp(-np.abs(x))
    result: Array = np.where(x < 0, exponential, 1) / (1 + exponential)
    return result


# Those of Stirling's series: B_2k / 2k for k = 1, 2, ...
STIRLING = [(1, 12), (-1, 120), (1, 252), (-1, 240), (1, 132), (-691, 32760), (1, 12), (-3617, 8160)]


def _log_gamma(x: Array) -> Array:
    """By its distance to the zero at 1 or 2, from Stirling's series thirty steps further on; nothing cancels there."""
    wide = x.dtype.type
    y = np.where(x < 0.5, x + 1, x)
    zero = np.where(y < 1.5, wide(1), wide(2))
    distance, far = y - zero, zero + 30
    ratio = np.log1p(distance / far)
    result = (far + distance - 0.5) * ratio + distance * (np.log(far) - 1)
    for order, (numerator, denominator) in enumerate(STIRLING):
        power = 2 * order + 1
        result += wide(numerator) / (denominator * power) * far**-power * np.expm1(-power * ratio)
    for step in range(30):
        result -= np.log1p(distance / (zero + step))
    return np.where(x == np.inf, x, result - np.where(x < 0.5, np.log(x), 0))


def _digamma(x: Array) -> Array:
    wide = x.dtype.type
    z = np.where(x < 30, x + 30, x)
    result = np.log(z) - 1 / (2 * z)
    for order, (numerator, denominator) in enumerate(STIRLING):
        result -= wide(numerator) / denominator / z ** (2 * order + 2)
    for step in range(30):
        result -= np.where(x < 30, 1 / (x + step), 0)
    return result


UNARY: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "exp_nonpositive": np.exp,
    "scale_by_exp": np.exp,
    "scale_square_by_exp": np.exp,
    "expm1": np.expm1,
    "exp_minus_1_minus": _exp_minus_1_minus,
    "log": np.log,
    "log1p": np.log1p,
    "log1p_unit": np.log1p,
    "softplus": _softplus,
    "log_gamma": _log_gamma,
    "digamma": _digamma,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
}


def _neg_log_uniform(word: Array, wide: type[np.floating[Any]]) -> Array:
    distance = (np.minimum(word, ~word).astype(wide) + wide(0.5)) * wide(2.0**-32)
    result: Array = np.where(word < ~word, -np.log(distance), -np.log1p(-distance))
    return result


def _sin_turn(turn: Array, wide: type[np.floating[Any]]) -> Array:
    """sin(2 pi turn / 2^32), reduced to |angle| <= pi/4 in integers."""
    quadrant = (turn + np.uint32(2**29)) >> np.uint32(30)
    remainder = (turn - (quadrant << np.uint32(30))).view(np.int32)
    two_pi = 8 * np.arctan(wide(1))
    angle = remainder.astype(wide) * (two_pi * wide(2.0**-32))
    magnitude = np.where(quadrant & 1, np.cos(angle), np.sin(angle))
    result: Array = np.where(quadrant & 2, -magnitude, magnitude)
    return result


OF_WORD: dict[str, Callable[[Array, type[np.floating[Any]]], Array]] = {
    "neg_log_uniform": _neg_log_uniform,
    "sin_turn": _sin_turn,
    "cos_turn": lambda turn, wide: _sin_turn(turn + np.uint32(2**30), wide),
}

NAMES = (*UNARY, *OF_WORD)
DOMAINS = {
    "exp_nonpositive": (-np.inf, 0.0),
    "log1p_unit": (0.0, 1.0),
    "log_gamma": (0.0, np.inf),
    "digamma": (0.0, np.inf),
}


def evaluate(isa: str, name: str, dtype: str, inputs: Array) -> Array:
    """The native function `name` of each element of `inputs`."""
    inputs = np.ascontiguousarray(inputs, dtype=np.uint32 if name in OF_WORD else dtype)
    outputs = np.empty(inputs.shape, dtype)
    _native.load(isa).evaluate_formula(name, dtype, inputs.ctypes.data, outputs.ctypes.data, inputs.size)
    return outputs


@functools.lru_cache(maxsize=2)
def sample_numbers(dtype: str) -> Array:
    """Numbers of every exponent and sign, dense around the points where a formula changes its form."""
    random = np.random.default_rng(20_150_510)
    if dtype == "float32":
        sweep = np.arange(0, 2**32, 1009, dtype=np.uint32).view(np.float32)
        dense = 100_000
    else:
        sweep = random.integers(0, 2**64, 60_000, dtype=np.uint64).view(np.float64)
        dense = 12_000
    limits = np.finfo(dtype)
    overflow, underflow = np.log(limits.max), np.log(limits.smallest_subnormal)
    halves_of_ln2 = np.arange(-12, 13) * (np.log(2) / 2)
    turning_points = np.concatenate(
        [halves_of_ln2, [-1.14, 1.14, -1, 1, 2 / 3, 4 / 3, 1 / 3, -1 / 3, overflow, underflow, np.log(limits.tiny)]]
    ).astype(dtype)
    # Spacings rather than fractions: the numbers directly on both sides of each point.
    steps = np.arange(-200, 201).astype(dtype)
    neighbours = turning_points[:, None] + steps * np.spacing(np.abs(turning_points))[:, None]
    tiny = random.uniform(-1, 1, dense) * 2.0 ** random.integers(limits.minexp, 0, dense)
    parts = [sweep, neighbours.ravel(), tiny]
    parts += [random.uniform(low, high, dense) for low, high in ((underflow, overflow), (-20, 20), (-2, 2), (0.5, 2))]
    return np.concatenate([part.astype(dtype) for part in parts])


@functools.lru_cache(maxsize=1)
def sample_words() -> Array:
    """32-bit words over the whole range, dense around every eighth of it."""
    around = np.arange(-3000, 3000)
    eighths = (np.arange(8)[:, None] * 2**29 + around) % 2**32
    thirds = (np.array([1, 2])[:, None] * 2**32 // 3 + around) % 2**32
    powers = (2 ** np.arange(32)[:, None] + np.arange(-64, 64)) % 2**32
    return np.concatenate(
        [part.astype(np.uint32).ravel() for part in (np.arange(0, 2**32, 20_011), eighths, thirds, powers, ~powers)]
    )


@functools.lru_cache(maxsize=2)
def sample(name: str, dtype: str) -> tuple[Array, Array]:
    """Inputs of `name` and the wide reference values."""
    wide = WIDER[dtype]
    with np.errstate(all="ignore"):
        if name in OF_WORD:
            words = sample_words()
            return words, OF_WORD[name](words, wide)
        numbers = sample_numbers(dtype)
        if name in DOMAINS:
            low, high = DOMAINS[name]
            numbers = numbers[~((numbers < low) | (numbers > high))]  # NaN belongs to every domain
        if name in CANCELLING:
            numbers = numbers[::8]  # their wide values take thirty steps each
        return numbers, UNARY[name](numbers.astype(wide))


class Errors(NamedTuple):
    """Largest and mean error in ulp, and the input of the largest."""

    largest: float
    mean: float
    worst_input: float


def ulp_errors(results: Array, reference: Array, least: float = 0.0) -> Array:
    """|results - reference| in units of the last place of the result's type at the reference, subnormals included.

    Or in those of the number ``least``, where the reference is smaller: for a function with a zero that is no number.

    Infinity stands for the first power of two that the type lacks, so that rounding to or away from it counts like any
    other rounding. Where both are NaN the error is zero, where one is, infinite.
    """
    limits = np.finfo(results.dtype)
    wide = reference.dtype.type
    beyond = np.ldexp(wide(1), limits.maxexp)
    reference_nan, result_nan = np.isnan(reference), np.isnan(results)
    expected = np.clip(np.where(reference_nan, 0, reference), -beyond, beyond)
    actual = np.clip(np.where(result_nan, 0, results).astype(wide), -beyond, beyond)
    size = np.maximum(np.abs(expected), wide(least))
    exponent = np.where(size == 0, limits.minexp, np.frexp(size)[1] - 1)
    exponent = np.clip(exponent, limits.minexp, limits.maxexp - 1)
    errors = np.abs(actual - expected) / np.ldexp(wide(1), exponent - limits.nmant)
    return np.where(reference_nan | result_nan, np.where(reference_nan & result_nan, 0, np.inf), errors)


def measure(isa: str, name: str, dtype: str) -> Errors:
    inputs, reference = sample(name, dtype)
    errors = ulp_errors(evaluate(isa, name, dtype, inputs), reference, least=1.0 if name == "digamma" else 0.0)
    worst = int(np.argmax(errors))
    return Errors(float(errors[worst]), float(np.mean(errors)), float(inputs[worst]))


@pytest.mark.parametrize("dtype", DTYPE_PARAMS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("isa", ISAS)
def test_error_is_within_its_bound(
    isa: str, name: str, dtype: str, record_property: Callable[[str, object], None]
) -> None:
    errors = measure(isa, name, dtype)
    record_property("max_ulp", errors.largest)
    record_property("mean_ulp", errors.mean)
    print(f"{isa} {dtype} {name}: max {errors.largest:.3f} ulp at {errors.worst_input!r}, mean {errors.mean:.3f} ulp")
    assert errors.largest <= CANCELLING.get(name, MAX_ULP)


def special_values(dtype: str) -> dict[str, list[tuple[float, float]]]:
    """Inputs whose result is exact."""
    smallest = float(np.finfo(dtype).smallest_subnormal)
    inf, nan = math.inf, math.nan
    exponential = [(0.0, 1.0), (-0.0, 1.0), (-inf, 0.0), (nan, nan)]
    unchanged = [(0.0, 0.0), (smallest, smallest), (nan, nan)]
    negative = [(-smallest, nan), (-1.0, nan), (-inf, nan)]
    return {
        "exp": [*exponential, (inf, inf)],
        "exp_nonpositive": exponential,
        "expm1": [*unchanged, (-smallest, -smallest), (inf, inf), (-inf, -1.0)],
        "exp_minus_1_minus": [(0.0, 0.0), (smallest, 0.0), (-smallest, 0.0), (inf, inf), (-inf, inf), (nan, nan)],
        "log": [*negative, (1.0, 0.0), (0.0, -inf), (-0.0, -inf), (inf, inf), (nan, nan)],
        "log1p": [*unchanged, (-smallest, -smallest), (-1.0, -inf), (-2.0, nan), (inf, inf), (-inf, nan)],
        "log1p_unit": unchanged,
        "log_gamma": [*negative, (0.0, inf), (1.0, 0.0), (2.0, 0.0), (inf, inf), (nan, nan)],
        "digamma": [*negative, (0.0, -inf), (-0.0, inf), (smallest, -inf), (inf, inf), (nan, nan)],
        "softplus": [(-inf, 0.0), (inf, inf), (nan, nan)],
        "sigmoid": [(0.0, 0.5), (-0.0, 0.5), (-inf, 0.0), (inf, 1.0), (nan, nan)],
        "sin_turn": [(0, 0.0), (2**30, 1.0), (2**31, 0.0), (3 * 2**30, -1.0)],
        "cos_turn": [(0, 1.0), (2**30, 0.0), (2**31, -1.0), (3 * 2**30, 0.0)],
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_special_values_are_exact(isa: str, dtype: str) -> None:
    for name, cases in special_values(dtype).items():
        inputs, expected = zip(*cases, strict=True)
        results = evaluate(isa, name, dtype, np.array(inputs))
        np.testing.assert_array_equal(results, np.array(expected, dtype), err_msg=name)


@pytest.mark.parametrize("name", ["expm1", "log1p"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_negative_zero_stays(isa: str, dtype: str, name: str) -> None:
    (result,) = evaluate(isa, name, dtype, np.array([-0.0]))
    assert result == 0
    assert np.signbit(result)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_neg_log_uniform_is_positive_and_reaches_both_tails(isa: str, dtype: str) -> None:
    ends = evaluate(isa, "neg_log_uniform", dtype, np.array([0, 2**32 - 1]))
    expected = np.array([33 * math.log(2), -math.log1p(-(2.0**-33))], dtype)
    np.testing.assert_allclose(ends, expected, rtol=MAX_ULP * np.finfo(dtype).eps)
    assert (evaluate(isa, "neg_log_uniform", dtype, sample_words()) > 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("isa", ISAS)
def test_value_does_not_depend_on_position(isa: str, name: str, dtype: str) -> None:
    """The vector body, its remainder and a lone element agree in every bit: chunking must not change a result."""
    whole, _ = sample(name, dtype)
    inputs = np.ascontiguousarray(whole[:: whole.size // 300])
    alone = np.concatenate([evaluate(isa, name, dtype, element) for element in inputs[:, None]])
    bits = np.dtype(dtype).str.replace("f", "u")
    together = evaluate(isa, name, dtype, inputs)
    number = ~np.isnan(together)
    np.testing.assert_array_equal(np.isnan(alone), ~number)
    np.testing.assert_array_equal(alone.view(bits)[number], together.view(bits)[number])


HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def convert(isa: str, name: str, dtype: str, inputs: torch.Tensor) -> torch.Tensor:
    """`inputs` widened from the 16-bit type `dtype` to float32, or narrowed to it, by the kernels' loop."""
    outputs = torch.empty(inputs.shape, dtype=torch.float32 if name == "widen" else HALVES[dtype])
    _native.load(isa).evaluate_formula(name, dtype, inputs.data_ptr(), outputs.data_ptr(), inputs.numel())
    return outputs


def assert_same_bits(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Every number agrees in every bit, the sign of zero included; a NaN is a NaN whatever it carries."""
    bits = torch.int32 if actual.dtype == torch.float32 else torch.int16
    assert torch.equal(actual.isnan(), expected.isnan())
    number = ~expected.isnan()
    assert torch.equal(actual.view(bits)[number], expected.view(bits)[number])


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("isa", ISAS)
def test_widening_is_exact_for_every_number(isa: str, dtype: str) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(HALVES[dtype])
    assert_same_bits(convert(isa, "widen", dtype, every), every.float())


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("isa", ISAS)
def test_narrowing_rounds_as_pytorch_does(isa: str, dtype: str) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(HALVES[dtype]).float()
    finite = every[every.isfinite()].unique()
    # Half way between neighbours, and beyond the largest: ties, with the numbers next to them on both sides.
    step = finite[-1] - finite[-2]
    ends = torch.stack([finite[0] - step / 2, finite[-1] + step / 2])
    ties = torch.cat([finite[:-1].double().add(finite[1:].double()).div(2).float(), ends])
    around = [ties, *(torch.nextafter(ties, torch.full_like(ties, side)) for side in (-math.inf, math.inf))]
    patterns = torch.from_numpy(np.arange(0, 2**32, 1009, dtype=np.uint32).view(np.float32))
    inputs = torch.cat([every, *around, patterns])
    assert_same_bits(convert(isa, "narrow", dtype, inputs), inputs.to(HALVES[dtype]))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("isa", ISAS)
def test_conversion_does_not_depend_on_position(isa: str, dtype: str) -> None:
    """Full vectors, remainders and lone elements: every length up to a few vectors."""
    wide = torch.linspace(-3, 3, 70)
    for count in range(71):
        narrowed = convert(isa, "narrow", dtype, wide[:count])
        assert_same_bits(narrowed, wide[:count].to(HALVES[dtype]))
        assert_same_bits(convert(isa, "widen", dtype, narrowed), narrowed.float())


@pytest.mark.parametrize("isa", ISAS)
def test_subnormals_survive_where_float32_flushes_them(isa: str) -> None:
    every = torch.arange(1, 2**10, dtype=torch.int16).view(torch.float16)
    expected = every.float()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        widened = convert(isa, "widen", "float16", every)
        narrowed = convert(isa, "narrow", "float16", expected)
    finally:
        torch.set_flush_denormal(False)
    assert_same_bits(widened, expected)
    assert_same_bits(narrowed, every)


def main() -> None:
    print(f"{'function':<18} {'dtype':<8} {'isa':<12} {'max ulp':>8} {'mean ulp':>9}  worst input")
    for name in NAMES:
        for dtype in DTYPES:
            for isa in ISAS:
                errors = measure(isa, name, dtype)
                print(
                    f"{name:<18} {dtype:<8} {isa:<12} {errors.largest:8.3f} {errors.mean:9.4f}  {errors.worst_input!r}"
                )


if __name__ == "__main__":
    main()
