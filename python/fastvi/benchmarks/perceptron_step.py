"""The importance-weighted autoencoder whose training step is timed: 784-200-200-50 with tanh.

The network is that of Burda, Grosse & Salakhutdinov 2016 with one stochastic layer, on random binary images. Every
provider starts from the same weights, sees the same images and uses the same fused Adam.
"""

from __future__ import annotations

import copy
import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastvi import reference
from fastvi.benchmarks import jax_step, plain
from fastvi.benchmarks.cases import assert_same_values
from fastvi.benchmarks.floor import products_and_floor
from fastvi.benchmarks.harness import Case, Workload
from fastvi.benchmarks.jax_runtime import from_jax, to_jax
from fastvi.benchmarks.results import FASTVI, FLOOR, GEMMS, JAX
from fastvi.benchmarks.timers import Call
from fastvi.benchmarks.training_step import check_losses, precision, steps_and_losses
from fastvi.models import VAE
from fastvi.objectives import IWAE

DATA_DIM, HIDDEN_DIM, LATENT_DIM = 784, 200, 50
FLOAT32_TOLERANCE = 1e-5
BFLOAT16_TOLERANCE = 4e-2
"""Of the largest element: products of four layers in a row, each rounded to eight bits, forward and backward."""
JAX_TOLERANCE = 1e-4
"""Of the largest element: JAX adds the rows of a gradient up one after the other in float32, up to 5000 of them."""


class PlainVAE(nn.Module):
    """`fastvi.models.VAE` as one writes it in plain PyTorch; the parameters bear the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(DATA_DIM, HIDDEN_DIM), nn.Tanh(), nn.Linear(HIDDEN_DIM, HIDDEN_DIM), nn.Tanh()
        )
        self.posterior_head = nn.Linear(HIDDEN_DIM, 2 * LATENT_DIM)
        self.decoder = nn.Sequential(
            nn.Linear(LATENT_DIM, HIDDEN_DIM), nn.Tanh(), nn.Linear(HIDDEN_DIM, HIDDEN_DIM), nn.Tanh()
        )
        self.likelihood_head = nn.Linear(HIDDEN_DIM, DATA_DIM)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (mean, logvar) of q(z|x)."""
        mean, logvar = self.posterior_head(self.encoder(x)).chunk(2, -1)
        return mean, logvar

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x|z), (K, B)."""
        logits = self.likelihood_head(self.decoder(z))
        return -functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)


def plain_loss(num_samples: int, model: PlainVAE, x: Tensor, noise: Tensor | None = None) -> Tensor:
    """Return minus the bound, a mean over the batch; ``noise``, (K, B, Z), is drawn where it is not given."""
    mean, logvar = model.encode(x)
    if noise is None:
        noise = torch.randn(num_samples, *mean.shape, device=mean.device)
    z = mean + torch.exp(0.5 * logvar) * noise
    log_prior = -0.5 * (z.square() + reference.LOG_TWO_PI).sum(-1)
    log_weights = model.log_likelihood(x, z) + log_prior - plain.normal_log_prob(z, mean, logvar)
    return -(torch.logsumexp(log_weights, 0) - math.log(num_samples)).mean()


def fastvi_loss(objective: IWAE, model: VAE, x: Tensor) -> Tensor:
    """Return minus the bound, a mean over the batch."""
    return -objective(model, x).mean()


def floor_of(model: nn.Module, batch: int, num_samples: int, dtype: torch.dtype = torch.float32) -> tuple[Call, Call]:
    """Return the matrix products of one step, and the floor of the step, see `products_and_floor`."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    rows = [batch * (num_samples if name.startswith(("decoder", "likelihood")) else 1) for name in layers]
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return products_and_floor([layer.weight for layer in layers.values()], rows, num_parameters, dtype)


def check_model(plain: PlainVAE, fused: VAE, x: Tensor, num_samples: int, name: str, autocast: bool) -> None:
    """Given z the two models must agree, with their gradients."""
    exact = copy.deepcopy(plain).double()
    z = torch.randn(num_samples, x.shape[0], LATENT_DIM, device=x.device)
    values = []
    for model, dtype in ((fused, torch.float32), (exact, torch.float64)):
        with precision(x, autocast and model is fused):
            mean, logvar = model.encode(x.to(dtype))
            log_likelihood = model.log_likelihood(x.to(dtype), z.to(dtype))
        total = log_likelihood.mean() + mean.square().mean() + logvar.mean()
        gradients = torch.autograd.grad(total, list(model.parameters()))
        values.append([mean.detach(), logvar.detach(), log_likelihood.detach(), *gradients])
    tolerance = BFLOAT16_TOLERANCE if autocast else FLOAT32_TOLERANCE
    for value, expected in zip(*values, strict=True):
        assert_same_values(f"{name}, model of {FASTVI}", value, expected, tolerance)


def _checked_jax_step(model: PlainVAE, x: Tensor, num_samples: int, name: str) -> Call:
    """Make JAX's step; for given noise its loss and gradients must be those of the plain model in float64."""
    import jax

    exact = copy.deepcopy(model).double()
    noise = torch.randn(num_samples, x.shape[0], LATENT_DIM)
    expected = plain_loss(num_samples, exact, x.double(), noise.double())
    expected.backward()
    weights = jax_step.start(model.state_dict())["parameters"]
    value, found = jax.jit(jax.value_and_grad(jax_step.loss))(weights, to_jax(x), to_jax(noise))
    assert_same_values(f"{name}, loss of {JAX}", from_jax(value), expected.detach())
    for parameter, weight in exact.named_parameters():
        assert weight.grad is not None
        assert_same_values(
            f"{name}, gradient of {JAX}, {parameter}", from_jax(found[parameter]), weight.grad, JAX_TOLERANCE
        )
    return jax_step.step_call(model.state_dict(), x, num_samples, LATENT_DIM)


def _prepare(batch: int, num_samples: int, autocast: bool, name: str, mode: str, with_compile: bool) -> Workload:
    x = torch.bernoulli(torch.full((batch, DATA_DIM), 0.5))
    fused = VAE(DATA_DIM, LATENT_DIM, (HIDDEN_DIM, HIDDEN_DIM))
    plain = PlainVAE()
    plain.load_state_dict(fused.state_dict())
    calls, losses = steps_and_losses(
        (plain, partial(plain_loss, num_samples)),
        (fused, partial(fastvi_loss, IWAE(num_samples))),
        x,
        with_compile,
        autocast,
    )
    dtype = torch.bfloat16 if autocast else torch.float32
    calls[GEMMS], calls[FLOOR] = floor_of(plain, batch, num_samples, dtype)

    def check() -> None:
        check_model(plain, fused, x, num_samples, name, autocast)
        check_losses(name, losses, x)

    make_jax = None if autocast else partial(_checked_jax_step, plain, x, num_samples, name)
    return Workload(calls, check, make_jax=make_jax)


def perceptron_case(batch: int, num_samples: int, autocast: bool = False) -> Case:
    """Return the case of one size, in float32 or under ``torch.autocast`` in bfloat16."""
    name = f"IWAE step, batch {batch}, K {num_samples}{', bfloat16' if autocast else ''}"
    return Case("step", name, ("step",), partial(_prepare, batch, num_samples, autocast, name))
