"""The multiply importance-weighted bound: the mean of M bounds L_K, of K samples each (Rainforth et al. 2018)."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from fastvi._options import option
from fastvi.objectives.base import Bound
from fastvi.objectives.bounds import elbo_bound, iwae_bound, log_weights
from fastvi.objectives.draws import DrawingModel
from fastvi.objectives.model import LatentVariableModel


@dataclasses.dataclass(frozen=True)
class MIWAE(Bound):
    """Mean of M estimates of the importance-weighted bound L_K, from M K samples.

    With one bound it is :class:`fastvi.objectives.IWAE`, with one sample in each the sampled
    :class:`fastvi.objectives.ELBO`. Between them, the encoder's gradient has the signal-to-noise ratio of IWAE's with K
    samples times the square root of M.

    Parameters
    ----------
    num_bounds
        M, the bounds that are averaged.
    num_samples
        K, the samples of each of them.

    Raises
    ------
    ValueError, TypeError
        If a number is not a positive integer.

    Notes
    -----
    The value is an estimate of L_K, a lower bound on log p(x). Source: Rainforth, Kosiorek, Le, Maddison, Igl, Wood
    and Teh 2018, "Tighter variational bounds are not necessarily better".

    Examples
    --------
    >>> import torch, types
    >>> from fastvi import normal_log_prob
    >>> from fastvi.objectives import IWAE, MIWAE
    >>> model = types.SimpleNamespace(
    ...     encode=lambda x: (x / 2, torch.zeros_like(x)),
    ...     log_likelihood=lambda x, z: normal_log_prob(x, z, torch.zeros_like(x)),
    ... )
    >>> x = torch.ones(3, 2)
    >>> MIWAE(num_bounds=8, num_samples=4)(model, x, seed=0).shape
    torch.Size([3])
    >>> torch.equal(MIWAE(1, 32)(model, x, seed=0), IWAE(32)(model, x, seed=0))
    True
    """

    num_bounds: int = option("M, bounds that are averaged", at_least=1, usual=4)
    num_samples: int = option("K, samples for each example and bound", at_least=1, usual=4)

    def __call__(
        self, model: LatentVariableModel | DrawingModel, x: Any, *, seed: int | None = None, row_offset: int = 0
    ) -> Tensor:
        """Return the bound of each example, ``(B,)``, in nats."""
        drawn = log_weights(model, x, self.num_bounds * self.num_samples, seed=seed, row_offset=row_offset)
        return mean_bound(drawn, self.num_bounds)


def mean_bound(log_weights: Tensor, num_bounds: int) -> Tensor:
    """Mean of M bounds L_K, ``(B,)``, for log-weights of the shape ``(M K, B)``: the first K are those of one bound."""
    grouped = log_weights.unflatten(0, (num_bounds, log_weights.shape[0] // num_bounds))
    return elbo_bound(iwae_bound(grouped, 1))
