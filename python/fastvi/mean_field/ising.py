"""Naive mean field of the Ising model: the best bound on log Z by independent spins.

Wainwright and Jordan 2008, "Graphical models, exponential families, and variational inference", section 5.3.
"""

from __future__ import annotations

from typing import Any

import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from torch import Tensor

from fastvi._estimators import check_integers
from fastvi.mean_field._data import check_tolerance, read_tensor, warn_not_converged

_NAME = "IsingMeanField"


class IsingMeanField(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Independent spins in the place of p(x) = exp(sum_i a_i x_i + sum_{i<j} J_ij x_i x_j) / Z, x_i = -1 or 1.

    Coordinate ascent: E[x_i] becomes tanh(a_i + sum_j J_ij E[x_j]), one spin after another. The bound has several
    maxima where couplings are strong, so that the best of several random starts is kept.

    Parameters
    ----------
    n_init
        Number of starts. They run at once.
    tol, max_iter
        Ascent ends when no mean moves by more than ``tol`` in a sweep, or after ``max_iter`` sweeps.
    random_state
        As in scikit-learn.

    Attributes
    ----------
    means_
        E[x_i] of the best start, (n,).
    lower_bound_, bounds_
        The bound on log Z in nats, at the end and after the update of each spin.
    lower_bounds_
        At the end of each start, (n_init,).
    converged_, n_iter_
        Whether all starts did, and the sweeps they took.

    Raises
    ------
    ValueError
        If an option is out of its range, or fields and couplings have other shapes or values that are not finite.

    Notes
    -----
    Source: Wainwright and Jordan 2008, "Graphical models, exponential families, and variational inference", equations
    5.17 and 5.18.

    Examples
    --------
    >>> from fastvi.expfam import Ising
    >>> fields, couplings = torch.full((3,), 0.2), torch.full((3, 3), 0.5)
    >>> found = IsingMeanField(random_state=0).fit(fields, couplings)
    >>> family = Ising(3)
    >>> log_z = family.log_partition(family.natural_from_couplings(fields, couplings))
    >>> round(found.lower_bound_, 4), round(log_z.item(), 4)
    (2.4247, 2.6629)
    """

    def __init__(
        self, n_init: int = 10, *, tol: float = 1e-12, max_iter: int = 10_000, random_state: Any = None
    ) -> None:
        self.n_init = n_init
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, fields: Any, couplings: Any) -> IsingMeanField:
        """Fit to fields, (n,), and couplings (n, n), whose upper part is read, as :class:`fastvi.expfam.Ising` does."""
        check_integers(_NAME, n_init=self.n_init, max_iter=self.max_iter)
        check_tolerance(_NAME, self.tol)
        own = read_tensor(_NAME, "fields", fields, (None,))
        upper = read_tensor(_NAME, "couplings", couplings, (len(own), len(own))).triu(1)
        pairs = upper + upper.mT
        random = check_random_state(self.random_state)
        means = torch.from_numpy(random.uniform(-1.0, 1.0, size=(self.n_init, len(own))))
        local = means @ pairs
        bound = means @ own + 0.5 * (means * local).sum(1) + _entropy(means).sum(1)
        bounds: list[Tensor] = []
        self.converged_ = False
        for sweep in range(1, self.max_iter + 1):
            self.n_iter_ = sweep
            moved = torch.zeros(self.n_init, dtype=torch.float64)
            for i in range(len(own)):
                field, before = own[i] + local[:, i], means[:, i].clone()
                means[:, i] = torch.tanh(field)
                step = means[:, i] - before
                local += step[:, None] * pairs[i]
                bound = bound + field * step + _entropy(means[:, i]) - _entropy(before)
                bounds.append(bound)
                moved = torch.maximum(moved, step.abs())
            if float(moved.max()) <= self.tol:
                self.converged_ = True
                break
        if not self.converged_:
            warn_not_converged(_NAME, self.max_iter)
        best = int(bound.argmax())
        self.means_ = means[best].numpy()
        self.bounds_ = torch.stack(bounds)[:, best].numpy()
        self.lower_bounds_ = bound.numpy()
        self.lower_bound_ = float(bound[best])
        return self


def _entropy(means: Tensor) -> Tensor:
    up = 0.5 * (1.0 + means)
    result: Tensor = torch.special.entr(up) + torch.special.entr(1.0 - up)
    return result
