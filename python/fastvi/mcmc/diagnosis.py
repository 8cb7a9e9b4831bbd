"""What is wrong with draws of Markov chains, and what to try: divergences, chains that stand still, slow mixing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

LARGEST_R_HAT = 1.01
LEAST_ESS = 400
"""Vehtari et al. 2021, section 4.3: below that quantiles and diagnostics are not to be trusted."""
LEAST_ENERGY_MIXING = 0.3
"""Betancourt 2016 (arXiv 1604.00695): the energy's Bayesian fraction of missing information."""
_STANDS_OUT = 0.25
"""Area under the curve minus a half, of 0.5 at most: how far a parameter's ranks where divergences are must be off."""


class SamplerWarning(UserWarning):
    """Draws are not to be trusted as they are; the message says why, and what to try."""


class Diagnosis(NamedTuple):
    """Names (P) and draws (C, S, P) of all numbers, and the sampler's statistics (C, S)."""

    names: list[str]
    values: np.ndarray[Any, Any]
    statistics: dict[str, np.ndarray[Any, Any]]

    def lines(self, num_divergent: np.ndarray[Any, Any], thin: int) -> list[str]:
        """Return what the sampler's own statistics say, a line each."""
        found = []
        if num_divergent.sum() > 0:
            found.append(self._divergences(num_divergent, thin))
        num_samples = self.values.shape[1]
        if num_samples > 1:
            still = np.flatnonzero((self.values == self.values[:, :1]).all((1, 2)))
            if len(still):
                found.append(
                    f"{_chains(still)} never moved: no proposal was accepted. Its start may be where the log density "
                    f"is steep, jumps or is not finite nearby: try another start, num_warmup larger, or float64"
                )
            moving = np.setdiff1d(np.arange(len(self.values)), still)
            found += self._energies(moving)
        found += self._rounding()
        return found

    def _divergences(self, num_divergent: np.ndarray[Any, Any], thin: int) -> str:
        total, num_chains = int(num_divergent.sum()), int((num_divergent > 0).sum())
        transitions = self.values.shape[0] * self.values.shape[1] * thin
        share = f"{100.0 * total / max(transitions, 1):.2g} %"
        line = f"{total} divergent transitions ({share}), in {num_chains} of {len(num_divergent)} chains"
        places = self._places()
        where = f", start where {' and '.join(places)}" if places else ", start in no particular place"
        return (
            f"{line}{where}. The integrator failed there, and the draws cover that region too little: try "
            f"target_acceptance=0.95, another parametrisation (non-centred for a hierarchy), or a stronger prior"
        )

    def _places(self) -> list[str]:
        """The numbers, two at most, that are most unlike the rest where transitions diverged: the chain stood still."""
        is_divergent = self.statistics["diverging"].reshape(-1)
        count = int(is_divergent.sum())
        if not 0 < count < len(is_divergent):
            return []
        flat = self.values.reshape(len(is_divergent), -1)
        found = []
        for name, column in zip(self.names, flat.T, strict=True):
            ranks = np.empty(len(column))
            ranks[np.argsort(column, kind="stable")] = np.arange(len(column))
            area = (ranks[is_divergent].mean() - 0.5 * (count - 1)) / (len(column) - count)
            if abs(area - 0.5) > _STANDS_OUT:
                here, all_draws = np.median(column[is_divergent]), np.median(column)
                size = "small" if area < 0.5 else "large"
                found.append((abs(area - 0.5), f"{name} is {size} (median {here:.3g}; of all draws {all_draws:.3g})"))
        return [words for _, words in sorted(found, reverse=True)[:2]]

    def _energies(self, chains: np.ndarray[Any, Any]) -> list[str]:
        energy = self.statistics["energy"][chains].astype(np.float64)
        if len(chains) == 0 or energy.shape[1] < 10:
            return []
        with np.errstate(all="ignore"):
            mixing = np.square(np.diff(energy, axis=1)).mean(1) / energy.var(1)
        slow = chains[mixing < LEAST_ENERGY_MIXING]
        if len(slow) == 0:
            return []
        return [
            f"{_chains(slow)} mix the energy slowly (Bayesian fraction of missing information "
            f"{np.nanmin(mixing):.2f}, below {LEAST_ENERGY_MIXING}): the tails are heavier than momenta reach: try "
            f"another parametrisation, or many more draws"
        ]

    def _rounding(self) -> list[str]:
        """In float32 a log density of large size has an error that no step size mends."""
        log_density = self.statistics["lp"]
        if log_density.size == 0 or log_density.dtype != np.float32:
            return []
        error = float(np.abs(log_density[np.isfinite(log_density)]).max(initial=0.0)) * float(np.finfo(np.float32).eps)
        if error < 0.05:
            return []
        return [f"float32 knows this log density to {error:.2g} nats only: give initial and the data in float64"]

    def agreement(self, rows: Sequence[Any]) -> list[str]:
        """Return what R-hat and effective sample sizes of a summary's rows say, a line each."""
        found = []
        apart = [row for row in rows if row.r_hat > LARGEST_R_HAT]
        if apart:
            worst = max(apart, key=lambda row: row.r_hat)
            found.append(
                f"The chains do not agree, yet: R-hat is above {LARGEST_R_HAT} for {_of(len(apart), len(rows))}, "
                f"{worst.r_hat:.3f} for {worst.name}: try num_warmup and num_samples larger, or another parametrisation"
            )
        few = [row for row in rows if min(row.ess_bulk, row.ess_tail) < LEAST_ESS]
        if few:
            worst = min(few, key=lambda row: min(row.ess_bulk, row.ess_tail))
            found.append(
                f"Effective sample size is below {LEAST_ESS} for {_of(len(few), len(rows))}, "
                f"{min(worst.ess_bulk, worst.ess_tail):.0f} for {worst.name}: try num_samples larger, or more chains"
            )
        return found


def _of(count: int, total: int) -> str:
    return f"{count} of {total} numbers"


def _chains(chains: np.ndarray[Any, Any]) -> str:
    shown = ", ".join(map(str, chains[:8])) + (", ..." if len(chains) > 8 else "")
    return f"Chain{'s' if len(chains) > 1 else ''} {shown}"
