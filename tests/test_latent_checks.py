"""Latent variables of a wrong kind, for each model that decodes: one line that names z, what came and what is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastvi.autoencoders import Autoencoder
from fastvi.models import (
    VAE,
    ConditionalVAEOptions,
    ConvolutionalVAEOptions,
    DataShape,
    GeneralVAEOptions,
    HamiltonianOptions,
    HierarchicalVAE,
    SemiSupervisedVAE,
    StackedVAE,
)

DIM, LATENT = 64, 4
SHAPE = DataShape((8, 8), num_classes=3)
SMALL: dict[str, Any] = {"latent_dim": LATENT, "hidden_dims": (6,)}
MODELS: dict[str, Callable[[], Any]] = {
    "VAE": lambda: VAE(DIM, **SMALL),
    "GeneralVAE": lambda: GeneralVAEOptions(**SMALL).build(SHAPE),
    "convolutional": lambda: ConvolutionalVAEOptions(latent_dim=LATENT, channels=(2, 2)).build(SHAPE),
    "conditional": lambda: ConditionalVAEOptions(**SMALL).build(SHAPE),
    "hierarchical": lambda: HierarchicalVAE(DIM, (3, 1), (6,), (5,)),
    "hamiltonian": lambda: HamiltonianOptions(**SMALL).build(SHAPE),
    "Autoencoder": lambda: Autoencoder(DIM, **SMALL),
    "M2": lambda: SemiSupervisedVAE(DIM, 3, **SMALL),
    "M1+M2": lambda: StackedVAE(VAE(DIM, 3, (6,)), 3, **SMALL),
}
OF_CLASSES = ("conditional", "M2", "M1+M2")
ASKED = rf"z must be a tensor of the shape \(\.\.\., {LATENT}\), got "
WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "width": (torch.zeros(2, LATENT + 1), ValueError, rf"{ASKED}\(2, 5\)"),
    "no axis": (torch.tensor(0.0), ValueError, rf"{ASKED}\(\)"),
    "integers": (torch.zeros(2, LATENT, dtype=torch.int64), TypeError, "z must have floating-point values, got"),
    "list": ([[0.0] * LATENT] * 2, TypeError, rf"{ASKED}.*list"),
    "None": (None, TypeError, f"{ASKED}None"),
}


def labels_of(name: str) -> tuple[torch.Tensor, ...]:
    return (torch.tensor([0, 1]),) if name in OF_CLASSES else ()


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", MODELS)
def test_decode_names_z(name: str, wrong: str) -> None:
    z, error, message = WRONG[wrong]
    with pytest.raises(error, match=message):
        MODELS[name]().decode(z, *labels_of(name))


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ["VAE", "GeneralVAE", "convolutional", "conditional", "M2"])
def test_log_likelihood_names_z(name: str, wrong: str) -> None:
    z, error, message = WRONG[wrong]
    images = torch.full((2, DIM), 0.5)
    x = (images, *labels_of(name)) if labels_of(name) else images
    with pytest.raises(error, match=message):
        MODELS[name]().log_likelihood(x, z)


@pytest.mark.parametrize("wrong", [key for key in WRONG if key != "None"])  # which asks for the code of x
def test_an_autoencoders_error_names_z(wrong: str) -> None:
    z, error, message = WRONG[wrong]
    with pytest.raises(error, match=message):
        MODELS["Autoencoder"]().reconstruction_error(torch.full((2, DIM), 0.5), z)


@pytest.mark.parametrize("name", ["VAE", "hierarchical", "hamiltonian", "Autoencoder", "M2"])
def test_models_decode_their_own_dtype_and_any_in_autocast(name: str) -> None:
    labels, z = labels_of(name), torch.zeros(2, LATENT, dtype=torch.float64)
    with pytest.raises(TypeError, match=r"z must have the model's dtype torch\.float32, got torch\.float64"):
        MODELS[name]().decode(z, *labels)
    assert MODELS[name]().double().decode(z, *labels).dtype is torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert MODELS[name]().decode(z.bfloat16(), *labels).shape == (2, DIM)
