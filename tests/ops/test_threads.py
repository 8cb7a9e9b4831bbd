"""Threads, processes and instruction sets: equal bits for any number of threads, one OpenMP runtime, lazy imports."""

from __future__ import annotations

import threading

import pytest
import torch

import fastvi
from fastvi import _native
from fastvi.ops._backends import connect
from support.operations import LARGE, WITH_PRODUCTS, Sample, as_tuple, gradients

pytestmark = pytest.mark.cpu_kernels


def bits(sample: Sample, dtype: torch.dtype) -> list[torch.Tensor]:
    """Results and gradients."""
    tensors = sample.tensors(dtype, requires_grad=True)
    return [*as_tuple(sample.call(*tensors)), *gradients(sample.call, tensors)]


WITHOUT_PRODUCT = [sample for sample in LARGE if sample.operation not in WITH_PRODUCTS]
"""The bits of a matrix product are PyTorch's: with MKL on some processors they depend on the number of threads."""


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sample", WITHOUT_PRODUCT, ids=str)
def test_same_bits_for_any_number_of_threads(sample, dtype):
    torch.set_num_threads(1)
    expected = bits(sample, dtype)
    for threads in (2, 3, 7, 2):
        torch.set_num_threads(threads)
        for result, serial in zip(bits(sample, dtype), expected, strict=True):
            assert torch.equal(result, serial)


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rows", [600, 5000])
def test_same_bits_of_a_linear_head_but_for_its_products(rows, dtype):
    """Small integers make the product exact in any order of its terms: what is left is fastvi's own arithmetic."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randint(-3, 4, (rows, 16), generator=generator).to(dtype)
    weight = torch.randint(-1, 2, (201, 16), generator=generator).to(dtype)
    x = torch.rand(201, generator=generator, dtype=dtype).requires_grad_()
    bias = torch.randn(201, generator=generator, dtype=dtype).requires_grad_()
    upstream = torch.randn(rows, generator=generator, dtype=dtype)

    def bits() -> list[torch.Tensor]:
        value = fastvi.linear_bernoulli_log_prob(h, weight, bias, x)
        return [value, *torch.autograd.grad(value, (bias, x), upstream)]

    torch.set_num_threads(1)
    expected = bits()
    for threads in (2, 3, 7):
        torch.set_num_threads(threads)
        assert all(torch.equal(result, serial) for result, serial in zip(bits(), expected, strict=True))


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu"])
def test_same_bits_of_a_layer_but_for_its_products(activation, dtype):
    """The product is exact, again; the value and the bias's gradient are fastvi's."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-3, 4, (3000, 16), generator=generator).to(dtype)
    weight = torch.randint(-1, 2, (600, 16), generator=generator).to(dtype)
    bias = torch.randn(600, generator=generator, dtype=dtype).requires_grad_()
    upstream = torch.randn(3000, 600, generator=generator, dtype=dtype)

    def bits() -> list[torch.Tensor]:
        value = fastvi.mlp(x, [weight], [bias], activation, activate_last=True)
        return [value, *torch.autograd.grad(value, bias, upstream)]

    torch.set_num_threads(1)
    expected = bits()
    for threads in (2, 3, 7):
        torch.set_num_threads(threads)
        assert all(torch.equal(result, serial) for result, serial in zip(bits(), expected, strict=True))


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_same_draws_for_any_number_of_threads(dtype):
    torch.set_num_threads(1)
    expected = fastvi.standard_normal(300_001, 5, dtype=dtype)
    for threads in (2, 3, 7):
        torch.set_num_threads(threads)
        assert torch.equal(fastvi.standard_normal(300_001, 5, dtype=dtype), expected)


@pytest.mark.usefixtures("restore_threads")
def test_number_of_threads_is_pytorchs():
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert _native.module().max_threads() == threads


CALLS = {
    "operation": lambda: fastvi.kl_normal(PARAMETER.detach(), PARAMETER.detach()),
    "operation with a graph": lambda: fastvi.kl_normal(PARAMETER, PARAMETER),
    "backward": lambda: GRAPH.backward(retain_graph=True),
    "draw": lambda: fastvi.standard_normal(3, 0),
    "operator": lambda: torch.ops.fastvi.normal_entropy(PARAMETER.detach()),
    "transform": lambda: torch.func.grad(lambda mean: fastvi.kl_normal(mean, mean))(PARAMETER.detach()),
}
PARAMETER = torch.zeros(3, requires_grad=True)
GRAPH = fastvi.kl_normal(PARAMETER, PARAMETER)


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("threads", [1, 3])
def test_number_of_threads_is_pytorchs_in_a_new_thread(call, threads):
    """Also where the thread's first call of all is fastvi's: OpenMP's own default is the number of processors."""
    torch.set_num_threads(threads)
    found = []

    def work() -> None:
        CALLS[call]()
        found.append(_native.module().max_threads())

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert found == [threads]


def test_calls_from_several_python_threads():
    """Kernels run without the interpreter's lock; each call sees only its own arguments."""
    samples = [sample for sample in LARGE if sample.label in ("many samples", "many rows")]
    expected = [bits(sample, torch.float32) for sample in samples]
    results: dict[int, list[list[torch.Tensor]]] = {}

    def work(number: int) -> None:
        order = range(number, number + len(samples))
        found = {i % len(samples): bits(samples[i % len(samples)], torch.float32) for i in order}
        results[number] = [found[i] for i in range(len(samples))]

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(results) == [0, 1, 2, 3]
    for found in results.values():
        for outputs, serial in zip(found, expected, strict=True):
            assert all(torch.equal(output, single) for output, single in zip(outputs, serial, strict=True))


