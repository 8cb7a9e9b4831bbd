"""A Boltzmann machine with hidden units by enumeration (Ackley, Hinton and Sejnowski 1985)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fastvi import ops
from fastvi._options import option
from fastvi.expfam._checks import check_floating, check_values
from fastvi.expfam.ising import PairwiseFamily, enumerate_states


@dataclass(frozen=True)
class BoltzmannMachine(PairwiseFamily):
    """x = (v, h) in {0, 1}^(V + H), p(x) proportional to exp(sum_i a_i x_i + sum_{i<j} J_ij x_i x_j); minimal.

    An exponential family of visible and hidden units together. The visible ones alone are not one: their
    log-probability is a difference of two log-partition functions, and its gradient E[T | v] - E[T], the clamped and
    the free phase.

    Parameters
    ----------
    visible, hidden
        V, at least 1, and H; 16 together at most.
    restricted
        Leave out the couplings of two visible and of two hidden units.

    Examples
    --------
    >>> machine = BoltzmannMachine(2, 1)
    >>> eta = torch.tensor([0.0, 0.0, -4.0, 0.0, 4.0, 4.0], requires_grad=True)
    >>> v = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> log_prob = machine.visible_log_prob(v, eta)
    >>> log_prob.exp()
    tensor([0.0168, 0.0330, 0.0330, 0.9172], grad_fn=<ExpBackward0>)
    >>> (gradient,) = torch.autograd.grad(log_prob[3], eta)
    >>> torch.allclose(gradient, machine.clamped_mean_parameters(v[3], eta) - machine.mean_parameters(eta), atol=1e-6)
    True
    """

    support = "0 or 1"

    visible: int = option("number of visible units", at_least=1)
    hidden: int = option("number of hidden units")
    restricted: bool = option("leave out couplings within the visible and within the hidden units", False)

    @property
    def num_units(self) -> int:
        """V + H."""
        return self.visible + self.hidden

    @property
    def _values(self) -> tuple[float, float]:
        return 0.0, 1.0

    @cached_property
    def pairs(self) -> Tensor:
        """The two units of each pair, in the order of their couplings, (2, pairs)."""
        pairs = torch.triu_indices(self.num_units, self.num_units, 1)
        return pairs[:, (pairs[0] < self.visible) & (pairs[1] >= self.visible)] if self.restricted else pairs

    def visible_log_prob(self, v: Tensor, eta: Tensor) -> Tensor:
        """Return log p(v), in the batch shape of ``v``, (..., V), and ``eta``; raises as :meth:`log_prob` does."""
        scores, _ = self._clamped(v, eta)
        clamped = ops.log_mean_exp(scores, -1) + self.hidden * torch.log(torch.full_like(scores[..., 0], 2.0))
        return clamped - self._log_partition(eta)

    def hidden_probabilities(self, v: Tensor, eta: Tensor) -> Tensor:
        """Return p(h|v) of all 2^H states of the hidden units, the last changing fastest, ``batch_shape + (2^H,)``."""
        return torch.softmax(self._clamped(v, eta)[0], -1)

    def clamped_mean_parameters(self, v: Tensor, eta: Tensor) -> Tensor:
        """Return E[T(x) | v], ``batch_shape + (n,)``: the E step of EM, and the clamped phase."""
        scores, statistics = self._clamped(v, eta)
        return (torch.softmax(scores, -1).unsqueeze(-2) @ statistics).squeeze(-2)

    def _clamped(self, v: object, eta: Tensor) -> tuple[Tensor, Tensor]:
        """<eta, T> and T of each state of the hidden units beside ``v``, (..., 2^H) and (..., 2^H, n)."""
        eta = self._natural_values("eta", eta)
        given = check_floating(self._name, "v", v).to(eta.dtype)
        if given.dim() == 0 or given.shape[-1] != self.visible:
            raise ValueError(f"{self._name}: v has shape {tuple(given.shape)}, expected (..., {self.visible})")
        check_values(self._name, "v", given, self._support, self.support)
        hidden = enumerate_states(self.hidden, self._values).to(eta)
        batch = given.shape[:-1]
        seen = given.unsqueeze(-2).expand(*batch, len(hidden), -1)
        statistics = self._statistics(torch.cat([seen, hidden.expand(*batch, -1, -1)], -1))
        return (statistics @ eta.unsqueeze(-1)).squeeze(-1), statistics
