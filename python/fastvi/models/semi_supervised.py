"""The generative semi-supervised model M2: a variational autoencoder whose class is seen for a few examples only.

Kingma, Rezende, Mohamed and Welling 2014, "Semi-supervised learning with deep generative models", sections 2.2 and 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastvi import ops
from fastvi._labels import UNLABELLED, check_labels, images_and_labels
from fastvi._options import check_count, check_sizes
from fastvi.models._checks import check_codes, check_images
from fastvi.models.generation import draw_latents
from fastvi.models.likelihoods import LIKELIHOODS
from fastvi.models.posteriors import at_least_float32
from fastvi.models.vae import ACTIVATIONS, _glorot_linear, _perceptron
from fastvi.nn.layers import run_layers
from fastvi.nn.sequential import read_layers
from fastvi.objectives import Draw
from fastvi.ops._values import describe_range, range_outside_unit_interval, values_at_hand
from fastvi.seeding import mix_seed

_SAMPLES_AT_A_TIME = 64


class SemiSupervisedVAE(nn.Module):
    """p(x, y, z) = p(y) p(z) p(x|y, z), with q(y, z|x) = q(y|x) q(z|x, y): the model M2.

    p(y) is uniform, p(z) standard normal, q(y|x) a classifier, q(z|x, y) a diagonal Gaussian. It takes for x images
    (B, D), or the pair of them and labels (B,), in which -1 stands for a label that is not known.

    Parameters
    ----------
    data_dim
        D, the number of values of one example.
    num_classes
        C.
    latent_dim
        Z, the number of latent dimensions beside the class.
    hidden_dims
        Widths of the encoder's hidden layers, from the data to the latent side; the decoder mirrors them.
    classifier_dims
        Those of the classifier; None: ``hidden_dims``.
    activation, likelihood, data_mean
        See :class:`fastvi.models.VAE`; ``"real-gaussian"`` with a learned variance is for features, such as those of
        another autoencoder (M1+M2).
    validate_args
        Look whether x is in [0, 1] each time a Bernoulli likelihood is asked for.

    Raises
    ------
    ValueError, TypeError
        For a size that is not a positive integer or an unknown name; from its methods for data or labels of another
        type, shape or range.

    Examples
    --------
    >>> model = SemiSupervisedVAE(16, num_classes=3, latent_dim=2, hidden_dims=(8,))
    >>> x = torch.rand(5, 16).round()
    >>> model.log_classifier(x).exp().sum(-1).allclose(torch.ones(5))
    True
    >>> model.label_bounds(x, model.noise(5, seed=0)).shape
    torch.Size([3, 5])
    >>> model.decode(torch.zeros(3, 2), torch.arange(3)).shape
    torch.Size([3, 16])
    """

    uses_labels = True
    takes_missing_labels = True
    default_objective = "semi-supervised"
    draws_score = False

    def __init__(
        self,
        data_dim: int,
        num_classes: int,
        latent_dim: int = 50,
        hidden_dims: Sequence[int] = (500,),
        classifier_dims: Sequence[int] | None = None,
        activation: str = "softplus",
        likelihood: str = "bernoulli",
        data_mean: Tensor | None = None,
        validate_args: bool = True,
    ) -> None:
        super().__init__()
        own = type(self).__name__
        data_dim, num_classes = check_count(own, "data_dim", data_dim), check_count(own, "num_classes", num_classes)
        latent_dim = check_count(own, "latent_dim", latent_dim)
        hidden_dims = _widths(own, "hidden_dims", hidden_dims)
        classifier_dims = hidden_dims if classifier_dims is None else _widths(own, "classifier_dims", classifier_dims)
        for name, value, known in (("activation", activation, ACTIVATIONS), ("likelihood", likelihood, LIKELIHOODS)):
            if value not in known:
                raise ValueError(f"{own}: {name} must be one of {', '.join(known)}, got {value!r}")
        if data_mean is not None and data_mean.shape != (data_dim,):
            raise ValueError(f"{own}: data_mean must have the shape ({data_dim},), got {tuple(data_mean.shape)}")
        self.data_dim, self.num_classes, self.latent_dim = data_dim, num_classes, latent_dim
        self.likelihood, self.validate_args = likelihood, validate_args
        widths = tuple(reversed(hidden_dims))
        self.classifier = nn.Sequential(
            *_perceptron((data_dim, *classifier_dims), activation), _glorot_linear(classifier_dims[-1], num_classes)
        )
        # The first layer of the encoder, in its two parts: that of x is the same for all classes.
        joint = _glorot_linear(data_dim + num_classes, hidden_dims[0])
        self.encoder_input = nn.Linear(data_dim, hidden_dims[0])
        self.encoder_label = nn.Parameter(joint.weight.detach()[:, data_dim:].t().clone())
        with torch.no_grad():
            self.encoder_input.weight.copy_(joint.weight[:, :data_dim])
            self.encoder_input.bias.zero_()
        self.encoder_activation = ACTIVATIONS[activation]()
        self.encoder = nn.Sequential(
            *_perceptron(hidden_dims, activation), _glorot_linear(hidden_dims[-1], latent_dim, parts=2)
        )
        output = _glorot_linear(hidden_dims[0], data_dim, LIKELIHOODS[likelihood].parts)
        if data_mean is not None:
            with torch.no_grad():
                output.bias[:data_dim] = LIKELIHOODS[likelihood].start(data_mean)
        self.decoder = nn.Sequential(*_perceptron((latent_dim + num_classes, *widths), activation), output)

    @property
    def log_label_prior(self) -> float:
        """Log p(y), the same for each class."""
        return -math.log(self.num_classes)

    def log_classifier(self, images: Tensor) -> Tensor:
        """Return log q(y|x), ``(B, C)``, for ``images`` of shape ``(B, D)``."""
        self._check_images(images)
        return functional.log_softmax(at_least_float32(run_network(self.classifier, images)), -1)

    def classify(self, images: Tensor, num_samples: int = 0, seed: int = 0) -> Tensor:
        """Return the likeliest class of each image, int64 of shape ``(B,)``.

        Parameters
        ----------
        images
            Shape (B, D).
        num_samples
            0: the class with the largest q(y|x). K of 1 or more: that with the largest L_K of log p(x, y), the
            generative classification.
        seed
            Of the samples.
        """
        if num_samples == 0:
            return self.log_classifier(images).argmax(-1)
        return self.log_joint(images, num_samples, seed=seed).argmax(0)

    def log_joint(self, images: Tensor, num_samples: int, seed: int | None = None, row_offset: int = 0) -> Tensor:
        """Return L_K of log p(x, y) for each class, ``(C, B)``, in nats, by K samples of q(z|x, y)."""
        num_samples = check_count(type(self).__name__, "num_samples", num_samples)
        running = ops.LogMeanExp()
        for start in range(0, num_samples, _SAMPLES_AT_A_TIME):
            samples = min(_SAMPLES_AT_A_TIME, num_samples - start)
            chunk_seed = seed if start == 0 or seed is None else mix_seed(seed, start)
            noise = self.noise(images.shape[0], samples, seed=chunk_seed, row_offset=row_offset)
            running.update(self.class_weights(images, noise)[0])
        return running.value

    def noise(self, count: int, num_samples: int = 1, *, seed: int | None = None, row_offset: int = 0) -> Tensor:
        """Return standard normal numbers for z, ``(S, count, Z)``; see :func:`fastvi.rsample_normal` for the seed."""
        zeros = self.encoder_label.new_zeros(()).expand(count, self.latent_dim)
        return ops.rsample_normal(zeros, zeros, (num_samples,), seed, row_offset)

    def label_bounds(self, images: Tensor, noise: Tensor) -> Tensor:
        """Return L(x, y), the evidence lower bound of log p(x, y), for each class: ``(C, B)``, in nats.

        All classes go through the decoder in one call of (S C, B) rows, and share the ``noise`` of an example,
        ``(S, B, Z)``.
        """
        mean, logvar = self.encode_classes(images)
        z = _along(mean, logvar, noise.unsqueeze(1))
        codes = torch.cat([z, self._one_hot(z, None)], -1).flatten(0, 1)
        found = self._log_likelihood(images, codes).unflatten(0, (-1, self.num_classes)).mean(0)
        bounds: Tensor = found - ops.kl_normal(mean, logvar) + self.log_label_prior
        return bounds

    def bound_of_labels(self, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """Return L(x, y) of the labels that are given, ``(B,)``: what `label_bounds` has for them, but for rounding."""
        check_labels(type(self).__name__, labels, self.num_classes, images)
        mean, logvar = self._posterior(images, labels)
        z = _along(mean, logvar, noise)
        codes = torch.cat([z, self._one_hot(z, labels)], -1)
        found = self._log_likelihood(images, codes).mean(0)
        return found - ops.kl_normal(mean, logvar) + self.log_label_prior

    def class_weights(self, images: Tensor, noise: Tensor, *, detach_posterior: bool = False) -> tuple[Tensor, Tensor]:
        """Return log p(x, y, z) - log q(z|x, y) of each class, ``(S, C, B)``, and z, ``(S, C, B, Z)``."""
        mean, logvar = self.encode_classes(images)
        z = _along(mean, logvar, noise.unsqueeze(1))
        codes = torch.cat([z, self._one_hot(z, None)], -1).flatten(0, 1)
        log_likelihood = self._log_likelihood(images, codes).unflatten(0, (-1, self.num_classes))
        zeros = z.new_zeros(z.shape[-1:])
        if detach_posterior:
            mean, logvar = mean.detach(), logvar.detach()
        log_ratio = ops.normal_log_prob(z, zeros, zeros) - ops.normal_log_prob(z, mean, logvar)
        return log_likelihood + log_ratio + self.log_label_prior, z

    def encode_classes(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return (mean, logvar) of q(z|x, y) for each class, each ``(C, B, Z)``."""
        self._check_images(images)
        return self._encoded(self.encoder_input(images).unsqueeze(0) + self.encoder_label.unsqueeze(1))

    def encode(self, x: Any) -> tuple[Tensor, Tensor]:
        """Return (mean, logvar) of q(z|x, y), each ``(B, Z)``; where the label is not known, of the likeliest class."""
        images, labels = self.parts(x)
        return self._posterior(images, self.completed(images, labels))

    def log_likelihood(self, x: Any, z: Tensor) -> Tensor:
        """Return log p(x|y, z) in nats, ``(K, B)``, for z of shape ``(K, B, Z)``; labels as in `encode`."""
        images, labels = self.parts(x)
        self._check_codes(z)
        labels = self.completed(images, labels)
        return self._log_likelihood(images, torch.cat([z, self._one_hot(z, labels)], -1))

    def draw(
        self,
        x: Any,
        num_samples: int,
        *,
        detach_posterior: bool = False,
        seed: int | None = None,
        row_offset: int = 0,
    ) -> Draw:
        """Draw K samples of q(z|x, y) for each class, and weigh them: see :func:`fastvi.objectives.draw`.

        The class is summed out: the weight of the k-th is sum_y p(y) p(z_ky) p(x|y, z_ky) / q(z_ky|x, y), whose
        expectation is p(x). Of an example with a label it is the summand of that label, and its expectation p(x, y).
        ``samples`` are those of all classes side by side, ``(K, B, C Z)``.
        """
        images, labels = self.parts(x)
        noise = self.noise(images.shape[0], num_samples, seed=seed, row_offset=row_offset)
        weights, z = self.class_weights(images, noise, detach_posterior=detach_posterior)
        return Draw(z.movedim(1, -2).flatten(-2), over_classes(weights, labels))

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the mean of p(x|y, z), ``(..., D)``, for ``z`` of shape ``(..., Z)`` and labels ``(...)``."""
        return LIKELIHOODS[self.likelihood].mean(self.decode_parts(z, labels))

    def decode_parts(self, z: Tensor, labels: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the numbers of p(x|y, z), each ``(..., D)``: what its `fastvi.models.Likelihood` calls parts."""
        if labels is None:
            raise TypeError(f"{type(self).__name__}: decode needs the labels of z")
        self._check_codes(z, labels)
        outputs = run_network(self.decoder, torch.cat([z, self._one_hot(z, labels)], -1))
        return LIKELIHOODS[self.likelihood].split(at_least_float32(outputs))

    def reconstruct(self, x: Any) -> Tensor:
        """Return the mean of p(x|y, z), ``(B, D)``, at the mean of q(z|x, y); labels as in `encode`."""
        images, labels = self.parts(x)
        labels = self.completed(images, labels)
        return self.decode(self._posterior(images, labels)[0], labels)

    def sample(self, count: int, seed: int | None = None) -> Tensor:
        """Return means of p(x|y, z), ``(count, D)``, for z of the prior; classes take turns."""
        return self.decode(*draw_latents(self, count, seed))

    def without_labels(self, x: Any) -> tuple[Tensor, Tensor]:
        """Return the examples with no label known: what log p(x) is evaluated on."""
        images, _ = self.parts(x)
        return images, torch.full(images.shape[:1], UNLABELLED, dtype=torch.int64, device=images.device)

    def figures(self, x: Any, *, seed: int = 0, row_offset: int = 0) -> dict[str, Tensor]:
        """Return whether q(y|x) errs, in per cent, (B,): NaN for an example without a label; nothing without labels."""
        images, labels = self.parts(x)
        return {} if labels is None else errors(self.classify(images), labels)

    def parts(self, x: Any) -> tuple[Tensor, Tensor | None]:
        """Return the images and the labels of x, checked; None where there are no labels.

        Raises
        ------
        TypeError, ValueError
            If they are of another type, shape or range.
        """
        name = type(self).__name__
        images, labels = images_and_labels(name, x)
        self._check_images(images)
        if labels is not None:
            check_labels(name, labels, self.num_classes, images, UNLABELLED)
        return images, labels

    def completed(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return the labels, with the likeliest class where one is not known."""
        if labels is not None and bool((labels >= 0).all()):
            return labels
        with torch.no_grad():
            likeliest = self.classify(images)
        return likeliest if labels is None else torch.where(labels >= 0, labels, likeliest)

    def _posterior(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return self._encoded(self.encoder_input(images) + self.encoder_label.index_select(0, labels))

    def _encoded(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logvar from what the first layer gives before its activation."""
        mean, logvar = at_least_float32(run_network(self.encoder, self.encoder_activation(first))).chunk(2, -1)
        return mean, logvar

    def _log_likelihood(self, images: Tensor, codes: Tensor) -> Tensor:
        """Log p(x|y, z), ``(K, B)``, for z with the classes behind it as 0 and 1, ``(K, B, Z + C)``."""
        layers = read_layers(codes, (self.decoder,), in_autocast=True)
        if self.likelihood != "bernoulli":
            outputs = self.decoder(codes) if layers is None else run_layers(codes, layers)
            likelihood = LIKELIHOODS[self.likelihood]
            return likelihood.log_prob(images, likelihood.split(at_least_float32(outputs)), self.validate_args)
        if (
            self.validate_args
            and values_at_hand(images)
            and (bounds := range_outside_unit_interval(images)) is not None
        ):
            raise ValueError(
                f"{type(self).__name__}: a Bernoulli likelihood needs x in [0, 1], got {describe_range(bounds)}"
            )
        if layers is not None and not layers.activate_last:
            return ops.mlp_bernoulli_log_prob(codes, layers.weights, layers.biases, images, layers.activation)
        return ops.bernoulli_log_prob(images, at_least_float32(self.decoder(codes)))

    def _one_hot(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Classes as 0 and 1, ``(..., C)`` for z ``(..., Z)``: the given ones, or the axis before the last but one."""
        if labels is None:
            indicators = torch.eye(self.num_classes, dtype=z.dtype, device=z.device).unsqueeze(1)
        else:
            check_labels(type(self).__name__, labels, self.num_classes)
            indicators = functional.one_hot(labels, self.num_classes).to(z.dtype)
        return indicators.expand(*z.shape[:-1], self.num_classes)

    def _check_codes(self, z: Any, labels: Any = None) -> None:
        check_codes(type(self).__name__, z, self.latent_dim, self.encoder_label.dtype, labels)

    def _check_images(self, images: Any) -> None:
        check_images(type(self).__name__, images, self.data_dim, self.encoder_label.dtype)


def over_classes(weights: Tensor, labels: Tensor | None) -> Tensor:
    """Return the log weights (S, C, B) with the class summed out, (S, B): that of its label for an example with one."""
    total = torch.logsumexp(weights, 1)
    if labels is None:
        return total
    chosen = labels.clamp_min(0).expand(weights.shape[0], 1, -1)
    return torch.where(labels >= 0, weights.gather(1, chosen).squeeze(1), total)


def errors(classes: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return as a figure whether classes are other than the labels, in per cent, (B,): NaN where there is no label."""
    return {"error": (100.0 * (classes != labels)).masked_fill(labels < 0, math.nan)}


def _widths(owner: str, name: str, values: Sequence[int]) -> tuple[int, ...]:
    widths = tuple(check_count(owner, name, value) for value in check_sizes(owner, name, values))
    if not widths:
        raise ValueError(f"{owner}: {name} must be one width or more, got ()")
    return widths


def _along(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    return torch.addcmul(mean, torch.exp(0.5 * logvar), noise)


def run_network(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Return what the layers give, by one operation where they can be."""
    found = read_layers(x, (layers,), in_autocast=True)
    return layers(x) if found is None else run_layers(x, found)
