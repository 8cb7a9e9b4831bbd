"""NumPy's integers and numbers, and others that Python takes, in place of int and float; values that are neither."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import fastvi
import fastvi.numpy as fnp
from fastvi.distributions import DiagNormal
from fastvi.evaluate import active_units, evaluate, stream_bounds
from fastvi.models import VAE
from fastvi.objectives import ELBO, IWAE, STL, DReG, LinearWarmUp
from fastvi.seeding import mix_seed
from support.operations import as_tuple


class Three:
    """An integer by ``__index__`` alone."""

    def __index__(self) -> int:
        return 3


NUMPY_INTEGERS = [
    np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64, np.intp, np.longlong
]  # fmt: skip
THREES: list[Any] = [*(kind(3) for kind in NUMPY_INTEGERS), Three()]
NUMBERS: list[Any] = [np.float16(0.5), np.float32(0.5), np.float64(0.5), np.longdouble(0.5), Fraction(1, 2)]

TENSOR, ARRAY = torch.linspace(-1, 1, 12).reshape(4, 3), np.linspace(-1, 1, 12).reshape(4, 3)

# Calls with one integer, by the name of its argument.
INTEGERS: dict[str, Callable[[Any], Any]] = {}
FLOATS: dict[str, Callable[[Any], Any]] = {}
for _place, _x, _library in (("fastvi", TENSOR, fastvi), ("fastvi.numpy", ARRAY, fnp)):

    def _bind(x: Any, library: Any) -> tuple[dict[str, Callable[[Any], Any]], dict[str, Callable[[Any], Any]]]:
        return {
            "dim of log_mean_exp": lambda v: library.log_mean_exp(x, v - 2),
            "dim of importance_weights": lambda v: library.importance_weights(x, v - 3),
            "dim of effective_sample_size": lambda v: library.effective_sample_size(x, v - 3),
            "seed of rsample_normal": lambda v: library.rsample_normal(x, x, 2, seed=v),
            "sample_shape": lambda v: library.rsample_normal(x, x, v, seed=1),
            "sample_shape of several": lambda v: library.rsample_normal(x, x, [v, 2], seed=1),
            "row_offset of rsample_normal": lambda v: library.rsample_normal(x, x, 2, seed=1, row_offset=v),
            "num_samples": lambda v: library.rsample_normal_with_log_ratio(x, x, v, seed=1),
            "seed of the log ratio": lambda v: library.rsample_normal_with_log_ratio(x, x, 2, seed=v),
            "row_offset of the log ratio": lambda v: library.rsample_normal_with_log_ratio(
                x, x, 2, seed=1, row_offset=v
            ),
            "seed of standard_normal": lambda v: library.standard_normal(5, v),
            "shape": lambda v: library.standard_normal(v, 1),
            "shape of several": lambda v: library.standard_normal((v, v), 1),
        }, {
            "free_bits": lambda v: library.kl_normal(x, x, free_bits=v),
            "step_size": lambda v: library.leapfrog_step(x, x, x, v),
            "inverse_mass": lambda v: library.leapfrog_step(x, x, x, 0.1, v),
            "kick": lambda v: library.leapfrog_step(x, x, x, 0.1, kick=v),
            "step_size of a momentum": lambda v: library.momentum_kick(x, x, v),
            "kick of momentum_kick": lambda v: library.momentum_kick(x, x, 0.1, kick=v),
            "inverse_mass of kinetic_energy": lambda v: library.kinetic_energy(x, v),
        }

    _integers, _floats = _bind(_x, _library)
    INTEGERS |= {f"{_place}: {name}": call for name, call in _integers.items()}
    FLOATS |= {f"{_place}: {name}": call for name, call in _floats.items()}

DIMS = [name for name in INTEGERS if "dim of" in name]


def same(result: Any, expected: Any) -> None:
    for one, other in zip(as_tuple(result), as_tuple(expected), strict=True):
        assert type(one) is type(other)
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other), strict=True)


@pytest.mark.parametrize("name", [name for name in INTEGERS if name not in DIMS])
def test_integers(name: str) -> None:
    expected = INTEGERS[name](3)
    for three in THREES:
        same(INTEGERS[name](three), expected)


@pytest.mark.parametrize("library", [fastvi, fnp], ids=["fastvi", "fastvi.numpy"])
@pytest.mark.parametrize("operation", ["log_mean_exp", "importance_weights", "effective_sample_size"])
def test_dims(library: Any, operation: str) -> None:
    x = TENSOR if library is fastvi else ARRAY
    for dim in (0, 1, -1, -2):
        for kind in NUMPY_INTEGERS:
            if dim >= 0 or np.issubdtype(kind, np.signedinteger):
                same(getattr(library, operation)(x, kind(dim)), getattr(library, operation)(x, dim))


@pytest.mark.parametrize("name", FLOATS)
def test_numbers(name: str) -> None:
    expected = FLOATS[name](0.5)
    for number in NUMBERS:
        same(FLOATS[name](number), expected)
    for three in THREES:
        same(FLOATS[name](three), FLOATS[name](3.0))


NO_INTEGERS: list[Any] = [
    True, np.True_, np.False_, 3.0, np.float64(3.0), np.float32(3.0), np.complex64(3), "3", b"3", None, object(), 3j,
    np.array(3), np.array([3]), Fraction(3), np.datetime64(3, "s"), np.timedelta64(3, "s"), np.str_("3"),
]  # fmt: skip
SEEDS = [name for name in INTEGERS if "seed" in name]


@pytest.mark.parametrize("name", INTEGERS)
def test_what_is_no_integer(name: str) -> None:
    call = INTEGERS[name] if name not in DIMS else _dim_call(name)
    for wrong in NO_INTEGERS:
        if wrong is None and name in SEEDS:
            continue
        with pytest.raises(TypeError, match=rf"must be an int.*, got {type(wrong).__name__}$"):
            call(wrong)


def _dim_call(name: str) -> Callable[[Any], Any]:
    library, x = (fnp, ARRAY) if name.startswith("fastvi.numpy") else (fastvi, TENSOR)
    return lambda dim: getattr(library, name.rpartition(" ")[2])(x, dim)


NO_NUMBERS: list[Any] = [
    True, np.True_, "0.5", None, object(), 0.5j, np.complex64(0.5), np.str_("0.5"), [0.5], np.timedelta64(3, "s")
]  # fmt: skip


@pytest.mark.parametrize("name", FLOATS)
def test_what_is_no_number(name: str) -> None:
    for wrong in NO_NUMBERS:
        if wrong is None and "inverse_mass" in name:
            continue
        with pytest.raises(TypeError, match=r"must be .*number, got"):
            FLOATS[name](wrong)


@pytest.mark.parametrize("name", [name for name in FLOATS if "free_bits" in name or "kick" in name])
def test_arrays_without_dimensions_are_no_numbers(name: str) -> None:
    """Neither here nor where an integer is asked for; factors may be arrays of their library's own."""
    for wrong in (np.array(0.5), torch.tensor(0.5)):
        with pytest.raises(TypeError, match=f"must be a number, got {type(wrong).__name__}"):
            FLOATS[name](wrong)


