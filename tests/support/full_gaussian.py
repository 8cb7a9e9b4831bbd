"""The linear-Gaussian model with correlated latent variables, and an approximate posterior of full covariance.

p(z) = N(0, I), p(x|z) = N(W z, exp(noise_logvar) I), q(z|x) = N(mean, L L'). Every parameter has a leading axis of
examples, as in `support.linear_gaussian`. Exact values are PyTorch's densities and divergences of Gaussians.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from support.linear_gaussian import LOG_TWO_PI


@dataclasses.dataclass
class FullGaussian:
    """Shapes: weight ``(B, D, Z)``, noise_logvar ``(B, 1)``, mean ``(B, Z)``, tril ``(B, Z, Z)``."""

    weight: Tensor
    noise_logvar: Tensor
    mean: Tensor
    tril: Tensor

    def encode(self, x):
        return MultivariateNormal(self.mean, scale_tril=self.tril, validate_args=False)

    def log_likelihood(self, x, z):
        residual = x - torch.einsum("bdz,kbz->kbd", self.weight, z)
        return -0.5 * (residual.square() * torch.exp(-self.noise_logvar) + self.noise_logvar + LOG_TWO_PI).sum(-1)

    def log_marginal(self, x):
        noise = torch.exp(self.noise_logvar).unsqueeze(-1) * torch.eye(x.shape[-1], dtype=x.dtype)
        return MultivariateNormal(torch.zeros_like(x), self.weight @ self.weight.mT + noise).log_prob(x)

    def exact_posterior(self, x):
        precision_of_noise = torch.exp(-self.noise_logvar)
        precision = torch.eye(self.mean.shape[-1], dtype=x.dtype)
        precision = precision + precision_of_noise.unsqueeze(-1) * self.weight.mT @ self.weight
        projected = precision_of_noise * torch.einsum("bdz,bd->bz", self.weight, x)
        mean = torch.linalg.solve(precision, projected.unsqueeze(-1)).squeeze(-1)
        return MultivariateNormal(mean, precision_matrix=precision)

    def elbo(self, x):
        return self.log_marginal(x) - kl_divergence(self.encode(x), self.exact_posterior(x))

    def second_bound(self, x, nodes=20):
        """L_2 for two latent variables by quadrature over the noise of both samples."""
        points, masses = (torch.from_numpy(values) for values in np.polynomial.hermite_e.hermegauss(nodes))
        noise, mass = torch.cartesian_prod(points, points), torch.cartesian_prod(masses, masses).prod(-1)
        mass = mass / mass.sum()
        z = self.mean + torch.einsum("bij,nj->nbi", self.tril, noise)
        log_ratio = -0.5 * z.square().sum(-1) + 0.5 * noise.square().sum(-1, keepdim=True)
        log_w = self.log_likelihood(x, z) + log_ratio + self.tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        pairs = torch.logaddexp(log_w.unsqueeze(0), log_w.unsqueeze(1)) - torch.log(torch.tensor(2.0))
        return torch.einsum("n,m,nmb->b", mass, mass, pairs)

    def parameters(self):
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def map(self, function):
        return dataclasses.replace(self, **{name: function(value) for name, value in self.parameters().items()})

    def rows(self, count):
        return self.map(lambda value: value.detach().repeat(count, *(1,) * (value.dim() - 1)).requires_grad_())

    def with_exact_posterior(self, x):
        exact = self.exact_posterior(x)
        return dataclasses.replace(self, mean=exact.loc, tril=exact.scale_tril)


def make() -> tuple[FullGaussian, Tensor]:
    """A float64 model of one example, its posterior wrong in mean and covariance, and an x of shape ``(1, D)``."""
    weight = torch.tensor([[[0.9, 0.5], [-0.3, 0.8], [0.6, 0.7]]], dtype=torch.float64)
    x = torch.tensor([[0.7, -0.4, 1.1]], dtype=torch.float64)
    noise_logvar = torch.full((1, 1), -0.4, dtype=torch.float64)
    zeros = torch.zeros(1, 2, dtype=torch.float64)
    model = FullGaussian(weight, noise_logvar, zeros, torch.eye(2, dtype=torch.float64).unsqueeze(0))
    model = model.with_exact_posterior(x)
    model.mean = model.mean + torch.tensor([[0.15, -0.1]], dtype=torch.float64)
    model.tril = model.tril * 1.15 + torch.tensor([[[0.0, 0.0], [0.1, 0.0]]], dtype=torch.float64)
    return model, x
