"""Families of `fastvi.expfam` as components of mixtures and emissions of hidden Markov models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastvi import expfam
from fastvi._sizes import MAX_SEED

MARGINS = (0.0, 1e-8, 1e-6, 1e-4)
"""Share of another distribution in mean statistics, the least that makes them those of the family: statistics at the
edge of the domain, such as those of a single row, have no parameters."""


@dataclass(frozen=True)
class FromExpfam:
    """A family of `fastvi.expfam`: a row is one event or, where events are numbers, has one in each column."""

    family: expfam.ExponentialFamily

    def check_support(self, x: Tensor) -> None:
        """Raise a ValueError where a value, or a row that is one event, cannot occur."""
        name, size = type(self.family).__name__, self.family.event_shape
        if self.family.event_dim and tuple(x.shape[1:]) != tuple(size):
            raise ValueError(f"{name}: x must have rows of {size[0]} columns, got {x.shape[1]}")
        possible = self.family._support(x)
        if not bool(possible.all()):
            wrong = x[~possible][0]
            shown = f"{float(wrong):g}" if wrong.dim() == 0 else f"the row {[round(float(v), 6) for v in wrong[:6]]}"
            raise ValueError(f"{name}: x must be {self.family.support}, got {shown}")

    def sufficient_statistics(self, x: Tensor) -> Tensor:
        """T(x), those of a column behind each other."""
        found = self.family._statistics(x)
        return found if self.family.event_dim else found.flatten(-2)

    def log_base_measure(self, x: Tensor) -> Tensor:
        """Log h(x), summed over columns."""
        found = self.family._log_base_measure(x)
        return found if self.family.event_dim else found.sum(-1)

    def natural_parameters(self, mean: Tensor) -> Tensor:
        """Eta of the mean statistics."""
        mu = self._of_events(mean)
        try:
            return self._joined(self.family.natural_parameters(mu))
        except ValueError:
            return torch.stack([self._joined(self._nearest(row)) for row in mu])

    def _nearest(self, mu: Tensor) -> Tensor:
        other = self.family.mean_parameters(self.family._any_natural(mu))
        for margin in MARGINS:
            try:
                return self.family.natural_parameters(mu + margin * (other - mu))
            except ValueError as error:
                refusal = error
        raise refusal

    def log_normalizer(self, natural: Tensor) -> Tensor:
        """A(eta), summed over columns."""
        found = self.family.log_partition(self._of_events(natural))
        return found if self.family.event_dim else found.sum(-1)

    def num_parameters(self, statistics: int) -> int:
        """The statistics; one less for each event of a family that is not minimal."""
        events = statistics // self.family.num_statistics
        return statistics if self.family.minimal else statistics - events

    def sample(self, natural: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Draws, (count, D)."""
        seed = int(torch.randint(MAX_SEED - 1, (), generator=generator))
        return self.family.sample(self._of_events(natural), count, seed=seed).to(natural.dtype)

    def _of_events(self, parameters: Tensor) -> Tensor:
        return parameters if self.family.event_dim else parameters.unflatten(-1, (-1, self.family.num_statistics))

    def _joined(self, parameters: Tensor) -> Tensor:
        return parameters if self.family.event_dim else parameters.flatten(-2)
