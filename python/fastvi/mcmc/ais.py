"""Annealed importance sampling from end to end: a pilot run that chooses, and the run that keeps to it.

Weights are unbiased, E w = Z, for any transitions that leave their densities as they are. So step sizes and an adaptive
schedule are chosen by a pilot run with noise of its own, and frozen: a step size that followed its own chains would
leave nothing invariant, and the weights could exceed Z in the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from fastvi._options import check_count, check_factor
from fastvi.mcmc.annealing import (
    FORWARD_STREAM,
    OWNER,
    PILOT_STREAM,
    START_STREAM,
    AnnealedWeights,
    Annealing,
    OnStep,
    check_densities,
    checked_schedule,
    draw_start,
    each_chain,
    make_path,
    num_problems,
    number_of,
)
from fastvi.mcmc.integrators import as_target
from fastvi.mcmc.kernel import halton, step_seed
from fastvi.mcmc.paths import SCHEDULES, Between, equal_steps, interpolate, linear_schedule, sigmoidal_schedule
from fastvi.seeding import mix_seed

PILOT_WARM_UP = 20
"""Transitions of the pilot run at its first temperature, in which the step size finds its scale."""
FEWEST_PILOT_TEMPERATURES = 50
_GAIN = 0.3
"""How far the log of the step size moves for each unit of acceptance."""
_NEIGHBOURS = 4
"""Pilot temperatures on either side whose step sizes are averaged."""


def tune_annealing(
    target: Callable[[Tensor], Any],
    start: Distribution,
    *,
    num_temperatures: int = 1000,
    schedule: str | Tensor = "adaptive",
    num_steps: int = 3,
    step_size: float | None = None,
    between: Between | None = None,
    target_acceptance: float = 0.8,
    num_pilot_temperatures: int | None = None,
    num_pilot_chains: int = 16,
    seed: int | None = None,
    row_offset: int = 0,
    on_step: OnStep = None,
) -> Annealing:
    """Choose the step size of each temperature and problem, and an adaptive schedule, by a pilot run; freeze them.

    The pilot run anneals chains of its own on a shorter sigmoidal schedule. At each temperature the log of the step
    size moves by the distance of the acceptance from its target, as a chain's step size does in stochastic
    approximation; the run's step sizes lie on lines between these.

    Parameters
    ----------
    target, start, num_steps, between
        See :class:`Annealing`.
    num_temperatures
        T, the number of steps from 0 to 1.
    schedule
        ``"linear"``, ``"sigmoidal"``, ``"adaptive"``, or inverse temperatures as :class:`Annealing` takes them. The
        adaptive one keeps the conditional effective sample size constant, for each problem: see
        :func:`fastvi.mcmc.paths.equal_steps`.
    step_size
        One step size for all temperatures, in place of those of the pilot run.
    target_acceptance
        Acceptance probability that step sizes aim at.
    num_pilot_temperatures, num_pilot_chains
        Length of the pilot run and its chains for each problem; None for a tenth of T, at least 50.
    seed, row_offset, on_step
        See :meth:`Annealing.forward`. `pilot_transitions` tells how often ``on_step`` is called.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, the target has no finite density at the start's draws, or nothing is accepted.

    Examples
    --------
    >>> import torch
    >>> from fastvi.distributions import DiagNormal
    >>> start = DiagNormal(torch.zeros(2), torch.zeros(2))
    >>> annealing = tune_annealing(lambda q: -50.0 * q.square().sum(-1), start, num_temperatures=100, seed=0)
    >>> annealing.step_sizes[0] > 3 * annealing.step_sizes[-1]
    tensor([True])
    """
    owner = "tune_annealing"
    count = check_count(owner, "num_temperatures", num_temperatures)
    check_count(owner, "num_steps", num_steps)
    check_count(owner, "num_pilot_chains", num_pilot_chains, at_least=2)
    if not 0.0 < check_factor(owner, "target_acceptance", target_acceptance) < 1.0:
        raise ValueError(f"{owner}: target_acceptance must be between 0 and 1, got {target_acceptance}")
    problems = num_problems(start)
    if isinstance(schedule, Tensor):
        found = checked_schedule(owner, schedule, problems)
    elif schedule not in SCHEDULES:
        raise ValueError(f"{owner}: schedule must be one of {', '.join(SCHEDULES)}, or a tensor, got {schedule!r}")
    else:
        found = linear_schedule(count) if schedule == "linear" else sigmoidal_schedule(count)
    wanted = found.unsqueeze(-1).expand(-1, problems) if found.dim() == 1 else found
    is_adaptive = isinstance(schedule, str) and schedule == "adaptive"
    if step_size is not None and not is_adaptive:
        return Annealing(target, start, found, step_size, num_steps, between)
    length = _pilot_length(count, num_pilot_temperatures)
    places, spreads, log_steps = _pilot(
        target, start, between, length, num_pilot_chains, num_steps, target_acceptance, number_of(seed), row_offset,
        on_step,
    )  # fmt: skip
    if is_adaptive:
        found = wanted = equal_steps(places, spreads, count)
    if step_size is not None:
        return Annealing(target, start, found, step_size, num_steps, between)
    inner = places[1:-1].unsqueeze(-1).expand_as(log_steps)
    steps = interpolate(inner, _smooth(log_steps), wanted[1:-1]).exp()
    steps = steps * torch.tensor([_part(t) for t in range(len(steps))], dtype=steps.dtype).unsqueeze(-1)
    return Annealing(target, start, found, steps, num_steps, between)


def pilot_transitions(num_temperatures: int, num_pilot_temperatures: int | None = None) -> int:
    """Return the number of transitions of the pilot run of :func:`tune_annealing`."""
    return PILOT_WARM_UP + _pilot_length(num_temperatures, num_pilot_temperatures) - 1


def _pilot_length(num_temperatures: int, asked: int | None) -> int:
    length = max(FEWEST_PILOT_TEMPERATURES, num_temperatures // 10) if asked is None else asked
    return check_count("tune_annealing", "num_pilot_temperatures", length, at_least=2)


@torch.no_grad()
def _pilot(
    target: Callable[[Tensor], Any],
    start: Distribution,
    between: Between | None,
    length: int,
    chains: int,
    num_steps: int,
    target_acceptance: float,
    seed: int,
    row_offset: int,
    on_step: OnStep,
) -> tuple[Tensor, Tensor, Tensor]:
    """Schedule (M + 1,), spreads (M, P) of the derivative by beta, and log step sizes (M - 1, P); on the CPU."""
    seed = mix_seed(seed, PILOT_STREAM)
    position = draw_start(start, chains, mix_seed(seed, START_STREAM), row_offset)
    problems = len(position) // chains
    check_densities(as_target(target)(position)[0].view(problems, chains), False)
    path = make_path(target, start, between, chains)
    schedule = sigmoidal_schedule(length).to(position.device)
    scale = position.view(problems, chains, -1).std(1).mean(-1)
    log_step = torch.log(scale) - 0.25 * math.log(position.shape[-1])
    number = 0
    beta = torch.zeros_like(position[:, 0], dtype=torch.float64)
    place = path.at(position, beta)
    spreads, log_steps = [], []

    def transition(gain: float) -> Tensor:
        nonlocal place, log_step, number
        step_size = each_chain(_part(number) * log_step.exp(), problems, chains)
        place, info = path.transition(
            place, beta, step_size, num_steps, step_seed(mix_seed(seed, FORWARD_STREAM), number), row_offset * chains
        )
        accepted = info.acceptance_probability.view(problems, chains).mean(1)
        log_step = log_step + gain * (accepted - target_acceptance)
        number += 1
        if on_step is not None:
            on_step()
        return accepted

    for t in range(length):
        last, beta = beta, each_chain(schedule[t + 1 : t + 2], problems, chains)
        place, change = path.move(place, last, beta)
        spreads.append(change.view(problems, chains).std(1) / (schedule[t + 1] - schedule[t]))
        if t == length - 1:
            break
        if t == 0:
            accepted = torch.stack([transition(4.0 / (1.0 + 0.5 * i)) for i in range(PILOT_WARM_UP)])
            if bool((accepted.amax(0) == 0.0).any()):
                raise ValueError(
                    f"{OWNER}: no proposal was accepted at the first temperature, down to a step size of "
                    f"{float(log_step.exp().min()):.1e}: is the gradient that of the log density?"
                )
        transition(_GAIN)
        log_steps.append(log_step)
    return schedule.cpu(), torch.stack(spreads).cpu(), torch.stack(log_steps).double().cpu()


def annealed_importance_sampling(
    target: Callable[[Tensor], Any],
    start: Distribution,
    *,
    num_chains: int = 16,
    seed: int | None = None,
    row_offset: int = 0,
    on_step: OnStep = None,
    **options: Any,
) -> AnnealedWeights:
    """Estimate the normaliser of a target: a pilot run, then annealed importance sampling with what it chose.

    Parameters
    ----------
    target, start
        See :class:`Annealing`.
    num_chains, seed, row_offset, on_step
        See :meth:`Annealing.forward`.
    options
        Those of :func:`tune_annealing`.

    Raises
    ------
    TypeError, ValueError
        See :func:`tune_annealing`.

    References
    ----------
    Neal: Annealed importance sampling. Statistics and Computing 11, 2001.

    Examples
    --------
    >>> import torch
    >>> from fastvi.distributions import DiagNormal
    >>> start = DiagNormal(torch.zeros(3), torch.zeros(3))
    >>> target = DiagNormal(torch.full((3,), 2.0), torch.full((3,), -1.0))
    >>> found = annealed_importance_sampling(target.log_prob, start, num_temperatures=100, seed=0)
    >>> bool(found.log_normalizer.abs() < 4 * found.standard_error)  # both ends are normalised
    True
    """
    number = number_of(seed)
    annealing = tune_annealing(target, start, seed=number, row_offset=row_offset, on_step=on_step, **options)
    return annealing.forward(num_chains, number, row_offset, on_step)


def _part(t: int) -> float:
    """What part of its step size transition t takes, from a half to 1.

    Trajectories of one length that follow the scale of the density come back to where they were, or to its mirror
    image, at each temperature anew (Neal 2011, section 3.2).
    """
    return 1.0 - 0.5 * halton(t)


def _smooth(values: Tensor) -> Tensor:
    """Each of (M, P) averaged with its neighbours: a step size that is a little too large accepts nothing."""
    padded = torch.cat([values[:1].expand(_NEIGHBOURS, -1), values, values[-1:].expand(_NEIGHBOURS, -1)])
    return padded.unfold(0, 2 * _NEIGHBOURS + 1, 1).mean(-1)


class BidirectionalBounds(NamedTuple):
    """Runs from both ends, for targets of which an exact draw is known.

    Attributes
    ----------
    forward
        From the start: its ``log_normalizer`` is a stochastic lower bound on log Z.
    reverse
        From the exact draw: its ``log_normalizer`` is a stochastic upper bound.
    """

    forward: AnnealedWeights
    reverse: AnnealedWeights

    @property
    def gap(self) -> Tensor:
        """Upper bound less lower bound, ``(*batch,)``: no less than either's error, but for e^-b at b nats."""
        return self.reverse.log_normalizer - self.forward.log_normalizer


