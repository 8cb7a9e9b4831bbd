"""What is wrong with draws of Markov chains, and what to try: divergences, chains that stand still, slow mixing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from fastvi.mcmc.divergences import explain_divergences, explain_stillness

LARGEST_R_HAT = 1.01
"""Vehtari et al. 2021, section 4.2, for a few long chains; see `largest_r_hat`."""
LEAST_ESS = 400
"""Vehtari et al. 2021, section 4.3: below that quantiles and diagnostics are not to be trusted."""
LEAST_ENERGY_MIXING = 0.3
"""Betancourt 2016 (arXiv 1604.00695): the energy's Bayesian fraction of missing information."""


def largest_r_hat(effective_draws: float, num_chains: int) -> float:
    """Return up to where R-hat is noise, for chains that agree: 1.01 for a few long ones, more for many short ones.

    Where each half of a chain has n effective draws, the variance of their means is 1/n of the chains', and with it
    R-hat about 1 + 1/(2n): three standard deviations of that are allowed, and never more than 1.1.

    Examples
    --------
    >>> largest_r_hat(4000.0, 4), round(largest_r_hat(4000.0, 128), 3)
    (1.01, 1.041)
    """
    halves = 2 * num_chains
    noise = halves / (2.0 * max(effective_draws, 1.0))
    return min(max(LARGEST_R_HAT, 1.0 + noise * (1.0 + 3.0 * math.sqrt(2.0 / (halves - 1)))), 1.1)


class SamplerWarning(UserWarning):
    """Draws are not to be trusted as they are; the message says why, and what to try."""


class Diagnosis(NamedTuple):
    """Names (P) and draws (C, S, P) of all numbers, and the sampler's statistics (C, S)."""

    names: list[str]
    values: np.ndarray[Any, Any]
    statistics: dict[str, np.ndarray[Any, Any]]

    def lines(self, num_divergent: int, thin: int) -> list[str]:
        """Return what the sampler's own statistics say, a line each.

        ``num_divergent`` counts all divergent transitions, those between kept draws included.
        """
        is_divergent = torch.from_numpy(self.statistics["diverging"].T)
        positions = torch.from_numpy(self.values).transpose(0, 1)
        found = [explain_divergences(is_divergent, positions, self.names).replace("\n", " ")]
        if found[0] and thin > 1:
            found.append(f"With the transitions between the kept draws {num_divergent} diverged.")
        is_moving = torch.ones(len(self.values), dtype=torch.bool)
        if self.values.shape[1] > 1:
            changes = (positions[1:] != positions[:-1]).any(-1)
            is_moving = changes.any(0)
            still = explain_stillness(changes)
            found.append(still[:1].upper() + still[1:])
        found += self._energies(np.flatnonzero(is_moving.numpy()))
        found += self._rounding()
        return [line for line in found if line]

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
            f"{_chains(slow)} mix{'' if len(slow) > 1 else 'es'} the energy slowly (Bayesian fraction of missing "
            f"information {np.nanmin(mixing):.2f}, below {LEAST_ENERGY_MIXING}): the tails are heavier than momenta "
            "reach: try another parametrisation, or many more draws"
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
        num_chains = len(self.values)
        if num_chains == 1:
            found.append(
                "R-hat compares chains, and there is one: whether it has seen the whole density is not known: try "
                "num_chains=4 or more, from starts that differ"
            )
        apart = [row for row in rows if row.r_hat > largest_r_hat(row.ess_bulk, num_chains)]
        if apart:
            worst = max(apart, key=lambda row: row.r_hat)
            allowed = min(largest_r_hat(row.ess_bulk, num_chains) for row in apart)
            found.append(
                f"The chains do not agree, yet: R-hat is above {allowed:.4g} for {_of(len(apart), len(rows))}, "
                f"{worst.r_hat:.4g} for {worst.name}: try num_warmup and num_samples larger, or another "
                "parametrisation; where chains stay in modes of their own, starts nearer the bulk, 16 chains and more, "
                "or per_chain_step_size=True, so that one chain does not slow the others"
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
