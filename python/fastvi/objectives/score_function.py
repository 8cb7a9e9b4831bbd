"""The score function's gradient of the evidence lower bound, with baselines and a control variate.

Paisley, Blei and Jordan 2012, "Variational Bayesian inference with stochastic search"; the network that predicts the
learning signal: Mnih and Gregor 2014, "Neural variational inference and learning in belief networks".
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from fastvi._options import option
from fastvi.objectives.base import Bound
from fastvi.objectives.bounds import elbo_bound
from fastvi.objectives.draws import DrawingModel, draw
from fastvi.objectives.importance import gradient_only
from fastvi.objectives.model import LatentVariableModel, require_score
from fastvi.objectives.signals import (
    control_variate,
    finite,
    others,
    predicted,
    require_baseline,
    require_control_variate,
)

LEAST_SAMPLES = {"constant": 1, "leave-one-out": 2, "control-variate": 3, "network": 1}
"""The baselines, with the samples that each needs: for a mean of the others, and a regression on the others."""


@dataclasses.dataclass(frozen=True)
class ScoreFunction(Bound):
    """Evidence lower bound whose gradient needs no path through the samples: log w times the score, and d log p.

    It takes any q with a log-probability: discrete latent variables above all, and Gaussian ones, whose samples are
    constants here. The baselines change the variance of the gradient and not its expectation.

    Parameters
    ----------
    num_samples
        K, samples whose bounds and gradients are averaged.
    baseline
        What is taken from log w_k before it multiplies the score of sample k. ``"leave-one-out"``: the mean log w of
        the other samples, needs K >= 2. ``"constant"``: ``baseline_value``. ``"control-variate"``: the least-squares
        prediction from a control variate h(z), fitted to the other samples, needs K >= 3; what it takes from the
        expectation is given back through the known gradient of E_q h. ``"network"``: the model's own ``baseline(x)``,
        which learns by squared error from the same backward pass.
    baseline_value
        The constant, in nats.

    Raises
    ------
    ValueError, TypeError
        If an option is out of its range or of a wrong type, K is too small for the baseline, or a ``baseline_value`` is
        given with another baseline; when it is called, if the model lacks what the baseline needs.

    Notes
    -----
    The value is the mean of the log-weights, whatever the baseline, and a training loop has nothing to add: the squared
    error of the network is no part of the value, and gives a gradient to the network's parameters alone. A signal that
    is infinite or NaN counts as 0. For a Gaussian encoder the control variate is the first-order Taylor polynomial of
    log p(x, z) at the posterior's mean; a model that draws for itself has a ``control_variate``. Source: Paisley, Blei
    and Jordan 2012; Mnih and Gregor 2014 for the network.

    Examples
    --------
    >>> from fastvi.models import SigmoidBeliefNetwork
    >>> model, x = SigmoidBeliefNetwork(16, layer_dims=(4,)), torch.ones(3, 16)
    >>> bound = ScoreFunction(num_samples=4)(model, x, seed=0)
    >>> torch.equal(bound, ScoreFunction(4, "constant", -8.0)(model, x, seed=0))
    True
    >>> bound.mean().backward()
    """

    uses_score = True

    num_samples: int = option("K, samples for each example", at_least=1, usual=5)
    baseline: str = option("what is taken from log w", "leave-one-out", choices=tuple(LEAST_SAMPLES))
    baseline_value: float = option("the constant baseline, in nats", 0.0, at_least=-math.inf)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_samples < LEAST_SAMPLES[self.baseline]:
            raise ValueError(
                f"ScoreFunction: num_samples must be at least {LEAST_SAMPLES[self.baseline]} for "
                f"baseline={self.baseline!r}, got {self.num_samples}"
            )
        if self.baseline_value != 0.0 and self.baseline != "constant":
            raise ValueError(
                f"ScoreFunction: baseline_value={self.baseline_value} needs baseline='constant', got {self.baseline!r}"
            )

    @property
    def uses_network(self) -> bool:
        """Whether the model's baseline network is used, and trained."""
        return self.baseline == "network"

    def check_model(self, model: Any) -> None:
        """Raise unless the model has a bound, and the network or the control variate where the baseline needs it."""
        super().check_model(model)
        require_score(model, "ScoreFunction")
        if self.uses_network:
            require_baseline(model, "ScoreFunction with baseline='network'")
        elif self.baseline == "control-variate":
            require_control_variate(model, "ScoreFunction with baseline='control-variate'")

    def __call__(
        self, model: LatentVariableModel | DrawingModel, x: Any, *, seed: int | None = None, row_offset: int = 0
    ) -> Tensor:
        """Return the bound of each example, ``(B,)``, in nats."""
        self.check_model(model)
        # The score of q inside log w has the mean 0, and is left out: what a baseline takes is the whole of log w.
        drawn = draw(model, x, self.num_samples, detach_posterior=True, score=True, seed=seed, row_offset=row_offset)
        bound = elbo_bound(drawn.log_weights)
        if not torch.is_grad_enabled():
            return bound
        assert drawn.log_posterior is not None
        weights = drawn.log_weights.detach()
        learning: Tensor | float = 0.0
        if self.baseline == "constant":
            signal = weights - self.baseline_value
        elif self.baseline == "leave-one-out":
            signal = weights - finite(others(weights).mean(1))
        elif self.uses_network:
            error = finite(weights) - predicted(model, x, weights)
            signal = weights - finite(weights) + error.detach()
            learning = -0.5 * error.square()
        else:
            values, expectation = control_variate(model, x, drawn.samples, weights)
            scale, prediction = regression(weights, values)
            signal = weights - finite(prediction)
            learning = scale * expectation
        return bound + gradient_only((finite(signal) * drawn.log_posterior + learning).mean(0))


def regression(weights: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares of log w on h over the other samples: the slope, and the prediction of each sample, ``(K, B)``.

    A slope is 0 where the others' h are all the same, to rounding.
    """
    of_others, h = others(weights), others(values)
    mean_weight, mean_h = of_others.mean(1), h.mean(1)
    distance = h - mean_h.unsqueeze(1)
    variance = distance.square().mean(1)
    rounding = (4.0 * torch.finfo(h.dtype).eps * h.abs().amax(1)).square()
    covariance = (distance * (of_others - mean_weight.unsqueeze(1))).mean(1)
    slope = finite(torch.where(variance > rounding, covariance / variance, 0.0))
    return slope, mean_weight + slope * (values - mean_h)
