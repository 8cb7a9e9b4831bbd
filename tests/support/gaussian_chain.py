"""The chain z2 -> z1 -> x of linear-Gaussian layers, whose evidence, posterior, bounds and gradients are known exactly.

As in `support.linear_gaussian` every parameter has a leading axis of examples, so that a batch holds independent draws
of one example's gradient.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from fastvi import normal_log_prob
from fastvi.objectives import Draw, sample_layer
from support.linear_gaussian import LOG_TWO_PI

ENCODER = ("first_weight", "first_bias", "first_logvar", "second_weight", "second_bias", "second_logvar")
GENERATIVE = (
    "weight",
    "bias",
    "noise_logvar",
    "middle_weight",
    "middle_bias",
    "middle_logvar",
    "top_mean",
    "top_logvar",
)


def apply(weight: Tensor, bias: Tensor, z: Tensor) -> Tensor:
    """Each example's map of its own: ``(B, O, I)``, ``(B, O)`` and ``(..., B, I)`` to ``(..., B, O)``."""
    return torch.einsum("boi,...bi->...bo", weight, z) + bias


@dataclasses.dataclass
class GaussianChain:
    """p(z2) = N(top_mean, exp(top_logvar)), p(z1|z2) = N(A z2 + a, exp(middle_logvar)), p(x|z1) = N(W z1 + b, noise).

    q(z1|x) = N(C x + c, exp(first_logvar)), q(z2|z1) = N(E z1 + e, exp(second_logvar)), all variances diagonal. Shapes:
    weights ``(B, outputs, inputs)``, biases and log-variances ``(B, outputs)``.
    """

    weight: Tensor
    bias: Tensor
    noise_logvar: Tensor
    middle_weight: Tensor
    middle_bias: Tensor
    middle_logvar: Tensor
    top_mean: Tensor
    top_logvar: Tensor
    first_weight: Tensor
    first_bias: Tensor
    first_logvar: Tensor
    second_weight: Tensor
    second_bias: Tensor
    second_logvar: Tensor

    # What an objective asks for.

    draws_log_ratio = True

    def draw(self, x, num_samples, *, detach_posterior=False, seed=None, row_offset=0, path=None):
        z1 = sample_layer(*self.first(x), num_samples, seed=seed, row_offset=row_offset)
        z2 = sample_layer(*self.second(z1), num_samples, 1, seed=seed, row_offset=row_offset)
        samples = [z1, z2] if path is None else [path(z1), path(z2)]
        q = self.map(torch.Tensor.detach) if detach_posterior else self
        log_ratio = self.log_prior(*samples) - q.log_posterior(x, *samples)
        return Draw(samples, self.log_likelihood(x, samples[0]) + log_ratio, log_ratio=log_ratio)

    def first(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return apply(self.first_weight, self.first_bias, x), self.first_logvar

    def second(self, z1: Tensor) -> tuple[Tensor, Tensor]:
        return apply(self.second_weight, self.second_bias, z1), self.second_logvar.expand_as(
            z1[..., :1] + self.second_bias
        )

    def log_likelihood(self, x: Tensor, z1: Tensor) -> Tensor:
        return normal_log_prob(x, apply(self.weight, self.bias, z1), self.noise_logvar.expand_as(x))

    def log_prior(self, z1: Tensor, z2: Tensor) -> Tensor:
        middle = normal_log_prob(z1, apply(self.middle_weight, self.middle_bias, z2), self.middle_logvar)
        return middle + normal_log_prob(z2, self.top_mean, self.top_logvar)

    def log_joint(self, x: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
        return self.log_likelihood(x, z1) + self.log_prior(z1, z2)

    def log_posterior(self, x: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
        return normal_log_prob(z1, *self.first(x)) + normal_log_prob(z2, *self.second(z1))

    # What is known in closed form.

    def log_marginal(self, x: Tensor) -> Tensor:
        """log p(x), ``(B,)``, from the Gaussian that the chain implies for x."""
        mean = apply(self.weight, self.bias, apply(self.middle_weight, self.middle_bias, self.top_mean))
        covariance = self.weight @ self.prior_covariance() @ self.weight.mT
        noise = torch.diag_embed(torch.exp(self.noise_logvar).expand_as(x))
        return MultivariateNormal(mean, covariance + noise).log_prob(x)

    def prior_covariance(self) -> Tensor:
        """Covariance of z1 under the model, ``(B, Z1, Z1)``."""
        top = self.middle_weight * torch.exp(self.top_logvar).unsqueeze(-2)
        return top @ self.middle_weight.mT + torch.diag_embed(torch.exp(self.middle_logvar))

    def elbo(self, x: Tensor, beta: float = 1.0) -> Tensor:
        """E_q log p(x|z1) - beta KL(q(z1, z2|x) || p(z1, z2)), ``(B,)``, from means and covariances under q."""
        mean1, logvar1 = self.first(x)
        mean2, _ = self.second(mean1)
        covariance1 = torch.diag_embed(torch.exp(logvar1))
        across = self.second_weight @ covariance1
        covariance2 = across @ self.second_weight.mT + torch.diag_embed(torch.exp(self.second_logvar))

        def expected(mean: Tensor, covariance: Tensor, logvar: Tensor) -> Tensor:
            """E log N(y; 0, exp(logvar)) of a y with this mean and covariance."""
            square = mean.square() + covariance.diagonal(dim1=-2, dim2=-1)
            return -0.5 * (square * torch.exp(-logvar) + logvar + LOG_TWO_PI).sum(-1)

        residual = x - apply(self.weight, self.bias, mean1)
        of_x = expected(residual, self.weight @ covariance1 @ self.weight.mT, self.noise_logvar.expand_as(x))
        carried = self.middle_weight @ across
        between = covariance1 - carried - carried.mT + self.middle_weight @ covariance2 @ self.middle_weight.mT
        of_first = expected(mean1 - apply(self.middle_weight, self.middle_bias, mean2), between, self.middle_logvar)
        of_second = expected(mean2 - self.top_mean, covariance2, self.top_logvar)
        entropies = (0.5 * (1.0 + LOG_TWO_PI + each).sum(-1) for each in (logvar1, self.second_logvar))
        return of_x + beta * (of_first + of_second + sum(entropies))

    def second_bound(self, x: Tensor, nodes: int = 28) -> Tensor:
        """L_2, ``(B,)``, for layers of one variable each, by Gauss-Hermite quadrature over two samples of both.

        With 28 nodes the value and its gradients stand to 1e-7 for the model below.
        """
        points, masses = (torch.from_numpy(values) for values in np.polynomial.hermite_e.hermegauss(nodes))
        masses = masses / masses.sum()
        noise1, noise2 = (grid.reshape(-1, 1, 1) for grid in torch.meshgrid(points, points, indexing="ij"))
        mass = torch.outer(masses, masses).flatten()
        mean, logvar = self.first(x)
        z1 = mean + torch.exp(0.5 * logvar) * noise1
        mean, logvar = self.second(z1)
        z2 = mean + torch.exp(0.5 * logvar) * noise2
        log_w = self.log_joint(x, z1, z2) - self.log_posterior(x, z1, z2)
        pairs = torch.logaddexp(log_w.unsqueeze(1), log_w.unsqueeze(0))
        return torch.einsum("i,j,ijb->b", mass, mass, pairs) - math.log(2.0)

    def with_exact_posterior(self) -> GaussianChain:
        """The same model with q = p(z1|x) p(z2|z1), both diagonal because A is and the columns of W are orthogonal."""
        middle_precision = torch.exp(-self.middle_logvar).unsqueeze(-1)
        precision2 = torch.exp(-self.top_logvar) + (self.middle_weight.square() * middle_precision).sum(-2)
        second_weight = (middle_precision * self.middle_weight).mT / precision2.unsqueeze(-1)
        shift = torch.exp(-self.top_logvar) * self.top_mean / precision2
        noise_precision = torch.exp(-self.noise_logvar)
        prior_variance = self.prior_covariance().diagonal(dim1=-2, dim2=-1)
        precision1 = 1.0 / prior_variance + noise_precision * self.weight.square().sum(-2)
        first_weight = noise_precision.unsqueeze(-1) * self.weight.mT / precision1.unsqueeze(-1)
        prior_mean = apply(self.middle_weight, self.middle_bias, self.top_mean)
        first_bias = prior_mean / prior_variance / precision1 - apply(
            first_weight, torch.zeros_like(prior_mean), self.bias
        )
        return dataclasses.replace(
            self,
            first_weight=first_weight,
            first_bias=first_bias,
            first_logvar=-torch.log(precision1),
            second_weight=second_weight,
            second_bias=apply(second_weight, shift, -self.middle_bias),
            second_logvar=-torch.log(precision2),
        )

    # Copies.

    def parameters(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def map(self, function: Callable[[Tensor], Tensor]) -> GaussianChain:
        return dataclasses.replace(self, **{name: function(value) for name, value in self.parameters().items()})

    def rows(self, count: int) -> GaussianChain:
        """``count`` copies of a model of one example, with leaves that ask for gradients."""
        return self.map(lambda value: value.detach().repeat(count, *(1,) * (value.dim() - 1)).requires_grad_())


def make(latent_dim: int = 2, data_dim: int = 3) -> tuple[GaussianChain, Tensor]:
    """A float64 model of one example, its encoder wrong in means and variances, and an x of shape ``(1, D)``."""
    generator = torch.Generator().manual_seed(2021)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(1, *shape, generator=generator, dtype=torch.float64)

    orthogonal = torch.linalg.qr(normal(data_dim, latent_dim)).Q * torch.linspace(0.7, 1.1, latent_dim)
    none = normal(latent_dim, scale=0.0)
    model = GaussianChain(
        weight=orthogonal.double(),
        bias=normal(data_dim, scale=0.3),
        noise_logvar=torch.full((1, 1), -0.4, dtype=torch.float64),
        middle_weight=torch.diag_embed(torch.linspace(0.8, -0.6, latent_dim, dtype=torch.float64)).unsqueeze(0),
        middle_bias=normal(latent_dim, scale=0.3),
        middle_logvar=normal(latent_dim, scale=0.2) - 0.3,
        top_mean=normal(latent_dim, scale=0.3),
        top_logvar=normal(latent_dim, scale=0.2),
        first_weight=none.unsqueeze(-1).expand(1, latent_dim, data_dim),
        first_bias=none,
        first_logvar=none,
        second_weight=none.unsqueeze(-1).expand(1, latent_dim, latent_dim),
        second_bias=none,
        second_logvar=none,
    ).with_exact_posterior()
    changes = {name: getattr(model, name) + normal(*getattr(model, name).shape[1:], scale=0.2) for name in ENCODER}
    # Far from the posterior in z2, where errors of the path through z1 are to be seen.
    changes["second_bias"] = changes["second_bias"] + 0.7
    for name in ("first_logvar", "second_logvar"):  # wide enough for weights of finite variance
        changes[name] = getattr(model, name) + 0.2
    return dataclasses.replace(model, **changes), normal(data_dim)
