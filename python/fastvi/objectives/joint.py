"""The log joint density of z and x with its gradient by z, by which Hamiltonian dynamics move z."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastvi.mcmc import Target, with_gradient
from fastvi.objectives.latent import GaussianPrior, Prior
from fastvi.objectives.model import log_likelihood, member


def log_joint_target(model: Any, x: Any, prior: Prior, owner: str) -> Target:
    """Of z (K, B, Z), log p(x, z) in nats, (K, B), and its gradient: by one operation where the model has one.

    Both are differentiable where autograd records.

    Raises
    ------
    ValueError, TypeError
        From the target, where the likelihood or the prior has another shape, or no gradient by z; it names ``owner``.
    """
    by_autograd = with_gradient(partial(log_likelihood, model, x), f"{owner}: {member(model, 'log_likelihood')}")
    make = getattr(type(model), "_log_likelihood_with_gradient", None)
    at_once: Callable[[Tensor], Any] | None = None if make is None else make(model, x)

    def target(z: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = (None if at_once is None else at_once(z)) or by_autograd(z)
        log_prior, pull = _prior_and_pull(prior, z, owner)
        return value + log_prior, gradient - pull

    return target


def _prior_and_pull(prior: Prior, z: Tensor, owner: str) -> tuple[Tensor, Tensor]:
    """Log p(z), and minus its gradient by z, which is known of a Gaussian."""
    if isinstance(prior, GaussianPrior):
        centred = z if prior.mean is None else z - prior.mean
        return prior.log_prob(z), centred if prior.logvar is None else centred * torch.exp(-prior.logvar)
    log_prob, gradient = with_gradient(prior.log_prob, f"{owner}: {prior.place}")(z)
    return log_prob, -gradient
