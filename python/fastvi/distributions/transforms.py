"""Invertible modules as transforms: they make normalising flows (Rezende and Mohamed 2015)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints


class ModuleTransform(Transform):
    """An invertible module as a transform of vectors, for ``torch.distributions.TransformedDistribution``.

    Parameters
    ----------
    module
        ``module(x)`` returns y and log |det dy/dx|, of shapes (N, D) and (N,), for x of shape (N, D);
        ``module.inverse(y)`` returns x and log |det dx/dy|. A module without ``inverse`` is sampled, and its samples
        have a density, but other places have none.
    context
        A tensor for each example, of shape batch_shape + (H,), which both functions get as their second argument, one
        row for each row of x. None: they have one argument.

    Raises
    ------
    TypeError
        If one of the functions does not return two tensors.
    NotImplementedError
        If the inverse is needed, and the module has none.

    Examples
    --------
    >>> import math, torch
    >>> from torch.distributions import TransformedDistribution
    >>> from fastvi.distributions import DiagNormal, ModuleTransform
    >>> class Scale(torch.nn.Module):
    ...     def forward(self, x):
    ...         return 2.0 * x, x.new_full(x.shape[:1], x.shape[1] * math.log(2.0))
    ...     def inverse(self, y):
    ...         return y / 2.0, y.new_full(y.shape[:1], -y.shape[1] * math.log(2.0))
    >>> normal = DiagNormal(torch.zeros(3, 2), torch.zeros(3, 2))
    >>> flow = TransformedDistribution(normal, [ModuleTransform(Scale())])
    >>> wide = DiagNormal(torch.zeros(3, 2), torch.full((3, 2), math.log(4.0)))
    >>> bool(torch.allclose(flow.log_prob(torch.ones(3, 2)), wide.log_prob(torch.ones(3, 2))))
    True
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, module: nn.Module, context: Tensor | None = None, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)  # type: ignore[no-untyped-call, unused-ignore]
        self.module, self.context = module, context
        self._latest: tuple[Tensor, Tensor, Tensor] | None = None  # x, y and the determinant that came with them

    def with_cache(self, cache_size: int = 1) -> ModuleTransform:
        """Return the same transform with PyTorch's cache of the latest x and y."""
        return ModuleTransform(self.module, self.context, cache_size)

    def _call(self, x: Tensor) -> Tensor:
        y, log_abs_det = self._run(self.module, x)
        self._latest = x, y, log_abs_det
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        inverse = getattr(self.module, "inverse", None)
        if inverse is None:
            raise NotImplementedError(
                f"{type(self.module).__name__} has no inverse, which the density at a given place takes"
            )
        x, log_abs_det = self._run(inverse, y)
        self._latest = x, y, -log_abs_det
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log |det dy/dx|, of the shape of x less its last axis."""
        if self._latest is not None and self._latest[0] is x and self._latest[1] is y:
            return self._latest[2]
        return self._run(self.module, x)[1]

    def _run(self, function: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        arguments = [x]
        leading = x.shape[:-1]
        if self.context is not None:
            leading = torch.broadcast_shapes(leading, self.context.shape[:-1])
            arguments = [value.expand(*leading, value.shape[-1]) for value in (x, self.context)]
        found: Any = function(*(value.reshape(-1, value.shape[-1]) for value in arguments))
        if not isinstance(found, (tuple, list)) or len(found) != 2 or not all(isinstance(a, Tensor) for a in found):
            raise TypeError(
                f"ModuleTransform: {type(self.module).__name__} must return the pair of its result and log |det|, "
                f"got {type(found).__name__}"
            )
        return found[0].reshape(*leading, -1), found[1].reshape(leading)
