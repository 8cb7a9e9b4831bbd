"""Diagonal Gaussians: divergence from the standard normal, log density and entropy."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvi import ops, reference
from fastvi.benchmarks import plain
from fastvi.benchmarks.cases import operation_case
from fastvi.benchmarks.harness import Case


def _kl_case(batch: int, dimension: int) -> Case:
    return operation_case(
        "normal",
        f"kl_normal {batch}x{dimension}",
        lambda: (torch.randn(batch, dimension), torch.randn(batch, dimension)),
        reference.kl_normal,
        ops.kl_normal,
        differentiable=(0, 1),
        read_again=(0, 1),
        jax="kl_normal",
    )


def _sample_and_parameters() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(50, 100, 50), torch.randn(100, 50), torch.randn(100, 50)


CASES = [
    _kl_case(4096, 256),
    _kl_case(100, 50),
    operation_case(
        "normal",
        "normal_log_prob 50x100x50, parameters 100x50",
        _sample_and_parameters,
        plain.normal_log_prob,
        ops.normal_log_prob,
        differentiable=(0, 1, 2),
        read_again=(0, 1, 2),
        jax="normal_log_prob",
    ),
    operation_case(
        "normal",
        "normal_entropy 4096x256",
        lambda: (torch.randn(4096, 256),),
        reference.normal_entropy,
        ops.normal_entropy,
        differentiable=(0,),
        jax="normal_entropy",
    ),
]
