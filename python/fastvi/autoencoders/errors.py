"""Reconstruction errors: the squared one, and minus the log-likelihoods of `fastvi.models.LIKELIHOODS`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastvi import ops
from fastvi.models.likelihoods import LIKELIHOODS

SQUARED = "squared"
ERRORS = (SQUARED, *LIKELIHOODS)
"""By name: the squared error, and in nats minus the log-likelihoods."""


def parts_of(error: str) -> int:
    """Return how many numbers the decoder gives for each value of x."""
    return 1 if error == SQUARED else LIKELIHOODS[error].parts


def start_of(error: str, data_mean: Tensor) -> Tensor:
    """Return the output bias with which the reconstruction is the data's mean, shape (D,)."""
    return data_mean if error == SQUARED else LIKELIHOODS[error].start(data_mean)


def mean_of(error: str, outputs: Tensor) -> Tensor:
    """Return the reconstruction, shape (..., D), of what the decoder gives."""
    if error == SQUARED:
        return outputs
    likelihood = LIKELIHOODS[error]
    return likelihood.mean(likelihood.split(outputs))


def error_of(error: str, x: Tensor, outputs: Tensor, validate_args: bool) -> Tensor:
    """Return the error of each example, summed over the values: of x (B, D) and what the decoder gives."""
    if error == SQUARED:
        return (x - outputs).square().sum(-1)
    likelihood = LIKELIHOODS[error]
    return -likelihood.log_prob(x, likelihood.split(outputs), validate_args)


def error_after_linear(error: str, x: Tensor, hidden: Tensor, head: nn.Linear, validate_args: bool) -> Tensor:
    """Return the error of each example, with the last layer's outputs never stored where there is an operation."""
    if error == "bernoulli" and not torch.is_autocast_enabled(x.device.type):
        return -ops.linear_bernoulli_log_prob(hidden, head.weight, head.bias, x, validate_args)
    return error_of(error, x, head(hidden), validate_args)
