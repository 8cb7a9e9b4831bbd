"""The VAE: shapes, likelihoods against their formulas, initialisation, and complaints."""

import math

import numpy as np
import pytest
import torch

import fastvi
from fastvi import reference
from fastvi.evaluate import evaluate
from fastvi.models import VAE
from fastvi.models.likelihoods import LOGVAR_RANGE
from fastvi.objectives import ELBO, IWAE, STL, DReG


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
        ({"likelihood": "gamma"}, r"likelihood must be one of bernoulli, gaussian, .*, got 'gamma'"),
        ({"data_mean": torch.zeros(3)}, r"data_mean must have the shape \(6,\), got \(3,\)"),
    ],
)
def test_bad_options_are_named(options, complaint):
    with pytest.raises(ValueError, match=f"VAE: {complaint}"):
        VAE(**({"data_dim": 6} | options))


@pytest.mark.parametrize(
    ("change", "error", "complaint"),
    [
        (lambda x: 255.0 * x, ValueError, r"x in \[0, 1\], got values from 0 to 255; grey values .* divided by 255"),
        (lambda x: 2.0 * x - 1.0, ValueError, r"x in \[0, 1\], got values from -1 to 1 \(validate_args=False"),
        (lambda x: torch.where(x == 1.0, torch.nan, x), ValueError, r"x in \[0, 1\], got NaN among them"),
        (lambda x: torch.where(x == 1.0, torch.inf, x), ValueError, r"x in \[0, 1\], got values from 0 to inf"),
        (lambda x: (255 * x).byte(), TypeError, "x must be floating-point values .*, got torch.uint8"),
        (lambda x: x.double(), TypeError, "x must have the model's dtype torch.float32, got torch.float64"),
        (lambda x: x.bool(), TypeError, "x must be floating-point values .*, got torch.bool"),
        (lambda x: x[:, :-1], ValueError, r"x must have the shape \(B, 6\), got \(7, 5\)"),
        (lambda x: x.reshape(7, 2, 3), ValueError, r"x must have the shape \(B, 6\), got \(7, 2, 3\)"),
        (lambda x: x.numpy(), TypeError, r"x must be a tensor of shape \(B, 6\), got ndarray"),
    ],
)
@pytest.mark.parametrize("objective", [ELBO(), IWAE(2), IWAE(2, backward_samples=1), STL(2), DReG(2)], ids=str)
def test_data_that_make_a_meaningless_bound_are_refused(change, error, complaint, objective):
    x = change(torch.tensor([0.0, 1.0]).repeat(7, 3))
    with pytest.raises(error, match=f"^VAE: {complaint}|^VAE: a Bernoulli likelihood needs {complaint}"):
        objective(VAE(6, 2, (4,)), x)


def test_values_are_looked_at_in_training_and_in_evaluation():
    model, x = VAE(6, 2, (4,)), torch.full((7, 6), 200.0)
    with pytest.raises(ValueError, match="needs x in"):
        evaluate(model, x, num_samples=2)
    # Another likelihood is a density of any value, and the check can be left out.
    assert ELBO()(VAE(6, 2, (4,), likelihood="gaussian"), x).isfinite().all()
    assert ELBO()(VAE(6, 2, (4,), validate_args=False), x).shape == (7,)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5, -0.0])
def test_the_ends_of_the_interval_are_in_it(value):
    assert ELBO()(VAE(6, 2, (4,)), torch.full((7, 6), value)).isfinite().all()
    assert ELBO()(VAE(6, 2, (4,)), torch.full((0, 6), value)).shape == (0,)


def test_programs_without_values_are_traced_as_before():
    """Neither the compiler nor a transform is asked for a number; the bound is that of the plain call."""
    model, x = VAE(6, 2, (4,)), torch.rand(7, 6).round()
    expected = IWAE(3)(model, x, seed=0)
    compiled = torch.compile(IWAE(3), backend="aot_eager", fullgraph=True)
    tolerance = {"rtol": 1e-5, "atol": 1e-5}  # float32 in another order
    torch.manual_seed(1)
    found = compiled(model, x)
    torch.manual_seed(1)
    torch.testing.assert_close(found, IWAE(3)(model, x), **tolerance)
    z = torch.zeros(2, 7, 2)
    mapped = torch.func.vmap(lambda row: model.log_likelihood(row.unsqueeze(0), z[:, :1]).squeeze(1), out_dims=1)(x)
    torch.testing.assert_close(mapped, model.log_likelihood(x, z), **tolerance)
    parameters = dict(model.named_parameters())
    gradients = torch.func.grad(
        lambda values: torch.func.functional_call(_Bound(model), {f"model.{k}": v for k, v in values.items()}, (x,))
    )(parameters)
    (-expected.sum()).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], -parameter.grad, **tolerance)
    exported = torch.export.export(_Likelihood(model), (x, z), strict=True)
    torch.testing.assert_close(exported.module()(x, z), model.log_likelihood(x, z), **tolerance)


