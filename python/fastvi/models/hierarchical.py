"""The variational autoencoder with several stochastic layers, as in the experiments of Burda, Grosse & Salakhutdinov.

"Importance weighted autoencoders", 2016, section 5: two layers, q: 784-200-200-100 and 100-100-100-50, p the reverse,
tanh, Glorot weights, output biases from the mean of the data.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastvi import ops
from fastvi._options import check_count, option
from fastvi._sizes import shown
from fastvi.models._checks import check_codes
from fastvi.models.base import DataShape, ModelOptions
from fastvi.models.likelihoods import LIKELIHOODS
from fastvi.models.vae import ACTIVATIONS, VAE, _glorot_linear, _perceptron
from fastvi.nn.layers import run_layers
from fastvi.nn.sequential import read_layers
from fastvi.objectives import Draw, call_detached, sample_layer
from fastvi.objectives.draws import Path


class HierarchicalVAE(nn.Module):
    """Variational autoencoder for x in [0, 1]^D with layers z_1 ... z_L of latent variables, all of them Gaussian.

    p(x, z) = p(x|z_1) p(z_1|z_2) ... p(z_L) with a standard normal p(z_L), and q(z|x) = q(z_1|x) q(z_2|z_1) ... Every
    conditional is a diagonal Gaussian whose mean and logvar a perceptron gives. It draws for itself (`draw`): ELBO
    takes it with ``analytic_kl=False``, any beta and a warm-up, IWAE, STL and DReG take it as they are.

    Parameters
    ----------
    data_dim
        D, the number of values of one example.
    latent_dims
        Z_1 ... Z_L, from the data upwards; two layers or more.
    hidden_dims
        Widths of the hidden layers between x and z_1, from the data upwards; the decoder mirrors them.
    upper_hidden_dims
        The same between z_l and z_(l+1).
    activation, likelihood, data_mean, validate_args
        See `VAE`.

    Attributes
    ----------
    bottom
        The `VAE` of x and z_1: q(z_1|x) and p(x|z_1).
    upward, downward
        For each layer but the last, the perceptrons of q(z_(l+1)|z_l) and p(z_l|z_(l+1)).
    latent_dim
        Z_1 + ... + Z_L: how many numbers `decode` takes.

    Raises
    ------
    ValueError, TypeError
        For a size that is not a positive integer, a single layer, or what `VAE` complains of.

    References
    ----------
    Burda, Grosse & Salakhutdinov 2016, section 5. Their network gives log sigma, this one the logvar.

    Examples
    --------
    >>> from fastvi.objectives import DReG
    >>> model = HierarchicalVAE(64, latent_dims=(8, 4), hidden_dims=(32,), upper_hidden_dims=(16,))
    >>> DReG(5)(model, torch.ones(3, 64), seed=0).shape
    torch.Size([3])
    >>> [z.shape[-1] for z in model.draw(torch.ones(3, 64), 7).samples]
    [8, 4]
    """

    fused_parts = ("bottom", "upward", "downward")
    """The submodules whose layers run as one operation: nothing is left for `fastvi.fuse` to do."""

    draws_log_ratio = True
    """The divergence may be weighed by the beta of :class:`fastvi.objectives.ELBO`, and warmed up."""

    draws_score = False
    """All samples are reparameterised."""

    def __init__(
        self,
        data_dim: int,
        latent_dims: Sequence[int] = (100, 50),
        hidden_dims: Sequence[int] = (200, 200),
        upper_hidden_dims: Sequence[int] = (100, 100),
        activation: str = "tanh",
        likelihood: str = "bernoulli",
        data_mean: Tensor | None = None,
        validate_args: bool = True,
    ) -> None:
        super().__init__()
        latent_dims = _sizes("latent_dims", latent_dims, 2)
        upper_hidden_dims = _sizes("upper_hidden_dims", upper_hidden_dims, 1)
        self.bottom = VAE(data_dim, latent_dims[0], hidden_dims, activation, likelihood, data_mean, validate_args)
        self.latent_dims = latent_dims
        self.latent_dim = sum(latent_dims)
        self.upward, self.downward = nn.ModuleList(), nn.ModuleList()
        for below, above in itertools.pairwise(latent_dims):
            self.upward.append(_conditional((below, *upper_hidden_dims), above, activation))
            self.downward.append(_conditional((above, *reversed(upper_hidden_dims)), below, activation))

    def draw(
        self,
        x: Tensor,
        num_samples: int,
        *,
        detach_posterior: bool = False,
        seed: int | None = None,
        row_offset: int = 0,
        path: Path | None = None,
    ) -> Draw:
        """Draw samples of all layers and weigh them: see :func:`fastvi.objectives.draw`.

        ``samples`` is a tensor ``(K, B, Z_l)`` for each layer.
        """
        mean, logvar = self.bottom.encode(x)
        posteriors = [(mean, logvar)]
        samples = [sample_layer(mean, logvar, num_samples, seed=seed, row_offset=row_offset)]
        for layer, network in enumerate(self.upward, 1):
            posteriors.append(_parameters(network, samples[-1]))
            samples.append(sample_layer(*posteriors[-1], num_samples, layer, seed=seed, row_offset=row_offset))
        if path is not None:
            samples = [path(z) for z in samples]
        if torch.is_grad_enabled() and detach_posterior:
            posteriors[0] = (mean.detach(), logvar.detach())
        if path is not None or (torch.is_grad_enabled() and detach_posterior):
            # Parameters of the densities, where they are others than those of the samples: see `DrawingModel`.
            posteriors[1:] = [
                _parameters(network, z, detach_posterior) for network, z in zip(self.upward, samples, strict=False)
            ]
        zeros = samples[-1].new_zeros(self.latent_dims[-1:])
        log_ratio = ops.normal_log_prob(samples[-1], zeros, zeros)
        for layer, network in enumerate(self.downward):
            log_ratio = log_ratio + ops.normal_log_prob(samples[layer], *_parameters(network, samples[layer + 1]))
        for z, parameters in zip(samples, posteriors, strict=True):
            log_ratio = log_ratio - ops.normal_log_prob(z, *parameters)
        return Draw(samples, self.bottom.log_likelihood(x, samples[0]) + log_ratio, log_ratio=log_ratio)

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean of p(x|z_1), in [0, 1], shape (..., D), for standard normal numbers of all layers.

        ``z`` of shape (..., Z_L + ... + Z_1) holds z_L itself, and after it the noise of the layers below: where it is
        standard normal, z_1 is a sample of the model, and with zeros behind z_L it is what the means lead to.
        """
        return self.bottom.decode(self._lowest_layer(z))

    def decode_parts(self, z: Tensor) -> tuple[Tensor, ...]:
        """Return the numbers of p(x|z_1), each (..., D), as :meth:`fastvi.models.VAE.decode_parts`; ``z`` as above."""
        return self.bottom.decode_parts(self._lowest_layer(z))

    @property
    def likelihood(self) -> str:
        """The likelihood of the lowest layer, by name."""
        return self.bottom.likelihood

    def log_likelihood_of_noise(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x|z_1) in nats, (K, B), for ``x`` (B, D) and standard normal numbers ``z`` as in `decode`.

        With the standard normal prior of these numbers it makes the model one of a single layer, whose p(x) annealed
        importance sampling estimates.
        """
        return self.bottom.log_likelihood(x, self._lowest_layer(z))

    def _lowest_layer(self, z: Tensor) -> Tensor:
        check_codes(type(self).__name__, z, self.latent_dim, self.bottom.posterior_head.weight.dtype)
        top: Tensor
        top, *noise = z.split(self.latent_dims[::-1], -1)
        for each, network in zip(noise, reversed(self.downward), strict=True):
            mean, logvar = _parameters(network, top)
            top = torch.addcmul(mean, torch.exp(0.5 * logvar), each)
        return top

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of p(x|z_1) at the mean of q(z_1|x), shape (B, D), for ``x`` of shape (B, D)."""
        return self.bottom.reconstruct(x)


