"""Models that the objectives of `fastvi.objectives` train."""

from fastvi._labels import UNLABELLED
from fastvi.models.base import DataShape, ModelOptions
from fastvi.models.categorical import CategoricalVAE, CategoricalVAEOptions
from fastvi.models.convolutional import ConvolutionalVAEOptions
from fastvi.models.discrete import DiscreteLatentModel
from fastvi.models.general import ConditionalVAEOptions, GeneralVAE, GeneralVAEOptions
from fastvi.models.hamiltonian import HamiltonianOptions, HamiltonianPosterior
from fastvi.models.hierarchical import HierarchicalOptions, HierarchicalVAE
from fastvi.models.likelihoods import LIKELIHOODS, Likelihood
from fastvi.models.posteriors import AffineCoupling, DiagonalPosterior, FlowPosterior, FullCovariancePosterior
from fastvi.models.priors import LabelPrior, MixturePrior, VampPrior
from fastvi.models.registry import MODELS, make_model_options
from fastvi.models.reverse_network import Arrival, ReverseNetwork
from fastvi.models.semi_supervised import SemiSupervisedVAE
from fastvi.models.semi_supervised_options import SemiSupervisedOptions
from fastvi.models.sigmoid_belief_network import SigmoidBeliefNetwork, SigmoidBeliefNetworkOptions
from fastvi.models.stacked import StackedVAE
from fastvi.models.vae import VAE, VAEOptions

__all__ = [
    "LIKELIHOODS",
    "MODELS",
    "UNLABELLED",
    "VAE",
    "AffineCoupling",
    "Arrival",
    "CategoricalVAE",
    "CategoricalVAEOptions",
    "ConditionalVAEOptions",
    "ConvolutionalVAEOptions",
    "DataShape",
    "DiagonalPosterior",
    "DiscreteLatentModel",
    "FlowPosterior",
    "FullCovariancePosterior",
    "GeneralVAE",
    "GeneralVAEOptions",
    "HamiltonianOptions",
    "HamiltonianPosterior",
    "HierarchicalOptions",
    "HierarchicalVAE",
    "LabelPrior",
    "Likelihood",
    "MixturePrior",
    "ModelOptions",
    "ReverseNetwork",
    "SemiSupervisedOptions",
    "SemiSupervisedVAE",
    "SigmoidBeliefNetwork",
    "SigmoidBeliefNetworkOptions",
    "StackedVAE",
    "VAEOptions",
    "VampPrior",
    "make_model_options",
]
