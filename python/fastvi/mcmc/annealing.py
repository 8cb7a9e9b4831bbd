"""Annealed importance sampling with everything frozen: Neal 2001, in reverse Grosse, Ghahramani and Adams 2015."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from fastvi import ops
from fastvi._options import check_count
from fastvi.distributions import DiagNormal, seeded
from fastvi.mcmc.integrators import Target, as_target, with_gradient
from fastvi.mcmc.kernel import step_seed
from fastvi.mcmc.paths import Between, GeometricPath, OtherPath, Path
from fastvi.ops.random import seed_tensor
from fastvi.seeding import mix_seed

START_STREAM, FORWARD_STREAM, REVERSE_STREAM, PILOT_STREAM = range(4)
"""Of the noise: ``mix_seed(seed, stream)``."""
OWNER = "annealed importance sampling"

OnStep = Callable[[], None] | None


@dataclass(frozen=True, eq=False)
class AnnealedWeights:
    """What a run of annealed importance sampling found. The batch is that of the start: none, or P problems.

    Attributes
    ----------
    log_weights
        ``(*batch, C)``, log w of each chain in float64. E w = Z forward, E 1/w = 1/Z in reverse.
    acceptance
        ``(T - 1, *batch)``: acceptance probability at each temperature between the ends, mean over chains.
    position
        ``(*batch, C, D)``, where the chains ended: weighted draws of the target, or, in reverse, of the start.
    is_reverse
        Whether the chains came from the target.
    """

    log_weights: Tensor
    acceptance: Tensor
    position: Tensor
    is_reverse: bool = False

    @property
    def log_normalizer(self) -> Tensor:
        """Estimate of log Z, ``(*batch,)``: log mean w forward, -log mean 1/w in reverse.

        A stochastic bound: it is above log Z + b forward, or below log Z - b in reverse, with a probability of at most
        exp(-b).
        """
        return self._sign * ops.log_mean_exp(self._sign * self.log_weights, -1)

    @property
    def effective_sample_size(self) -> Tensor:
        """(sum w)^2 / sum w^2, ``(*batch,)``, from 1 to C; of 1/w in reverse."""
        return ops.effective_sample_size(self._sign * self.log_weights, -1)

    @property
    def standard_error(self) -> Tensor:
        """Of `log_normalizer`, ``(*batch,)``: the weights' standard error over their mean; NaN for a single chain.

        It is that of the weights that were seen; where a few of them make up the mean, it says too little.
        """
        chains = self.log_weights.shape[-1]
        excess = (chains / self.effective_sample_size - 1.0).clamp_min(0.0)
        return (excess / (chains - 1)).sqrt() if chains > 1 else torch.full_like(excess, math.nan)

    @property
    def _sign(self) -> float:
        return -1.0 if self.is_reverse else 1.0


@dataclass(frozen=True, eq=False)
class Annealing:
    """A schedule with its transitions, all of it frozen. :func:`tune_annealing` makes one.

    Parameters
    ----------
    target
        Positions ``(N, D)`` to the log density ``(N,)``, unnormalised: a differentiable function, or a target of
        :mod:`fastvi.mcmc`. With P problems the N = P C positions are those of the C chains of the first problem, then
        those of the second one.
    start
        A normalised distribution with the event ``(D,)`` and no batch, or the batch ``(P,)``, that can be sampled
        exactly: :class:`fastvi.distributions.DiagNormal`, or another one that draws by a seed.
    inverse_temperatures
        ``(T + 1,)``, or ``(T + 1, P)`` for one schedule for each problem, rising from 0 to 1.
    step_sizes
        Of the transitions at the T - 1 temperatures between the ends: a number, ``(T - 1,)`` or ``(T - 1, P)``.
    num_steps
        L, leapfrog steps of a transition.
    between
        Log densities of positions ``(N, D)`` and inverse temperatures ``(N,)``, for another path than the geometric
        one. They need no normaliser, and are asked for between the ends alone.

    Raises
    ------
    TypeError, ValueError
        If one of them is not as above.

    Examples
    --------
    >>> import torch
    >>> from fastvi.distributions import DiagNormal
    >>> start = DiagNormal(torch.zeros(2), torch.zeros(2))
    >>> annealing = Annealing(lambda q: -2.0 * q.square().sum(-1), start, torch.linspace(0, 1, 51), 0.4, 5)
    >>> found = annealing.forward(num_chains=500, seed=0)
    >>> error = found.log_normalizer - torch.tensor(torch.pi / 2).log()  # the integral of exp(-2 q'q)
    >>> bool(error.abs() < 4 * found.standard_error), found.acceptance.shape
    (True, torch.Size([49]))
    """

    target: Callable[[Tensor], Any]
    start: Distribution
    inverse_temperatures: Tensor
    step_sizes: float | Tensor
    num_steps: int = 3
    between: Between | None = None
    _schedule: Tensor = field(init=False, repr=False)
    _steps: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        problems = num_problems(self.start)
        check_count("Annealing", "num_steps", self.num_steps)
        schedule = checked_schedule("Annealing", self.inverse_temperatures, problems)
        steps = torch.as_tensor(self.step_sizes).detach()
        shape = (len(schedule) - 2, problems)
        if steps.dim() > 2 or (steps.dim() > 0 and steps.shape != shape and steps.shape != shape[:1]):
            raise ValueError(
                f"Annealing: step_sizes must be a number or have the shape {shape[:1]} or {shape}, "
                f"got {tuple(steps.shape)}"
            )
        if not bool(((steps > 0.0) & steps.isfinite()).all()):
            raise ValueError("Annealing: step_sizes must be positive and finite")
        object.__setattr__(self, "_schedule", schedule)
        object.__setattr__(self, "_steps", (steps.unsqueeze(-1) if steps.dim() == 1 else steps).expand(shape))

    @property
    def num_temperatures(self) -> int:
        """T, the number of steps from 0 to 1; there are T - 1 transitions."""
        return len(self._schedule) - 1

    def forward(
        self, num_chains: int = 16, seed: int | None = None, row_offset: int = 0, on_step: OnStep = None
    ) -> AnnealedWeights:
        """Anneal chains from exact draws of the start to the target.

        Parameters
        ----------
        num_chains
            C, chains of each problem.
        seed
            Determines all noise; None takes the seed from PyTorch's generator.
        row_offset
            Number of the first problem within all, so that a part of them draws what it would have drawn in the whole.
        on_step
            Called after each of the T - 1 transitions.

        Raises
        ------
        ValueError
            If the target has no finite density at any of a problem's draws.
        """
        check_count(OWNER, "num_chains", num_chains)
        number = number_of(seed)
        position = draw_start(self.start, num_chains, mix_seed(number, START_STREAM), row_offset)
        return self._run(position, num_chains, mix_seed(number, FORWARD_STREAM), row_offset, on_step, is_reverse=False)

    def reverse(
        self,
        position: Tensor,
        num_chains: int = 16,
        seed: int | None = None,
        row_offset: int = 0,
        on_step: OnStep = None,
    ) -> AnnealedWeights:
        """Anneal chains from an exact draw of the target back to the start: log Z from above.

        Parameters
        ----------
        position
            One exact draw of each problem's target, ``(*batch, D)``, from which all of its chains start; or one for
            each chain, ``(*batch, C, D)``. Draws that are not exact give no bound.
        num_chains
            C, where there is one draw.
        seed, row_offset, on_step
            See `forward`.

        Raises
        ------
        ValueError
            If ``position`` has another shape, or a density of 0 under the target.
        """
        check_count(OWNER, "num_chains", num_chains)
        batch, dim = tuple(self.start.batch_shape), self.start.event_shape[-1]
        if position.shape == (*batch, dim):
            position = position.unsqueeze(-2).expand(*batch, num_chains, dim)
        if position.dim() != len(batch) + 2 or position.shape[:-2] != batch or position.shape[-1] != dim:
            raise ValueError(
                f"{OWNER}: position must have the shape {(*batch, dim)}, or {(*batch, 'C', dim)}, "
                f"got {tuple(position.shape)}"
            )
        flat = position.detach().reshape(-1, dim).contiguous()
        return self._run(flat, position.shape[-2], mix_seed(number_of(seed), REVERSE_STREAM), row_offset, on_step, True)

    @torch.no_grad()
    def _run(
        self, position: Tensor, chains: int, seed: int, row_offset: int, on_step: OnStep, is_reverse: bool
    ) -> AnnealedWeights:
        path = make_path(self.target, self.start, self.between, chains)
        problems, batch = len(position) // chains, tuple(self.start.batch_shape)
        schedule, steps = (each.flip(0) if is_reverse else each for each in (self._schedule, self._steps))
        schedule = schedule.to(position.device)
        steps = steps.to(position)
        check_densities(as_target(self.target)(position)[0].view(problems, chains), is_reverse)
        beta = each_chain(schedule[0], problems, chains)
        place = path.at(position, beta)
        log_weight = position.new_zeros(len(position), dtype=torch.float64)
        acceptance = []
        for t in range(len(schedule) - 1):
            last, beta = beta, each_chain(schedule[t + 1], problems, chains)
            place, change = path.move(place, last, beta)
            log_weight = _times(log_weight, change)
            if t + 2 < len(schedule):
                step_size = each_chain(steps[t], problems, chains)
                place, info = path.transition(
                    place, beta, step_size, self.num_steps, step_seed(seed, t), row_offset * chains
                )
                acceptance.append(info.acceptance_probability.view(problems, chains).mean(1))
                if on_step is not None:
                    on_step()
        found = torch.stack(acceptance) if acceptance else position.new_zeros(0, problems)
        return AnnealedWeights(
            (-log_weight if is_reverse else log_weight).view(*batch, chains),
            (found.flip(0) if is_reverse else found).view(len(found), *batch),
            place.position.view(*batch, chains, -1),
            is_reverse,
        )


def make_path(target: Callable[[Tensor], Any], start: Distribution, between: Between | None, chains: int) -> Path:
    """Return the path between the start and the target for so many chains of each problem."""
    ends = _start_target(start, chains), as_target(target if hasattr(target, "is_target") else _only_finite(target))
    return GeometricPath(*ends) if between is None else OtherPath(*ends, _in_dtype(between))


def _start_target(start: Distribution, chains: int) -> Target:
    """The start's log density and gradient at positions (P C, D)."""
    if type(start) is DiagNormal:
        shape = (num_problems(start), start.event_shape[-1])
        mean, logvar = (each.detach().expand(shape).repeat_interleave(chains, 0) for each in (start.mean, start.logvar))
        precision = torch.exp(-logvar)
        return lambda position: (ops.normal_log_prob(position, mean, logvar), (mean - position) * precision)

    def log_prob(position: Tensor) -> Tensor:
        if not start.batch_shape:
            return start.log_prob(position)
        by_problem = position.view(-1, chains, position.shape[-1]).transpose(0, 1)
        return start.log_prob(by_problem).transpose(0, 1).reshape(-1)

    return with_gradient(_only_finite(log_prob), f"{OWNER}: the log_prob of the start, {type(start).__name__},")


