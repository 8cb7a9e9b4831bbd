"""MEADS (Hoffman and Sountsov 2022): generalised HMC whose step size and damping come from the other chains.

Each transition is one leapfrog step from a momentum that is only partly drawn anew. What is rejected turns round; so
that this is rare, and comes in a row, Metropolis's uniforms move slowly and not at random (Neal 2020). Chains are in
four folds, and the parameters of a fold are statistics of the fold before it, of which its own chains are no part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastvi import ops
from fastvi.mcmc.adaptation import WarmUp
from fastvi.mcmc.hmc import HMC
from fastvi.mcmc.integrators import PhasePoint, Target, leapfrog
from fastvi.mcmc.kernel import ChainState, StepInfo, chain_noise, chain_normals, initial_state, step_seed
from fastvi.seeding import mix_seed

NUM_FOLDS = 4
LARGEST_STEP, STEP_FACTOR = 1.0, 0.5
"""The step size is min(1, 1/2 / sqrt of the largest eigenvalue)."""
START_PART = 10
"""One part of so many of warm-up is Langevin steps, whose step size is found by acceptance."""


class PersistentState(NamedTuple):
    """Where all chains are, with what they keep from one transition to the next.

    Attributes
    ----------
    position, log_density, gradient
        As in :class:`fastvi.mcmc.ChainState`.
    momentum
        ``(C, D)``, that of the mass 1 after each direction was divided by its scale.
    slice
        ``(C,)`` in float64, in [-1, 1]: a proposal is accepted where its absolute value is at most exp(-energy error).
    """

    position: Tensor
    log_density: Tensor
    gradient: Tensor
    momentum: Tensor
    slice: Tensor

    @property
    def chains(self) -> ChainState:
        """The part that every kernel has."""
        return ChainState(self.position, self.log_density, self.gradient)


@dataclass(frozen=True, eq=False)
class GeneralisedHMC:
    r"""Generalised HMC: a leapfrog step from a momentum that persists, Metropolis's rule with a slice that persists.

    .. math:: p \leftarrow \sqrt{1 - \alpha}\, p + \sqrt\alpha\, \xi, \qquad u \leftarrow ((u + 1 + \delta) \bmod 2) - 1

    and one leapfrog step, with the energy error :math:`\Delta`: where :math:`|u| \le e^{-\Delta}` it is accepted, and u
    is multiplied by :math:`e^\Delta`; elsewhere the chain stays, and its momentum is negated.

    Parameters
    ----------
    target
        Positions ``(C, D)`` to the log density ``(C,)`` and its gradient ``(C, D)``.
    step_size
        A number, or a tensor that broadcasts with positions: the step size times the scale of each direction.
    damping
        :math:`\alpha` in (0, 1], the part of the momentum's variance that is drawn anew: a number, or ``(C,)``.
    slice_shift
        :math:`\delta`, likewise.
    divergence_threshold
        Energy error in nats above which a step is divergent.

    References
    ----------
    Horowitz: A generalized guided Monte Carlo algorithm. Physics Letters B 1991.
    Neal: Non-reversibly updating a uniform [0, 1] value for Metropolis accept/reject decisions. arXiv 2001.11950.

    Examples
    --------
    >>> import torch
    >>> from fastvi.mcmc import as_target, step_seed
    >>> kernel = GeneralisedHMC(as_target(lambda q: -0.5 * q.square().sum(-1)), 0.5, damping=0.4, slice_shift=0.2)
    >>> state = kernel.init(torch.zeros(64, 3), seed=0)
    >>> for t in range(10):
    ...     state, info = kernel.step(state, step_seed(1, t))
    >>> state.position.shape, info.num_steps
    (torch.Size([64, 3]), 1)
    """

    target: Target
    step_size: float | Tensor
    damping: float | Tensor
    slice_shift: float | Tensor
    divergence_threshold: float = 1000.0

    def init(self, position: Tensor, seed: int = 0, first_chain: int = 0) -> PersistentState:
        """Return the state of chains at positions ``(C, D)``, with new momenta and slices."""
        with torch.no_grad():
            normal, uniform = chain_noise(seed, first_chain, position)
            chains = initial_state("MEADS", self.target, position)
            return PersistentState(*chains, normal.contiguous(), 2.0 * uniform - 1.0)

    def step(self, state: PersistentState, seed: int, first_chain: int = 0) -> tuple[PersistentState, StepInfo]:
        """Move all chains once; ``seed`` is that of this step, ``first_chain`` the number of the first chain."""
        with torch.no_grad():
            momentum = self._refreshed(
                state.momentum, chain_normals(seed, first_chain, state.position.shape[-1], state.position)
            )
            uniform = (state.slice + (1.0 + self.slice_shift)).remainder(2.0) - 1.0
            start = PhasePoint(state.position, momentum, state.log_density, state.gradient)
            end = leapfrog(self.target, start, self.step_size, 1)
            start_energy = ops.kinetic_energy(momentum) - state.log_density
            end_energy = ops.kinetic_energy(end.momentum) - end.log_density
            infinity = float("inf")
            error = torch.nan_to_num(end_energy - start_energy, nan=infinity, posinf=infinity, neginf=infinity)
            ratio = (-error.double()).exp()
            is_accepted = uniform.abs() <= ratio
            chosen = is_accepted.unsqueeze(-1)
            new_state = PersistentState(
                torch.where(chosen, end.position, state.position),
                torch.where(is_accepted, end.log_density, state.log_density),
                torch.where(chosen, end.gradient, state.gradient),
                torch.where(chosen, end.momentum, -momentum),
                torch.where(is_accepted, uniform / ratio, uniform).clamp(-1.0, 1.0),
            )
            info = StepInfo(
                ratio.clamp_max(1.0).to(error.dtype),
                is_accepted,
                error > self.divergence_threshold,
                torch.where(is_accepted, end_energy, start_energy),
                error,
                1,
                end,
                momentum,
            )
        return new_state, info

    def _refreshed(self, momentum: Tensor, noise: Tensor) -> Tensor:
        if not isinstance(self.damping, Tensor):
            return math.sqrt(1.0 - self.damping) * momentum + math.sqrt(self.damping) * noise
        damping = self.damping.unsqueeze(-1)
        return (1.0 - damping).sqrt() * momentum + damping.sqrt() * noise


def largest_eigenvalue(rows: Tensor) -> Tensor:
    r"""Estimate the largest eigenvalue of the second moments of independent rows ``(..., n, D)``, at least 2.

    It is the sum of the squared eigenvalues divided by the sum of the eigenvalues, each estimated without bias: for
    different rows, :math:`E (x_i^\top x_j)^2 = \sum \lambda^2`.

    Returns
    -------
    Tensor
        ``(...)``; 0 where all rows are 0.

    References
    ----------
    Hoffman, Sountsov: Tuning-free generalized Hamiltonian Monte Carlo. AISTATS 2022.

    Examples
    --------
    >>> import torch
    >>> largest_eigenvalue(torch.tensor([[2.0], [-2.0], [2.0]]))
    tensor(4.)
    """
    num_rows, dimension = rows.shape[-2:]
    products = rows @ rows.mT if num_rows <= dimension else rows.mT @ rows  # with the same sum of squares
    squares = rows.square().sum(-1)
    of_squares = (products.square().sum((-2, -1)) - squares.square().sum(-1)) / (num_rows * (num_rows - 1))
    return of_squares / squares.mean(-1).clamp_min(torch.finfo(rows.dtype).tiny)


class Parameters(NamedTuple):
    """What the chains of a fold say of a good transition: step size ``(...)``, damping rate ``(...)``, scales."""

    step_size: Tensor
    damping_rate: Tensor
    scale: Tensor

    @classmethod
    def of(cls, position: Tensor, gradient: Tensor, t: int) -> Parameters:
        """Return those of chains ``(..., n, D)`` at transition ``t``, from 0 on."""
        scale = position.std(-2, keepdim=True)
        # Chains that all are in the same place do not say how far they should go.
        scale = torch.where(scale > 0.0, scale, 1.0)
        step_size = (STEP_FACTOR * largest_eigenvalue(gradient * scale).rsqrt()).clamp_max(LARGEST_STEP)
        damping_rate = largest_eigenvalue((position - position.mean(-2, keepdim=True)) / scale).rsqrt()
        # The damping is strong at first, where chains are far away and would gain speed.
        damping_rate = torch.maximum(damping_rate.nan_to_num(posinf=1.0), 1.0 / ((t + 1) * step_size))
        return cls(step_size, damping_rate, scale.squeeze(-2))

    @property
    def damping(self) -> Tensor:
        """The part of the momentum's variance to draw anew, ``(...)``."""
        return -torch.expm1(-2.0 * self.step_size * self.damping_rate)

    def kernel(self, target: Target, divergence_threshold: float) -> GeneralisedHMC:
        """Return the transition with these parameters."""
        damping = self.damping
        step_size = self.step_size.unsqueeze(-1) * self.scale
        return GeneralisedHMC(target, step_size, damping, 0.5 * damping.double(), divergence_threshold)


