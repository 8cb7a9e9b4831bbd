"""The VAE: shapes, likelihoods against their formulas, initialisation, and complaints."""

import math

import pytest
import torch

from fastvi import reference
from fastvi.models import VAE
from fastvi.models.vae import LOGVAR_RANGE


@pytest.fixture(autouse=True)
def fixed_weights():
    torch.manual_seed(0)


def test_encoder_gives_views_of_one_tensor():
    model = VAE(6, latent_dim=3, hidden_dims=(5, 4))
    mean, logvar = model.encode(torch.rand(7, 6))
    assert mean.shape == logvar.shape == (7, 3)
    assert mean.untyped_storage().data_ptr() == logvar.untyped_storage().data_ptr()


def test_paper_architecture():
    model = VAE(784)
    shapes = [tuple(parameter.shape) for parameter in model.parameters() if parameter.dim() == 2]
    assert shapes == [(200, 784), (200, 200), (100, 200), (200, 50), (200, 200), (784, 200)]
    assert sum(isinstance(module, torch.nn.Tanh) for module in model.modules()) == 4
    assert (model.prior_mean, model.prior_logvar) == (None, None)


def test_bernoulli_likelihood_is_that_of_the_decoded_mean():
    model = VAE(6, 3, (5,)).double()
    x = torch.rand(7, 6, dtype=torch.float64).round()
    z = torch.randn(4, 7, 3, dtype=torch.float64)
    probability = model.decode(z)
    expected = torch.distributions.Bernoulli(probability).log_prob(x.expand(4, 7, 6)).sum(-1)
    # float64: logits against probabilities lose a few units in the last place of six terms.
    torch.testing.assert_close(model.log_likelihood(x, z), expected, rtol=1e-12, atol=1e-12)


def test_gaussian_likelihood_clamps_logvar():
    model = VAE(6, 3, (5,), likelihood="gaussian").double()
    x = torch.rand(7, 6, dtype=torch.float64)
    z = torch.randn(4, 7, 3, dtype=torch.float64)
    with torch.no_grad():
        model.likelihood_head.bias[6:] = torch.tensor([-50.0, -7.0, -1.0, 0.0, 1.0, 50.0])
    logvar = model.likelihood_head(model.decoder(z))[..., 6:].clamp(*LOGVAR_RANGE)
    assert logvar.min() == LOGVAR_RANGE[0]
    assert logvar.max() == LOGVAR_RANGE[1]
    expected = torch.distributions.Normal(model.decode(z), torch.exp(0.5 * logvar)).log_prob(x).sum(-1)
    # float64: (x - mean)^2 exp(-logvar) against a division by a rounded sigma, with exp(8) as the largest factor.
    torch.testing.assert_close(model.log_likelihood(x, z), expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_decoded_mean_is_in_the_unit_interval(likelihood):
    mean = VAE(6, 2, (5,), likelihood=likelihood).decode(30.0 * torch.randn(50, 2))
    assert mean.shape == (50, 6)
    assert mean.min() >= 0.0
    assert mean.max() <= 1.0


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_output_bias_starts_at_the_data_mean(likelihood):
    data_mean = torch.tensor([0.0, 0.1, 0.5, 0.99, 1.0])
    model = VAE(5, 2, (4,), likelihood=likelihood, data_mean=data_mean)
    expected = data_mean.clamp(1e-3, 1.0 - 1e-3)
    # sigmoid(logit(p)) in float32.
    torch.testing.assert_close(torch.sigmoid(model.likelihood_head.bias[:5]), expected, rtol=1e-5, atol=1e-7)


def test_weights_are_glorot_uniform_by_each_heads_own_fans():
    model = VAE(100, latent_dim=40, hidden_dims=(80,))
    for weight, fans in (
        (model.encoder[0].weight, 100 + 80),
        (model.posterior_head.weight, 80 + 40),
        (model.decoder[0].weight, 40 + 80),
        (model.likelihood_head.weight, 80 + 100),
    ):
        bound = math.sqrt(6.0 / fans)
        assert weight.abs().max() <= bound
        # Thousands of uniform draws: their variance, bound^2 / 3, is met within a tenth (over four standard errors).
        assert weight.var().item() == pytest.approx(bound**2 / 3.0, rel=0.1)
    assert all((layer.bias == 0).all() for layer in model.modules() if isinstance(layer, torch.nn.Linear))


def test_loss_reaches_every_parameter():
    model = VAE(6, 3, (5, 4))
    x = torch.rand(7, 6).round()
    mean, logvar = model.encode(x)
    z = reference.rsample_normal(mean, logvar, torch.randn(2, 7, 3))
    (model.log_likelihood(x, z).sum() - reference.kl_normal(mean, logvar).sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"data_dim": 0}, "data_dim must be positive, got 0"),
        ({"latent_dim": -1}, "latent_dim must be positive, got -1"),
        ({"hidden_dims": ()}, "hidden_dims must be positive"),
        ({"hidden_dims": (5, 0)}, r"hidden_dims must be positive, got \(5, 0\)"),
        ({"activation": "sine"}, "activation must be one of tanh, .*, got 'sine'"),
        ({"likelihood": "poisson"}, "likelihood must be one of bernoulli, gaussian, got 'poisson'"),
        ({"data_mean": torch.zeros(3)}, r"data_mean must have the shape \(6,\), got \(3,\)"),
    ],
)
def test_bad_options_are_named(options, complaint):
    with pytest.raises(ValueError, match=f"VAE: {complaint}"):
        VAE(**({"data_dim": 6} | options))
