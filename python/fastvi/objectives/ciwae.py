"""The combination of the evidence lower bound and the importance-weighted one (Rainforth et al. 2018)."""

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
class CIWAE(Bound):
    """Combination beta ELBO + (1 - beta) L_K of two bounds, estimated with the same K samples.

    Parameters
    ----------
    num_samples
        K.
    beta
        Weight of the evidence lower bound, between 0, which is :class:`fastvi.objectives.IWAE`, and 1, which is the
        sampled :class:`fastvi.objectives.ELBO`.

    Raises
    ------
    ValueError, TypeError
        If ``num_samples`` is not a positive integer, or ``beta`` not a number from 0 to 1.

    Notes
    -----
    A lower bound on log p(x), as both of its parts are. Source: Rainforth et al. 2018, "Tighter variational bounds are
    not necessarily better".

    Examples
    --------
    >>> import torch, types
    >>> from fastvi import normal_log_prob
    >>> from fastvi.objectives import CIWAE, IWAE
    >>> model = types.SimpleNamespace(
    ...     encode=lambda x: (x / 2, torch.zeros_like(x)),
    ...     log_likelihood=lambda x, z: normal_log_prob(x, z, torch.zeros_like(x)),
    ... )
    >>> x = torch.ones(3, 2)
    >>> bool((CIWAE(5, beta=0.5)(model, x, seed=0) <= IWAE(5)(model, x, seed=0)).all())
    True
    """

    num_samples: int = option("K, samples for each example", at_least=1, usual=5)
    beta: float = option("weight of the ELBO, from 0 to 1", 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta > 1.0:
            raise ValueError(f"CIWAE: beta must be at most 1, got {self.beta}")

    def __call__(
        self, model: LatentVariableModel | DrawingModel, x: Any, *, seed: int | None = None, row_offset: int = 0
    ) -> Tensor:
        """Return the bound of each example, ``(B,)``, in nats."""
        drawn = log_weights(model, x, self.num_samples, seed=seed, row_offset=row_offset)
        # A bound without weight is left out: the ELBO may be minus infinity where L_K is not, and zero of it is NaN.
        if self.beta == 0.0:
            return iwae_bound(drawn)
        if self.beta == 1.0:
            return elbo_bound(drawn)
        return self.beta * elbo_bound(drawn) + (1.0 - self.beta) * iwae_bound(drawn)
