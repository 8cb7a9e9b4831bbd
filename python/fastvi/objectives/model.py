"""What an objective asks of a model: an encoder q(z|x), a likelihood p(x|z) and a Gaussian prior p(z), or a ``draw``.

What the model gives is checked here once for all objectives, so that a mistake in it is told in its own words and
does not broadcast into another bound.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fastvi import ops
from fastvi.ops._one_node import Terms


class LatentVariableModel(Protocol):
    """A model with a diagonal Gaussian approximate posterior and a diagonal Gaussian prior.

    Any object with ``encode`` and ``log_likelihood`` will do; a ``torch.nn.Module`` is usual. ``B`` is the batch, ``Z``
    the number of latent variables, ``K`` the number of samples of each example's posterior.

    Attributes
    ----------
    prior_mean, prior_logvar
        Parameters of p(z), of the shape (Z,), the same for all examples, or (B, Z), one prior for each example of the
        batch. None, or a model without the attribute, stands for the zeros of a standard normal. The components of a
        mixture are no prior of this kind: of the shape (C, Z), they would be taken for those of C examples.
    """

    def encode(self, x: Any) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each ``(B, Z)``, for ``x`` of shape ``(B, ...)``."""
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


def has_bound(model: object) -> bool:
    """Whether a bound on log p(x) can be estimated: by a ``draw``, or by ``encode`` and ``log_likelihood``."""
    return has_own_draw(model) or not lacking(model)


def lacking(model: object) -> list[str]:
    """Return which of the methods ``encode`` and ``log_likelihood`` the model lacks."""
    return [name for name in ("encode", "log_likelihood") if not hasattr(model, name)]


def require_encoder(model: object, owner: str) -> None:
    """Raise unless the model has the Gaussian encoder and the likelihood that ``owner`` cannot do without.

    Raises
    ------
    TypeError
        The message says what the model lacks.
    """
    if missing := lacking(model):
        raise TypeError(
            f"{owner}: needs a model with the methods encode and log_likelihood; "
            f"{type(model).__name__} lacks {' and '.join(missing)}"
        )


def require_path(model: object, owner: str) -> None:
    """Raise unless the samples can be changed on their way into the densities: those of a Gaussian encoder always.

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
            f"{owner}: needs the samples of a Gaussian encode; {type(model).__name__} has a draw of its own, without "
            "the argument path that would give them"
        )


def terms_at_once(model: Any, x: Any, asked: Terms, seed: int | None) -> Any:
    """The terms of a bound by one operation of the model's; None where the model has none for this call."""
    at_once = getattr(type(model), "_terms_at_once", None)
    return None if at_once is None else at_once(model, x, asked, seed)


def posterior(model: Any, x: Any) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of q(z|x), each ``(B, Z)``: what ``model.encode(x)`` returns, checked.

    One of them may broadcast to the other's shape, such as a log-variance that all examples share.

    Raises
    ------
    TypeError, ValueError
        If ``encode`` does not return a pair of floating-point tensors of such shapes.
    """
    require_encoder(model, "a bound on log p(x)")
    found: Any = model.encode(x)
    if not isinstance(found, (tuple, list)) or len(found) != 2 or not all(isinstance(part, Tensor) for part in found):
        raise TypeError(f"{member(model, 'encode')}: expected a pair (mean, logvar) of tensors, got {describe(found)}")
    mean, logvar = found
    if not mean.is_floating_point() or not logvar.is_floating_point():
        raise TypeError(
            f"{member(model, 'encode')}: expected floating-point tensors (mean, logvar), "
            f"got {mean.dtype} and {logvar.dtype}"
        )
    if mean.dtype is not logvar.dtype and not torch.is_autocast_enabled(mean.device.type):
        raise TypeError(
            f"{member(model, 'encode')}: expected mean and logvar of one dtype, got {mean.dtype} and {logvar.dtype}"
        )
    if mean.shape != logvar.shape:
        if _fits(logvar.shape, mean.shape):
            logvar = logvar.expand(mean.shape)
        elif _fits(mean.shape, logvar.shape):
            mean = mean.expand(logvar.shape)
    batch = x.shape[0] if isinstance(x, Tensor) and x.dim() > 0 else None
    if mean.shape != logvar.shape or mean.dim() != 2 or (batch is not None and mean.shape[0] != batch):
        of = "" if batch is None else f" for x of shape {tuple(x.shape)}"
        raise ValueError(
            f"{member(model, 'encode')}: expected mean and logvar of the shape "
            f"({'batch' if batch is None else batch}, latent variables){of}, "
            f"got {tuple(found[0].shape)} and {tuple(found[1].shape)}"
        )
    return mean, logvar


def prior(model: Any, posterior_mean: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The prior's mean and log-variance, None for the zeros of a standard normal, checked against the posterior's.

    Raises
    ------
    TypeError, ValueError
        If one of them is not a tensor, or not of a shape that broadcasts to the posterior's.
    """
    sizes = posterior_mean.shape
    return _prior_parameter(model, "prior_mean", sizes), _prior_parameter(model, "prior_logvar", sizes)


def _prior_parameter(model: object, name: str, sizes: Sequence[int]) -> Tensor | None:
    # A property that fails must not pass for a model without a prior of its own: what its class has is asked for.
    value: Any = getattr(model, name) if hasattr(type(model), name) else getattr(model, name, None)
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
    result: Any = model.log_likelihood(x, z)
    if not isinstance(result, Tensor):
        raise TypeError(
            f"{member(model, 'log_likelihood')}: expected a tensor of the shape (num_samples, batch) = "
            f"{tuple(z.shape[:-1])}, got {describe(result)}"
        )
    if result.shape != z.shape[:-1]:
        raise ValueError(
            f"{member(model, 'log_likelihood')}: expected the shape (num_samples, batch) = {tuple(z.shape[:-1])} "
            f"for z of shape {tuple(z.shape)}, got {tuple(result.shape)}"
        )
    if not result.is_floating_point():
        raise TypeError(f"{member(model, 'log_likelihood')}: expected floating-point nats, got {result.dtype}")
    return result


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
