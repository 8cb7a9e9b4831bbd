"""The loss of an autoencoder: the error of its reconstruction, and what the model itself adds to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from fastvi.objectives.base import Loss


class ReconstructingModel(Protocol):
    """A model that carries its loss, such as those of `fastvi.autoencoders`."""

    def loss(self, x: Any, *, seed: int | None = None, row_offset: int = 0) -> Tensor:
        """Return the loss of each example, (B,), for ``x`` of shape (B, ...); the rest is as for an `Objective`."""
        ...


@dataclass(frozen=True)
class Reconstruction(Loss):
    r"""The loss of an autoencoder, :math:`\ell(x, \Psi(\Phi(x))) + \mathcal{R}(\Phi(x))`, as the model has it.

    The model's ``loss`` gives it: the error of the reconstruction and a penalty, such as that of a sparse code, or the
    error of what is reconstructed from x with noise. So one objective trains all kinds of autoencoders.

    Raises
    ------
    TypeError
        From a call and before a run, if the model has no ``loss``: a bound on log p(x) trains it, if anything does.

    References
    ----------
    Vincent, Larochelle, Lajoie, Bengio & Manzagol 2010, "Stacked denoising autoencoders", section 2.

    Examples
    --------
    >>> import torch
    >>> class Mean(torch.nn.Module):
    ...     def loss(self, x, *, seed=None, row_offset=0):
    ...         return (x - x.mean(0)).square().sum(-1)
    >>> Reconstruction()(Mean(), torch.eye(2))
    tensor([0.5000, 0.5000])
    """

    def __call__(self, model: Any, x: Any, *, seed: int | None = None, row_offset: int = 0) -> Tensor:
        """Return the loss of each example, (B,)."""
        self.check_model(model)
        loss: Tensor = model.loss(x, seed=seed, row_offset=row_offset)
        return loss

    def check_model(self, model: Any) -> None:
        """Raise unless the model has a ``loss``."""
        if not callable(getattr(model, "loss", None)):
            raise TypeError(
                f"Reconstruction: needs a model with a loss of its own, such as an autoencoder; {type(model).__name__} "
                "has none"
            )
