"""The Poisson log-likelihood of counts."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvi import ops
from fastvi.benchmarks.cases import operation_case


def _plain_log_prob(x: Tensor, log_rate: Tensor) -> Tensor:
    """As torch.distributions has it for counts, with the logarithm in place of the rate."""
    return (x * log_rate - torch.exp(log_rate) - torch.lgamma(x + 1)).sum(-1)


def _counts_and_rates() -> tuple[Tensor, Tensor]:
    return torch.poisson(torch.exp(torch.randn(128, 2000))), torch.randn(128, 2000)


def _counts_and_rates_of_samples() -> tuple[Tensor, Tensor]:
    """The plain formula takes log-gamma once for all samples, the fused one for each."""
    return torch.poisson(torch.exp(torch.randn(100, 200))), torch.randn(50, 100, 200)


CASES = [
    operation_case(
        "poisson",
        "poisson_log_prob 128x2000",
        _counts_and_rates,
        _plain_log_prob,
        ops.poisson_log_prob,
        differentiable=(1,),
        read_again=(0, 1),
    ),
    operation_case(
        "poisson",
        "poisson_log_prob 50x100x200, counts 100x200",
        _counts_and_rates_of_samples,
        _plain_log_prob,
        ops.poisson_log_prob,
        differentiable=(1,),
        read_again=(0, 1),
    ),
]
