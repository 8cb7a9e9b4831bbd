"""M1+M2: the semi-supervised model M2 on the latent variables of a variational autoencoder that saw no labels.

Kingma, Rezende, Mohamed and Welling 2014, "Semi-supervised learning with deep generative models", section 2.3. As in
their code, the features are drawn anew from q(z1|x) each time an image is met.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastvi import ops
from fastvi._labels import UNLABELLED, check_labels, images_and_labels
from fastvi.models.generation import draw_latents
from fastvi.models.likelihoods import REAL_LOGVAR_RANGE
from fastvi.models.posteriors import at_least_float32
from fastvi.models.semi_supervised import SemiSupervisedVAE, errors, over_classes
from fastvi.nn.sequential import read_layers
from fastvi.objectives import Draw
from fastvi.objectives.latent import GaussianPosterior, posterior_of
from fastvi.seeding import mix_seed

_M1_NOISE = 1
"""Counter of `mix_seed` for the noise of z1, beside that of M2."""
LEAST_SPREAD = 0.1
"""A latent dimension of M1 is a feature where the standard deviation of its posterior mean over images is larger."""


class FeatureModel(SemiSupervisedVAE):
    """M2 of z1, with a Gaussian likelihood of those dimensions that are features; the decoder gives no others.

    Attributes
    ----------
    is_feature
        (D,), 1 for a feature and 0 for another dimension.
    """

    def __init__(
        self,
        data_dim: int,
        num_classes: int,
        latent_dim: int,
        hidden_dims: Sequence[int],
        classifier_dims: Sequence[int] | None,
        activation: str,
    ) -> None:
        super().__init__(
            data_dim, num_classes, latent_dim, hidden_dims, classifier_dims, activation, likelihood="real-gaussian"
        )
        self.is_feature: Tensor
        self.register_buffer("is_feature", torch.ones(data_dim))

    def _log_likelihood(self, images: Tensor, codes: Tensor) -> Tensor:
        kept = self.is_feature.nonzero().squeeze(1)
        head: Any = self.decoder[-1]
        rows = torch.cat([kept, kept + self.data_dim])
        weight, bias = head.weight.index_select(0, rows), head.bias.index_select(0, rows)
        layers = read_layers(codes, (self.decoder,), in_autocast=True)
        if layers is None:
            outputs = functional.linear(self.decoder[:-1](codes), weight, bias)
        else:
            weights, biases = [*layers.weights[:-1], weight], [*layers.biases[:-1], bias]
            outputs = ops.mlp(codes, weights, biases, layers.activation)
        mean, logvar = at_least_float32(outputs).chunk(2, -1)
        return ops.normal_log_prob(images.index_select(-1, kept), mean, logvar.clamp(*REAL_LOGVAR_RANGE))

    def decode_parts(self, z: Tensor, labels: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return mean and logvar of p(z1|y, z2), each ``(..., D)``: 0 and 0, the prior, where there is no feature."""
        return tuple(part * self.is_feature for part in super().decode_parts(z, labels))


