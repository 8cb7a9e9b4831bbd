"""The variational Rényi bound (Li and Turner 2016)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from torch import Tensor

from fastvi import ops
from fastvi._options import option
from fastvi.objectives.base import Bound
from fastvi.objectives.bounds import elbo_bound, iwae_bound, log_weights
from fastvi.objectives.draws import DrawingModel
from fastvi.objectives.model import LatentVariableModel

_LIMIT = 1e-8
"""So near to 1, alpha is taken for it. The bounds differ by half of that times the variance of the log-weights."""


@dataclasses.dataclass(frozen=True)
class Renyi(Bound):
    """Rényi bound 1 / (1 - alpha) log E_q[w^(1 - alpha)], with the expectation estimated by K samples.

    With K growing it falls as alpha rises: log p(x) at 0, where K samples give :class:`fastvi.objectives.IWAE`, and the
    ELBO at 1. An alpha below 0 gives an upper bound on log p(x) in the limit, estimated from below.

    Parameters
    ----------
    num_samples
        K. With one sample every alpha gives the ELBO.
    alpha
        Order of the divergence of q from the posterior, any finite number; 1 is its limit, the mean of the log-weights.

    Raises
    ------
    ValueError, TypeError
        If ``num_samples`` is not a positive integer, or ``alpha`` not a finite number.

    Notes
    -----
    The gradient is that of the value: the reparameterised log-weights' gradients, weighed by the normalised
    w^(1 - alpha). A weight of zero makes the value minus infinity for any alpha of 1 or more; above 1 it then has
    no gradient.
    Source: Li and Turner 2016, "Rényi divergence variational inference".

    Examples
    --------
    >>> import torch, types
    >>> from fastvi import normal_log_prob
    >>> from fastvi.objectives import IWAE, Renyi
    >>> model = types.SimpleNamespace(
    ...     encode=lambda x: (x / 2, torch.zeros_like(x)),
    ...     log_likelihood=lambda x, z: normal_log_prob(x, z, torch.zeros_like(x)),
    ... )
    >>> x = torch.ones(3, 2)
    >>> torch.allclose(Renyi(5, alpha=0.0)(model, x, seed=0), IWAE(5)(model, x, seed=0))
    True
    >>> bool((Renyi(5, alpha=0.5)(model, x, seed=0) <= Renyi(5, alpha=-0.5)(model, x, seed=0)).all())
    True
    """

    num_samples: int = option("K, samples for each example", at_least=1, usual=5)
    alpha: float = option("order of the divergence; 0 is IWAE, 1 the ELBO", 0.5, at_least=-math.inf)

    def __call__(
        self, model: LatentVariableModel | DrawingModel, x: Any, *, seed: int | None = None, row_offset: int = 0
    ) -> Tensor:
        """Return the bound of each example, ``(B,)``, in nats."""
        return renyi_bound(log_weights(model, x, self.num_samples, seed=seed, row_offset=row_offset), self.alpha)


def renyi_bound(log_weights: Tensor, alpha: float) -> Tensor:
    """Log of the mean of w^(1 - alpha), over 1 - alpha, ``(B,)`` for log-weights of the shape ``(K, B)``."""
    scale = 1.0 - alpha
    if scale == 1.0:
        return iwae_bound(log_weights)
    if abs(scale) < _LIMIT:
        return elbo_bound(log_weights)
    # In float64, because the quotient enlarges the rounding of the logarithm where alpha is near 1.
    wide = log_weights.double()
    if scale > 0.0:
        return (ops.log_mean_exp(scale * wide, 0) / scale).to(log_weights.dtype)
    # A negative power of a weight of zero is infinite: the bound is known, and has no gradient.
    impossible = (wide == -math.inf).any(0)
    bound = ops.log_mean_exp(scale * wide.masked_fill(impossible, 0.0), 0) / scale
    return bound.masked_fill(impossible, -math.inf).to(log_weights.dtype)
