"""``fastvi.numpy`` in an environment that has NumPy and fastvi, and no PyTorch: the values are the same as with it."""

from __future__ import annotations

import importlib.util
import json
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import fastvi
import fastvi.numpy as fnp
from fastvi import _native, ops
from support.operations import SAMPLES, SEED, WITH_PRODUCTS, Sample, as_tuple
from support.processes import printed_by

DTYPES = (torch.float32, torch.float64, torch.float16)

Run = Callable[..., str]


@pytest.fixture(scope="module")
def run_without_torch(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """``run(code, *arguments)``: what a fresh process of the environment prints; a failure shows what it wrote."""
    place = tmp_path_factory.mktemp("without_torch")
    venv.create(place, symlinks=True, with_pip=False)
    (packages,) = place.glob("lib/python*/site-packages")

    installed = Path(np.__file__).parents[1]
    for name in ("numpy", "numpy.libs"):  # a wheel of NumPy puts its libraries into the second
        if (installed / name).exists():
            (packages / name).symlink_to(installed / name)

    # An editable install keeps Python files here and native modules there: every file is asked for.
    native = [importlib.util.find_spec(f"fastvi.{name}") for name in ("_processor", f"_cpu_{_native.selected_isa()}")]
    files = [path for folder in fastvi.__path__ for path in Path(folder).iterdir() if path.suffix != ".so"]
    files += [Path(spec.origin) for spec in native if spec is not None and spec.origin is not None]
    (packages / "fastvi").mkdir()
    for path in files:
        if path.name != "__pycache__":
            (packages / "fastvi" / path.name).symlink_to(path)

    def run(code: str, *arguments: object) -> str:
        # -I: no PYTHONPATH, which could lead to PyTorch.
        return printed_by([str(place / "bin" / "python"), "-I", "-B", "-W", "error", "-c", code, *map(str, arguments)])

    return run


def test_there_is_no_torch(run_without_torch: Run) -> None:
    """Else the other tests show nothing."""
    code = """
import importlib.util, sys
try:
    import torch
except ModuleNotFoundError as error:
    print(error)
print(importlib.util.find_spec("torch"), importlib.util.find_spec("typing_extensions"))
import fastvi
print(fastvi.__file__.startswith(sys.prefix))
"""
    assert run_without_torch(code).splitlines() == ["No module named 'torch'", "None None", "True"]


CALLS = """
import json, sys
import numpy as np
import fastvi.numpy as fnp

calls, given, results = sys.argv[1:]
given, found = np.load(given), {}
for i, (operation, names, constants) in enumerate(json.loads(calls)):
    arrays = {name: given[f"{i} {name}"] for name in names}
    weights = [arrays.pop(name) for name in names if name.startswith("weight_")]
    if weights:
        biases = [arrays.pop(name) for name in names if name.startswith("bias_")]
        arrays |= {"weights": weights, "biases": biases or None}
    outputs = getattr(fnp, operation)(**arrays, **constants)
    for j, output in enumerate(outputs if isinstance(outputs, tuple) else (outputs,)):
        found[f"{i} {j}"] = output
np.savez(results, **found)
"""


# The products of a second layer, whose operands are activated, are rounded.
EXACT = [sample for sample in SAMPLES if "weight_1" not in sample.names]


def _inputs(sample: Sample, dtype: torch.dtype) -> list[torch.Tensor]:
    tensors = sample.tensors(dtype)
    if sample.operation in WITH_PRODUCTS:
        # Multiples of 1/8: matrix products of this size hold no rounding, whichever library computes them.
        return [(tensor * 8.0).round() / 8.0 for tensor in tensors]
    return tensors


def test_operations_give_the_values_of_the_tensor_operations(run_without_torch: Run, tmp_path: Path) -> None:
    """Bit for bit: they run the same kernels."""
    given, expected, calls = {}, {}, []
    for sample, dtype in ((sample, dtype) for sample in EXACT for dtype in DTYPES):
        tensors, i = _inputs(sample, dtype), len(calls)
        calls.append((sample.operation, sample.names, sample.constants))
        given |= {f"{i} {name}": tensor.numpy() for name, tensor in zip(sample.names, tensors, strict=True)}
        expected |= {f"{i} {j}": output.numpy() for j, output in enumerate(as_tuple(sample.call(*tensors)))}
    for dtype in ("float32", "float64", "float16"):
        expected[f"{len(calls)} 0"] = ops.standard_normal((5, 7), SEED, dtype=getattr(torch, dtype)).numpy()
        calls.append(("standard_normal", (), {"shape": (5, 7), "seed": SEED, "dtype": dtype}))
    assert {operation for operation, _, _ in calls} == set(fnp.__all__) - {"LogMeanExp"}

    np.savez(tmp_path / "given.npz", **given)
    run_without_torch(CALLS, json.dumps(calls), tmp_path / "given.npz", tmp_path / "found.npz")
    with np.load(tmp_path / "found.npz") as found:
        assert set(found) == set(expected)
        for key, value in expected.items():
            context = str(calls[int(key.split()[0])])
            np.testing.assert_array_equal(found[key], value, strict=True, err_msg=context)
            np.testing.assert_array_equal(np.signbit(found[key]), np.signbit(value), err_msg=context)


RUNNING = """
import sys
import numpy as np
from fastvi.numpy import LogMeanExp

chunks = np.load(sys.argv[1])
running, merged = LogMeanExp(), LogMeanExp()
for chunk in chunks:
    running.update(chunk)
    merged.merge(LogMeanExp().update(chunk))
assert running.count == merged.count == chunks.shape[0] * chunks.shape[1]
np.savez(sys.argv[2], running=(running.value, running.ess), merged=(merged.value, merged.ess))
"""


def test_running_log_mean_exp(run_without_torch: Run, tmp_path: Path) -> None:
    chunks = 3.0 * ops.standard_normal((4, 10, 6), SEED, dtype=torch.float64)
    chunks[:, :, 0] = -torch.inf
    chunks[1, :, 1] = -torch.inf
    chunks[2, 3, 2] = torch.nan
    np.save(tmp_path / "chunks.npy", chunks.numpy())
    run_without_torch(RUNNING, tmp_path / "chunks.npy", tmp_path / "found.npz")
    whole = chunks.flatten(0, 1)
    expected = torch.stack([ops.log_mean_exp(whole), ops.effective_sample_size(whole)])
    with np.load(tmp_path / "found.npz") as found:
        for name in ("running", "merged"):
            # The same sums in another order, within float64's rounding of some tens of terms.
            np.testing.assert_allclose(found[name], expected.numpy(), rtol=1e-13, atol=1e-13, strict=True)


def test_bad_input_is_named(run_without_torch: Run) -> None:
    code = """
import numpy as np
import fastvi.numpy as fnp
for call in (lambda: fnp.kl_normal(np.zeros(3), np.zeros(2)), lambda: fnp.kl_normal(np.zeros(3), [0.0] * 3)):
    try:
        call()
    except (ValueError, TypeError) as error:
        print(type(error).__name__, error)
"""
    assert run_without_torch(code).splitlines() == [
        "ValueError kl_normal: shapes do not broadcast: got mean (3,), logvar (2,)",
        "TypeError kl_normal: logvar must be a numpy.ndarray, got list",
    ]


@pytest.mark.parametrize(
    "statement", ["fastvi.kl_normal", "fastvi.ops", "fastvi.data", "fastvi.evaluate", "from fastvi import LogMeanExp"]
)
def test_tensor_operations_say_that_they_need_torch(statement: str, run_without_torch: Run) -> None:
    name = statement.split()[-1].removeprefix("fastvi.")
    code = f"""
import fastvi
try:
    {statement}
except ImportError as error:
    print(error)
"""
    assert run_without_torch(code).strip() == (
        f"fastvi.{name} needs PyTorch, which is not installed; fastvi.numpy does without it"
    )


def test_seeds_need_no_torch(run_without_torch: Run) -> None:
    from fastvi.seeding import mix_seed

    assert run_without_torch("import fastvi; print(fastvi.seeding.mix_seed(3, 1, 4))").strip() == str(mix_seed(3, 1, 4))
