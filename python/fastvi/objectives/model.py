"""What an objective asks of a model: an encoder q(z|x), a likelihood p(x|z) and a Gaussian prior p(z)."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class LatentVariableModel(Protocol):
    """A model with a diagonal Gaussian approximate posterior and a diagonal Gaussian prior.

    Any object with these four members will do; a ``torch.nn.Module`` is usual. ``B`` is the batch, ``Z`` the number
    of latent variables, ``K`` the number of samples of each example's posterior.

    Attributes
    ----------
    prior_mean, prior_logvar
        Parameters of p(z), each of a shape that broadcasts with ``(B, Z)``; None stands for the zeros of a standard
        normal.
    """

    prior_mean: Tensor | None
    prior_logvar: Tensor | None

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each ``(B, Z)``, for ``x`` of shape ``(B, ...)``."""
        ...

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Log p(x|z) in nats, shape ``(K, B)``, for ``x`` of shape ``(B, ...)`` and ``z`` of shape ``(K, B, Z)``.

        It must be a function of its arguments alone: two estimators (:class:`fastvi.objectives.DReG` under
        ``torch.compile``, :class:`fastvi.objectives.IWAE` with ``backward_samples``) evaluate it twice, so that a
        decoder with dropout would be two different decoders.
        """
        ...


class Objective(Protocol):
    """What a training step calls: a bound for each example, whose gradient is the objective's estimator."""

    @property
    def num_samples(self) -> int:
        """Samples of the posterior drawn for each example."""
        ...

    def __call__(
        self, model: LatentVariableModel, x: Tensor, *, seed: int | None = None, row_offset: int = 0
    ) -> Tensor:
        """Return the bound of each example, ``(B,)``, in nats, to be maximised."""
        ...


def log_likelihood(model: LatentVariableModel, x: Tensor, z: Tensor) -> Tensor:
    """``model.log_likelihood(x, z)``, refusing a result that would broadcast silently into a wrong bound."""
    result = model.log_likelihood(x, z)
    if result.shape != z.shape[:-1]:
        raise ValueError(
            f"{type(model).__name__}.log_likelihood: expected the shape (num_samples, batch) = {tuple(z.shape[:-1])} "
            f"for z of shape {tuple(z.shape)}, got {tuple(result.shape)}"
        )
    return result


def check_count(owner: str, argument: str, value: object, at_least: int = 1) -> None:
    """Raise unless ``value`` is an integer of at least ``at_least``."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{owner}: {argument} must be an int, got {value!r} of type {type(value).__name__}")
    if value < at_least:
        raise ValueError(f"{owner}: {argument} must be at least {at_least}, got {value}")
