"""Samples of PyTorch's distributions that follow a seed and the place in the batch, reparameterised where they can be.

``torch.distributions`` knows no seeds. Gaussian noise comes from :func:`fastvi.rsample_normal`, uniform noise from its
distribution function at such noise; what cannot be made of either has to take a seed itself.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    TransformedDistribution,
)

from fastvi import ops
from fastvi.distributions.normal import DiagNormal


def rsample(distribution: Any, num_samples: int, seed: int | None, row_offset: int) -> Tensor:
    """Draw ``(K,) + batch_shape + event_shape``; the first axis of the batch is that of the examples.

    A distribution whose ``rsample`` takes ``seed`` and ``row_offset`` is called with them. A normal distribution, also
    of full or low-rank covariance, gets fastvi's noise; one of a single variable with an inverse distribution function
    (``icdf``) gets uniform noise; independent and transformed ones get that of their base. Any other one is sampled by
    PyTorch's generator, which is refused where a seed was given.

    Raises
    ------
    NotImplementedError
        If a seed was given that the distribution cannot follow. The message is the end of a sentence.
    """
    drawn: Tensor = _rsample(distribution, type(distribution), num_samples, seed, row_offset)
    return drawn


def _rsample(distribution: Any, kind: Any, num_samples: int, seed: int | None, row_offset: int) -> Any:
    if kind.rsample is DiagNormal.rsample:
        noise = _noise(distribution.mean.shape, distribution.mean, num_samples, seed, row_offset)
        return torch.addcmul(distribution.mean, distribution.stddev, noise)
    if kind.rsample is Normal.rsample:
        noise = _noise(distribution.loc.shape, distribution.loc, num_samples, seed, row_offset)
        return torch.addcmul(distribution.loc, distribution.scale, noise)
    if kind.rsample is MultivariateNormal.rsample:
        noise = _noise(distribution.loc.shape, distribution.loc, num_samples, seed, row_offset)
        return distribution.loc + _times(distribution._unbroadcasted_scale_tril, noise)
    if kind.rsample is LowRankMultivariateNormal.rsample:
        loc, factor = distribution.loc, distribution._unbroadcasted_cov_factor
        shape = (*loc.shape[:-1], loc.shape[-1] + factor.shape[-1])
        noise, common = _noise(shape, loc, num_samples, seed, row_offset).tensor_split([loc.shape[-1]], -1)
        return loc + _times(factor, common) + distribution._unbroadcasted_cov_diag.sqrt() * noise
    if kind.rsample is Independent.rsample:
        return rsample(distribution.base_dist, num_samples, seed, row_offset)
    if kind.rsample is TransformedDistribution.rsample:
        return _transformed(distribution, rsample(distribution.base_dist, num_samples, seed, row_offset))[-1]
    if {"seed", "row_offset"} <= inspect.signature(kind.rsample).parameters.keys():
        return distribution.rsample((num_samples,), seed=seed, row_offset=row_offset)
    if not distribution.event_shape and kind.icdf is not Distribution.icdf:
        like = next(value for value in vars(distribution).values() if isinstance(value, Tensor))
        return distribution.icdf(_uniform(like, distribution.batch_shape, num_samples, seed, row_offset))
    if seed is None:
        return distribution.rsample((num_samples,))
    raise NotImplementedError(
        f"cannot draw a {kind.__name__} by a seed; give it rsample(sample_shape, seed=..., row_offset=...)"
    )


def sample(distribution: Any, num_samples: int, seed: int | None, row_offset: int) -> Tensor:
    """Draw from a distribution without ``rsample``: Bernoulli and categorical ones, and independent ones of them.

    A distribution whose ``sample`` takes ``seed`` and ``row_offset`` is called with them.

    Raises
    ------
    NotImplementedError
        As `rsample` does.
    """
    drawn: Tensor = _sample(distribution, type(distribution), num_samples, seed, row_offset)
    return drawn.detach()


def _sample(distribution: Any, kind: Any, num_samples: int, seed: int | None, row_offset: int) -> Any:
    if kind.sample is Independent.sample:
        return sample(distribution.base_dist, num_samples, seed, row_offset)
    if kind.sample is OneHotCategorical.sample:
        places = sample(distribution._categorical, num_samples, seed, row_offset)
        return torch.nn.functional.one_hot(places, distribution.event_shape[-1]).to(distribution.probs.dtype)
    if kind.sample is Bernoulli.sample:
        uniform = _uniform(distribution.probs, distribution.batch_shape, num_samples, seed, row_offset)
        return (uniform < distribution.probs).to(distribution.probs.dtype)
    if kind.sample is Categorical.sample:
        limits = distribution.probs.double().cumsum(-1)
        uniform = _uniform(limits, distribution.batch_shape, num_samples, seed, row_offset)
        # The last place takes what rounding leaves.
        return (uniform.unsqueeze(-1) >= limits[..., :-1]).sum(-1)
    if {"seed", "row_offset"} <= inspect.signature(kind.sample).parameters.keys():
        return distribution.sample((num_samples,), seed=seed, row_offset=row_offset)
    if seed is None:
        return distribution.sample((num_samples,))
    raise NotImplementedError(f"cannot draw a {kind.__name__} by a seed; give the model a draw of its own")


def rsample_with_log_prob(
    distribution: Any, num_samples: int, seed: int | None, row_offset: int
) -> tuple[Tensor, Tensor]:
    """Draw as `rsample` does, and return log q of the samples with its whole gradient.

    The transforms of a normalising flow are only run forwards, so that they need no inverse.
    """
    kind: Any = type(distribution)
    if kind.rsample is not TransformedDistribution.rsample or kind.log_prob is not TransformedDistribution.log_prob:
        z = rsample(distribution, num_samples, seed, row_offset)
        return z, distribution.log_prob(z)
    # As TransformedDistribution.log_prob, at values that are known.
    base, log_prob = rsample_with_log_prob(distribution.base_dist, num_samples, seed, row_offset)
    values = _transformed(distribution, base)
    event_dim = len(distribution.event_shape)
    change: Tensor | float = 0.0
    for i, transform in reversed(list(enumerate(distribution.transforms))):
        event_dim += transform.domain.event_dim - transform.codomain.event_dim
        change = change + _sum_rightmost(
            transform.log_abs_det_jacobian(values[i], values[i + 1]), event_dim - transform.domain.event_dim
        )
    return values[-1], _sum_rightmost(log_prob, event_dim - len(distribution.base_dist.event_shape)) - change


def log_prob_along_path(distribution: Any, z: Tensor) -> Tensor:
    """Return log q(z) whose gradient flows into z alone: the distribution's parameters are constants.

    Whatever they are kept in, tensors, modules or functions: the gradient in z is made at once, and nothing else of the
    graph is kept. It can be differentiated once.
    """
    if not z.requires_grad or not torch.is_grad_enabled():
        fixed: Tensor = distribution.log_prob(z.detach())
        return fixed.detach()

    def total(place: Tensor) -> tuple[Tensor, Tensor]:
        value = distribution.log_prob(place)
        return value.sum(), value

    gradient, (_, log_prob) = torch.func.grad_and_value(total, has_aux=True)(z.detach())
    found: Tensor = _Along.apply(z, log_prob.detach(), gradient.detach())  # type: ignore[no-untyped-call, unused-ignore]
    return found


class _Along(torch.autograd.Function):
    """A value with a given gradient in z."""

    @staticmethod
    def forward(z: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        """Return ``value``."""
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        """Keep z and the gradient."""
        ctx.save_for_backward(inputs[0], inputs[2])

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient times the one that comes."""
        z, gradient = ctx.saved_tensors
        once: Tensor = _Once.apply(z, gradient)  # type: ignore[no-untyped-call, unused-ignore]
        return upstreams[0].unsqueeze(-1) * once, None, None


