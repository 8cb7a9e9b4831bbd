"""The linear-Gaussian model x = W z + b + noise, whose evidence, posterior, bounds and gradients are known exactly.

Every parameter has a leading axis of examples, so that each example of a batch owns its copy: the gradient of a sum
over N examples is then N independent draws of one example's gradient, whose mean and standard error are at hand.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

LOG_TWO_PI = math.log(2.0 * math.pi)
STANDARD_ERRORS = 4.5
"""Bound on |mean - expectation| in standard errors: a correct estimator passes it with probability 1 - 7e-6."""

GENERATIVE = ("weight", "bias", "noise_logvar")
PRIOR = ("prior_mean", "prior_logvar")
ENCODER = ("encoder_weight", "encoder_bias", "encoder_logvar")


@dataclasses.dataclass
class LinearGaussian:
    """p(z) = N(prior_mean, exp(prior_logvar)), p(x|z) = N(W z + b, exp(noise_logvar) I), q(z|x) = N(A x + c, exp(l)).

    Shapes: weight ``(B, D, Z)``, bias ``(B, D)``, noise_logvar ``(B, 1)``, prior_mean, prior_logvar, encoder_bias and
    encoder_logvar ``(B, Z)``, encoder_weight ``(B, Z, D)``. None for both prior parameters is the standard normal.
    """

    weight: Tensor
    bias: Tensor
    noise_logvar: Tensor
    prior_mean: Tensor | None
    prior_logvar: Tensor | None
    encoder_weight: Tensor
    encoder_bias: Tensor
    encoder_logvar: Tensor

    # What an objective asks for.

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.einsum("bzd,bd->bz", self.encoder_weight, x) + self.encoder_bias, self.encoder_logvar

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        residual = x - self.bias - torch.einsum("bdz,kbz->kbd", self.weight, z)
        return -0.5 * (residual.square() * torch.exp(-self.noise_logvar) + self.noise_logvar + LOG_TWO_PI).sum(-1)

    # What is known in closed form.

    def log_marginal(self, x: Tensor) -> Tensor:
        """log p(x), ``(B,)``, from the Gaussian that the generative model implies for x."""
        prior_mean, prior_logvar = self._prior()
        noise = torch.exp(self.noise_logvar).unsqueeze(-1) * torch.eye(self.weight.shape[-2], dtype=x.dtype)
        covariance = self.weight * torch.exp(prior_logvar).unsqueeze(-2) @ self.weight.mT + noise
        return MultivariateNormal(torch.einsum("bdz,bz->bd", self.weight, prior_mean) + self.bias, covariance).log_prob(
            x
        )

    def elbo(self, x: Tensor) -> Tensor:
        """E_q log p(x|z) - KL(q || p), ``(B,)``."""
        return self.expected_log_likelihood(x) - self.divergence(x).sum(-1)

    def expected_log_likelihood(self, x: Tensor) -> Tensor:
        """E_q log p(x|z), ``(B,)``: that at q's mean, less the variance that W carries into x."""
        mean, logvar = self.encode(x)
        carried = (self.weight.square().sum(-2) * torch.exp(logvar)).sum(-1)
        return self.log_likelihood(x, mean.unsqueeze(0))[0] - 0.5 * torch.exp(-self.noise_logvar[:, 0]) * carried

    def divergence(self, x: Tensor) -> Tensor:
        """KL(q || p) of each latent variable, ``(B, Z)``."""
        (mean, logvar), (prior_mean, prior_logvar) = self.encode(x), self._prior()
        square = (mean - prior_mean).square()
        return 0.5 * ((square + torch.exp(logvar)) * torch.exp(-prior_logvar) - 1.0 + prior_logvar - logvar)

    def importance_bound(self, x: Tensor, num_samples: int, nodes: int = 40) -> Tensor:
        """L_K, ``(B,)``, for one latent variable, by Gauss-Hermite quadrature over the K-dimensional grid of nodes.

        With 40 nodes the value and its gradients stand to 1e-8 for the model below and K up to 3.
        """
        assert self.weight.shape[-1] == 1
        (mean, logvar), (prior_mean, prior_logvar) = self.encode(x), self._prior()
        points, masses = (torch.from_numpy(values) for values in np.polynomial.hermite_e.hermegauss(nodes))
        masses = masses / masses.sum()
        noise = points.reshape(-1, 1, 1)
        z = mean + torch.exp(0.5 * logvar) * noise
        prior = -0.5 * ((z - prior_mean).square() * torch.exp(-prior_logvar) + prior_logvar + LOG_TWO_PI)
        log_w = self.log_likelihood(x, z) + (prior + 0.5 * (noise.square() + logvar + LOG_TWO_PI)).sum(-1)
        log_sum, mass = log_w, masses
        for _ in range(num_samples - 1):
            log_sum = torch.logaddexp(log_sum.unsqueeze(1), log_w.unsqueeze(0)).flatten(0, 1)
            mass = torch.outer(mass, masses).flatten()
        return mass @ log_sum - math.log(num_samples)

    def with_exact_posterior(self) -> LinearGaussian:
        """The same model with q(z|x) = p(z|x), which is diagonal because the columns of W are orthogonal."""
        prior_mean, prior_logvar = self._prior()
        noise_precision = torch.exp(-self.noise_logvar)
        precision = torch.exp(-prior_logvar) + noise_precision * self.weight.square().sum(-2)
        encoder_weight = noise_precision.unsqueeze(-1) * self.weight.mT / precision.unsqueeze(-1)
        shift = torch.exp(-prior_logvar) * prior_mean / precision
        encoder_bias = shift - torch.einsum("bzd,bd->bz", encoder_weight, self.bias)
        return dataclasses.replace(
            self, encoder_weight=encoder_weight, encoder_bias=encoder_bias, encoder_logvar=-torch.log(precision)
        )

    # Copies.

    def parameters(self) -> dict[str, Tensor]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if value is not None}

    def map(self, function: Callable[[Tensor], Tensor]) -> LinearGaussian:
        return dataclasses.replace(self, **{name: function(value) for name, value in self.parameters().items()})

    def rows(self, count: int) -> LinearGaussian:
        """``count`` copies of a model of one example, with leaves that ask for gradients."""
        return self.map(lambda value: value.detach().repeat(count, *(1,) * (value.dim() - 1)).requires_grad_())

    def _prior(self) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros_like(self.encoder_bias)
        return (
            zeros if self.prior_mean is None else self.prior_mean,
            zeros if self.prior_logvar is None else self.prior_logvar,
        )


