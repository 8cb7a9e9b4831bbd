"""How often the kernels run, and for which gradients: one call forward, one backward, and nothing that nobody needs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
import torch

import fastvi
from fastvi.ops._backends import Functions
from fastvi.ops._operation import OPERATIONS
from support.operations import TYPICAL, as_tuple, weighted_sum
from support.place import place


class Counter:
    """Notes the calls of operations' native functions that did the work: which one, what it was asked for and gave."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.forward: list[str] = []
        self.backward: list[tuple[str, tuple[Any, ...], tuple[Any, ...]]] = []
        for operation in OPERATIONS.values():
            functions = Functions(
                *[self._counted(operation.name, place, each) for place, each in self._functions(operation)]
            )
            monkeypatch.setattr(operation, "attempt", functions.attempt)
            monkeypatch.setattr(operation, "functions_for", lambda tensor, functions=functions: functions)

    @staticmethod
    def _functions(operation: Any) -> Iterable[tuple[str, Any]]:
        return zip(Functions._fields, operation.functions_for(place.empty(0)), strict=True)

    def _counted(self, name: str, kind: str, function: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            result = function(*arguments)
            if result is None or result is NotImplemented:
                return result
            if kind.endswith("backward"):
                self.backward.append((name, arguments, result))
            else:
                self.forward.append(name)
            return result

        return counted


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


def subsets(count: int) -> list[tuple[bool, ...]]:
    return list(itertools.product((False, True), repeat=count))


@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_one_call_forward_and_one_backward(sample, counter):
    for chosen in subsets(len(sample.names)):
        tensors = [tensor.requires_grad_(each) for tensor, each in zip(sample.tensors(), chosen, strict=True)]
        outputs = sample.call(*tensors)
        assert counter.forward == [sample.operation]
        number = weighted_sum(outputs)
        if number.requires_grad:
            torch.autograd.grad(number, [tensor for tensor in tensors if tensor.requires_grad])
            assert [name for name, *_ in counter.backward] == [sample.operation]
        counter.forward.clear()
        counter.backward.clear()


@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_no_gradient_is_computed_where_no_graph_is_recorded(sample, counter):
    tensors = sample.tensors(requires_grad=True)
    with torch.no_grad():
        outputs = sample.call(*tensors)
    assert not any(output.requires_grad for output in as_tuple(outputs))
    assert counter.forward == [sample.operation]
    assert not counter.backward


@pytest.mark.parametrize("sample", TYPICAL, ids=str)
def test_gradients_that_nobody_needs_have_no_memory(sample, counter):
    """The kernels are not asked for them, and skip the work: a draw's mean alone needs no noise."""
    for chosen in subsets(len(sample.names))[1:]:
        tensors = [tensor.requires_grad_(each) for tensor, each in zip(sample.tensors(), chosen, strict=True)]
        weighted_sum(sample.call(*tensors)).backward()
        ((_, arguments, found),) = counter.backward
        counter.backward.clear()
        wanted = [*chosen, *(False,) * (len(found) - len(chosen))]
        assert sorted(gradient is not None for gradient in found) == sorted(wanted)
        assert list(arguments[-1]) == [gradient is not None for gradient in found]


def test_one_output_alone_reads_one_upstream_gradient(counter):
    """Of z and the log ratio, the one that is not used has no gradient: none is made of zeros."""
    mean = place.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    for output in range(2):
        outputs = fastvi.rsample_normal_with_log_ratio(mean, mean.detach(), 4, seed=1)
        outputs[output].sum().backward()
        ((_, arguments, _),) = counter.backward
        counter.backward.clear()
        z_upstream, ratio_upstream = arguments[:2]
        assert (z_upstream is not None, ratio_upstream is not None) == (output == 0, output == 1)
