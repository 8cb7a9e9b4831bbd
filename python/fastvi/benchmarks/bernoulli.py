"""Bernoulli log-likelihood of binary data, from logits and from the last linear layer of a decoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastvi import ops
from fastvi.benchmarks import plain
from fastvi.benchmarks.cases import operation_case


def _data_and_logits() -> tuple[Tensor, Tensor]:
    return torch.bernoulli(torch.full((100, 784), 0.5)), torch.randn(50, 100, 784)


def _layer_and_data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    hidden = torch.tanh(torch.randn(50, 100, 200))
    weight = torch.randn(784, 200) / math.sqrt(200.0)
    return hidden, weight, torch.randn(784), torch.bernoulli(torch.full((100, 784), 0.5))


CASES = [
    operation_case(
        "bernoulli",
        "bernoulli_log_prob 50x100x784, data 100x784",
        _data_and_logits,
        plain.bernoulli_log_prob,
        ops.bernoulli_log_prob,
        differentiable=(1,),
        read_again=(0, 1),
        jax="bernoulli_log_prob",
    ),
    operation_case(
        "bernoulli",
        "linear_bernoulli_log_prob 50x100x200 -> 784",
        _layer_and_data,
        plain.linear_bernoulli_log_prob,
        ops.linear_bernoulli_log_prob,
        differentiable=(0, 1, 2),
        read_again=(0, 1, 2, 3),
        jax="linear_bernoulli_log_prob",
    ),
]