LIBGOMP = """
import pathlib
maps = pathlib.Path("/proc/self/maps").read_text()
print(len({line.split()[-1] for line in maps.splitlines() if "libgomp" in line}))
"""
USE = """
import torch, fastvi
torch.set_num_threads(2)
fastvi.kl_normal(torch.zeros(1000, 1000), torch.zeros(1000, 1000))
torch.zeros(1000, 1000).exp()
"""


@pytest.mark.parametrize("first", ["import torch", "import fastvi", "from fastvi import _native; _native.module()"])
def test_one_openmp_runtime(run_python, first):
    """Whatever is imported first: two runtimes in a process would each start their own threads."""
    assert run_python(f"{first}\n{USE}{LIBGOMP}").strip() == "1"


def test_import_is_lazy(run_python):
    """torch is imported when an operation is first named, and not before."""
    code = """
import sys, fastvi
assert "kl_normal" in dir(fastvi)
fastvi.__version__
assert "torch" not in sys.modules, "torch was imported"
fastvi.kl_normal
assert "torch" in sys.modules
"""
    run_python(code)


@pytest.mark.parametrize("threads_of_worker", [None, 1, 2])
def test_forked_workers(run_python, threads_of_worker):
    """A process forked after threads were in use: OpenMP's are not there, so the kernels do without, the same bits."""
    code = f"""
import os, numpy as np, torch, fastvi
torch.set_num_threads(2)
mean = fastvi.standard_normal((1000, 1000), 1).requires_grad_()
divergence = fastvi.kl_normal(mean, mean)
divergence.sum().backward()
worker = os.fork()
if worker == 0:
    if {threads_of_worker} is not None:
        torch.set_num_threads({threads_of_worker})
    again = fastvi.kl_normal(mean, mean)
    draws = fastvi.standard_normal((1000, 1000), 1)
    # Compared by NumPy: PyTorch's own loops would wait for threads that are not there.
    pairs = ((again, divergence), (draws, mean))
    os._exit(0 if all(np.array_equal(a.detach().numpy(), b.detach().numpy()) for a, b in pairs) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]))
"""
    assert run_python(code).strip() == "0"


def test_data_loader_workers(run_python):
    """Operations in a data set's workers and in the process that collects, in turn."""
    code = """
import torch, fastvi
torch.set_num_threads(2)

class Draws(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        return fastvi.standard_normal((300, 300), i)

for _ in range(2):
    expected = [Draws()[i] for i in range(8)]
    batches = torch.utils.data.DataLoader(Draws(), batch_size=2, num_workers=2)
    for i, batch in enumerate(batches):
        assert torch.equal(batch, torch.stack(expected[2 * i : 2 * i + 2]))
        fastvi.kl_normal(batch, batch)
print("done")
"""
    assert run_python(code).strip() == "done"


CHECKSUMS = """
import sys
sys.path.insert(0, {tests!r})
import torch
from support.operations import LARGE, TYPICAL, as_tuple, gradients
from fastvi import _native
assert _native.selected_isa() == {isa!r}
results = {{}}
for sample in TYPICAL + LARGE:
    for dtype in (torch.float32, torch.float64):
        tensors = sample.tensors(dtype, requires_grad=True)
        results[str(sample), dtype] = [*as_tuple(sample.call(*tensors)), *gradients(sample.call, tensors)]
torch.save({{key: [each.detach() for each in values] for key, values in results.items()}}, {file!r})
"""

AGREEMENT = {torch.float32: {"rtol": 1e-4, "atol": 2e-4}, torch.float64: {"rtol": 1e-11, "atol": 1e-11}}
"""Vectors of another width add in another order: sums of up to 70,000 terms."""


@pytest.mark.slow
@pytest.mark.skipif(len(_native.available_isas()) < 2, reason="this processor has one instruction set")
def test_instruction_sets_agree(run_python, tmp_path, pytestconfig):
    isas = _native.available_isas()
    results = []
    for isa in isas:
        file = tmp_path / f"{isa}.pt"
        tests = str(pytestconfig.rootpath / "tests")
        run_python(CHECKSUMS.format(tests=tests, isa=isa, file=str(file)), FASTVI_ISA=isa)
        results.append(torch.load(file))
    for other in results[1:]:
        for key, values in results[0].items():
            for value, twin in zip(values, other[key], strict=True):
                torch.testing.assert_close(value, twin, **AGREEMENT[value.dtype], msg=lambda m, key=key: f"{key}: {m}")


def test_integers_of_the_generator_are_equal_on_every_instruction_set():
    out = {}
    for isa in _native.available_isas():
        draws = torch.empty(1001, dtype=torch.float64)
        connect(_native.load(isa)).forward.fill_standard_normal(draws, 7)
        out[isa] = draws
    first = next(iter(out.values()))
    for draws in out.values():
        # The same integers give normals equal to a few ulp of the radius; another integer would be elsewhere.
        torch.testing.assert_close(draws, first, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("isa", ["v9", "avx2", "generic-v3"])
def test_unknown_instruction_set(run_python, isa):
    code = f"""
from fastvi import _native
try:
    _native.module()
except ValueError as error:
    message = str(error)
assert "FASTVI_ISA: got '{isa}', expected one of [" in message, message
"""
    run_python(code, FASTVI_ISA=isa)
