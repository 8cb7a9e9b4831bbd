"""Components of one exponential family; and what a mixture asks of any components, Gaussian or not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from fastvi.em._gaussian import EMPTY
from fastvi.em._step import Densities, Moments, Pass, Statistics, run_pass
from fastvi.em.families import ExponentialFamily

FEATURE_ROWS = 8192
"""Rows whose sufficient statistics are made at once, where these are not the rows themselves."""


class Components(Protocol):
    """K distributions with one set of parameters each."""

    @property
    def moments(self) -> Moments:
        """Which sums the M step needs."""
        ...

    def features(self, x: Tensor) -> Tensor:
        """What the pass reads of rows."""
        ...

    def log_base_measure(self, x: Tensor) -> Tensor | None:
        """What all components' log densities of a row have in common, (N,)."""
        ...

    def num_parameters(self) -> int:
        """Free parameters of all components."""
        ...

    def densities(self, x: Tensor, origin: Tensor) -> Densities:
        """Log densities for rows of the dtype of ``x``, about a shift near ``origin``."""
        ...

    def updated(self, statistics: Statistics) -> Components:
        """The M step."""
        ...

    def expected_log_density(self, statistics: Statistics) -> float:
        """The sum of responsibility times log density, less the base measure."""
        ...

    def sample(self, component: int, count: int, generator: torch.Generator) -> Tensor:
        """Draws of one component."""
        ...


@dataclass(frozen=True)
class FamilyComponents:
    """K members of an exponential family, in float64 on the CPU.

    Attributes
    ----------
    means
        Mean statistics, (K, S).
    natural
        Natural parameters, (K, S).
    """

    family: ExponentialFamily
    means: Tensor
    natural: Tensor

    @property
    def moments(self) -> Moments:
        """Sums of the statistics."""
        return "first"

    def features(self, x: Tensor) -> Tensor:
        """The sufficient statistics."""
        return self.family.sufficient_statistics(x)

    def log_base_measure(self, x: Tensor) -> Tensor | None:
        """Log h(x)."""
        return self.family.log_base_measure(x)

    def num_parameters(self) -> int:
        """Free parameters of all components."""
        components, statistics = self.natural.shape
        return components * self.family.num_parameters(statistics)

    def densities(self, x: Tensor, origin: Tensor) -> Densities:
        """A product of parameters and statistics: nothing is shifted."""
        offset = -self.family.log_normalizer(self.natural)
        return Densities("linear", offset, self.natural, None, torch.zeros(self.natural.shape[1], dtype=torch.float64))

    def updated(self, statistics: Statistics) -> FamilyComponents:
        """The M step: mean statistics are the weighted means; components without rows stay as they are."""
        count = statistics.count[:, None]
        means = torch.where(count < EMPTY, self.means, statistics.first / count.clamp_min(EMPTY))
        return replace(self, means=means, natural=self.family.natural_parameters(means))

    def expected_log_density(self, statistics: Statistics) -> float:
        """<theta, sum T> - count A."""
        normalizers = statistics.count * self.family.log_normalizer(self.natural)
        return float((self.natural * statistics.first).sum() - normalizers.sum())

    def sample(self, component: int, count: int, generator: torch.Generator) -> Tensor:
        """Draws of one component."""
        return self.family.sample(self.natural[component], count, generator)


def run_components(
    x: Tensor,
    components: Components,
    log_weights: Tensor,
    *,
    origin: Tensor,
    weights: Tensor | None = None,
    moments: Moments | None = None,
    given: Tensor | None = None,
    log_likelihood: bool = False,
    responsibilities: bool = False,
    log_densities: bool = False,
) -> Pass:
    """:func:`fastvi.em._step.run_pass` over rows as they are given; log-likelihoods contain the base measure."""
    densities = components.densities(x, origin).weighted(log_weights)
    moments = components.moments if moments is None else moments
    wanted = {"log_likelihood": log_likelihood, "responsibilities": responsibilities, "log_densities": log_densities}
    # One pass over all rows where the kernel reads them as they stand, else over chunks of their statistics.
    probe = x[:1]
    step = max(1, x.shape[0]) if components.features(probe) is probe else FEATURE_ROWS
    parts = []
    for start in range(0, max(1, x.shape[0]), step):
        rows = slice(start, start + step)
        own, of_rows = x[rows], None if weights is None else weights[rows]
        part = run_pass(
            components.features(own),
            densities,
            weights=of_rows,
            moments=moments,
            given=None if given is None else given[rows],
            **wanted,
        )
        base = None if given is not None else components.log_base_measure(own)
        parts.append(part if base is None else _with_base(part, base, of_rows))
    return parts[0] if len(parts) == 1 else _joined(parts)


def _with_base(part: Pass, base: Tensor, weights: Tensor | None) -> Pass:
    total = float((base if weights is None else base * weights).sum(dtype=torch.float64))
    sums = replace(part.statistics, log_likelihood=part.statistics.log_likelihood + total)
    rows = None if part.log_likelihood is None else part.log_likelihood + base
    densities = None if part.log_densities is None else part.log_densities + base[:, None]
    return replace(part, statistics=sums, log_likelihood=rows, log_densities=densities)


def _joined(parts: list[Pass]) -> Pass:
    sums = parts[0].statistics
    for part in parts[1:]:
        sums = sums.combined(part.statistics)

    def joined(name: str) -> Tensor | None:
        found = [getattr(part, name) for part in parts]
        return None if found[0] is None else torch.cat(found)

    return Pass(sums, joined("log_likelihood"), joined("responsibilities"), joined("log_densities"))
