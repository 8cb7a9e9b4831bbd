"""Models of classes whose decoders are written down, so that every value of a picture is known."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

CENTRES = torch.tensor([[1.0, -2.0], [3.0, 0.5], [-4.0, 2.0]], dtype=torch.float64)
LOGVARS = torch.tensor([[0.2, -1.0], [0.0, 1.5], [-0.7, 0.4]], dtype=torch.float64)
IMAGES, LABELS = torch.linspace(0.0, 1.0, 12, dtype=torch.float64).reshape(3, 4), torch.tensor([0, 1, 2])


class KnownDecoder(nn.Module):
    """Images of four values: a third of the label, the normal distribution function of z_1 and of z_2, and 1/4.

    q(z|x, y) has the mean (x_1 + y, x_2 - y).
    """

    def __init__(self, num_classes: int = 3, latent_dim: int = 2) -> None:
        super().__init__()
        self.num_classes, self.latent_dim = num_classes, latent_dim
        self.unused = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def encode(self, x: Any) -> Any:
        images, labels = x
        mean = torch.stack([images[:, 0] + labels, images[:, 1] - labels, *images[:, 2 : self.latent_dim].T], 1)
        return mean, torch.zeros_like(mean)

    def decode(self, z: Tensor, labels: Tensor) -> Tensor:
        assert z.shape == (len(labels), self.latent_dim)
        assert z.dtype is torch.float64
        return torch.cat([labels[:, None] / 3.0, torch.special.ndtr(z[:, :2]), torch.full_like(z[:, :1], 0.25)], 1)


class OfClasses(KnownDecoder):
    """The same with a Gaussian p(z|y), which ``decode`` takes away again: a pair, or a distribution."""

    def __init__(self, as_distribution: bool = False) -> None:
        super().__init__()
        self.as_distribution = as_distribution

    def conditional_prior(self, x: Any) -> Any:
        mean, logvar = CENTRES[x[1]], LOGVARS[x[1]]
        return MultivariateNormal(mean, torch.diag_embed(logvar.exp())) if self.as_distribution else (mean, logvar)

    def decode(self, z: Tensor, labels: Tensor) -> Tensor:
        return super().decode((z - CENTRES[labels]) * (-0.5 * LOGVARS[labels]).exp(), labels)


def plane(columns: int) -> Tensor:
    """What z_1 and z_2 give in each cell, (N, 2): middles of equal parts of (0, 1), those of z_2 from the top."""
    middles = [(cell + 0.5) / columns for cell in range(columns)]
    return torch.tensor([[first, second] for second in middles[::-1] for first in middles], dtype=torch.float64)


def expected_analogies(images: Tensor, labels: Tensor) -> Tensor:
    """What `KnownDecoder` of three classes makes of images, (M, 4, 4)."""
    rows = []
    for image, label in zip(images, labels.tolist(), strict=True):
        style = torch.special.ndtr(image[:2] + torch.tensor([label, -label]))
        decoded = [torch.tensor([y / 3.0, *style.tolist(), 0.25], dtype=torch.float64) for y in range(3)]
        rows.append(torch.stack([image, *decoded]))
    return torch.stack(rows)
