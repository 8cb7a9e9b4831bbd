"""Continuous Bernoulli log density of grey images, from logits."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvi import ops
from fastvi.benchmarks.cases import operation_case


def _plain_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """As one writes it: fastvi.reference has a series and limits, for logits near zero and for infinite ones."""
    return (x * logits - torch.nn.functional.softplus(logits) + torch.log(logits / torch.tanh(0.5 * logits))).sum(-1)


def _data_and_logits() -> tuple[Tensor, Tensor]:
    logits = torch.randn(50, 100, 784)
    return torch.rand(100, 784), logits + logits.sign()  # near zero the plain formula loses its digits in float32


CASES = [
    operation_case(
        "continuous_bernoulli",
        "continuous_bernoulli_log_prob 50x100x784, data 100x784",
        _data_and_logits,
        _plain_log_prob,
        ops.continuous_bernoulli_log_prob,
        differentiable=(1,),
        read_again=(0, 1),
    ),
]
