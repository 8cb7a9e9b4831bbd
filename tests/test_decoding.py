"""Planes, styles and analogies: by decoders whose every value is known, and of the models of fastvi."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, TransformedDistribution
from torch.distributions.transforms import AffineTransform

import fastvi
from fastvi.data import load_dataset
from fastvi.evaluate import analogies, manifold, sample, styles
from fastvi.models import VAE, DataShape, HamiltonianPosterior, MixturePrior, make_model_options
from support.known_decoder import CENTRES, IMAGES, LABELS, LOGVARS, KnownDecoder, OfClasses, expected_analogies, plane


def close(found: Any, expected: Any, atol: float = 1e-9) -> None:
    """Float64 through a distribution function and its inverse, of values between 0 and 1."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


# The plane


def test_each_cell_of_the_plane_has_the_same_probability() -> None:
    for label in range(3):
        found = manifold(KnownDecoder(), 5, label=label)
        close(found[:, 1:3], plane(5))
        close(found[:, 0], torch.full((25,), label / 3.0, dtype=torch.float64), atol=1e-7)  # labels / 3.0 is of float32


def test_the_plane_is_that_of_the_prior_of_the_class() -> None:
    close(manifold(OfClasses(), 4, label=2)[:, 1:3], plane(4))
    with pytest.raises(TypeError, match="manifold: the prior of OfClasses is no Gaussian, whose"):
        manifold(OfClasses(as_distribution=True), label=0)


def test_a_prior_that_is_a_diagonal_gaussian_distribution_has_a_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = OfClasses.conditional_prior

    def as_normal(self: OfClasses, x: Any) -> Distribution:
        mean, logvar = pair(self, x)
        return Independent(Normal(mean, (0.5 * logvar).exp()), 1)

    monkeypatch.setattr(OfClasses, "conditional_prior", as_normal)
    close(manifold(OfClasses(), 4, label=1)[:, 1:3], plane(4))


def test_the_plane_of_a_learned_gaussian_prior() -> None:
    model = VAE(3, 2, (4,)).double()
    model.prior_mean, model.prior_logvar = CENTRES[0], LOGVARS[0]
    z = Normal(CENTRES[0], (0.5 * LOGVARS[0]).exp()).icdf(plane(3))
    expected = model.decode(z).detach()
    close(manifold(model, 3), expected)
    close(manifold(HamiltonianPosterior(model, 2), 3), expected)


def test_one_cell_is_the_centre() -> None:
    close(manifold(KnownDecoder(), 1, label=0)[:, 1:3], [[0.5, 0.5]])


# Styles


def test_styles_are_shared_by_the_classes() -> None:
    found = styles(KnownDecoder(), num_styles=5, seed=4)
    assert found.shape == (3, 5, 4)
    zeros = torch.zeros(5, 2, dtype=torch.float64)
    z = fastvi.rsample_normal(zeros, zeros, (), 4)
    for label in range(3):
        close(found[label, :, 1:3], torch.special.ndtr(z))
        close(found[label, :, 0], [label / 3.0] * 5, atol=1e-7)
    assert not torch.equal(styles(KnownDecoder(), num_styles=5, seed=5), found)
    close(styles(KnownDecoder(), [2, 0], num_styles=5, seed=4), found[[2, 0]], atol=0.0)


@pytest.mark.parametrize("as_distribution", [False, True])
def test_noise_is_shared_through_the_prior_of_each_class(as_distribution: bool) -> None:
    """A distribution of full covariance takes the noise that a diagonal one takes."""
    model = OfClasses(as_distribution)
    close(styles(model, num_styles=4, seed=3), styles(KnownDecoder(), num_styles=4, seed=3))


def test_styles_of_a_mixture_are_drawn_from_it() -> None:
    model = KnownDecoder()
    model.log_prior = MixturePrior(3, 2).double()
    z = model.log_prior.sample(6, 2).detach()
    for row in styles(model, num_styles=6, seed=2):
        close(row[:, 1:3], torch.special.ndtr(z))


def test_styles_of_one_class_and_of_more_than_a_batch() -> None:
    assert styles(KnownDecoder(num_classes=1), num_styles=300).shape == (1, 300, 4)


def test_samples_of_a_class_follow_its_prior() -> None:
    """The distribution function of standard normal noise is uniform: its mean within five standard errors."""
    model = OfClasses()
    model.log_likelihood = lambda x, z: z.sum(-1)  # that there is a bound
    drawn = sample(model, 4000, mean=True, label=1)
    assert drawn.labels is not None
    assert bool((drawn.labels == 1).all())
    assert bool(((drawn.x[:, 1:3].mean(0) - 0.5).abs() < 5.0 / (12.0 * 4000) ** 0.5).all())


# Analogies


def as_pair(mean: Tensor) -> Any:
    return mean, torch.zeros_like(mean)


def as_distribution(mean: Tensor) -> Any:
    return MultivariateNormal(mean, torch.eye(2, dtype=torch.float64))


def as_flow(mean: Tensor) -> Any:
    """2 u - 6 at the base's mean u = mean / 2 + 3."""
    return TransformedDistribution(Independent(Normal(mean / 2.0 + 3.0, 1.0), 1), AffineTransform(-6.0, 2.0))


