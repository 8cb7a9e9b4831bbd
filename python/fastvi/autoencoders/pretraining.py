"""A classifier whose first layers are a trained encoder."""

from __future__ import annotations

import copy
from typing import Protocol

import torch
from torch import Tensor, nn

from fastvi._options import check_count


class CodingModel(Protocol):
    """A model with a code, such as those of this package."""

    latent_dim: int

    def code(self, x: Tensor) -> Tensor:
        """Return the code, (B, Z), of x (B, D)."""
        ...


class CodeClassifier(nn.Module):
    """Logits of classes, linear in the code: what `classifier` returns.

    Attributes
    ----------
    model
        What gives the code.
    head
        The linear layer from the code to the logits.
    freeze
        Whether the code is left as it is: the model gets no gradients.
    """

    def __init__(self, model: nn.Module, latent_dim: int, num_classes: int, freeze: bool) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Linear(latent_dim, num_classes)
        self.freeze = freeze

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (B, classes), of x (B, D)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            z = self.model.code(x)  # type: ignore[operator]
        logits: Tensor = self.head(z)
        return logits


def classifier(model: nn.Module, num_classes: int, *, freeze: bool = False) -> CodeClassifier:
    """Return a classifier that begins as the encoder of a trained autoencoder with a new linear layer.

    The encoder is a copy, so that the autoencoder stays as it is while the classifier is trained; the decoder is left
    out.

    Parameters
    ----------
    model
        An autoencoder, or another module with ``code(x)`` and ``latent_dim``.
    num_classes
        Number of classes.
    freeze
        Train the linear layer alone, a linear probe of the code; else all of it, which is called fine-tuning.

    Raises
    ------
    TypeError, ValueError
        If the model has no code, or ``num_classes`` is no positive integer.

    References
    ----------
    Vincent, Larochelle, Lajoie, Bengio & Manzagol 2010, "Stacked denoising autoencoders", section 2.4.

    Examples
    --------
    >>> from fastvi.autoencoders import DenoisingAutoencoder
    >>> trained = DenoisingAutoencoder(64, latent_dim=32)
    >>> network = classifier(trained, 10)
    >>> network(torch.rand(5, 64)).shape
    torch.Size([5, 10])
    >>> [name for name, _ in network.named_parameters()]
    ['model.encoder.0.weight', 'model.encoder.0.bias', 'head.weight', 'head.bias']
    """
    for needed in ("code", "latent_dim"):
        if not hasattr(model, needed):
            raise TypeError(
                f"classifier: model must have code(x) and latent_dim; {type(model).__name__} lacks {needed}"
            )
    count = check_count("classifier", "num_classes", num_classes)
    encoder = copy.deepcopy(model)
    for part in ("decoder", "head"):
        if hasattr(encoder, part):
            delattr(encoder, part)
    if freeze:
        encoder.requires_grad_(False)
    weight = next(encoder.parameters())
    made = CodeClassifier(encoder, int(model.latent_dim), count, freeze)  # type: ignore[arg-type]
    made.head.to(weight.device, weight.dtype)
    return made
