"""Variational inference for any log joint density: the objectives of :mod:`fastvi.objectives` and one optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, MultivariateNormal

from fastvi._estimators import check_integers
from fastvi._pareto import pareto_k_hat
from fastvi.distributions import DiagNormal
from fastvi.mean_field._data import check_positive, read_tensor
from fastvi.objectives import Objective, draw
from fastvi.seeding import mix_seed

LogJoint = Callable[[Tensor], Tensor]

_FINAL = 1 << 32
"""Stream of the draws that estimate the bound at the end: no step has this number."""


class Approximation(nn.Module):
    """A model of one example whose latent variables are all that the log joint density has.

    Its parameters are those of q, float64: independent Gaussians ("mean-field"), one Gaussian ("full"), or bits.
    """

    has_analytic_kl = False

    def __init__(self, owner: str, log_joint: LogJoint, kind: str, start: Tensor, scale: float) -> None:
        super().__init__()
        self.owner, self.log_joint, self.kind = owner, log_joint, kind
        self.location = nn.Parameter(start.clone())
        """Means, or log-odds of bits."""
        if kind != "bernoulli":
            self.log_scale = nn.Parameter(torch.full_like(start, math.log(scale)))
        if kind == "full":
            self.lower = nn.Parameter(start.new_zeros(len(start), len(start)))

    def posterior(self) -> Distribution:
        """Return q(z), without a batch."""
        if self.kind == "bernoulli":
            return Independent(Bernoulli(logits=self.location, validate_args=False), 1)  # type: ignore[no-untyped-call, unused-ignore]
        if self.kind == "mean-field":
            return DiagNormal(self.location, 2.0 * self.log_scale)
        root = self.lower.tril(-1) + self.log_scale.exp().diag()
        return MultivariateNormal(self.location, scale_tril=root, validate_args=False)  # type: ignore[no-untyped-call, unused-ignore]

    def encode(self, x: Tensor) -> Any:
        """q(z) as that of one example."""
        if self.kind == "mean-field":
            return self.location.unsqueeze(0), 2.0 * self.log_scale.unsqueeze(0)
        return self.posterior().expand((1,))

    def log_prior(self, z: Tensor) -> Tensor:
        """Nothing: the log joint has all."""
        return z.new_zeros(z.shape[:-1])

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Log joint of the samples (K, 1, D), (K, 1)."""
        found = self.log_joint(z.squeeze(1))
        if not isinstance(found, Tensor) or found.shape != z.shape[:1]:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"{self.owner}: log_joint must return the shape (samples,) = ({len(z)},) for z of shape "
                f"{tuple(z.squeeze(1).shape)}, got {got}"
            )
        return found.to(z).unsqueeze(1)

    def log_weights(self, count: int, seed: int) -> Tensor:
        """Log joint minus log q of so many draws, (S,)."""
        with torch.no_grad():
            return draw(self, self.example, count, seed=seed).log_weights[:, 0]

    @property
    def example(self) -> Tensor:
        """What stands for the data."""
        return self.location.new_zeros(1, 1)


class BlackBoxInference(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Fits q to a log joint density by Adam; see :class:`ScoreFunctionVI` and :class:`ADVI`."""

    num_samples: int
    learning_rate: float
    max_iter: int
    random_state: Any

    def _objective(self) -> Objective:
        """What is differentiated."""
        raise NotImplementedError

    def _kind(self) -> str:
        """Family of q; raises for an option that is none."""
        raise NotImplementedError

    def fit(self, log_joint: LogJoint, dim: int, *, start: Any = None, start_scale: float = 1.0) -> Any:
        """Fit q(z) to a density that is known up to a constant.

        Parameters
        ----------
        log_joint
            ``log_joint(z)`` in nats, (S,), for z of shape (S, dim) in float64, without constraints: a positive
            variable is the exponential of one, and the log joint has the logarithm of the derivative.
        dim
            D.
        start, start_scale
            First means, (D,), zeros if None, and standard deviations of q; of bits the first log-odds.

        Raises
        ------
        TypeError, ValueError
            If an argument or an option is out of its range, ``log_joint`` returns another shape, or the bound is NaN or
            minus infinity.
        """
        owner = type(self).__name__
        check_integers(owner, dim=dim, num_samples=self.num_samples, max_iter=self.max_iter)
        check_positive(owner, learning_rate=self.learning_rate, start_scale=start_scale)
        kind, objective = self._kind(), self._objective()
        place = read_tensor(owner, "start", np.zeros(dim) if start is None else start, (dim,))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        model = Approximation(owner, log_joint, kind, place, start_scale)
        optimizer = torch.optim.Adam(model.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.max_iter)
        bounds: list[float] = []
        for step in range(self.max_iter):
            optimizer.zero_grad()
            bound = objective(model, model.example, seed=mix_seed(seed, step)).sum()
            bounds.append(bound.item())
            if not math.isfinite(bounds[-1]):
                raise ValueError(f"{owner}: the bound is {bounds[-1]} at step {step}: log_joint must be finite under q")
            (-bound).backward()
            optimizer.step()
            schedule.step()
        self.model_ = model.requires_grad_(False)
        self.bounds_ = np.array(bounds)
        self.posterior_ = model.posterior()
        self.mean_ = self.posterior_.mean.numpy()
        if isinstance(self.posterior_, MultivariateNormal):
            self.covariance_ = self.posterior_.covariance_matrix.numpy()
        else:
            self.covariance_ = np.diag(self.posterior_.variance.numpy())
        self.lower_bound_ = float(model.log_weights(1000, mix_seed(seed, _FINAL)).mean())
        self._seed = seed
        return self

    def log_weights(self, num_samples: int = 1000) -> Tensor:
        """Log joint minus log q of draws of q, (S,), in nats."""
        check_is_fitted(self, "model_")
        check_integers(type(self).__name__, num_samples=num_samples)
        found: Tensor = self.model_.log_weights(num_samples, mix_seed(self._seed, _FINAL + 1))
        return found

    def pareto_k(self, num_samples: int = 10_000) -> float:
        """Pareto k-hat of the importance weights: below 0.7 they correct q, above q misses too much (Yao et al. 2018).

        Raises
        ------
        ValueError
            If there are fewer than 25 samples.
        """
        check_integers(type(self).__name__, 25, num_samples=num_samples)
        return pareto_k_hat(self.log_weights(num_samples))
