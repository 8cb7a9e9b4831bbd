"""The variational autoencoder with one stochastic layer and multilayer perceptrons (Kingma & Welling 2014).

Sizes, activation and initialisation follow the experiments of Burda, Grosse & Salakhutdinov 2016, "Importance
weighted autoencoders": 784-200-200-50 with tanh, Glorot weights, output biases from the mean of the data.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastvi import ops
from fastvi._options import check_sizes, option
from fastvi._sizes import as_integer, shown
from fastvi.models._checks import check_codes
from fastvi.models.base import DataShape, ModelOptions
from fastvi.models.likelihoods import LIKELIHOODS, values_of
from fastvi.nn.layers import run_layers
from fastvi.nn.sequential import read_layers
from fastvi.ops._one_node import Network, Terms, fits, terms
from fastvi.ops._values import describe_range, range_outside_unit_interval, values_at_hand
from fastvi.ops._with_gradient import log_prob_and_gradient

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "softplus": nn.Softplus, "elu": nn.ELU}

_PRIOR = ("prior_mean", "prior_logvar")


class VAE(nn.Module):
    """Variational autoencoder of values in [0, 1], or counts, with a Gaussian prior over z, by default N(0, 1).

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
        A name of ``fastvi.models.LIKELIHOODS``. ``"bernoulli"``: p(x|z) has the mean sigmoid(l(z)). ``"gaussian"`` and
        ``"laplace"``: the decoder gives a mean sigmoid(l(z)) and a logvar, or log scale, for each value, the latter in
        a range; ``"real-gaussian"`` and ``"real-laplace"`` the same with the mean l(z), for data of any real numbers.
        ``"continuous-bernoulli"``: a density on [0, 1]. ``"poisson"``, ``"negative-binomial"`` and
        ``"zero-inflated-negative-binomial"`` are of counts; then x are counts.
    data_mean
        Mean of the training data, shape (D,): the output biases start at its logit, or at its
        logarithm where the data are counts. None: they start at 0.
    validate_args
        Look whether x is in [0, 1] each time a Bernoulli likelihood is asked for: some microseconds for a batch. It is
        not looked at on a GPU, whose queue would have to be waited for, nor in what ``torch.compile``, ``torch.export``
        or ``torch.func`` trace or transform.

    Attributes
    ----------
    prior_mean, prior_logvar
        None: the prior is the standard normal. A prior that learns has an ``nn.Parameter`` for one of them or both, a
        constant one a buffer, of the shape (Z,), or (B, Z) for one prior for each example of the batch. Assign them to
        the model, or in the ``__init__`` of a subclass; to assign None takes them away again.

    Raises
    ------
    ValueError, TypeError
        For a size that is not a positive integer, an unknown name, or a ``data_mean`` of another shape; from ``encode``
        and ``log_likelihood`` for an x of another size or type, or, with a Bernoulli likelihood, not in [0, 1].

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
    >>> model.prior_mean = nn.Parameter(torch.zeros(2))
    >>> sorted(model.state_dict())[-1]
    'prior_mean'
    """

    fused_parts = ("encoder", "posterior_head", "decoder", "likelihood_head")
    """The submodules whose layers run as one operation: nothing is left for `fastvi.fuse` to do."""

    # Not class attributes: PyTorch lets no parameter and no buffer have the name of one.
    prior_mean: Tensor | None
    prior_logvar: Tensor | None

    def __init__(
        self,
        data_dim: int,
        latent_dim: int = 50,
        hidden_dims: Sequence[int] = (200, 200),
        activation: str = "tanh",
        likelihood: str = "bernoulli",
        data_mean: Tensor | None = None,
        validate_args: bool = True,
    ) -> None:
        super().__init__()
        for name in _PRIOR:
            if not hasattr(type(self), name):  # a subclass may have a property or a constant tensor
                setattr(self, name, None)
        data_dim, latent_dim = _positive("data_dim", data_dim), _positive("latent_dim", latent_dim)
        hidden_dims = check_sizes("VAE", "hidden_dims", hidden_dims)
        hidden_dims = tuple(_positive("hidden_dims", width, hidden_dims) for width in hidden_dims)
        if not hidden_dims:
            raise ValueError("VAE: hidden_dims must be positive, got ()")
        if activation not in ACTIVATIONS:
            raise ValueError(f"VAE: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        if likelihood not in LIKELIHOODS:
            raise ValueError(f"VAE: likelihood must be one of {', '.join(LIKELIHOODS)}, got {likelihood!r}")
        if data_mean is not None and data_mean.shape != (data_dim,):
            raise ValueError(f"VAE: data_mean must have the shape ({data_dim},), got {tuple(data_mean.shape)}")
        self.data_dim = data_dim
        self.latent_dim = latent_dim
        self.likelihood = likelihood
        self.validate_args = validate_args
        encoder_dims = (data_dim, *hidden_dims)
        decoder_dims = (latent_dim, *reversed(hidden_dims))
        self.encoder = _perceptron(encoder_dims, activation)
        self.posterior_head = _glorot_linear(encoder_dims[-1], latent_dim, parts=2)
        self.decoder = _perceptron(decoder_dims, activation)
        self.likelihood_head = _glorot_linear(decoder_dims[-1], data_dim, LIKELIHOODS[likelihood].parts)
        if data_mean is not None:
            with torch.no_grad():
                self.likelihood_head.bias[:data_dim] = LIKELIHOODS[likelihood].start(data_mean)

    def __init_subclass__(cls, **options: Any) -> None:
        """Take the None away that a subclass writes for "no prior of its own": a parameter could not have its name."""
        super().__init_subclass__(**options)
        for name in _PRIOR:
            if vars(cls).get(name, cls) is None:
                delattr(cls, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign, also a tensor or a buffer where a parameter of the prior has become None."""
        self._leave_none(name)
        super().__setattr__(name, value)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Register a buffer, also where a prior stands at None."""
        self._leave_none(name)
        super().register_buffer(name, tensor, persistent)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a parameter, also where a prior stands at None."""
        self._leave_none(name)
        super().register_parameter(name, param)

    def _leave_none(self, name: str) -> None:
        if name in _PRIOR:
            own = self.__dict__
            for place in (own, own.get("_parameters", {}), own.get("_buffers", {})):
                if name in place and place[name] is None:
                    del place[name]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (mean, logvar) of q(z|x), each (B, Z), for ``x`` of shape (B, D).

        Both are views of one tensor: the operations read strided rows without a copy.
        """
        self._check_data(x)
        layers = read_layers(x, (self.encoder, self.posterior_head), in_autocast=True)
        found = self.posterior_head(self.encoder(x)) if layers is None else run_layers(x, layers)
        mean, logvar = found.chunk(2, -1)
        return mean, logvar

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x|z) in nats, shape (K, B), for ``x`` of shape (B, D) and ``z`` of shape (K, B, Z)."""
        self._check_data(x)
        self._check_codes(z)
        layers = read_layers(z, (self.decoder, self.likelihood_head), in_autocast=True)
        if self.likelihood == "bernoulli":
            self._check_values(x)
            if layers is not None and not layers.activate_last:
                return ops.mlp_bernoulli_log_prob(z, layers.weights, layers.biases, x, layers.activation)
            head = self.likelihood_head
            return ops.linear_bernoulli_log_prob(self.decoder(z), head.weight, head.bias, x)
        outputs = self.likelihood_head(self.decoder(z)) if layers is None else run_layers(z, layers)
        likelihood = LIKELIHOODS[self.likelihood]
        return likelihood.log_prob(x, likelihood.split(outputs), self.validate_args)

    def _terms_at_once(self, x: Tensor, asked: Terms, seed: int | None) -> Any:
        """What `fastvi.objectives` asks for first: the terms of a bound as one node of autograd.

        None where `encode` and `log_likelihood` have to be called: those of a subclass, with a prior that is not the
        standard normal or another likelihood, with hooks on the layers, or where no gradient is recorded.
        """
        own = type(self)
        is_plain = (
            own.encode is VAE.encode
            and own.log_likelihood is VAE.log_likelihood
            and self.likelihood == "bernoulli"
            and "encode" not in self.__dict__
            and "log_likelihood" not in self.__dict__
            and self.prior_mean is None
            and self.prior_logvar is None
        )
        if not is_plain or not isinstance(x, Tensor):
            return None
        encoder = read_layers(x, (self.encoder, self.posterior_head), in_autocast=True, compiled=True)
        decoder = read_layers(x, (self.decoder, self.likelihood_head), in_autocast=True, compiled=True)
        if encoder is None or decoder is None or encoder.activate_last or decoder.activate_last:
            return None
        networks = Network.of(*encoder[:3]), Network.of(*decoder[:3])
        if networks[0] is None or networks[1] is None or not fits(x, networks[0], networks[1], asked):
            return None
        self._check_data(x)
        self._check_values(x)
        return terms(x, networks[0], networks[1], asked, seed)

    def _log_likelihood_with_gradient(self, x: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor] | None] | None:
        """What `HamiltonianPosterior` asks for first: of z, log p(x|z) with its gradient by z, as one node of autograd.

        None, here or of z, where `log_likelihood` has to be called: as for the terms of a bound.
        """
        is_plain = type(self).log_likelihood is VAE.log_likelihood and "log_likelihood" not in self.__dict__
        if not is_plain or self.likelihood != "bernoulli" or not isinstance(x, Tensor):
            return None
        layers = read_layers(x, (self.decoder, self.likelihood_head), in_autocast=True)
        network = None if layers is None or layers.activate_last else Network.of(*layers[:3])
        if network is None:
            return None
        self._check_data(x)
        self._check_values(x)
        return partial(log_prob_and_gradient, x=x, decoder=network)

    def _check_values(self, x: Tensor) -> None:
        if self.validate_args and values_at_hand(x) and (bounds := range_outside_unit_interval(x)) is not None:
            raise ValueError(
                f"{type(self).__name__}: a Bernoulli likelihood needs x in [0, 1], got {describe_range(bounds)} "
                "(validate_args=False lets it pass)"
            )

    def _check_data(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(f"{type(self).__name__}: x must be a tensor of shape (B, {self.data_dim}), got {_kind(x)}")
        if x.dim() == 0 or x.shape[-1] != self.data_dim:
            raise ValueError(f"{type(self).__name__}: x must have the shape (B, {self.data_dim}), got {tuple(x.shape)}")
        if not x.is_floating_point():
            values = values_of(self.likelihood)
            kind = f"floating-point {values}" if values.startswith("values") else f"{values} in floating point"
            raise TypeError(f"{type(self).__name__}: x must be {kind}, got {x.dtype}")
        dtype = self.posterior_head.weight.dtype
        if x.dtype is not dtype and not torch.is_autocast_enabled(x.device.type):
            raise TypeError(f"{type(self).__name__}: x must have the model's dtype {dtype}, got {x.dtype}")

    def _check_codes(self, z: Any) -> None:
        check_codes(type(self).__name__, z, self.latent_dim, self.posterior_head.weight.dtype)

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean of p(x|z), shape (..., D), for ``z`` of shape (..., Z)."""
        return LIKELIHOODS[self.likelihood].mean(self.decode_parts(z))

    def decode_parts(self, z: Tensor) -> tuple[Tensor, ...]:
        """Return the numbers of p(x|z), each (..., D): what its `fastvi.models.Likelihood` calls parts."""
        self._check_codes(z)
        return LIKELIHOODS[self.likelihood].split(self.likelihood_head(self.decoder(z)))

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of p(x|z) at the posterior's mean, shape (B, D), for ``x`` of shape (B, D)."""
        return self.decode(self.encode(x)[0])


@dataclass(frozen=True)
class VAEOptions(ModelOptions):
    """Options of a `VAE`, without the shape of the data.

    Attributes
    ----------
    latent_dim, hidden_dims, activation, likelihood
        See `VAE`.

    Examples
    --------
    >>> VAEOptions(latent_dim=2).build(DataShape((8, 8))).data_dim
    64
    """

    latent_dim: int = option("latent dimensions; 2 gives a picture of them", 50, at_least=1)
    hidden_dims: tuple[int, ...] = option(
        "widths of the hidden layers, from the data inwards", (200, 200), at_least=1, called="widths"
    )
    activation: str = option("of the hidden layers", "tanh", choices=tuple(ACTIVATIONS))
    likelihood: str = option("of the pixels", "bernoulli", choices=tuple(LIKELIHOODS), from_data="likelihood")

    def build(self, shape: DataShape, data_mean: Tensor | None = None) -> VAE:
        """Return the untrained model."""
        return VAE(
            shape.data_dim, self.latent_dim, self.hidden_dims, self.activation, self.likelihood, data_mean=data_mean
        )


def _kind(value: object) -> str:
    return type(value).__name__


def _positive(name: str, value: int, whole: object = None) -> int:
    size = as_integer(value)
    if size is None:
        raise TypeError(f"VAE: {name} must be an integer, got {shown(value)}")
    if size < 1:
        raise ValueError(f"VAE: {name} must be positive, got {value if whole is None else whole}")
    return size


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
