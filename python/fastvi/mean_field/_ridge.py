"""Least squares with a Gaussian prior: by X'X where that keeps the digits, else by orthogonal transformations.

X'X and X'y of columns far from 0 hold twice as many digits as float64 has; the triangular factor of X itself does not.
It takes several times as long.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_WELL_CONDITIONED = 100.0
"""Ratio of the diagonal numbers of the triangular factor up to which X'X loses some four digits at most."""


@dataclass(frozen=True)
class Ridge:
    """The precision P = X'X + lambda of a Gaussian of weights, and its mean P^-1 X'y.

    Attributes
    ----------
    mean
        (D,).
    inverse_root
        R^-1 with P^-1 = R^-1 R^-T, (D, D), upper triangular.
    log_determinant
        Of P.
    """

    mean: Tensor
    inverse_root: Tensor
    log_determinant: float

    def variances(self, design: Tensor) -> Tensor:
        """Variance of x'w for each row x, x' P^-1 x, (N,), never negative."""
        return (design @ self.inverse_root).square().sum(1)

    @property
    def covariance(self) -> Tensor:
        """P^-1."""
        return self.inverse_root @ self.inverse_root.mT


def solve_ridge(owner: str, design: Tensor, targets: Tensor, precision: float) -> Ridge:
    """Solve for a design (N, D) and targets (N,), with ``precision`` as lambda.

    Raises
    ------
    ValueError
        If the numbers are too large for float64, or columns too nearly dependent for so small a lambda.
    """
    identity = torch.eye(design.shape[1], dtype=torch.float64)
    root, failed = torch.linalg.cholesky_ex(
        (design.mT @ design).addcmul_(identity, identity, value=precision), upper=True
    )
    diagonal = root.diagonal()
    if not failed and float(diagonal.max()) < _WELL_CONDITIONED * float(diagonal.min()):
        inverse_root = torch.linalg.solve_triangular(root, identity, upper=True)
        mean = inverse_root @ (inverse_root.mT @ (design.mT @ targets))
    else:
        basis, root = torch.linalg.qr(torch.cat([design, precision**0.5 * identity]))
        inverse_root = torch.linalg.solve_triangular(root, identity, upper=True)
        mean = inverse_root @ (basis[: len(design)].mT @ targets)
    found = Ridge(mean, inverse_root, 2.0 * float(root.diagonal().abs().log().sum()))
    if not bool(mean.isfinite().all() and inverse_root.isfinite().all()):
        raise ValueError(
            f"{owner}: X and y are too large for float64, or columns of X too nearly dependent for a "
            f"weight_precision of {precision:g}; rescale them"
        )
    return found
