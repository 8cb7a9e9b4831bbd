"""Convolutional networks for a variational autoencoder of images of any size.

The usual sizes, convolutions of 16, 32 and 32 channels and a layer of 300, are those that later papers quote for
Salimans, Kingma and Welling 2015, "Markov chain Monte Carlo and variational inference: bridging the gap".
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastvi._options import option
from fastvi.models.base import DataShape
from fastvi.models.general import GeneralVAEOptions, posterior_head, start_at_mean
from fastvi.models.likelihoods import LIKELIHOODS
from fastvi.models.posteriors import DiagonalPosterior
from fastvi.models.vae import ACTIVATIONS, _perceptron

KERNEL = 5
"""Height and width of the kernels; with a stride of 2 a convolution halves height and width, rounded up."""


class ConvolutionalEncoder(nn.Module):
    """From images ``(B, C H W)`` through convolutions of stride 2 and perceptrons to ``(B, outputs)``.

    Parameters
    ----------
    planes
        (C, H, W) of the images.
    channels
        Of each convolution in turn.
    layers
        From the flattened features on.
    activation
        Between them.
    """

    def __init__(
        self, planes: tuple[int, int, int], channels: Sequence[int], layers: nn.Module, activation: str
    ) -> None:
        super().__init__()
        self.planes = planes
        modules: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise((planes[0], *channels)):
            modules += [nn.Conv2d(fan_in, fan_out, KERNEL, stride=2, padding=KERNEL // 2), ACTIVATIONS[activation]()]
        self.convolutions = nn.Sequential(*modules)
        self.layers = layers

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs."""
        features = self.convolutions(images.reshape(-1, *self.planes))
        outputs: Tensor = self.layers(features.flatten(1))
        return outputs


class ConvolutionalDecoder(nn.Module):
    """The encoder's mirror: from ``(..., Z)`` to ``(..., parts C H W)``, one part after the other, with a bias each.

    Parameters
    ----------
    sizes
        Height and width before each of the encoder's convolutions, and after the last.
    channels
        Of the encoder.
    layers
        From z to the features that the first transposed convolution takes.
    activation
        Between them.
    parts
        Number of values of each pixel, those of all its channels.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        channels: Sequence[int],
        layers: nn.Module,
        activation: str,
        parts: int,
    ) -> None:
        super().__init__()
        self.layers = layers
        self.features = (channels[-1], *sizes[-1])
        modules: list[nn.Module] = []
        planes = [*reversed(channels), parts]
        for i, (larger, smaller) in enumerate(zip(reversed(sizes[:-1]), reversed(sizes[1:]), strict=True)):
            # A stride of 2 gives one row or column less where the larger size is even.
            missing = (larger[0] - (2 * smaller[0] - 1), larger[1] - (2 * smaller[1] - 1))
            is_last = i == len(channels) - 1
            layer = nn.ConvTranspose2d(
                planes[i], planes[i + 1], KERNEL, 2, KERNEL // 2, output_padding=missing, bias=not is_last
            )
            modules += [layer, ACTIVATIONS[activation]()]
        self.convolutions = nn.Sequential(*modules[:-1])
        self.bias = nn.Parameter(torch.zeros(parts * sizes[0][0] * sizes[0][1]))

    def forward(self, z: Tensor) -> Tensor:
        """Return the outputs."""
        features = self.layers(z.reshape(-1, z.shape[-1]))
        images: Tensor = self.convolutions(features.reshape(-1, *self.features))
        return images.reshape(*z.shape[:-1], -1) + self.bias


@dataclass(frozen=True)
class ConvolutionalVAEOptions(GeneralVAEOptions):
    """Options of a `GeneralVAE` with convolutional networks.

    Attributes
    ----------
    latent_dim, activation, likelihood, posterior, flow_layers, prior, prior_components
        See `GeneralVAEOptions`.
    hidden_dims
        Widths of the fully connected layers between the convolutions and the latent variables.
    channels
        Of each convolution of the encoder, from the data inwards: kernels of 5 x 5, stride 2. The decoder mirrors them.

    Notes
    -----
    The convolutions have PyTorch's initial weights; the output biases, one for each pixel, start at the logit of the
    data's mean.

    Examples
    --------
    >>> import torch
    >>> model = ConvolutionalVAEOptions(latent_dim=2, channels=(4, 8)).build(DataShape((7, 9)))
    >>> model.decode(torch.zeros(3, 2)).shape
    torch.Size([3, 63])
    """

    latent_dim: int = option("latent dimensions", 32, at_least=1)
    hidden_dims: tuple[int, ...] = option(
        "widths of the hidden layers, from the data inwards", (300,), at_least=1, called="widths"
    )
    activation: str = option("of the hidden layers", "relu", choices=tuple(ACTIVATIONS))
    channels: tuple[int, ...] = option("of the convolutions, from the data inwards", (16, 32, 32), at_least=1)

    def _networks(
        self, shape: DataShape, posterior: DiagonalPosterior, data_mean: Tensor | None
    ) -> tuple[nn.Module, nn.Module]:
        num_channels, *size = shape.planes
        sizes = [(size[0], size[1])]
        for _ in self.channels:
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        features = self.channels[-1] * sizes[-1][0] * sizes[-1][1]
        inwards = _perceptron((features, *self.hidden_dims), self.activation)
        outwards = _perceptron((self.latent_dim, *reversed(self.hidden_dims), features), self.activation)
        layers = nn.Sequential(*inwards, posterior_head(self.hidden_dims[-1], posterior))
        parts = LIKELIHOODS[self.likelihood].parts * num_channels
        encoder = ConvolutionalEncoder(shape.planes, self.channels, layers, self.activation)
        decoder = ConvolutionalDecoder(sizes, self.channels, outwards, self.activation, parts)
        start_at_mean(decoder.bias, data_mean, self.likelihood)
        return encoder, decoder