@pytest.mark.parametrize("library", [fastvi, fnp], ids=["fastvi", "fastvi.numpy"])
def test_ends_of_the_ranges(library: Any) -> None:
    last = library.standard_normal(4, 2**63 - 1)
    for kind in (np.int64, np.uint64):
        same(library.standard_normal(4, kind(2**63 - 1)), last)
    for wrong in (np.uint64(2**63), np.uint64(2**64 - 1), np.int64(-1), np.int8(-1)):
        message = rf"standard_normal: seed is {int(wrong)}, expected a number in \[0, 2\^63\)"
        with pytest.raises(ValueError, match=message):
            library.standard_normal(4, wrong)
    with pytest.raises(ValueError, match="standard_normal: shape is -1, expected a non-negative integer"):
        library.standard_normal(np.int64(-1))
    x = TENSOR if library is fastvi else ARRAY
    with pytest.raises(ValueError, match=r"log_mean_exp: dim is 2, expected one of the 2 dimensions"):
        library.log_mean_exp(x, np.int64(2))
    with pytest.raises(ValueError, match=r"kl_normal: free_bits is -0\.5, expected a non-negative number"):
        library.kl_normal(x, x, free_bits=np.float32(-0.5))


@pytest.mark.parametrize("library", [fastvi, fnp], ids=["fastvi", "fastvi.numpy"])
def test_shapes(library: Any) -> None:
    expected = library.standard_normal((2, 3), 1)
    for shape in ([2, 3], torch.Size([2, 3]), (np.int64(2), 3), [np.uint8(2), np.int32(3)], np.zeros((2, 3)).shape):
        same(library.standard_normal(shape, 1), expected)
    for wrong in (np.array([2, 3]), "23", range(2), {2: 3}, 2.0):
        with pytest.raises(TypeError, match="shape must be an integer or a sequence of them, got"):
            library.standard_normal(wrong, 1)


