"""The thermodynamic variational objective (Masrani, Le and Wood 2019)."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastvi import ops
from fastvi._options import option
from fastvi.objectives.base import Bound
from fastvi.objectives.draws import DrawingModel, draw
from fastvi.objectives.importance import gradient_only
from fastvi.objectives.model import LatentVariableModel, has_own_draw, member


@dataclasses.dataclass(frozen=True)
class TVO(Bound):
    """Thermodynamic bound: a Riemann sum of log p(x) = int_0^1 E_{pi_beta}[log w] d beta.

    Here pi_beta is proportional to q(z|x)^(1 - beta) p(x, z)^beta, a path from q to the posterior along which the
    integrand rises, so that left sums are lower bounds and right sums upper ones. Its expectations are estimated by the
    same S samples of q, with weights proportional to w^beta.

    Parameters
    ----------
    num_samples
        S, at least 2: the covariances that train the encoder are those of one example's samples.
    num_partitions
        P, the intervals of the sum. With one, the left sum is the ELBO and the right one estimates the evidence upper
        bound log p(x) + KL(p(z|x) || q(z|x)).
    first_beta
        Where the first of several intervals ends; the others are equally long in log beta.
    endpoint
        ``"left"`` or ``"right"``: the end of each interval at which the integrand is taken.

    Raises
    ------
    ValueError, TypeError
        If a number or word is out of its range, or ``first_beta`` not between 0 and 1; or if a model's ``draw`` gives
        ``log_posterior`` for samples that all have a gradient, so that the score would count twice.

    Notes
    -----
    The value is sum_i (beta_{i+1} - beta_i) sum_s v_s(beta) log w_s, with v(beta) the normalised w^beta and beta the
    chosen end. Of the same samples, left sum <= L_S <= right sum, and both go to L_S with P: the left sum is a lower
    bound on log p(x) for any S and P, and the right sum an upper one for many samples.

    The gradient for the likelihood and the prior is that of the value. For samples without a path (those of a model
    that gives ``log_posterior``, and of every Gaussian encoder, which are held here) the encoder's is the covariance
    form, at each beta

        sum_s v_s ((1 - beta) S / (S - 1) (log w_s - m) - 1) grad log q(z_s|x),   m = sum_s v_s log w_s,

    which needs no reparameterisation: unbiased for the ELBO's gradient at beta = 0, the wake-phi update of reweighted
    wake-sleep at beta = 1, and with an error of order 1 / S between them. Samples that are reparameterised by a
    ``draw`` of the model's own have the gradient of the value along their path instead, never both.

    To raise the right sum in the encoder moves q away from the posterior: it is there to look at.
    Source: Masrani, Le and Wood 2019, "The thermodynamic variational objective"; the covariance is its equation 12.

    Examples
    --------
    >>> import torch, types
    >>> from fastvi import normal_log_prob
    >>> from fastvi.objectives import IWAE, TVO
    >>> model = types.SimpleNamespace(
    ...     encode=lambda x: (x / 2, torch.zeros_like(x)),
    ...     log_likelihood=lambda x, z: normal_log_prob(x, z, torch.zeros_like(x)),
    ... )
    >>> x = torch.ones(3, 2)
    >>> left, right = (TVO(10, endpoint=end)(model, x, seed=0) for end in ("left", "right"))
    >>> between = IWAE(10)(model, x, seed=0)
    >>> bool((left <= between).all()), bool((between <= right).all())
    (True, True)
    """

    uses_score = True

    num_samples: int = option("S, samples for each example", at_least=2, usual=10)
    num_partitions: int = option("intervals of the sum", 5, at_least=1)
    first_beta: float = option("end of the first of several intervals, between 0 and 1", 0.0813)
    endpoint: str = option("end of each interval that stands for it", "left", choices=("left", "right"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.first_beta < 1.0:
            raise ValueError(f"TVO: first_beta must be between 0 and 1, got {self.first_beta}")

    def betas(self) -> tuple[float, ...]:
        """Ends of the intervals, from 0 to 1."""
        last = self.num_partitions - 1
        between = [self.first_beta ** (1.0 - place / last) for place in range(last)] if last > 0 else []
        return (0.0, *between, 1.0)

    def __call__(
        self, model: LatentVariableModel | DrawingModel, x: Any, *, seed: int | None = None, row_offset: int = 0
    ) -> Tensor:
        """Return the sum of each example, ``(B,)``, in nats."""
        has_draw = has_own_draw(model)
        drawn = draw(model, x, self.num_samples, score=not has_draw, seed=seed, row_offset=row_offset)
        layers = (drawn.samples,) if isinstance(drawn.samples, Tensor) else drawn.samples
        if drawn.log_posterior is not None and all(layer.requires_grad for layer in layers):
            raise ValueError(
                f"TVO: {member(model, 'draw')} gives log_posterior for samples that carry their gradient themselves: "
                "path and score are two estimates of one gradient, expected one of them"
            )
        betas = self.betas()
        points = betas[:-1] if self.endpoint == "left" else betas[1:]
        means = tempered_means(drawn.log_weights, points, drawn.log_posterior)
        lengths = means.new_tensor([end - start for start, end in itertools.pairwise(betas)])
        return (lengths.unsqueeze(1) * means).sum(0)


def tempered_means(log_weights: Tensor, betas: Sequence[float], log_posterior: Tensor | None = None) -> Tensor:
    """Estimate E_{pi_beta}[log w] of each beta, ``(P, B)``, from log-weights of the shape ``(S, B)``: see :class:`TVO`.

    With ``log_posterior``, log q of samples that carry no gradient, the gradient has the covariance with the score.
    """
    beta = log_weights.new_tensor(betas).reshape(-1, 1, 1)
    # Samples without weight have no part but at beta = 0, where one makes the mean minus infinity, and examples without
    # any weight have none. A number stands in their place, because 0 times minus infinity is NaN.
    empty = log_weights == -math.inf
    impossible = empty.all(0)
    finite = log_weights.masked_fill(empty, 0.0)
    weights = ops.importance_weights((beta * finite).masked_fill(empty & ~impossible & (beta > 0.0), -math.inf), 1)
    means = (weights * finite).sum(1)
    infinite = torch.where(beta[:, 0] > 0.0, impossible, empty.any(0))
    found = means.masked_fill(infinite, -math.inf)
    if log_posterior is None:
        return found
    # The mean's own gradient has the covariance with beta log w, hence with -beta log q: what is missing of
    # (1 - beta) log q is added, where the factor S / (S - 1) takes the bias of a sample covariance away.
    factor = beta + (1.0 - beta) * (log_weights.shape[0] / (log_weights.shape[0] - 1))
    deviations = (factor * weights * (finite - means.unsqueeze(1))).detach().masked_fill(infinite.unsqueeze(1), 0.0)
    return found + gradient_only((deviations * log_posterior).sum(1))
