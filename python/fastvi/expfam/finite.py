"""Families over a finite set of states, for which A is a sum over all of them.

Newton's method runs in coordinates in which the statistics of the states are orthogonal and of one size, so that
neither their scale nor relations among them matter.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution

from fastvi import ops
from fastvi.expfam._noise import Noise
from fastvi.expfam.base import ExponentialFamily
from fastvi.expfam.newton import NotConvergedError, maximise, solve
from fastvi.expfam.polytope import attainability, explain_failure, points_on_face
from fastvi.ops._values import has_values

_RANK = 1e-12
"""Relative size of a singular value below which statistics are taken to depend on each other."""
_OFF = 1e-9
"""Relative distance from the states' plane beyond which means are outside of it."""

_PROOF = 0.01
"""How much of the logarithm of a probability the rounding of means may be worth."""


class Coordinates(NamedTuple):
    """Statistics T = centre + z map, with orthogonal z."""

    centre: Tensor
    map: Tensor
    inverse: Tensor
    states: Tensor


class FiniteFamily(ExponentialFamily):
    """What families over finitely many states share; `states`, (S,) + event_shape, has them in their order."""

    natural_range = "finite"
    mean_range = "the means of statistics under a distribution that has all states"

    @property
    @abstractmethod
    def states(self) -> Tensor:
        """All values of x, float64, ``(S,) + event_shape``."""

    _means: ClassVar[str] = "mu"
    """What messages call the mean parameters."""

    @cached_property
    def _table(self) -> Tensor:
        """T of each state, (S, n)."""
        return self._statistics(self.states)

    def _log_weights(self) -> Tensor | None:
        """The logarithm of each state's base measure, (S,); None: it is 1."""
        return None

    def _scores(self, eta: Tensor) -> Tensor:
        scores = eta @ self._table.to(eta).mT
        weights = self._log_weights()
        return scores if weights is None else scores + weights.to(eta)

    def _log_partition(self, eta: Tensor) -> Tensor:
        return ops.log_mean_exp(self._scores(eta), -1) + math.log(len(self._table))

    def _mean(self, eta: Tensor) -> Tensor:
        return torch.softmax(self._scores(eta), -1) @ self._table.to(eta)

    def _fisher(self, eta: Tensor) -> Tensor:
        probabilities, table = torch.softmax(self._scores(eta), -1), self._table.to(eta)
        centred = table - (probabilities @ table).unsqueeze(-2)
        return (centred * probabilities.unsqueeze(-1)).mT @ centred

    def probabilities(self, eta: Tensor) -> Tensor:
        """The probability of each state, ``batch_shape + (S,)``; raises as :meth:`mean_parameters` does."""
        return torch.softmax(self._scores(self._natural_values("eta", eta)), -1)

    def _sample(self, eta: Tensor, noise: Noise) -> Tensor:
        return self.states.to(eta)[noise.choices(self._scores(eta.double()))]

    # From means to natural parameters

    @cached_property
    def _coordinates(self) -> Coordinates:
        table = self._table
        centre = 0.5 * (table.amax(0) + table.amin(0))
        scale = (0.5 * (table.amax(0) - table.amin(0))).clamp_min(torch.finfo(torch.float64).tiny)
        middle = ((table - centre) / scale).mean(0)
        left, sizes, right = torch.linalg.svd((table - centre) / scale - middle, full_matrices=False)
        kept = sizes > _RANK * sizes.amax().clamp_min(1e-300)
        states = left[:, kept] * math.sqrt(len(table))
        back = right[kept] * (sizes[kept] / math.sqrt(len(table))).unsqueeze(-1)
        inverse = right[kept].mT / (sizes[kept] / math.sqrt(len(table)))
        return Coordinates(centre + middle * scale, back * scale, inverse / scale.unsqueeze(-1), states)

    def climb(self, mu: Tensor) -> tuple[Tensor, Tensor]:
        """Natural parameters for means ``mu``, (B, n), in float64, and for which of them they are found, (B,).

        The last Newton step, which changes the logarithm of no probability by more than a small number, proves that the
        means are in the interior: the probabilities that it makes are positive and have exactly these means. On the
        boundary a step changes some by about 1, however many there were before, until rounding hides that: where a
        mean's rounding alone is worth a step that is not small, nothing is proved.
        """
        coordinates = Coordinates(*(part.to(mu.device) for part in self._coordinates))
        states, weights = coordinates.states, self._log_weights()
        target = (mu - coordinates.centre) @ coordinates.inverse
        # Means off the plane in which the states lie are those of no distribution.
        span = (self._table.amax(0) - self._table.amin(0)).to(mu.device)
        off = (target @ coordinates.map + coordinates.centre - mu).abs() > _OFF * (span + coordinates.centre.abs())

        def scores(place: Tensor) -> Tensor:
            plain = place @ states.mT
            return plain if weights is None else plain + weights.to(mu.device)

        def value(place: Tensor) -> Tensor:
            return (place * target).sum(-1) - torch.logsumexp(scores(place), -1)

        def moments(place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            probabilities = torch.softmax(scores(place), -1)
            mean = probabilities @ states
            centred = states - mean.unsqueeze(-2)
            return mean, centred, (centred * probabilities.unsqueeze(-1)).mT @ centred

        def step_and_size(place: Tensor) -> tuple[Tensor, Tensor]:
            mean, centred, fisher = moments(place)
            step = solve(fisher, target - mean)
            return step, (centred @ step.unsqueeze(-1)).abs().amax((-2, -1))

        place, found = maximise(value, step_and_size, torch.zeros_like(target))
        _, centred, fisher = moments(place)
        found = found & ~off.any(-1)
        if place.shape[-1]:
            identity = torch.eye(place.shape[-1], dtype=mu.dtype, device=mu.device)
            rounding = torch.finfo(torch.float64).eps * centred.abs().amax((-2, -1)).square()
            least = torch.linalg.eigvalsh(torch.where(found[:, None, None], fisher, identity))[:, 0]
            found = found & (rounding <= _PROOF * least)
        return place @ coordinates.inverse.mT, found

    def _solve(self, mu: Tensor) -> Tensor:
        flat = mu.reshape(-1, mu.shape[-1])
        eta, found = self.climb(flat)
        if not bool(found.all()):
            raise NotConvergedError(f"{self._name}: {self._means}: {explain_failure(self._table, flat[~found][0])}")
        return eta.reshape(mu.shape)

    def _conjugate(self, mu: Tensor) -> Tensor:
        if not has_values(mu):  # a transform of torch.func: the formula, which is that of the interior
            return super()._conjugate(mu)
        flat = mu.reshape(-1, mu.shape[-1])
        with torch.no_grad():
            _, found = self.climb(flat.double())
        if bool(found.all()):
            return super()._conjugate(mu)
        means = torch.where(found.unsqueeze(-1), flat, self._mean(torch.zeros_like(flat)))
        values = list(super()._conjugate(means).unbind())
        for place in torch.nonzero(~found).flatten().tolist():
            weights = self._log_weights()
            on_face = conjugate_on_face(self._table, weights, flat[place].detach().to(self._table))
            values[place] = torch.full_like(values[place], on_face)
        return torch.stack(values).reshape(mu.shape[:-1])

    # PyTorch

    def to_distribution(self, eta: Tensor) -> Distribution:
        """``torch.distributions.Categorical`` over the states, in their order."""
        return TorchCategorical(logits=self._scores(self._natural_values("eta", eta)))

    def from_distribution(self, distribution: Distribution) -> Tensor:
        """From ``torch.distributions.Categorical`` over the states, if it is of this family."""
        logits: Tensor = self._expect(distribution, TorchCategorical).logits
        if logits.shape[-1] != len(self._table):
            raise ValueError(
                f"{self._name}: distribution must have {len(self._table)} categories, one for each state, got "
                f"{logits.shape[-1]}"
            )
        eta = self.natural_parameters(torch.softmax(logits, -1) @ self._table.to(logits))
        error = (torch.softmax(self._scores(eta), -1) - torch.softmax(logits, -1)).abs().amax()
        if bool(error > 1e-4 if logits.dtype == torch.float32 else error > 1e-8):
            raise ValueError(f"{self._name}: distribution is not of this family: probabilities differ by {error:.3g}")
        return eta


@dataclass(frozen=True, eq=False)
class Tabulated(FiniteFamily):
    """The family over points whose statistics are in a table, (S, n); x is the number of a point."""

    _means = "moments"
    _name = "max_entropy"

    table: Tensor
    log_weights: Tensor | None = None

    def __post_init__(self) -> None:
        pass  # tensors are no options

    @property
    def num_statistics(self) -> int:
        """Columns of the table."""
        return self.table.shape[1]

    @cached_property
    def states(self) -> Tensor:
        """Numbers of the points."""
        return torch.arange(len(self.table), dtype=torch.float64)

    def _statistics(self, x: Tensor) -> Tensor:
        return self.table[x.long()]

    def _log_weights(self) -> Tensor | None:
        return self.log_weights


def conjugate_on_face(table: Tensor, log_weights: Tensor | None, mu: Tensor) -> float:
    """A* of means, (n,), that no distribution with all points has: infinite outside of the hull.

    On the boundary the points off the face have probability 0, and those on it are a family of their own.
    """
    found = attainability(table, mu)
    if found.status == "outside":
        return math.inf
    if found.direction is not None:
        kept = points_on_face(table, found.direction.to(table))
        table, log_weights = table[kept], None if log_weights is None else log_weights[kept]
    eta, inside = Tabulated(table, log_weights).climb(mu.unsqueeze(0))
    if bool(inside.all()):
        return float((eta[0] * mu).sum() - Tabulated(table, log_weights)._log_partition(eta)[0])
    if found.direction is None:
        raise NotConvergedError("conjugate: the means are so near the boundary that Newton's method finds no maximum")
    return conjugate_on_face(table, log_weights, mu)
