"""Gaussian components: their parameters, log densities and M step, for four kinds of covariance.

Precisions are kept as upper triangular matrices U with U U' = covariance^-1, so that ||U'(x - mean)||^2 is the
Mahalanobis distance. Matrices are taken one by one: a single one is too small for PyTorch to wake other threads, whose
wake-ups would cost more than the work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastvi.em._data import Rows
from fastvi.em._step import Densities, Moments, Statistics, check_sums, run_pass, shift_for

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")

EMPTY = 10.0 * torch.finfo(torch.float64).eps
"""A component with a smaller sum of responsibilities keeps the parameters that it has."""


@dataclass(frozen=True)
class GaussianComponents:
    """K Gaussians in D dimensions, in float64 on the CPU.

    Attributes
    ----------
    covariance_type
        One of `COVARIANCE_TYPES`.
    reg_covar
        What the M step adds to variances.
    means
        (K, D).
    covariances, precisions_cholesky
        (K, D, D), (D, D), (K, D) or (K,): full, tied, diag or spherical.
    scatter
        For tied ones, the second moments of all rows, which no iteration changes: a count of rows, sums, and products.
    owner
        The estimator, which messages begin with.
    """

    covariance_type: str
    reg_covar: float
    means: Tensor
    covariances: Tensor
    precisions_cholesky: Tensor
    scatter: Statistics | None = None
    owner: str = "GaussianMixture"

    @property
    def moments(self) -> Moments:
        """Which sums the M step needs."""
        return {"full": "products", "tied": "first"}.get(self.covariance_type, "squares")  # type: ignore[return-value]  # mypy widens the literals

    def features(self, x: Tensor) -> Tensor:
        """What the pass reads of rows: themselves."""
        return x

    def log_base_measure(self, x: Tensor) -> None:
        """There is none."""

    def num_parameters(self) -> int:
        """Free parameters of means and covariances."""
        components, columns = self.means.shape
        square = columns * (columns + 1) // 2
        of_covariances = {"full": components * square, "tied": square, "diag": components * columns}
        return components * columns + of_covariances.get(self.covariance_type, components)

    def densities(self, x: Tensor, origin: Tensor) -> Densities:
        """Log densities for rows of the dtype of ``x``, about a shift near ``origin``."""
        shift = shift_for(x, origin)
        means, upper = self.means - shift, self.precisions_cholesky
        components, columns = means.shape
        if self.covariance_type == "full":
            log_det = upper.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            location, scale, kind = torch.stack([means[k] @ upper[k] for k in range(components)]), upper, "full"
        elif self.covariance_type == "tied":
            log_det = upper.diagonal().log().sum().expand(components)
            location, scale, kind = means @ upper, upper, "tied"
        else:
            scale = upper.reshape(components, -1).expand(components, columns)
            log_det = scale.log().sum(-1)
            location, kind = means * scale, "diagonal"
        offset = log_det - 0.5 * columns * math.log(2.0 * math.pi)
        return Densities(kind, offset, location, scale, shift)  # type: ignore[arg-type]  # one of the literals

    def updated(self, statistics: Statistics) -> GaussianComponents:
        """The M step: the parameters that maximise the expected log density, variances plus ``reg_covar``.

        Raises
        ------
        ValueError
            If a covariance is not positive definite.
        """
        count = statistics.count[:, None]
        empty = count < EMPTY
        first = statistics.first / count.clamp_min(EMPTY)
        means = torch.where(empty, self.means, statistics.shift + first)
        if self.covariance_type == "tied":
            assert self.scatter is not None
            about = self.scatter.shifted(statistics.shift)
            assert about.second is not None
            covariances = (about.second[0] - (statistics.first.T @ first)) / about.count[0]
            covariances.diagonal().add_(self.reg_covar)
        elif self.covariance_type == "full":
            assert statistics.second is not None
            covariances = self.covariances.clone()
            for k in range(len(count)):
                if not bool(empty[k]):
                    torch.sub(statistics.second[k] / count[k], torch.outer(first[k], first[k]), out=covariances[k])
                    covariances[k].diagonal().add_(self.reg_covar)
        else:
            assert statistics.second is not None
            variances = statistics.second / count.clamp_min(EMPTY) - first.square()
            if self.covariance_type == "spherical":
                variances, empty = variances.mean(-1), empty[:, 0]
            # What is left of a variance of 0 is the rounding of a difference, of either sign.
            covariances = torch.where(empty, self.covariances, variances.clamp_min(0.0) + self.reg_covar)
        upper = precisions_cholesky(covariances, self.covariance_type, self.owner)
        return replace(self, means=means, covariances=covariances, precisions_cholesky=upper)

    def expected_log_density(self, statistics: Statistics) -> float:
        """The sum over rows and components of responsibility times log density."""
        means = self.means - statistics.shift
        components, columns = means.shape
        count, first, upper = statistics.count, statistics.first, self.precisions_cholesky
        if self.covariance_type == "tied":
            assert self.scatter is not None
            about = self.scatter.shifted(statistics.shift)
            assert about.second is not None
            outer = first.T @ means
            products = about.second[0] - outer - outer.T + (count[:, None] * means).T @ means
            quadratic = (upper * (products @ upper)).sum()
            log_det = upper.diagonal().log().sum().expand(components)
        elif self.covariance_type == "full":
            assert statistics.second is not None
            quadratic = torch.zeros((), dtype=torch.float64)
            for k in range(components):
                outer = torch.outer(first[k], means[k])
                products = statistics.second[k] - outer - outer.T + count[k] * torch.outer(means[k], means[k])
                quadratic += (upper[k] * (products @ upper[k])).sum()
            log_det = upper.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        else:
            assert statistics.second is not None
            scale = upper.reshape(components, -1).expand(components, columns)
            squares = statistics.second - 2.0 * means * first + count[:, None] * means.square()
            quadratic = (scale.square() * squares).sum()
            log_det = scale.log().sum(-1)
        constant = 0.5 * columns * math.log(2.0 * math.pi)
        return float((count * (log_det - constant)).sum() - 0.5 * quadratic)

    def sample(self, component: int, count: int, generator: torch.Generator) -> Tensor:
        """Draws of one component, (count, D)."""
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        upper = self.precisions_cholesky
        if self.covariance_type in ("full", "tied"):
            of_component = upper if self.covariance_type == "tied" else upper[component]
            # covariance = U'^-1 U^-1, so that U'^-1 noise has it.
            scaled: Tensor = torch.linalg.solve_triangular(of_component.T, noise.T, upper=False)
            return self.means[component] + scaled.T
        return self.means[component] + noise / upper[component]


def precisions_cholesky(covariances: Tensor, covariance_type: str, owner: str = "GaussianMixture") -> Tensor:
    """The upper triangular roots U of precisions, or square roots of diagonal ones.

    Raises
    ------
    ValueError
        If a covariance is not positive definite.
    """
    message = (
        f"{owner}: a covariance is not positive definite: a component has too few different rows, or a column "
        "is constant; expected fewer components, a larger reg_covar, or data of a usual scale"
    )
    if covariance_type in ("diag", "spherical"):
        if not bool((covariances > 0).all()):
            raise ValueError(message)
        return covariances.rsqrt()
    identity = torch.eye(covariances.shape[-1], dtype=covariances.dtype)
    roots = torch.empty_like(covariances)
    matrices, targets = (covariances, roots) if covariances.dim() == 3 else (covariances[None], roots[None])
    for matrix, target in zip(matrices, targets, strict=True):
        lower, failed = torch.linalg.cholesky_ex(matrix)
        if bool(failed):
            raise ValueError(message)
        target.copy_(torch.linalg.solve_triangular(lower, identity, upper=False).T)
    return roots


def from_precisions(precisions: Tensor, covariance_type: str) -> tuple[Tensor, Tensor]:
    """Covariances and the roots of given precisions, which :func:`precisions_cholesky` makes of the former.

    Raises
    ------
    ValueError
        If a precision is not symmetric and positive definite.
    """
    message = f"GaussianMixture: precisions_init must be positive definite, covariance_type {covariance_type!r}"
    if covariance_type in ("diag", "spherical"):
        if not bool((precisions > 0).all()):
            raise ValueError(message)
        return precisions.reciprocal(), precisions.sqrt()
    if not torch.allclose(precisions, precisions.mT):
        raise ValueError(message)
    reversed_lower, failed = torch.linalg.cholesky_ex(precisions.flip(-1, -2))
    if bool(failed.any()):
        raise ValueError(message)
    upper = reversed_lower.flip(-1, -2).contiguous()  # the flip of a lower triangular matrix is an upper one
    return torch.cholesky_inverse(torch.linalg.cholesky(precisions)), upper


def blank_gaussians(
    owner: str, covariance_type: str, reg_covar: float, mean: Tensor, count: int, scatter: Statistics | None
) -> GaussianComponents:
    """Components that all have one mean and the variance 1."""
    columns = len(mean)
    matrix = torch.eye(columns, dtype=torch.float64)
    covariances = {
        "full": matrix.expand(count, columns, columns),
        "tied": matrix,
        "diag": torch.ones(count, columns, dtype=torch.float64),
    }.get(covariance_type, torch.ones(count, dtype=torch.float64))
    means = mean.expand(count, columns).clone()
    return GaussianComponents(
        covariance_type, reg_covar, means, covariances.clone(), covariances.clone(), scatter, owner
    )


def scatter_of(rows: Rows, origin: Tensor) -> Statistics:
    """Count, sums and products of all rows, as of one component."""
    shift = shift_for(rows.x, origin)
    none = torch.zeros(1, rows.x.shape[1], dtype=torch.float64)
    blank = Densities("linear", torch.zeros(1, dtype=torch.float64), none, None, shift)
    given = rows.x.new_ones(len(rows.x), 1)
    found = run_pass(rows.x, blank, weights=rows.weights, moments="products", given=given).statistics
    check_sums(rows.owner, found, rows.x.dtype)
    return found
