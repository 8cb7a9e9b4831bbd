"""Perceptrons of the sizes that people train: an encoder, and a decoder with the likelihood of binary data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from fastvi import ops
from fastvi.benchmarks import plain
from fastvi.benchmarks.cases import operation_case
from fastvi.benchmarks.harness import Case

ENCODER = (784, 200, 200, 100)
DECODER = (50, 200, 200, 784)


def _parameters(widths: Sequence[int]) -> list[Tensor]:
    """Weight and bias of each layer."""
    made = []
    for fan_in, fan_out in itertools.pairwise(widths):
        made += [torch.randn(fan_out, fan_in) / math.sqrt(fan_in), 0.1 * torch.randn(fan_out)]
    return made


def _encoder_and_data(rows: int) -> list[Tensor]:
    return [torch.bernoulli(torch.full((rows, ENCODER[0]), 0.5)), *_parameters(ENCODER)]


def _decoder_and_data(samples: int, batch: int) -> list[Tensor]:
    data = torch.bernoulli(torch.full((batch, DECODER[-1]), 0.5))
    return [torch.randn(samples, batch, DECODER[0]), data, *_parameters(DECODER)]


def _plain_mlp(x: Tensor, *parameters: Tensor) -> Tensor:
    weights, biases = parameters[::2], parameters[1::2]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = torch.tanh(torch.nn.functional.linear(x, weight, bias))
    return torch.nn.functional.linear(x, weights[-1], biases[-1])


def _mlp(x: Tensor, *parameters: Tensor) -> Tensor:
    return ops.mlp(x, parameters[::2], parameters[1::2])


def _plain_likelihood(z: Tensor, x: Tensor, *parameters: Tensor) -> Tensor:
    return plain.bernoulli_log_prob(x, _plain_mlp(z, *parameters))


def _likelihood(z: Tensor, x: Tensor, *parameters: Tensor) -> Tensor:
    return ops.mlp_bernoulli_log_prob(z, parameters[::2], parameters[1::2], x)


def _encoder_case(rows: int) -> Case:
    return operation_case(
        "mlp",
        f"mlp {rows}x{'-'.join(map(str, ENCODER))}",
        partial(_encoder_and_data, rows),
        _plain_mlp,
        _mlp,
        differentiable=range(1, 7),
        read_again=range(7),
    )


def _decoder_case(samples: int, batch: int) -> Case:
    return operation_case(
        "mlp",
        f"mlp_bernoulli_log_prob {samples}x{batch}x{'-'.join(map(str, DECODER))}",
        partial(_decoder_and_data, samples, batch),
        _plain_likelihood,
        _likelihood,
        differentiable=(0, *range(2, 8)),
        read_again=range(8),
    )


CASES = [_encoder_case(20), _encoder_case(100), _encoder_case(5000), _decoder_case(1, 100), _decoder_case(50, 100)]