def _in_dtype(between: Between) -> Between:
    """Its log densities in the dtype of positions."""

    def converted(position: Tensor, beta: Tensor) -> Tensor:
        found: Any = between(position, beta)
        return found.to(position.dtype) if isinstance(found, Tensor) else found

    return converted


def _only_finite(log_density: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """A log density in the dtype of positions, NaN where they are not finite, as where a divergent trajectory ends.

    PyTorch's distributions raise there. A model of another dtype, or parts of one, may give its own.
    """

    def guarded(position: Tensor) -> Any:
        finite = position.detach().isfinite().all(-1)
        found = log_density(torch.where(finite.unsqueeze(-1), position, 0.0))
        if not isinstance(found, Tensor) or found.shape != finite.shape:
            return found
        return torch.where(finite, found.to(position.dtype), math.nan)

    return guarded


@torch.no_grad()
def draw_start(start: Distribution, chains: int, seed: int, row_offset: int) -> Tensor:
    """Exact draws (P C, D)."""
    whole = start if start.batch_shape else start.expand(torch.Size((1,)))
    try:
        drawn = (seeded.rsample if whole.has_rsample else seeded.sample)(whole, chains, seed, row_offset)
    except NotImplementedError as error:
        raise TypeError(f"{OWNER}: start: {error}") from error
    return drawn.transpose(0, 1).reshape(-1, drawn.shape[-1]).contiguous()


def num_problems(start: Distribution) -> int:
    """Return P, 1 for a start without a batch; raise unless it is a distribution of vectors."""
    if not isinstance(start, Distribution):
        raise TypeError(f"{OWNER}: start must be a torch.distributions.Distribution, got {type(start).__name__}")
    if len(start.event_shape) != 1 or len(start.batch_shape) > 1:
        raise ValueError(
            f"{OWNER}: start must have the event (D,) and no batch, or the batch (P,); "
            f"got {type(start).__name__} with {tuple(start.event_shape)} and {tuple(start.batch_shape)}"
        )
    return start.batch_shape[0] if start.batch_shape else 1


def checked_schedule(owner: str, schedule: Any, problems: int) -> Tensor:
    """Inverse temperatures (T + 1, 1) or (T + 1, P), in float64."""
    if not isinstance(schedule, Tensor):
        raise TypeError(f"{owner}: inverse temperatures must be a tensor, got {type(schedule).__name__}")
    found = schedule.detach().double()
    found = found.unsqueeze(-1) if found.dim() == 1 else found
    if found.dim() != 2 or len(found) < 2 or found.shape[1] not in (1, problems):
        raise ValueError(
            f"{owner}: inverse temperatures must have the shape (T + 1,) or (T + 1, {problems}), "
            f"got {tuple(schedule.shape)}"
        )
    if bool((found[0] != 0.0).any()) or bool((found[-1] != 1.0).any()) or not bool((found.diff(dim=0) >= 0.0).all()):
        raise ValueError(f"{owner}: inverse temperatures must rise from 0 to 1")
    return found


def check_densities(log_density: Tensor, is_reverse: bool) -> None:
    """Raise where a problem, of (P, C), has no chain with a finite log density of the target."""
    finite = log_density.isfinite().all(1) if is_reverse else log_density.isfinite().any(1)
    if not bool(finite.all()):
        place = int(finite.logical_not().nonzero()[0])
        which = f" of problem {place}" if len(finite) > 1 else ""
        advice = "give exact draws of the target" if is_reverse else "take a start that covers the target"
        raise ValueError(f"{OWNER}: the target{which} has no finite log density where its chains start: {advice}")


def each_chain(values: Tensor, problems: int, chains: int) -> Tensor:
    """One value for each chain, (P C,), of (1,) or (P,)."""
    return values.expand(problems).repeat_interleave(chains)


def _times(log_weight: Tensor, change: Tensor) -> Tensor:
    """A weight times a ratio: one that is 0 stays so, whatever its chain finds later; NaN is a density of 0."""
    found = torch.nan_to_num(log_weight + change, nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    return torch.where(log_weight == -math.inf, log_weight, found)


def number_of(seed: int | None) -> int:
    """Return the seed as a number; None takes one from PyTorch's generator."""
    return int(seed_tensor(OWNER, seed, torch.device("cpu")))
