"""Soft thresholding of 1000 vectors of 50 coefficients, with a threshold for each coefficient."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvi import ops, reference
from fastvi.benchmarks.cases import operation_case


def _coefficients_and_thresholds() -> tuple[Tensor, Tensor]:
    return torch.randn(1000, 50), torch.rand(50)


CASES = [
    operation_case(
        "threshold",
        "soft_threshold 1000x50, thresholds 50",
        _coefficients_and_thresholds,
        reference.soft_threshold,
        ops.soft_threshold,
        differentiable=(0, 1),
        read_again=(0, 1),
        jax="soft_threshold",
    ),
]
