"""The approximate posterior q(z|x) and the prior p(z) of a model, in whichever of their forms the model has them.

A diagonal Gaussian posterior and a Gaussian prior are drawn and weighed in one fused pass; every other one by its
``rsample`` and ``log_prob``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from fastvi import ops
from fastvi.distributions import DiagNormal, seeded
from fastvi.objectives.model import (
    check_nats,
    check_pair,
    member,
    optional,
    other_priors,
    prior_log_prob,
    prior_parameter,
    require_encoder,
)


class GaussianPosterior:
    """N(mean, diag(exp(logvar))), each ``(B, Z)``."""

    is_reparameterised = True

    def __init__(self, mean: Tensor, logvar: Tensor) -> None:
        self.mean, self.logvar = mean, logvar
        self.shape = mean.shape

    def rsample(self, num_samples: int, seed: int | None, row_offset: int) -> Tensor:
        """Draw ``(K, B, Z)``, with the gradient along the path."""
        return ops.rsample_normal(self.mean, self.logvar, (num_samples,), seed, row_offset)

    def rsample_with_log_prob(self, num_samples: int, seed: int | None, row_offset: int) -> tuple[Tensor, Tensor]:
        """Draw, and return log q of the samples, ``(K, B)``."""
        z = self.rsample(num_samples, seed, row_offset)
        return z, self.log_prob(z)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z), ``(K, B)``."""
        return ops.normal_log_prob(z, self.mean, self.logvar)

    def log_prob_along_path(self, z: Tensor) -> Tensor:
        """Return log q(z) with the parameters of q as constants: its gradient flows into z alone."""
        return ops.normal_log_prob(z, self.mean.detach(), self.logvar.detach())


class OtherPosterior:
    """A ``torch.distributions.Distribution`` with the batch ``(B,)`` and the event ``(Z,)``.

    Without ``rsample`` its samples are constants, and estimators take the score.
    """

    def __init__(self, model: Any, distribution: Any) -> None:
        self.place, self.distribution = member(model, "encode"), distribution
        self.shape = distribution.batch_shape + distribution.event_shape
        self.is_reparameterised: bool = distribution.has_rsample

    @property
    def mean(self) -> Tensor:
        """Its mean, ``(B, Z)``.

        Raises
        ------
        NotImplementedError
            If the distribution has none in closed form, as normalising flows.
        """
        mean: Tensor = self.distribution.mean
        return mean

    def rsample(self, num_samples: int, seed: int | None, row_offset: int) -> Tensor:
        """Draw ``(K, B, Z)``, with the gradient along the path where there is one."""
        draw = seeded.rsample if self.is_reparameterised else seeded.sample
        try:
            return draw(self.distribution, num_samples, seed, row_offset)
        except NotImplementedError as error:
            raise self._refused(error) from error

    def rsample_with_log_prob(self, num_samples: int, seed: int | None, row_offset: int) -> tuple[Tensor, Tensor]:
        """Draw, and return log q of the samples, ``(K, B)``; no transform of a flow is inverted."""
        if not self.is_reparameterised:
            z = self.rsample(num_samples, seed, row_offset)
            return z, self.log_prob(z)
        try:
            z, log_prob = seeded.rsample_with_log_prob(self.distribution, num_samples, seed, row_offset)
        except NotImplementedError as error:
            raise self._refused(error) from error
        return z, self._checked(log_prob, z)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z), ``(K, B)``, at any z: a flow inverts its transforms."""
        try:
            return self._checked(self.distribution.log_prob(z), z)
        except NotImplementedError as error:
            raise self._refused(error) from error

    def log_prob_along_path(self, z: Tensor) -> Tensor:
        """Return log q(z) with the parameters of q as constants: its gradient flows into z alone."""
        try:
            return self._checked(seeded.log_prob_along_path(self.distribution, z), z)
        except NotImplementedError as error:
            raise self._refused(error) from error

    def _checked(self, log_prob: Tensor, z: Tensor) -> Tensor:
        return check_nats(f"{self.place}: log_prob", log_prob, z)

    def _refused(self, error: NotImplementedError) -> TypeError:
        kind = type(self.distribution).__name__
        reason = str(error) or "a transform of it has no inverse, which its density at a given z takes"
        return TypeError(f"{self.place}: {kind}: {reason}")


Posterior = GaussianPosterior | OtherPosterior


class GaussianPrior:
    """N(mean, diag(exp(logvar))); None stands for zeros."""

    def __init__(self, mean: Tensor | None, logvar: Tensor | None) -> None:
        self.mean, self.logvar = mean, logvar

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z), ``(K, B)``."""
        return prior_log_prob(self.mean, self.logvar, z)


