"""The diagonal Laplace distribution: its log density."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvi import ops
from fastvi.benchmarks import plain
from fastvi.benchmarks.cases import operation_case


def _sample_and_parameters() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(50, 100, 50), torch.randn(100, 50), torch.randn(100, 50)


CASES = [
    operation_case(
        "laplace",
        "laplace_log_prob 50x100x50, parameters 100x50",
        _sample_and_parameters,
        plain.laplace_log_prob,
        ops.laplace_log_prob,
        differentiable=(0, 1, 2),
        read_again=(0, 1, 2),
    ),
]
