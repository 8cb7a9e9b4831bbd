"""The likelihood of rows under a mixture of diagonal Gaussians, as a function of the mixture's parameters."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastvi.mcmc.targets.base import NativeTarget
from fastvi.mcmc.targets.data import Data
from fastvi.mcmc.targets.prior import ZeroPrior
from fastvi.ops._backends import MODULES

CHUNK_NUMBERS = 1 << 22
"""Of the distances from components that the formula makes at once."""


class GaussianMixture(NativeTarget):
    r"""The log-likelihood of a mixture, :math:`\sum_n w_n \log \sum_k \pi_k N(x_n | \mu_k, diag(\sigma_k^2))`.

    The position holds ``means`` (K, P), then ``log_scales``, the logarithms of the standard deviations (K, P), and
    ``logits`` of the first K - 1 probabilities: :math:`\pi` is the softmax of these and a 0, so that with two
    components the first probability is the sigmoid of the logit.

    All orders of the components have the same density: chains that start at different ones stay there.

    Parameters
    ----------
    x
        Rows (N, P), or numbers (N,): float32 or float64, the dtype and device of positions.
    num_components
        K.
    sample_weight
        Weights of rows, (N,), not negative.
    concentration
        Of a Dirichlet prior of the probabilities: a positive number, or K of them; 1 is the flat one. The Jacobian of
        the logits is in it.

    Raises
    ------
    TypeError, ValueError
        If an argument has another shape, dtype or device, or a number that it cannot have.

    Examples
    --------
    >>> import torch
    >>> from fastvi.mcmc.targets import BetaPrior, HalfNormalPrior, NormalPrior
    >>> x = torch.tensor([-2.1, -1.9, 2.0, 2.2, 1.8])
    >>> target = GaussianMixture(x, 2) + NormalPrior(0.0, 2.0, on="means") + BetaPrior(5.0, 5.0, on="logits")
    >>> target = target + HalfNormalPrior(2.0, on="log_scales")
    >>> target.parameters
    {'means': slice(0, 2, None), 'log_scales': slice(2, 4, None), 'logits': slice(4, 5, None)}
    >>> target(torch.tensor([[-2.0, 2.0, -1.0, -1.0, 0.0]]))[0].shape
    torch.Size([1])
    """

    def __init__(
        self,
        x: Tensor,
        num_components: int,
        *,
        sample_weight: Tensor | None = None,
        concentration: float | Sequence[float] | Tensor | None = None,
    ) -> None:
        name = type(self).__name__
        if num_components < 1:
            raise ValueError(f"{name}: num_components must be positive, got {num_components}")
        if isinstance(x, Tensor) and x.dim() == 1:
            x = x[:, None]
        data = Data(name, x, sample_weight=sample_weight)
        if data.x.shape[1] == 0:
            raise ValueError(f"{name}: x must have at least one column, got the shape {tuple(data.x.shape)}")
        self._x, self._weight, self._components = data.x, data.weight, num_components
        size = num_components * data.x.shape[1]
        sizes = {"means": size, "log_scales": size, "logits": num_components - 1}
        super().__init__(sizes, data.x.dtype, data.x.device)
        if len(data.x) == 0:
            self._take(ZeroPrior())
        self._concentration: Tensor | None = None
        if concentration is None:
            return
        given = torch.as_tensor(concentration, dtype=torch.float64).expand(num_components)
        if not bool((given > 0.0).all()):
            raise ValueError(f"{name}: concentration must be positive, got {concentration}")
        self._constant = float(torch.lgamma(given.sum()) - torch.lgamma(given).sum())
        self._concentration = given.detach().to(data.x.device, data.x.dtype, copy=True).contiguous()

    @functools.cached_property
    def _arguments(self) -> tuple[Any, ...]:
        rows, columns = self._x.shape
        tensors = [
            None if each is None or each.numel() == 0 else each.contiguous()
            for each in (self._x, self._weight, self._concentration)
        ]
        return (rows, columns, self._components, *tensors)

    def _native(self, *state_and_steps: Any) -> Any:
        priors = self._priors if len(self._priors) else None
        return MODULES.cpu.mixture_trajectory(*self._arguments, priors, self._constant, *state_and_steps)

    def _by_products(self, position: Tensor) -> tuple[Tensor, Tensor]:
        components, columns = self._components, self._x.shape[1]
        shape = (-1, components, columns)
        means, log_scales = (position[:, self.parameters[name]].reshape(shape) for name in ("means", "log_scales"))
        logits = torch.nn.functional.pad(position[:, 2 * components * columns :], (0, 1))
        log_probability = logits.log_softmax(-1)
        constant = log_probability - log_scales.sum(-1) - 0.5 * columns * math.log(2.0 * math.pi)
        inverse_scales = (-log_scales).exp()
        value, sums = torch.zeros_like(position[:, 0]), torch.zeros_like(logits)
        first, second = torch.zeros_like(means), torch.zeros_like(means)
        length = max(1, CHUNK_NUMBERS // max(1, means.numel()))
        for start in range(0, len(self._x), length):
            x = self._x[start : start + length].T
            z = (x - means[..., None]) * inverse_scales[..., None]  # (C, K, P, rows)
            densities = constant[..., None] - 0.5 * z.square().sum(2)
            likelihood = densities.logsumexp(1)
            responsibility = (densities - likelihood[:, None]).exp()
            if self._weight is not None:
                weight = self._weight[start : start + length]
                likelihood, responsibility = weight * likelihood, weight * responsibility
            weighted = responsibility[:, :, None] * z
            value, sums = value + likelihood.sum(-1), sums + responsibility.sum(-1)
            first, second = first + weighted.sum(-1), second + (weighted * z).sum(-1)
        if self._concentration is not None:
            value = value + (self._concentration * log_probability).sum(-1)
        by_logits = sums - sums.sum(-1, keepdim=True) * log_probability.exp()
        if self._concentration is not None:
            by_logits = by_logits + self._concentration - self._concentration.sum() * log_probability.exp()
        parts = [(first * inverse_scales).flatten(1), (second - sums[..., None]).flatten(1), by_logits[:, :-1]]
        return self._add_priors(position, value, torch.cat(parts, 1))
