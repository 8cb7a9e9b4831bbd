"""Priors of latent variables that a model has as its ``log_prior`` or ``conditional_prior``: modules that learn.

The mixture of posteriors: Tomczak and Welling 2018, "VAE with a VampPrior".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from fastvi import ops
from fastvi._options import check_count
from fastvi.distributions import seeded


class MixturePrior(nn.Module):
    r"""Mixture of diagonal Gaussians, :math:`p(z) = \sum_c \pi_c N(z; \mu_c, \sigma_c^2)`, all of it learned.

    Parameters
    ----------
    num_components
        C.
    latent_dim
        Z.

    Attributes
    ----------
    logits
        ``(C,)``: the weights are their softmax.
    means, logvars
        ``(C, Z)``. The means begin as standard normal draws of PyTorch's generator.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive integer.

    Examples
    --------
    >>> import torch
    >>> prior = MixturePrior(num_components=3, latent_dim=2)
    >>> prior(torch.zeros(5, 4, 2)).shape, prior.sample(6, seed=0).shape
    (torch.Size([5, 4]), torch.Size([6, 2]))
    """

    def __init__(self, num_components: int, latent_dim: int) -> None:
        super().__init__()
        sizes = (
            check_count("MixturePrior", "num_components", num_components),
            check_count("MixturePrior", "latent_dim", latent_dim),
        )
        self.logits = nn.Parameter(torch.zeros(sizes[0]))
        self.means = nn.Parameter(torch.randn(sizes))
        self.logvars = nn.Parameter(torch.zeros(sizes))

    def forward(self, z: Tensor) -> Tensor:
        """Return log p(z), of the shape of ``z`` less its last axis."""
        densities = ops.normal_log_prob(z.unsqueeze(-2), self.means, self.logvars)
        return ops.log_mean_exp(densities + torch.log_softmax(self.logits, 0), -1) + math.log(len(self.logits))

    def sample(self, count: int, seed: int | None = None) -> Tensor:
        """Draw ``(count, Z)``."""
        count = check_count("MixturePrior", "count", count, at_least=0)
        chosen = _choose(torch.softmax(self.logits, 0), count, seed)
        return ops.rsample_normal(self.means[chosen], self.logvars[chosen], (), seed)


class VampPrior(nn.Module):
    r"""The mean of the approximate posteriors of C learned inputs, :math:`p(z) = \frac{1}{C} \sum_c q(z|u_c)`.

    Parameters
    ----------
    encode
        The model's: it gives a pair (mean, logvar) or a distribution.
    pseudo_inputs
        ``(C, D)``, from 0 to 1: where the inputs u_c begin, which stay between 0 and 1.

    Raises
    ------
    ValueError
        If ``pseudo_inputs`` are not a table of numbers from 0 to 1.

    Notes
    -----
    Each call takes C rows of the encoder. Source: Tomczak and Welling 2018, equation 9.

    Examples
    --------
    >>> import torch
    >>> from fastvi.models import VAE
    >>> model = VAE(16, latent_dim=2, hidden_dims=(8,))
    >>> model.log_prior = VampPrior(model.encode, torch.rand(3, 16))
    >>> model.log_prior(torch.zeros(5, 4, 2)).shape
    torch.Size([5, 4])
    """

    def __init__(self, encode: Callable[[Tensor], Any], pseudo_inputs: Tensor) -> None:
        super().__init__()
        if pseudo_inputs.dim() != 2 or len(pseudo_inputs) == 0:
            raise ValueError(f"VampPrior: pseudo_inputs must have the shape (C, D), got {tuple(pseudo_inputs.shape)}")
        self.encode = encode
        self.logits = nn.Parameter(torch.logit(pseudo_inputs, eps=_MARGIN))

    @property
    def pseudo_inputs(self) -> Tensor:
        """The inputs u_c, ``(C, D)``."""
        return torch.sigmoid(self.logits)

    def forward(self, z: Tensor) -> Tensor:
        """Return log p(z), of the shape of ``z`` less its last axis."""
        found, places = self.encode(self.pseudo_inputs), z.unsqueeze(-2)
        densities = found.log_prob(places) if isinstance(found, Distribution) else ops.normal_log_prob(places, *found)
        return ops.log_mean_exp(densities, -1)

    def sample(self, count: int, seed: int | None = None) -> Tensor:
        """Draw ``(count, Z)``."""
        count = check_count("VampPrior", "count", count, at_least=0)
        weights = self.logits.new_full((len(self.logits),), 1.0 / len(self.logits))
        found = self.encode(self.pseudo_inputs[_choose(weights, count, seed)])
        if isinstance(found, Distribution):
            return seeded.rsample(found, 1, seed, 0)[0]
        mean, logvar = found
        return ops.rsample_normal(mean, logvar, (), seed)


class LabelPrior(nn.Module):
    """A Gaussian for each class, p(z|y), all of them learned: a ``conditional_prior`` for x = (images, labels).

    Parameters
    ----------
    num_classes, latent_dim
        Number of classes, and Z.

    Examples
    --------
    >>> import torch
    >>> mean, logvar = LabelPrior(num_classes=10, latent_dim=2)((torch.rand(4, 16), torch.tensor([0, 9, 3, 3])))
    >>> mean.shape, bool((mean[2] == mean[3]).all())
    (torch.Size([4, 2]), True)
    """

    def __init__(self, num_classes: int, latent_dim: int) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.randn(num_classes, latent_dim))
        self.logvars = nn.Parameter(torch.zeros(num_classes, latent_dim))

    def forward(self, x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of p(z|y), each ``(B, Z)``."""
        return self.means[x[1]], self.logvars[x[1]]


_MARGIN = 1e-3
"""Pseudo-inputs begin this far from 0 and 1, whose logits are infinite."""


def _choose(weights: Tensor, count: int, seed: int | None) -> Tensor:
    """Draw ``count`` numbers of components, as likely as their weights say."""
    zeros = weights.new_zeros((count, 1), dtype=torch.float64)
    # The second of two samples: the first ones of the same seed are the noise of z.
    uniform = torch.special.ndtr(ops.rsample_normal(zeros, zeros, (2,), seed)[1, :, 0])
    limits = weights.detach().double().cumsum(0)
    return torch.searchsorted(limits, uniform * limits[-1], right=True).clamp_max(len(weights) - 1)
