"""The VAE with several stochastic layers: shapes, densities and gradients by their formulas, pictures, complaints."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch.distributions import Bernoulli, Normal

import fastvi
from fastvi.evaluate import active_units_of_layers, evaluate
from fastvi.models import HierarchicalOptions, HierarchicalVAE, make_model_options
from fastvi.objectives import ELBO, IWAE, STL, DReG, draw
from fastvi.training.config import RunFolder
from fastvi.training.figures import write_figures
from support.command import assert_one_clear_line, call

B, D = 6, 9
ROUNDING = {"rtol": 0.0, "atol": 1e-11}
"""Float64 sums of some ten terms of size 10 and less."""
OBJECTIVES = [ELBO(2, analytic_kl=False), STL(3), IWAE(4), IWAE(4, backward_samples=2), DReG(4)]
every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=str)


def small(layers=2, **options):
    torch.manual_seed(0)
    model = HierarchicalVAE(D, (4, 3, 2)[:layers], (5,), (7, 6), **options).double()
    for parameter in model.parameters():  # biases too, and conditionals that depend on what they are given
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def data(count=B):
    return torch.rand(count, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64).round()


def heads(network, z):
    return network(z).chunk(2, -1)


def density(z, mean, logvar):
    return Normal(mean, torch.exp(0.5 * logvar)).log_prob(z).sum(-1)


def log_weights(model, x, samples):
    """log p(x, z) - log q(z|x) by the layers of the model and PyTorch's distributions, for given samples."""
    bottom = model.bottom
    logits = bottom.likelihood_head(bottom.decoder(samples[0]))
    log_w = Bernoulli(logits=logits).log_prob(x.expand_as(logits)).sum(-1)
    log_w = log_w + Normal(0.0, 1.0).log_prob(samples[-1]).sum(-1)
    log_w = log_w - density(samples[0], *bottom.posterior_head(bottom.encoder(x)).chunk(2, -1))
    for below, above, up, down in zip(samples[:-1], samples[1:], model.upward, model.downward, strict=True):
        log_w = log_w + density(below, *heads(down, above)) - density(above, *heads(up, below))
    return log_w


def test_paper_architecture():
    model = HierarchicalVAE(784)
    shapes = {
        part: [tuple(parameter.shape) for parameter in getattr(model, part).parameters() if parameter.dim() == 2]
        for part in ("bottom", "upward", "downward")
    }
    assert shapes == {
        "bottom": [(200, 784), (200, 200), (200, 200), (200, 100), (200, 200), (784, 200)],
        "upward": [(100, 100), (100, 100), (100, 100)],
        "downward": [(100, 50), (100, 100), (200, 100)],
    }
    bound = (6.0 / (100 + 50)) ** 0.5  # Glorot's, of each head's own fans
    assert 0.95 * bound < model.upward[0][4].weight.abs().max() <= bound
    assert all((layer.bias == 0).all() for layer in model.modules() if isinstance(layer, torch.nn.Linear))
    started = HierarchicalVAE(3, data_mean=torch.tensor([0.1, 0.5, 0.9]))
    torch.testing.assert_close(torch.sigmoid(started.bottom.likelihood_head.bias), torch.tensor([0.1, 0.5, 0.9]))


@pytest.mark.parametrize("layers", [2, 3])
def test_log_weights_are_those_of_the_densities(layers):
    model, x = small(layers), data()
    drawn = draw(model, x, 5, seed=2)
    assert [tuple(z.shape) for z in drawn.samples] == [(5, B, size) for size in (4, 3, 2)[:layers]]
    torch.testing.assert_close(drawn.log_weights, log_weights(model, x, drawn.samples), **ROUNDING)
    assert drawn.log_posterior is None


def noise_of(model, x, samples):
    """What the samples were made of: independent of all else that the model has."""
    posteriors = [model.bottom.encode(x), *(heads(up, z) for up, z in zip(model.upward, samples[:-1], strict=True))]
    return [(z - mean) * torch.exp(-0.5 * logvar) for z, (mean, logvar) in zip(samples, posteriors, strict=True)]


