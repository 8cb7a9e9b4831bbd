"""The Ising model by enumeration, and what it shares with Boltzmann machines: T(x) = x and the products of pairs."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fastvi._options import option
from fastvi.expfam._checks import check_floating, check_vector
from fastvi.expfam.finite import FiniteFamily

MOST_UNITS = 16


class PairwiseFamily(FiniteFamily):
    """Units that have one of two values each, with a field on each and a coupling of each pair."""

    event_dim = 1

    @property
    @abstractmethod
    def num_units(self) -> int:
        """Number of units."""

    @property
    @abstractmethod
    def _values(self) -> tuple[float, float]:
        """What a unit may be."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_units > MOST_UNITS:
            raise ValueError(
                f"{self._name}: all states are enumerated, so that there may be {MOST_UNITS} units at most, got "
                f"{self.num_units}"
            )

    @property
    def num_statistics(self) -> int:
        """One for each unit and each pair."""
        return self.num_units + self.pairs.shape[1]

    @property
    def event_shape(self) -> tuple[int, ...]:
        """(units,)."""
        return (self.num_units,)

    @cached_property
    def pairs(self) -> Tensor:
        """The two units of each pair, in the order of their couplings, (2, pairs)."""
        return torch.triu_indices(self.num_units, self.num_units, 1)

    @cached_property
    def states(self) -> Tensor:
        """All states, float64, (2^units, units); the last unit changes fastest."""
        return enumerate_states(self.num_units, self._values)

    def _statistics(self, x: Tensor) -> Tensor:
        first, second = self.pairs.to(x.device)
        return torch.cat([x, x[..., first] * x[..., second]], -1)

    def _support(self, x: Tensor) -> Tensor:
        low, high = self._values
        return ((x == low) | (x == high)).all(-1)

    def natural_from_couplings(self, fields: Tensor, couplings: Tensor) -> Tensor:
        """Natural parameters of fields, (..., units), and couplings (..., units, units), whose upper part is read."""
        fields = check_vector(self._name, "fields", fields, self.num_units)
        couplings = check_floating(self._name, "couplings", couplings)
        if couplings.shape[-2:] != (self.num_units, self.num_units):
            raise ValueError(
                f"{self._name}: couplings have shape {tuple(couplings.shape)}, expected (..., {self.num_units}, "
                f"{self.num_units})"
            )
        first, second = self.pairs.to(couplings.device)
        packed = couplings[..., first, second]
        batch = torch.broadcast_shapes(fields.shape[:-1], packed.shape[:-1])
        return torch.cat([fields.expand(*batch, -1), packed.expand(*batch, -1)], -1)

    def fields_and_couplings(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Take natural or mean parameters apart: (..., units), and (..., units, units), symmetric, zero elsewhere."""
        parameters = check_vector(self._name, "parameters", parameters, self.num_statistics)
        fields, packed = parameters.tensor_split([self.num_units], -1)
        first, second = self.pairs.to(parameters.device)
        upper = parameters.new_zeros((*parameters.shape[:-1], self.num_units, self.num_units))
        upper[..., first, second] = packed
        return fields, upper + upper.mT


@dataclass(frozen=True)
class Ising(PairwiseFamily):
    """x in {-1, 1}^n, p(x) proportional to exp(sum_i a_i x_i + sum_{i<j} J_ij x_i x_j); minimal.

    eta = (a, J_12, J_13, ..., J_23, ...), mu = the means of x and of the products, h = 1. A is a sum over all 2^n
    states. Natural parameters are found by Newton's method; where there are none, because the means are on the boundary
    of the marginal polytope or outside, the error says in which direction (with SciPy).

    Parameters
    ----------
    nodes
        n, from 1 to 16.

    Examples
    --------
    >>> family = Ising(3)
    >>> eta = family.natural_from_couplings(torch.zeros(3), torch.full((3, 3), 0.5))
    >>> family.mean_parameters(eta)
    tensor([0.0000, 0.0000, 0.0000, 0.6150, 0.6150, 0.6150])
    """

    support = "-1 or 1"

    nodes: int = option("number of nodes", at_least=1)

    @property
    def num_units(self) -> int:
        """N."""
        return self.nodes

    @property
    def _values(self) -> tuple[float, float]:
        return -1.0, 1.0


def enumerate_states(units: int, values: tuple[float, float]) -> Tensor:
    """Every state of so many units, float64, (2^units, units)."""
    bits = (torch.arange(2**units).unsqueeze(-1) >> torch.arange(units - 1, -1, -1)) & 1
    return values[0] + (values[1] - values[0]) * bits.double()
