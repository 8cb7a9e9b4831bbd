"""Gaussian distributions as targets, and the flat target that priors make one of."""

from __future__ import annotations

import math
from numbers import Integral

import torch
from torch import Tensor

from fastvi.mcmc.targets.prior import NormalPrior
from fastvi.mcmc.targets.rows import Rows, RowsTarget


class Flat(RowsTarget):
    """The log density 0 of positions of ``dimension`` numbers, to which priors are added.

    Parameters
    ----------
    dimension
        D, or the sizes of named parameters.
    dtype, device
        Of positions: float32 or float64.

    Raises
    ------
    ValueError
        If the dimension is not positive, or a size is negative or not a whole number.

    Examples
    --------
    >>> import torch
    >>> from fastvi.mcmc.targets import HalfStudentTPrior, NormalPrior
    >>> target = Flat({"mean": 3, "log_scale": 1}) + NormalPrior(on="mean") + HalfStudentTPrior(1.0, on="log_scale")
    >>> target(torch.zeros(8, 4))[1][0]
    tensor([0., 0., 0., 0.])
    """

    def __init__(
        self,
        dimension: int | dict[str, int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        sizes = dimension if isinstance(dimension, dict) else {"position": dimension}
        is_whole = all(isinstance(size, Integral) and size >= 0 for size in sizes.values())
        total = sum(sizes.values()) if is_whole else 0
        if total < 1:
            raise ValueError(f"{type(self).__name__}: dimension must be positive, got {dimension!r}")
        empty = torch.zeros(0, total, dtype=dtype, device=device)
        super().__init__(sizes, Rows("normal", empty, empty[:, 0]))


class DiagonalGaussian(RowsTarget):
    """N(mean, diag(scale²)), normalised.

    Parameters
    ----------
    mean, scale
        Means and standard deviations, (D,), float32 or float64: the dtype and device of positions.

    Raises
    ------
    TypeError, ValueError
        If they are no such tensors, a scale is not positive, or the dtype does not hold 1 / scale².

    Examples
    --------
    >>> import torch
    >>> target = DiagonalGaussian(torch.zeros(2), torch.tensor([1.0, 2.0]))
    >>> target(torch.tensor([[0.0, 2.0]]))
    (tensor([-3.0310]), tensor([[ 0.0000, -0.5000]]))
    """

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        _check_mean(type(self).__name__, mean)
        name = type(self).__name__
        if scale.shape != mean.shape:
            raise ValueError(
                f"{name}: scale must have the shape of mean, {tuple(mean.shape)}, got {tuple(scale.shape)}"
            )
        if not bool((scale > 0.0).all()):
            raise ValueError(f"{name}: scale must be positive, got {scale[~(scale > 0.0)][0].item():.4g} among it")
        empty = mean.new_zeros(0, len(mean))
        super().__init__({"position": len(mean)}, Rows("normal", empty, empty[:, 0]), prior=NormalPrior(mean, scale))


class DenseGaussian(RowsTarget):
    """N(mean, covariance), normalised: its Cholesky factor is taken once, in float64.

    Parameters
    ----------
    mean
        (D,), float32 or float64: the dtype and device of positions.
    covariance, precision
        One of the two, (D, D), symmetric and positive definite.

    Raises
    ------
    TypeError, ValueError
        If they are no such tensors.

    Examples
    --------
    >>> import torch
    >>> target = DenseGaussian(torch.zeros(2), covariance=torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    >>> target(torch.tensor([[1.0, 1.0]]))
    (tensor([-2.3607]), tensor([[-0.6667, -0.6667]]))
    """

    def __init__(self, mean: Tensor, covariance: Tensor | None = None, precision: Tensor | None = None) -> None:
        name = type(self).__name__
        _check_mean(name, mean)
        matrix = covariance if precision is None else precision
        if matrix is None or (covariance is not None and precision is not None):
            raise ValueError(f"{name}: needs one of covariance and precision")
        if matrix.shape != (len(mean), len(mean)):
            wanted = (len(mean), len(mean))
            raise ValueError(f"{name}: the matrix must have the shape {wanted}, got {tuple(matrix.shape)}")
        matrix = matrix.detach().to(mean.device, torch.float64)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        asymmetry = float((matrix - matrix.T).abs().max())
        if int(failed) or not asymmetry <= 1e-5 * float(matrix.abs().max()):
            raise ValueError(f"{name}: the matrix must be symmetric and positive definite")
        log_diagonal = float(factor.diagonal().log().sum())
        if precision is None:
            identity = torch.eye(len(mean), dtype=torch.float64, device=mean.device)
            whitening, log_determinant = torch.linalg.solve_triangular(factor, identity, upper=False), -log_diagonal
        else:
            whitening, log_determinant = factor.T, log_diagonal
        rows = Rows("normal", whitening.to(mean.dtype), mean.new_zeros(len(mean)), shift=mean.detach().clone())
        constant = log_determinant - 0.5 * len(mean) * math.log(2.0 * math.pi)
        super().__init__({"position": len(mean)}, rows, constant)


def _check_mean(name: str, mean: Tensor) -> None:
    if not isinstance(mean, Tensor) or mean.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{name}: mean must be a tensor of float32 or float64, got {getattr(mean, 'dtype', type(mean))}"
        )
    if mean.dim() != 1 or len(mean) == 0 or not bool(mean.isfinite().all()):
        raise ValueError(f"{name}: mean must be finite and have the shape (D,), got {tuple(mean.shape)}")
