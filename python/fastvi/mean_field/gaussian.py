"""Mean field of a correlated Gaussian (Bishop 2006, "Pattern Recognition and Machine Learning", section 10.1.2)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastvi._estimators import check_integers
from fastvi.mean_field._data import check_tolerance, read_tensor


class FactorisedGaussian(NamedTuple):
    """What :func:`factorised_gaussian` found.

    Attributes
    ----------
    mean, variance
        Of the factors, (D,), float64.
    bounds
        The bound on the log normaliser, 0, after every update of one factor: minus the divergence KL(q || p), in nats.
    """

    mean: Tensor
    variance: Tensor
    bounds: Tensor


def factorised_gaussian(
    precision: Any, mean: Any, *, start: Any = None, tol: float = 1e-12, max_iter: int = 10_000
) -> FactorisedGaussian:
    """Approximate N(mean, precision^-1) by independent Gaussians, by coordinate ascent.

    The factor of x_i has the variance 1 / precision_ii, that of x_i where all others are known, which is never more
    than its variance in the Gaussian; the means become exact. What is lost, KL(q || p), ends as
    (sum_i log precision_ii - log det precision) / 2.

    Parameters
    ----------
    precision
        Inverse covariance, (D, D), symmetric and positive definite.
    mean
        (D,).
    start
        The first means of the factors, (D,); zeros if None. Their variances begin as 1.
    tol
        Ascent ends when no mean moves by more than this many of its factor's standard deviations in a sweep.
    max_iter
        Number of sweeps at most.

    Raises
    ------
    ValueError
        If a shape is another one, a value is not finite, the matrix is not positive definite, or ``max_iter`` sweeps
        did not reach ``tol``.

    Notes
    -----
    Source: Bishop 2006, equations 10.12 to 10.15.

    Examples
    --------
    >>> found = factorised_gaussian([[2.0, 1.0], [1.0, 2.0]], [1.0, -1.0])
    >>> found.mean, found.variance  # the Gaussian's variances are 2/3
    (tensor([ 1.0000, -1.0000], dtype=torch.float64), tensor([0.5000, 0.5000], dtype=torch.float64))
    >>> found.bounds[-1]  # -log(4 / 3) / 2
    tensor(-0.1438, dtype=torch.float64)
    """
    owner = "factorised_gaussian"
    target = read_tensor(owner, "mean", mean, (None,))
    size = len(target)
    precision = read_tensor(owner, "precision", precision, (size, size))
    place = torch.zeros_like(target) if start is None else read_tensor(owner, "start", start, (size,))
    check_tolerance(owner, tol)
    check_integers(owner, max_iter=max_iter)
    root, failed = torch.linalg.cholesky_ex(precision)
    if int(failed) or not torch.allclose(precision, precision.mT):
        raise ValueError(f"{owner}: precision must be symmetric and positive definite")
    diagonal = precision.diagonal()
    log_determinant = 2.0 * root.diagonal().log().sum()
    off = place - target
    # -KL = -(tr(precision S) + off' precision off - D - log det precision - log det S) / 2, here with S = 1.
    bound = -0.5 * float(diagonal.sum() + off @ precision @ off - size - log_determinant)
    bounds: list[float] = []
    for sweep in range(max_iter):
        largest = 0.0
        for i in range(size):
            step = -float(precision[i] @ off) / float(diagonal[i])
            off[i] += step
            # A quadratic's maximum along one coordinate is above where it was by half the curvature times step^2.
            bound += 0.5 * float(diagonal[i]) * step**2
            if sweep == 0:
                bound += 0.5 * (float(diagonal[i]) - 1.0 - math.log(float(diagonal[i])))
            bounds.append(bound)
            largest = max(largest, abs(step) * math.sqrt(float(diagonal[i])))
        if largest <= tol:
            return FactorisedGaussian(target + off, 1.0 / diagonal, torch.tensor(bounds, dtype=torch.float64))
    raise ValueError(f"{owner}: means still move by {largest:.3g} standard deviations after {max_iter} sweeps")