def make(latent_dim: int = 2, data_dim: int = 4, learned_prior: bool = True) -> tuple[LinearGaussian, Tensor]:
    """A float64 model of one example, its encoder wrong in mean and variance, and an x of shape ``(1, D)``."""
    generator = torch.Generator().manual_seed(2016)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(1, *shape, generator=generator, dtype=torch.float64)

    orthogonal = torch.linalg.qr(normal(data_dim, latent_dim)).Q * torch.linspace(0.6, 1.1, latent_dim)
    model = LinearGaussian(
        weight=orthogonal.double(),
        bias=normal(data_dim, scale=0.3),
        noise_logvar=torch.full((1, 1), -0.4, dtype=torch.float64),
        prior_mean=normal(latent_dim, scale=0.3) if learned_prior else None,
        prior_logvar=normal(latent_dim, scale=0.3) if learned_prior else None,
        encoder_weight=torch.zeros(1, latent_dim, data_dim, dtype=torch.float64),
        encoder_bias=torch.zeros(1, latent_dim, dtype=torch.float64),
        encoder_logvar=torch.zeros(1, latent_dim, dtype=torch.float64),
    ).with_exact_posterior()
    model.encoder_weight = model.encoder_weight + normal(latent_dim, data_dim, scale=0.2)
    model.encoder_bias = model.encoder_bias + normal(latent_dim, scale=0.2)
    model.encoder_logvar = model.encoder_logvar + 0.3
    return model, normal(data_dim)


def exact_gradients(bound: Callable[[LinearGaussian], Tensor], model: LinearGaussian) -> dict[str, Tensor]:
    """Gradients of a closed-form bound in every parameter of a model of one example, without the leading axis."""
    leaves = model.rows(1)
    names = tuple(leaves.parameters())
    gradients = torch.autograd.grad(bound(leaves).sum(), tuple(leaves.parameters().values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf[0]) if gradient is None else gradient[0]
        for name, leaf, gradient in zip(names, leaves.parameters().values(), gradients, strict=True)
    }


def gradient_draws(
    objective: Callable[..., Tensor], model: LinearGaussian, x: Tensor, count: int, seed: int | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """``count`` independent draws of an objective's value, ``(count,)``, and of its gradient in every parameter."""
    leaves = model.rows(count)
    value = objective(leaves, x.expand(count, -1), seed=seed)
    gradients = torch.autograd.grad(value.sum(), tuple(leaves.parameters().values()))
    return value.detach(), dict(zip(leaves.parameters(), gradients, strict=True))


def assert_expectation(draws: Tensor, expected: Tensor | float, what: str) -> None:
    """Assert that the mean of independent ``draws`` (first axis) is ``expected`` within ``STANDARD_ERRORS``."""
    error = draws.mean(0) - expected
    standard_error = draws.std(0) / math.sqrt(len(draws))
    # What is not random (an exact gradient) may still differ by the rounding of float64.
    ratio = (error.abs() / (standard_error + 1e-12)).max().item()
    assert ratio <= STANDARD_ERRORS, f"{what}: off by {ratio:.1f} standard errors, mean {draws.mean(0)}, not {expected}"
