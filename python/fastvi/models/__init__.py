"""Models that the objectives of `fastvi.objectives` train."""

from fastvi.models.base import DataShape, ModelOptions
from fastvi.models.categorical import CategoricalVAE, CategoricalVAEOptions
from fastvi.models.discrete import DiscreteLatentModel
from fastvi.models.registry import MODELS, make_model_options
from fastvi.models.sigmoid_belief_network import SigmoidBeliefNetwork, SigmoidBeliefNetworkOptions
from fastvi.models.vae import VAE, VAEOptions

__all__ = [
    "MODELS",
    "VAE",
    "CategoricalVAE",
    "CategoricalVAEOptions",
    "DataShape",
    "DiscreteLatentModel",
    "ModelOptions",
    "SigmoidBeliefNetwork",
    "SigmoidBeliefNetworkOptions",
    "VAEOptions",
    "make_model_options",
]
