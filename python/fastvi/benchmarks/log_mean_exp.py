"""Importance weights: their log-mean-exp, their normalisation and their effective sample size, over the first axis."""

from __future__ import annotations

from functools import partial

import torch

from fastvi import ops, reference
from fastvi.benchmarks.cases import Operation, operation_case
from fastvi.benchmarks.harness import Case


def _case(name: str, formula: Operation, fastvi: Operation, num_samples: int, batch: int) -> Case:
    return operation_case(
        "log_mean_exp",
        f"{name} {num_samples}x{batch}",
        lambda: (torch.randn(num_samples, batch),),
        partial(formula, dim=0),
        partial(fastvi, dim=0),
        differentiable=(0,),
        read_again=(0,),
        jax="log_mean_exp" if name == "log_mean_exp" else None,
    )


CASES = [
    _case(name, formula, fastvi, num_samples, batch)
    for name, formula, fastvi in (
        ("log_mean_exp", reference.log_mean_exp, ops.log_mean_exp),
        ("importance_weights", reference.importance_weights, ops.importance_weights),
        ("effective_sample_size", reference.effective_sample_size, ops.effective_sample_size),
    )
    for num_samples, batch in ((5000, 20), (50, 100))
]