def bidirectional_monte_carlo(
    target: Callable[[Tensor], Any],
    start: Distribution,
    position: Tensor,
    *,
    num_chains: int = 16,
    seed: int | None = None,
    row_offset: int = 0,
    on_step: OnStep = None,
    **options: Any,
) -> BidirectionalBounds:
    """Enclose the log normaliser of a target of which an exact draw is known, as of p(z|x) for an x made from z.

    Parameters
    ----------
    target, start
        See :class:`Annealing`.
    position
        The exact draw of each problem: see :meth:`Annealing.reverse`.
    num_chains, seed, row_offset, on_step
        See :meth:`Annealing.forward`.
    options
        Those of :func:`tune_annealing`.

    Raises
    ------
    TypeError, ValueError
        See :func:`tune_annealing` and :meth:`Annealing.reverse`.

    References
    ----------
    Grosse, Ghahramani, Adams: Sandwiching the marginal likelihood using bidirectional Monte Carlo. 2015.

    Examples
    --------
    >>> import torch
    >>> from fastvi.distributions import DiagNormal
    >>> start, target = DiagNormal(torch.zeros(3), torch.zeros(3)), DiagNormal(torch.ones(3), torch.full((3,), -1.0))
    >>> draw = target.rsample((), seed=1)
    >>> found = bidirectional_monte_carlo(target.log_prob, start, draw, num_temperatures=100, seed=0)
    >>> bool(found.forward.log_normalizer < 0.1), bool(found.reverse.log_normalizer > -0.1)
    (True, True)
    """
    number = number_of(seed)
    annealing = tune_annealing(target, start, seed=number, row_offset=row_offset, on_step=on_step, **options)
    return BidirectionalBounds(
        annealing.forward(num_chains, number, row_offset, on_step),
        annealing.reverse(position, num_chains, number, row_offset, on_step),
    )
