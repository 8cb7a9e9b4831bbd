"""Devices: which are taken, how the CUDA kernels are called, and, where there is a GPU, streams and graphs.

``pytest tests/ops --device cuda`` runs the other operation tests on a GPU. Without one, fake tensors stand for CUDA's.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import fastvi
from fastvi import _native
from fastvi.ops import _backends
from support.operations import TYPICAL, as_tuple, gradients, public_name

BUILD = r"--config-settings=cmake.define.FASTVI_CUDA=ON"


@pytest.fixture
def fake_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation with a CUDA module, which fake tensors never reach."""
    monkeypatch.setattr(_backends, "CUDA_IS_BUILT", True)


def fakes(*devices: str, shape: tuple[int, ...] = (3, 5), dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Tensors that claim to be on these devices."""
    with FakeTensorMode():
        return [torch.ones(shape, dtype=dtype, device=device) for device in devices]


def test_module_comes_with_the_first_cuda_tensor(run_python, tmp_path):
    """Not with the package, nor with an operation on the CPU."""
    (tmp_path / "_cuda.py").write_text("def use_torch(functions): print('connected', 'exchange_api' in functions)\n")
    code = f"""
import sys, fastvi
fastvi.__path__.insert(0, {str(tmp_path)!r})  # before the module that may have been built
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from fastvi import _native
from fastvi.ops import _backends
assert _native.backends() == ["cpu", "cuda"]
fastvi.kl_normal(torch.ones(3), torch.ones(3))
with FakeTensorMode():
    tensor = torch.ones(3, device="cuda:2")
    fastvi.kl_normal(tensor, tensor)
assert "fastvi._cuda" not in sys.modules
_backends.MODULES.of(tensor)
_backends.MODULES.of(tensor)
assert "fastvi._cuda" in sys.modules
"""
    assert run_python(code).split() == ["connected", "True"]


@pytest.fixture
def not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backends, "CUDA_IS_BUILT", False)
    monkeypatch.setattr(_native, "backends", lambda: ["cpu"])


@pytest.mark.usefixtures("not_built")
@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_without_the_module_the_error_says_how_to_build_it(sample):
    with FakeTensorMode() as mode:
        tensors = [mode.from_tensor(tensor).to("cuda:0") for tensor in sample.tensors()]
        with pytest.raises(ValueError, match=rf"^{sample.operation}: {sample.names[0]} is on cuda:0, but .*{BUILD}"):
            sample.call(*tensors)


@pytest.mark.usefixtures("not_built")
def test_without_the_module_neither_draws_nor_raw_operators_run():
    with pytest.raises(ValueError, match=rf"^standard_normal: device is cuda, but .*{BUILD}"):
        fastvi.standard_normal(3, device="cuda")
    with pytest.raises(ImportError, match=rf"^fastvi: .*{BUILD}"):
        _native.cuda_module()


def test_other_devices_have_no_kernels():
    (tensor,) = fakes("xpu:0")
    with pytest.raises(ValueError, match="normal_entropy: logvar is on xpu:0, but there are kernels for cpu and cuda"):
        fastvi.normal_entropy(tensor)
    with pytest.raises(ValueError, match="standard_normal: device is xpu, but there are kernels for cpu and cuda only"):
        fastvi.standard_normal(3, device="xpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_an_error_of_standard_normal(fake_module):
    for device in ("cuda", "cuda:1", torch.device("cuda", 0)):
        with pytest.raises(ValueError, match=r"standard_normal: device is cuda.*, but PyTorch finds no CUDA device"):
            fastvi.standard_normal(3, device=device)


@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_results_are_on_the_device_of_the_arguments(sample, fake_module):
    """Also what an operation adds of its own: a seed that is a number, a step size, a prior's other half."""
    expected = as_tuple(sample.call(*sample.tensors()))
    with FakeTensorMode() as mode:
        results = as_tuple(sample.call(*(mode.from_tensor(tensor).to("cuda:1") for tensor in sample.tensors())))
    for result, real in zip(results, expected, strict=True):
        assert str(result.device) == "cuda:1"
        assert (result.shape, result.dtype, result.stride()) == (real.shape, real.dtype, real.stride())


@pytest.mark.parametrize("other", ["cpu", "cuda:0", "meta"])
@pytest.mark.parametrize("sample", [sample for sample in TYPICAL if len(sample.names) > 1], ids=str)
def test_one_argument_on_another_device(sample, other, fake_module):
    for i, name in enumerate(sample.names[1:], 1):
        with FakeTensorMode() as mode:
            tensors = [mode.from_tensor(tensor).to("cuda:1") for tensor in sample.tensors()]
            tensors[i] = tensors[i].to(other)
            named = re.escape(public_name(name))
            message = rf"^{sample.operation}: {named} is on {other}, but {sample.names[0]} is on cuda:1"
            with pytest.raises(ValueError, match=message):
                sample.call(*tensors)


def test_seed_on_another_device(fake_module):
    (mean,) = fakes("cuda:0")
    for seed in (torch.tensor(5), *fakes("cuda:1", shape=(), dtype=torch.int64)):
        with pytest.raises(ValueError, match=rf"rsample_normal: seed is on {seed.device}, expected cuda:0"):
            fastvi.rsample_normal(mean, mean, seed=seed)


def test_operators_are_registered_for_both_kinds_of_device():
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("fastvi::")]
    # Two for each operation, and those of the draws; an overload has the same name and `.tensor` behind it.
    public = {name.split(".")[0] for name in names if "perceptron_bound" not in name}
    assert len(public) == 2 * len({sample.operation for sample in TYPICAL}) + 2
    for name in names:
        for key in ("CPU", "CUDA"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(name, key)


def test_autocast_is_that_of_the_device(fake_module):
    """A region for one kind of device leaves half precision on the other as it is."""
    (on_gpu,) = fakes("cuda:0")
    on_cpu = torch.ones(3, 5)
    for region, widened in (("cuda", on_gpu), ("cpu", on_cpu)):
        torch.set_autocast_enabled(region, True)
        try:
            for tensor in (on_gpu, on_cpu):
                result = fastvi.normal_entropy(tensor.bfloat16())
                assert result.dtype == (torch.float32 if tensor is widened else torch.bfloat16)
        finally:
            torch.set_autocast_enabled(region, False)


# On a GPU

cuda = pytest.mark.cuda


def moved(tensors: list[Tensor], device: str = "cuda:0") -> list[Tensor]:
    return [tensor.detach().to(device).requires_grad_(tensor.requires_grad) for tensor in tensors]


@cuda
def test_gpu_is_the_cpu():
    """Values and gradients of the same tensors and, where numbers are drawn, of the same seed."""
    for sample in TYPICAL:
        results = []
        for device in ("cuda:0", "cpu"):
            tensors = moved(sample.tensors(requires_grad=True), device)
            results.append((*as_tuple(sample.call(*tensors)), *gradients(sample.call, tensors)))
        for result, expected in zip(*results, strict=True):
            assert result.is_cuda
            torch.testing.assert_close(result.cpu(), expected, rtol=1e-11, atol=1e-11)  # sums in another order


@cuda
def test_operations_wait_for_nothing():
    """Neither for the host nor for the GPU, whatever kind of seed there is."""
    mean = torch.zeros(50, 40, device="cuda", requires_grad=True)
    seed = torch.tensor(3, device="cuda")

    def everything() -> None:
        for given in (None, 5, seed):
            fastvi.rsample_normal(mean, mean, 7, seed=given).sum().backward()
            fastvi.standard_normal(9, given, device="cuda")
        fastvi.leapfrog_step(mean, mean, mean, 0.1, 2.0)
        fastvi.kl_normal(mean, mean, prior_mean=mean).sum().backward()

    everything()
    torch.cuda.set_sync_debug_mode("error")
    try:
        everything()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@cuda
def test_kernels_are_queued_in_the_current_stream():
    """Behind what a busy stream has yet to write."""
    stream = torch.cuda.Stream()
    x = torch.zeros(1000, 1000, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        x.fill_(1.0)
        divergence = fastvi.kl_normal(x, torch.zeros_like(x))
    stream.synchronize()
    assert bool((divergence == 500.0).all())


@cuda
def test_threads_in_streams_of_their_own():
    samples = [sample for sample in TYPICAL if "seed" in sample.constants]
    expected = [gradients(sample.call, moved(sample.tensors(requires_grad=True))) for sample in samples]
    found: dict[int, bool] = {}

    def work(number: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            found[number] = all(
                torch.equal(result, single)
                for _ in range(20)
                for sample, singles in zip(samples, expected, strict=True)
                for result, single in zip(
                    gradients(sample.call, moved(sample.tensors(requires_grad=True))), singles, strict=True
                )
            )
            torch.cuda.current_stream().synchronize()

    torch.cuda.synchronize()
    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == dict.fromkeys(range(4), True)


def capture(call: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A graph of the call, and the memory that its replays fill."""
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = call()
    return graph, outputs


@cuda
def test_captured_draws_follow_the_generator():
    """Without a seed each replay draws anew, forward and backward alike, as ``torch.manual_seed`` says."""
    mean, logvar = torch.zeros(2, 30, 20, device="cuda").unbind()
    logvar.requires_grad_()

    def draw() -> tuple[Tensor, Tensor]:
        z = fastvi.rsample_normal(mean, logvar, 5)
        return z, torch.autograd.grad(z.sum(), logvar)[0]

    graph, (z, slope) = capture(draw)
    found = []
    for seed in (1, None, 1):
        if seed is not None:
            torch.cuda.manual_seed(seed)
        graph.replay()
        torch.testing.assert_close(slope, z.sum(0) / 2)  # mean 0, scale 1: z is the noise
        found.append(z.clone())
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@cuda
def test_captured_seeds():
    """A number is a part of the graph; a tensor is read again by every replay."""
    seed = torch.tensor(3, device="cuda")
    graph, (fixed, moving) = capture(
        lambda: (fastvi.standard_normal(9, 7, device="cuda"), fastvi.standard_normal(9, seed, device="cuda"))
    )
    for value in (3, 4):
        seed.fill_(value)
        graph.replay()
        assert torch.equal(fixed, fastvi.standard_normal(9, 7, device="cuda"))
        assert torch.equal(moving, fastvi.standard_normal(9, value, device="cuda"))


@cuda
def test_captured_operations():
    for sample in TYPICAL:
        tensors = moved(sample.tensors(requires_grad=True))
        graph, outputs = capture(lambda call=sample.call, tensors=tensors: gradients(call, tensors))
        graph.replay()
        for result, expected in zip(outputs, gradients(sample.call, tensors), strict=True):
            assert torch.equal(result, expected)


@cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is no second GPU")
def test_second_gpu():
    """Which is not the current one: tensors say where a kernel runs."""
    for sample in TYPICAL:
        tensors = sample.tensors(requires_grad=True)
        results = gradients(sample.call, moved(tensors, "cuda:1"))
        for result, expected in zip(results, gradients(sample.call, moved(tensors)), strict=True):
            assert str(result.device) == "cuda:1"
            assert torch.equal(result.cpu(), expected.cpu())
    assert torch.cuda.current_device() == 0


@cuda
def test_draws_on_the_current_gpu():
    draws = fastvi.standard_normal(1000, 3, device="cuda", dtype=torch.float64)
    assert draws.device == torch.device("cuda", torch.cuda.current_device())
    torch.testing.assert_close(
        draws.cpu(), fastvi.standard_normal(1000, 3, dtype=torch.float64), rtol=1e-12, atol=1e-14
    )
