"""What every exponential family has: p(x; eta) = h(x) exp(<eta, T(x)> - A(eta)).

Wainwright and Jordan 2008, "Graphical models, exponential families, and variational inference", chapter 3. A family
gives its sufficient statistics T, log base measure log h, log-partition function A, and the mean parameters grad A; all
else follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from fastvi.expfam._checks import (
    check_broadcast,
    check_floating,
    check_tensor,
    check_values,
    check_vector,
    positive,
)
from fastvi.expfam._noise import Noise
from fastvi.expfam.conjugate import ConjugatePrior
from fastvi.expfam.formulas import Formulas
from fastvi.ops._checks import check_shape, check_size


class ExponentialFamily(Formulas):
    """A family of distributions, whose parameters are given to its methods.

    Natural parameters ``eta`` and mean parameters ``mu = E[T(x)]`` are tensors of shape ``batch_shape + (n,)``, float32
    or float64, with any batch shape, and x has the shape ``batch_shape + event_shape``; the batches broadcast. Results
    are in nats and differentiable, twice and more, in ``eta``, ``mu`` and a continuous x.

    Values out of the domain are refused where it costs nothing to wait for them: on the CPU, outside of the transforms
    of ``torch.func`` and of ``torch.compile``. Elsewhere they give NaN or what the formula has.

    A family of your own is a frozen dataclass that derives from this class, with the class variables below,
    `num_statistics`, `_statistics` and `_log_partition`. Where the others are left out, the mean is the gradient of A,
    the Fisher information the derivative of the mean, both by autograd, and the natural parameters are found by
    Newton's method. The entropy of a family with another base measure than 1 needs `_mean_log_base_measure`.

    Attributes
    ----------
    minimal
        Whether different natural parameters are different distributions. The maps between natural and mean parameters
        are then inverse to each other; otherwise ``natural_parameters`` chooses one of those that are equal.
    natural_range, mean_range, support
        What natural parameters, mean parameters and x have to be, in words.
    event_dim
        Number of axes of x that are one event.

    Examples
    --------
    >>> import torch
    >>> from fastvi.expfam import Gamma
    >>> family = Gamma()
    >>> eta = family.from_distribution(torch.distributions.Gamma(2.0, torch.tensor([4.0, 8.0])))
    >>> family.log_prob(torch.tensor(0.5), eta).shape
    torch.Size([2])
    >>> mu = family.mean_parameters(eta)  # E log x and E x
    >>> mu[:, 1]
    tensor([0.5000, 0.2500])
    >>> torch.allclose(family.natural_parameters(mu), eta)
    True
    """

    def statistics(self, x: Tensor) -> Tensor:
        """Sufficient statistics T(x), ``batch_shape + (n,)``; raises as :meth:`log_prob` does."""
        return self._statistics(self._events("x", x))

    def log_base_measure(self, x: Tensor) -> Tensor:
        """The log base measure log h(x), ``batch_shape``; raises as :meth:`log_prob` does."""
        return self._log_base_measure(self._events("x", x))

    def log_partition(self, eta: Tensor) -> Tensor:
        """A(eta), the logarithm of the integral of h(x) exp(<eta, T(x)>), ``batch_shape``.

        It is infinite where ``eta`` is out of the domain, which the other methods refuse.

        Raises
        ------
        TypeError, ValueError
            If ``eta`` has another dtype or shape.
        """
        eta = check_vector(self._name, "eta", eta, self.num_statistics)
        with torch.no_grad():
            inside = self._natural_domain(eta)
            outside = torch.where(eta.isnan().any(-1), torch.nan, torch.inf).to(eta.dtype)
        safe = torch.where(inside.unsqueeze(-1), eta, self._any_natural(eta))
        return torch.where(inside, self._log_partition(safe), outside)

    def mean_parameters(self, eta: Tensor) -> Tensor:
        """Mean parameters mu = E[T(x)] = grad A(eta), the shape of ``eta``.

        Raises
        ------
        TypeError, ValueError
            If ``eta`` has another dtype or shape, or is out of the domain.
        """
        return self._mean(self._natural_values("eta", eta))

    def natural_parameters(self, mu: Tensor) -> Tensor:
        """The eta whose mean parameters are ``mu``, of the same shape: the gradient of A*.

        Raises
        ------
        TypeError
            If ``mu`` has another dtype.
        ValueError
            If its shape is another one, or no distribution of the family has these mean parameters: they are on the
            boundary of what is attainable, or outside.
        """
        mu = check_vector(self._name, "mu", mu, self.num_statistics)
        check_values(self._name, "mu", mu, self._mean_domain, self.mean_range)
        return self._natural(mu)

    def fisher_information(self, eta: Tensor) -> Tensor:
        """The Hessian of A = the covariance of T(x), ``batch_shape + (n, n)``.

        Raises as :meth:`mean_parameters` does.
        """
        return self._fisher(self._natural_values("eta", eta))

    def conjugate(self, mu: Tensor) -> Tensor:
        """A*(mu) = sup over eta of <eta, mu> - A(eta), ``batch_shape``.

        It is -(entropy + E[log h(x)]) of the distribution with these means, and infinite where no distribution has
        them. On the boundary of what is attainable it is the limit for Bernoulli, binomial, categorical and Poisson,
        and for the families that are enumerated; for the others it is infinite there.

        Raises
        ------
        TypeError, ValueError
            If ``mu`` has another dtype or shape.
        """
        mu = check_vector(self._name, "mu", mu, self.num_statistics)
        with torch.no_grad():
            inside = self._conjugate_domain(mu)
            stand_in = self._mean(self._any_natural(mu))
        return torch.where(inside, self._conjugate(torch.where(inside.unsqueeze(-1), mu, stand_in)), torch.inf)

    def entropy(self, eta: Tensor) -> Tensor:
        """Entropy -E[log p(x)], differential where x is continuous, ``batch_shape``.

        Raises as :meth:`mean_parameters` does.
        """
        return self._entropy(self._natural_values("eta", eta))

    def kl_divergence(self, eta: Tensor, other: Tensor) -> Tensor:
        """KL(p || q) of the distributions with the natural parameters ``eta`` and ``other``.

        The Bregman divergence A(other) - A(eta) - <other - eta, grad A(eta)>, in the batch shape of both and
        computed in float64, up to the rounding of its terms; Gaussians keep the digits of small ones. Raises as
        :meth:`mean_parameters` does.
        """
        eta, other = self._natural_values("eta", eta), self._natural_values("other", other)
        check_broadcast(self._name, "eta", eta.shape[:-1], "other", other.shape[:-1])
        return self._kl(eta, other)

    def log_prob(self, x: Tensor, eta: Tensor) -> Tensor:
        """Log-density or log-probability log p(x; eta), in the batch shape of both.

        Raises
        ------
        TypeError, ValueError
            If an argument has another dtype or shape, ``eta`` is out of the domain, or x out of the support.
        """
        eta = self._natural_values("eta", eta)
        x = self._events("x", x, eta)
        check_broadcast(self._name, "x", x.shape[: x.dim() - self.event_dim], "eta", eta.shape[:-1])
        return self._log_prob(x, eta)

    def sample(
        self, eta: Tensor, sample_shape: int | Sequence[int] = (), seed: int | None = None, row_offset: int = 0
    ) -> Tensor:
        """Draw x of shape ``sample_shape + batch_shape + event_shape``, without a gradient.

        Parameters
        ----------
        eta
            Natural parameters; the first axis of their batch is that of the rows.
        sample_shape
            Shape of the samples of each distribution.
        seed
            An integer in [0, 2^63); None takes one of PyTorch's generator. A draw depends on the seed and on the
            numbers of its sample, row and column alone.
        row_offset
            Number of the first row: a shard of a batch draws what it would have drawn in the whole.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above.
        """
        eta = self._natural_values("eta", eta).detach()
        shape = check_shape(self._name, "sample_shape", sample_shape)
        offset = check_size(self._name, "row_offset", row_offset)
        noise = Noise(self._name, seed, offset, shape, eta.shape[:-1], eta)
        with torch.no_grad():
            drawn = self._sample(eta, noise)
        return drawn if not drawn.is_floating_point() else drawn.to(eta.dtype)

    def moments(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Average T(x) over the first axis of x, weighted where there are weights.

        Parameters
        ----------
        x
            ``(N,) + batch_shape + event_shape``, float32 or float64; integers are taken in the dtype of the weights, or
            in PyTorch's default one.
        weights
            Weights of the N rows, (N,), or one for each event, ``(N,) + batch_shape``; not negative.

        Raises
        ------
        TypeError, ValueError
            If there is no row, a weight is negative, or their sum is 0 or infinite.
        """
        x = self._events("x", x, dtype=weights.dtype if isinstance(weights, Tensor) else None)
        batch = x.shape[: x.dim() - self.event_dim]
        if len(batch) == 0 or batch[0] == 0:
            raise ValueError(f"{self._name}: x must have an axis of rows, and one row or more, got {tuple(x.shape)}")
        if weights is None:
            return self._moments(x, None)
        weights = self._row_weights(weights, batch, x)
        total = weights.sum(0)
        check_values(self._name, "the sum of weights", total, positive, "positive", 0)
        return self._moments(x, weights / total)

    def maximum_likelihood(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The eta under which the rows of x are likeliest: the one whose mean parameters are their moments.

        Arguments and errors are those of :meth:`moments` and :meth:`natural_parameters`. There is no such eta where the
        moments are on the boundary of what is attainable: for Bernoulli, if all rows are 1.
        """
        mu = self.moments(x, weights)
        check_values(
            self._name,
            "the moments of x",
            mu,
            self._mean_domain,
            f"{self.mean_range} for a maximum of the likelihood",
            always=True,
        )
        return self._natural(mu)

    def conjugate_prior(self, chi: Tensor, nu: Tensor | float) -> ConjugatePrior:
        """The prior p(eta) proportional to exp(<eta, chi> - nu A(eta)); see :class:`fastvi.expfam.ConjugatePrior`."""
        return ConjugatePrior(self, chi, nu)

    def to_distribution(self, eta: Tensor) -> Distribution:
        """The same distribution as one of ``torch.distributions``, of the batch shape of ``eta``.

        Raises
        ------
        NotImplementedError
            If PyTorch has none.
        """
        raise NotImplementedError(f"{type(self).__name__}: PyTorch has no such distribution")

    def from_distribution(self, distribution: Distribution) -> Tensor:
        """The natural parameters of a distribution that :meth:`to_distribution` could have made.

        Raises
        ------
        TypeError
            If it is of another kind.
        ValueError
            If its sizes are not those of the family.
        """
        raise TypeError(f"{type(self).__name__}: PyTorch has no such distribution, got {type(distribution).__name__}")

    # Checks

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _natural_values(self, name: str, eta: object) -> Tensor:
        tensor = check_vector(self._name, name, eta, self.num_statistics)
        check_values(self._name, name, tensor, self._natural_domain, self.natural_range)
        return tensor

    def _events(self, name: str, x: object, like: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Check x; integers are taken in the dtype of ``like``, or in ``dtype`` if that is a floating-point one."""
        tensor = check_tensor(self._name, name, x)
        if not tensor.is_floating_point() and not tensor.is_complex():
            usual = dtype if dtype is not None and dtype.is_floating_point else torch.get_default_dtype()
            tensor = tensor.to(usual if like is None else like.dtype)
        tensor = check_floating(self._name, name, tensor)
        if like is not None and tensor.dtype != like.dtype:
            raise TypeError(f"{self._name}: {name} has dtype {tensor.dtype}, expected that of eta, {like.dtype}")
        shape = tuple(tensor.shape)
        if shape[len(shape) - self.event_dim :] != self.event_shape or len(shape) < self.event_dim:
            sizes = ", ".join(map(str, self.event_shape))
            raise ValueError(f"{self._name}: {name} has shape {shape}, expected (..., {sizes})")
        check_values(self._name, name, tensor, self._support, self.support, self.event_dim)
        return tensor

    def _row_weights(self, weights: object, batch: Sequence[int], like: Tensor) -> Tensor:
        """Weights that broadcast with ``batch``, whose first axis is that of the rows."""
        tensor = check_tensor(self._name, "weights", weights)
        if tuple(tensor.shape) not in (tuple(batch[:1]), tuple(batch)):
            raise ValueError(
                f"{self._name}: weights have shape {tuple(tensor.shape)}, expected {tuple(batch[:1])} or {tuple(batch)}"
            )
        check_values(self._name, "weights", tensor, lambda w: w >= 0, "not negative", 0)
        return tensor.to(like.dtype).reshape(*tensor.shape, *(1,) * (len(batch) - tensor.dim()))

    def _expect(self, distribution: Distribution, *kinds: type[Distribution]) -> Any:
        if not isinstance(distribution, kinds):
            names = " or ".join(f"torch.distributions.{kind.__name__}" for kind in kinds)
            raise TypeError(f"{self._name}: distribution must be a {names}, got {type(distribution).__name__}")
        return distribution
