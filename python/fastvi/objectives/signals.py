"""Learning signals: what estimators that use the score multiply it with, and the baselines taken from it.

A baseline of a sample is made of the other samples, or of x, so that it changes no expectation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from fastvi.objectives.latent import posterior_of, prior_of
from fastvi.objectives.model import (
    describe,
    has_own_draw,
    log_likelihood,
    member,
    require_encoder,
)
from fastvi.ops._private import transforms_active


class BaselineModel(Protocol):
    """A model with a network that predicts log w, trained beside it: a ``torch.nn.Module`` holds its parameters."""

    def baseline(self, x: Any) -> Tensor:
        """Prediction of log p(x, z) - log q(z|x) in nats, without knowledge of z, ``(B,)``."""
        ...


class ControlVariateModel(Protocol):
    """A model that draws for itself and has a function of its samples whose mean under q is known."""

    def control_variate(self, x: Any, samples: Any) -> tuple[Tensor, Tensor]:
        """Two tensors ``(K, B)``, for the ``samples`` of a draw: h(z), and e, zeros with a gradient.

        h is taken for a constant of the mean 0, in nats. The mean over samples of e's gradient in the parameters of q
        is that of E_q h, in which h itself is held constant.
        """
        ...


def others(values: Tensor) -> Tensor:
    """For each sample the values of all others: ``(K, K - 1, B)`` for ``values`` of shape ``(K, B)``.

    Sums over them, unlike differences of sums, have the digits of what they add up, and stay finite beside a value
    that is not.
    """
    count = values.shape[0]
    place = torch.arange(count - 1, device=values.device)
    return values[place + (place >= torch.arange(count, device=values.device).unsqueeze(1))]


def finite(values: Tensor) -> Tensor:
    """``values``, with 0 where they are infinite or NaN: no baseline, or no signal at all."""
    return torch.where(values.isfinite(), values, 0.0)


def slopes(function: Callable[..., Tensor], *point: Tensor) -> tuple[Tensor, ...]:
    """The gradients of a function of constants in each of them, themselves constants."""
    if torch.compiler.is_compiling() or transforms_active():  # neither lets a tensor begin to require a gradient
        with torch.no_grad():
            found: tuple[Tensor, ...] = torch.func.grad(function, argnums=tuple(range(len(point))))(*point)
        return found
    with torch.enable_grad():
        leaves = [value.detach().requires_grad_() for value in point]
        return torch.autograd.grad(function(*leaves), leaves)


def require_baseline(model: object, owner: str) -> None:
    """Raise unless the model has a baseline network.

    Raises
    ------
    TypeError
        The message says what is lacking.
    """
    if not callable(getattr(model, "baseline", None)):
        raise TypeError(
            f"{owner}: needs a model with a network baseline; {type(model).__name__} has none (models with discrete "
            "latent variables have one where baseline_dims is given)"
        )


def predicted(model: Any, x: Any, weights: Tensor) -> Tensor:
    """``model.baseline(x)``, refusing a result that would broadcast silently."""
    found: Any = model.baseline(x)
    expected = f"{member(model, 'baseline')}: expected the shape (batch,) = {tuple(weights.shape[1:])}"
    if not isinstance(found, Tensor):
        raise TypeError(f"{expected}, got {describe(found)}")
    if found.shape != weights.shape[1:]:
        raise ValueError(f"{expected}, got {tuple(found.shape)}")
    return found


def require_control_variate(model: object, owner: str) -> None:
    """Raise unless the model has a control variate, or the Gaussian encoder and the likelihood that give one.

    Raises
    ------
    TypeError
        The message says what is lacking.
    """
    if hasattr(model, "control_variate"):
        return
    if has_own_draw(model):
        raise TypeError(f"{owner}: needs a model with the method control_variate; {type(model).__name__} has none")
    require_encoder(model, owner)
    if not getattr(model, "has_posterior_mean", True):
        raise TypeError(f"{owner}: needs the posterior's mean, and that of {type(model).__name__} has no closed form")


def control_variate(model: Any, x: Any, samples: Any, weights: Tensor) -> tuple[Tensor, Tensor]:
    """``model.control_variate``, checked; for an encoder the Taylor polynomial at its mean.

    That is h(z) = s (z - mean), where s is the slope of log p(x, z) at the posterior's mean; that of a Gaussian's
    log q(z|x) is 0 there.
    """
    if not hasattr(model, "control_variate"):
        q = posterior_of(model, x)
        p = prior_of(model, x, q)
        try:
            mean = q.mean
        except NotImplementedError as error:
            raise TypeError(
                f"ScoreFunction: baseline='control-variate' needs a control_variate of {type(model).__name__}, whose "
                "posterior has no mean in closed form"
            ) from error

        def log_joint(z: Tensor) -> Tensor:
            return (log_likelihood(model, x, z) + p.log_prob(z)).sum()

        centre = mean.detach()
        (slope,) = slopes(log_joint, centre.unsqueeze(0))
        values = (slope * (samples - centre)).sum(-1)
        return values, (slope * (mean - centre)).sum(-1).expand_as(values)
    found: Any = model.control_variate(x, samples)
    expected = (
        f"{member(model, 'control_variate')}: expected two tensors of the shape (num_samples, batch) = "
        f"{tuple(weights.shape)}"
    )
    if not isinstance(found, (tuple, list)) or len(found) != 2 or not all(isinstance(part, Tensor) for part in found):
        raise TypeError(f"{expected}, got {describe(found)}")
    if any(part.shape != weights.shape for part in found):
        raise ValueError(f"{expected}, got {describe(found)}")
    return found[0].detach(), found[1]