@pytest.mark.parametrize("library", [fastvi, fnp], ids=["fastvi", "fastvi.numpy"])
def test_running_log_mean_exp(library: Any) -> None:
    x = TENSOR if library is fastvi else ARRAY
    for dim in (np.int64(0), np.uint8(1), np.int32(-1)):
        same(library.LogMeanExp(dim).update(x).value, library.LogMeanExp(int(dim)).update(x).value)
        same(library.LogMeanExp(dim=dim).update(x).update(x).ess, library.LogMeanExp(int(dim)).update(x).update(x).ess)


def test_mix_seed() -> None:
    for seed, counters in ((0, (1,)), (-5, (2, 3)), (2**63 - 1, (0, 2**31 - 1))):
        expected = mix_seed(seed, *counters)
        assert mix_seed(np.int64(seed), *map(np.int64, counters)) == expected
        assert mix_seed(seed, *map(np.uint32, counters)) == expected
        assert type(mix_seed(np.int64(seed), *counters)) is int
    assert mix_seed(np.uint64(2**64 - 1), Three()) == mix_seed(-1, 3)
    for wrong in (1.0, "1", np.float64(1), np.True_, True, np.array(1), None):
        with pytest.raises(TypeError, match=rf"mix_seed: seed must be an int, got {type(wrong).__name__}"):
            mix_seed(wrong)
        with pytest.raises(TypeError, match=rf"mix_seed: counters\[1\] must be an int, got {type(wrong).__name__}"):
            mix_seed(0, 1, wrong)


def test_distributions() -> None:
    distribution = DiagNormal(TENSOR, TENSOR)
    for draw in (distribution.sample, distribution.rsample):
        for shape in ((np.int64(2), 3), [2, np.int32(3)], torch.Size([2, 3])):
            torch.manual_seed(0)
            expected = draw((2, 3))
            torch.manual_seed(0)
            assert torch.equal(draw(shape), expected)
    assert distribution.expand((np.int64(2), 4)).batch_shape == (2, 4)


def test_objectives() -> None:
    for three in THREES:
        for objective in (ELBO(three), STL(three), IWAE(three), DReG(three), IWAE(3, backward_samples=three)):
            expected = type(objective)(3) if objective.__dict__.get("backward_samples") is None else IWAE(3, 3)
            assert repr(objective) == repr(expected)
        assert LinearWarmUp(three)(three) == 1.0
        assert repr(LinearWarmUp(three)) == repr(LinearWarmUp(3))
    for number in NUMBERS:
        for name in ("beta", "free_bits"):
            assert repr(ELBO(**{name: number})) == repr(ELBO(**{name: 0.5}))
    for wrong in NO_INTEGERS:
        for make in (ELBO, STL, IWAE, DReG, LinearWarmUp, LinearWarmUp(3)):
            with pytest.raises(TypeError, match=r"\w+: \w+ must be an int, got .* of type"):
                make(wrong)
    for wrong in (*NO_NUMBERS, np.array(0.5)):
        for name in ("beta", "free_bits"):
            with pytest.raises(TypeError, match=rf"ELBO: {name} must be a float, got .* of type"):
                ELBO(**{name: wrong})


