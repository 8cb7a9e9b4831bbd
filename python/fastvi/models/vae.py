"""The variational autoencoder with one stochastic layer and multilayer perceptrons (Kingma & Welling 2014).

Sizes, activation and initialisation follow the experiments of Burda, Grosse & Salakhutdinov 2016, "Importance
weighted autoencoders": 784-200-200-50 with tanh, Glorot weights, output biases from the mean of the data.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastvi import ops

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "softplus": nn.Softplus, "elu": nn.ELU}
LIKELIHOODS = ("bernoulli", "gaussian")
LOGVAR_RANGE = (-8.0, 2.0)
"""Range of the Gaussian likelihood's logvar: without a floor, a pixel that never varies has an infinite density."""
MEAN_MARGIN = 1e-3
"""The data mean is kept this far from 0 and 1 before its logit becomes the output bias."""


class VAE(nn.Module):
    """Variational autoencoder for x in [0, 1]^D with a standard normal prior over z.

    Parameters
    ----------
    data_dim
        D, the number of values of one example.
    latent_dim
        Z, the number of latent dimensions.
    hidden_dims
        Widths of the encoder's hidden layers, from the data to the latent side; the decoder mirrors them.
    activation
        ``"tanh"``, ``"relu"``, ``"softplus"`` or ``"elu"``.
    likelihood
        ``"bernoulli"``: p(x|z) has the mean sigmoid(l(z)). ``"gaussian"``: the decoder gives a mean sigmoid(l(z)) and
        a logvar for each value, the latter clamped to ``LOGVAR_RANGE``.
    data_mean
        Mean of the training data, shape (D,): the output biases start at its logit. None: they start at 0.

    Attributes
    ----------
    prior_mean, prior_logvar
        None: the prior is the standard normal.

    Raises
    ------
    ValueError
        For a size that is not positive, an unknown name, or a ``data_mean`` of another shape.

    References
    ----------
    Kingma & Welling 2014, "Auto-encoding variational Bayes", appendix C; Burda, Grosse & Salakhutdinov 2016,
    section 5.

    Examples
    --------
    >>> model = VAE(64, latent_dim=2, hidden_dims=(32,))
    >>> mean, logvar = model.encode(torch.rand(5, 64))
    >>> model.log_likelihood(torch.ones(5, 64), mean.expand(7, 5, 2)).shape
    torch.Size([7, 5])
    """

    prior_mean: Tensor | None = None
    prior_logvar: Tensor | None = None

    def __init__(
        self,
        data_dim: int,
        latent_dim: int = 50,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        likelihood: str = "bernoulli",
        data_mean: Tensor | None = None,
    ) -> None:
        super().__init__()
        sizes = {"data_dim": (data_dim,), "latent_dim": (latent_dim,), "hidden_dims": tuple(hidden_dims)}
        for name, values in sizes.items():
            if not values or any(value < 1 for value in values):
                raise ValueError(f"VAE: {name} must be positive, got {values if len(values) != 1 else values[0]}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"VAE: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        if likelihood not in LIKELIHOODS:
            raise ValueError(f"VAE: likelihood must be one of {', '.join(LIKELIHOODS)}, got {likelihood!r}")
        if data_mean is not None and data_mean.shape != (data_dim,):
            raise ValueError(f"VAE: data_mean must have the shape ({data_dim},), got {tuple(data_mean.shape)}")
        self.data_dim = data_dim
        self.latent_dim = latent_dim
        self.likelihood = likelihood
        encoder_dims = (data_dim, *hidden_dims)
        decoder_dims = (latent_dim, *reversed(hidden_dims))
        self.encoder = _perceptron(encoder_dims, activation)
        self.posterior_head = _glorot_linear(encoder_dims[-1], latent_dim, parts=2)
        self.decoder = _perceptron(decoder_dims, activation)
        self.likelihood_head = _glorot_linear(decoder_dims[-1], data_dim, parts=1 if likelihood == "bernoulli" else 2)
        if data_mean is not None:
            with torch.no_grad():
                margin = data_mean.clamp(MEAN_MARGIN, 1.0 - MEAN_MARGIN)
                self.likelihood_head.bias[:data_dim] = torch.logit(margin)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (mean, logvar) of q(z|x), each (B, Z), for ``x`` of shape (B, D).

        Both are views of one tensor: the operations read strided rows without a copy.
        """
        mean, logvar = self.posterior_head(self.encoder(x)).chunk(2, -1)
        return mean, logvar

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x|z) in nats, shape (K, B), for ``x`` of shape (B, D) and ``z`` of shape (K, B, Z)."""
        hidden = self.decoder(z)
        if self.likelihood == "bernoulli":
            return ops.linear_bernoulli_log_prob(hidden, self.likelihood_head.weight, self.likelihood_head.bias, x)
        logits, logvar = self.likelihood_head(hidden).chunk(2, -1)
        return ops.normal_log_prob(x, torch.sigmoid(logits), logvar.clamp(*LOGVAR_RANGE))

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean of p(x|z), in [0, 1], shape (..., D), for ``z`` of shape (..., Z)."""
        outputs = self.likelihood_head(self.decoder(z))
        return torch.sigmoid(outputs[..., : self.data_dim])


def _perceptron(dims: Sequence[int], activation: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(dims):
        layers += [_glorot_linear(fan_in, fan_out), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


def _glorot_linear(fan_in: int, fan_out: int, parts: int = 1) -> nn.Linear:
    """Return one linear map that holds ``parts`` outputs of width ``fan_out``, each initialised by its own fans."""
    linear = nn.Linear(fan_in, parts * fan_out)
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    nn.init.uniform_(linear.weight, -bound, bound)
    nn.init.zeros_(linear.bias)
    return linear
