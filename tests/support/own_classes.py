"""Objectives and models as a user writes them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from fastvi.models import MODELS, ModelOptions
from fastvi.objectives import OBJECTIVES, Bound, Loss, draw, option


@dataclass(frozen=True)
class Denoising(Loss):
    """Squared error of the reconstruction of x from x with noise (Vincent et al. 2008)."""

    noise: float = option("standard deviation of the noise", 0.1)
    steps: tuple[int, ...] = option("an option of several numbers", (1,), at_least=1)
    kind: str = option("an option of words", "squared", choices=("squared", "absolute"))
    halved: bool = option("an option of two values", False)
    clip: int | None = option("an option that may be none", None)

    def __call__(self, model, x, *, seed=None, row_offset=0):
        generator = torch.Generator().manual_seed(0 if seed is None else seed)
        noise = torch.randn((row_offset + len(x), x.shape[1]), generator=generator)[row_offset:]
        error = model.reconstruct(x + self.noise * noise) - x
        value = error.square() if self.kind == "squared" else error.abs()
        return (0.5 if self.halved else 1.0) * value.sum(-1)


@dataclass(frozen=True)
class Autoencoder(ModelOptions):
    """A model without any distribution."""

    code_dim: int = option("width of the code", 4, at_least=1)

    def build(self, shape, data_mean=None):
        model = nn.Sequential(
            nn.Linear(shape.data_dim, self.code_dim), nn.ReLU(), nn.Linear(self.code_dim, shape.data_dim)
        )
        model.reconstruct = model.forward
        return model


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """-log q(y|x): a classifier's loss, which takes labels."""

    unit = "nats"
    uses_labels = True

    def __call__(self, model, x, *, seed=None, row_offset=0):
        images, labels = x
        return nn.functional.cross_entropy(model(images), labels, reduction="none")


@dataclass(frozen=True)
class Classifier(ModelOptions):
    """As many outputs as there are classes."""

    def build(self, shape, data_mean=None):
        return nn.Linear(shape.data_dim, shape.num_classes)


@dataclass(frozen=True)
class Renyi(Bound):
    """The bound of Li & Turner 2016; alpha 0 is the importance-weighted one, alpha towards 1 the ELBO."""

    num_samples: int = option("K, samples for each example", 5, at_least=2)
    alpha: float = option("order of the divergence", 0.0, at_least=-math.inf)

    def __call__(self, model, x, *, seed=None, row_offset=0):
        drawn = draw(model, x, self.num_samples, seed=seed, row_offset=row_offset)
        scale = 1.0 - self.alpha
        return (torch.logsumexp(scale * drawn.log_weights, 0) - math.log(self.num_samples)) / scale


def register(monkeypatch):
    """Register them until the test ends, beside the first models and objectives alone."""
    # From the last to the first: they are put back in the other order, in which messages name them.
    for name in reversed([name for name in MODELS if name not in ("vae", "hamiltonian")]):
        monkeypatch.delitem(MODELS, name)
    for name, entry in (("denoising", Denoising), ("cross-entropy", CrossEntropy), ("renyi", Renyi)):
        monkeypatch.setitem(OBJECTIVES, name, entry)
    for name, options in (("autoencoder", Autoencoder), ("classifier", Classifier)):
        monkeypatch.setitem(MODELS, name, options)