class _Once(torch.autograd.Function):
    """A gradient in z that is a number alone: to differentiate it by z would give zeros."""

    @staticmethod
    def forward(z: Tensor, gradient: Tensor) -> Tensor:
        """Return ``gradient``."""
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, *upstreams: Tensor) -> tuple[None, None]:
        """Raise: the second derivative is not known."""
        raise RuntimeError("a density along the path of a distribution is differentiated once only")


def _transformed(distribution: Any, base: Tensor) -> list[Tensor]:
    """The base's samples, and what each transform in turn makes of them."""
    values = [base]
    for transform in distribution.transforms:
        values.append(transform(values[-1]))
    return values


def _times(matrix: Tensor, noise: Tensor) -> Tensor:
    # All samples of an example in one product: broadcasting would copy the matrix for each of them.
    with torch.autocast(noise.device.type, enabled=False):  # a sample keeps the digits that its density is made of
        product: Tensor = torch.matmul(matrix, noise.movedim(0, -1)).movedim(-1, 0)
    return product.contiguous()


def _noise(shape: Sequence[int], like: Tensor, num_samples: int, seed: int | None, row_offset: int) -> Tensor:
    """Standard normal draws ``(K, *shape)``, of which row b, the first axis of ``shape``, is drawn for itself."""
    # A batch without axes is one row.
    rows = like.new_zeros(shape[0] if shape else 1, math.prod(shape[1:]))
    return ops.rsample_normal(rows, rows, (num_samples,), seed, row_offset).reshape(num_samples, *shape)


def _uniform(like: Tensor, shape: Sequence[int], num_samples: int, seed: int | None, row_offset: int) -> Tensor:
    """Uniform draws ``(K, *shape)`` between 0 and 1, neither of them, in the dtype of ``like``."""
    normal = _noise(shape, like.new_zeros((), dtype=torch.float64), num_samples, seed, row_offset)
    limits = torch.finfo(like.dtype)
    uniform: Tensor = torch.special.ndtr(normal).to(like.dtype)
    return uniform.clamp(limits.tiny, 1.0 - 0.5 * limits.eps)


def _sum_rightmost(value: Tensor, axes: int) -> Tensor:
    return value.sum(tuple(range(-axes, 0))) if axes > 0 else value
