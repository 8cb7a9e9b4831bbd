"""Warm-up of a kernel: a step size to begin with, then moves that adapt step size and mass, window by window.

Windows and regularisation are Stan's, scaled down where the warm-up is short.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from fastvi.mcmc.dual_averaging import DualAveraging, StepSizeState
from fastvi.mcmc.hmc import HMC
from fastvi.mcmc.kernel import ChainState, StepInfo, step_seed
from fastvi.mcmc.moments import MomentState, RunningCovariance
from fastvi.ops._backends import sum_over
from fastvi.seeding import mix_seed

AnyHMC = TypeVar("AnyHMC", bound=HMC)
MASSES = ("auto", "diagonal", "dense", None)
_LEAST_WITH_MASS = 40


class Window(NamedTuple):
    """Steps ``start`` to ``end``, exclusive, of a warm-up; whether the mass is estimated from them."""

    start: int
    end: int
    adapts_mass: bool


def windows(num_steps: int) -> tuple[Window, ...]:
    """Return Stan's windows of a warm-up: 75 steps, then 25, 50, 100, ... whose positions give the mass, then 50.

    What is left over belongs to the last of those that give the mass. Where fewer than 150 steps are there, the first
    has 15 %, the last 10 % of them and at least 10, so that the step size settles after the mass has changed, and one
    lies between; below 40 steps the mass is not adapted.

    Examples
    --------
    >>> [(window.start, window.end) for window in windows(1000)]
    [(0, 75), (75, 100), (100, 150), (150, 250), (250, 450), (450, 950), (950, 1000)]
    """
    if num_steps < _LEAST_WITH_MASS:
        return (Window(0, num_steps, False),) if num_steps > 0 else ()
    first, size, last = 75, 25, 50
    if first + size + last > num_steps:
        first, last = int(0.15 * num_steps), max(10, int(0.1 * num_steps))
        size = num_steps - first - last
    found, start, end_of_mass = [Window(0, first, False)], first, num_steps - last
    while start < end_of_mass:
        end = start + size
        if end + 2 * size > end_of_mass:
            end = end_of_mass
        found.append(Window(start, end, True))
        start, size = end, 2 * size
    return (*found, Window(end_of_mass, num_steps, False))


def reasonable_step_size(kernel: HMC, state: ChainState, seed: int, acceptance: float = 0.8) -> float:
    """Return a step size to begin with: from the kernel's doubled or halved until one step's acceptance crosses 0.8.

    The acceptance is the mean over all chains of that of a single leapfrog step.

    Raises
    ------
    ValueError
        If no step size is small enough, or none large enough.

    References
    ----------
    Hoffman, Gelman: The No-U-Turn sampler. JMLR 2014, algorithm 4; with the 0.8 of Stan instead of one half.

    Examples
    --------
    >>> import torch
    >>> from fastvi.mcmc import as_target
    >>> kernel = HMC(as_target(lambda q: -0.5 * (q / 1e-3).square().sum(-1)), step_size=1.0, num_steps=8)
    >>> state = kernel.init(torch.zeros(16, 3))
    >>> 1e-4 < reasonable_step_size(kernel, state, seed=0) < 2e-3
    True
    """
    step_size = float(torch.as_tensor(kernel.step_size).mean())
    one_step = HMC(kernel.target, step_size, 1, kernel.inverse_mass, kernel.integrator, metric=kernel.metric)
    factor = 0.0
    for trial in range(200):
        if not 1e-30 < step_size < 1e30:
            break
        _, info = replace(one_step, step_size=step_size).step(state, mix_seed(seed, trial))
        above = float(info.acceptance_probability.mean()) > acceptance
        if factor == 0.0:
            factor = 2.0 if above else 0.5
        elif above != (factor > 1.0):
            return step_size
        step_size *= factor
    name = type(kernel).__name__
    if factor > 1.0:
        raise ValueError(
            f"{name}: steps of any size are accepted, so the log density does not fall towards infinity: is it "
            "improper, or constant?"
        )
    raise ValueError(
        f"{name}: steps of no size are accepted: is the gradient that of the log density, and is the log density "
        "continuous where chains start? Try starts elsewhere, and float64"
    )


class WarmUp(Generic[AnyHMC]):
    """A warm-up in progress: each step moves all chains and adapts the kernel; at the end, ``kernel`` is to be kept.

    Parameters
    ----------
    kernel
        HMC, MALA, or another of their dataclasses; the step size is the one to begin the search with.
    state
        Where the chains are.
    num_steps
        Steps of the whole warm-up.
    mass
        ``diagonal``, ``dense``, ``auto`` for dense where positions are strongly correlated and else diagonal, or None
        to leave the kernel's as it is.
    target_acceptance
        Mean acceptance probability to come to.
    per_chain_step_size
        Whether each chain has a step size of its own.

    Attributes
    ----------
    kernel, state
        At present.
    num_done
        Steps done.

    Examples
    --------
    >>> import torch
    >>> from fastvi.mcmc import as_target
    >>> kernel = HMC(as_target(lambda q: -0.5 * q.square().sum(-1)), step_size=1.0, num_steps=4)
    >>> warming = WarmUp(kernel, kernel.init(torch.zeros(16, 3)), 60)
    >>> for t in range(30):
    ...     info = warming.step(step_seed(1, t))
    >>> saved = warming.state_dict()
    >>> again = WarmUp(kernel, kernel.init(torch.zeros(16, 3)), 60)
    >>> again.load_state_dict(saved)
    >>> for t in range(30, 60):
    ...     both = warming.step(step_seed(1, t)), again.step(step_seed(1, t))
    >>> warming.kernel.step_size == again.kernel.step_size
    True
    """

    def __init__(
        self,
        kernel: AnyHMC,
        state: ChainState,
        num_steps: int,
        *,
        mass: str | None = "diagonal",
        target_acceptance: float = 0.8,
        per_chain_step_size: bool = False,
    ) -> None:
        if mass not in MASSES:
            raise ValueError(f"warm-up: mass must be auto, diagonal, dense or None, got {mass!r}")
        if not 0.0 < target_acceptance < 1.0:
            raise ValueError(f"warm-up: target_acceptance must be between 0 and 1, got {target_acceptance}")
        self.kernel, self.state, self.num_done = kernel, state, 0
        self._windows = windows(num_steps)
        self._place = 0
        self._adapts_mass = mass is not None
        self._per_chain = per_chain_step_size
        # On another device numbers stay there: to read them would wait for the device at every step.
        self._keeps_tensors = per_chain_step_size or not state.position.is_cpu
        # Acceptance falls the faster with the step size the lower it is, and that of one chain has noise: with the
        # usual 0.05 step sizes would swing from far too short to far too long, and their average would be too short.
        gamma = 0.2 if per_chain_step_size else 0.1 if target_acceptance < 0.7 else 0.05
        self._averaging = DualAveraging(target_acceptance, gamma)
        self._covariance = RunningCovariance.of_mass(mass, state.position.shape[-1])
        self._step_sizes: StepSizeState | None = None
        self._moments: MomentState | None = None

    def step(self, seed: int) -> StepInfo:
        """Move all chains by noise of ``seed``, and adapt; after the last step the kernel stays as it is."""
        if self._place == len(self._windows):
            raise ValueError(f"warm-up: all of its {self.num_done} steps are done")
        if self._step_sizes is None:
            self._restart(self.search_seed(seed))
        assert self._step_sizes is not None
        self.state, info = self.kernel.step(self.state, seed)
        self.num_done += 1
        self._step_sizes = self._averaging.update(self._step_sizes, self._acceptance(info))
        window = self._windows[self._place]
        adapts_mass = window.adapts_mass and self._adapts_mass
        if adapts_mass:
            moments = self._moments or self._covariance.init(self.state.position)
            self._moments = self._covariance.update(moments, self.state.position)
        if self.num_done < window.end:
            self._take(self._step_sizes.step_size)
            return info
        self._place += 1
        if self._place == len(self._windows):
            self._take(self._step_sizes.averaged_step_size)
        elif adapts_mass:
            assert self._moments is not None
            inverse_mass = self._covariance.inverse_mass(self._moments).to(self.state.position.dtype)
            self._moments = None
            self.kernel = replace(self.kernel, inverse_mass=inverse_mass, metric=None)
            self._restart(self.search_seed(seed))
        else:
            self._take(self._step_sizes.step_size)
        return info

    @staticmethod
    def search_seed(seed: int) -> int:
        """Return the seed of the search for a step size that goes with a step of ``seed``."""
        return mix_seed(seed, 1)

    def _acceptance(self, info: StepInfo) -> float | Tensor:
        if self._per_chain:
            return info.acceptance_probability.double()
        probabilities = info.acceptance_probability
        mean = sum_over(probabilities, 0) / len(probabilities)
        return mean.double() if self._keeps_tensors else mean.item()

    def _restart(self, seed: int) -> None:
        """Search for a step size from that of the present, and average from there."""
        found = reasonable_step_size(self.kernel, self.state, seed)
        first: float | Tensor = found
        if self._keeps_tensors:
            like = self.state.log_density if self._per_chain else self.state.log_density[0]
            first = torch.full_like(like, found, dtype=torch.float64)
        self._step_sizes = self._averaging.init(first)
        self._take(first)

    def _take(self, step_size: float | Tensor) -> None:
        if isinstance(step_size, Tensor):
            step_size = step_size.to(self.state.position.dtype)
        self.kernel = replace(self.kernel, step_size=step_size)

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes in a warm-up, and no target: it can be pickled."""
        return {
            "num_done": self.num_done,
            "place": self._place,
            "state": tuple(self.state),
            "step_size": self.kernel.step_size,
            "inverse_mass": self.kernel.inverse_mass,
            "step_sizes": self._step_sizes and tuple(self._step_sizes),
            "moments": self._moments and tuple(self._moments),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` of a warm-up with the same arguments returned."""
        self.num_done, self._place = saved["num_done"], saved["place"]
        self.state = ChainState(*saved["state"])
        self.kernel = replace(
            self.kernel, step_size=saved["step_size"], inverse_mass=saved["inverse_mass"], metric=None
        )
        self._step_sizes = saved["step_sizes"] and StepSizeState(*saved["step_sizes"])
        self._moments = saved["moments"] and MomentState(*saved["moments"])


class WarmUpTrace(NamedTuple):
    """What happened in a warm-up, step by step.

    Attributes
    ----------
    step_size
        ``(T,)``, or ``(T, C)`` where each chain has its own: that of the kernel after each step, at last the one kept.
    acceptance_probability
        ``(T,)``, the mean over chains.
    num_divergent
        ``(T,)``, divergent trajectories.
    """

    step_size: Tensor
    acceptance_probability: Tensor
    num_divergent: Tensor


def warm_up(
    kernel: AnyHMC,
    state: ChainState,
    num_steps: int,
    seed: int,
    mass: str | None = "diagonal",
    target_acceptance: float = 0.8,
    per_chain_step_size: bool = False,
    callback: Callable[[int, AnyHMC, ChainState, StepInfo], object] | None = None,
) -> tuple[AnyHMC, ChainState, WarmUpTrace]:
    """Adapt step size and mass of a kernel while its chains move from where they start.

    Parameters
    ----------
    kernel, state, num_steps, mass, target_acceptance, per_chain_step_size
        See :class:`WarmUp`.
    seed
        Of the whole warm-up.
    callback
        Called after each step with its number from 0 on, the kernel to come, the state and what the step reported.

    Returns
    -------
    tuple[HMC, ChainState, WarmUpTrace]
        The kernel to sample with, where the chains are, and what happened.

    Examples
    --------
    >>> import torch
    >>> from fastvi.mcmc import as_target
    >>> scales = torch.tensor([0.1, 1.0, 10.0])
    >>> kernel = HMC(as_target(lambda q: -0.5 * (q / scales).square().sum(-1)), step_size=1.0, num_steps=8)
    >>> kernel, state, trace = warm_up(kernel, kernel.init(torch.zeros(32, 3)), 200, seed=1)
    >>> bool(((kernel.inverse_mass.sqrt() / scales - 1.0).abs() < 0.1).all())
    True
    """
    warming = WarmUp(
        kernel,
        state,
        num_steps,
        mass=mass,
        target_acceptance=target_acceptance,
        per_chain_step_size=per_chain_step_size,
    )
    step_sizes, acceptance, divergent = [], [], []
    for t in range(num_steps):
        info = warming.step(step_seed(seed, t))
        step_sizes.append(torch.as_tensor(warming.kernel.step_size))
        acceptance.append(info.acceptance_probability.mean())
        divergent.append(info.is_divergent.sum())
        if callback is not None:
            callback(t, warming.kernel, warming.state, info)
    trace = WarmUpTrace(*(torch.stack(each) for each in (step_sizes, acceptance, divergent)))
    return warming.kernel, warming.state, trace
