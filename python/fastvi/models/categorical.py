"""A variational autoencoder whose latent variables are categorical, with multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastvi import ops
from fastvi._options import check_count, option
from fastvi.models.base import DataShape, ModelOptions
from fastvi.models.discrete import DiscreteLatentModel
from fastvi.models.vae import ACTIVATIONS, _glorot_linear, _perceptron
from fastvi.nn.layers import run_layers
from fastvi.nn.sequential import read_layers


class CategoricalVAE(DiscreteLatentModel):
    """Categorical latent variables z_1, ..., z_N over x in [0, 1]^D, independent under p(z) and q(z|x).

    A variable's state is a one-hot vector. The prior of each variable is learned.

    Parameters
    ----------
    data_dim
        D, the number of values of one example.
    num_variables, num_categories
        N, and the number of categories of each of them, at least 2.
    hidden_dims
        Widths of the encoder's hidden layers, from the data to the latent side; the decoder mirrors them.
    activation
        ``"tanh"``, ``"relu"``, ``"softplus"`` or ``"elu"``.
    data_mean
        Mean of the training data, shape (D,): the output biases start at its logit. None: they start at 0.
    baseline_dims
        Widths of the hidden layers of a baseline network b(x); None: no such network.

    Raises
    ------
    ValueError, TypeError
        For a size that is not a positive integer, fewer than two categories, an unknown activation, or a ``data_mean``
        of another shape; from what takes an x, for one of another shape or type, or not in [0, 1].

    Examples
    --------
    >>> from fastvi.objectives import ScoreFunction
    >>> model = CategoricalVAE(64, num_variables=4, num_categories=10, hidden_dims=(32,))
    >>> ScoreFunction(num_samples=5)(model, torch.ones(3, 64)).shape
    torch.Size([3])
    >>> model.draw(torch.ones(3, 64), 5).samples[0].shape
    torch.Size([5, 3, 4, 10])
    """

    fused_parts = ("encoder", "decoder", "likelihood_head")
    """The submodules whose layers run as one operation: nothing is left for `fastvi.fuse` to do."""

    def __init__(
        self,
        data_dim: int,
        num_variables: int = 20,
        num_categories: int = 10,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        data_mean: Tensor | None = None,
        baseline_dims: Sequence[int] | None = None,
    ) -> None:
        super().__init__(data_dim, baseline_dims)
        num_variables = check_count("CategoricalVAE", "num_variables", num_variables)
        num_categories = check_count("CategoricalVAE", "num_categories", num_categories, at_least=2)
        widths = self._counts("hidden_dims", hidden_dims)
        if activation not in ACTIVATIONS:
            raise ValueError(f"CategoricalVAE: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        self.latent_shapes = ((num_variables, num_categories),)
        values = num_variables * num_categories
        self.encoder = nn.Sequential(
            *_perceptron((self.data_dim, *widths), activation), _glorot_linear(widths[-1], values)
        )
        self.decoder = _perceptron((values, *reversed(widths)), activation)
        self.likelihood_head = _glorot_linear(widths[0], self.data_dim)
        self.prior_logits = nn.Parameter(torch.zeros(num_variables, num_categories))
        self._set_output_bias(self.likelihood_head, data_mean)

    def log_joint(self, x: Tensor, samples: Sequence[Tensor]) -> Tensor:
        """Return log p(x, z) in nats, (K, B), for ``x`` (B, D) and one tensor (K, B, N, categories)."""
        (states,) = samples
        z = states.flatten(-2)
        layers = read_layers(z, (self.decoder, self.likelihood_head), in_autocast=True)
        if layers is None:
            head = self.likelihood_head
            likelihood = ops.linear_bernoulli_log_prob(self.decoder(z), head.weight, head.bias, x)
        else:
            likelihood = ops.mlp_bernoulli_log_prob(z, layers.weights, layers.biases, x, layers.activation)
        return likelihood + self.log_prob(states, self.prior_logits)

    def posterior_logits(self, layer: int, below: Tensor) -> Tensor:
        """Return the logits of q(z|x), (..., N, categories), up to a constant for each variable."""
        layers = read_layers(below, (self.encoder,), in_autocast=True)
        logits: Tensor = self.encoder(below) if layers is None else run_layers(below, layers)
        return logits.to(below.dtype).reshape(*logits.shape[:-1], *self.latent_shapes[0])

    def generative_logits(self, layer: int, above: Tensor | None, like: Tensor) -> Tensor:
        """Return the logits of the prior, (1, B, N, categories)."""
        return self.prior_logits.expand(1, len(like), -1, -1)

    def data_logits(self, lowest: Tensor) -> Tensor:
        """Return the logits of p(x|z), (..., D)."""
        logits: Tensor = self.likelihood_head(self.decoder(lowest.flatten(-2)))
        return logits

    def means(self, logits: Tensor) -> Tensor:
        """Return the probabilities of the categories."""
        return torch.softmax(logits, -1)

    def states(self, layer: int, means: Tensor, uniforms: Tensor) -> Tensor:
        """Return one-hot vectors: of the category in whose part of the distribution function the uniform lies."""
        # In float64, so that the sums of small probabilities are not coarse.
        cumulative = means.double().cumsum(-1)
        threshold = uniforms.double().unsqueeze(-1) * cumulative[..., -1:]
        index = (cumulative <= threshold).sum(-1, keepdim=True).clamp_max(means.shape[-1] - 1)
        return (index == torch.arange(means.shape[-1], device=means.device)).to(uniforms.dtype)

    def log_prob(self, states: Tensor, logits: Tensor) -> Tensor:
        """Return the log-probability of one-hot vectors, (K, B)."""
        return (states * torch.log_softmax(logits, -1)).sum((-2, -1))

    def num_uniforms(self, layer: int) -> int:
        """Return one for each variable."""
        return self.latent_shapes[0][0]


@dataclass(frozen=True)
class CategoricalVAEOptions(ModelOptions):
    """Options of a `CategoricalVAE`, without the shape of the data.

    Attributes
    ----------
    num_variables, num_categories, hidden_dims, activation, baseline_dims
        See `CategoricalVAE`.

    Examples
    --------
    >>> CategoricalVAEOptions(num_variables=3).build(DataShape((8, 8))).latent_shapes
    ((3, 10),)
    """

    likelihood: ClassVar[str] = "bernoulli"

    num_variables: int = option("categorical latent variables", 20, at_least=1)
    num_categories: int = option("categories of each of them", 10, at_least=2)
    hidden_dims: tuple[int, ...] = option(
        "widths of the hidden layers, from the data inwards", (200, 200), at_least=1, called="widths"
    )
    activation: str = option("of the hidden layers", "tanh", choices=tuple(ACTIVATIONS))
    baseline_dims: tuple[int, ...] | None = option(
        "widths of the hidden layers of a baseline network; none: no such network", None, at_least=1, called="widths"
    )

    def build(self, shape: DataShape, data_mean: Tensor | None = None) -> CategoricalVAE:
        """Return the untrained model."""
        return CategoricalVAE(
            shape.data_dim,
            self.num_variables,
            self.num_categories,
            self.hidden_dims,
            self.activation,
            data_mean,
            self.baseline_dims,
        )
