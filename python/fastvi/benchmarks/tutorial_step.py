"""The training step of the autoencoder of PyTorch's tutorials: 784-400-20 with ReLU, cross entropy, K 1, batch 128.

Written with ``nn.Sequential``, fastvi's provider is the same model after :func:`fastvi.fuse` and nothing else; written
with ``F.relu(self.fc1(x))``, it is the same with `fastvi.mlp` in four lines. The plain model follows the example "vae"
of PyTorch's collection.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastvi import nn as fastvi_nn
from fastvi import ops
from fastvi.benchmarks.cases import assert_same_values
from fastvi.benchmarks.harness import Case, Workload
from fastvi.benchmarks.results import FASTVI
from fastvi.benchmarks.training_step import check_losses, steps_and_losses

DATA_DIM, HIDDEN_DIM, LATENT_DIM = 784, 400, 20


class SequentialVAE(nn.Module):
    """Encoder and decoder as sequences of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(DATA_DIM, HIDDEN_DIM), nn.ReLU(), nn.Linear(HIDDEN_DIM, 2 * LATENT_DIM))
        self.decoder = nn.Sequential(
            nn.Linear(LATENT_DIM, HIDDEN_DIM), nn.ReLU(), nn.Linear(HIDDEN_DIM, DATA_DIM), nn.Sigmoid()
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (mean, logvar) of q(z|x)."""
        mean, logvar = self.encoder(x).chunk(2, -1)
        return mean, logvar

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean of p(x|z)."""
        probabilities: Tensor = self.decoder(z)
        return probabilities


class FunctionalVAE(nn.Module):
    """Layers by name, called one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(DATA_DIM, HIDDEN_DIM)
        self.fc21 = nn.Linear(HIDDEN_DIM, LATENT_DIM)
        self.fc22 = nn.Linear(HIDDEN_DIM, LATENT_DIM)
        self.fc3 = nn.Linear(LATENT_DIM, HIDDEN_DIM)
        self.fc4 = nn.Linear(HIDDEN_DIM, DATA_DIM)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (mean, logvar) of q(z|x)."""
        h = functional.relu(self.fc1(x))
        return self.fc21(h), self.fc22(h)

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean of p(x|z)."""
        return torch.sigmoid(self.fc4(functional.relu(self.fc3(z))))


class FunctionalVAEWithOperations(FunctionalVAE):
    """The same after four changed lines."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (mean, logvar) of q(z|x)."""
        h = ops.mlp(x, [self.fc1.weight], [self.fc1.bias], "relu", activate_last=True)
        return self.fc21(h), self.fc22(h)

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean of p(x|z)."""
        weights, biases = (self.fc3.weight, self.fc4.weight), (self.fc3.bias, self.fc4.bias)
        return torch.sigmoid(ops.mlp(z, weights, biases, "relu"))


def tutorial_loss(model: Any, x: Tensor) -> Tensor:
    """Return the negative bound of a batch, summed."""
    mean, logvar = model.encode(x)
    std = torch.exp(0.5 * logvar)
    z = mean + torch.randn_like(std) * std
    cross_entropy = functional.binary_cross_entropy(model.decode(z), x, reduction="sum")
    divergence = -0.5 * torch.sum(1 + logvar - mean.pow(2) - logvar.exp())
    return cross_entropy + divergence


def _check_same_draws(plain: nn.Module, fused: nn.Module, x: Tensor, name: str) -> None:
    """With the same draws, loss and gradients are those of the plain model in float64, but for rounding."""
    values = []
    for model, dtype in ((fused, torch.float32), (plain, torch.float64)):
        twin: Any = copy.deepcopy(model).to(dtype)
        mean, logvar = twin.encode(x.to(dtype))
        cross_entropy = functional.binary_cross_entropy(twin.decode(mean), x.to(dtype), reduction="sum")
        loss = (cross_entropy + mean.square().sum() + logvar.square().sum()) / len(x)
        values.append([loss.detach(), *torch.autograd.grad(loss, list(twin.parameters()))])
    for value, expected in zip(*values, strict=True):
        assert_same_values(f"{name}, model of {FASTVI}", value, expected)


def _prepare(batch: int, sequential: bool, name: str, mode: str, with_compile: bool) -> Workload:
    x = torch.rand(batch, DATA_DIM)
    plain: nn.Module = SequentialVAE() if sequential else FunctionalVAE()
    fused: nn.Module = copy.deepcopy(plain)
    if sequential:
        fastvi_nn.fuse(fused)
    else:
        fused = FunctionalVAEWithOperations()
        fused.load_state_dict(plain.state_dict())
    calls, losses = steps_and_losses((plain, tutorial_loss), (fused, tutorial_loss), x, with_compile)

    def check() -> None:
        _check_same_draws(plain, fused, x, name)
        check_losses(name, losses, x)

    return Workload(calls, check)


def tutorial_case(batch: int, sequential: bool) -> Case:
    """Return the case of one batch size, written with ``nn.Sequential`` or with functions."""
    name = f"tutorial step, {'nn.Sequential' if sequential else 'functions'}, batch {batch}, K 1"
    return Case("step", name, ("step",), partial(_prepare, batch, sequential, name))
