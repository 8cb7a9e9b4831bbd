"""The negative binomial log-likelihood of counts, alone and with extra zeros."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fastvi import ops
from fastvi.benchmarks.cases import operation_case


def _plain_terms(x: Tensor, total_count: Tensor, logits: Tensor) -> Tensor:
    """As torch.distributions has it; fastvi.reference has more operators, for large counts."""
    coefficient = torch.lgamma(x + total_count) - torch.lgamma(total_count) - torch.lgamma(x + 1)
    return coefficient + total_count * logsigmoid(-logits) + x * logsigmoid(logits)


def _plain_log_prob(x: Tensor, total_count: Tensor, logits: Tensor) -> Tensor:
    return _plain_terms(x, total_count, logits).sum(-1)


def _plain_zero_inflated_log_prob(x: Tensor, total_count: Tensor, logits: Tensor, gate_logits: Tensor) -> Tensor:
    """As Pyro has it."""
    counts = logsigmoid(-gate_logits) + _plain_terms(x, total_count, logits)
    return torch.where(x == 0, torch.logaddexp(logsigmoid(gate_logits), counts), counts).sum(-1)


def _counts_and_parameters() -> tuple[Tensor, Tensor, Tensor]:
    """A batch of cells, as in single-cell transcriptomics: a dispersion for each gene, a mean for each count."""
    counts = torch.poisson(torch.exp(torch.randn(128, 2000)))
    return counts, torch.exp(torch.randn(2000)), torch.randn(128, 2000)


CASES = [
    operation_case(
        "negative_binomial",
        "negative_binomial_log_prob 128x2000, total_count 2000",
        _counts_and_parameters,
        _plain_log_prob,
        ops.negative_binomial_log_prob,
        differentiable=(1, 2),
        read_again=(0, 1, 2),
    ),
    operation_case(
        "negative_binomial",
        "zero_inflated_negative_binomial_log_prob 128x2000, total_count 2000",
        lambda: (*_counts_and_parameters(), torch.randn(128, 2000)),
        _plain_zero_inflated_log_prob,
        ops.zero_inflated_negative_binomial_log_prob,
        differentiable=(1, 2, 3),
        read_again=(0, 1, 2, 3),
    ),
]
