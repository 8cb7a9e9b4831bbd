"""ChEES-HMC (Hoffman, Radul and Sountsov 2021): one trajectory length for many chains, adapted by what all of them do.

The criterion is the change in the estimator of the expected square; stochastic ascent follows its gradient by the
logarithm of the trajectory length, while dual averaging finds the step size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastvi.mcmc.adaptation import MASSES, reasonable_step_size
from fastvi.mcmc.dual_averaging import DualAveraging, StepSizeState
from fastvi.mcmc.hmc import HMC
from fastvi.mcmc.integrators import PhasePoint, Target
from fastvi.mcmc.kernel import ChainState, StepInfo, halton, initial_state, step_seed
from fastvi.mcmc.moments import MomentState, RunningCovariance
from fastvi.seeding import mix_seed

SMALLEST_PROBABILITY = 1e-4
"""Of acceptance: what a less probable proposal says of the trajectory length does not count."""
RATE, DECAY = 0.025, 0.95
"""Of the ascent: its rate, and the decay of the mean square of gradients.

A step changes log T by at most RATE / sqrt(1 - DECAY) = 0.112, so that the bound of 0.35 of other programs never binds.
"""
AVERAGING = 0.5
"""The average of log T, and that of the step size, gives its newest value the weight t to minus this power."""
MASS_ENDS = (0.05, 0.1, 0.2, 0.4, 0.7)
"""Parts of warm-up at whose ends the mass is taken."""


def trajectory_gradient(
    position: Tensor,
    proposal: PhasePoint,
    acceptance_probability: Tensor,
    length: float,
    inverse_mass: Tensor | None = None,
) -> Tensor:
    r"""Return the derivative of the ChEES criterion by the logarithm of the trajectory length, chain by chain.

    With :math:`\bar x` the mean of where the chains started, and :math:`\bar x'` that of their proposals, weighted by
    the probability of acceptance, the criterion and its derivative are

    .. math:: \tfrac14 \left(\|x' - \bar x'\|^2 - \|x - \bar x\|^2\right)^2, \qquad
        t \left(\|x' - \bar x'\|^2 - \|x - \bar x\|^2\right) \langle x' - \bar x', v'\rangle,
        \quad v' = M^{-1} p'

    Norm and product are those of the metric, :math:`\langle a, b\rangle = a^\top M b`, in which all directions count
    alike where the mass is right: it is the criterion with the identity as mass, of positions scaled by
    :math:`M^{1/2}`.

    Parameters
    ----------
    position
        Where the chains started, ``(C, D)``.
    proposal
        Where their trajectories ended, with the momenta there.
    acceptance_probability
        ``(C,)``.
    length
        The time t that the trajectories took, which grows in proportion with the adapted length.
    inverse_mass
        Its diagonal, ``(D,)``, or the whole of it, ``(D, D)``; the identity where not given.

    Returns
    -------
    Tensor
        ``(C,)``; 0 where the proposal is not finite, or less probable than 1e-4.

    References
    ----------
    Hoffman, Radul, Sountsov: An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian Monte Carlo.
    AISTATS 2021.

    Examples
    --------
    >>> import torch
    >>> position = torch.tensor([[-1.0], [1.0]])
    >>> proposal = PhasePoint(2 * position, position, torch.zeros(2), torch.zeros(2, 1))
    >>> trajectory_gradient(position, proposal, torch.ones(2), length=0.5)  # 0.5 (4 - 1) 2
    tensor([3., 3.])
    """
    weights = acceptance_weights(proposal, acceptance_probability)
    counts = (weights > 0.0).unsqueeze(-1)
    # A weight of 0 does not do: 0 times what is not finite is not 0.
    end, momentum = (torch.where(counts, x, 0.0) for x in (proposal.position, proposal.momentum))
    total = weights.sum().clamp_min(torch.finfo(end.dtype).tiny)
    from_end = end - (weights.unsqueeze(-1) * end).sum(0) / total  # no product of matrices: its bits depend on threads
    from_start = position - position.mean(0)
    change = _squared_length(from_end, inverse_mass) - _squared_length(from_start, inverse_mass)
    # (x' - mean)' M v' = (x' - mean)' p': the momentum is the velocity's dual.
    gradient = length * change * (from_end * momentum).sum(-1)
    return torch.where(counts.squeeze(-1) & gradient.isfinite(), gradient, 0.0)


def _squared_length(x: Tensor, inverse_mass: Tensor | None) -> Tensor:
    """Return x' M x, (C,), of x (C, D)."""
    if inverse_mass is None:
        return x.square().sum(-1)
    if inverse_mass.dim() == 1:
        return (x.square() / inverse_mass).sum(-1)
    factor, _ = torch.linalg.cholesky_ex(inverse_mass)
    whitened: Tensor = torch.linalg.solve_triangular(factor, x.mT, upper=False)
    return whitened.square().sum(0)


