"""Models made of parts: convolutional and conditional ones, with every posterior and every prior."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from torch.distributions import MultivariateNormal

from fastvi import kl_normal, normal_log_prob
from fastvi.data import load_dataset
from fastvi.evaluate import evaluate
from fastvi.models import (
    AffineCoupling,
    ConditionalVAEOptions,
    ConvolutionalVAEOptions,
    DataShape,
    GeneralVAEOptions,
    MixturePrior,
    make_model_options,
)
from fastvi.models.likelihoods import LOGVAR_RANGE
from fastvi.objectives import ELBO, IWAE, STL, DReG, draw
from fastvi.training.config import RunFolder
from support.command import assert_one_clear_line, call

PLAIN_PRIORS, LABEL_PRIORS = ("standard", "gaussian", "mixture", "vamp"), ("standard", "gaussian", "mixture", "labels")
COMBINATIONS = [
    (name, posterior, prior)
    for name in ("general-vae", "convolutional-vae", "conditional-vae")
    for posterior in ("diagonal", "full", "flow")
    for prior in (LABEL_PRIORS if name == "conditional-vae" else PLAIN_PRIORS)
]
every_combination = pytest.mark.parametrize("names", COMBINATIONS, ids="-".join)
COUNT, SHAPE = 6, DataShape((5, 7), 3)


def make(names, **options):
    """A model in float64 whose couplings and heads are no longer at zero, and data for it."""
    name, posterior, prior = names
    torch.manual_seed(0)
    sizes = {"latent_dim": 3, "hidden_dims": (8,), "prior_components": 4}
    options = sizes | {"posterior": posterior, "prior": prior} | options
    model = make_model_options(name, **options).build(SHAPE, torch.full((35,), 0.3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    images, labels = torch.rand(COUNT, 35, dtype=torch.float64).round(), torch.arange(COUNT) % 3
    return model, (images, labels) if name == "conditional-vae" else images


def rows(x, chosen):
    return x[chosen] if isinstance(x, torch.Tensor) else tuple(part[chosen] for part in x)


@every_combination
def test_every_objective_trains_every_parameter(names):
    model, x = make(names)
    for objective in (ELBO(2, analytic_kl=model.has_analytic_kl), STL(3), IWAE(3), IWAE(3, 2), DReG(3)):
        objective.check_model(model)
        model.zero_grad()
        value = objective(model, x, seed=4)
        value.sum().backward()
        assert value.isfinite().all()
        lacking = [name for name, parameter in model.named_parameters() if parameter.grad is None]
        if isinstance(objective, ELBO) and names[2] == "gaussian" and objective.analytic_kl:
            assert model.prior_mean.grad.abs().sum() > 0.0
        assert lacking == []


@every_combination
@pytest.mark.parametrize("objective", [IWAE(3), IWAE(3, 2), DReG(3)], ids=str)
def test_a_shard_is_what_it_was_in_the_whole(names, objective):
    model, x = make(names)
    whole = objective(model, x, seed=9)
    (whole_gradient,) = torch.autograd.grad(whole[2:].sum(), next(model.encoder.parameters()))
    shard = objective(model, rows(x, slice(2, None)), seed=9, row_offset=2)
    (gradient,) = torch.autograd.grad(shard.sum(), next(model.encoder.parameters()))
    # Matrix products of other sizes, in float64.
    torch.testing.assert_close(shard, whole[2:], rtol=0, atol=1e-10)
    torch.testing.assert_close(gradient, whole_gradient, rtol=0, atol=1e-10)
    torch.testing.assert_close(objective(model, x, seed=9), whole, rtol=0, atol=0)


@every_combination
def test_log_weights_are_made_of_the_densities(names):
    model, x = make(names)
    drawn = draw(model, x, 3, seed=2)
    q, z = model.encode(x), drawn.samples
    log_posterior = normal_log_prob(z, *q) if isinstance(q, tuple) else q.log_prob(z)
    zeros = torch.zeros(3, dtype=torch.float64)
    log_prior = {
        "standard": lambda: normal_log_prob(z, zeros, zeros),
        "gaussian": lambda: normal_log_prob(z, model.prior_mean, model.prior_logvar),
        "labels": lambda: normal_log_prob(z, *model.conditional_prior(x)),
    }.get(names[2], lambda: model.log_prior(z))()
    expected = model.log_likelihood(x, z) + log_prior - log_posterior
    torch.testing.assert_close(drawn.log_weights, expected, rtol=0, atol=1e-9)  # a flow there and back
    copies = (copy.deepcopy(model), pickle.loads(pickle.dumps(model)))
    for other in copies:
        torch.testing.assert_close(draw(other, x, 3, seed=2).log_weights, drawn.log_weights, rtol=0, atol=0)
    assert model.sample(7, seed=1).shape == (7, 35)
    assert model.reconstruct(x).shape == (COUNT, 35)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("name", ["general-vae", "convolutional-vae", "conditional-vae"])
def test_likelihoods_are_those_of_the_decoded_mean(name, likelihood):
    model, x = make((name, "diagonal", "standard"), likelihood=likelihood)
    images, labels = (x, None) if isinstance(x, torch.Tensor) else x
    z = torch.randn(4, COUNT, 3, dtype=torch.float64)
    mean = model.decode(z, None if labels is None else labels.expand(4, COUNT))
    if likelihood == "bernoulli":
        expected = torch.distributions.Bernoulli(mean).log_prob(images.expand_as(mean)).sum(-1)
    else:
        inputs = z if labels is None else torch.cat([z, torch.eye(3, dtype=z.dtype)[labels].expand(4, -1, -1)], -1)
        logvar = model.decoder(inputs)[..., 35:].clamp(*LOGVAR_RANGE)
        expected = torch.distributions.Normal(mean, torch.exp(0.5 * logvar)).log_prob(images).sum(-1)
    torch.testing.assert_close(model.log_likelihood(x, z), expected, rtol=1e-10, atol=1e-10)


def test_labels_matter_and_are_those_of_their_examples():
    model, (images, labels) = make(("conditional-vae", "diagonal", "labels"))
    permuted = labels.roll(1)
    same = labels == permuted
    assert not same.any()
    first, second = (model.encode((images, given))[0] for given in (labels, permuted))
    assert (first != second).all()
    torch.testing.assert_close(model.conditional_prior((images, labels))[0][3], model.conditional_prior.means[0])
    divergence = kl_normal(*model.encode((images, labels)), *model.conditional_prior((images, labels)))
    difference = ELBO(beta=0.0)(model, (images, labels), seed=1) - ELBO()(model, (images, labels), seed=1)
    torch.testing.assert_close(difference, divergence)


@pytest.mark.parametrize("posterior", ["full", "flow"])
def test_every_posterior_begins_as_a_diagonal_gaussian(posterior):
    x = torch.rand(COUNT, 35).round()
    torch.manual_seed(0)
    model = GeneralVAEOptions(3, (8,), posterior=posterior).build(SHAPE)
    outputs = model.encoder(x)
    z = torch.randn(4, COUNT, 3)
    expected = normal_log_prob(z, outputs[:, :3], outputs[:, 3:6])
    torch.testing.assert_close(model.encode(x).log_prob(z), expected, rtol=1e-5, atol=1e-5)  # float32
    assert outputs[:, 6:].abs().max() == 0.0


def test_the_covariance_is_that_of_its_factor():
    model, x = make(("general-vae", "full", "standard"))
    q, outputs = model.encode(x), model.encoder(x)
    triangle = torch.zeros(COUNT, 3, 3, dtype=torch.float64)
    for i in range(3):
        triangle[:, i, i] = torch.exp(0.5 * outputs[:, 3 + i])
    triangle[:, 1, 0], triangle[:, 2, 0], triangle[:, 2, 1] = outputs[:, 6:].unbind(-1)
    expected = MultivariateNormal(outputs[:, :3], scale_tril=triangle)
    torch.testing.assert_close(q.covariance_matrix, expected.covariance_matrix)
    torch.testing.assert_close(q.mean, expected.mean)


@pytest.mark.parametrize("moves_first", [False, True])
@pytest.mark.parametrize("dim", [2, 5])
def test_couplings_are_invertible_with_their_jacobian(dim, moves_first):
    torch.manual_seed(1)
    coupling = AffineCoupling(dim, 2, 8, moves_first).double()
    for parameter in coupling.parameters():
        torch.nn.init.normal_(parameter)
    x, context = torch.randn(4, dim, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    y, log_abs_det = coupling(x, context)
    for row in range(4):
        jacobian = torch.func.jacrev(lambda value, row=row: coupling(value[None], context[row : row + 1])[0][0])(x[row])
        torch.testing.assert_close(log_abs_det[row], torch.linalg.slogdet(jacobian).logabsdet)
    back, inverse_log_abs_det = coupling.inverse(y, context)
    torch.testing.assert_close(back, x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(inverse_log_abs_det, -log_abs_det)
    kept = slice(dim // 2, None) if moves_first else slice(0, dim // 2)
    torch.testing.assert_close(y[:, kept], x[:, kept], rtol=0, atol=0)


@pytest.mark.parametrize("image_shape", [(1, 1), (2, 3), (8, 8), (28, 28), (7, 13)])
def test_convolutions_of_images_of_any_size(image_shape):
    model = ConvolutionalVAEOptions(2, (4,), channels=(2, 3, 3)).build(DataShape(image_shape))
    x = torch.rand(3, image_shape[0] * image_shape[1])
    assert model.reconstruct(x).shape == x.shape
    assert IWAE(2)(model, x, seed=0).shape == (3,)


def test_half_precision_products():
    for names in COMBINATIONS[1:12:3]:
        model, x = make(names)
        with torch.autocast("cpu", torch.bfloat16):
            value = DReG(3)(model.float(), x.float(), seed=0)
        value.sum().backward()
        assert value.dtype is torch.float32
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# Dynamo itself makes an instance of autograd.Function, and warns of it, when it traces one (PyTorch 2.13).
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated:DeprecationWarning")
def test_compiled_whole():
    model, x = make(("conditional-vae", "flow", "labels"), flow_layers=1)
    torch._dynamo.reset()
    torch.manual_seed(1)
    found = torch.compile(DReG(3), backend="aot_eager", fullgraph=True)(model, x)
    torch.manual_seed(1)
    torch.testing.assert_close(found, DReG(3)(model, x), rtol=0, atol=1e-9)  # float64 in another order


# By the command


@pytest.fixture
def own_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTVI_DATA", raising=False)


SHORT = ("--epochs", 2, "--batch-size", 500, "--latent-dim", 3, "--hidden-dims", "8", "--threads", 1)


@pytest.mark.usefixtures("own_directory")
@pytest.mark.parametrize(
    "options",
    [
        ("general-vae", "--posterior", "flow", "--prior", "vamp", "--prior-components", 3, "--objective", "dreg"),
        ("convolutional-vae", "--posterior", "full", "--prior", "mixture", "--channels", "2,4"),
        ("conditional-vae", "--posterior", "full", "--prior", "labels", "--objective", "elbo"),
    ],
    ids=lambda options: options[0],
)
def test_training_by_the_command(options):
    result = call("train", "--model", *options, *SHORT, "--out", "run", "--evaluation-samples", 20)
    assert result.exit_code == 0, result.output
    run = RunFolder(Path("run"))
    assert json.loads(run.config_file.read_text())["model"]["name"] == options[0]
    of_classes = {"styles.png", "analogies.png"} if options[0] == "conditional-vae" else set()
    assert {path.name for path in run.path.glob("*.png")} == {"reconstructions.png", "samples.png"} | of_classes
    data = load_dataset("digits")
    x = (data.test, data.test_labels) if options[0] == "conditional-vae" else data.test
    figures = evaluate(run.load_model(), x, num_samples=20)
    assert figures.importance_weighted > figures.elbo
    if options[0] == "general-vae":
        assert "not told: the posterior's mean has no closed form" in result.output
    result = call("train", "--resume", "run", "--epochs", 3, "--no-evaluate", "--threads", 1)
    assert result.exit_code == 0, result.output
    assert call("train", "--model", *options, *SHORT, "--epochs", 3, "--out", "whole", "--no-evaluate").exit_code == 0
    states = (RunFolder(Path(name)).read_checkpoint()["state_dict"] for name in ("run", "whole"))
    torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.usefixtures("own_directory")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("general-vae", "--posterior", "flow", "--objective", "elbo"), "ELBO: --analytic-kl needs a divergence in"),
        (
            ("general-vae", "--prior", "vamp", "--objective", "elbo"),
            "closed form, and GeneralVAE has none; take --no-analytic-kl",
        ),
        (("general-vae", "--posterior", "flow", "--latent-dim", 1), "--posterior=flow needs --latent-dim 2 or more"),
        (
            ("conditional-vae", "--prior", "vamp"),
            "--prior must be one of standard, gaussian, mixture, labels, got 'vamp'",
        ),
        (("vae", "--posterior", "full"), "not to vae, which has --latent-dim"),
    ],
)
def test_bad_options_are_one_line(options, message, tmp_path):
    assert_one_clear_line(call("train", "--model", *options), message)
    assert list(tmp_path.iterdir()) == []


# What is wrong in data


def test_wrong_data():
    model, (images, labels) = make(("conditional-vae", "diagonal", "standard"))
    plain, x = make(("general-vae", "diagonal", "standard"))
    for call_it, error, message in (
        (lambda: model.encode(images), TypeError, r"x must be the pair \(images, labels\) of tensors, got Tensor"),
        (lambda: model.encode((images, labels[:2])), ValueError, r"labels must have the shape \(6,\), got \(2,\)"),
        (lambda: model.encode((images, labels.double())), TypeError, "labels must be integers, got torch.float64"),
        (lambda: model.encode((images, labels + 1)), ValueError, "labels must be from 0 to 2, got 1 to 3"),
        (lambda: plain.encode((x, x)), TypeError, "images must be a tensor of floating-point values, got tuple"),
        (lambda: plain.encode(x.long()), TypeError, "floating-point values, got torch.int64"),
        (lambda: plain.encode(x[:, :4]), ValueError, r"images must have the shape \(B, 35\), got \(6, 4\)"),
        (
            lambda: plain.encode(x.float()),
            TypeError,
            "images must have the model's dtype torch.float64, got torch.float",
        ),
        (lambda: IWAE(2)(plain, x + 0.5), ValueError, r"a Bernoulli likelihood needs x in \[0, 1\], got values from"),
    ):
        with pytest.raises(error, match=rf"^GeneralVAE: .*{message}") as raised:
            call_it()
        assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="ConditionalVAEOptions: the data's shape must have num_classes, got None"):
        ConditionalVAEOptions().build(DataShape((2, 2)))


def test_a_prior_may_be_assigned_to_the_finished_model():
    model, x = make(("general-vae", "diagonal", "standard"))
    before = IWAE(3)(model, x, seed=0)
    model.log_prior = MixturePrior(5, 3).double()
    assert (IWAE(3)(model, x, seed=0) != before).all()
    model.log_prior = None
    torch.testing.assert_close(IWAE(3)(model, x, seed=0), before, rtol=0, atol=0)
