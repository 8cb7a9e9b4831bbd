"""The sigmoid belief network (Neal 1992): layers of binary latent variables, with an inference network.

The inference network is that of Mnih & Gregor 2014, "Neural variational inference and learning in belief networks":
the same layers from the data upwards.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastvi import ops
from fastvi._options import option
from fastvi.models.base import DataShape, ModelOptions
from fastvi.models.discrete import DiscreteLatentModel
from fastvi.models.vae import _glorot_linear

MOST_LAYERS = 3


class SigmoidBeliefNetwork(DiscreteLatentModel):
    """Binary latent variables in 1 to 3 layers over x in [0, 1]^D, with a learned prior on the highest.

    p(z_L) p(z_{L-1}|z_L) ... p(x|z_1) and q(z_1|x) q(z_2|z_1) ...: each factor is of independent Bernoulli variables
    whose logits are a linear function of the layer that it is given.

    Parameters
    ----------
    data_dim
        D, the number of values of one example.
    layer_dims
        Number of latent variables of each layer, from the data upwards.
    data_mean
        Mean of the training data, shape (D,): the output biases start at its logit. None: they start at 0.
    baseline_dims
        Widths of the hidden layers of a baseline network b(x); None: no such network.

    Raises
    ------
    ValueError, TypeError
        For a size that is not a positive integer, more than three layers, or a ``data_mean`` of another shape; from
        what takes an x, for one of another shape or type, or not in [0, 1].

    References
    ----------
    Neal 1992, "Connectionist learning of belief networks"; Mnih & Gregor 2014.

    Examples
    --------
    >>> from fastvi.objectives import VIMCO
    >>> model = SigmoidBeliefNetwork(64, layer_dims=(20, 10))
    >>> VIMCO(num_samples=5)(model, torch.ones(3, 64)).shape
    torch.Size([3])
    >>> [tuple(layer.shape) for layer in model.draw(torch.ones(3, 64), 5).samples]
    [(5, 3, 20), (5, 3, 10)]
    """

    def __init__(
        self,
        data_dim: int,
        layer_dims: Sequence[int] = (200, 200),
        data_mean: Tensor | None = None,
        baseline_dims: Sequence[int] | None = None,
    ) -> None:
        super().__init__(data_dim, baseline_dims)
        widths = self._counts("layer_dims", layer_dims)
        if len(widths) > MOST_LAYERS:
            raise ValueError(f"SigmoidBeliefNetwork: layer_dims must be of 1 to {MOST_LAYERS} layers, got {widths}")
        self.latent_shapes = tuple((width,) for width in widths)
        pairs = list(itertools.pairwise((self.data_dim, *widths)))
        self.encoder = nn.ModuleList(_glorot_linear(below, above) for below, above in pairs)
        decoder = [_glorot_linear(above, below) for below, above in pairs]
        self.decoder = nn.ModuleList(decoder)
        self.prior_logits = nn.Parameter(torch.zeros(widths[-1]))
        self._set_output_bias(decoder[0], data_mean)

    def log_joint(self, x: Tensor, samples: Sequence[Tensor]) -> Tensor:
        """Return log p(x, z_1, ..., z_L) in nats, (K, B), for ``x`` (B, D) and a tensor (K, B, width) of each layer."""
        total = ops.bernoulli_log_prob(samples[-1], self.prior_logits)
        for linear, below, above in zip(self.decoder, (x, *samples), samples, strict=False):
            assert isinstance(linear, nn.Linear)
            total = total + ops.linear_bernoulli_log_prob(above, linear.weight, linear.bias, below)
        return total

    def posterior_logits(self, layer: int, below: Tensor) -> Tensor:
        """Return the logits of q(z_layer | below), (..., width)."""
        logits: Tensor = self.encoder[layer](below)
        return logits.to(below.dtype)

    def generative_logits(self, layer: int, above: Tensor | None, like: Tensor) -> Tensor:
        """Return the logits of p(z_layer | above), or those of the prior, (1, B, width)."""
        if above is None:
            return self.prior_logits.expand(1, len(like), -1)
        logits: Tensor = self.decoder[layer + 1](above)
        return logits

    def data_logits(self, lowest: Tensor) -> Tensor:
        """Return the logits of p(x|z_1), (..., D)."""
        logits: Tensor = self.decoder[0](lowest)
        return logits

    def means(self, logits: Tensor) -> Tensor:
        """Return the probabilities of ones."""
        return torch.sigmoid(logits)

    def states(self, layer: int, means: Tensor, uniforms: Tensor) -> Tensor:
        """Return bits, one where the uniform lies below the probability."""
        return (uniforms < means).to(uniforms.dtype)

    def log_prob(self, states: Tensor, logits: Tensor) -> Tensor:
        """Return the log-probability of bits, (K, B)."""
        return ops.bernoulli_log_prob(states, logits)

    def num_uniforms(self, layer: int) -> int:
        """Return one for each bit."""
        return self.latent_shapes[layer][0]


@dataclass(frozen=True)
class SigmoidBeliefNetworkOptions(ModelOptions):
    """Options of a `SigmoidBeliefNetwork`, without the shape of the data.

    Attributes
    ----------
    layer_dims, baseline_dims
        See `SigmoidBeliefNetwork`.

    Examples
    --------
    >>> SigmoidBeliefNetworkOptions(layer_dims=(10,)).build(DataShape((8, 8))).latent_shapes
    ((10,),)
    """

    likelihood: ClassVar[str] = "bernoulli"

    layer_dims: tuple[int, ...] = option(
        "binary latent variables of each of 1 to 3 layers, from the data upwards",
        (200, 200),
        at_least=1,
        called="widths",
    )
    baseline_dims: tuple[int, ...] | None = option(
        "widths of the hidden layers of a baseline network; none: no such network", None, at_least=1, called="widths"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.layer_dims) > MOST_LAYERS:
            raise ValueError(
                f"SigmoidBeliefNetworkOptions: layer_dims must be of 1 to {MOST_LAYERS} layers, got {self.layer_dims}"
            )

    def build(self, shape: DataShape, data_mean: Tensor | None = None) -> SigmoidBeliefNetwork:
        """Return the untrained model."""
        return SigmoidBeliefNetwork(shape.data_dim, self.layer_dims, data_mean, self.baseline_dims)
