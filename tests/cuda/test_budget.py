"""What the kernels take of a device, read from what nvcc made of them: no GPU is needed.

A kernel's bound is what it has now; before it is lowered, the kernel that wants more registers has to be looked at.
"""

from __future__ import annotations

import shutil

import budget
import pytest

# The least part of a multiprocessor's warps that can be there at once. float64 may take twice the registers.
OCCUPANCY = {
    "activate_kernel": 0.5,
    "add_moments_kernel": 1.0,
    "add_parts_kernel": 0.75,
    "axis_sum_kernel": 0.75,
    "bernoulli_epilogue_kernel": 0.5,
    "join_parts_kernel": 1.0,
    "join_sums_kernel": 1.0,
    "layer_gradient_kernel": 0.5,
    "map_column_factors_kernel": 1.0,
    "map_gradients_kernel": 0.375,
    "map_kernel": 0.375,
    "map_row_factors_kernel": 0.5,
    "moments_kernel": 0.5,
    "normal_noise_kernel": 1.0,
    "philox_words_kernel": 1.0,
    "reduce_columns_kernel": 0.75,
    "reduce_rows_kernel": 0.375,
    "row_gradients_kernel": 0.375,
    "responsibilities_kernel": 0.375,
    "rsample_backward_kernel": 0.25,
    "rsample_finish_kernel": 0.5,
    "rsample_kernel": 0.75,
    "rsample_with_log_ratio_kernel": 0.5,
    "softmax_kernel": 0.75,
    "softmax_parts_kernel": 1.0,
    "standard_normal_kernel": 1.0,
    "summed_gradients_kernel": 0.5,
    "weighted_sums_kernel": 0.75,
    "weights_backward_kernel": 0.75,
    "weights_backward_parts_kernel": 1.0,
    "whitening_kernel": 0.75,
}
# Log-gammas and digammas of eight elements at once: with fewer registers they would be spilled.
LONG_TERMS = {"NegativeBinomialLogDensity": 0.25}
# Those that go through rows from end to end.
STREAMING = {
    "activate_kernel",
    "bernoulli_epilogue_kernel",
    "layer_gradient_kernel",
    "map_gradients_kernel",
    "map_kernel",
    "reduce_rows_kernel",
    "row_gradients_kernel",
}


@pytest.mark.parametrize(
    ("threads", "registers", "shared", "occupancy"),
    [
        (256, 32, 0, 1.0),
        (256, 40, 0, 0.75),
        (256, 65, 0, 0.375),
        (1024, 33, 0, 0.5),
        (32, 16, 0, 0.5),
        (256, 32, 81000, 0.25),
    ],
)
def test_occupancy_is_that_of_the_published_limits(threads, registers, shared, occupancy):
    kernel = budget.Kernel("", "", 80, threads, registers, stack=0, spilled=0, shared=shared, ptx="")
    assert kernel.occupancy == occupancy


def test_table_of_a_kernel_without_half_precision():
    kernel = budget.Kernel("layer", "float", 80, 256, 32, stack=0, spilled=0, shared=0, ptx="")
    wide = budget.Kernel("layer", "double", 80, 256, 40, stack=0, spilled=0, shared=0, ptx="")
    rows = budget.kernel_table([kernel, wide]).splitlines()
    assert rows[2] == "| `layer` | 2 | 0 | 32, 100% | - | - | 40, 75% |"


@pytest.fixture(scope="module")
def kernels() -> list[budget.Kernel]:
    if budget.NVCC is None or shutil.which("c++filt") is None:
        pytest.skip("needs nvcc and c++filt")
    return budget.compile_kernels(sorted(budget.SOURCES.glob("*.cu")))


@pytest.mark.slow
@pytest.mark.thorough
def test_every_kernel_has_a_bound(kernels):
    assert {kernel.name for kernel in kernels} == set(OCCUPANCY)
    assert set(OCCUPANCY) >= STREAMING


@pytest.mark.slow
@pytest.mark.thorough
def test_occupancy(kernels):
    bounds = {}
    for kernel in kernels:
        least = next((least for term, least in LONG_TERMS.items() if term in kernel.arguments), OCCUPANCY[kernel.name])
        bounds[kernel] = min(least, OCCUPANCY[kernel.name]) * (0.5 if kernel.storage == "float64" else 1.0)
    assert [f"{kernel}: {kernel.occupancy}" for kernel, bound in bounds.items() if kernel.occupancy < bound] == []


@pytest.mark.slow
@pytest.mark.thorough
def test_registers_hold_everything(kernels):
    """None is spilled, and nothing lies on a stack, which is in the device's memory, from the start."""
    assert [f"{kernel}: {kernel.spilled}" for kernel in kernels if kernel.spilled > 0] == []
    assert [f"{kernel}: {kernel.stack}" for kernel in kernels if kernel.stack > 0] == []


@pytest.mark.slow
@pytest.mark.thorough
def test_only_float64_uses_double_precision(kernels):
    assert [str(kernel) for kernel in kernels if kernel.storage != "float64" and kernel.uses_float64] == []


@pytest.mark.slow
@pytest.mark.thorough
def test_rows_are_read_or_written_in_vectors(kernels):
    streaming = [kernel for kernel in kernels if kernel.name in STREAMING]
    assert [str(kernel) for kernel in streaming if not kernel.has_vector_accesses] == []