@dataclass(frozen=True)
class HierarchicalOptions(ModelOptions):
    """Options of a `HierarchicalVAE`, without the shape of the data.

    Attributes
    ----------
    latent_dims, hidden_dims, upper_hidden_dims, activation, likelihood
        See `HierarchicalVAE`.

    Examples
    --------
    >>> HierarchicalOptions(latent_dims=(8, 4)).build(DataShape((8, 8))).latent_dim
    12
    """

    latent_dims: tuple[int, ...] = option(
        "latent dimensions of each layer, from the data upwards", (100, 50), at_least=1, called="sizes"
    )
    hidden_dims: tuple[int, ...] = option(
        "widths of the hidden layers, from the data inwards", (200, 200), at_least=1, called="widths"
    )
    upper_hidden_dims: tuple[int, ...] = option(
        "widths of the hidden layers between two stochastic layers", (100, 100), at_least=1, called="widths"
    )
    activation: str = option("of the hidden layers", "tanh", choices=tuple(ACTIVATIONS))
    likelihood: str = option("of the pixels", "bernoulli", choices=tuple(LIKELIHOODS), from_data="likelihood")

    def __post_init__(self) -> None:
        super().__post_init__()
        _sizes("latent_dims", self.latent_dims, 2, type(self).__name__)

    def build(self, shape: DataShape, data_mean: Tensor | None = None) -> HierarchicalVAE:
        """Return the untrained model."""
        return HierarchicalVAE(
            shape.data_dim,
            self.latent_dims,
            self.hidden_dims,
            self.upper_hidden_dims,
            self.activation,
            self.likelihood,
            data_mean,
        )


def _sizes(name: str, values: Any, least: int, owner: str = "HierarchicalVAE") -> tuple[int, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise TypeError(f"{owner}: {name} must be a tuple of sizes, got {shown(values)}")
    if len(values) < least:
        one = " (one layer is a VAE)" if least == 2 else ""
        raise ValueError(f"{owner}: {name} must be {least} sizes or more, got {tuple(values)}{one}")
    return tuple(check_count(owner, name, value) for value in values)


def _conditional(dims: Sequence[int], outputs: int, activation: str) -> nn.Sequential:
    """Return the perceptron of a Gaussian's mean and logvar, each of width ``outputs``."""
    return nn.Sequential(*_perceptron(dims, activation), _glorot_linear(dims[-1], outputs, parts=2))


def _parameters(network: nn.Module, z: Tensor, constant: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and logvar that a perceptron gives for z; with ``constant`` its own parameters get no gradient."""
    layers = read_layers(z, (network,), in_autocast=True)
    if layers is not None:
        if constant:
            weights = [weight.detach() for weight in layers.weights]
            biases = [None if bias is None else bias.detach() for bias in layers.biases]
            layers = layers._replace(weights=weights, biases=biases)
        found = run_layers(z, layers)
    else:
        found = call_detached(network, z) if constant else network(z)
    mean, logvar = found.chunk(2, -1)
    return mean, logvar
