"""The diagonal Laplace distribution: a likelihood of heavy tails, a prior or a posterior of sparse codes."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Independent, Laplace, Normal, constraints, register_kl

from fastvi import ops
from fastvi.distributions._vector import (
    VectorDistribution,
    broadcast_parameters,
    check_events,
    standard_noise,
    validation,
)
from fastvi.distributions.normal import DiagNormal, as_diag_normal

LOG_TWO = math.log(2.0)
SQRT_TWO = math.sqrt(2.0)


class DiagLaplace(VectorDistribution):
    """Vector of independent Laplace variables with medians ``loc`` and scales exp(log_scale).

    Equal to ``Independent(Laplace(loc, exp(log_scale)), 1)``, in its results and in its shapes, on
    :func:`fastvi.laplace_log_prob`.

    Parameters
    ----------
    loc
        ``batch_shape + (D,)``.
    log_scale
        Logarithm of the scale b; broadcasts with ``loc``. The variance is 2 b^2.
    validate_args
        Check parameters and values, as in every ``torch.distributions.Distribution``.

    Raises
    ------
    TypeError
        If a parameter is not a floating-point tensor, or the two differ in dtype.
    ValueError
        If a parameter has no axis, the shapes do not broadcast, or, when validating, a parameter is NaN.

    Notes
    -----
    ``kl_divergence`` is registered between two of these, both ways with ``Independent(Laplace(...), 1)``, and from
    these to :class:`DiagNormal` and ``Independent(Normal(...), 1)`` and back.

    References
    ----------
    Kotz, Kozubowski, Podgorski: The Laplace distribution and generalizations. 2001, section 2.1.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import kl_divergence
    >>> from fastvi.distributions import DiagLaplace
    >>> prior = DiagLaplace(torch.zeros(3, 2), torch.zeros(3, 2))
    >>> prior.rsample((5,)).shape, prior.log_prob(torch.zeros(3, 2))
    (torch.Size([5, 3, 2]), tensor([-1.3863, -1.3863, -1.3863]))
    >>> kl_divergence(prior, prior)
    tensor([0., 0., 0.])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real_vector,
        "log_scale": constraints.real_vector,
    }
    support = constraints.real_vector
    has_rsample = True
    _batched = ("loc", "log_scale")

    def __init__(self, loc: Tensor, log_scale: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.log_scale = broadcast_parameters("DiagLaplace", ("loc", loc), ("log_scale", log_scale))
        super().__init__(self.loc.shape[:-1], self.loc.shape[-1:], validate_args=validation(validate_args, self.loc))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(loc: {self.loc.size()}, log_scale: {self.log_scale.size()})"

    @property
    def mean(self) -> Tensor:
        """The mean, which is ``loc``."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """The mode, which is ``loc``."""
        return self.loc

    @property
    def scale(self) -> Tensor:
        """``exp(log_scale)``."""
        return torch.exp(self.log_scale)

    @property
    def variance(self) -> Tensor:
        """``2 exp(2 log_scale)``."""
        return 2.0 * torch.exp(2.0 * self.log_scale)

    @property
    def stddev(self) -> Tensor:
        """``sqrt(2) exp(log_scale)``."""
        return math.sqrt(2.0) * self.scale

    def rsample(self, sample_shape: Any = (), seed: int | Tensor | None = None, row_offset: int = 0) -> Tensor:
        """Draw, differentiably, samples of shape ``sample_shape + batch_shape + (D,)``.

        The noise is that of :func:`fastvi.rsample_normal` with this ``seed`` and ``row_offset``, each number taken from
        a place of the normal distribution to the same one of the Laplace distribution.
        """
        normal = standard_noise(self.loc, sample_shape, seed, row_offset)
        magnitude = -(torch.special.log_ndtr(-normal.abs()) + LOG_TWO)  # -log of twice the tail: exponential
        return torch.addcmul(self.loc, self.scale, torch.copysign(magnitude, normal).to(self.loc.dtype))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of ``value``, whose shape must broadcast with ``batch_shape + (D,)``."""
        self._look_at(value)
        return ops.laplace_log_prob(value, self.loc, self.log_scale)

    def entropy(self) -> Tensor:
        """Entropy in nats, of shape ``batch_shape``."""
        return (self.log_scale + (1.0 + LOG_TWO)).sum(-1)


def _as_diag_laplace(distribution: Independent[Any]) -> DiagLaplace:
    base = distribution.base_dist
    if not isinstance(base, Laplace) or distribution.reinterpreted_batch_ndims != 1:
        raise NotImplementedError(f"kl_divergence between a DiagLaplace and {distribution} is not known")
    return DiagLaplace(base.loc, base.scale.log(), validate_args=False)


def _divergence_from_normal(p: DiagLaplace, q: DiagNormal) -> Tensor:
    check_events(p, q)
    # That of the Gaussian with p's mean and variance, and how much more p is concentrated than it: the same for all.
    logvar = 2.0 * p.log_scale + LOG_TWO
    concentration = 0.5 * (math.log(math.pi) - 1.0)
    return ops.kl_normal(p.loc, logvar, q.mean, q.logvar) + concentration * p.loc.shape[-1]


def _divergence_of_normal(p: DiagNormal, q: DiagLaplace) -> Tensor:
    check_events(p, q)
    # E |x - loc| / b_q - entropy + log 2 b_q, with the mean of a folded normal distribution (Leone et al. 1961).
    distance = (p.mean - q.loc) / p.stddev
    folded = math.sqrt(2.0 / math.pi) * torch.exp(-0.5 * distance.square()) + distance * torch.erf(distance / SQRT_TWO)
    log_ratio = 0.5 * p.logvar - q.log_scale
    return (torch.exp(log_ratio) * folded - log_ratio + (LOG_TWO - 0.5 * math.log(2.0 * math.pi * math.e))).sum(-1)


def _divergence(p: DiagLaplace, q: DiagLaplace) -> Tensor:
    check_events(p, q)
    # With a = |difference| / b_p and r = b_p / b_q: -log r + r (a + e^-a) - 1, where what is small is not a difference
    # of large numbers.
    log_ratio = p.log_scale - q.log_scale
    deviations = (p.loc - q.loc).abs() * torch.exp(-p.log_scale)
    moved = torch.exp(log_ratio) * (deviations + torch.expm1(-deviations))
    return (moved + (torch.expm1(log_ratio) - log_ratio)).sum(-1)


@register_kl(DiagLaplace, DiagLaplace)  # type: ignore[no-untyped-call, untyped-decorator, unused-ignore]
def _kl_laplace_laplace(p: DiagLaplace, q: DiagLaplace) -> Tensor:
    return _divergence(p, q)


@register_kl(DiagLaplace, Independent)  # type: ignore[no-untyped-call, untyped-decorator, unused-ignore]
def _kl_laplace_independent(p: DiagLaplace, q: Independent[Any]) -> Tensor:
    if isinstance(q.base_dist, Normal) and q.reinterpreted_batch_ndims == 1:
        return _divergence_from_normal(p, as_diag_normal(q))
    return _divergence(p, _as_diag_laplace(q))


@register_kl(Independent, DiagLaplace)  # type: ignore[no-untyped-call, untyped-decorator, unused-ignore]
def _kl_independent_laplace(p: Independent[Any], q: DiagLaplace) -> Tensor:
    if isinstance(p.base_dist, Normal) and p.reinterpreted_batch_ndims == 1:
        return _divergence_of_normal(as_diag_normal(p), q)
    return _divergence(_as_diag_laplace(p), q)


@register_kl(DiagLaplace, DiagNormal)  # type: ignore[no-untyped-call, untyped-decorator, unused-ignore]
def _kl_laplace_normal(p: DiagLaplace, q: DiagNormal) -> Tensor:
    return _divergence_from_normal(p, q)


@register_kl(DiagNormal, DiagLaplace)  # type: ignore[no-untyped-call, untyped-decorator, unused-ignore]
def _kl_normal_laplace(p: DiagNormal, q: DiagLaplace) -> Tensor:
    return _divergence_of_normal(p, q)