class _Bound(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return IWAE(3)(self.model, x, seed=0).sum()


class _Likelihood(_Bound):
    def forward(self, x, z):
        return self.model.log_likelihood(x, z)


def test_sizes_may_be_numbers_of_numpy():
    model = VAE(np.int64(6), np.int32(2), np.array([4, 5]))
    assert [type(size) for size in (model.data_dim, model.latent_dim)] == [int, int]
    assert IWAE(np.int64(3))(model, torch.ones(7, 6), seed=0).shape == (7,)
    assert IWAE(np.int64(3), np.int64(2)) == IWAE(3, 2)
    assert ELBO(np.int8(2), beta=np.float32(0.5), free_bits=np.float64(0.25)) == ELBO(2, beta=0.5, free_bits=0.25)
    with pytest.raises(TypeError, match=r"VAE: latent_dim must be an integer, got 2.5 of type float"):
        VAE(6, 2.5)
    with pytest.raises(TypeError, match=r"IWAE: num_samples must be an int, got .*True"):
        IWAE(np.True_)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda sizes: fastvi.models.VAE(16, 2, sizes), "VAE: hidden_dims"),
        (lambda sizes: fastvi.models.HierarchicalVAE(16, hidden_dims=sizes), "VAE: hidden_dims"),
        (lambda sizes: fastvi.models.CategoricalVAE(16, hidden_dims=sizes), "CategoricalVAE: hidden_dims"),
        (lambda sizes: fastvi.models.CategoricalVAE(16, baseline_dims=sizes), "CategoricalVAE: baseline_dims"),
        (lambda sizes: fastvi.models.SigmoidBeliefNetwork(16, sizes), "SigmoidBeliefNetwork: layer_dims"),
        (lambda sizes: fastvi.models.SemiSupervisedVAE(16, 3, 2, sizes), "SemiSupervisedVAE: hidden_dims"),
        (lambda sizes: fastvi.models.SemiSupervisedVAE(16, 3, 2, (8,), sizes), "SemiSupervisedVAE: classifier_dims"),
        (lambda sizes: fastvi.autoencoders.Autoencoder(16, 2, sizes), "Autoencoder: hidden_dims"),
    ],
)
def test_one_number_for_several_sizes_is_refused(make, argument) -> None:
    for sizes, shown in ((5, "5 of type int"), ("12", "'12' of type str")):
        with pytest.raises(TypeError, match=f"{argument} must be a tuple of sizes, got {shown}"):
            make(sizes)


@pytest.mark.parametrize("name", ["general-vae", "conditional-vae", "m2"])
def test_wrong_counts_and_codes_are_told_in_one_line(name) -> None:
    options = fastvi.models.MODELS.make(name, latent_dim=2, hidden_dims=(8,))
    model = options.build(fastvi.models.DataShape((4, 4), 3))
    own, z, labels = type(model).__name__, torch.zeros(3, 2), torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match=f"{own}: count must be at least 0, got -1"):
        model.sample(-1)
    with pytest.raises(TypeError, match=f"{own}: count must be an int, got 2.5"):
        model.sample(2.5)
    assert model.sample(0).shape == (0, 16)
    if name == "general-vae":
        with pytest.raises(TypeError, match=f"{own}: decode takes no labels of z"):
            model.decode(z, labels)
        with pytest.raises(ValueError, match=rf"{own}: z must be a tensor of the shape \(\.\.\., 2\), got \(3, 4\)"):
            model.decode(torch.zeros(3, 4))
        return
    with pytest.raises(TypeError, match=f"{own}: decode needs the labels of z"):
        model.decode(z)
    with pytest.raises(TypeError, match=f"{own}: labels must be a tensor, got list"):
        model.decode(z, labels.tolist())
    for wrong in (labels[:2], labels.unsqueeze(1)):
        with pytest.raises(ValueError, match=rf"{own}: labels must have the shape \(3,\), one for each z, got \([23],"):
            model.decode(z, wrong)
    with pytest.raises(ValueError, match=rf"{own}: z must be a tensor of the shape \(\.\.\., 2\), got \(3, 4\)"):
        model.decode(torch.zeros(3, 4), labels)
    # Labels of the last axes go with all before them, and one with all.
    together = model.decode(torch.zeros(5, 3, 2), labels)
    torch.testing.assert_close(together[4], model.decode(z, labels))
    torch.testing.assert_close(model.decode(z, torch.tensor(1)), model.decode(z, torch.tensor([1, 1, 1])))
