"""Models that the objectives of `fastvi.objectives` train."""

from fastvi.models.base import DataShape, ModelOptions
from fastvi.models.hierarchical import HierarchicalOptions, HierarchicalVAE
from fastvi.models.registry import MODELS, make_model_options
from fastvi.models.vae import VAE, VAEOptions

__all__ = [
    "MODELS",
    "VAE",
    "DataShape",
    "HierarchicalOptions",
    "HierarchicalVAE",
    "ModelOptions",
    "VAEOptions",
    "make_model_options",
]
