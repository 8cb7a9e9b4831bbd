"""Paths of densities from a start to a target, and schedules along them, for annealed importance sampling (Neal 2001).

A path has an inverse temperature from 0, the start, to 1, the target. The sigmoidal schedule is that of Grosse, Ancell
and Roy 2016, "Measuring the reliability of MCMC inference with bidirectional Monte Carlo".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from fastvi.mcmc.hmc import HMC
from fastvi.mcmc.integrators import Target, with_gradient
from fastvi.mcmc.kernel import ChainState, StepInfo

Between: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Log densities between the two ends: positions (N, D) and inverse temperatures (N,) to (N,), in nats."""
SCHEDULES = ("linear", "sigmoidal", "adaptive")


def linear_schedule(num_temperatures: int) -> Tensor:
    """Return T + 1 inverse temperatures from 0 to 1 in equal steps, in float64."""
    return torch.linspace(0.0, 1.0, num_temperatures + 1, dtype=torch.float64)


def sigmoidal_schedule(num_temperatures: int, radius: float = 4.0) -> Tensor:
    r"""Return T + 1 inverse temperatures from 0 to 1, in float64, in small steps at both ends.

    .. math:: \beta_t = \frac{\sigma(r (2 t / T - 1)) - \sigma(-r)}{\sigma(r) - \sigma(-r)}

    Examples
    --------
    >>> sigmoidal_schedule(4)
    tensor([0.0000, 0.1050, 0.5000, 0.8950, 1.0000], dtype=torch.float64)
    """
    values = torch.sigmoid(radius * (2.0 * linear_schedule(num_temperatures) - 1.0))
    values = (values - values[0]) / (values[-1] - values[0])
    values[0], values[-1] = 0.0, 1.0
    return values


def equal_steps(schedule: Tensor, spreads: Tensor, num_temperatures: int) -> Tensor:
    """Return T + 1 inverse temperatures for each problem, (T + 1, P), between which the weights vary alike.

    A step of beta multiplies a weight by a factor whose logarithm has the standard deviation (step x spread), so that
    equal parts of the integral of the spread keep the conditional effective sample size (Zhou, Johansen and Aston
    2016) constant, to second order of the step.

    Parameters
    ----------
    schedule
        (M + 1,), where the spreads were measured, from 0 to 1.
    spreads
        (M, P): standard deviation over chains, at all but the last of these, of the log density's derivative by the
        inverse temperature.
    num_temperatures
        T.
    """
    steps = schedule.diff().unsqueeze(-1)
    known = torch.nan_to_num(spreads.double(), nan=0.0, posinf=0.0, neginf=0.0)
    lengths = steps * 0.5 * (known + torch.cat([known[1:], known[-1:]]))
    total = lengths.sum(0)
    # A tenth goes to equal steps in beta: the spread over few chains may miss what matters.
    shares = torch.where(total > 0.0, 0.9 * lengths / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)
    shares = shares + steps * (1.0 - shares.sum(0))
    travelled = torch.cat([shares.new_zeros(1, shares.shape[1]), shares.cumsum(0)])
    found = interpolate(travelled, schedule.unsqueeze(-1).expand_as(travelled), linear_schedule(num_temperatures))
    found[0], found[-1] = 0.0, 1.0
    return found


def interpolate(places: Tensor, values: Tensor, wanted: Tensor) -> Tensor:
    """Values at wanted places, (N, P), on lines between those at places that rise, both (M, P); ``wanted`` (N, [P])."""
    columns = places.shape[1]
    wanted = (wanted if wanted.dim() == 2 else wanted.unsqueeze(-1)).expand(-1, columns)
    after = torch.searchsorted(places.T.contiguous(), wanted.T.contiguous()).T.clamp(1, len(places) - 1)
    x0, x1 = places.gather(0, after - 1), places.gather(0, after)
    y0, y1 = values.gather(0, after - 1), values.gather(0, after)
    part = ((wanted - x0) / (x1 - x0).clamp_min(torch.finfo(places.dtype).tiny)).clamp(0.0, 1.0)
    return y0 + part * (y1 - y0)


