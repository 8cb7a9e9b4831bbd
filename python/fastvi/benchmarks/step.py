"""The whole training step of an importance-weighted autoencoder: bound, gradient and Adam.

The network is that of Burda, Grosse & Salakhutdinov 2016 with one stochastic layer, 784-200-200-50 with tanh, on random
binary images. Every provider starts from the same weights, sees the same images and uses the same fused Adam.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastvi import reference
from fastvi.benchmarks import plain
from fastvi.benchmarks.cases import assert_same_moments, assert_same_values
from fastvi.benchmarks.harness import COMPILE, EAGER, FASTVI, FASTVI_COMPILE, GEMMS, Case, Workload
from fastvi.benchmarks.timers import Call
from fastvi.models import VAE
from fastvi.objectives import IWAE

DATA_DIM, HIDDEN_DIM, LATENT_DIM = 784, 200, 50
LOSSES_TO_COMPARE = 20

Loss = Callable[[Tensor], Tensor]


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


def _plain_loss(model: PlainVAE, num_samples: int, x: Tensor) -> Tensor:
    mean, logvar = model.encode(x)
    z = mean + torch.exp(0.5 * logvar) * torch.randn(num_samples, *mean.shape, device=mean.device)
    log_prior = -0.5 * (z.square() + reference.LOG_TWO_PI).sum(-1)
    log_weights = model.log_likelihood(x, z) + log_prior - plain.normal_log_prob(z, mean, logvar)
    return -(torch.logsumexp(log_weights, 0) - math.log(num_samples)).mean()


def _fastvi_loss(model: VAE, objective: IWAE, x: Tensor) -> Tensor:
    return -objective(model, x).mean()


def _training_step(model: nn.Module, loss: Loss, x: Tensor) -> Call:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable=x.is_cuda)

    def step() -> None:
        loss(x).backward()
        optimizer.step()
        optimizer.zero_grad()  # last, so that the peak memory of a call includes the gradients it made

    return step


def matrix_products(model: nn.Module, batch: int, num_samples: int) -> Call:
    """Only the matrix products of one step: for each linear layer the output, the weight's and the input's gradient."""
    layers = [
        (module, batch * (num_samples if name.startswith(("decoder", "likelihood")) else 1))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    products = []
    for index, (layer, rows) in enumerate(layers):
        weight = layer.weight.detach()
        inputs, output_gradient = torch.randn(rows, layer.in_features), torch.randn(rows, layer.out_features)
        pairs = [(inputs, weight.T), (output_gradient.T, inputs)]
        if index > 0:  # nobody asks for the gradient of the images
            pairs.append((output_gradient, weight))
        products += [(left, right, torch.empty(left.shape[0], right.shape[1])) for left, right in pairs]

    def call() -> None:
        for left, right, out in products:
            torch.mm(left, right, out=out)

    return call


def _check(plain: PlainVAE, fused: VAE, losses: dict[str, Loss], x: Tensor, num_samples: int, name: str) -> None:
    """Given z the two models must agree, with their gradients; with the draws the losses must agree statistically."""
    exact = copy.deepcopy(plain).double()
    z = torch.randn(num_samples, x.shape[0], LATENT_DIM, device=x.device)
    values = []
    for model, dtype in ((fused, torch.float32), (exact, torch.float64)):
        mean, logvar = model.encode(x.to(dtype))
        log_likelihood = model.log_likelihood(x.to(dtype), z.to(dtype))
        total = log_likelihood.mean() + mean.square().mean() + logvar.mean()
        gradients = torch.autograd.grad(total, list(model.parameters()))
        values.append([mean.detach(), logvar.detach(), log_likelihood.detach(), *gradients])
    for value, expected in zip(*values, strict=True):
        assert_same_values(f"{name}, model of {FASTVI}", value, expected)
    samples = {
        provider: torch.stack([loss(x).detach() for _ in range(LOSSES_TO_COMPARE)]) for provider, loss in losses.items()
    }
    for provider, sample in samples.items():
        assert_same_moments(f"{name}, loss of {provider}", sample, samples[EAGER])


def _prepare(batch: int, num_samples: int, name: str, mode: str, with_compile: bool) -> Workload:
    x = torch.bernoulli(torch.full((batch, DATA_DIM), 0.5))
    fused = VAE(DATA_DIM, LATENT_DIM, (HIDDEN_DIM, HIDDEN_DIM))
    plain = PlainVAE()
    plain.load_state_dict(fused.state_dict())
    models: dict[str, nn.Module] = {}
    losses: dict[str, Loss] = {}

    def add(provider: str, model: nn.Module, loss: Loss) -> None:
        models[provider], losses[provider] = model, loss

    for provider in (EAGER, COMPILE) if with_compile else (EAGER,):
        model = copy.deepcopy(plain)
        add(provider, model, _compiled(partial(_plain_loss, model, num_samples), provider == COMPILE))
    for provider in (FASTVI, FASTVI_COMPILE) if with_compile else (FASTVI,):
        twin = copy.deepcopy(fused)
        add(provider, twin, _compiled(partial(_fastvi_loss, twin, IWAE(num_samples)), provider == FASTVI_COMPILE))
    calls = {provider: _training_step(models[provider], loss, x) for provider, loss in losses.items()}
    calls[GEMMS] = matrix_products(plain, batch, num_samples)
    return Workload(calls, partial(_check, plain, fused, losses, x, num_samples, name))


def _compiled(loss: Loss, wanted: bool) -> Loss:
    return torch.compile(loss, dynamic=False) if wanted else loss


def _case(batch: int, num_samples: int) -> Case:
    name = f"IWAE step, batch {batch}, K {num_samples}"
    return Case("step", name, ("step",), partial(_prepare, batch, num_samples, name))


CASES = [_case(100, 50), _case(20, 50), _case(20, 1), _case(128, 1), _case(100, 5)]
