"""The log joint density of a decoder in its latent variables, for data that are given."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastvi import ops
from fastvi.mcmc.integrators import Target, with_gradient


class LogJoint:
    """log p(x, z) as a function of z: up to its constant, log p(x), the posterior's log density.

    A model may give log p(x|z) and its gradient at once, as :class:`fastvi.models.VAE` does with a Bernoulli
    likelihood: matrix products with fused passes between them, and no autograd. Of another model autograd takes the
    gradient. The model's parameters are constants, which must not change while chains run.

    Parameters
    ----------
    model
        ``log_likelihood(x, z)`` gives log p(x|z) (K, B) for z (K, B, Z), in nats. The prior is its ``prior_mean`` and
        ``prior_logvar``, its ``log_prior(z)``, or the standard normal.
    x
        Data (B, ...). Positions are (K B, Z), of which number k B + b belongs to example b: one example for all chains,
        or one for each.
    log_prior
        A function of z (K, B, Z) to log p(z) (K, B) in place of the model's prior.

    Raises
    ------
    TypeError
        If the model has no ``log_likelihood``, or a ``conditional_prior``.
    ValueError
        If x holds no example; when it is called, if positions are no multiple of the examples.

    Examples
    --------
    >>> import torch
    >>> from fastvi.models import VAE
    >>> target = LogJoint(VAE(64, 2, (32,)), torch.ones(1, 64))
    >>> log_density, gradient = target(torch.zeros(16, 2))  # 16 chains
    >>> log_density.shape, gradient.shape
    (torch.Size([16]), torch.Size([16, 2]))
    """

    is_target: ClassVar[bool] = True

    def __init__(self, model: Any, x: Tensor, log_prior: Callable[[Tensor], Tensor] | None = None) -> None:
        kind = type(model).__name__
        if not hasattr(model, "log_likelihood"):
            raise TypeError(f"LogJoint: needs a model with the method log_likelihood, which {kind} lacks")
        density = getattr(model, "log_prior", None) if log_prior is None else log_prior
        if density is None and getattr(model, "conditional_prior", None) is not None:
            raise TypeError(f"LogJoint: {kind} has a conditional_prior; give that of x as log_prior")
        self._prior: Target = (
            partial(_gaussian, getattr(model, "prior_mean", None), getattr(model, "prior_logvar", None))
            if density is None
            else with_gradient(density, "LogJoint: log_prior")
        )
        self._examples = len(x)
        if self._examples == 0:
            raise ValueError("LogJoint: x must hold at least one example, got none")
        x = x.detach().clone()
        self._by_autograd = with_gradient(partial(model.log_likelihood, x), f"LogJoint: {kind}.log_likelihood")
        make = getattr(type(model), "_log_likelihood_with_gradient", None)
        self._at_once: Callable[[Tensor], Any] | None = None if make is None else make(model, x)

    def __call__(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p(x, z) ``(C,)`` and its gradient ``(C, Z)`` at positions ``(C, Z)``.

        Raises
        ------
        ValueError
            If C is no multiple of the number of examples, or positions have another rank.
        """
        if position.dim() != 2 or len(position) % self._examples:
            raise ValueError(
                f"LogJoint: positions must have the shape (K {self._examples}, Z), K chains for each of "
                f"{self._examples} examples, got {tuple(position.shape)}"
            )
        with torch.no_grad():
            z = position.detach().contiguous().view(-1, self._examples, position.shape[1])
            found = None if self._at_once is None else self._at_once(z)
            value, gradient = self._by_autograd(z) if found is None else found
            log_prior, by_prior = self._prior(z)
            return (value + log_prior).flatten(), (gradient + by_prior).view(position.shape)


def _gaussian(mean: Tensor | None, logvar: Tensor | None, z: Tensor) -> tuple[Tensor, Tensor]:
    """Log p(z) and its gradient, of a Gaussian whose parameters are zeros where they are None."""
    centred = z if mean is None else z - mean
    precision = None if logvar is None else torch.exp(-logvar)
    constant = 0.5 * z.shape[-1] * math.log(2.0 * math.pi)
    if precision is None:
        return -ops.kinetic_energy(centred) - constant, -centred
    assert logvar is not None
    slope = centred * precision
    normaliser = 0.5 * logvar.expand(z.shape[-1:] if logvar.dim() < 2 else logvar.shape).sum(-1)
    return -0.5 * (slope * centred).sum(-1) - normaliser - constant, -slope
