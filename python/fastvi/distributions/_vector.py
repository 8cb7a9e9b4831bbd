"""What the distributions of vectors share: shapes and validation, checks of parameters, noise that follows a seed."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from fastvi import ops


def check_parameter(kind: str, name: str, parameter: object) -> None:
    """Refuse what is not a floating-point tensor with an axis of the event.

    Raises
    ------
    TypeError
        If it is not a floating-point tensor.
    ValueError
        If it has no axis.
    """
    if not isinstance(parameter, Tensor) or not parameter.is_floating_point():
        found = parameter.dtype if isinstance(parameter, Tensor) else type(parameter).__name__
        raise TypeError(f"{kind}: {name} must be a floating-point tensor, got {found}")
    if parameter.dim() == 0:
        raise ValueError(f"{kind}: {name} must have at least one axis, that of the event, got a scalar")


def broadcast_parameters(kind: str, first: tuple[str, Tensor], second: tuple[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Broadcast two named parameters, which have one dtype.

    Raises
    ------
    TypeError
        If one is not a floating-point tensor, or they differ in dtype.
    ValueError
        If one has no axis, or their shapes do not broadcast.
    """
    (name, one), (other_name, other) = first, second
    for each in (first, second):
        check_parameter(kind, *each)
    if one.dtype != other.dtype:
        raise TypeError(f"{kind}: {name} and {other_name} must have one dtype, got {one.dtype} and {other.dtype}")
    try:
        found: tuple[Tensor, Tensor] = torch.broadcast_tensors(one, other)  # type: ignore[no-untyped-call, unused-ignore]
    except RuntimeError as error:
        raise ValueError(
            f"{kind}: {name} and {other_name} must broadcast, got {tuple(one.shape)} and {tuple(other.shape)}"
        ) from error
    return found


def validation(validate_args: bool | None, *parameters: Tensor) -> bool | None:
    """Return whether to validate: PyTorch's check of a vector fails on tensors without elements."""
    if validate_args is False:  # under torch.jit.trace sizes are tensors, whose values are not to be asked for
        return False
    return False if any(parameter.numel() == 0 for parameter in parameters) else validate_args


def standard_noise(like: Tensor, sample_shape: Any, seed: int | Tensor | None, row_offset: int) -> Tensor:
    """Draw N(0, 1) of shape ``sample_shape + like.shape`` as :func:`fastvi.rsample_normal` does.

    It has the dtype of ``like``, but float32 for half precision, where the tails would be rounded to few values.
    """
    dtype = like.dtype if like.dtype is torch.float64 else torch.float32
    zeros = like.new_zeros((), dtype=dtype).expand(like.shape)
    with torch.no_grad():
        return ops.rsample_normal(zeros, zeros, sample_shape, seed, row_offset)


class VectorDistribution(Distribution):
    """A distribution whose event is the last axis of its parameters.

    ``_batched`` names the attributes that hold them, of the shape ``batch_shape + (n,)``; a class that has other
    parameters brings its own `expand`.
    """

    _batched: ClassVar[tuple[str, ...]]

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Return the same distribution with its batch expanded, without copying, to ``batch_shape``."""
        owner = next(each for each in type(self).__mro__ if "_batched" in vars(each))
        new = self._get_checked_instance(owner, _instance)  # type: ignore[no-untyped-call, unused-ignore]
        batch = torch.Size(batch_shape)
        for name in self._batched:
            parameter: Tensor = getattr(self, name)
            setattr(new, name, parameter.expand(batch + parameter.shape[-1:]))
        Distribution.__init__(new, batch, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw samples of shape ``sample_shape + batch_shape + (D,)``, without a gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def _look_at(self, value: Tensor) -> None:
        if self._validate_args and value.numel() > 0:
            self._validate_sample(value)


def check_events(p: Distribution, q: Distribution) -> None:
    """Refuse a divergence between vectors of different lengths, which would broadcast.

    Raises
    ------
    ValueError
        The message names both.
    """
    if p.event_shape != q.event_shape:
        one, other = type(p).__name__, type(q).__name__
        kinds = f"two {one}" if one == other else f"a {one} and a {other}"
        raise ValueError(
            f"kl_divergence of {kinds}: events must have one shape, got {p.event_shape} and {q.event_shape}"
        )
