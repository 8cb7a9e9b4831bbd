"""The diagonal Laplace distribution: its log density."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastvi import ops
from fastvi.benchmarks.cases import operation_case


def _plain_log_prob(x: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """As one writes it: fastvi.reference has another product, for scales beyond what this one can do."""
    return -((x - loc).abs() * torch.exp(-log_scale) + log_scale + math.log(2.0)).sum(-1)


def _sample_and_parameters() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(50, 100, 50), torch.randn(100, 50), torch.randn(100, 50)


CASES = [
    operation_case(
        "laplace",
        "laplace_log_prob 50x100x50, parameters 100x50",
        _sample_and_parameters,
        _plain_log_prob,
        ops.laplace_log_prob,
        differentiable=(0, 1, 2),
        read_again=(0, 1, 2),
        jax="laplace_log_prob",
    ),
]
