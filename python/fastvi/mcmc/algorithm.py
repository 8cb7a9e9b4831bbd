"""What ``sample`` runs: an algorithm is a dataclass of options that starts a run, whose warm-up and sampling are steps.

A run is determined by its seed: interrupted and resumed from its state, it draws what it would have drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from fastvi.mcmc.adaptation import WarmUp
from fastvi.mcmc.hmc import HMC
from fastvi.mcmc.integrators import Target
from fastvi.mcmc.kernel import ChainState, StepInfo, halton, step_seed
from fastvi.mcmc.mala import MALA
from fastvi.seeding import mix_seed


class Run(Protocol):
    """Chains that an algorithm moves: first ``num_warmup`` warm-up steps, then steps whose states are draws."""

    @property
    def state(self) -> ChainState:
        """Where the chains are."""

    @property
    def kernel(self) -> Any:
        """The kernel that moves them at present; after warm-up it stays the same."""

    def warm_step(self, t: int) -> tuple[ChainState, StepInfo]:
        """Do the warm-up step ``t``, from 0 on: move all chains, and adapt."""

    def sample_step(self, t: int) -> tuple[ChainState, StepInfo]:
        """Do the sampling step ``t``, from 0 on: move all chains by the kernel that warm-up ended with."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the run needs to go on: numbers, texts and tensors that can be pickled, and no target."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` of a run with the same options returned."""

    def description(self) -> dict[str, Any]:
        """Return what warm-up settled on, by name: ``step_size``, ``num_steps``, ``inverse_mass`` and the like."""


class Algorithm(Protocol):
    """The options of a way to sample, a frozen dataclass."""

    def start(self, target: Target, position: Tensor, num_warmup: int, seed: int) -> Run:
        """Start chains at positions ``(C, D)``.

        Raises
        ------
        TypeError, ValueError
            If positions or what the target gives are not as they must be, or where a chain starts without a finite
            density or gradient.
        """


@dataclass(frozen=True)
class HMCAlgorithm:
    """Hamiltonian Monte Carlo: step size and mass by warm-up, trajectories of about ``num_steps`` steps.

    Parameters
    ----------
    num_steps
        Mean number of steps of a trajectory.
    jitter
        Part of it, from 0 to 1, by which the numbers go up and down, evenly, so that no period of the density is met
        again and again; all chains have the same number in each step.
    step_size
        To begin the search with; where no warm-up is done, the step size.
    mass
        ``diagonal``, ``dense``, ``auto`` for dense where positions are strongly correlated and else diagonal, or None
        for the identity.
    target_acceptance, per_chain_step_size
        See :class:`fastvi.mcmc.WarmUp`.
    integrator, divergence_threshold
        See :class:`fastvi.mcmc.HMC`.

    Examples
    --------
    >>> import torch
    >>> from fastvi.mcmc import as_target
    >>> target = as_target(lambda q: -0.5 * q.square().sum(-1))
    >>> run = HMCAlgorithm(num_steps=4).start(target, torch.zeros(8, 2), num_warmup=100, seed=1)
    >>> for t in range(100):
    ...     _ = run.warm_step(t)
    >>> draws = torch.stack([run.sample_step(t)[0].position for t in range(50)])
    >>> draws.shape
    torch.Size([50, 8, 2])
    """

    num_steps: int = 10
    jitter: float = 0.5
    step_size: float = 1.0
    mass: str | None = "auto"
    target_acceptance: float = 0.8
    per_chain_step_size: bool = False
    integrator: str = "leapfrog"
    divergence_threshold: float = 1000.0

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"HMC: num_steps must be positive, got {self.num_steps}")
        if not 0.0 <= self.jitter <= 1.0:
            raise ValueError(f"HMC: jitter must be from 0 to 1, got {self.jitter}")

    def start(self, target: Target, position: Tensor, num_warmup: int, seed: int) -> HMCRun:
        """Start chains at positions ``(C, D)``: see :meth:`Algorithm.start`."""
        kernel = HMC(
            target,
            self.step_size,
            self.num_steps,
            integrator=self.integrator,
            divergence_threshold=self.divergence_threshold,
        )
        return HMCRun(self, kernel, position, num_warmup, seed)


@dataclass(frozen=True)
class MALAAlgorithm:
    """The Metropolis-adjusted Langevin algorithm: step size and mass by warm-up.

    Parameters
    ----------
    step_size, mass, target_acceptance, per_chain_step_size, divergence_threshold
        See :class:`HMCAlgorithm`; 0.574 is the best acceptance in many dimensions (Roberts and Rosenthal 1998).
    """

    step_size: float = 1.0
    mass: str | None = "auto"
    target_acceptance: float = 0.574
    per_chain_step_size: bool = False
    divergence_threshold: float = 1000.0

    def start(self, target: Target, position: Tensor, num_warmup: int, seed: int) -> HMCRun:
        """Start chains at positions ``(C, D)``: see :meth:`Algorithm.start`."""
        kernel = MALA(target, self.step_size, divergence_threshold=self.divergence_threshold)
        return HMCRun(self, kernel, position, num_warmup, seed)


class HMCRun:
    """A run of :class:`HMCAlgorithm` or :class:`MALAAlgorithm`."""

    def __init__(
        self, options: HMCAlgorithm | MALAAlgorithm, kernel: HMC, position: Tensor, num_warmup: int, seed: int
    ) -> None:
        self._warm_up = WarmUp(
            kernel,
            kernel.init(position),
            num_warmup,
            mass=options.mass,
            target_acceptance=options.target_acceptance,
            per_chain_step_size=options.per_chain_step_size,
        )
        self._mean = kernel.num_steps
        self._spread = options.jitter * kernel.num_steps if isinstance(options, HMCAlgorithm) else 0.0
        self._seeds = mix_seed(seed, 0), mix_seed(seed, 1)

    @property
    def state(self) -> ChainState:
        """Where the chains are."""
        return self._warm_up.state

    @property
    def kernel(self) -> HMC:
        """The kernel, with the number of steps of the last trajectory."""
        return self._warm_up.kernel

    def warm_step(self, t: int) -> tuple[ChainState, StepInfo]:
        """Do the warm-up step ``t``."""
        self._jitter(t)
        info = self._warm_up.step(step_seed(self._seeds[0], t))
        return self.state, info

    def sample_step(self, t: int) -> tuple[ChainState, StepInfo]:
        """Do the sampling step ``t``."""
        self._jitter(t)
        self._warm_up.state, info = self.kernel.step(self.state, step_seed(self._seeds[1], t))
        return self.state, info

    def _jitter(self, t: int) -> None:
        if self._spread:
            num_steps = max(1, round(self._mean + self._spread * (2.0 * halton(t) - 1.0)))
            self._warm_up.kernel = replace(self.kernel, num_steps=num_steps)

    def state_dict(self) -> dict[str, Any]:
        """Return what the run needs to go on; it can be pickled."""
        return self._warm_up.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` of a run with the same options returned."""
        self._warm_up.load_state_dict(state)

    def description(self) -> dict[str, Any]:
        """Return step size, mean number of steps, trajectory length and inverse mass."""
        kernel = self.kernel
        return {
            "step_size": kernel.step_size,
            "num_steps": self._mean,
            "trajectory_length": self._mean * kernel.step_size,
            "inverse_mass": kernel.inverse_mass,
        }
