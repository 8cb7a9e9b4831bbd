"""Least squares with a Gaussian prior, by orthogonal transformations.

X'X and X'y of columns far from 0 hold twice as many digits as float64 has; the triangular factor of X itself does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
    size = design.shape[1]
    prior = precision**0.5 * torch.eye(size, dtype=torch.float64)
    basis, root = torch.linalg.qr(torch.cat([design, prior]))
    inverse_root = torch.linalg.solve_triangular(root, torch.eye(size, dtype=torch.float64), upper=True)
    mean = inverse_root @ (basis[: len(design)].mT @ targets)
    found = Ridge(mean, inverse_root, 2.0 * float(root.diagonal().abs().log().sum()))
    if not bool(mean.isfinite().all() and inverse_root.isfinite().all()):
        raise ValueError(
            f"{owner}: X and y are too large for float64, or columns of X too nearly dependent for a "
            f"weight_precision of {precision:g}; rescale them"
        )
    return found
