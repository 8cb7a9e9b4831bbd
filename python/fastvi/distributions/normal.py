"""The diagonal Gaussian, the usual approximate posterior of a variational autoencoder (Kingma and Welling 2014)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, constraints, register_kl

from fastvi import ops
from fastvi.distributions._vector import VectorDistribution, broadcast_parameters, check_events, validation


class DiagNormal(VectorDistribution):
    """Gaussian vector with independent components, N(mean, diag(exp(logvar))).

    Equal to ``Independent(Normal(mean, exp(logvar / 2)), 1)``, in its results and in its shapes, on fused operations.

    Parameters
    ----------
    mean
        ``batch_shape + (D,)``.
    logvar
        Log-variance; broadcasts with ``mean``.
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
    ``kl_divergence`` is registered between two of these and, both ways, with ``Independent(Normal(...), 1)`` and
    ``MultivariateNormal``. Draws follow ``torch.manual_seed`` where no seed is given. ``fastvi.pyro.DiagNormal`` is the
    same for Pyro's models and guides.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import kl_divergence
    >>> posterior = DiagNormal(torch.zeros(3, 2), torch.zeros(3, 2))
    >>> posterior.rsample((5,)).shape, posterior.log_prob(torch.zeros(3, 2)).shape
    (torch.Size([5, 3, 2]), torch.Size([3]))
    >>> kl_divergence(posterior, DiagNormal(torch.ones(2), torch.zeros(2)))
    tensor([1., 1., 1.])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "mean": constraints.real_vector,
        "logvar": constraints.real_vector,
    }
    support = constraints.real_vector
    has_rsample = True
    _batched = ("_mean", "logvar")

    def __init__(self, mean: Tensor, logvar: Tensor, validate_args: bool | None = None) -> None:
        self._mean: Tensor
        self.logvar: Tensor
        self._mean, self.logvar = broadcast_parameters("DiagNormal", ("mean", mean), ("logvar", logvar))
        validate_args = validation(validate_args, self._mean)
        super().__init__(self._mean.shape[:-1], self._mean.shape[-1:], validate_args=validate_args)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(mean: {self.mean.size()}, logvar: {self.logvar.size()})"

    @property
    def mean(self) -> Tensor:
        """The mean, ``batch_shape + (D,)``."""
        return self._mean

    @property
    def mode(self) -> Tensor:
        """The mode, which is the mean."""
        return self._mean

    @property
    def variance(self) -> Tensor:
        """``exp(logvar)``."""
        return torch.exp(self.logvar)

    @property
    def stddev(self) -> Tensor:
        """``exp(logvar / 2)``."""
        return torch.exp(0.5 * self.logvar)

    def rsample(self, sample_shape: Any = (), seed: int | Tensor | None = None, row_offset: int = 0) -> Tensor:
        """Draw, differentiably, samples of shape ``sample_shape + batch_shape + (D,)``.

        ``seed`` and ``row_offset`` are those of :func:`fastvi.rsample_normal`, whose draws these are.
        """
        return ops.rsample_normal(self._mean, self.logvar, sample_shape, seed, row_offset)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of ``value``, whose shape must broadcast with ``batch_shape + (D,)``."""
        self._look_at(value)
        return ops.normal_log_prob(value, self._mean, self.logvar)

    def entropy(self) -> Tensor:
        """Entropy in nats, of shape ``batch_shape``."""
        return ops.normal_entropy(self.logvar)


def as_diag_normal(distribution: Independent[Any]) -> DiagNormal:
    """Return the ``DiagNormal`` that equals an ``Independent`` normal with one event axis."""
    normal = distribution.base_dist
    if not isinstance(normal, Normal) or distribution.reinterpreted_batch_ndims != 1:
        raise NotImplementedError(f"kl_divergence between a DiagNormal and {distribution} is not known")
    return DiagNormal(normal.loc, 2.0 * normal.scale.log(), validate_args=False)


def divergence(p: DiagNormal, q: DiagNormal) -> Tensor:
    """Return KL(p || q), of the shape to which the two batches broadcast."""
    check_events(p, q)
    return ops.kl_normal(p.mean, p.logvar, q.mean, q.logvar)


@register_kl(DiagNormal, DiagNormal)  # type: ignore[no-untyped-call, untyped-decorator, unused-ignore]
def _kl_diag_normal_diag_normal(p: DiagNormal, q: DiagNormal) -> Tensor:
    return divergence(p, q)


@register_kl(DiagNormal, Independent)  # type: ignore[no-untyped-call, untyped-decorator, unused-ignore]
def _kl_diag_normal_independent(p: DiagNormal, q: Independent[Any]) -> Tensor:
    return divergence(p, as_diag_normal(q))


@register_kl(Independent, DiagNormal)  # type: ignore[no-untyped-call, untyped-decorator, unused-ignore]
def _kl_independent_diag_normal(p: Independent[Any], q: DiagNormal) -> Tensor:
    return divergence(as_diag_normal(p), q)


@register_kl(MultivariateNormal, DiagNormal)  # type: ignore[no-untyped-call, untyped-decorator, unused-ignore]
def _kl_multivariate_normal_diag_normal(p: MultivariateNormal, q: DiagNormal) -> Tensor:
    # That of the diagonal Gaussian with p's variances, and how much more sharply p is drawn for its covariance.
    triangle = p._unbroadcasted_scale_tril
    own = triangle.diagonal(dim1=-2, dim2=-1).square().log()
    marginal = triangle.square().sum(-1).log()
    return divergence(DiagNormal(p.loc, marginal, validate_args=False), q) + 0.5 * (marginal - own).sum(-1)


@register_kl(DiagNormal, MultivariateNormal)  # type: ignore[no-untyped-call, untyped-decorator, unused-ignore]
def _kl_diag_normal_multivariate_normal(p: DiagNormal, q: MultivariateNormal) -> Tensor:
    full = MultivariateNormal(p.mean, scale_tril=torch.diag_embed(p.stddev), validate_args=False)
    found: Tensor = torch.distributions.kl_divergence(full, q)
    return found