@pytest.mark.parametrize("layers", [2, 3])
def test_noise_depends_on_the_place_in_the_batch_alone(layers):
    model, x = small(layers), data(7)
    with torch.no_grad():
        whole = draw(model, x, 3, seed=3)
        shard = draw(model, x[4:], 3, seed=3, row_offset=4)
        more = draw(model, x, 5, seed=3)
        noise = torch.cat(noise_of(model, x, whole.samples), -1)
    for part, all_of_it, longer in zip(shard.samples, whole.samples, more.samples, strict=True):
        torch.testing.assert_close(part, all_of_it[:, 4:], **ROUNDING)
        torch.testing.assert_close(longer[:3], all_of_it, **ROUNDING)
    assert noise.unique().numel() == noise.numel()  # no layer has the numbers of another


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("objective", [STL(4), DReG(4)], ids=str)
def test_path_derivatives(objective, layers):
    """The encoder's gradient is sum_k c_k d log w_k along the path, with a copy of the model for the densities.

    c is 1 / K for STL, and the square of the normalised weights for DReG; the model's own is that of ELBO and IWAE.
    """
    model, x = small(layers), data()
    fixed = copy.deepcopy(model).requires_grad_(False)
    with torch.no_grad():
        samples = draw(model, x, 4, seed=4).samples
        noise = noise_of(model, x, samples)
        weights = torch.softmax(log_weights(model, x, samples), 0)
    path: list[torch.Tensor] = []
    for each in noise:
        mean, logvar = heads(model.upward[len(path) - 1], path[-1]) if path else model.bottom.encode(x)
        path.append(mean + torch.exp(0.5 * logvar) * each)
    factors = weights.square() if isinstance(objective, DReG) else torch.full_like(weights, 0.25)
    encoder = [
        *model.bottom.encoder.parameters(),
        *model.bottom.posterior_head.parameters(),
        *model.upward.parameters(),
    ]
    expected = torch.autograd.grad((factors * log_weights(fixed, x, path)).sum(), encoder)
    found = torch.autograd.grad(objective(model, x, seed=4).sum(), encoder)
    torch.testing.assert_close(found, expected, **ROUNDING)
    assert all(gradient.abs().max() > 1e-4 for gradient in expected)
    generative = [parameter for parameter in model.parameters() if not any(parameter is other for other in encoder)]
    plain = IWAE(4) if isinstance(objective, DReG) else ELBO(4, analytic_kl=False)
    found, expected = (torch.autograd.grad(each(model, x, seed=4).sum(), generative) for each in (objective, plain))
    torch.testing.assert_close(found, expected, **ROUNDING)


@every_objective
def test_layers_that_are_watched_run_themselves(objective):
    """A hook takes the fused operations away: values and gradients stay."""
    model, x = small(), data()
    results = []
    for _ in range(2):
        value = objective(model, x, seed=5)
        results.append((value.detach(), torch.autograd.grad(value.sum(), list(model.parameters()))))
        for module in model.modules():
            module.register_forward_hook(lambda *_: None)
    torch.testing.assert_close(results[1], results[0], **ROUNDING)


@every_objective
def test_every_parameter_learns(objective):
    model, x = HierarchicalVAE(D, (4, 3), (5,), (6,)), data().float()
    objective(model, x, seed=6).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    value = objective(model.to("meta"), x.to("meta"), seed=0)
    value.sum().backward()
    assert value.is_meta


# Dynamo itself makes an instance of autograd.Function, and warns of it, when it traces one (PyTorch 2.13).
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated:DeprecationWarning")
def test_compiled_whole():
    objective, model, x = DReG(4), small(), data()
    torch._dynamo.reset()
    compiled = torch.compile(objective, backend="aot_eager", fullgraph=True)
    results = []
    for each in (compiled, objective):
        value = each(model, x, seed=7)
        results.append((value.detach(), torch.autograd.grad(value.sum(), list(model.parameters()))))
    torch.testing.assert_close(*results, **ROUNDING)


def test_bounds_rise_and_evaluation_takes_the_model():
    model, x = small(), data(200)
    with torch.no_grad():
        means = [IWAE(count)(model, x, seed=8).mean().item() for count in (1, 5, 50, 500)]
    assert means == sorted(means)  # gaps of 0.1 nats and more, standard errors below 0.05
    result = evaluate(model, x, num_samples=500)
    assert result.elbo < result.importance_weighted
    assert result.latent_dim == (4, 3)
    assert result.active_units == tuple(int(units.sum()) for units in active_units_of_layers(model, x))


def test_active_units_of_layers():
    """E[z_2|x] = E_q(z_1|x) of the mean of q(z_2|z_1), here linear: its variance over x in closed form."""
    model, x = small(), data(400)
    with torch.no_grad():
        for network in (model.bottom.posterior_head, model.upward[0]):
            for parameter in network.parameters():
                parameter.zero_()
        model.bottom.posterior_head.weight[0] = 3.0  # z_1's first variable alone varies with x
        hidden, last = model.upward[0][2], model.upward[0][4]
        model.upward[0][0].weight[0, 0] = 1e-3  # tanh is linear here
        hidden.weight[0, 0] = 1.0
        last.weight[0, 0], last.weight[1, 0] = 2e3, 30.0
        mean = model.bottom.encode(x)[0]
        expected = torch.stack([2.0 * mean[:, 0], 0.03 * mean[:, 0], 0.0 * mean[:, 0]], -1).var(0) > 0.01
    assert mean.var(0)[0] > 1.0
    assert expected.tolist() == [True, False, False]
    first, second = active_units_of_layers(model, x)
    assert first.tolist() == [True, False, False, False]
    assert second.tolist() == expected.tolist()
    with pytest.raises(ValueError, match="active_units_of_layers: a variance needs at least two examples, x holds 1"):
        active_units_of_layers(model, x[:1])


