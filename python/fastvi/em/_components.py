"""Components of one exponential family; and what a mixture asks of any components, Gaussian or not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, cast

import torch
from torch import Tensor

from fastvi.em._data import Rows, largest_of
from fastvi.em._far_rows import far_places, take_far_rows
from fastvi.em._gaussian import EMPTY
from fastvi.em._step import CHUNK_ROWS, Densities, Moments, Pass, Statistics, check_sums, run_pass
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
    rows: Rows,
    components: Components,
    log_weights: Tensor,
    *,
    origin: Tensor,
    moments: Moments | None = None,
    given: Tensor | None = None,
    log_likelihood: bool = False,
    responsibilities: bool = False,
    log_densities: bool = False,
) -> Pass:
    """:func:`fastvi.em._step.run_pass` over rows as they are given; log-likelihoods contain the base measure.

    Rows that are far from all components are taken again, in float64: see `fastvi.em._far_rows`. Log densities of such
    a row are less what all components have in common, ``Pass.common``.

    Raises
    ------
    ValueError
        If a row is so far from the components that its log density overflows float64, or a sum or a result overflows
        the dtype of the rows.
    """
    densities = components.densities(rows.x, origin).weighted(log_weights)
    moments = components.moments if moments is None else moments
    # Where the kernel reads the rows as they stand a chunk is large, else its statistics have to fit the caches.
    probe = rows.x[:1]
    step = CHUNK_ROWS if components.features(probe) is probe else FEATURE_ROWS
    parts = []
    for start in range(0, max(1, rows.x.shape[0]), step):
        chunk = slice(start, start + step)
        own = replace(rows, x=rows.x[chunk], weights=None if rows.weights is None else rows.weights[chunk])
        if given is not None:
            features = components.features(own.x)
            parts.append(run_pass(features, densities, weights=own.weights, moments=moments, given=given[chunk]))
            continue
        part = _with_far_rows(
            own,
            components,
            densities,
            moments,
            responsibilities=responsibilities,
            log_densities=log_densities,
            largest=rows.largest if step == CHUNK_ROWS else None,
            start=start,
        )
        part = _with_base(part, components, own)
        parts.append(part if log_likelihood else replace(part, log_likelihood=None))
    found = parts[0] if len(parts) == 1 else _joined(parts)
    check_sums(rows.owner, found.statistics, rows.x.dtype)
    return found if found.log_likelihood is None else _in_dtype(rows, found, found.log_likelihood)


def _with_far_rows(
    own: Rows,
    components: Components,
    densities: Densities,
    moments: Moments,
    *,
    responsibilities: bool,
    log_densities: bool,
    largest: float | None,
    start: int,
) -> Pass:
    """A pass over some rows, without base measure, with the log-likelihood of each; far rows are taken again."""
    features = components.features(own.x)
    run = partial(run_pass, features, densities, weights=own.weights, log_likelihood=True, log_densities=log_densities)
    part = run(moments=moments, responsibilities=responsibilities)
    log_likelihood = cast(Tensor, part.log_likelihood)
    common = torch.zeros_like(log_likelihood, dtype=torch.float64) if log_densities else None
    largest = largest_of(features) if largest is None else largest
    places = far_places(features, densities, log_likelihood, largest)
    if len(places) == 0:
        return replace(part, common=common)
    exact = components.features(own.x[places].cpu().double())
    far = take_far_rows(own.owner, own.x, exact, densities, places, start)
    if moments != "none" and not responsibilities:
        part = run(moments="none", responsibilities=True)
    log_likelihood = cast(Tensor, part.log_likelihood).double()
    log_likelihood[places] = far.log_likelihood.to(log_likelihood)
    for of_rows, found in (
        (part.responsibilities, far.responsibilities),
        (part.log_densities, far.relative),
        (common, far.common),
    ):
        if of_rows is not None:
            of_rows[places] = found.to(of_rows)
    statistics = part.statistics
    if moments != "none":
        statistics = run_pass(
            features, densities, weights=own.weights, moments=moments, given=part.responsibilities
        ).statistics
    statistics = replace(statistics, log_likelihood=_weighted_sum(log_likelihood, own.weights))
    return replace(part, statistics=statistics, log_likelihood=log_likelihood, common=common)


def _weighted_sum(values: Tensor, weights: Tensor | None) -> float:
    """The sum over rows in float64; rows of weight 0 have no part in it."""
    values = values.double()
    return float((values if weights is None else torch.where(weights > 0, values * weights, 0.0)).sum())


def _in_dtype(rows: Rows, found: Pass, log_likelihood: Tensor) -> Pass:
    """Log-likelihoods in the dtype of the rows, which is refused where it cannot hold one."""
    rounded = log_likelihood.to(rows.x.dtype)
    lost = log_likelihood.isfinite() & ~rounded.isfinite()
    if bool(lost.any()):
        row = int(lost.nonzero()[0, 0])
        raise ValueError(
            f"{rows.owner}: the log-likelihood of row {row} of X, {float(log_likelihood[row]):g}, overflows "
            f"{str(rows.x.dtype).removeprefix('torch.')}; expected rows in float64"
        )
    return replace(found, log_likelihood=rounded)


def _with_base(part: Pass, components: Components, own: Rows) -> Pass:
    """What a pass found, with the base measure of the rows."""
    base = components.log_base_measure(own.x)
    if base is None:
        return part
    if not bool(base.isfinite().all()):  # the family says that rows are impossible, or their dtype is too small
        base = cast(Tensor, components.log_base_measure(own.x.cpu().double())).to(own.x.device)
    sums = replace(part.statistics, log_likelihood=part.statistics.log_likelihood + _weighted_sum(base, own.weights))
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

    return Pass(sums, joined("log_likelihood"), joined("responsibilities"), joined("log_densities"), joined("common"))
