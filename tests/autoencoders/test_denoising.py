"""The denoising autoencoder: on a Gaussian the best linear one's field is the score, in closed form."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.distributions import MultivariateNormal

from fastvi.autoencoders import DenoisingAutoencoder, corrupt
from fastvi.evaluate import evaluate_loss
from fastvi.objectives import Reconstruction
from fastvi.seeding import mix_seed

SIGMA = 0.6
MEAN = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
FACTOR = torch.tensor([[1.5, 0.0, 0.0], [0.4, 0.8, 0.0], [-0.7, 0.3, 0.5]], dtype=torch.float64)
COVARIANCE = FACTOR @ FACTOR.T


def best_linear():
    """The mean of x given x with noise is linear: S (S + sigma^2)^-1 (x - m) + m."""
    smoothed = COVARIANCE + SIGMA**2 * torch.eye(3, dtype=torch.float64)
    gain = COVARIANCE @ torch.linalg.inv(smoothed)
    torch.manual_seed(0)
    model = DenoisingAutoencoder(
        3, 3, code_activation="linear", error="squared", tied=False, corruption="gaussian", corruption_level=SIGMA
    ).double()
    with torch.no_grad():
        model.encoder[0].weight.copy_(gain)
        model.encoder[0].bias.zero_()
        model.head.weight.copy_(torch.eye(3))
        model.head.bias.copy_(MEAN - gain @ MEAN)
    return model, smoothed


def expected_loss(model):
    """The loss's mean over data and noise: for a linear model that of points with the same means and covariances."""
    directions = torch.cat([torch.eye(3), -torch.eye(3)]).double() * 3**0.5
    pairs = list(itertools.product(directions, directions))
    x = torch.stack([MEAN + FACTOR @ first for first, _ in pairs])
    noisy = x + SIGMA * torch.stack([second for _, second in pairs])
    return model.reconstruction_error(x, model.code(noisy)).mean()


def test_the_field_of_the_best_one_is_the_score():
    model, smoothed = best_linear()
    x = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).mul(3).requires_grad_()
    (score,) = torch.autograd.grad(MultivariateNormal(MEAN, smoothed).log_prob(x).sum(), x)
    torch.testing.assert_close(model.score(x).detach(), score, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close((model.reconstruct(x) - x) / SIGMA**2, model.score(x))


def test_it_is_where_the_gradient_vanishes():
    model, smoothed = best_linear()
    best = expected_loss(model)
    for gradient in torch.autograd.grad(best, list(model.parameters())):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-10)
    # The least possible loss is the trace of the covariance of x given x with noise.
    posterior = COVARIANCE - COVARIANCE @ torch.linalg.inv(smoothed) @ COVARIANCE
    torch.testing.assert_close(best.detach(), posterior.trace(), rtol=1e-10, atol=0)
    with torch.no_grad():
        model.encoder[0].weight.add_(0.01 * torch.eye(3))
    assert expected_loss(model) > best


def test_steps_of_the_loss_lead_there():
    """From random weights, down the mean loss, with Newton's steps of L-BFGS."""
    model, _ = best_linear()
    torch.manual_seed(1)
    start = DenoisingAutoencoder(
        3, 3, code_activation="linear", error="squared", tied=False, corruption="gaussian", corruption_level=SIGMA
    ).double()
    optimizer = torch.optim.LBFGS(
        start.parameters(), max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = expected_loss(start)
        loss.backward()
        return loss

    optimizer.step(closure)
    x = torch.randn(10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(start.score(x), model.score(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["gaussian", "masking", "salt-and-pepper"])
def test_loss_is_that_of_the_noisy_input(kind):
    torch.manual_seed(0)
    model = DenoisingAutoencoder(6, 4, error="squared", corruption=kind, corruption_level=0.3)
    x = torch.rand(8, 6)
    noisy = corrupt(x, kind, 0.3, seed=9)
    assert torch.equal(model.corrupt(x, seed=9), noisy)
    expected = (model.reconstruct(noisy) - x).square().sum(1)
    torch.testing.assert_close(model.loss(x, seed=9), expected)
    figures = model.figures(x, seed=9)
    torch.testing.assert_close(figures["squared error denoised"], expected)
    torch.testing.assert_close(figures["squared error with noise"], (noisy - x).square().sum(1))
    torch.testing.assert_close(figures["squared error"], (model.reconstruct(x) - x).square().sum(1))


def test_evaluation_is_the_mean_over_all_images():
    """In batches, each image with the noise of its place: as in one."""
    torch.manual_seed(0)
    model, x = DenoisingAutoencoder(6, 4), torch.rand(300, 6)
    found = evaluate_loss(Reconstruction(), model, x, seed=5)
    place = {"seed": mix_seed(5, 0)}
    assert found.loss == pytest.approx(model.loss(x, **place).mean().item(), rel=1e-5)
    expected = {name: values.mean().item() for name, values in model.figures(x, **place).items()}
    assert found.figures == pytest.approx(expected, rel=1e-5)
    assert found.as_dict()["figures"] == found.figures


@pytest.mark.parametrize("make_call", [
    (lambda: DenoisingAutoencoder(3, corruption="masking").score(torch.zeros(1, 3)), "score needs Gaussian noise of"),
    (lambda: DenoisingAutoencoder(3, corruption="gaussian", corruption_level=0.0).score(torch.zeros(1, 3)),
     "of a positive level, and the corruption is gaussian of level 0.0"),
    (lambda: DenoisingAutoencoder(3, corruption_level=1.5), "corruption_level must be a probability, at most 1"),
    (lambda: DenoisingAutoencoder(3, corruption="dust"), "DenoisingAutoencoder: corruption must be one of gaussian"),
], ids=["masking", "no noise", "share", "kind"])  # fmt: skip
def test_refusals(make_call):
    call, words = make_call
    with pytest.raises(ValueError, match=words):
        call()
