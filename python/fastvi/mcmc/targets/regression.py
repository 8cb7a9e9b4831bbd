"""The likelihoods of linear, logistic and Poisson regression, to which priors are added."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastvi.mcmc.targets.data import Data
from fastvi.mcmc.targets.rows import Rows, RowsTarget


class LogisticRegression(RowsTarget):
    r"""The log-likelihood of logistic regression, :math:`\sum_n w_n (y_n \eta_n - \log(1 + e^{\eta_n}))`.

    The linear predictor is :math:`\eta_n = x_n^\top \beta + b + o_n`. The position holds ``coefficients``, then, if
    there is one, the ``intercept``.

    Parameters
    ----------
    x
        Rows (N, P), float32 or float64: the dtype and device of positions.
    y
        Outcomes in [0, 1], (N,): 0 and 1, booleans, or proportions.
    intercept
        Whether there is a b.
    sample_weight
        Weights of rows, (N,), not negative: 2 is a row that is there twice, 0 one that is not there.
    offset
        What is added to the linear predictors, (N,).

    Raises
    ------
    TypeError, ValueError
        If an argument has another shape, dtype or device, or a number that it cannot have.

    Examples
    --------
    >>> import torch
    >>> from fastvi.mcmc.targets import NormalPrior
    >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([1.0, 0.0, 1.0])
    >>> target = LogisticRegression(x, y, intercept=True) + NormalPrior(0.0, 2.5, on="coefficients")
    >>> log_density, gradient = target(torch.zeros(64, 3))
    >>> log_density.shape, gradient[0]
    (torch.Size([64]), tensor([1.0000, 0.0000, 0.5000]))
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        *,
        intercept: bool = False,
        sample_weight: Tensor | None = None,
        offset: Tensor | None = None,
    ) -> None:
        data = Data(type(self).__name__, x, y, intercept, sample_weight, offset)
        data.check_outcomes(0.0, 1.0)
        rows = Rows("logistic", data.x, data.y, data.weight, data.offset)
        super().__init__(data.sizes, rows)


class PoissonRegression(RowsTarget):
    r"""The log-likelihood of Poisson regression, :math:`\sum_n w_n (y_n \eta_n - e^{\eta_n} - \log y_n!)`.

    The arguments are those of :class:`LogisticRegression`, with counts ``y`` from 0 on; the logarithm of an exposure
    is an ``offset``.

    Raises
    ------
    TypeError, ValueError
        See :class:`LogisticRegression`.

    Examples
    --------
    >>> import torch
    >>> target = PoissonRegression(torch.ones(2, 1), torch.tensor([0.0, 2.0]))
    >>> target(torch.zeros(1, 1))  # -1 and -1 - log 2
    (tensor([-2.6931]), tensor([[0.]]))
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        *,
        intercept: bool = False,
        sample_weight: Tensor | None = None,
        offset: Tensor | None = None,
    ) -> None:
        data = Data(type(self).__name__, x, y, intercept, sample_weight, offset)
        data.check_outcomes(0.0, math.inf)
        data.check_whole()
        factorials = torch.lgamma(data.y.double() + 1.0)
        if data.weight is not None:
            factorials = data.weight.double() * factorials
        rows = Rows("poisson", data.x, data.y, data.weight, data.offset)
        super().__init__(data.sizes, rows, -float(factorials.sum()))


class LinearRegression(RowsTarget):
    r"""The log-likelihood of linear regression, :math:`\sum_n w_n \log N(y_n | x_n^\top \beta + b + o_n, \sigma^2)`.

    All rows are replaced by the P rows that QR decomposition leaves of them, in float64, so that what a step costs does
    not depend on N. The position holds ``coefficients``, then, if there is one, the ``intercept``, and last, unless
    the scale is given, ``log_scale``, the logarithm of sigma.

    Parameters
    ----------
    x, y, intercept, sample_weight, offset
        As in :class:`LogisticRegression`; outcomes are any numbers.
    scale
        The noise's standard deviation sigma; None if it is sampled.

    Raises
    ------
    TypeError, ValueError
        See :class:`LogisticRegression`.

    Examples
    --------
    >>> import torch
    >>> from fastvi.mcmc.targets import HalfNormalPrior, NormalPrior
    >>> x = torch.linspace(-1.0, 1.0, 100)[:, None]
    >>> target = LinearRegression(x, 2.0 * x[:, 0] + 1.0, intercept=True)
    >>> target.parameters
    {'coefficients': slice(0, 1, None), 'intercept': slice(1, 2, None), 'log_scale': slice(2, 3, None)}
    >>> target = target + NormalPrior(0.0, 5.0, on=[0, 1]) + HalfNormalPrior(1.0, on="log_scale")
    >>> target(torch.zeros(64, 3))[0].shape
    torch.Size([64])
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        *,
        scale: float | None = None,
        intercept: bool = False,
        sample_weight: Tensor | None = None,
        offset: Tensor | None = None,
    ) -> None:
        name = type(self).__name__
        data = Data(name, x, y, intercept, sample_weight, offset)
        data.check_outcomes(-math.inf, math.inf)
        if scale is not None and not 0.0 < scale < math.inf:
            raise ValueError(f"{name}: scale must be a positive number, or None if it is sampled, got {scale}")
        design, outcome = data.x.double(), data.y.double()
        if data.offset is not None:
            outcome = outcome - data.offset.double()
        count = float(len(outcome))
        if data.weight is not None:
            weight = data.weight.double()
            count, root = float(weight.sum()), weight.sqrt()
            design, outcome = root[:, None] * design, root * outcome
        # About the least-squares solution, numbers are small, and float32 keeps their digits.
        solution = torch.linalg.lstsq(design.cpu(), outcome.cpu()[:, None], driver="gelsd").solution[:, 0].to(x.device)
        shift = solution.to(x.dtype)
        outcome = outcome - design @ shift.double()
        orthogonal, design = torch.linalg.qr(design)
        projected = orthogonal.T @ outcome
        square = float((outcome - orthogonal @ projected).square().sum())
        constant = -0.5 * count * math.log(2.0 * math.pi)
        sizes = data.sizes
        if scale is None:
            sizes["log_scale"] = 1
        else:
            constant -= count * math.log(scale) + 0.5 * square / scale**2
            design, projected = design / scale, projected / scale
        rows = Rows(
            "normal",
            design.to(x.dtype),
            projected.to(x.dtype),
            shift=shift,
            log_scale=scale is None,
            count=count,
            square=square,
        )
        super().__init__(sizes, rows, constant)