def test_figures_of_layers_are_written(tmp_path):
    result = evaluate(small(), data(), num_samples=5)
    write_figures(tmp_path / "figures.json", result)
    written = json.loads((tmp_path / "figures.json").read_text())
    assert (written["latent_dim"], written["active_units"]) == ([4, 3], list(result.active_units))


@pytest.mark.parametrize("layers", [2, 3])
def test_decode_is_ancestral_sampling(layers):
    model = small(layers)
    assert model.latent_dim == sum((4, 3, 2)[:layers])
    noise = torch.randn(10, model.latent_dim, dtype=torch.float64)
    sizes = model.latent_dims[::-1]
    z, *others = noise.split(sizes, -1)
    for network, each in zip(list(model.downward)[::-1], others, strict=True):
        mean, logvar = heads(network, z)
        z = Normal(mean, torch.exp(0.5 * logvar)).icdf(Normal(0.0, 1.0).cdf(each))
    # The inverse distribution function of a distribution function: its error in the tails is some 1e-12.
    torch.testing.assert_close(model.decode(noise), model.bottom.decode(z), rtol=0.0, atol=1e-9)
    x = data()
    torch.testing.assert_close(model.reconstruct(x), model.bottom.decode(model.bottom.encode(x)[0]), **ROUNDING)


def test_a_gaussian_likelihood():
    model = HierarchicalVAE(D, (4, 3), (5,), (6,), likelihood="gaussian")
    assert DReG(3)(model, torch.rand(B, D), seed=0).isfinite().all()


def test_there_is_nothing_to_fuse():
    found = fastvi.fuse(HierarchicalVAE(D, (4, 3), (5,), (6,)))
    assert found.fused == ()
    assert found.left[0] == "the model: a HierarchicalVAE runs its layers as one operation already"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"latent_dims": (4,)}, ValueError, r"latent_dims must be 2 sizes or more, got \(4,\) \(one layer is a VAE\)"),
        ({"latent_dims": (4, 0)}, ValueError, "latent_dims must be at least 1, got 0"),
        ({"latent_dims": 4}, TypeError, "latent_dims must be a tuple of sizes, got 4 of type int"),
        ({"latent_dims": (4, 2.0)}, TypeError, "latent_dims must be an int, got 2.0 of type float"),
        ({"upper_hidden_dims": ()}, ValueError, r"upper_hidden_dims must be 1 sizes or more, got \(\)"),
        ({"activation": "sine"}, ValueError, "activation must be one of tanh"),
        ({"data_mean": torch.ones(3)}, ValueError, "data_mean must have the shape"),
    ],
)
def test_complaints(options, error, message):
    with pytest.raises(error, match=message):
        HierarchicalVAE(D, **options)


def test_options():
    options = make_model_options("hierarchical", latent_dims=[8, 4], upper_hidden_dims=(6,))
    assert options == HierarchicalOptions((8, 4), (200, 200), (6,))
    with pytest.raises(ValueError, match="HierarchicalOptions: latent_dims must be 2 sizes or more"):
        HierarchicalOptions((8,))
    with pytest.raises(TypeError, match=r"ELBO with analytic_kl=True: needs .*; HierarchicalVAE lacks encode and log"):
        ELBO()(small(), data())


SHORT = ("--model", "hierarchical", "--latent-dims", "6,3", "--hidden-dims", "8", "--upper-hidden-dims", "5")


@pytest.mark.parametrize(
    "objective",
    [("elbo", "--no-analytic-kl", "--warm-up-steps", "3"), ("iwae", "--backward-samples", "1"), ("dreg",)],
    ids=" ".join,
)
def test_the_command_line_trains_it(objective, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("train", *SHORT, "--epochs", 2, "--batch-size", 500, "--objective", *objective, "--out", "run")
    assert result.exit_code == 0, result.output
    run = Path("run")
    assert {"reconstructions.png", "samples.png", "evaluation.json"} <= {file.name for file in run.iterdir()}
    assert RunFolder(run).read_config().model == HierarchicalOptions((6, 3), (8,), (5,))


def test_the_command_line_says_what_it_cannot_train(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_one_clear_line(call("train", *SHORT, "--objective", "elbo"), "HierarchicalVAE lacks encode and log_lik")
    assert_one_clear_line(call("train", *SHORT, "--latent-dims", "5"), "must be 2 sizes or more, got (5,)")