class StackedVAE(nn.Module):
    """M1+M2: p(y) p(z2) p(z1|y, z2) p(x|z1), of which p(x|z1) and q(z1|x) are a trained M1 and stay as they are.

    Parameters
    ----------
    m1
        A model that was trained without labels and has a Gaussian ``encode``, such as a :class:`fastvi.models.VAE`. A
        copy of it belongs to this model, and gets no gradient.
    num_classes
        C.
    latent_dim, hidden_dims, classifier_dims, activation
        Of M2, see :class:`fastvi.models.SemiSupervisedVAE`: its data are z1, with a Gaussian likelihood.

    Attributes
    ----------
    m1, m2
        The two models.
    is_feature
        (Z1,), 1 for the dimensions of z1 that M2 sees and 0 for the others, which hold 0 for it: see `choose_features`.

    Raises
    ------
    ValueError, TypeError
        If M1 has no Gaussian encoder or no decoder, or takes labels, and what `SemiSupervisedVAE` complains of.

    Examples
    --------
    >>> from fastvi.models import VAE
    >>> model = StackedVAE(VAE(16, latent_dim=4, hidden_dims=(8,)), num_classes=3, latent_dim=2, hidden_dims=(8,))
    >>> model.classify(torch.rand(5, 16).round()).shape
    torch.Size([5])
    """

    uses_labels = True
    takes_missing_labels = True
    draws_score = False

    def __init__(
        self,
        m1: nn.Module,
        num_classes: int,
        latent_dim: int = 50,
        hidden_dims: Sequence[int] = (300,),
        classifier_dims: Sequence[int] | None = None,
        activation: str = "softplus",
    ) -> None:
        super().__init__()
        width = _checked_width(m1)
        self.m1: Any = copy.deepcopy(m1).requires_grad_(False)
        self.m2 = FeatureModel(width, num_classes, latent_dim, hidden_dims, classifier_dims, activation)
        self.num_classes, self.latent_dim = self.m2.num_classes, self.m2.latent_dim

    @property
    def is_feature(self) -> Tensor:
        """Which dimensions of z1 M2 sees."""
        return self.m2.is_feature

    @torch.no_grad()
    def choose_features(self, images: Tensor, least_spread: float = LEAST_SPREAD) -> None:
        """Let M2 see those dimensions of z1 whose posterior mean has a larger standard deviation over the images."""
        if len(images) < 2:
            raise ValueError(f"StackedVAE: images must be two or more for a spread over them, got {len(images)}")
        spread = self._posterior(images).mean.std(0)
        if not bool((spread > least_spread).any()):
            raise ValueError(
                f"StackedVAE: no latent dimension of m1 varies by more than {least_spread} over {len(images)} images: "
                "its posterior has collapsed"
            )
        self.is_feature.copy_(spread > least_spread)

    def features(self, images: Tensor, *, seed: int | None = None, row_offset: int = 0) -> Tensor:
        """Return a draw of z1 of q(z1|x) for each image, ``(B, Z1)``, as M2 sees it."""
        return self._seen(self._posterior(images).rsample(1, seed, row_offset)[0])

    def mean_features(self, images: Tensor) -> Tensor:
        """Return the mean of q(z1|x), ``(B, Z1)``, as M2 sees it."""
        return self._seen(self._posterior(images).mean)

    def at_features(
        self, images: Tensor, *, seed: int | None = None, row_offset: int = 0
    ) -> tuple[SemiSupervisedVAE, Tensor]:
        """Return M2 and a draw of its data: what :class:`fastvi.objectives.SemiSupervised` trains."""
        return self.m2, self.features(images, seed=seed, row_offset=row_offset)

    def log_classifier(self, images: Tensor) -> Tensor:
        """Return log q(y|z1) at the mean of q(z1|x), ``(B, C)``."""
        return self.m2.log_classifier(self.mean_features(images))

    def classify(self, images: Tensor, num_samples: int = 0, seed: int = 0) -> Tensor:
        """Return the likeliest class of each image, int64 ``(B,)``: by q(y|z1), or by L_K of log p(z1, y), K samples.

        z1 is the mean of q(z1|x).
        """
        return self.m2.classify(self.mean_features(images), num_samples, seed)

    def encode(self, x: Any) -> tuple[Tensor, Tensor]:
        """Return (mean, logvar) of q(z2|z1, y), each ``(B, Z)``, at the mean of q(z1|x); labels as those of M2."""
        images, labels = self._parts(x)
        features = self.mean_features(images)
        return self.m2.encode(features if labels is None else (features, labels))

    def draw(
        self,
        x: Any,
        num_samples: int,
        *,
        detach_posterior: bool = False,
        seed: int | None = None,
        row_offset: int = 0,
    ) -> Draw:
        """Draw K samples of q(z1|x) and q(z2|z1, y), and weigh them: see :func:`fastvi.objectives.draw`.

        A weight is p(x|z1) / q(z1|x) times M2's of z1, with the class summed out unless it is given; dimensions of z1
        that are no features have their standard normal prior. ``samples`` are z1, ``(K, B, Z1)``.
        """
        images, labels = self._parts(x)
        q = self._posterior(images)
        z = q.rsample(num_samples, None if seed is None else mix_seed(seed, _M1_NOISE), row_offset)
        noise = self.m2.noise(images.shape[0], num_samples, seed=seed, row_offset=row_offset)
        seen = self._seen(z)
        weights, _ = self.m2.class_weights(seen.flatten(0, 1), noise.flatten(0, 1).unsqueeze(0))
        repeated = None if labels is None else labels.repeat(num_samples)
        of_features = over_classes(weights, repeated).view(num_samples, -1)
        others = (1.0 - self.is_feature).nonzero().squeeze(1)
        of_others = -0.5 * (z.index_select(-1, others).square() + math.log(2.0 * math.pi)).sum(-1)
        likelihood: Tensor = self.m1.log_likelihood(images, z)
        density = q.log_prob_along_path(z) if detach_posterior else q.log_prob(z)
        return Draw(z, likelihood + of_features + of_others - density)

    def without_labels(self, x: Any) -> tuple[Tensor, Tensor]:
        """Return the examples with no label known: what log p(x) is evaluated on."""
        images, _ = self._parts(x)
        return images, torch.full(images.shape[:1], UNLABELLED, dtype=torch.int64, device=images.device)

    def figures(self, x: Any, *, seed: int = 0, row_offset: int = 0) -> dict[str, Tensor]:
        """Return whether q(y|z1) errs, in per cent, (B,): NaN for an example without a label."""
        images, labels = self._parts(x)
        return {} if labels is None else errors(self.classify(images), labels)

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the mean of p(x|z1), ``(..., D)``, at the mean of p(z1|y, z2), for z2 ``(..., Z)``."""
        decoded: Tensor = self.m1.decode(self.m2.decode(z, labels))
        return decoded

    def decode_parts(self, z: Tensor, labels: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the numbers of p(x|z1), each ``(..., D)``, at the mean of p(z1|y, z2); ``z`` and labels as above."""
        parts: tuple[Tensor, ...] = self.m1.decode_parts(self.m2.decode(z, labels))
        return parts

    @property
    def likelihood(self) -> str:
        """The likelihood of M1, by name."""
        return str(self.m1.likelihood)

    def reconstruct(self, x: Any) -> Tensor:
        """Return the mean of p(x|z1), ``(B, D)``, at the means of z2 and z1; labels as in `encode`."""
        images, labels = self._parts(x)
        features = self.mean_features(images)
        through: Tensor = self.m1.decode(self.m2.reconstruct(features if labels is None else (features, labels)))
        return through

    def sample(self, count: int, seed: int | None = None) -> Tensor:
        """Return means of p(x|z1), ``(count, D)``, for z2 of the prior and z1 of p(z1|y, z2); classes take turns."""
        z, labels = draw_latents(self, count, seed)
        decoded: Tensor = self.m1.decode(self.draw_lowest(z, labels, seed))
        return decoded

    def draw_lowest(self, z: Tensor, labels: Tensor | None, seed: int | None = None) -> Tensor:
        """Draw z1 of p(z1|y, z2), ``(B, Z1)``, for z2 ``(B, Z)``; dimensions that are no features are N(0, 1)."""
        mean, logvar = self.m2.decode_parts(z, labels)
        own_seed = None if seed is None else mix_seed(seed, _M1_NOISE)
        return ops.rsample_normal(mean, logvar.clamp(*REAL_LOGVAR_RANGE), (), own_seed)

    def _parts(self, x: Any) -> tuple[Tensor, Tensor | None]:
        """The images and the labels of x, these checked; None where there are none. M1 checks the images."""
        name = type(self).__name__
        images, labels = images_and_labels(name, x)
        if labels is not None:
            check_labels(name, labels, self.num_classes, images, UNLABELLED)
        return images, labels

    def _posterior(self, images: Tensor) -> GaussianPosterior:
        with torch.no_grad():
            q = posterior_of(self.m1, images)
        if not isinstance(q, GaussianPosterior):
            raise _without_gaussian(self.m1)
        return q

    def _seen(self, z: Tensor) -> Tensor:
        return z * self.is_feature