class Path(Protocol):
    """Densities at all inverse temperatures, each (N,), and the places of N chains with what is known there."""

    def at(self, position: Tensor, beta: Tensor) -> Any:
        """Return the place of chains at positions (N, D) and the inverse temperature of one end."""

    def move(self, place: Any, old: Tensor, new: Tensor) -> tuple[Any, Tensor]:
        """Go to a new inverse temperature: with the log of the new density over the old, (N,) in float64."""

    def transition(
        self, place: Any, beta: Tensor, step_size: Tensor, num_steps: int, seed: int, first_chain: int
    ) -> tuple[Any, StepInfo]:
        """Let Hamiltonian Monte Carlo move all chains once at the inverse temperature that they are at."""


class Ends(NamedTuple):
    """Positions (N, D), with log density (N,) and gradient (N, D) of both ends of a path there."""

    position: Tensor
    start: Tensor
    start_gradient: Tensor
    target: Tensor
    target_gradient: Tensor


class GeometricPath:
    """The log density is (1 - beta) times that of the start and beta times that of the target.

    Both are known wherever a chain is, so that another temperature takes no other gradient: a transition of L leapfrog
    steps takes L.
    """

    def __init__(self, start: Target, target: Target) -> None:
        self._start, self._target = start, target

    def at(self, position: Tensor, beta: Tensor) -> Ends:
        """See `Path`."""
        return Ends(position, *self._start(position), *self._target(position))

    def move(self, place: Ends, old: Tensor, new: Tensor) -> tuple[Ends, Tensor]:
        """See `Path`."""
        return place, (new - old) * (place.target.double() - place.start.double())

    def transition(
        self, place: Ends, beta: Tensor, step_size: Tensor, num_steps: int, seed: int, first_chain: int
    ) -> tuple[Ends, StepInfo]:
        """See `Path`."""
        weight = beta.to(place.position.dtype)
        column = weight.unsqueeze(-1)
        last = place

        def between(ends: Ends) -> tuple[Tensor, Tensor]:
            gradient = torch.lerp(ends.start_gradient, ends.target_gradient, column)
            return torch.lerp(ends.start, ends.target, weight), gradient

        def target(position: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal last
            last = self.at(position, beta)
            return between(last)

        kernel = HMC(target, step_size, num_steps)
        _, info = kernel.step(ChainState(place.position, *between(place)), seed, first_chain)
        if last.position is not info.proposal.position:  # the integrator's last gradient was elsewhere
            last = self.at(info.proposal.position, beta)
        accepted, row = info.is_accepted, info.is_accepted.unsqueeze(-1)
        kept = (torch.where(row if new.dim() > 1 else accepted, new, old) for new, old in zip(last, place, strict=True))
        return Ends(*kept), info


class OtherPath:
    """Any densities between the two ends; their normalisers cancel. Another temperature takes one gradient more."""

    def __init__(self, start: Target, target: Target, between: Between) -> None:
        self._start, self._target, self._between = start, target, between

    def at(self, position: Tensor, beta: Tensor) -> ChainState:
        """See `Path`."""
        return ChainState(position, *self._density(beta)(position))

    def move(self, place: ChainState, old: Tensor, new: Tensor) -> tuple[ChainState, Tensor]:
        """See `Path`."""
        moved = self.at(place.position, new)
        return moved, moved.log_density.double() - place.log_density.double()

    def transition(
        self, place: ChainState, beta: Tensor, step_size: Tensor, num_steps: int, seed: int, first_chain: int
    ) -> tuple[ChainState, StepInfo]:
        """See `Path`."""
        return HMC(self._density(beta), step_size, num_steps).step(place, seed, first_chain)

    def _density(self, beta: Tensor) -> Target:
        # The ends are the start and the target themselves, constants included.
        for value, end in ((0.0, self._start), (1.0, self._target)):
            if bool((beta == value).all()):
                return end
        return with_gradient(lambda position: self._between(position, beta.to(position.dtype)), "path")
