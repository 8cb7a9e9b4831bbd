"""What every kernel of Markov chains shares: the state of all chains, what a step reports, and the chains' own noise.

A chain's noise is determined by the seed of the step and the number of the chain alone, so that the chain is the same
for any number of chains beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fastvi import ops
from fastvi.mcmc.integrators import PhasePoint, Target
from fastvi.seeding import mix_seed


class ChainState(NamedTuple):
    """Where all chains are.

    Attributes
    ----------
    position
        ``(C, D)``.
    log_density
        ``(C,)``, in nats; it need not be normalised.
    gradient
        ``(C, D)``, that of the log density by the position.
    """

    position: Tensor
    log_density: Tensor
    gradient: Tensor


class StepInfo(NamedTuple):
    """What a step did, chain by chain.

    Attributes
    ----------
    acceptance_probability
        ``(C,)``: min(1, exp(-energy_error)), and 0 where that is not finite. Adaptation uses this and not whether the
        proposal happened to be accepted.
    is_accepted
        ``(C,)``, bool.
    is_divergent
        ``(C,)``, bool: the energy error is above the kernel's threshold, or not finite.
    energy
        ``(C,)``, the Hamiltonian of what was kept: the proposal or the start, each with its momentum.
    energy_error
        ``(C,)``: H(end) - H(start) of the trajectory; inf where it is not finite.
    num_steps
        Leapfrog steps of the trajectory, which are the gradients that each chain took: an integrator of two or three
        stages counts as many for each of its steps.
    proposal
        The end of the trajectory, its momentum as it ended there, not negated.
    start_momentum
        ``(C, D)``, the momentum that the trajectory began with.
    """

    acceptance_probability: Tensor
    is_accepted: Tensor
    is_divergent: Tensor
    energy: Tensor
    energy_error: Tensor
    num_steps: int
    proposal: PhasePoint
    start_momentum: Tensor


class Kernel(Protocol):
    """A transition that leaves a density as it is: immutable; adaptation makes new ones by ``dataclasses.replace``."""

    @property
    def target(self) -> Target:
        """The log density and its gradient."""

    def init(self, position: Tensor) -> ChainState:
        """Return the state of chains that start at positions ``(C, D)``."""

    def step(self, state: ChainState, seed: int, first_chain: int = 0) -> tuple[ChainState, StepInfo]:
        """Move all chains once; ``first_chain`` is the number of the first one."""


def initial_state(owner: str, target: Target, position: Tensor) -> ChainState:
    """Return the state of chains at positions ``(C, D)``, and check once what no step checks again.

    Parameters
    ----------
    owner
        What messages begin with.

    Raises
    ------
    TypeError, ValueError
        If positions or what the target gives have the wrong type, shape or device, or where a chain starts without a
        finite density or gradient.

    Examples
    --------
    >>> import torch
    >>> from fastvi.mcmc import as_target
    >>> target = as_target(lambda q: q.log().sum(-1) - q.sum(-1))
    >>> initial_state("HMC", target, torch.tensor([[1.0], [-1.0]]))
    Traceback (most recent call last):
    ValueError: HMC: chain 1 of 2 starts where the log density is nan: start it where the density is ...
    """
    if not isinstance(position, Tensor):
        raise TypeError(f"{owner}: positions must be a torch.Tensor, got {type(position).__name__}")
    if position.dim() != 2 or 0 in position.shape:
        shape = tuple(position.shape)
        raise ValueError(f"{owner}: positions must have the shape (C, D), one row for each chain, got {shape}")
    if position.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{owner}: positions must have the dtype float32 or float64, got {position.dtype}")
    position = position.detach().clone(memory_format=torch.contiguous_format)
    with torch.no_grad():
        log_density, gradient = target(position)
    for name, found, shape in (
        ("log density", log_density, position.shape[:1]),
        ("gradient", gradient, position.shape),
    ):
        if not isinstance(found, Tensor):
            raise TypeError(f"{owner}: the {name} must be a torch.Tensor, got {type(found).__name__}")
        if found.shape != shape:
            raise ValueError(
                f"{owner}: the {name} of positions {tuple(position.shape)} must have the shape {tuple(shape)}, got "
                f"{tuple(found.shape)}"
            )
        for kind, of_found, of_positions in (
            ("device", found.device, position.device),
            ("dtype", found.dtype, position.dtype),
        ):
            if of_found != of_positions:
                raise ValueError(
                    f"{owner}: the {name} has the {kind} {of_found}, the positions have {of_positions}: move or "
                    f"convert one of them, or the data that the log density reads"
                )
    bad = ~(log_density.isfinite() & gradient.isfinite().all(-1))
    if bad.any():
        chains = bad.nonzero().flatten().tolist()
        value = log_density[chains[0]].item()
        what = "the gradient is not finite" if math.isfinite(value) else f"the log density is {value}"
        starts, them = ("start", "them") if len(chains) > 1 else ("starts", "it")
        raise ValueError(
            f"{owner}: {name_chains(chains)} of {len(position)} {starts} where {what}: start {them} where the density "
            f"is positive and smooth, such as at draws of the prior or near a mode; a parameter with bounds needs a "
            f"bijection"
        )
    return ChainState(position, log_density, gradient)


def name_chains(chains: Sequence[int], most: int = 8) -> str:
    """Return "chain 3", or "chains 1, 2, 5, ..." with the first few of them.

    Examples
    --------
    >>> name_chains([1, 2, 5], most=2)
    'chains 1, 2, ... (3)'
    """
    shown = ", ".join(map(str, chains[:most])) + (f", ... ({len(chains)})" if len(chains) > most else "")
    return f"chain{'s' if len(chains) > 1 else ''} {shown}"


def step_seed(seed: int, t: int) -> int:
    """Return the seed of step ``t`` of a run with ``seed``: that of two steps, or of two runs, is never the same.

    Examples
    --------
    >>> step_seed(0, 1) != step_seed(1, 0)
    True
    """
    return mix_seed(seed, t)


def chain_normals(seed: int, first_chain: int, num_columns: int, like: Tensor) -> Tensor:
    """Return standard normal noise ``(C, num_columns)`` for the chains of ``like``, ``(C, ...)``, in its dtype.

    That of chain c in column d depends on ``(seed, first_chain + c, d)`` alone.
    """
    zeros = like.new_zeros((like.shape[0], num_columns))
    return ops.rsample_normal(zeros, zeros, (), seed, first_chain)


def chain_noise(seed: int, first_chain: int, position: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a step of chains at positions ``(C, D)`` draws: standard normals ``(C, D)`` and uniforms ``(C,)``.

    Those of chain c depend on ``(seed, first_chain + c)`` and the dimension alone. The uniforms are above 0 and in
    float64.

    Examples
    --------
    >>> import torch
    >>> all_normals, all_uniforms = chain_noise(7, 0, torch.zeros(5, 2))
    >>> normals, uniforms = chain_noise(7, 3, torch.zeros(2, 2))
    >>> torch.equal(all_normals[3:], normals), torch.equal(all_uniforms[3:], uniforms)
    (True, True)
    """
    dimension = position.shape[-1]
    noise = chain_normals(seed, first_chain, dimension + 1, position)
    return noise[:, :dimension], torch.special.ndtr(noise[:, dimension].double())


def halton(t: int) -> float:
    """Return the number t, from 0 on, of the Halton sequence of base 2, in (0, 1): 1/2, 1/4, 3/4, 1/8, ...

    Examples
    --------
    >>> [halton(t) for t in range(4)]
    [0.5, 0.25, 0.75, 0.125]
    """
    bits = f"{t + 1:b}"
    return int(bits[::-1], 2) / (1 << len(bits))
