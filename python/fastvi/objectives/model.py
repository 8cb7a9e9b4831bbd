"""What an objective asks of a model: an encoder q(z|x), a likelihood p(x|z) and a prior p(z), or a ``draw``.

What the model gives is checked here once for all objectives, so that a mistake in it is told in its own words and
does not broadcast into another bound.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution

from fastvi import ops
from fastvi.ops._one_node import Terms


class LatentVariableModel(Protocol):
    """A model with an approximate posterior that can be reparameterised, and a prior of any kind.

    Any object with ``encode`` and ``log_likelihood`` will do; a ``torch.nn.Module`` is usual. ``B`` is the batch, ``Z``
    the number of latent variables, ``K`` the number of samples of each example's posterior. All else may be left out:
    the prior is the standard normal then.

    Attributes
    ----------
    prior_mean, prior_logvar
        Parameters of a Gaussian p(z), of the shape (Z,), the same for all examples, or (B, Z), one prior for each
        example of the batch. None, or a model without the attribute, stands for the zeros of a standard normal. The
        components of a mixture are no prior of this kind: of the shape (C, Z), they would be taken for those of C
        examples.
    log_prior
        In their place a function, such as a method or a module: ``log_prior(z)`` is log p(z) in nats, of the shape
        (K, B) for ``z`` of the shape (K, B, Z). It takes other leading axes of z as well if the model is to be sampled
        or drawn elsewhere. None is as good as no such attribute.
    conditional_prior
        In place of these a function of x: ``conditional_prior(x)`` is p(z|y) for what x holds beside the data, such as
        labels: a pair (mean, logvar) of tensors (B, Z), or a distribution with the batch (B,) and the event (Z,).
    has_analytic_kl
        False where the divergence from the prior is known to have no closed form, so that
        :class:`fastvi.objectives.ELBO` says so before a run begins.
    has_independent_latents
        False where the latent variables of q(z|x) are known to depend on one another: the ``free_bits`` of
        :class:`fastvi.objectives.ELBO` need a divergence for each of them.
    has_posterior_mean
        False where q(z|x) is known to have no mean in closed form, which the control variate of
        :class:`fastvi.objectives.ScoreFunction` takes.
    """

    def encode(self, x: Any) -> tuple[Tensor, Tensor] | Distribution:
        """q(z|x): mean and log-variance of a diagonal Gaussian, each ``(B, Z)``, for ``x`` of shape ``(B, ...)``.

        Or a ``torch.distributions.Distribution`` with ``rsample``, or ``sample``, and ``log_prob``, the batch (B,) and
        the event (Z,).
        """
        ...

    def log_likelihood(self, x: Any, z: Tensor) -> Tensor:
        """Log p(x|z) in nats, shape ``(K, B)``, for ``x`` of shape ``(B, ...)`` and ``z`` of shape ``(K, B, Z)``.

        It must be a function of its arguments alone: two estimators (:class:`fastvi.objectives.DReG` under
        ``torch.compile``, :class:`fastvi.objectives.IWAE` with ``backward_samples``) evaluate it twice, so that a
        decoder with dropout would be two different decoders.
        """
        ...


def has_own_draw(model: object) -> bool:
    """Whether the model draws its samples itself, see :class:`fastvi.objectives.DrawingModel`."""
    return hasattr(model, "draw")


def completes_labels(model: object) -> bool:
    """Whether the model sums its class out in a ``draw``, and its ``encode`` is of one class: M2 and M1+M2."""
    return has_own_draw(model) and hasattr(model, "encode") and bool(getattr(model, "takes_missing_labels", False))


def has_bound(model: object) -> bool:
    """Whether a bound on log p(x) can be estimated: by a ``draw``, or by ``encode`` and ``log_likelihood``."""
    return has_own_draw(model) or not lacking(model)


def lacking(model: object) -> list[str]:
    """Return which of the methods ``encode`` and ``log_likelihood`` the model lacks."""
    return [name for name in ("encode", "log_likelihood") if not hasattr(model, name)]


def require_encoder(model: object, owner: str, advice: str = "") -> None:
    """Raise unless the model has the encoder and the likelihood that ``owner`` cannot do without.

    Raises
    ------
    TypeError
        The message says what the model lacks, and ends with the advice.
    """
    if missing := lacking(model):
        raise TypeError(
            f"{owner}: needs a model with the methods encode and log_likelihood; "
            f"{type(model).__name__} lacks {' and '.join(missing)}{advice}"
        )


def require_score(model: object, owner: str) -> None:
    """Raise where a model's own draw is known to have no score: all of its samples are reparameterised.

    Such a model says so by an attribute ``draws_score = False``.

    Raises
    ------
    TypeError
        The message says what the model lacks.
    """
    if has_own_draw(model) and not getattr(model, "draws_score", True):
        raise TypeError(
            f"{owner}: needs the score of the samples, and those of {type(model).__name__} are reparameterised: its "
            "draw has no log_posterior"
        )


def require_path(model: object, owner: str) -> None:
    """Raise unless the samples can be changed on their way into the densities: those of an encoder always.

    A model that draws for itself says so by the argument ``path`` of its ``draw``.

    Raises
    ------
    TypeError
        If its ``draw`` lacks the argument, or it lacks a method.
    """
    if not has_own_draw(model):
        require_encoder(model, owner)
        return
    own: Any = model
    # The compiler cannot trace this: there the call itself complains.
    if not torch.compiler.is_compiling() and "path" not in inspect.signature(own.draw).parameters:
        raise TypeError(
            f"{owner}: needs the samples of an encode; {type(model).__name__} has a draw of its own, without "
            "the argument path that would give them"
        )


def terms_at_once(model: Any, x: Any, asked: Terms, seed: int | None) -> Any:
    """The terms of a bound by one operation of the model's; None where the model has none for this call."""
    at_once = getattr(type(model), "_terms_at_once", None)
    return None if at_once is None or other_priors(model) else at_once(model, x, asked, seed)


