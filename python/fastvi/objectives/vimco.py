"""Variational inference for Monte Carlo objectives: the gradient of L_K for samples that have no path.

Mnih and Rezende 2016, "Variational inference for Monte Carlo objectives".
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from fastvi import ops
from fastvi._options import option
from fastvi.objectives.base import Bound
from fastvi.objectives.bounds import iwae_bound
from fastvi.objectives.draws import DrawingModel, draw
from fastvi.objectives.importance import gradient_only
from fastvi.objectives.model import LatentVariableModel, require_score
from fastvi.objectives.signals import finite, others


@dataclasses.dataclass(frozen=True)
class VIMCO(Bound):
    """Importance-weighted bound L_K whose gradient needs no path through the samples, with a baseline for each of them.

    The score of sample k is multiplied by L_K - L_K(k): by how much the bound rises because its weight is w_k and not a
    mean of the others' weights. No parameters are added, and the gradient is unbiased.

    Parameters
    ----------
    num_samples
        K, at least 2.
    mean
        The mean of the other weights that stands for w_k in L_K(k): ``"geometric"`` or ``"arithmetic"``.

    Raises
    ------
    ValueError, TypeError
        If ``num_samples`` is not an integer of at least 2, or there is no such mean.

    Notes
    -----
    The value is that of :class:`fastvi.objectives.IWAE`, L_K. Memory beside the model's: K (K - 1) B numbers. A
    baseline or a signal that is infinite or NaN counts as 0. Source: Mnih and Rezende 2016.

    Examples
    --------
    >>> from fastvi.models import SigmoidBeliefNetwork
    >>> from fastvi.objectives import IWAE
    >>> model, x = SigmoidBeliefNetwork(16, layer_dims=(4,)), torch.ones(3, 16)
    >>> torch.equal(VIMCO(5)(model, x, seed=0), IWAE(5)(model, x, seed=0))
    True
    >>> VIMCO(1)
    Traceback (most recent call last):
    ...
    ValueError: VIMCO: num_samples must be at least 2, got 1
    """

    uses_score = True

    num_samples: int = option("K, samples for each example", at_least=2, usual=5)
    mean: str = option(
        "of the other weights, for a sample's baseline", "geometric", choices=("geometric", "arithmetic")
    )

    def check_model(self, model: Any) -> None:
        """Raise unless the model has a bound, and samples with a score."""
        super().check_model(model)
        require_score(model, "VIMCO")

    def __call__(
        self, model: LatentVariableModel | DrawingModel, x: Any, *, seed: int | None = None, row_offset: int = 0
    ) -> Tensor:
        """Return the bound of each example, ``(B,)``, in nats."""
        self.check_model(model)
        drawn = draw(model, x, self.num_samples, score=True, seed=seed, row_offset=row_offset)
        bound = iwae_bound(drawn.log_weights)
        if not torch.is_grad_enabled():
            return bound
        assert drawn.log_posterior is not None
        rest = others(drawn.log_weights.detach())
        if self.mean == "geometric":  # of K weights; the arithmetic mean of K - 1 is that of them and itself
            rest = torch.cat([rest, rest.mean(1, keepdim=True)], 1)
        signal = finite(bound.detach() - finite(ops.log_mean_exp(rest, 1)))
        return bound + gradient_only((signal * drawn.log_posterior).sum(0))