@dataclass(frozen=True)
class MEADSAlgorithm:
    """Options of MEADS: generalised HMC, adapted by the chains themselves.

    At least 8 chains, a multiple of 4; a hundred or more is what it is for. The first tenth of warm-up are Langevin
    steps: far from where the density lies, gradients say nothing of its scales, and MEADS by itself would hardly move.
    Then warm-up follows the paper: in each step one fold rests, the others take their parameters from the fold before;
    every fourth step the folds are drawn anew. What it samples with is frozen: the mean, in logarithms, over the second
    half of warm-up.

    Parameters
    ----------
    divergence_threshold
        Energy error in nats above which a step is divergent.

    References
    ----------
    Hoffman, Sountsov: Tuning-free generalized Hamiltonian Monte Carlo. AISTATS 2022, algorithm 3.

    Examples
    --------
    >>> import torch
    >>> from fastvi.mcmc import as_target
    >>> target = as_target(lambda q: -0.5 * (q / torch.tensor([1.0, 3.0])).square().sum(-1))
    >>> run = MEADSAlgorithm().start(target, torch.zeros(128, 2), num_warmup=300, seed=0)
    >>> for t in range(300):
    ...     state, info = run.warm_step(t)
    >>> scale = run.description()["scale"]
    >>> bool(2.0 < scale[1] / scale[0] < 4.0)
    True
    """

    divergence_threshold: float = 1000.0

    def start(self, target: Target, position: Tensor, num_warmup: int, seed: int) -> MEADSRun:
        """Start chains at positions ``(C, D)``.

        Raises
        ------
        TypeError, ValueError
            If there are less than 8 chains, or no multiple of 4, and as :meth:`fastvi.mcmc.HMC.init`.
        """
        if position.shape[0] < 2 * NUM_FOLDS or position.shape[0] % NUM_FOLDS:
            raise ValueError(
                f"MEADS: the number of chains must be a multiple of {NUM_FOLDS} and at least {2 * NUM_FOLDS}, since "
                f"each fold is adapted by the one before; got positions of the shape {tuple(position.shape)}"
            )
        return MEADSRun(self, target, position, num_warmup, seed)


