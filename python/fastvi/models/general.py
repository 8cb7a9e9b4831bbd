"""A variational autoencoder whose posterior, prior and networks are chosen, with or without labels.

Labels as a condition of both networks: Sohn, Lee and Yan 2015, "Learning structured output representation using deep
conditional generative models".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, TransformedDistribution

from fastvi import ops
from fastvi._options import option
from fastvi.models._checks import check_codes, check_images
from fastvi.models.base import DataShape, ModelOptions
from fastvi.models.generation import draw_latents
from fastvi.models.likelihoods import LIKELIHOODS, is_of_counts, is_of_reals
from fastvi.models.posteriors import DiagonalPosterior, FlowPosterior, FullCovariancePosterior, at_least_float32
from fastvi.models.priors import LabelPrior, MixturePrior, VampPrior
from fastvi.models.vae import ACTIVATIONS, _glorot_linear, _perceptron
from fastvi.nn.layers import run_layers
from fastvi.nn.sequential import read_layers
from fastvi.objectives.model import optional
from fastvi.ops._values import describe_range, range_outside_unit_interval, values_at_hand

POSTERIORS = ("diagonal", "full", "flow")
PRIORS = ("standard", "gaussian", "mixture", "vamp")
LABEL_PRIORS = ("standard", "gaussian", "mixture", "labels")
_PSEUDO_INPUT_SPREAD = 0.25


class GeneralVAE(nn.Module):
    """Variational autoencoder for x in [0, 1]^D that is made of its parts.

    Parameters
    ----------
    encoder
        From data, and labels as 0 and 1 behind them, ``(B, D)`` or ``(B, D + C)``, to what ``posterior`` takes.
    posterior
        Makes of ``(B, posterior.num_outputs)`` what an ``encode`` returns; it has ``latent_dim``.
    decoder
        From ``(..., Z)``, or ``(..., Z + C)`` with labels, to the logits of x, ``(..., D)``; for a Gaussian likelihood
        the log-variances follow them, ``(..., 2 D)``.
    data_dim
        D.
    likelihood
        ``"bernoulli"`` or ``"gaussian"``, as of :class:`fastvi.models.VAE`.
    num_classes
        C for a conditional model, whose x is the pair (images, labels), ``(B, D)`` and ``(B,)``; None for one without
        labels.

    Attributes
    ----------
    prior_mean, prior_logvar, log_prior, conditional_prior
        The prior in one of its forms, see :class:`fastvi.objectives.LatentVariableModel`; None at first, which is the
        standard normal. Assign parameters, buffers or modules.

    Raises
    ------
    TypeError, ValueError
        From its methods, for data or labels of another type, shape or range.

    Examples
    --------
    >>> import torch
    >>> model = GeneralVAEOptions(latent_dim=2, hidden_dims=(8,), posterior="full").build(DataShape((4, 4)))
    >>> type(model.encode(torch.rand(5, 16))).__name__
    'MultivariateNormal'
    >>> model.log_prior = MixturePrior(num_components=3, latent_dim=2)
    """

    def __init__(
        self,
        encoder: nn.Module,
        posterior: DiagonalPosterior,
        decoder: nn.Module,
        data_dim: int,
        likelihood: str = "bernoulli",
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.posterior, self.decoder = encoder, posterior, decoder
        self.data_dim, self.latent_dim = data_dim, posterior.latent_dim
        self.likelihood, self.num_classes = likelihood, num_classes

    @property
    def has_analytic_kl(self) -> bool:
        """Whether the divergence from the prior has a closed form."""
        return self.posterior.has_analytic_kl and optional(self, "log_prior") is None

    @property
    def has_independent_latents(self) -> bool:
        """Whether the latent variables are independent of one another in q(z|x)."""
        return self.posterior.has_independent_latents

    @property
    def has_posterior_mean(self) -> bool:
        """Whether q(z|x) knows its mean."""
        return self.posterior.has_mean

    def encode(self, x: Any) -> Any:
        """Return q(z|x), or q(z|x, y): a pair (mean, logvar), each ``(B, Z)``, or a distribution."""
        images, labels = self._parts(x)
        inputs = images if labels is None else torch.cat([images, labels], -1)
        layers = read_layers(inputs, (self.encoder,), in_autocast=True)
        return self.posterior(self.encoder(inputs) if layers is None else run_layers(inputs, layers))

    def log_likelihood(self, x: Any, z: Tensor) -> Tensor:
        """Return log p(x|z), or log p(x|z, y), in nats, ``(K, B)``, for ``z`` of shape ``(K, B, Z)``."""
        images, labels = self._parts(x)
        check_codes(type(self).__name__, z, self.latent_dim)
        codes = _joined(z, labels)
        if self.likelihood == "bernoulli":
            if values_at_hand(images) and (bounds := range_outside_unit_interval(images)) is not None:
                raise ValueError(
                    f"{type(self).__name__}: a Bernoulli likelihood needs x in [0, 1], got {describe_range(bounds)}"
                )
            layers = read_layers(codes, (self.decoder,), in_autocast=True)
            if layers is not None and not layers.activate_last:
                return ops.mlp_bernoulli_log_prob(codes, layers.weights, layers.biases, images, layers.activation)
            return ops.bernoulli_log_prob(images, at_least_float32(self.decoder(codes)))
        likelihood = LIKELIHOODS[self.likelihood]
        return likelihood.log_prob(images, likelihood.split(at_least_float32(self.decoder(codes))), True)

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the mean of p(x|z), ``(..., D)``, for ``z`` of shape ``(..., Z)``, and labels ``(...)``."""
        return LIKELIHOODS[self.likelihood].mean(self.decode_parts(z, labels))

    def decode_parts(self, z: Tensor, labels: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the numbers of p(x|z), each ``(..., D)``: what its `fastvi.models.Likelihood` calls parts."""
        name = type(self).__name__
        if (labels is None) != (self.num_classes is None):
            raise TypeError(f"{name}: decode {'needs the' if labels is None else 'takes no'} labels of z")
        check_codes(name, z, self.latent_dim, labels=labels)
        outputs = self.decoder(_joined(z, None if labels is None else self._indicators(labels, z.dtype)))
        return LIKELIHOODS[self.likelihood].split(outputs)

    def reconstruct(self, x: Any) -> Tensor:
        """Return the mean of p(x|z), ``(B, D)``, at the posterior's mean, or what a flow makes of its base's."""
        return self.decode(_centre(self.encode(x)), None if self.num_classes is None else x[1])

    def sample(self, count: int, seed: int | None = None) -> Tensor:
        """Return means of p(x|z), ``(count, D)``, for z of the prior; classes take turns."""
        return self.decode(*draw_latents(self, count, seed))

    def _parts(self, x: Any) -> tuple[Tensor, Tensor | None]:
        """The images, and the labels as 0 and 1, checked."""
        name, dtype = type(self).__name__, next(self.encoder.parameters()).dtype
        images, labels = x, None
        if self.num_classes is not None:
            if not isinstance(x, (tuple, list)) or len(x) != 2 or not all(isinstance(part, Tensor) for part in x):
                raise TypeError(f"{name}: x must be the pair (images, labels) of tensors, got {type(x).__name__}")
            images, labels = x
        check_images(name, images, self.data_dim, dtype)
        if labels is None:
            return images, None
        if labels.shape != images.shape[:1]:
            raise ValueError(f"{name}: labels must have the shape ({len(images)},), got {tuple(labels.shape)}")
        return images, self._indicators(labels, images.dtype)

    def _indicators(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        assert self.num_classes is not None
        if labels.is_floating_point() or labels.dtype is torch.bool:
            raise TypeError(f"{type(self).__name__}: labels must be integers, got {labels.dtype}")
        if values_at_hand(labels) and labels.numel() > 0:
            least, largest = (int(bound) for bound in torch.aminmax(labels))
            if least < 0 or largest >= self.num_classes:
                raise ValueError(
                    f"{type(self).__name__}: labels must be from 0 to {self.num_classes - 1}, got {least} to {largest}"
                )
        return (labels.unsqueeze(-1) == torch.arange(self.num_classes, device=labels.device)).to(dtype)


@dataclass(frozen=True)
class GeneralVAEOptions(ModelOptions):
    """Options of a `GeneralVAE` with multilayer perceptrons.

    Attributes
    ----------
    latent_dim, hidden_dims, activation, likelihood
        See :class:`fastvi.models.VAE`, whose networks and initial weights these are.
    posterior
        ``"diagonal"`` Gaussian, Gaussian of ``"full"`` covariance, or a ``"flow"`` of affine couplings.
    flow_layers
        Number of couplings.
    prior
        ``"standard"`` normal, ``"gaussian"`` with a learned mean and variance, ``"mixture"`` of Gaussians, or
        ``"vamp"``: the mixture of the posteriors of learned inputs.
    prior_components
        Of the mixtures.

    Examples
    --------
    >>> model = GeneralVAEOptions(latent_dim=2, posterior="flow", prior="vamp").build(DataShape((8, 8)))
    >>> type(model.log_prior).__name__
    'VampPrior'
    """

    latent_dim: int = option("latent dimensions", 50, at_least=1)
    hidden_dims: tuple[int, ...] = option(
        "widths of the hidden layers, from the data inwards", (200, 200), at_least=1, called="widths"
    )
    activation: str = option("of the hidden layers", "tanh", choices=tuple(ACTIVATIONS))
    likelihood: str = option("of the pixels", "bernoulli", choices=tuple(LIKELIHOODS), from_data="likelihood")
    posterior: str = option("family of the approximate posterior", "diagonal", choices=POSTERIORS)
    flow_layers: int = option("couplings of the flow", 4, at_least=1)
    prior: str = option("of the latent variables", "standard", choices=PRIORS)
    prior_components: int = option("components of a mixture", 50, at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.posterior == "flow" and self.latent_dim < 2:
            raise ValueError(f"{type(self).__name__}: posterior=flow needs latent_dim 2 or more, got {self.latent_dim}")

    def build(self, shape: DataShape, data_mean: Tensor | None = None) -> GeneralVAE:
        """Return the untrained model."""
        posterior = self._posterior()
        encoder, decoder = self._networks(shape, posterior, data_mean)
        num_classes = shape.num_classes if self.uses_labels else None
        model = GeneralVAE(encoder, posterior, decoder, shape.data_dim, self.likelihood, num_classes)
        self._add_prior(model, data_mean)
        return model

    def _networks(
        self, shape: DataShape, posterior: DiagonalPosterior, data_mean: Tensor | None
    ) -> tuple[nn.Module, nn.Module]:
        """Encoder and decoder, each with its last layer."""
        labels = (shape.num_classes or 0) if self.uses_labels else 0
        widths = tuple(reversed(self.hidden_dims))
        encoder = _perceptron((shape.data_dim + labels, *self.hidden_dims), self.activation)
        decoder = _perceptron((self.latent_dim + labels, *widths), self.activation)
        output = _glorot_linear(self.hidden_dims[0], shape.data_dim, LIKELIHOODS[self.likelihood].parts)
        start_at_mean(output.bias, data_mean, self.likelihood)
        return nn.Sequential(*encoder, posterior_head(self.hidden_dims[-1], posterior)), nn.Sequential(*decoder, output)

    def _posterior(self) -> DiagonalPosterior:
        if self.posterior == "flow":
            return FlowPosterior(self.latent_dim, self.flow_layers, self.hidden_dims[-1])
        return (FullCovariancePosterior if self.posterior == "full" else DiagonalPosterior)(self.latent_dim)

    def _add_prior(self, model: GeneralVAE, data_mean: Tensor | None) -> None:
        if self.prior == "gaussian":
            model.prior_mean = nn.Parameter(torch.zeros(self.latent_dim))
            model.prior_logvar = nn.Parameter(torch.zeros(self.latent_dim))
        elif self.prior == "mixture":
            model.log_prior = MixturePrior(self.prior_components, self.latent_dim)
        elif self.prior == "vamp":
            smallest = -math.inf if is_of_reals(self.likelihood) else 0.0
            largest = math.inf if is_of_counts(self.likelihood) or is_of_reals(self.likelihood) else 1.0
            noise = _PSEUDO_INPUT_SPREAD * torch.randn(self.prior_components, model.data_dim)
            model.log_prior = VampPrior(
                model.encode, ((0.5 if data_mean is None else data_mean) + noise).clamp(smallest, largest)
            )
        elif self.prior == "labels":
            assert model.num_classes is not None
            model.conditional_prior = LabelPrior(model.num_classes, self.latent_dim)


@dataclass(frozen=True)
class ConditionalVAEOptions(GeneralVAEOptions):
    """Options of a `GeneralVAE` of images and their labels, p(x|y), with multilayer perceptrons.

    Attributes
    ----------
    latent_dim, hidden_dims, activation, likelihood, posterior, flow_layers, prior_components
        See `GeneralVAEOptions`.
    prior
        ``"standard"``, ``"gaussian"``, ``"mixture"``, the same for all classes, or ``"labels"``: a learned Gaussian
        p(z|y) for each class.

    Raises
    ------
    ValueError
        From ``build``, if the shape has no number of classes.

    Examples
    --------
    >>> import torch
    >>> model = ConditionalVAEOptions(2, (8,), prior="labels").build(DataShape((4, 4), num_classes=10))
    >>> model.decode(torch.zeros(3, 2), labels=torch.tensor([1, 2, 3])).shape
    torch.Size([3, 16])
    """

    uses_labels: ClassVar[bool] = True

    prior: str = option("of the latent variables", "standard", choices=LABEL_PRIORS)

    def build(self, shape: DataShape, data_mean: Tensor | None = None) -> GeneralVAE:
        """Return the untrained model."""
        if shape.num_classes is None:
            raise ValueError(f"{type(self).__name__}: the data's shape must have num_classes, got None")
        return super().build(shape, data_mean)


def posterior_head(width: int, posterior: DiagonalPosterior) -> nn.Linear:
    """The layer that a posterior reads; what makes it other than a diagonal Gaussian begins at zero."""
    diagonal = _glorot_linear(width, posterior.latent_dim, parts=2)
    head = nn.Linear(width, posterior.num_outputs)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        head.weight[: len(diagonal.weight)] = diagonal.weight
    return head


def start_at_mean(bias: Tensor, data_mean: Tensor | None, likelihood: str) -> None:
    """Let the first of a decoder's output biases give the data's mean."""
    if data_mean is not None:
        with torch.no_grad():
            bias[: len(data_mean)] = LIKELIHOODS[likelihood].start(data_mean)


def _joined(z: Tensor, labels: Tensor | None) -> Tensor:
    return z if labels is None else torch.cat([z, labels.expand(*z.shape[:-1], labels.shape[-1])], -1)


def _centre(q: Any) -> Tensor:
    """The mean of a posterior; for a flow, what it makes of its base's mean."""
    if isinstance(q, TransformedDistribution):
        centre: Tensor = q.base_dist.mean
        for transform in q.transforms:
            centre = transform(centre)
        return centre
    mean: Tensor = q.mean if isinstance(q, Distribution) else q[0]
    return mean