def acceptance_weights(proposal: PhasePoint, acceptance_probability: Tensor) -> Tensor:
    """Return the probabilities of acceptance, ``(C,)``, but 0 where a proposal says nothing of the length."""
    finite = (proposal.position + proposal.momentum).isfinite().all(-1)
    return torch.where(finite & (acceptance_probability > SMALLEST_PROBABILITY), acceptance_probability, 0.0)


class LengthState(NamedTuple):
    """The adapted trajectory length: log T, the mean square of gradients, how many there were, the average of log T."""

    log_length: float
    mean_square: float = 0.0
    num_updates: int = 0
    log_average: float = 0.0

    @property
    def length(self) -> float:
        """T, to go on adapting with."""
        return math.exp(self.log_length)

    @property
    def averaged_length(self) -> float:
        """T, to sample with; the present one where nothing was adapted yet."""
        return math.exp(self.log_average if self.num_updates else self.log_length)

    def updated(self, gradient: float, longest: float) -> LengthState:
        """Return the state after a step of Adam's ascent without momentum (its first decay is 0)."""
        if not math.isfinite(gradient * gradient):
            gradient = 0.0
        count = self.num_updates + 1
        mean_square = DECAY * self.mean_square + (1.0 - DECAY) * gradient * gradient
        root = math.sqrt(mean_square / (1.0 - DECAY**count))
        log_length = self.log_length + (RATE * gradient / root if root > 0.0 else 0.0)
        log_length = min(log_length, math.log(longest))
        weight = count**-AVERAGING
        return LengthState(log_length, mean_square, count, (1.0 - weight) * self.log_average + weight * log_length)


@dataclass(frozen=True, eq=False)
class JitteredHMC:
    r"""HMC whose number of steps differs from one transition to the next: that of a part of the trajectory length.

    The parts are the Halton sequence of base 2, which fills (0, 1) more evenly than noise, and so avoids resonances
    with the periods of the density.

    Parameters
    ----------
    kernel
        What moves the chains; its number of steps is replaced.
    trajectory_length
        T, the largest time of a trajectory: transition t has :math:`\lceil h_t T / \epsilon \rceil` steps.
    max_steps
        Most steps of a trajectory.

    Examples
    --------
    >>> from fastvi.mcmc import as_target
    >>> kernel = JitteredHMC(HMC(as_target(lambda q: -0.5 * q.square().sum(-1)), 0.25, 1), trajectory_length=2.0)
    >>> [kernel.num_steps(t) for t in range(4)]
    [4, 2, 6, 1]
    """

    kernel: HMC
    trajectory_length: float
    max_steps: int = 1000
    _kernels: dict[int, HMC] = field(default_factory=dict, init=False, repr=False)

    @property
    def target(self) -> Target:
        """The log density and its gradient."""
        return self.kernel.target

    def num_steps(self, t: int) -> int:
        """Return the number of leapfrog steps of transition ``t``, from 0 on."""
        return number_of_steps(halton(t) * self.trajectory_length, float(self.kernel.step_size), self.max_steps)

    def init(self, position: Tensor) -> ChainState:
        """Return the state of chains at positions ``(C, D)``: see :meth:`fastvi.mcmc.HMC.init`."""
        return self.kernel.init(position)

    def step(self, state: ChainState, seed: int, first_chain: int = 0, t: int = 0) -> tuple[ChainState, StepInfo]:
        """Move all chains by transition ``t``: see :meth:`fastvi.mcmc.HMC.step`."""
        num_steps = self.num_steps(t)
        kernel = self._kernels.get(num_steps)
        if kernel is None:
            kernel = self._kernels[num_steps] = replace(self.kernel, num_steps=num_steps)
        return kernel.step(state, seed, first_chain)


