"""Forward-backward and Viterbi for hidden Markov models, in log space, over sequences one behind the other.

On a CPU they are native; elsewhere all sequences go on together, one row of each at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastvi.ops._backends import MODULES

_PAIRS = 65536
"""Rows x states whose expected transitions are made at once."""


@dataclass(frozen=True)
class Chains:
    """What forward-backward gives, in float64: posteriors (N, K) of states, transitions (K, K), the log-likelihood."""

    log_likelihood: float
    posteriors: Tensor
    transitions: Tensor


def forward_backward(log_densities: Tensor, starts: Tensor, log_start: Tensor, log_transition: Tensor) -> Chains:
    """Posterior probabilities of states, and expected transitions from the row's state to the column's.

    Parameters
    ----------
    log_densities
        Of each row under each state, (N, K) in float64.
    starts
        The rows at which sequences begin, and N behind them: (S + 1,) in int64 on the CPU.
    log_start, log_transition
        (K,) and (K, K) in float64, on the CPU.
    """
    posteriors, transitions = torch.empty_like(log_densities), torch.zeros_like(log_transition)
    if log_densities.device.type != "cpu":
        return _forward_backward_formula(log_densities, starts, log_start, log_transition)
    total: float = MODULES.cpu.hidden_markov_posteriors(
        log_densities, starts, log_start, log_transition, posteriors, transitions
    )
    return Chains(total, posteriors, transitions)


def best_path(log_densities: Tensor, starts: Tensor, log_start: Tensor, log_transition: Tensor) -> Tensor:
    """The most probable states of each sequence, (N,) in int64, by Viterbi's algorithm; of equal ones the first."""
    if log_densities.device.type != "cpu":
        own = log_densities.cpu()
        return best_path(own, starts, log_start, log_transition).to(log_densities.device)
    path = torch.empty(len(log_densities), dtype=torch.int64)
    MODULES.cpu.hidden_markov_path(log_densities, starts, log_start, log_transition, path)
    return path


def _forward_backward_formula(
    log_densities: Tensor, starts: Tensor, log_start: Tensor, log_transition: Tensor
) -> Chains:
    log_start, log_transition = log_start.to(log_densities), log_transition.to(log_densities)
    lengths = starts.diff()
    order = lengths.argsort(descending=True, stable=True)
    begins, lengths = starts[:-1][order], lengths[order]
    steps = [begins[: int((lengths > t).sum())] + t for t in range(int(lengths[0]))]  # the longest comes first
    alpha, beta = torch.empty_like(log_densities), torch.zeros_like(log_densities)
    alpha[steps[0]] = log_start + log_densities[steps[0]]
    for rows in steps[1:]:
        alpha[rows] = (alpha[rows - 1][:, :, None] + log_transition).logsumexp(1) + log_densities[rows]
    for rows in reversed(steps[1:]):
        beta[rows - 1] = (log_transition + (log_densities[rows] + beta[rows])[:, None]).logsumexp(2)
    of_sequences = alpha[starts[1:] - 1].logsumexp(1)
    totals = of_sequences.repeat_interleave(starts.diff().to(alpha.device))[:, None]
    possible = totals > -math.inf
    posteriors = torch.where(possible, (alpha + beta - totals).exp(), 0.0)
    is_first = torch.zeros(len(alpha), dtype=torch.bool)
    is_first[starts[:-1]] = True
    later = (~is_first).nonzero()[:, 0]
    transitions = torch.zeros_like(log_transition)
    for rows in later.split(max(1, _PAIRS // alpha.shape[1])):
        joint = (
            alpha[rows - 1][:, :, None] + log_transition + (log_densities[rows] + beta[rows] - totals[rows])[:, None]
        )
        transitions += torch.where(possible[rows][:, :, None], joint.exp(), 0.0).sum(0)
    return Chains(float(of_sequences.sum()), posteriors, transitions.cpu())