def _checked_width(m1: Any) -> int:
    """The number of latent dimensions of a model that can be M1."""
    lacking = [name for name in ("encode", "log_likelihood", "decode") if not callable(getattr(m1, name, None))]
    width = getattr(m1, "latent_dim", None)
    if lacking or not isinstance(width, int):
        names = ", ".join(lacking) or "latent_dim as a number"
        raise TypeError(f"StackedVAE: m1 must be a model with one vector z, such as a VAE: {_kind(m1)} lacks {names}")
    if getattr(m1, "uses_labels", False) or getattr(m1, "num_classes", None) is not None:
        raise TypeError(f"StackedVAE: m1 must be a model that was trained without labels, got {_kind(m1)}")
    data_dim, first = getattr(m1, "data_dim", None), next(m1.parameters(), None)
    if isinstance(data_dim, int) and first is not None and first.device.type != "meta":
        with torch.no_grad():
            q = posterior_of(m1, first.new_zeros(1, data_dim))
        if not isinstance(q, GaussianPosterior):
            raise _without_gaussian(m1)
    return width


def _without_gaussian(m1: Any) -> TypeError:
    return TypeError(f"StackedVAE: m1 must have a diagonal Gaussian posterior q(z|x), got {_kind(m1)} with another")


def _kind(m1: Any) -> str:
    return f"a {type(m1).__name__}"
