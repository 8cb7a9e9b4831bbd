"""The training step of a small convolutional autoencoder on 28 x 28 binary images, by the evidence lower bound, K 1.

Both providers run the same layers of PyTorch; what differs is the sampling, the KL divergence and the likelihood, after
Kingma & Welling 2014.
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastvi import ops, reference
from fastvi.benchmarks.cases import assert_same_values
from fastvi.benchmarks.harness import Case, Workload
from fastvi.benchmarks.results import FASTVI
from fastvi.benchmarks.training_step import check_losses, steps_and_losses

SIDE, LATENT_DIM, CHANNELS = 28, 20, (16, 32)
FEATURES = CHANNELS[1] * (SIDE // 4) ** 2


class ConvolutionalVAE(nn.Module):
    """Two convolutions of stride 2 to the latent variables, two transposed ones back to the logits."""

    def __init__(self) -> None:
        super().__init__()
        first, second = CHANNELS
        self.encoder = nn.Sequential(
            nn.Conv2d(1, first, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(first, second, 4, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(FEATURES, 2 * LATENT_DIM),
        )
        self.decoder = nn.Sequential(
            nn.Linear(LATENT_DIM, FEATURES),
            nn.ReLU(),
            nn.Unflatten(1, (second, SIDE // 4, SIDE // 4)),
            nn.ConvTranspose2d(second, first, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(first, 1, 4, 2, 1),
            nn.Flatten(),
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (mean, logvar) of q(z|x), for ``x`` of shape (B, 784)."""
        mean, logvar = self.encoder(x.view(-1, 1, SIDE, SIDE)).chunk(2, -1)
        return mean, logvar


def _plain_terms(mean: Tensor, logvar: Tensor, logits: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    log_likelihood = -functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    return log_likelihood, reference.kl_normal(mean, logvar)


def _fastvi_terms(mean: Tensor, logvar: Tensor, logits: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    return ops.bernoulli_log_prob(x, logits), ops.kl_normal(mean, logvar)


def _plain_loss(model: ConvolutionalVAE, x: Tensor) -> Tensor:
    mean, logvar = model.encode(x)
    z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
    log_likelihood, divergence = _plain_terms(mean, logvar, model.decoder(z), x)
    return (divergence - log_likelihood).mean()


def _fastvi_loss(model: ConvolutionalVAE, x: Tensor) -> Tensor:
    mean, logvar = model.encode(x)
    z = ops.rsample_normal(mean, logvar)
    log_likelihood, divergence = _fastvi_terms(mean, logvar, model.decoder(z), x)
    return (divergence - log_likelihood).mean()


def _check_terms(model: ConvolutionalVAE, x: Tensor, name: str) -> None:
    """Given z, likelihood and divergence must be those of the formulas in float64, and so must their gradients."""
    mean, logvar = (tensor.detach() for tensor in model.encode(x))
    logits = model.decoder(mean).detach()
    values = []
    for terms, dtype in ((_fastvi_terms, torch.float32), (_plain_terms, torch.float64)):
        first, second, third = (tensor.to(dtype).requires_grad_() for tensor in (mean, logvar, logits))
        log_likelihood, divergence = terms(first, second, third, x.to(dtype))
        gradients = torch.autograd.grad((divergence - log_likelihood).mean(), (first, second, third))
        values.append([log_likelihood.detach(), divergence.detach(), *gradients])
    for value, expected in zip(*values, strict=True):
        assert_same_values(f"{name}, terms of {FASTVI}", value, expected)


def _prepare(batch: int, name: str, mode: str, with_compile: bool) -> Workload:
    x = torch.bernoulli(torch.full((batch, SIDE**2), 0.5))
    model = ConvolutionalVAE()
    calls, losses = steps_and_losses((model, _plain_loss), (model, _fastvi_loss), x, with_compile)

    def check() -> None:
        _check_terms(copy.deepcopy(model), x, name)
        check_losses(name, losses, x)

    return Workload(calls, check)


def convolutional_case(batch: int) -> Case:
    """Return the case of one batch size."""
    name = f"ELBO step, convolutional, batch {batch}, K 1"
    return Case("step", name, ("step",), partial(_prepare, batch, name))