@pytest.mark.parametrize("count", [1, 4, 130])  # a batch is 128
@pytest.mark.parametrize("kind", [as_pair, as_distribution, as_flow])
def test_analogies_are_decoded_at_the_mean_of_the_own_class(kind: Any, count: int) -> None:
    model = KnownDecoder()
    pair = model.encode
    model.encode = lambda x: kind(pair(x)[0])  # type: ignore[method-assign]
    images = torch.rand(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % 3
    found = analogies(model, images, labels)
    close(found, expected_analogies(images, labels), atol=1e-7)  # labels / 3.0 is of float32
    close(analogies(model, images, labels, classes=[2]), found[:, [0, 3]], atol=0.0)


@pytest.mark.parametrize("prior", ["standard", "labels", "mixture"])
@pytest.mark.parametrize("posterior", ["diagonal", "full", "flow"])
def test_the_conditional_model_reconstructs_its_image_at_the_own_class(posterior: str, prior: str) -> None:
    options = {"latent_dim": 2, "hidden_dims": (8,), "posterior": posterior, "prior": prior, "prior_components": 4}
    torch.manual_seed(0)
    model = make_model_options("conditional-vae", **options).build(DataShape((8, 8), 10))
    data = load_dataset("digits")
    assert data.test_labels is not None
    images, labels = data.test[:6].round(), data.test_labels[:6]
    found = analogies(model, images, labels)
    torch.testing.assert_close(found[:, 0], images, rtol=0, atol=0)
    with torch.no_grad():
        reconstructions = model.reconstruct((images, labels))
    # Products of float32 in batches of other rows.
    torch.testing.assert_close(found[torch.arange(6), 1 + labels], reconstructions, rtol=1e-5, atol=1e-6)
    assert styles(model, [4]).shape == (1, 12, 64)
    if prior != "mixture":
        assert manifold(model, 3, label=9).shape == (9, 64)


# Mistakes


class WithoutMean(Distribution):
    def __init__(self) -> None:
        super().__init__(torch.Size([1]), torch.Size([2]), validate_args=False)

    @property
    def mean(self) -> Tensor:
        raise NotImplementedError


def of_no_mean() -> KnownDecoder:
    model = KnownDecoder()
    model.encode = lambda x: WithoutMean()  # type: ignore[method-assign]
    return model


def of_undrawable_prior() -> KnownDecoder:
    model = KnownDecoder()
    model.log_prior = lambda z: z.sum(-1)
    return model


def of_unseeded_prior() -> OfClasses:
    model = OfClasses()
    model.conditional_prior = lambda x: torch.distributions.Dirichlet(CENTRES[x[1]].exp())  # type: ignore[method-assign]
    return model


PLAIN = VAE(4, 2, (4,))
KNOWN = KnownDecoder()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: manifold(KNOWN), TypeError, "manifold: KnownDecoder is a model of classes: say which by label"),
        (lambda: manifold(KNOWN, label=3), ValueError, "manifold: `label` must be from 0 to 2, got 3"),
        (lambda: manifold(KNOWN, label=1.0), TypeError, "manifold: label must be an int, got float"),  # type: ignore[arg-type]
        (lambda: manifold(KNOWN, 0, label=1), ValueError, "manifold: columns must be at least 1, got 0"),
        (lambda: manifold(VAE(4, 3, (4,))), ValueError, "manifold: needs 2 latent dimensions, VAE has 3"),
        (lambda: manifold(nn.Linear(2, 2)), TypeError, "manifold: Linear has no decode(z) with latent_dim"),
        (lambda: manifold(PLAIN, label=0), TypeError, "`label` is for models of classes, and VAE has none"),
        (lambda: styles(PLAIN), TypeError, "styles: VAE is no model of classes: it needs num_classes"),
        (lambda: styles(KNOWN, [-1]), ValueError, "styles: `label` must be from 0 to 2, got -1"),
        (lambda: styles(KNOWN, []), ValueError, "styles: expected one class or more, got none"),
        (lambda: styles(KNOWN, num_styles=0), ValueError, "styles: num_styles must be at least 1, got 0"),
        (lambda: styles(KNOWN, seed=-1), ValueError, "styles: seed is -1, expected a number in"),
        (lambda: styles(of_undrawable_prior()), TypeError, "KnownDecoder.log_prior cannot be drawn from: it has no"),
        (lambda: styles(of_unseeded_prior()), TypeError, "OfClasses.conditional_prior cannot be drawn from: "),
        (lambda: analogies(KNOWN, IMAGES, LABELS[:2]), ValueError, "analogies: images are 3, and labels are 2"),
        (lambda: analogies(KNOWN, IMAGES[:0], LABELS[:0]), ValueError, "analogies: images holds no example"),
        (lambda: analogies(KNOWN, IMAGES, None), TypeError, "analogies: labels holds no tensor"),  # type: ignore[arg-type]
        (lambda: analogies(PLAIN, IMAGES, LABELS), TypeError, "analogies: VAE is no model of classes"),
        (lambda: analogies(of_no_mean(), IMAGES, LABELS), TypeError, "WithoutMean of KnownDecoder.encode has no mean"),
        (lambda: sample(PLAIN, 2, label=1), TypeError, "`label` is for models of classes, and VAE has none"),
    ],
)
def test_mistakes(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        call()
    assert message in str(raised.value)