def check_pair(place: str, found: Any, x: Any) -> tuple[Tensor, Tensor]:
    """Mean and log-variance, each ``(B, Z)``, of what a method called ``place`` returned for ``x``.

    One of them may broadcast to the other's shape, such as a log-variance that all examples share.

    Raises
    ------
    TypeError, ValueError
        If that is no pair of floating-point tensors of such shapes.
    """
    if not isinstance(found, (tuple, list)) or len(found) != 2 or not all(isinstance(part, Tensor) for part in found):
        raise TypeError(f"{place}: expected a pair (mean, logvar) of tensors, got {describe(found)}")
    mean, logvar = found
    if not mean.is_floating_point() or not logvar.is_floating_point():
        raise TypeError(f"{place}: expected floating-point tensors (mean, logvar), got {mean.dtype} and {logvar.dtype}")
    if mean.dtype is not logvar.dtype and not torch.is_autocast_enabled(mean.device.type):
        raise TypeError(f"{place}: expected mean and logvar of one dtype, got {mean.dtype} and {logvar.dtype}")
    if mean.shape != logvar.shape:
        if _fits(logvar.shape, mean.shape):
            logvar = logvar.expand(mean.shape)
        elif _fits(mean.shape, logvar.shape):
            mean = mean.expand(logvar.shape)
    batch = x.shape[0] if isinstance(x, Tensor) and x.dim() > 0 else None
    if mean.shape != logvar.shape or mean.dim() != 2 or (batch is not None and mean.shape[0] != batch):
        of = "" if batch is None else f" for x of shape {tuple(x.shape)}"
        raise ValueError(
            f"{place}: expected mean and logvar of the shape "
            f"({'batch' if batch is None else batch}, latent variables){of}, "
            f"got {tuple(found[0].shape)} and {tuple(found[1].shape)}"
        )
    return mean, logvar


def prior_parameter(model: object, name: str, sizes: Sequence[int]) -> Tensor | None:
    """``prior_mean`` or ``prior_logvar``, checked against the posterior's sizes (B, Z).

    Raises
    ------
    TypeError, ValueError
        If it is not a tensor, or not of a shape that broadcasts to the posterior's.
    """
    value: Any = optional(model, name)
    if value is None:
        return None
    if not isinstance(value, Tensor):
        raise TypeError(f"{member(model, name)}: expected a tensor or None, got {describe(value)}")
    if value.dim() == 0 or not _fits(value.shape, sizes):
        batch, latent = sizes
        raise ValueError(
            f"{member(model, name)}: expected the shape ({latent},), or ({batch}, {latent}) for one prior for each "
            f"example, got {tuple(value.shape)}; the components of a mixture are no prior of this kind"
        )
    return value


def log_likelihood(model: Any, x: Any, z: Tensor) -> Tensor:
    """``model.log_likelihood(x, z)``, refusing a result that would broadcast silently into a wrong bound."""
    return check_nats(member(model, "log_likelihood"), model.log_likelihood(x, z), z)


def check_nats(place: str, result: Any, z: Tensor) -> Tensor:
    """What a method called ``place`` returned for the samples ``z``: nats, ``(K, B)``.

    Raises
    ------
    TypeError, ValueError
        If it is something else.
    """
    if not isinstance(result, Tensor):
        raise TypeError(
            f"{place}: expected a tensor of the shape (num_samples, batch) = "
            f"{tuple(z.shape[:-1])}, got {describe(result)}"
        )
    if result.shape != z.shape[:-1]:
        raise ValueError(
            f"{place}: expected the shape (num_samples, batch) = {tuple(z.shape[:-1])} "
            f"for z of shape {tuple(z.shape)}, got {tuple(result.shape)}"
        )
    if not result.is_floating_point():
        raise TypeError(f"{place}: expected floating-point nats, got {result.dtype}")
    return result


def other_priors(model: object) -> list[str]:
    """Return which of ``log_prior`` and ``conditional_prior`` the model has; None stands for neither."""
    return [name for name in ("log_prior", "conditional_prior") if optional(model, name) is not None]


def optional(model: object, name: str) -> Any:
    """A member that a model may lack, which is None then."""
    # A property that fails must not pass for a model without it: what its class has is asked for.
    return getattr(model, name) if hasattr(type(model), name) else getattr(model, name, None)


def prior_log_prob(prior_mean: Tensor | None, prior_logvar: Tensor | None, z: Tensor) -> Tensor:
    """Return log p(z), summed over the latent variables: ``(K, B)`` for ``z`` of shape ``(K, B, Z)``."""
    zeros = z.new_zeros(z.shape[-1:])
    return ops.normal_log_prob(
        z, zeros if prior_mean is None else prior_mean, zeros if prior_logvar is None else prior_logvar
    )


def _fits(shape: Sequence[int], whole: Sequence[int]) -> bool:
    """Whether a tensor of a shape broadcasts to another one without enlarging it."""
    return len(shape) <= len(whole) and all(
        size in (1, of_whole) for size, of_whole in zip(reversed(shape), reversed(whole), strict=False)
    )


def member(model: object, name: str) -> str:
    """The name of a model's method or attribute, for messages."""
    return f"{type(model).__name__}.{name}"


def describe(value: object) -> str:
    """What came instead of tensors, with the shapes that tell what it may have been meant for."""
    if isinstance(value, Tensor):
        return f"one tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}: {', '.join(map(describe, value[:4])) or 'nothing'}"
    return type(value).__name__