def number_of_steps(time: float, step_size: float, max_steps: int) -> int:
    """Return how many steps take this time, at least one."""
    return min(max(math.ceil(time / step_size), 1), max_steps)


@dataclass(frozen=True)
class ChEESAlgorithm:
    """ChEES-HMC: for 16 chains or more, at least 2; step size, trajectory length and mass by warm-up.

    The step size comes by dual averaging to the harmonic mean over chains of the probability of acceptance, so that no
    chain is left behind. The trajectory length starts short and grows to the first maximum of the criterion. The mass
    is the variance of all positions since it was taken last, after 5, 10, 20, 40 and 70 % of warm-up; each time, step
    size and trajectory length start anew.

    Parameters
    ----------
    mass
        ``diagonal``, ``dense``, ``auto`` for dense where positions are strongly correlated and else diagonal, or None
        for the identity.
    target_acceptance
        Harmonic mean of the acceptance probabilities to come to.
    max_steps
        Most leapfrog steps of a trajectory.
    step_size
        To begin the search with.
    divergence_threshold
        See :class:`fastvi.mcmc.HMC`.

    References
    ----------
    Hoffman, Radul, Sountsov: An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian Monte Carlo.
    AISTATS 2021.

    Examples
    --------
    >>> import torch
    >>> from fastvi.mcmc import as_target
    >>> target = as_target(lambda q: -0.5 * (q / torch.tensor([1.0, 10.0])).square().sum(-1))
    >>> run = ChEESAlgorithm(mass=None).start(target, torch.zeros(64, 2), num_warmup=400, seed=1)
    >>> for t in range(400):
    ...     _ = run.warm_step(t)
    >>> 10.0 < run.description()["trajectory_length"] < 40.0  # a quarter of the slowest period is 5 pi
    True
    >>> draws = torch.stack([run.sample_step(t)[0].position for t in range(50)])
    >>> draws.shape
    torch.Size([50, 64, 2])
    """

    mass: str | None = "auto"
    target_acceptance: float = 0.651
    max_steps: int = 1000
    step_size: float = 1.0
    divergence_threshold: float = 1000.0

    def __post_init__(self) -> None:
        if self.mass not in MASSES:
            raise ValueError(f"ChEES: mass must be auto, diagonal, dense or None, got {self.mass!r}")
        if not 0.0 < self.target_acceptance < 1.0:
            raise ValueError(f"ChEES: target_acceptance must be between 0 and 1, got {self.target_acceptance}")
        if self.max_steps < 1:
            raise ValueError(f"ChEES: max_steps must be positive, got {self.max_steps}")

    def start(self, target: Target, position: Tensor, num_warmup: int, seed: int) -> ChEESRun:
        """Start chains at positions ``(C, D)``.

        Raises
        ------
        TypeError, ValueError
            If there is one chain alone, and as :meth:`fastvi.mcmc.HMC.init`.
        """
        if position.shape[0] < 2:
            raise ValueError(
                "ChEES: needs at least 2 chains, whose spread says how long trajectories should be, got positions of "
                f"the shape {tuple(position.shape)}; take more chains, or HMC"
            )
        kernel = HMC(target, self.step_size, 1, divergence_threshold=self.divergence_threshold)
        return ChEESRun(self, kernel, position, num_warmup, seed)


