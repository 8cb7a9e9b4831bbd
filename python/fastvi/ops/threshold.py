"""Soft thresholding, the proximal step of the L1 norm on which ISTA and its relatives are built."""

from __future__ import annotations

from torch import Tensor

from fastvi import reference
from fastvi.ops._patterns import map_operation
from fastvi.ops._values import check_not_negative

_SOFT_THRESHOLD = map_operation("soft_threshold", reference.soft_threshold)


def soft_threshold(x: Tensor, threshold: Tensor | float) -> Tensor:
    r"""Shrink towards zero: :math:`\operatorname{sign}(x) \max(|x| - t, 0)` for each element.

    Parameters
    ----------
    x
        Shape (..., D).
    threshold
        t, which is not negative: a number, or a tensor that broadcasts, (D,) for one a column, (B, 1) for one a row.
        A tensor's values are not looked at. Where t is negative, the result is :math:`x - t \operatorname{sign}(x)`,
        which is farther from zero than x, or zero where x is zero (NaN there for :math:`t = -\infty`). Where t is NaN,
        so is the result. For both, the derivatives are 1 by x and :math:`-\operatorname{sign}(x)` by t.

    Returns
    -------
    Tensor
        The broadcast shape. Where |x| is at most t, it is zero and so are the derivatives.

    Raises
    ------
    TypeError
        If an argument has the wrong type or dtype.
    ValueError
        If shapes do not broadcast or devices differ, or the threshold is a negative number or NaN.

    References
    ----------
    Daubechies, Defrise, De Mol: An iterative thresholding algorithm for linear inverse problems with a sparsity
    constraint. Communications on Pure and Applied Mathematics 57, 2004.

    Examples
    --------
    >>> import torch, fastvi
    >>> fastvi.soft_threshold(torch.tensor([-3.0, 0.5, 2.0]), 1.0)
    tensor([-2.,  0.,  1.])
    """
    check_not_negative("soft_threshold", "threshold", threshold)
    result: Tensor = _SOFT_THRESHOLD(x, threshold)
    return result
