"""Options of M1+M2, whose M1 is a run of its own."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from fastvi._options import option
from fastvi.models import MODELS, DataShape, ModelOptions, StackedVAE
from fastvi.models.semi_supervised_options import LABEL_OPTIONS
from fastvi.models.stacked import LEAST_SPREAD
from fastvi.models.vae import ACTIVATIONS
from fastvi.training.errors import RunError

if TYPE_CHECKING:
    from fastvi.training.config import RunFolder
    from fastvi.training.settings import TrainingConfig
    from fastvi.training.sources import Source

_IMAGES_OF_SPREAD = 1000


@dataclass(frozen=True)
class StackedOptions(ModelOptions):
    """Options of a `fastvi.models.StackedVAE`, M1+M2, and of the labels that it sees.

    Attributes
    ----------
    m1
        Folder of the run whose model is M1; the run of M1+M2 needs it whenever its model is read, and looks for a
        folder of this name beside its own where it was moved.
    latent_dim, hidden_dims, classifier_dims, activation
        Of M2: see `fastvi.models.SemiSupervisedVAE`.
    labels, labelled_batch
        See `fastvi.models.SemiSupervisedOptions`.
    least_spread
        See :meth:`fastvi.models.StackedVAE.choose_features`, which sees 1,000 training images.

    Raises
    ------
    RunError
        From ``build``, if there is no such run, its model has no Gaussian encoder, or it was trained with labels.
    """

    uses_labels: ClassVar[bool] = True
    takes_missing_labels: ClassVar[bool] = True
    default_objective: ClassVar[str] = "semi-supervised"

    m1: str = option("folder of the run whose model is M1")
    latent_dim: int = option("latent dimensions of M2 beside the class", 50, at_least=1)
    hidden_dims: tuple[int, ...] = option("widths of the hidden layers of M2", (300,), at_least=1, called="widths")
    classifier_dims: tuple[int, ...] | None = option(
        "widths of the classifier's hidden layers; none for the same", None, at_least=1, called="widths"
    )
    activation: str = option("of the hidden layers", "softplus", choices=tuple(ACTIVATIONS))
    labels: int | None = option("training images that keep their label, class by class; none for all", None, at_least=1)
    labelled_batch: int = option("images with a label in each step, beside those without", 100, at_least=1)
    least_spread: float = option("least spread of a dimension of M1 over images that makes it a feature", LEAST_SPREAD)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.m1:
            raise ValueError(f"{type(self).__name__}: m1 must be the folder of a run, got {self.m1!r}")

    def usual_binarization(self) -> str:
        """Return how M1 met grey values: its encoder meets them in the same way again."""
        return self._m1()[1].binarization

    def found_from(self, run: Path) -> StackedOptions:
        """Return the options with M1 beside its run where it is no longer in its place: both may have been moved."""
        kept = Path(self.m1)
        beside = run.absolute().parent / kept.name
        return self if kept.exists() or not beside.exists() else dataclasses.replace(self, m1=str(beside))

    def sizes(self) -> dict[str, int]:
        """Return the largest number in each of the options that are widths: the numbers of labels are none."""
        return {name: size for name, size in super().sizes().items() if name not in LABEL_OPTIONS}

    def build(self, shape: DataShape, data_mean: Tensor | None = None) -> StackedVAE:
        """Return the model with M1 as its run has it, and an untrained M2."""
        if shape.num_classes is None:
            raise ValueError(f"{type(self).__name__}: the data's shape must have num_classes, got None")
        folder, config = self._m1()
        if tuple(config.image_shape) != tuple(shape.image_shape):
            raise RunError(f"`m1` {self.m1}: its images are {config.image_shape}, these are {shape.image_shape}")
        if config.uses_labels:
            raise RunError(
                f"`m1` {self.m1}: its model must be one that was trained without labels, got {config.model_name}"
            )
        is_outline = torch.empty(0).device.type == "meta"
        m1 = config.build_model() if is_outline else folder.load_model(config).train()
        try:
            return StackedVAE(
                m1,
                shape.num_classes,
                self.latent_dim,
                self.hidden_dims,
                self.classifier_dims,
                self.activation,
            )
        except TypeError as error:
            raise RunError(f"`m1` {self.m1}: {error}") from error

    def _m1(self) -> tuple[RunFolder, TrainingConfig]:
        """The folder of M1's run and its settings."""
        from fastvi.training.config import RunFolder

        folder = RunFolder(Path(self.m1))
        if not folder.config_file.exists():
            raise RunError(
                f"`m1` {self.m1} is not a run folder: it has no config.json; a run of M1+M2 looks for an M1 that was "
                "moved beside itself, too: put it there"
            )
        return folder, folder.read_config()


def choose_features(model: Any, options: Any, source: Source) -> None:
    """Let an M1+M2 look at images before its first step: its features are the dimensions of M1 that vary."""
    if not isinstance(options, StackedOptions):
        return
    images: list[Tensor] = []
    for batch in source.batches(0, 0, 1):
        images.append(source.present(batch).images)
        if sum(map(len, images)) >= _IMAGES_OF_SPREAD:
            break
    try:
        model.choose_features(torch.cat(images), options.least_spread)
    except ValueError as error:
        raise RunError(f"`m1` {options.m1}: {error}") from error


MODELS["m1-m2"] = StackedOptions