class ChEESRun:
    """Chains that :class:`ChEESAlgorithm` moves: see :class:`fastvi.mcmc.Run`."""

    def __init__(self, options: ChEESAlgorithm, kernel: HMC, position: Tensor, num_warmup: int, seed: int) -> None:
        self.state = initial_state("ChEES", kernel.target, position)
        self._options, self._hmc = options, kernel
        self._averaging = DualAveraging(options.target_acceptance, kappa=AVERAGING)
        self._covariance = RunningCovariance.of_mass(options.mass, position.shape[-1])
        self._mass_ends = tuple(int(part * num_warmup) for part in MASS_ENDS) if options.mass else ()
        self._seeds = tuple(mix_seed(seed, stream) for stream in range(3))
        self._step_sizes: StepSizeState | None = None
        self._moments: MomentState | None = None
        self._length = LengthState(0.0)
        self._kernel: JitteredHMC | None = None

    @property
    def kernel(self) -> JitteredHMC:
        """What it samples with, as far as warm-up knows it."""
        if self._kernel is None:
            hmc = replace(self._hmc, step_size=self._adapted().averaged_step_size)
            self._kernel = JitteredHMC(hmc, self._length.averaged_length, self._options.max_steps)
        return self._kernel

    def warm_step(self, t: int) -> tuple[ChainState, StepInfo]:
        """Move all chains, and adapt step size, trajectory length and mass."""
        step_size = float(self._adapted().step_size)
        time = halton(t) * self._length.length
        num_steps = number_of_steps(time, step_size, self._options.max_steps)
        start, hmc = self.state.position, replace(self._hmc, step_size=step_size, num_steps=num_steps)
        self.state, info = hmc.step(self.state, step_seed(self._seeds[0], t))
        self._adapt(start, info, time)
        if self._mass_ends and t < self._mass_ends[-1]:
            moments = self._moments or self._covariance.init(start)
            self._moments = self._covariance.update(moments, self.state.position)
            if t + 1 in self._mass_ends:
                self._take_mass(self._moments)
        self._kernel = None
        return self.state, info

    def sample_step(self, t: int) -> tuple[ChainState, StepInfo]:
        """Move all chains by the transition ``t`` of what warm-up ended with."""
        self.state, info = self.kernel.step(self.state, step_seed(self._seeds[1], t), 0, t)
        return self.state, info

    def _adapted(self) -> StepSizeState:
        """The step sizes, after the search for the first one where it was not done yet."""
        if self._step_sizes is None:
            first = reasonable_step_size(self._hmc, self.state, self._seeds[2])
            self._step_sizes = self._averaging.init(first)
            # Short, so that it grows to the first of the criterion's maxima. A mass makes positions about 1 wide.
            self._length = LengthState(math.log(first) if self._hmc.inverse_mass is None else 0.0)
        return self._step_sizes

    def _adapt(self, start: Tensor, info: StepInfo, time: float) -> None:
        probability = info.acceptance_probability
        gradients = trajectory_gradient(start, info.proposal, probability, time, self._hmc.inverse_mass)
        weights = acceptance_weights(info.proposal, probability)
        # Of no probability at all, the harmonic mean is 0.
        sums = torch.stack([(weights * gradients).sum(), weights.sum(), probability.reciprocal().mean()]).double()
        weighted, total, inverse = sums.tolist()
        assert self._step_sizes is not None
        self._step_sizes = self._averaging.update(self._step_sizes, 1.0 / inverse)
        step_size = float(self._step_sizes.step_size)
        self._length = self._length.updated(
            weighted / total if total > 0.0 else 0.0, step_size * self._options.max_steps
        )

    def _take_mass(self, moments: MomentState) -> None:
        mass = self._covariance.inverse_mass(moments).to(self.state.position.dtype)
        self._hmc = replace(self._hmc, inverse_mass=mass, metric=None)
        self._moments = self._step_sizes = None

    def state_dict(self) -> dict[str, Any]:
        """Return what the run needs to go on; it can be pickled."""
        return {
            "state": tuple(self.state),
            "inverse_mass": self._hmc.inverse_mass,
            "step_sizes": self._step_sizes and tuple(self._step_sizes),
            "moments": self._moments and tuple(self._moments),
            "length": tuple(self._length),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` of a run with the same options returned."""
        self.state = ChainState(*state["state"])
        self._hmc = replace(self._hmc, inverse_mass=state["inverse_mass"], metric=None)
        self._step_sizes = state["step_sizes"] and StepSizeState(*state["step_sizes"])
        self._moments = state["moments"] and MomentState(*state["moments"])
        self._length, self._kernel = LengthState(*state["length"]), None

    def description(self) -> dict[str, Any]:
        """Return step size, largest trajectory length, mean number of steps and inverse mass."""
        kernel = self.kernel
        step_size = float(kernel.kernel.step_size)
        return {
            "step_size": step_size,
            "trajectory_length": kernel.trajectory_length,
            "num_steps": 0.5 * kernel.trajectory_length / step_size + 0.5,
            "inverse_mass": self._hmc.inverse_mass,
        }
