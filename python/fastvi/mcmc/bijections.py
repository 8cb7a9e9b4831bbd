"""Maps of R^n onto the supports of parameters, by which a sampler that knows no bounds draws parameters that have some.

The formulas are those of Stan (Reference Manual, "Constraint transforms"); the simplex is that of isometric log ratios
(Egozcue et al. 2003), which treats all its parts alike.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from fastvi._sizes import check_number


class Bijection(ABC):
    """A smooth map of unconstrained values onto a support, one to one, for any number of values at once.

    Its last ``event_dim`` dimensions are mapped together, all others apart: 0 of a map of numbers, 1 of one of vectors.
    """

    event_dim: ClassVar[int] = 0
    support: ClassVar[str]
    """The support in words: "positive"."""

    @abstractmethod
    def forward(self, unconstrained: Tensor) -> Tensor:
        """Return the values in the support."""

    @abstractmethod
    def inverse(self, value: Tensor) -> Tensor:
        """Return what :meth:`forward` maps to values inside the support."""

    @abstractmethod
    def log_det_jacobian(self, unconstrained: Tensor) -> Tensor:
        """Return the logarithm of |det d forward / d unconstrained|, without the last ``event_dim`` dimensions."""

    @abstractmethod
    def contains(self, value: Tensor) -> Tensor:
        """Return whether each value lies inside the support, without the last ``event_dim`` dimensions."""

    def unconstrained_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of what is mapped to values of a shape.

        Raises
        ------
        ValueError
            If the support has no values of this shape.
        """
        if len(shape) < self.event_dim:
            raise ValueError(f"{type(self).__name__} is for vectors, got a value of shape {shape}")
        return shape


