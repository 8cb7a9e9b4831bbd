"""Autoencoders: a code of the data from which it is reconstructed, with no distribution of the code.

To import this package is to register its models in `fastvi.models.MODELS`, where `fastvi train` finds them.
"""

from fastvi.autoencoders.base import Autoencoder, AutoencoderOptions
from fastvi.autoencoders.layers import TransposedLinear
from fastvi.models import MODELS

MODELS["autoencoder"] = AutoencoderOptions

__all__ = ["Autoencoder", "AutoencoderOptions", "TransposedLinear"]
