"""Objectives that average log-weights: the evidence lower bound with its usual options, and its path derivative.

Kingma and Welling 2014; free bits: Kingma et al. 2016; warm-up: Bowman et al. 2016; path derivative: Roeder, Wu and
Duvenaud 2017.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from fastvi._options import check_count, option
from fastvi.objectives.base import Bound
from fastvi.objectives.bounds import elbo_bound, log_weights
from fastvi.objectives.draws import DrawingModel, draw
from fastvi.objectives.latent import divergence, posterior_of, prior_of, sample_with_log_ratio
from fastvi.objectives.model import (
    LatentVariableModel,
    has_own_draw,
    log_likelihood,
    member,
    other_priors,
    require_encoder,
    terms_at_once,
)
from fastvi.ops._one_node import Terms


@dataclasses.dataclass(frozen=True)
class LinearWarmUp:
    """A weight that rises linearly from ``start`` to ``end`` during ``steps`` steps, and stays there.

    Parameters
    ----------
    steps
        Length of the rise; 0 gives ``end`` from the beginning.
    start, end
        Weight at step 0, and at step ``steps`` and after it.

    Raises
    ------
    ValueError, TypeError
        If ``steps``, or the step asked for, is negative or not an integer.

    Notes
    -----
    Source: Bowman et al. 2016, "Generating sentences from a continuous space", section 3.1.

    Examples
    --------
    >>> warm_up = LinearWarmUp(steps=4)
    >>> [warm_up(step) for step in range(6)]
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    >>> ELBO().with_beta(warm_up(2))
    ELBO(num_samples=1, analytic_kl=True, beta=0.5, free_bits=0.0, warm_up_steps=0)
    """

    steps: int
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", check_count("LinearWarmUp", "steps", self.steps, at_least=0))

    def __call__(self, step: int) -> float:
        """Return the weight at ``step``, counted from 0."""
        step = check_count("LinearWarmUp", "step", step, at_least=0)
        if step >= self.steps:
            return self.end
        return self.start + (self.end - self.start) * (step / self.steps)


@dataclasses.dataclass(frozen=True)
class ELBO(Bound):
    """Evidence lower bound, E_q log p(x|z) - beta KL(q(z|x) || p(z)).

    Parameters
    ----------
    num_samples
        Samples of the posterior that estimate the expectation.
    analytic_kl
        Take the divergence in closed form (less variance) or from the same samples.
    beta
        Weight of the divergence (Higgins et al. 2017); below 1 the result is no longer a bound on log p(x). A tensor
        without axes is taken as it is.
    free_bits
        Least divergence, in nats, that each latent variable of each example is charged; below it the gradient of the
        divergence is zero, so that the variable is not switched off (Kingma et al. 2016, with groups of one variable
        and without their average over the batch). Needs ``analytic_kl``.
    warm_up_steps
        Steps of training over which beta rises from 0 (Bowman et al. 2016): what ``objective.at_step(step)`` returns
        has the beta of that step. Another schedule is ``objective.with_beta(schedule(step))``.

    Raises
    ------
    ValueError, TypeError
        If an option is out of its range or of a wrong type.

    Notes
    -----
    With ``analytic_kl=False`` and ``beta=1`` the bound is the mean of :func:`fastvi.objectives.log_weights`. A model
    that draws its own samples has it so alone, with another beta where it tells the divergence apart
    (:class:`fastvi.objectives.DrawingModel`); in closed form the divergence needs ``encode`` and ``log_likelihood``.
    Source: Kingma and Welling 2014, equations 6 (sampled) and 7 (analytic).

    Examples
    --------
    >>> import torch, types
    >>> from fastvi import normal_log_prob
    >>> model = types.SimpleNamespace(
    ...     prior_mean=None, prior_logvar=None,
    ...     encode=lambda x: (x / 2, torch.zeros_like(x)),
    ...     log_likelihood=lambda x, z: normal_log_prob(x, z, torch.zeros_like(x)),
    ... )
    >>> ELBO(num_samples=4)(model, torch.ones(3, 2), seed=0).shape
    torch.Size([3])
    """

    num_samples: int = option("samples for each example", 1, at_least=1)
    analytic_kl: bool = option("the divergence in closed form, or from the samples", True)
    beta: float | Tensor = option("weight of the divergence", 1.0)
    free_bits: float = option("nats free for each latent dimension", 0.0)
    warm_up_steps: int = option("steps over which beta rises from 0", 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.free_bits > 0.0 and not self.analytic_kl:
            raise ValueError(
                f"ELBO: free_bits={self.free_bits} needs analytic_kl=True, "
                "because a sampled divergence is not known for each latent variable"
            )

    def check_model(self, model: Any) -> None:
        """Raise unless the divergence is in reach: in closed form by ``encode``, weighed by beta where it is apart."""
        if self.analytic_kl:
            advice = "; take analytic_kl=False" if has_own_draw(model) else ""
            require_encoder(model, "ELBO with analytic_kl=True", advice)
            if "log_prior" in other_priors(model) or not getattr(model, "has_analytic_kl", True):
                raise TypeError(
                    f"ELBO: analytic_kl=True needs a divergence in closed form, and {type(model).__name__} has none; "
                    "take analytic_kl=False"
                )
            if self.free_bits > 0.0 and not getattr(model, "has_independent_latents", True):
                raise ValueError(
                    f"ELBO: free_bits={self.free_bits} needs independent latent variables, and in the posterior of "
                    f"{type(model).__name__} they are not"
                )
        elif not has_own_draw(model):
            super().check_model(model)
        elif not (self._is_plain and self.warm_up_steps == 0) and not getattr(model, "draws_log_ratio", False):
            raise ValueError(
                f"ELBO: beta must be 1 without a warm-up for {type(model).__name__}, whose draw gives likelihood and "
                f"divergence as one number; got beta={self.beta} and warm_up_steps={self.warm_up_steps}"
            )

    @property
    def _is_plain(self) -> bool:
        return not isinstance(self.beta, Tensor) and self.beta == 1.0

    def at_step(self, step: int) -> ELBO:
        """Return the objective with the beta that the warm-up has at training step ``step``, counted from 0."""
        if step >= self.warm_up_steps:
            return self
        return self.with_beta(self.beta * LinearWarmUp(self.warm_up_steps)(step))

    def with_beta(self, beta: float | Tensor) -> ELBO:
        """Return the same objective with another weight of the divergence."""
        return dataclasses.replace(self, beta=beta)

    def __call__(
        self, model: LatentVariableModel | DrawingModel, x: Any, *, seed: int | None = None, row_offset: int = 0
    ) -> Tensor:
        """Return the bound of each example, ``(B,)``, in nats."""
        self.check_model(model)
        if not self.analytic_kl and self._is_plain:
            return elbo_bound(log_weights(model, x, self.num_samples, seed=seed, row_offset=row_offset))
        if not self.analytic_kl and has_own_draw(model):
            drawn = draw(model, x, self.num_samples, seed=seed, row_offset=row_offset)
            if drawn.log_ratio is None:
                raise ValueError(
                    f"{member(model, 'draw')}: expected a log_ratio for ELBO to weigh by beta={self.beta}, got None"
                )
            return elbo_bound(add_scaled(drawn.log_weights, drawn.log_ratio, self.beta - 1.0))
        if self.analytic_kl:
            terms = Terms(self.num_samples, free_bits=self.free_bits, row_offset=row_offset)
            found = terms_at_once(model, x, terms, seed)
            if found is not None:
                return add_scaled(found[0].mean(0), found[1], -self.beta)
        q = posterior_of(model, x)
        p = prior_of(model, x, q)
        if self.analytic_kl:
            apart = divergence(q, p, self.free_bits, "ELBO")
            z = q.rsample(self.num_samples, seed, row_offset)
            return add_scaled(log_likelihood(model, x, z).mean(0), apart, -self.beta)
        z, log_ratio = sample_with_log_ratio(q, p, self.num_samples, seed=seed, row_offset=row_offset)
        return elbo_bound(add_scaled(log_likelihood(model, x, z), log_ratio, self.beta))


@dataclasses.dataclass(frozen=True)
class STL(Bound):
    """Evidence lower bound with the path-derivative gradient, "sticking the landing".

    The bound is the mean of K log-weights; its gradient leaves out the score of q, which is zero in expectation, by
    taking the parameters of q for constants inside log q(z|x). The gradient is unbiased, and its variance vanishes
    where q is the exact posterior. For the importance-weighted bound the same idea is :class:`fastvi.objectives.DReG`.

    Parameters
    ----------
    num_samples
        Samples whose single-sample bounds and gradients are averaged.

    Raises
    ------
    ValueError, TypeError
        If ``num_samples`` is not a positive integer.

    Notes
    -----
    Source: Roeder, Wu and Duvenaud 2017, "Sticking the landing: simple, lower-variance gradient estimators for
    variational inference".

    Examples
    --------
    >>> import torch, types
    >>> from fastvi import normal_log_prob
    >>> model = types.SimpleNamespace(
    ...     prior_mean=None, prior_logvar=None,
    ...     encode=lambda x: (x / 2, torch.zeros_like(x)),
    ...     log_likelihood=lambda x, z: normal_log_prob(x, z, torch.zeros_like(x)),
    ... )
    >>> x = torch.ones(3, 2)
    >>> torch.equal(STL(4)(model, x, seed=0), ELBO(4, analytic_kl=False)(model, x, seed=0))
    True
    """

    num_samples: int = option("samples for each example", 1, at_least=1)

    def __call__(
        self, model: LatentVariableModel | DrawingModel, x: Any, *, seed: int | None = None, row_offset: int = 0
    ) -> Tensor:
        """Return the bound of each example, ``(B,)``, in nats."""
        return elbo_bound(
            log_weights(model, x, self.num_samples, detach_posterior=True, seed=seed, row_offset=row_offset)
        )


def add_scaled(x: Tensor, y: Tensor, scale: float | Tensor) -> Tensor:
    """Return ``x + scale * y`` in one operation."""
    if isinstance(scale, Tensor):
        return torch.addcmul(x, y, scale)
    if torch.compiler.is_compiling():  # where another alpha would be another program, and another factor is none
        return x + scale * y
    return torch.add(x, y, alpha=scale)