@dataclass(frozen=True)
class Identity(Bijection):
    """Values without bounds.

    Examples
    --------
    >>> import torch
    >>> Identity().forward(torch.tensor([-2.0]))
    tensor([-2.])
    """

    support = "finite"

    def forward(self, unconstrained: Tensor) -> Tensor:
        """Return the values themselves."""
        return unconstrained

    def inverse(self, value: Tensor) -> Tensor:
        """Return the values themselves."""
        return value

    def log_det_jacobian(self, unconstrained: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(unconstrained)

    def contains(self, value: Tensor) -> Tensor:
        """Return whether each value is finite."""
        return value.isfinite()


@dataclass(frozen=True)
class LowerBounded(Bijection):
    r"""Values above a bound: :math:`x = a + e^u`, :math:`\log |dx/du| = u`.

    Parameters
    ----------
    bound
        a, a number, or a tensor that broadcasts with the values.

    Examples
    --------
    >>> import torch
    >>> LowerBounded(1.0).forward(torch.tensor([0.0]))
    tensor([2.])
    """

    bound: float | Tensor

    def __post_init__(self) -> None:
        _check_bound(self, "bound", self.bound)

    @property
    def support(self) -> str:  # type: ignore[override]  # it names the bound
        """The support in words."""
        return f"above {_shown(self.bound)}"

    def forward(self, unconstrained: Tensor) -> Tensor:
        """Return the values above the bound."""
        return unconstrained.exp() + self.bound

    def inverse(self, value: Tensor) -> Tensor:
        """Return the logarithms of the distances from the bound."""
        return (value - self.bound).log()

    def log_det_jacobian(self, unconstrained: Tensor) -> Tensor:
        """Return the unconstrained values."""
        return unconstrained

    def contains(self, value: Tensor) -> Tensor:
        """Return whether each value is finite and above the bound."""
        return value.isfinite() & (value > self.bound)


@dataclass(frozen=True)
class UpperBounded(Bijection):
    r"""Values below a bound: :math:`x = b - e^u`, :math:`\log |dx/du| = u`.

    Parameters
    ----------
    bound
        b, a number, or a tensor that broadcasts with the values.

    Examples
    --------
    >>> import torch
    >>> UpperBounded(1.0).forward(torch.tensor([0.0]))
    tensor([0.])
    """

    bound: float | Tensor

    def __post_init__(self) -> None:
        _check_bound(self, "bound", self.bound)

    @property
    def support(self) -> str:  # type: ignore[override]  # it names the bound
        """The support in words."""
        return f"below {_shown(self.bound)}"

    def forward(self, unconstrained: Tensor) -> Tensor:
        """Return the values below the bound."""
        return self.bound - unconstrained.exp()

    def inverse(self, value: Tensor) -> Tensor:
        """Return the logarithms of the distances from the bound."""
        return (self.bound - value).log()

    def log_det_jacobian(self, unconstrained: Tensor) -> Tensor:
        """Return the unconstrained values."""
        return unconstrained

    def contains(self, value: Tensor) -> Tensor:
        """Return whether each value is finite and below the bound."""
        return value.isfinite() & (value < self.bound)


@dataclass(frozen=True)
class Positive(Bijection):
    r"""Positive values: :math:`x = e^u`, :math:`\log |dx/du| = u`.

    Examples
    --------
    >>> import torch
    >>> Positive().forward(torch.tensor([0.0])), Positive().inverse(torch.tensor([1.0]))
    (tensor([1.]), tensor([0.]))
    """

    support = "positive"

    def forward(self, unconstrained: Tensor) -> Tensor:
        """Return the exponentials."""
        return unconstrained.exp()

    def inverse(self, value: Tensor) -> Tensor:
        """Return the logarithms."""
        return value.log()

    def log_det_jacobian(self, unconstrained: Tensor) -> Tensor:
        """Return the unconstrained values."""
        return unconstrained

    def contains(self, value: Tensor) -> Tensor:
        """Return whether each value is finite and positive."""
        return value.isfinite() & (value > 0)


@dataclass(frozen=True)
class Interval(Bijection):
    r"""Values between two bounds: :math:`x = a + (b - a) \sigma(u)`; a uniform x has a logistic u.

    .. math:: \log |dx/du| = \log(b - a) + \log \sigma(u) + \log \sigma(-u)

    Parameters
    ----------
    lower, upper
        a and b, numbers, or tensors that broadcast with the values.

    Examples
    --------
    >>> import torch
    >>> Interval(-1.0, 1.0).forward(torch.tensor([0.0]))
    tensor([0.])
    """

    lower: float | Tensor = 0.0
    upper: float | Tensor = 1.0

    def __post_init__(self) -> None:
        _check_bound(self, "lower", self.lower)
        _check_bound(self, "upper", self.upper)
        if not bool((torch.as_tensor(self.lower) < torch.as_tensor(self.upper)).all()):
            raise ValueError(f"Interval: lower must be below upper, got {_shown(self.lower)} and {_shown(self.upper)}")

    @property
    def support(self) -> str:  # type: ignore[override]  # it names the bounds
        """The support in words."""
        return f"between {_shown(self.lower)} and {_shown(self.upper)}"

    def forward(self, unconstrained: Tensor) -> Tensor:
        """Return the values between the bounds."""
        return self.lower + (self.upper - self.lower) * unconstrained.sigmoid()

    def inverse(self, value: Tensor) -> Tensor:
        """Return the logits of the values' places between the bounds."""
        return (value - self.lower).log() - (self.upper - value).log()

    def log_det_jacobian(self, unconstrained: Tensor) -> Tensor:
        """Return the logarithms of the slopes."""
        width = self.upper - self.lower
        log_width = width.log() if isinstance(width, Tensor) else math.log(width)
        return functional.logsigmoid(unconstrained) + functional.logsigmoid(-unconstrained) + log_width

    def contains(self, value: Tensor) -> Tensor:
        """Return whether each value is between the bounds."""
        return (value > self.lower) & (value < self.upper)


@dataclass(frozen=True)
class Simplex(Bijection):
    r"""Vectors of K positive parts whose sum is 1, from K - 1 values; zeros give the uniform one.

    :math:`x = \mathrm{softmax}(V u)`, where the columns of V (Helmert's) are orthonormal and sum to 0. The density is
    by the first K - 1 parts, as Dirichlet's is:

    .. math:: \log \left|\det \frac{\partial x_{1 \dots K-1}}{\partial u}\right| = \tfrac12 \log K + \sum_k \log x_k

    References
    ----------
    Egozcue, Pawlowsky-Glahn, Mateu-Figueras and Barceló-Vidal: Isometric logratio transformations for compositional
    data analysis. Mathematical Geology 35, 2003.

    Examples
    --------
    >>> import torch
    >>> Simplex().forward(torch.zeros(3))
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    event_dim = 1
    support = "positive with the sum 1"

    def forward(self, unconstrained: Tensor) -> Tensor:
        """Return ``(..., K)`` of ``(..., K - 1)``."""
        return _centred_log_ratios(unconstrained).softmax(-1)

    def inverse(self, value: Tensor) -> Tensor:
        """Return ``(..., K - 1)`` of ``(..., K)``."""
        logs = value.log()
        place = torch.arange(1, value.shape[-1], dtype=value.dtype, device=value.device)
        # Only differences of logarithms count: what is taken off them all keeps the sums small.
        logs = logs - logs.mean(-1, keepdim=True)
        return (logs[..., :-1].cumsum(-1) - place * logs[..., 1:]) / (place * (place + 1)).sqrt()

    def log_det_jacobian(self, unconstrained: Tensor) -> Tensor:
        """Return ``(...)`` of ``(..., K - 1)``."""
        logs = _centred_log_ratios(unconstrained).log_softmax(-1)
        return logs.sum(-1) + 0.5 * math.log(logs.shape[-1])

    def contains(self, value: Tensor) -> Tensor:
        """Return whether each vector is positive and has the sum 1 but for rounding."""
        rounding = 100.0 * torch.finfo(value.dtype).eps * math.sqrt(value.shape[-1])
        return (value > 0).all(-1) & ((value.sum(-1) - 1.0).abs() <= rounding)

    def unconstrained_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape with K - 1 for K.

        Raises
        ------
        ValueError
            If K is less than 2.
        """
        if not shape or shape[-1] < 2:
            raise ValueError(f"Simplex is for vectors of two and more parts, got a value of shape {shape}")
        return (*shape[:-1], shape[-1] - 1)


@dataclass(frozen=True)
class Ordered(Bijection):
    r"""Vectors whose values increase: :math:`x_1 = u_1, \; x_k = x_{k-1} + e^{u_k}`.

    .. math:: \log \left|\det \frac{\partial x}{\partial u}\right| = \sum_{k \ge 2} u_k

    Examples
    --------
    >>> import torch
    >>> Ordered().forward(torch.tensor([-1.0, 0.0, 0.0]))
    tensor([-1.,  0.,  1.])
    """

    event_dim = 1
    support = "increasing"

    def forward(self, unconstrained: Tensor) -> Tensor:
        """Return the vectors that increase."""
        return torch.cat([unconstrained[..., :1], unconstrained[..., 1:].exp()], -1).cumsum(-1)

    def inverse(self, value: Tensor) -> Tensor:
        """Return the first values, and the logarithms of the differences."""
        return torch.cat([value[..., :1], value.diff(dim=-1).log()], -1)

    def log_det_jacobian(self, unconstrained: Tensor) -> Tensor:
        """Return ``(...)`` of ``(..., K)``."""
        return unconstrained[..., 1:].sum(-1)

    def contains(self, value: Tensor) -> Tensor:
        """Return whether each vector is finite and increases."""
        return value.isfinite().all(-1) & (value.diff(dim=-1) > 0).all(-1)


@dataclass(frozen=True)
class PositiveOrdered(Bijection):
    r"""Vectors of positive values that increase: :math:`x_k = \sum_{j \le k} e^{u_j}`.

    .. math:: \log \left|\det \frac{\partial x}{\partial u}\right| = \sum_k u_k

    Examples
    --------
    >>> import torch
    >>> PositiveOrdered().forward(torch.zeros(3))
    tensor([1., 2., 3.])
    """

    event_dim = 1
    support = "positive and increasing"

    def forward(self, unconstrained: Tensor) -> Tensor:
        """Return the vectors that increase."""
        return unconstrained.exp().cumsum(-1)

    def inverse(self, value: Tensor) -> Tensor:
        """Return the logarithms of the differences."""
        return functional.pad(value, (1, 0)).diff(dim=-1).log()

    def log_det_jacobian(self, unconstrained: Tensor) -> Tensor:
        """Return ``(...)`` of ``(..., K)``."""
        return unconstrained.sum(-1)

    def contains(self, value: Tensor) -> Tensor:
        """Return whether each vector is finite, positive and increases."""
        return value.isfinite().all(-1) & (functional.pad(value, (1, 0)).diff(dim=-1) > 0).all(-1)


def _centred_log_ratios(unconstrained: Tensor) -> Tensor:
    """V u, (..., K), of u, (..., K - 1): column j of V is (1, ..., 1, -j, 0, ..., 0) / sqrt(j (j + 1))."""
    place = torch.arange(1, unconstrained.shape[-1] + 1, dtype=unconstrained.dtype, device=unconstrained.device)
    scaled = unconstrained / (place * (place + 1)).sqrt()
    suffix_sums = scaled.flip(-1).cumsum(-1).flip(-1)
    return functional.pad(suffix_sums, (0, 1)) - functional.pad(place * scaled, (1, 0))


def _check_bound(bijection: Bijection, name: str, bound: float | Tensor) -> None:
    kind = type(bijection).__name__
    if isinstance(bound, Tensor):
        finite = bool(bound.isfinite().all())
    else:
        finite = math.isfinite(check_number(kind, name, bound, "a number or a tensor"))
    if not finite:
        raise ValueError(f"{kind}: {name} must be finite, got {_shown(bound)}")


def _shown(bound: float | Tensor) -> str:
    return f"{float(bound):g}" if not isinstance(bound, Tensor) or bound.numel() == 1 else "its bound"
