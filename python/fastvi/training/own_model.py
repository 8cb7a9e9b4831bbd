"""A model of the user's own in a run: a torch module with the protocol of `fastvi.objectives`."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastvi._options import option
from fastvi.models import DataShape, ModelOptions
from fastvi.training.errors import RunError

OWN_MODEL = "own"
"""Under which a run stores that its model is not one of `fastvi.models.MODELS`."""


@dataclass(frozen=True)
class OwnModel(ModelOptions):
    """Stands for a module of the user's own where a run has the options of a model; the module itself is beside them.

    Attributes
    ----------
    class_name
        Of the module, for messages.
    example_shape
        Shape of one example as the module takes it; None: as the data give it.
    uses_labels
        Whether it takes the pair (examples, labels): its own attribute ``uses_labels``.
    takes_missing_labels
        Whether it takes -1 for a label that is not known: its own attribute of this name.
    """

    class_name: str = option("class of the module", "")
    example_shape: tuple[int, ...] | None = option("shape of one example", None, at_least=1)
    uses_labels: bool = option("whether the module takes labels", False)  # type: ignore[misc]  # of each, not the class
    takes_missing_labels: bool = option("whether labels may be missing", False)  # type: ignore[misc]  # of each

    @classmethod
    def of(cls, module: nn.Module, example_shape: tuple[int, ...] | None) -> OwnModel:
        """Return what stands for ``module``."""
        takes = [bool(getattr(module, name, False)) for name in ("uses_labels", "takes_missing_labels")]
        made = cls(type(module).__name__, example_shape, *takes)
        made.attach(module)
        return made

    def attach(self, module: nn.Module) -> None:
        """Set the module, as for a run that was read from its folder."""
        object.__setattr__(self, "_module", module)

    @property
    def is_attached(self) -> bool:
        """Whether the module is there."""
        return "_module" in vars(self)

    def build(self, shape: DataShape, data_mean: Tensor | None = None) -> nn.Module:
        """Return the module itself, or an outline of it on the device "meta".

        Raises
        ------
        RunError
            If there is none: a run's folder does not hold its code.
        """
        module: nn.Module | None = vars(self).get("_module")
        if module is None:
            raise RunError(
                f"the model is of the class {self.class_name} of your own: give one by fastvi.load(path, model=...)"
            )
        if torch.get_default_device().type != "meta":
            return module
        return copy.deepcopy(module).to("meta")

    def sizes(self) -> dict[str, int]:
        """Return no sizes: they are not options."""
        return {}


def shaped(model: Any, examples: Any) -> Any:
    """Return rows (B, D), in a pair with labels or not, in the shape that a run's model takes."""
    if not isinstance(model, OwnModel) or model.example_shape is None:
        return examples
    if isinstance(examples, tuple):
        return (shaped(model, examples[0]), *examples[1:])
    return examples.reshape(-1, *model.example_shape)