class OtherPrior:
    """Any function of z."""

    def __init__(self, place: str, density: Callable[[Tensor], Any]) -> None:
        self.place, self.density = place, density

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log p(z), ``(K, B)``."""
        return check_nats(self.place, self.density(z), z)


Prior = GaussianPrior | OtherPrior


def posterior_of(model: Any, x: Any) -> Posterior:
    """What ``model.encode(x)`` returns, checked: a pair (mean, logvar) or a distribution.

    Raises
    ------
    TypeError, ValueError
        If it is neither, or of another shape.
    """
    require_encoder(model, "a bound on log p(x)")
    found: Any = model.encode(x)
    place = member(model, "encode")
    if not isinstance(found, Distribution):
        return GaussianPosterior(*check_pair(place, found, x))
    check_distribution(place, found, x)
    pair = _as_pair(found)
    return OtherPosterior(model, found) if pair is None else GaussianPosterior(*pair)


def reparameterised_posterior_of(model: Any, x: Any, owner: str) -> Posterior:
    """The same, for an estimator whose gradient goes along the samples' path.

    Raises
    ------
    TypeError
        Also where the distribution has no ``rsample``.
    """
    q = posterior_of(model, x)
    if not q.is_reparameterised:
        kind = type(q.distribution).__name__ if isinstance(q, OtherPosterior) else ""
        raise TypeError(f"{owner}: needs reparameterised samples, and {member(model, 'encode')} gave {kind}")
    return q


def prior_of(model: Any, x: Any, posterior: Posterior) -> Prior:
    """The model's prior: its ``log_prior(z)``, its ``conditional_prior(x)``, or ``prior_mean`` and ``prior_logvar``.

    Raises
    ------
    TypeError, ValueError
        If there are several of them, or one is not what it should be.
    """
    others = other_priors(model)
    parameters = [name for name in ("prior_mean", "prior_logvar") if optional(model, name) is not None]
    if others and len(others) + len(parameters) > 1:
        raise TypeError(f"{type(model).__name__}: expected one prior, got {' and '.join(others + parameters)}")
    if others == ["log_prior"]:
        return OtherPrior(member(model, "log_prior"), model.log_prior)
    if others:
        place, found = member(model, "conditional_prior"), model.conditional_prior(x)
        if not isinstance(found, Distribution):
            return GaussianPrior(*check_pair(place, found, x))
        check_distribution(place, found, x)
        pair = _as_pair(found)
        return OtherPrior(place, found.log_prob) if pair is None else GaussianPrior(*pair)
    mean, logvar = (prior_parameter(model, name, posterior.shape) for name in ("prior_mean", "prior_logvar"))
    return GaussianPrior(mean, logvar)


def sample_with_log_ratio(
    q: Posterior,
    p: Prior,
    num_samples: int,
    *,
    detach_posterior: bool = False,
    seed: int | None = None,
    row_offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """Samples of q, ``(K, B, Z)``, and log p(z) - log q(z|x), ``(K, B)``; in one pass where both are Gaussian."""
    if isinstance(q, GaussianPosterior) and isinstance(p, GaussianPrior):
        return ops.rsample_normal_with_log_ratio(
            q.mean,
            q.logvar,
            num_samples,
            p.mean,
            p.logvar,
            detach_posterior=detach_posterior,
            seed=seed,
            row_offset=row_offset,
        )
    if detach_posterior:
        z = q.rsample(num_samples, seed, row_offset)
        log_posterior = q.log_prob_along_path(z)
    else:
        z, log_posterior = q.rsample_with_log_prob(num_samples, seed, row_offset)
    return z, p.log_prob(z) - log_posterior


def divergence(q: Posterior, p: Prior, free_bits: float, owner: str) -> Tensor:
    """KL(q || p) in closed form, ``(B,)``.

    Raises
    ------
    TypeError, ValueError
        If none is known for these two, or ``free_bits`` are asked for where latent variables are not independent.
    """
    if not isinstance(p, GaussianPrior):
        raise TypeError(f"{owner}: no divergence from {p.place} is known in closed form; take analytic_kl=False")
    if isinstance(q, GaussianPosterior):
        return ops.kl_normal(q.mean, q.logvar, p.mean, p.logvar, free_bits)
    kind = type(q.distribution).__name__
    if free_bits > 0.0:
        raise ValueError(f"{owner}: free_bits={free_bits} needs independent latent variables, {q.place} gave {kind}")
    try:
        zeros = torch.zeros_like(q.mean[0])
        normal = DiagNormal(zeros if p.mean is None else p.mean, zeros if p.logvar is None else p.logvar, False)
        found: Tensor = torch.distributions.kl_divergence(q.distribution, normal)
    except NotImplementedError as error:
        raise TypeError(
            f"{owner}: no divergence of the {kind} of {q.place} is known in closed form; take analytic_kl=False"
        ) from error
    return found


def check_distribution(place: str, found: Any, x: Any) -> None:
    """Raise unless a distribution is one of vectors, one for each example.

    Raises
    ------
    TypeError
        The message names the method that gave the distribution.
    """
    kind = type(found).__name__
    if len(found.event_shape) != 1 or len(found.batch_shape) != 1:
        raise TypeError(
            f"{place}: expected a distribution of vectors, with the batch (batch,) and the event (latent variables,), "
            f"got {kind} with {tuple(found.batch_shape)} and {tuple(found.event_shape)}"
        )
    if isinstance(x, Tensor) and x.dim() > 0 and found.batch_shape[0] != x.shape[0]:
        raise TypeError(
            f"{place}: expected a distribution with the batch ({x.shape[0]},) for x of shape {tuple(x.shape)}, "
            f"got {kind} with the batch {tuple(found.batch_shape)}"
        )


def _as_pair(distribution: Any) -> tuple[Tensor, Tensor] | None:
    """Mean and log-variance of a diagonal Gaussian of a class that is known to be one."""
    if type(distribution) is DiagNormal:
        return distribution.mean, distribution.logvar
    if type(distribution) is Independent and type(distribution.base_dist) is Normal:
        return distribution.base_dist.loc, 2.0 * distribution.base_dist.scale.log()
    return None
