"""Autoencoders: a code of the data from which it is reconstructed, with no distribution of the code.

To import this package is to register its models in `fastvi.models.MODELS`, where `fastvi train` finds them.
"""

from fastvi.autoencoders.base import Autoencoder, AutoencoderOptions
from fastvi.autoencoders.contractive import ContractiveAutoencoder, ContractiveAutoencoderOptions
from fastvi.autoencoders.corruption import corrupt
from fastvi.autoencoders.denoising import DenoisingAutoencoder, DenoisingAutoencoderOptions
from fastvi.autoencoders.geometry import denoising_score, reconstruction_distance
from fastvi.autoencoders.jacobian import contractive_penalty, hutchinson_penalty
from fastvi.autoencoders.layers import TransposedLinear
from fastvi.autoencoders.pretraining import CodeClassifier, classifier
from fastvi.autoencoders.sequences import (
    consecutive_frames,
    linearisation_error,
    sequences,
    slowness,
    squared_step,
    windows,
)
from fastvi.autoencoders.slow import SlowAutoencoder, SlowAutoencoderOptions
from fastvi.autoencoders.sparse import (
    KSparseAutoencoder,
    KSparseAutoencoderOptions,
    SparseAutoencoder,
    SparseAutoencoderOptions,
    k_sparse,
)
from fastvi.models import MODELS

for _name, _options in {
    "autoencoder": AutoencoderOptions,
    "sparse-autoencoder": SparseAutoencoderOptions,
    "k-sparse-autoencoder": KSparseAutoencoderOptions,
    "contractive-autoencoder": ContractiveAutoencoderOptions,
    "denoising-autoencoder": DenoisingAutoencoderOptions,
    "slow-autoencoder": SlowAutoencoderOptions,
}.items():
    MODELS[_name] = _options

__all__ = [
    "Autoencoder",
    "AutoencoderOptions",
    "CodeClassifier",
    "ContractiveAutoencoder",
    "ContractiveAutoencoderOptions",
    "DenoisingAutoencoder",
    "DenoisingAutoencoderOptions",
    "KSparseAutoencoder",
    "KSparseAutoencoderOptions",
    "SlowAutoencoder",
    "SlowAutoencoderOptions",
    "SparseAutoencoder",
    "SparseAutoencoderOptions",
    "TransposedLinear",
    "classifier",
    "consecutive_frames",
    "contractive_penalty",
    "corrupt",
    "denoising_score",
    "hutchinson_penalty",
    "k_sparse",
    "linearisation_error",
    "reconstruction_distance",
    "sequences",
    "slowness",
    "squared_step",
    "windows",
]
