"""Reweighted wake-sleep: the encoder learns what the posterior is, from weighed samples or from made-up examples.

Bornschein and Bengio 2015, "Reweighted wake-sleep"; Le, Kosiorek, Siddharth, Teh and Wood 2019, "Revisiting
reweighted wake-sleep for models with stochastic control flow"; the sleep phase: Hinton, Dayan, Frey and Neal 1995.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import torch
from torch import Tensor

from fastvi import ops
from fastvi._options import option
from fastvi.objectives.base import Bound
from fastvi.objectives.bounds import iwae_bound
from fastvi.objectives.draws import DrawingModel, draw
from fastvi.objectives.importance import gradient_only
from fastvi.objectives.latent import posterior_of
from fastvi.objectives.model import LatentVariableModel, describe, has_own_draw, member, require_score
from fastvi.objectives.signals import finite
from fastvi.seeding import mix_seed

_SLEEP_STREAM = 1
"""Keeps the noise of made-up examples apart from that of the samples, which have the seed itself."""


class SleepingModel(Protocol):
    """What the sleep phase asks of a model; one with a Gaussian ``encode`` needs no ``log_posterior``."""

    def sample_prior_and_data(self, x: Any, *, seed: int | None = None, row_offset: int = 0) -> tuple[Any, Any]:
        """Draw z from p(z) and x' from p(x|z), once for each example of ``x``.

        Of ``x`` the model takes the number of its examples, and what p itself is given, such as labels.

        Returns
        -------
        tuple
            The samples, ``(1, B, ...)`` or one such tensor for each stochastic layer, as in a draw of one sample, and
            the examples x', of the structure and the shapes of ``x``. The noise of row b depends on
            (seed, b + row_offset) alone.
        """
        ...

    def log_posterior(self, x: Any, samples: Any) -> Tensor:
        """Log q(z|x) in nats, ``(K, B)``, for given samples, with a gradient in q's parameters."""
        ...


@dataclasses.dataclass(frozen=True)
class ReweightedWakeSleep(Bound):
    """Importance-weighted bound for the likelihood and the prior; the encoder goes towards the posterior beside it.

    Ascent along the sum of up to three gradients: wake-theta, sum_k w_k d log p(x, z_k) in the parameters of p, with
    normalised weights; wake-phi, sum_k w_k d log q(z_k|x) in those of q; sleep-phi, d log q(z|x') for an example x' and
    its z that the model made up. Both of phi's lower a divergence from the posterior (of the data, of the model) to q.

    Parameters
    ----------
    num_samples
        K; wake-phi needs at least 2, because its expectation is 0 with one sample, whose weight is always 1.
    wake_phi, sleep_phi
        Which of the encoder's gradients are taken; at least one. Both: their sum.

    Raises
    ------
    ValueError, TypeError
        If no gradient is left for the encoder, or K is too small for wake-phi; when it is called, if the model lacks
        what the sleep phase needs.

    Notes
    -----
    The value is L_K, that of :class:`fastvi.objectives.IWAE`: a bound on log p(x). Its gradient in the encoder's
    parameters is not the one that is taken, so phi may make the value fall. Weights are normalised for each example by
    itself. With K samples wake-theta is L_K's gradient in theta, and an estimate of d log p(x) that is biased by
    O(1/K); wake-phi is biased likewise. Source: Bornschein and Bengio 2015.

    Examples
    --------
    >>> from fastvi.models import SigmoidBeliefNetwork
    >>> from fastvi.objectives import IWAE
    >>> model, x = SigmoidBeliefNetwork(16, layer_dims=(4,)), torch.ones(3, 16)
    >>> bound = ReweightedWakeSleep(5, sleep_phi=True)(model, x, seed=0)
    >>> torch.equal(bound, IWAE(5)(model, x, seed=0))
    True
    >>> bound.mean().backward()
    """

    uses_score = True

    num_samples: int = option("K, samples for each example", at_least=1, usual=5)
    wake_phi: bool = option("whether the encoder learns from the samples, by their weights", True)
    sleep_phi: bool = option("whether the encoder learns from examples that the model makes up", False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.wake_phi or self.sleep_phi):
            raise ValueError("ReweightedWakeSleep: wake_phi or sleep_phi must be True, else nothing trains the encoder")
        if self.wake_phi and self.num_samples < 2:
            raise ValueError(
                f"ReweightedWakeSleep: num_samples must be at least 2 with wake_phi=True, got {self.num_samples}"
            )

    def check_model(self, model: Any) -> None:
        """Raise unless the model has a bound, and makes up examples where there is a sleep phase."""
        super().check_model(model)
        require_score(model, "ReweightedWakeSleep")
        if not self.sleep_phi:
            return
        needed = ("sample_prior_and_data", *(("log_posterior",) if has_own_draw(model) else ()))
        if missing := [name for name in needed if not hasattr(model, name)]:
            raise TypeError(
                f"ReweightedWakeSleep with sleep_phi=True: needs a model with the methods {' and '.join(needed)}; "
                f"{type(model).__name__} lacks {' and '.join(missing)}"
            )

    def __call__(
        self, model: LatentVariableModel | DrawingModel, x: Any, *, seed: int | None = None, row_offset: int = 0
    ) -> Tensor:
        """Return the bound of each example, ``(B,)``, in nats."""
        self.check_model(model)
        drawn = draw(model, x, self.num_samples, detach_posterior=True, score=True, seed=seed, row_offset=row_offset)
        bound = iwae_bound(drawn.log_weights)
        if not torch.is_grad_enabled():
            return bound
        assert drawn.log_posterior is not None
        if self.wake_phi:
            weights = finite(ops.importance_weights(drawn.log_weights.detach(), 0))
            bound = bound + gradient_only((weights * drawn.log_posterior).sum(0))
        if self.sleep_phi:
            bound = bound + gradient_only(asleep(model, x, bound, seed, row_offset))
        return bound


def asleep(model: Any, x: Any, like: Tensor, seed: int | None, row_offset: int) -> Tensor:
    """Log q of what the model made up, one example for each of x, ``(B,)``; no gradient flows into what was made up."""
    of_sleep = None if seed is None else mix_seed(seed, _SLEEP_STREAM)
    with torch.no_grad():
        found: Any = model.sample_prior_and_data(x, seed=of_sleep, row_offset=row_offset)
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        raise TypeError(
            f"{member(model, 'sample_prior_and_data')}: expected a pair (samples, examples), got {describe(found)}"
        )
    samples, made_up = found
    if hasattr(model, "log_posterior"):
        log_posterior: Any = model.log_posterior(made_up, samples)
        name = "log_posterior"
    else:
        log_posterior, name = posterior_of(model, made_up).log_prob(samples), "sample_prior_and_data"
    expected = (1, *like.shape)
    if not isinstance(log_posterior, Tensor) or log_posterior.shape != expected:
        raise ValueError(
            f"{member(model, name)}: expected log q of the shape (1, batch) = {expected} for one made-up example of "
            f"each, got {describe(log_posterior)}"
        )
    return log_posterior[0]
