"""The log joint density of decoders in z: against autograd of the plain formula, with every kind of prior."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, distributions, nn

from fastvi.mcmc import HMC, step_seed
from fastvi.mcmc.targets import LogJoint
from fastvi.models import VAE


class LinearGaussian(nn.Module):
    """x = W z + noise of variance 1/4: the posterior is Gaussian."""

    def __init__(self, latent: int = 2, data: int = 5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(data, latent, generator=generator, dtype=torch.float64))

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return distributions.Normal(z @ self.weight.T, 0.5).log_prob(x).sum(-1)


def vae(likelihood: str = "bernoulli", **priors: Tensor) -> VAE:
    torch.manual_seed(0)
    model = VAE(12, 3, (8,), likelihood=likelihood).double()
    for name, value in priors.items():
        model.register_buffer(name, value)
    return model


@pytest.mark.parametrize("examples", [1, 4])
@pytest.mark.parametrize("prior", ["standard", "gaussian", "of each example", "function"])
@pytest.mark.parametrize("kind", ["bernoulli", "gaussian", "linear"])
def test_value_and_gradient(kind: str, prior: str, examples: int) -> None:
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    model: Any = LinearGaussian(3, 12) if kind == "linear" else vae(kind)
    x, position = noise(examples, 12).sigmoid(), noise(8, 3)
    density: Any = distributions.Normal(torch.zeros(3, dtype=torch.float64), 1.0)
    log_prior = None
    if prior in ("gaussian", "of each example"):
        shape = (3,) if prior == "gaussian" else (examples, 3)
        mean, logvar = noise(*shape), noise(*shape)
        model.prior_mean, model.prior_logvar = mean, logvar
        density = distributions.Normal(mean, (0.5 * logvar).exp())
    elif prior == "function":
        density = distributions.Laplace(torch.zeros(3, dtype=torch.float64), 2.0)
        log_prior = lambda z: density.log_prob(z).sum(-1)  # noqa: E731  # one of three priors
    value, gradient = LogJoint(model, x, log_prior)(position)
    assert not value.requires_grad
    assert not gradient.requires_grad
    z = position.view(-1, examples, 3).requires_grad_()
    expected = model.log_likelihood(x, z) + density.log_prob(z).sum(-1)
    (by_z,) = torch.autograd.grad(expected.sum(), z)
    torch.testing.assert_close(value, expected.detach().flatten(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, by_z.view(8, 3), rtol=1e-12, atol=1e-12)


def test_a_bernoulli_decoder_needs_no_autograd() -> None:
    target = LogJoint(vae(), torch.ones(1, 12, dtype=torch.float64))
    target._by_autograd = None
    value, gradient = target(torch.zeros(5, 3, dtype=torch.float64))
    assert value.shape == (5,)
    assert gradient.shape == (5, 3)


def test_chains_have_the_posterior_s_moments() -> None:
    """Of the linear-Gaussian model: 64 chains of each of two examples, means within five standard errors."""
    model = LinearGaussian()
    x = torch.tensor([[1.0, -1.0, 0.5, 2.0, 0.0], [0.0, 0.3, -2.0, 1.0, 1.0]], dtype=torch.float64)
    weight = model.weight.detach()
    covariance = torch.linalg.inv(4.0 * weight.T @ weight + torch.eye(2, dtype=torch.float64))
    mean = 4.0 * x @ weight @ covariance
    kernel = HMC(LogJoint(model, x), 0.25, 6)
    state, draws = kernel.init(torch.zeros(128, 2, dtype=torch.float64)), []
    for t in range(120):
        state, _ = kernel.step(state, step_seed(3, t))
        if t >= 20:
            draws.append(state.position.view(64, 2, 2))
    found = torch.stack(draws)
    of_chains = found.mean(0)
    standard_error = of_chains.std(0) / 8.0
    assert ((of_chains.mean(0) - mean).abs() < 5.0 * standard_error).all()
    torch.testing.assert_close(found.var((0, 1)), covariance.diagonal().expand(2, 2), rtol=0.15, atol=0.0)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (object(), "LogJoint: needs a model with the method log_likelihood, which object lacks"),
        ("conditional", "LogJoint: LinearGaussian has a conditional_prior; give that of x as log_prior"),
    ],
)
def test_models_that_lack_something(model: Any, message: str) -> None:
    if model == "conditional":
        model = LinearGaussian()
        model.conditional_prior = lambda x: None
    with pytest.raises(TypeError, match=message):
        LogJoint(model, torch.zeros(1, 5))


def test_wrong_numbers_of_positions() -> None:
    target = LogJoint(LinearGaussian(), torch.zeros(3, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"K chains for each of 3 examples, got \(4, 2\)"):
        target(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="at least one example"):
        LogJoint(LinearGaussian(), torch.zeros(0, 5))
