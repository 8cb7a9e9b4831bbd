"""Models that the objectives of `fastvi.objectives` train."""

from fastvi.models.base import DataShape, ModelOptions
from fastvi.models.hamiltonian import Arrival, HamiltonianOptions, HamiltonianPosterior, ReverseNetwork
from fastvi.models.registry import MODELS, make_model_options
from fastvi.models.vae import VAE, VAEOptions

__all__ = [
    "MODELS",
    "VAE",
    "Arrival",
    "DataShape",
    "HamiltonianOptions",
    "HamiltonianPosterior",
    "ModelOptions",
    "ReverseNetwork",
    "VAEOptions",
    "make_model_options",
]
