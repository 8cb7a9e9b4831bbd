"""Score and distance of a reconstruction against closed forms, and the example of a spiral."""

from __future__ import annotations

import sys

import pytest
import torch
from matplotlib.image import imread
from sklearn.decomposition import PCA

from fastvi.autoencoders import Autoencoder, DenoisingAutoencoder, denoising_score, reconstruction_distance
from support.scripts import load_script


@pytest.fixture
def gaussian():
    """Mean and covariance of a Gaussian, and points to look at."""
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    mean = torch.randn(4, dtype=torch.float64, generator=generator)
    return mean, factor @ factor.T + 0.1 * torch.eye(4), torch.randn(9, 4, dtype=torch.float64, generator=generator)


def test_best_linear_denoiser_has_the_score_of_a_gaussian(gaussian):
    """E[x | x + noise] = m + C (C + s^2)^-1 (x - m), and the score of N(m, C + s^2) is -(C + s^2)^-1 (x - m)."""
    mean, covariance, x = gaussian
    for noise_scale in (1e-2, 0.7, 10.0):
        noisy = covariance + noise_scale**2 * torch.eye(4, dtype=torch.float64)
        gain = covariance @ torch.linalg.inv(noisy)
        model = Autoencoder(4, 4, hidden_dims=None, error="squared").double()
        with torch.no_grad():
            model.encoder[0].weight.copy_(gain)
            model.encoder[0].bias.copy_(mean - gain @ mean)
            model.head.weight.copy_(torch.eye(4))
            model.head.bias.zero_()
        of_density = torch.distributions.MultivariateNormal(mean, noisy)
        place = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(of_density.log_prob(place).sum(), place)
        # r(x) - x loses the digits of x that s^2 does not reach.
        close = {"rtol": 1e-9, "atol": 1e-14 / noise_scale**2 * 100}
        torch.testing.assert_close(denoising_score(model, x, noise_scale).detach(), expected, **close)


def test_score_of_the_model_is_that_of_its_noise():
    torch.manual_seed(0)
    model = DenoisingAutoencoder(3, 5, error="squared", corruption="gaussian", corruption_level=0.3)
    x = torch.rand(4, 3)
    assert torch.equal(model.score(x), denoising_score(model, x, 0.3))


def test_distance_of_principal_components_is_the_distance_to_their_plane(gaussian):
    _, _, x = gaussian
    x = torch.cat([x, 2.0 * x.flip(1)])
    pca = PCA(2).fit(x)
    components = torch.from_numpy(pca.components_)
    mean = torch.from_numpy(pca.mean_)
    model = Autoencoder(4, 2, hidden_dims=None, error="squared", tied=True).double()
    with torch.no_grad():
        model.encoder[0].weight.copy_(components)
        model.encoder[0].bias.copy_(-components @ mean)
        model.head.bias.copy_(mean)
    # The distance to a plane by the normals of it, which span what the components leave out.
    normals = torch.linalg.svd(components).Vh[2:]
    expected = (normals @ (x - mean).T).norm(dim=0)
    torch.testing.assert_close(reconstruction_distance(model, x).detach(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_distance_has_no_gradient_where_a_row_is_its_own_reconstruction(dtype):
    """The gradient of |x - r(x)|, (1 - r') (x - r) / |x - r|, of which 0 is a subgradient where that is 0."""
    x = torch.tensor([[5.0, 3.0], [1.0, 0.0], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    distance = reconstruction_distance(lambda x: x * x.new_tensor([1.0, 0.0]), x)
    (gradient,) = torch.autograd.grad(distance.sum(), x)
    assert distance.tolist() == [3.0, 0.0, 0.0]
    assert gradient.tolist() == [[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(("call", "words"), [
    (lambda x: denoising_score(torch.relu, x, 0.0), "denoising_score: noise_scale must be positive, got 0"),
    (lambda x: denoising_score(torch.relu, x, -1.0), "noise_scale must be finite and not negative, got -1"),
    (lambda x: denoising_score(3, x, 1.0), "model must have reconstruct"),
    (lambda x: reconstruction_distance(torch.relu, x[0]), r"x must be a floating-point tensor of shape \(B, D\)"),
    (lambda x: reconstruction_distance(lambda x: x[:, :1], x),
     r"the reconstruction must have the shape \(2, 3\), got \(2, 1\)"),
])  # fmt: skip
def test_mistakes_of_geometry_are_named(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call(torch.ones(2, 3))


def test_true_field_of_the_example_is_the_gradient_of_its_density():
    script = load_script("examples/manifold_geometry.py")
    centres, x = script.spiral(30).double(), torch.rand(5, 2, dtype=torch.float64) - 0.5
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(30, dtype=torch.float64)),
        torch.distributions.Independent(torch.distributions.Normal(centres, 0.2), 1),
    )
    place = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(mixture.log_prob(place).sum(), place)
    torch.testing.assert_close(script.true_score(x, centres, 0.2), expected, rtol=1e-10, atol=1e-10)
    gaps = script.spiral(400).diff(dim=0).norm(dim=1)
    assert gaps.max() < 1.2 * gaps.min()


def test_example_of_a_spiral(monkeypatch, capsys, tmp_path):
    """With much noise a short training gives the field by and large; the whole one is in docs/autoencoders.md."""
    script = load_script("examples/manifold_geometry.py")
    picture = tmp_path / "picture.png"
    monkeypatch.setattr(sys, "argv", ["manifold_geometry.py", "--noise-scale", "0.4", "--steps", "150"])
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--out", str(picture)])
    monkeypatch.setattr(script, "POINTS", 100)
    script.main()
    words = capsys.readouterr().out.split()
    cosine, error = float(words[words.index("cosine") + 1].strip(",")), float(words[-1])
    assert 0.7 < cosine <= 1.0  # of a field without any relation to the true one it would be 0
    assert error < 0.8  # of no field at all it would be 1
    assert imread(picture).shape[1] > 900
