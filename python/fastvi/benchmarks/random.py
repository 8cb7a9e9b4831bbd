"""Random draws: standard normal numbers, reparameterised Gaussian samples, and samples with their log density ratio."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from fastvi import ops, reference
from fastvi.benchmarks import plain
from fastvi.benchmarks.cases import operation_case
from fastvi.benchmarks.harness import Case

DRAWS = 10**6


def _place() -> tuple[Tensor]:
    """Nothing but the device to draw on."""
    return (torch.empty(0),)


def _plain_draws(place: Tensor) -> Tensor:
    return torch.randn(DRAWS, device=place.device)


def _draws(place: Tensor) -> Tensor:
    return ops.standard_normal(DRAWS, device=place.device)


def _parameters(batch: int, dimension: int) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, dimension), torch.randn(batch, dimension)


def _plain_rsample(mean: Tensor, logvar: Tensor, num_samples: int) -> Tensor:
    return reference.rsample_normal(mean, logvar, torch.randn(num_samples, *mean.shape, device=mean.device))


def _plain_log_ratio(mean: Tensor, logvar: Tensor, num_samples: int) -> tuple[Tensor, Tensor]:
    return plain.rsample_normal_with_log_ratio(mean, logvar, torch.randn(num_samples, *mean.shape, device=mean.device))


def _rsample_case(num_samples: int, batch: int, dimension: int) -> Case:
    return operation_case(
        "random",
        f"rsample_normal {num_samples}x{batch}x{dimension}",
        partial(_parameters, batch, dimension),
        partial(_plain_rsample, num_samples=num_samples),
        partial(ops.rsample_normal, sample_shape=(num_samples,)),
        differentiable=(0, 1),
        read_again=(1,),
        draws=True,
    )


def _log_ratio_case(num_samples: int, batch: int, dimension: int) -> Case:
    return operation_case(
        "random",
        f"rsample_normal_with_log_ratio {num_samples}x{batch}x{dimension}",
        partial(_parameters, batch, dimension),
        partial(_plain_log_ratio, num_samples=num_samples),
        partial(ops.rsample_normal_with_log_ratio, num_samples=num_samples),
        differentiable=(0, 1),
        read_again=(0, 1),
        draws=True,
    )


CASES = [
    operation_case(
        "random",
        f"standard_normal {DRAWS}",
        _place,
        _plain_draws,
        _draws,
        draws=True,
    ),
    _rsample_case(50, 100, 50),
    _rsample_case(1, 4096, 256),
    _log_ratio_case(50, 100, 50),
]
