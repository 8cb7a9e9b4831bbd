"""Models by name, for the command line and for what a run stores."""

from __future__ import annotations

from typing import Any

from fastvi._registry import Registry
from fastvi.models.base import ModelOptions
from fastvi.models.categorical import CategoricalVAEOptions
from fastvi.models.convolutional import ConvolutionalVAEOptions
from fastvi.models.general import ConditionalVAEOptions, GeneralVAEOptions
from fastvi.models.hamiltonian import HamiltonianOptions
from fastvi.models.hierarchical import HierarchicalOptions
from fastvi.models.semi_supervised_options import SemiSupervisedOptions
from fastvi.models.sigmoid_belief_network import SigmoidBeliefNetworkOptions
from fastvi.models.vae import VAEOptions

MODELS: Registry[ModelOptions] = Registry(
    "model",
    "make_model_options",
    ModelOptions,
    {
        "vae": VAEOptions,
        "general-vae": GeneralVAEOptions,
        "convolutional-vae": ConvolutionalVAEOptions,
        "conditional-vae": ConditionalVAEOptions,
        "hierarchical": HierarchicalOptions,
        "hamiltonian": HamiltonianOptions,
        "categorical-vae": CategoricalVAEOptions,
        "sigmoid-belief-network": SigmoidBeliefNetworkOptions,
        "m2": SemiSupervisedOptions,
    },
    ("fastvi.autoencoders", "fastvi.training.stacked_options"),
)
"""The options of each model, a frozen dataclass; ``MODELS["name"] = Options`` adds another."""


def make_model_options(name: str, **options: Any) -> ModelOptions:
    """Make the options of the model called ``name``; its ``build(shape)`` gives the model.

    Parameters
    ----------
    name
        A key of :data:`MODELS`.
    options
        Fields of its options.

    Raises
    ------
    ValueError
        If there is no such model, or a value is out of its range.
    TypeError
        If the model has no such option, or lacks one, or a value is of a wrong type.

    Examples
    --------
    >>> from fastvi.models import DataShape
    >>> options = make_model_options("vae", latent_dim=2, hidden_dims=(32,))
    >>> type(options.build(DataShape((8, 8)))).__name__
    'VAE'
    """
    return MODELS.make(name, **options)
