"""How often the kernels run, and for which gradients: one call forward, one backward, and nothing that nobody needs."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import fastvi
from fastvi.ops import _backends
from support.operations import TYPICAL, as_tuple, weighted_sum
from support.place import place

# Kernel calls of one forward and one backward pass, but for the sums of a gradient to the shape of an operand that was
# broadcast; the linear head's backward pass is matrix products and such a sum alone, and the gradients of the weights
# and of the effective sample size are written in PyTorch over the softmax and a sum.
FORWARD = dict.fromkeys({sample.operation for sample in TYPICAL}, 1)
BACKWARD = FORWARD | {"linear_bernoulli_log_prob": 0}


class Counter:
    """Stands for the native module of one dtype and notes each call."""

    def __init__(self, kernels: Any) -> None:
        self.kernels = kernels
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(self.kernels, name)

        def counted(*arguments: Any) -> Any:
            self.calls.append((name, arguments))
            return kernel(*arguments)

        return counted

    @property
    def calls_but_sums(self) -> list[tuple[str, tuple[Any, ...]]]:
        return [call for call in self.calls if call[0] != "axis_sum"]


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    counting = Counter(_backends.kernels(place.empty(0, dtype=torch.float64)))
    monkeypatch.setitem(_backends.KERNELS, torch.float64, counting)
    monkeypatch.setattr(_backends, "_cuda_kernels", lambda dtype, index: counting)
    return counting


def subsets(count: int) -> list[tuple[bool, ...]]:
    return list(itertools.product((False, True), repeat=count))


@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_one_call_forward_and_one_backward(sample, counter):
    for chosen in subsets(len(sample.names)):
        tensors = [tensor.requires_grad_(each) for tensor, each in zip(sample.tensors(), chosen, strict=True)]
        outputs = sample.call(*tensors)
        assert len(counter.calls) == FORWARD[sample.operation]
        counter.calls.clear()
        number = weighted_sum(outputs)
        if number.requires_grad:
            torch.autograd.grad(number, [tensor for tensor in tensors if tensor.requires_grad])
            assert len(counter.calls_but_sums) <= BACKWARD[sample.operation]
            assert len(counter.calls) - len(counter.calls_but_sums) <= len(tensors)
            # A gradient that is handed through (of a leapfrog's position) needs no kernel.
            assert counter.calls or sample.operation in ("linear_bernoulli_log_prob", "leapfrog_step")
        counter.calls.clear()


@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_no_gradient_is_computed_where_no_graph_is_recorded(sample, counter):
    tensors = sample.tensors(requires_grad=True)
    with torch.no_grad():
        outputs = sample.call(*tensors)
    assert not any(output.requires_grad for output in as_tuple(outputs))
    assert len(counter.calls) == FORWARD[sample.operation]


def targets(counter: Counter, name: str, last: int) -> list[bool]:
    """Which of the last arguments of the one call of a backward kernel, the gradients' addresses, are there."""
    ((called, arguments),) = counter.calls_but_sums
    assert called == name
    return [bool(target[0] if isinstance(target, tuple) else target) for target in arguments[-last:]]


ADDRESSES = {
    "bernoulli_log_prob": 2,
    "kinetic_energy": 2,
    "kl_normal": 4,
    "normal_entropy": 1,
    "normal_log_prob": 3,
    "rsample_normal": 2,
    "rsample_normal_with_log_ratio": 4,
}


@pytest.mark.parametrize("sample", [s for s in TYPICAL if s.operation in ADDRESSES], ids=str)
def test_gradients_that_nobody_needs_have_no_memory(sample, counter):
    """The kernels get null for them, and skip the work: a draw's mean alone needs no noise."""
    last = ADDRESSES[sample.operation]
    for chosen in subsets(len(sample.names))[1:]:
        tensors = [tensor.requires_grad_(each) for tensor, each in zip(sample.tensors(), chosen, strict=True)]
        number = weighted_sum(sample.call(*tensors))
        counter.calls.clear()
        number.backward()
        found = targets(counter, f"{sample.operation}_backward", last)
        assert found == [*chosen, *(False,) * (last - len(chosen))]


def test_one_output_alone_reads_one_upstream_gradient(counter):
    """Of z and the log ratio, the one that is not used has no gradient: none is made of zeros."""
    mean = place.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    for output in range(2):
        outputs = fastvi.rsample_normal_with_log_ratio(mean, mean.detach(), 4, seed=1)
        counter.calls.clear()
        outputs[output].sum().backward()
        ((_, arguments),) = counter.calls
        z_upstream, ratio_upstream = arguments[-6:-4]
        assert (bool(z_upstream), bool(ratio_upstream[0])) == (output == 0, output == 1)
