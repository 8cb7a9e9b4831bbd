"""Hamiltonian dynamics of 1000 chains in 50 dimensions: a leapfrog step and the kinetic energy."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from fastvi import ops, reference
from fastvi.benchmarks import plain
from fastvi.benchmarks.cases import operation_case

STEP_SIZE = 0.1


def _state() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(1000, 50), torch.randn(1000, 50), torch.randn(1000, 50)


def _inverse_mass() -> Tensor:
    return torch.rand(50) + 0.5


def _plain_step(q: Tensor, p: Tensor, grad: Tensor, inverse_mass: Tensor) -> tuple[Tensor, Tensor]:
    return reference.leapfrog_step(q, p, grad, STEP_SIZE, inverse_mass)


def _fused_step(q: Tensor, p: Tensor, grad: Tensor, inverse_mass: Tensor) -> tuple[Tensor, Tensor]:
    return ops.leapfrog_step(q, p, grad, STEP_SIZE, inverse_mass)


CASES = [
    operation_case(
        "leapfrog",
        "leapfrog_step 1000x50",
        _state,
        partial(reference.leapfrog_step, step_size=STEP_SIZE),
        partial(ops.leapfrog_step, step_size=STEP_SIZE),
        differentiable=(0, 1, 2),
    ),
    operation_case(
        "leapfrog",
        "leapfrog_step 1000x50, diagonal mass",
        lambda: (*_state(), _inverse_mass()),
        _plain_step,
        _fused_step,
        differentiable=(0, 1, 2),
        read_again=(3,),
    ),
    operation_case(
        "leapfrog",
        "momentum_kick 1000x50",
        lambda: _state()[1:],
        partial(reference.momentum_kick, step_size=STEP_SIZE),
        partial(ops.momentum_kick, step_size=STEP_SIZE),
        differentiable=(0, 1),
    ),
    operation_case(
        "leapfrog",
        "kinetic_energy 1000x50, diagonal mass",
        lambda: (torch.randn(1000, 50), _inverse_mass()),
        plain.kinetic_energy,
        ops.kinetic_energy,
        differentiable=(0,),
        read_again=(0, 1),
        jax="kinetic_energy",
    ),
]
