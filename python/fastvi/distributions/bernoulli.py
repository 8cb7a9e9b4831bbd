"""The Bernoulli likelihood of binary vectors, from logits or from the linear layer that makes them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, constraints, register_kl

from fastvi import ops
from fastvi.distributions._vector import VectorDistribution, check_events, check_parameter, standard_noise, validation


class BernoulliLogits(VectorDistribution):
    """Vector of independent Bernoulli variables with the probabilities sigmoid(logits).

    Equal to ``Independent(Bernoulli(logits=logits), 1)``, in its results and in its shapes, on
    :func:`fastvi.bernoulli_log_prob`. An infinite logit is certainty.

    Parameters
    ----------
    logits
        ``batch_shape + (D,)``.
    validate_args
        Check parameters and values, as in every ``torch.distributions.Distribution``: values are 0 or 1 then. Without
        it the log-likelihood takes grey values between the two, too.

    Raises
    ------
    TypeError
        If the logits are not a floating-point tensor.
    ValueError
        If they have no axis, or, when validating, are NaN.

    Notes
    -----
    ``kl_divergence`` is registered between two of these and, both ways, with ``Independent(Bernoulli(...), 1)``.

    Examples
    --------
    >>> import torch
    >>> from fastvi.distributions import BernoulliLogits
    >>> decoder = BernoulliLogits(torch.zeros(5, 3, 2))
    >>> decoder.log_prob(torch.ones(3, 2)).shape, decoder.sample((4,)).shape
    (torch.Size([5, 3]), torch.Size([4, 5, 3, 2]))
    >>> BernoulliLogits(torch.zeros(2)).entropy()
    tensor(1.3863)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"logits": constraints.real_vector}
    support = constraints.independent(constraints.boolean, 1)
    _batched: ClassVar[tuple[str, ...]] = ("_logits",)

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        check_parameter("BernoulliLogits", "logits", logits)
        self._logits = logits
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=validation(validate_args, logits))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(logits: {self.logits.size()})"

    @property
    def logits(self) -> Tensor:
        """The logits, ``batch_shape + (D,)``."""
        return self._logits

    @property
    def probs(self) -> Tensor:
        """``sigmoid(logits)``."""
        return torch.sigmoid(self.logits)

    @property
    def mean(self) -> Tensor:
        """The mean, which is the probability of 1."""
        return self.probs

    @property
    def mode(self) -> Tensor:
        """1 where the logit is positive, 0 where it is negative, and NaN, as PyTorch's, where it is 0."""
        logits = self.logits
        return torch.where(logits == 0, torch.nan, (logits > 0).to(logits.dtype))

    @property
    def variance(self) -> Tensor:
        """``p (1 - p)``."""
        return self.probs * torch.sigmoid(-self.logits)

    def sample(self, sample_shape: Any = (), seed: int | Tensor | None = None, row_offset: int = 0) -> Tensor:
        """Draw samples of shape ``sample_shape + batch_shape + (D,)``, without a gradient.

        The noise is that of :func:`fastvi.rsample_normal` with this ``seed`` and ``row_offset``: 1 where it lies below
        the quantile of the probability.
        """
        with torch.no_grad():
            logits = self.logits
            noise = standard_noise(logits, sample_shape, seed, row_offset)
            limits = torch.special.ndtri(torch.sigmoid(logits.to(noise.dtype)))
            drawn: Tensor = noise < limits
            return drawn.to(logits.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-likelihood of ``value``, whose shape must broadcast with ``batch_shape + (D,)``."""
        self._look_at(value)
        return ops.bernoulli_log_prob(value, self.logits)

    def entropy(self) -> Tensor:
        """Entropy in nats, of shape ``batch_shape``."""
        return -ops.bernoulli_log_prob(self.probs, self.logits)


class LinearBernoulli(BernoulliLogits):
    """The Bernoulli vector whose logits are a linear layer of h: h W' + b, the end of a decoder.

    Equal to ``BernoulliLogits(linear(h, weight, bias))``. The log-likelihood and its gradients are one operation,
    :func:`fastvi.linear_bernoulli_log_prob`, which keeps no logits; they are made where samples, moments, the entropy
    or a divergence need them.

    Parameters
    ----------
    h
        ``batch_shape + (H,)``, what the layer takes.
    weight
        ``(D, H)``, as in ``torch.nn.Linear``.
    bias
        ``(D,)``, or None.
    validate_args
        As in :class:`BernoulliLogits`.

    Raises
    ------
    TypeError
        If a parameter is not a floating-point tensor, or they differ in dtype.
    ValueError
        If the shapes are others, or, when validating, a parameter is NaN.

    Examples
    --------
    >>> import torch
    >>> from fastvi.distributions import LinearBernoulli
    >>> layer = torch.nn.Linear(4, 2)
    >>> decoder = LinearBernoulli(torch.zeros(5, 3, 4), layer.weight, layer.bias)
    >>> decoder.log_prob(torch.ones(3, 2)).shape
    torch.Size([5, 3])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "h": constraints.real_vector,
        "weight": constraints.independent(constraints.real, 2),
    }
    _batched = ("h",)

    def __init__(
        self, h: Tensor, weight: Tensor, bias: Tensor | None = None, validate_args: bool | None = None
    ) -> None:
        given = {"h": h, "weight": weight} | ({} if bias is None else {"bias": bias})
        for name, parameter in given.items():
            check_parameter("LinearBernoulli", name, parameter)
        if len({parameter.dtype for parameter in given.values()}) > 1:
            found = ", ".join(f"{name} {parameter.dtype}" for name, parameter in given.items())
            raise TypeError(f"LinearBernoulli: parameters must have one dtype, got {found}")
        if weight.dim() != 2 or h.shape[-1] != weight.shape[1] or (bias is not None and bias.shape != weight.shape[:1]):
            found = ", ".join(f"{name} {tuple(parameter.shape)}" for name, parameter in given.items())
            raise ValueError(f"LinearBernoulli: expected h (..., H), weight (D, H) and bias (D,), got {found}")
        self.h, self.weight, self.bias = h, weight, bias
        self._made: Tensor | None = None
        Distribution.__init__(
            self, h.shape[:-1], weight.shape[:1], validate_args=validation(validate_args, *given.values())
        )
        if self._validate_args and bias is not None and bool(bias.isnan().any()):  # one that is None has no constraint
            raise ValueError(f"LinearBernoulli: expected parameter bias without NaN, got {bias}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(h: {self.h.size()}, weight: {self.weight.size()})"

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Return the same distribution with its batch expanded, without copying, to ``batch_shape``."""
        new = super().expand(batch_shape, _instance)
        new.weight, new.bias, new._made = self.weight, self.bias, None
        return new

    @property
    def logits(self) -> Tensor:
        """The logits, ``batch_shape + (D,)``, made when they are first asked for."""
        if self._made is None:
            with torch.enable_grad():  # samples ask for them without a gradient, which others may need
                self._made = torch.nn.functional.linear(self.h, self.weight, self.bias)
        return self._made

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-likelihood of ``value``, whose shape must broadcast with ``batch_shape + (D,)``."""
        self._look_at(value)
        return ops.linear_bernoulli_log_prob(self.h, self.weight, self.bias, value)


def _as_bernoulli_logits(distribution: Independent[Any]) -> BernoulliLogits:
    base = distribution.base_dist
    if not isinstance(base, Bernoulli) or distribution.reinterpreted_batch_ndims != 1:
        raise NotImplementedError(f"kl_divergence between a BernoulliLogits and {distribution} is not known")
    return BernoulliLogits(base.logits, validate_args=False)


def _divergence(p: BernoulliLogits, q: BernoulliLogits) -> Tensor:
    check_events(p, q)
    return ops.bernoulli_log_prob(p.probs, p.logits) - ops.bernoulli_log_prob(p.probs, q.logits)


@register_kl(BernoulliLogits, BernoulliLogits)  # type: ignore[no-untyped-call, untyped-decorator, unused-ignore]
def _kl_bernoulli_bernoulli(p: BernoulliLogits, q: BernoulliLogits) -> Tensor:
    return _divergence(p, q)


@register_kl(BernoulliLogits, Independent)  # type: ignore[no-untyped-call, untyped-decorator, unused-ignore]
def _kl_bernoulli_independent(p: BernoulliLogits, q: Independent[Any]) -> Tensor:
    return _divergence(p, _as_bernoulli_logits(q))


@register_kl(Independent, BernoulliLogits)  # type: ignore[no-untyped-call, untyped-decorator, unused-ignore]
def _kl_independent_bernoulli(p: Independent[Any], q: BernoulliLogits) -> Tensor:
    return _divergence(_as_bernoulli_logits(p), q)
