"""Conjugate priors (Diaconis and Ylvisaker 1979, "Conjugate priors for exponential families")."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Distribution

from fastvi.expfam._checks import check_broadcast, check_floating, check_values, check_vector, positive

if TYPE_CHECKING:
    from fastvi.expfam.base import ExponentialFamily


class ConjugatePrior:
    """A distribution of natural parameters, p(eta) proportional to exp(<eta, chi> - nu A(eta)).

    ``nu`` counts observations that were made before, and ``chi`` is the sum of their statistics: a prior whose means
    are m and that weighs as much as ``nu`` rows is ``ConjugatePrior(family, nu * m, nu)``. The density is one of eta,
    not of another parameter: of the log-odds for Bernoulli, for which it is Beta(chi, nu - chi) of the probability.

    Parameters
    ----------
    family
        Of x.
    chi
        ``batch_shape + (n,)``; chi / nu has to be in the interior of the mean parameters.
    nu
        ``batch_shape``, or a number; positive.

    Raises
    ------
    TypeError, ValueError
        If the arguments are not as above.
    NotImplementedError
        From what needs the normaliser, where that has no closed form: for beta, Dirichlet, gamma, von Mises, Ising and
        Boltzmann machines.

    Examples
    --------
    >>> import torch
    >>> from fastvi.expfam import Bernoulli
    >>> prior = Bernoulli().conjugate_prior(torch.tensor([1.0]), 2.0)  # Beta(1, 1): uniform
    >>> posterior = prior.posterior(torch.tensor([1.0, 1.0, 1.0, 0.0]))
    >>> posterior.mean()  # (1 + 3) / (2 + 4)
    tensor([0.6667])
    >>> posterior.log_predictive(torch.tensor(1.0)).exp()
    tensor(0.6667)
    >>> prior.log_evidence(torch.tensor([1.0, 1.0, 1.0, 0.0])).exp()  # B(4, 2) = 1/20
    tensor(0.0500)
    """

    def __init__(self, family: ExponentialFamily, chi: Tensor, nu: Tensor | float) -> None:
        owner = f"{type(family).__name__}.conjugate_prior"
        self.family = family
        self.chi = check_vector(owner, "chi", chi, family.num_statistics)
        count = nu if isinstance(nu, Tensor) else torch.as_tensor(nu, dtype=self.chi.dtype, device=self.chi.device)
        self.nu = check_floating(owner, "nu", count)
        check_broadcast(owner, "chi", self.chi.shape[:-1], "nu", self.nu.shape)
        check_values(owner, "nu", self.nu, positive, "positive", 0)
        check_values(owner, "chi / nu", self.mean(), family._mean_domain, family.mean_range)

    def posterior(self, x: Tensor, weights: Tensor | None = None) -> ConjugatePrior:
        """The distribution of eta after the rows of x were seen, each as often as its weight says.

        Shapes and errors are those of :meth:`ExponentialFamily.moments`, but there may be no rows.
        """
        statistics = self.family.statistics(x)
        if statistics.dim() < 2:
            raise ValueError(f"{self.family._name}: x must have an axis of rows, got {tuple(x.shape)}")
        if weights is None:
            return ConjugatePrior(self.family, self.chi + statistics.sum(0), self.nu + len(statistics))
        counts = self.family._row_weights(weights, statistics.shape[:-1], statistics)
        return ConjugatePrior(
            self.family, self.chi + (counts.unsqueeze(-1) * statistics).sum(0), self.nu + counts.sum(0)
        )

    def mean(self) -> Tensor:
        """E[mu] = chi / nu, the expectation of the mean parameters, ``batch_shape + (n,)``."""
        return self.chi / self.nu.unsqueeze(-1)

    def mode(self) -> Tensor:
        """The likeliest eta, that whose mean parameters are chi / nu, ``batch_shape + (n,)``."""
        return self.family.natural_parameters(self.mean())

    def log_normaliser(self) -> Tensor:
        """The logarithm of the integral of exp(<eta, chi> - nu A(eta)) over eta, ``batch_shape``."""
        return self.family._log_prior_normaliser(self.chi, self.nu)

    def log_prob(self, eta: Tensor) -> Tensor:
        """Log-density log p(eta), a density of the natural parameters."""
        return (eta * self.chi).sum(-1) - self.nu * self.family.log_partition(eta) - self.log_normaliser()

    def log_evidence(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The log evidence log p(x) of all rows together, eta integrated out, ``batch_shape``."""
        measure = self.family.log_base_measure(x)
        if weights is not None:
            measure = self.family._row_weights(weights, measure.shape, measure) * measure
        return self.posterior(x, weights).log_normaliser() - self.log_normaliser() + measure.sum(0)

    def log_predictive(self, x: Tensor) -> Tensor:
        """The predictive log p(x) of each x for itself, eta integrated out, in the batch shape of x and the prior."""
        after = ConjugatePrior(self.family, self.chi + self.family.statistics(x), self.nu + 1.0)
        return after.log_normaliser() - self.log_normaliser() + self.family.log_base_measure(x)

    def to_distribution(self) -> Distribution:
        """The same prior as a distribution of PyTorch's, of the parameter that the family's documentation names.

        Raises
        ------
        NotImplementedError
            If PyTorch has none.
        """
        return self.family._prior_distribution(self.chi, self.nu)

    def __repr__(self) -> str:
        return f"ConjugatePrior({self.family!r}, chi: {tuple(self.chi.shape)}, nu: {tuple(self.nu.shape)})"