def test_messages_do_not_print_arrays() -> None:
    """One line, and no look at memory that may have been freed."""
    freed = torch.ones(30, 30)
    freed.untyped_storage().resize_(0)
    for call in (
        IWAE,
        lambda wrong: ELBO(free_bits=wrong),
        VAE,
        lambda wrong: fnp.standard_normal(3, dtype=wrong),
        lambda wrong: fastvi.standard_normal(3, dtype=wrong),
        lambda wrong: fastvi.standard_normal(wrong),
        lambda wrong: fastvi.kl_normal(TENSOR, TENSOR, free_bits=wrong),
    ):
        for wrong in (freed, np.zeros((30, 30)), [0.5] * 1000):
            with pytest.raises(TypeError) as raised:
                call(wrong)
            assert "\n" not in str(raised.value)
            assert len(str(raised.value)) < 200


def test_model_sizes() -> None:
    for three in THREES:
        model = VAE(three, latent_dim=three, hidden_dims=[three])
        assert (model.data_dim, model.latent_dim) == (3, 3)
        assert type(model.data_dim) is type(model.latent_dim) is int
        assert repr(model) == repr(VAE(3, 3, (3,)))
    for wrong in NO_INTEGERS:
        for arguments in ({"data_dim": wrong}, {"latent_dim": wrong}, {"hidden_dims": (3, wrong)}):
            with pytest.raises(TypeError, match=f"VAE: {next(iter(arguments))} must be an integer, got .* of type"):
                VAE(**({"data_dim": 3} | arguments))


def test_evaluation() -> None:
    torch.manual_seed(0)
    model, x = VAE(6, 2, (4,)), torch.rand(5, 6).round()
    expected = stream_bounds(model, x, 20, chunk=7, seed=1, row_offset=2)
    found = stream_bounds(model, x, np.int64(20), chunk=np.uint8(7), seed=np.int32(1), row_offset=np.uint64(2))
    for result, bound in zip(dataclasses.astuple(found), dataclasses.astuple(expected), strict=True):
        assert torch.equal(result, bound)
    assert torch.equal(active_units(model, x, np.float64(0.01)), active_units(model, x, 0.01))
    sizes = {"num_samples": 20, "training_num_samples": 2, "chunk": 7, "test_images": 9, "seed": 3}
    figures = [
        evaluate(model, x, **{name: kind(size) for name, size in sizes.items()}).as_dict() | {"seconds": 0.0}
        for kind in (int, np.int64, np.uint16)
    ]
    assert json.dumps(figures[0]) == json.dumps(figures[1]) == json.dumps(figures[2])
    for name in ("num_samples", "training_num_samples", "chunk", "test_images"):
        for wrong in (2.0, np.True_, np.array(2)):
            with pytest.raises(TypeError, match=rf"\w+: {name} must be an int"):
                evaluate(model, x, **(sizes | {name: wrong}))


def test_a_compiled_call_that_may_break_its_graph() -> None:
    """torch.compile takes NumPy's numbers for arrays; what it does not compile then is run as it is."""
    compiled = torch.compile(lambda v, x: fastvi.rsample_normal(x, x, 2, seed=v), backend="eager")
    for seed in (np.int64(3), np.int64(4)):
        assert torch.equal(compiled(seed, TENSOR), fastvi.rsample_normal(TENSOR, TENSOR, 2, seed=int(seed)))
    torch.compiler.reset()