class MEADSRun:
    """Chains that :class:`MEADSAlgorithm` moves: see :class:`fastvi.mcmc.Run`."""

    def __init__(self, options: MEADSAlgorithm, target: Target, position: Tensor, num_warmup: int, seed: int) -> None:
        self._target, self._options, self._num_warmup = target, options, num_warmup
        self._seeds = tuple(mix_seed(seed, stream) for stream in range(3))
        self.chains = GeneralisedHMC(target, LARGEST_STEP, 1.0, 0.0).init(position, mix_seed(seed, 3))
        langevin = HMC(target, LARGEST_STEP, 1, divergence_threshold=options.divergence_threshold)
        self._num_start = num_warmup // START_PART
        self._start = WarmUp(langevin, self.chains.chains, self._num_start, mass=None)
        self._folds = torch.arange(position.shape[0], device=position.device)
        self._mean: Parameters | None = None
        """Of logarithms, over the steps of the second half of warm-up, so many:"""
        self._count = 0
        self._kernel: GeneralisedHMC | None = None
        self._frozen: Parameters | None = None
        """What the first draw was made with, and all others are."""

    @property
    def state(self) -> ChainState:
        """Where the chains are."""
        return self.chains.chains

    @property
    def kernel(self) -> GeneralisedHMC:
        """The transition of sampling, as far as warm-up knows it."""
        if self._kernel is None:
            self._kernel = self._parameters().kernel(self._target, self._options.divergence_threshold)
        return self._kernel

    def warm_step(self, t: int) -> tuple[ChainState, StepInfo]:
        """Move all chains by Langevin steps at first, then three folds, each by what the fold before it says."""
        if t < self._num_start:
            info = self._start.step(step_seed(self._seeds[0], t))
            self.chains, self._kernel = PersistentState(*self._start.state, *self.chains[3:]), None
            return self.state, info
        num_chains = self.chains.position.shape[0]
        if t % NUM_FOLDS == 0 or t == self._num_start:  # each chain rests as often as the others
            noise = chain_normals(step_seed(self._seeds[2], t), 0, 1, self.chains.position)
            self._folds = noise.squeeze(-1).argsort(stable=True)
        position, gradient = (
            x[self._folds].unflatten(0, (NUM_FOLDS, -1)) for x in (self.chains.position, self.chains.gradient)
        )
        own = Parameters.of(position, gradient, t)
        fold = torch.empty_like(self._folds)
        fold[self._folds] = torch.arange(num_chains, device=fold.device) // (num_chains // NUM_FOLDS)
        before = Parameters(*(x.roll(1, 0)[fold] for x in own))
        kernel = before.kernel(self._target, self._options.divergence_threshold)
        moved, info = kernel.step(self.chains, step_seed(self._seeds[0], t))
        # Without the fold that rests, each would be adapted, over the others, by itself: the target would not be kept.
        rests = fold == t % NUM_FOLDS
        self.chains = PersistentState(
            *(
                torch.where(rests.unsqueeze(-1) if new.dim() == 2 else rests, old, new)
                for old, new in zip(self.chains, moved, strict=True)
            )
        )
        if 2 * t >= self._num_warmup:
            self._count += 1
            newest = Parameters(*(x.log().mean(0) for x in own))
            pairs = zip(self._mean or newest, newest, strict=True)
            self._mean = Parameters(*(old.lerp(new, 1.0 / self._count) for old, new in pairs))
        self._kernel = None
        return self.state, info

    def sample_step(self, t: int) -> tuple[ChainState, StepInfo]:
        """Move all chains by the frozen transition."""
        if self._frozen is None:
            self._frozen, self._kernel = self._parameters(), None
        self.chains, info = self.kernel.step(self.chains, step_seed(self._seeds[1], t))
        return self.state, info

    def state_dict(self) -> dict[str, Any]:
        """Return what the run needs to go on."""
        mean = None if self._mean is None else tuple(self._mean)
        return {
            "start": self._start.state_dict(),
            "chains": tuple(self.chains),
            "folds": self._folds,
            "mean": mean,
            "count": self._count,
            "frozen": self._frozen and tuple(self._frozen),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self._start.load_state_dict(state["start"])
        self.chains, self._folds = PersistentState(*state["chains"]), state["folds"]
        self._mean = None if state["mean"] is None else Parameters(*state["mean"])
        self._count, self._kernel = state["count"], None
        self._frozen = None if state["frozen"] is None else Parameters(*state["frozen"])

    def description(self) -> dict[str, Any]:
        """Return what warm-up settled on: ``step_size``, ``damping`` and the ``scale`` of each direction, ``(D,)``."""
        found = self._parameters()
        return {"step_size": float(found.step_size), "damping": float(found.damping), "scale": found.scale}

    def _parameters(self) -> Parameters:
        if self._frozen is not None:
            return self._frozen
        if self._mean is None:
            return Parameters.of(self.chains.position, self.chains.gradient, self._num_warmup)
        return Parameters(*(x.exp() for x in self._mean))
