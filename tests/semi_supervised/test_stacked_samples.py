"""Samples of M1+M2 follow its p(x): by quadrature over z1 and z2 of a model whose images can all be counted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from fastvi.evaluate import sample
from fastvi.models import VAE, StackedVAE

CLASSES, NODES, COUNT = 2, 24, 20_000
IMAGES = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)


@pytest.fixture(scope="module")
def model() -> StackedVAE:
    """Of two dimensions of z1, only the first of which M2 sees, with large weights, so that z1 matters."""
    torch.manual_seed(0)
    made = StackedVAE(VAE(3, 2, (6,)), CLASSES, latent_dim=1, hidden_dims=(5,)).double()
    with torch.no_grad():
        for parameter in (*made.m1.decoder.parameters(), *made.m1.likelihood_head.parameters()):
            parameter.mul_(3.0)
    made.is_feature.copy_(torch.tensor([1.0, 0.0]))
    return made


def normal_nodes() -> tuple[Tensor, Tensor]:
    """Nodes and weights of the Gauss-Hermite rule for N(0, 1)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return torch.tensor(nodes), torch.tensor(weights / weights.sum())


@torch.no_grad()
def exact(model: StackedVAE, with_noise: bool = True) -> Tensor:
    """P(x) of each image; without the noise of z1 that of z1 at the mean of p(z1|y, z2)."""
    nodes, weights = normal_nodes()
    found = torch.zeros(len(IMAGES), dtype=torch.float64)
    for label in range(CLASSES):
        mean, logvar = model.m2.decode_parts(nodes[:, None], torch.full((NODES,), label))
        noise = torch.cartesian_prod(nodes, nodes) if with_noise else torch.zeros(1, 2, dtype=torch.float64)
        of_noise = torch.cartesian_prod(weights, weights).prod(1) if with_noise else torch.ones(1, dtype=torch.float64)
        z = mean[:, None] + (0.5 * logvar[:, None]).exp() * noise  # (nodes of z2, nodes of z1, 2)
        (logits,) = model.m1.decode_parts(z)
        probability = torch.sigmoid(logits)[..., None, :]
        of_image = torch.where(IMAGES > 0.5, probability, 1.0 - probability).prod(-1)
        found += torch.einsum("a,b,abi->i", weights, of_noise, of_image) / CLASSES
    return found


def numbers_of(x: Tensor) -> Tensor:
    return (x.double() @ torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)).long()


def test_draws_follow_the_model(model: StackedVAE) -> None:
    wanted = exact(model)
    assert wanted.sum() == pytest.approx(1.0, abs=1e-9)
    assert (wanted - exact(model, with_noise=False)).abs().sum() > 0.2  # so that leaving out the noise would show
    counts = numbers_of(sample(model, COUNT, seed=1).x).bincount(minlength=len(IMAGES))
    chi_squared = ((counts - COUNT * wanted).square() / (COUNT * wanted)).sum()
    assert chi_squared < 24.3  # 7 degrees of freedom: passed by chance once in a thousand seeds


@pytest.mark.parametrize("way", ["evaluate", "model"])
def test_means_are_of_the_same_z1(model: StackedVAE, way: str) -> None:
    with torch.no_grad():
        means = sample(model, COUNT, mean=True, seed=2).x if way == "evaluate" else model.sample(COUNT, seed=2)
    wanted = (exact(model)[:, None] * IMAGES).sum(0)
    torch.testing.assert_close(means.mean(0), wanted, rtol=0.0, atol=4.5 * 0.5 / COUNT**0.5)  # a mean varies by < 1/2
    assert means.var(0).min() > 1e-3


def test_dimensions_that_are_no_features_are_standard_normal(model: StackedVAE) -> None:
    z, labels = torch.full((COUNT, 1), 0.3, dtype=torch.float64), torch.ones(COUNT, dtype=torch.int64)
    with torch.no_grad():
        mean, logvar = model.m2.decode_parts(z[:1], labels[:1])
        z1 = model.draw_lowest(z, labels, seed=3)
    assert mean[0, 1] == 0.0
    assert logvar[0, 1] == 0.0
    units = (z1 - mean) / (0.5 * logvar).exp()
    torch.testing.assert_close(units.mean(0), torch.zeros(2, dtype=torch.float64), rtol=0.0, atol=4.5 / COUNT**0.5)
    torch.testing.assert_close(
        units.T.cov(), torch.eye(2, dtype=torch.float64), rtol=0.0, atol=4.5 * (2 / COUNT) ** 0.5
    )
    assert torch.equal(z1, model.draw_lowest(z, labels, seed=3))
    assert not torch.equal(z1, model.draw_lowest(z, labels, seed=4))
