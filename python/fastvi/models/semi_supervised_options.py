"""The options of M2, by which the command line and runs know it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fastvi._options import option
from fastvi.models.base import DataShape, ModelOptions
from fastvi.models.likelihoods import LIKELIHOODS
from fastvi.models.semi_supervised import SemiSupervisedVAE
from fastvi.models.vae import ACTIVATIONS

LABEL_OPTIONS = ("labels", "labelled_batch")
"""Options of how many labels a run sees, which are no sizes of the model."""


@dataclass(frozen=True)
class SemiSupervisedOptions(ModelOptions):
    """Options of a `SemiSupervisedVAE`, M2, and of the labels that it sees.

    Attributes
    ----------
    latent_dim, hidden_dims, classifier_dims, activation, likelihood
        See `SemiSupervisedVAE`.
    labels
        How many training images keep their label, the same number of each class, drawn by the seed of the run; None:
        all that have one.
    labelled_batch
        Images with a label in each step, drawn class by class, beside the ``batch_size`` without one.

    Raises
    ------
    ValueError
        From ``build``, if the shape has no number of classes.

    Examples
    --------
    >>> options = SemiSupervisedOptions(latent_dim=2, hidden_dims=(8,))
    >>> options.build(DataShape((4, 4), num_classes=10)).num_classes
    10
    """

    uses_labels: ClassVar[bool] = True
    takes_missing_labels: ClassVar[bool] = True
    default_objective: ClassVar[str] = "semi-supervised"

    latent_dim: int = option("latent dimensions beside the class", 50, at_least=1)
    hidden_dims: tuple[int, ...] = option(
        "widths of the hidden layers, from the data inwards", (500,), at_least=1, called="widths"
    )
    classifier_dims: tuple[int, ...] | None = option(
        "widths of the classifier's hidden layers; none for the same", None, at_least=1, called="widths"
    )
    activation: str = option("of the hidden layers", "softplus", choices=tuple(ACTIVATIONS))
    likelihood: str = option("of the pixels", "bernoulli", choices=tuple(LIKELIHOODS), from_data="likelihood")
    labels: int | None = option("training images that keep their label, class by class; none for all", None, at_least=1)
    labelled_batch: int = option("images with a label in each step, beside those without", 100, at_least=1)

    def sizes(self) -> dict[str, int]:
        """Return the largest number in each of the options that are widths: the numbers of labels are none."""
        return {name: size for name, size in super().sizes().items() if name not in LABEL_OPTIONS}

    def build(self, shape: DataShape, data_mean: Tensor | None = None) -> SemiSupervisedVAE:
        """Return the untrained model."""
        if shape.num_classes is None:
            raise ValueError(f"{type(self).__name__}: the data's shape must have num_classes, got None")
        return SemiSupervisedVAE(
            shape.data_dim,
            shape.num_classes,
            self.latent_dim,
            self.hidden_dims,
            self.classifier_dims,
            self.activation,
            self.likelihood,
            data_mean,
        )
