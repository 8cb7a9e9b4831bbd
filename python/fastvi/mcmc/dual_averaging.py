"""Dual averaging: step sizes whose acceptance probability comes to a target (Hoffman and Gelman 2014)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class StepSizeState(NamedTuple):
    """What dual averaging knows: numbers, or tensors ``(C,)`` of one for each chain.

    Attributes
    ----------
    log_step_size, log_averaged
        Of the step size to try next, and of the average of those tried, to keep at the end.
    centre
        What log step sizes shrink towards.
    error
        The average of target acceptance minus acceptance.
    num_updates
        Updates so far.
    """

    log_step_size: float | Tensor
    log_averaged: float | Tensor
    centre: float | Tensor
    error: float | Tensor
    num_updates: int

    @property
    def step_size(self) -> float | Tensor:
        """The step size to try next."""
        return _exp(self.log_step_size)

    @property
    def averaged_step_size(self) -> float | Tensor:
        """The average of the step sizes so far: what to keep when adaptation ends."""
        return _exp(self.log_averaged)


@dataclass(frozen=True)
class DualAveraging:
    r"""Step sizes whose acceptance probability comes to a target.

    .. math:: \bar H_t = (1 - \tfrac1{t + t_0}) \bar H_{t-1} + \tfrac1{t + t_0} (\delta - \alpha_t), \quad
        \log \epsilon_{t+1} = \log(10 \epsilon_0) - \tfrac{\sqrt t}{\gamma} \bar H_t, \quad
        \log \bar\epsilon_t = t^{-\kappa} \log \epsilon_{t+1} + (1 - t^{-\kappa}) \log \bar\epsilon_{t-1}

    Parameters
    ----------
    target
        :math:`\delta`, the acceptance probability to come to.
    gamma, t0, kappa
        How fast it moves, how much the first updates count for, how fast early step sizes are forgotten.

    References
    ----------
    Hoffman, Gelman: The No-U-Turn sampler. JMLR 2014, equation 6 and algorithm 5.

    Examples
    --------
    >>> averaging = DualAveraging(target=0.8)
    >>> state = averaging.init(0.1)
    >>> for _ in range(200):  # acceptance falls as the step size grows
    ...     state = averaging.update(state, 1.0 / (1.0 + state.step_size))
    >>> round(state.averaged_step_size, 2)
    0.25
    """

    target: float = 0.8
    gamma: float = 0.05
    t0: float = 10.0
    kappa: float = 0.75

    def init(self, step_size: float | Tensor) -> StepSizeState:
        """Start from a step size, or from one for each chain."""
        log_step_size = _log(step_size)
        return StepSizeState(log_step_size, log_step_size, math.log(10.0) + log_step_size, 0.0 * log_step_size, 0)

    def update(self, state: StepSizeState, acceptance: float | Tensor) -> StepSizeState:
        """Take the acceptance probability, not whether proposals were accepted, of a step of ``state.step_size``."""
        count = state.num_updates + 1
        weight = 1.0 / (count + self.t0)
        error = (1.0 - weight) * state.error + weight * (self.target - acceptance)
        log_step_size = state.centre - (math.sqrt(count) / self.gamma) * error
        weight = count**-self.kappa
        log_averaged = weight * log_step_size + (1.0 - weight) * state.log_averaged
        return StepSizeState(log_step_size, log_averaged, state.centre, error, count)


def _log(value: float | Tensor) -> float | Tensor:
    return value.double().log() if isinstance(value, Tensor) else math.log(value)


def _exp(value: float | Tensor) -> float | Tensor:
    # Beyond all floating-point numbers math.exp would raise.
    return value.exp() if isinstance(value, Tensor) else math.exp(min(value, 700.0))
