"""The sigmoid belief network and the categorical VAE: densities, samples, seeds, training, messages."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fastvi import data
from fastvi.cli import app
from fastvi.evaluate import stream_bounds
from fastvi.models import (
    CategoricalVAE,
    CategoricalVAEOptions,
    DataShape,
    SigmoidBeliefNetwork,
    SigmoidBeliefNetworkOptions,
    make_model_options,
)
from fastvi.objectives import IWAE, VIMCO, ReweightedWakeSleep, ScoreFunction, draw
from fastvi.training.config import RunFolder
from support import discrete
from support.command import assert_one_clear_line, call
from support.discrete import DATA, KINDS
from support.linear_gaussian import STANDARD_ERRORS

NETWORK = SigmoidBeliefNetwork(3, (4, 2), baseline_dims=(3,))
CATEGORICAL = CategoricalVAE(3, 3, 4, (5,), baseline_dims=(3,))
both_models = pytest.mark.parametrize("model", [NETWORK, CATEGORICAL], ids=["network", "categorical"])


def free(kind):
    """The model of an enumeration with its own sampling."""
    model = discrete.make(kind)
    plain = CategoricalVAE(3, 1, 3, (4,)) if kind == "categorical" else SigmoidBeliefNetwork(3, discrete.BITS[kind])
    plain.double().load_state_dict(model.state_dict())
    return plain


# Densities and samples, against enumeration


@pytest.mark.parametrize("kind", KINDS)
def test_densities_are_those_of_pytorch_and_sum_to_one(kind):
    model = discrete.make(kind)
    every_x = discrete.every_bits(3)
    samples = [states.unsqueeze(1).expand(-1, 8, *states.shape[1:]) for states in discrete.configurations(model)]
    joint, posterior = discrete.table(model, every_x)
    torch.testing.assert_close(model.log_joint(every_x, samples), joint, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(model.log_posterior(every_x, samples), posterior, rtol=0.0, atol=1e-12)
    assert joint.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    torch.testing.assert_close(posterior.exp().sum(0), torch.ones(8, dtype=torch.float64), rtol=0.0, atol=1e-12)


def state_numbers(model, samples):
    """Which of the model's configurations each sample is, ``(K, B)``."""
    found = torch.cat([layer.flatten(2) for layer in samples], -1)
    known = torch.cat([layer.flatten(1) for layer in discrete.configurations(model)], -1)
    return (found.unsqueeze(-2) == known).all(-1).double().argmax(-1)


def assert_frequencies(numbers, probabilities):
    """Counts of independent draws, each within the stated number of standard errors of its expectation."""
    counts = torch.bincount(numbers.flatten(), minlength=len(probabilities)).double()
    total = counts.sum()
    error = (counts / total - probabilities).abs()
    assert (error <= STANDARD_ERRORS * (probabilities * (1.0 - probabilities) / total).sqrt() + 1e-12).all()


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_those_of_q_and_carry_its_density(kind):
    model = free(kind)
    drawn = draw(model, DATA, 20_000, score=True, seed=1)
    _, posterior = discrete.table(model, DATA)
    numbers = state_numbers(model, drawn.samples)
    for row in range(len(DATA)):
        assert_frequencies(numbers[:, row], posterior[:, row].detach().exp())
    torch.testing.assert_close(drawn.log_posterior, posterior.gather(0, numbers), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_made_up_is_of_the_model(kind):
    """Pairs (z, x), against p(x, z)."""
    model = free(kind)
    samples, data = model.sample_prior_and_data(DATA[:1].expand(40_000, -1), seed=2)
    assert data.shape == (40_000, 3)
    assert [layer.shape[:2] for layer in samples] == [(1, 40_000)] * len(samples)
    joint, _ = discrete.table(model, discrete.every_bits(3))
    of_data = (data @ torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)).long()
    assert_frequencies(state_numbers(model, samples)[0] * 8 + of_data, joint.detach().exp().flatten())


def test_nothing_happens_that_has_no_probability():
    """A probability far below what a million uniforms resolve, and a category without any, are never drawn."""
    network, categorical = SigmoidBeliefNetwork(3, (200,)), CategoricalVAE(3, 100, 3, (4,))
    with torch.no_grad():
        network.encoder[0].weight.zero_()
        network.encoder[0].bias.copy_(torch.tensor([-60.0, 60.0]).repeat(100))
        categorical.encoder[-1].weight.zero_()
        categorical.encoder[-1].bias.copy_(torch.tensor([-200.0, 0.0, -200.0]).repeat(100))
    (bits,) = network.draw(torch.zeros(50, 3), 100, seed=3).samples
    assert torch.equal(bits, torch.tensor([0.0, 1.0]).repeat(100).expand_as(bits))
    (states,) = categorical.draw(torch.zeros(50, 3), 100, seed=3).samples
    assert torch.equal(states, torch.tensor([0.0, 1.0, 0.0]).expand_as(states))


@both_models
def test_a_shard_draws_what_it_would_have_drawn_in_the_whole(model):
    x = (torch.arange(21).reshape(7, 3) % 2).float()
    whole = model.draw(x, 5, seed=4)
    made_up = model.sample_prior_and_data(x, seed=4)
    for rows in (slice(0, 3), slice(3, 7)):
        part = model.draw(x[rows], 5, seed=4, row_offset=rows.start)
        for layer, of_whole in zip(part.samples, whole.samples, strict=True):
            assert torch.equal(layer, of_whole[:, rows])
        samples, data = model.sample_prior_and_data(x[rows], seed=4, row_offset=rows.start)
        assert torch.equal(data, made_up[1][rows])
        assert all(torch.equal(ours, every[:, rows]) for ours, every in zip(samples, made_up[0], strict=True))
    assert not torch.equal(model.draw(x, 5, seed=5).log_weights, whole.log_weights)
    torch.manual_seed(6)
    first = model.draw(x, 5).log_weights
    torch.manual_seed(6)
    assert torch.equal(model.draw(x, 5).log_weights, first)


@both_models
def test_layers_and_variables_have_noise_of_their_own(model):
    """Equal probabilities everywhere: the bits of a draw are not copies of one another."""
    with torch.no_grad():
        samples = model.draw(torch.zeros(1, 3), 2000, seed=7).samples
    bits = torch.cat([layer.flatten(2) for layer in samples], -1)[:, 0]
    if isinstance(model, CategoricalVAE):
        bits = bits[:, ::4]  # the first category of each variable
    correlation = torch.corrcoef(bits.t()) - torch.eye(bits.shape[1])
    assert correlation.abs().max() < 0.5


@both_models
def test_the_posterior_may_be_held_constant(model):
    x = torch.ones(2, 3)
    for detached in (False, True):
        drawn = draw(model, x, 3, detach_posterior=detached, score=True, seed=8)
        of_weights, of_score = (
            torch.autograd.grad(part.sum(), list(model.encoder.parameters()), retain_graph=True, allow_unused=True)
            for part in (drawn.log_weights, drawn.log_posterior)
        )
        for weight, score in zip(of_weights, of_score, strict=True):
            assert weight is None if detached else torch.allclose(weight, -score)


@both_models
def test_a_bound_rises_with_the_number_of_samples(model):
    bounds = stream_bounds(model, torch.ones(4, 3), 2000)
    assert (bounds.importance_weighted > bounds.elbo).all()


# Programs that are compiled or transformed

EVERY = [VIMCO(3), ScoreFunction(3), ScoreFunction(3, "control-variate"), ScoreFunction(2, "network")]
EVERY += [ReweightedWakeSleep(3, sleep_phi=True)]


def gradients(objective, model, x):
    model.zero_grad()
    objective(model, x, seed=9).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    ("model", "objective"),
    [(NETWORK, VIMCO(3)), (NETWORK, ReweightedWakeSleep(3, sleep_phi=True)), (CATEGORICAL, EVERY[2])],
    ids=["VIMCO", "wake-sleep", "control variate"],
)
def test_compiled_whole(model, objective):
    x = torch.ones(2, 3)
    expected = gradients(objective, model, x)
    torch._dynamo.reset()
    found = gradients(torch.compile(objective, backend="aot_eager", fullgraph=True), model, x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)  # float32 in another order


@both_models
@pytest.mark.parametrize("objective", EVERY, ids=str)
def test_functional_gradients(model, objective):
    x = torch.ones(2, 3)

    def total(parameters):
        class Called(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.model = model

            def forward(self, x):
                return objective(self.model, x, seed=9)

        named = {f"model.{name}": value for name, value in parameters.items()}
        return torch.func.functional_call(Called(), named, (x,)).sum()

    expected = gradients(objective, model, x)
    found = torch.func.grad(total)({name: value.detach() for name, value in model.named_parameters()})
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


# Training

SHORT = ("--epochs", "2", "--batch-size", "500", "--no-evaluate", "--out", "run")
NETWORK_FLAGS = ("--model", "sigmoid-belief-network", "--layer-dims", "6,4")
CATEGORICAL_FLAGS = ("--model", "categorical-vae", "--hidden-dims", "8", "--num-variables", "3")


@pytest.mark.usefixtures("own_directory")
@pytest.mark.parametrize("model", [NETWORK_FLAGS, CATEGORICAL_FLAGS], ids=["network", "categorical"])
@pytest.mark.parametrize(
    "objective",
    [
        ("vimco", "--mean", "arithmetic"),
        ("score-function", "--baseline", "network", "--baseline-dims", "5"),
        ("score-function", "--baseline", "control-variate"),
        ("reweighted-wake-sleep", "--sleep-phi"),
    ],
    ids=" ".join,
)
def test_each_is_trained_by_one_command(model, objective):
    result = call("train", *model, "--objective", *objective, *SHORT)
    assert result.exit_code == 0, result.output
    run = RunFolder(Path("run"))
    config = run.read_config()
    assert config.binarization == "dynamic"
    assert config.objective_name == objective[0]
    assert json.loads(run.config_file.read_text())["model"]["name"] == model[1]
    assert all(parameter.isfinite().all() for parameter in run.load_model().parameters())
    assert Path("run/reconstructions.png").exists()


@pytest.mark.usefixtures("own_directory")
def test_a_short_training_raises_the_bound():
    flags = (*NETWORK_FLAGS, "--objective", "vimco", "--epochs", "12", "--learning-rate", "0.01", "--no-evaluate")
    assert call("train", *flags, "--out", "run").exit_code == 0
    model = RunFolder(Path("run")).load_model()
    images = data.test_images(data.load_dataset("digits"), "dynamic")
    torch.manual_seed(0)
    before = SigmoidBeliefNetwork(64, (6, 4))
    bounds = [stream_bounds(each, images, 50).importance_weighted.mean().item() for each in (before, model)]
    assert bounds[1] > bounds[0] + 10.0


@pytest.mark.usefixtures("own_directory")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*NETWORK_FLAGS, "--objective", "vimco", "--num-samples", "1"), "--num-samples must be at least 2, got 1"),
        (
            (*NETWORK_FLAGS, "--objective", "score-function", "--baseline", "network"),
            "ScoreFunction with baseline='network': needs a model with a network baseline; SigmoidBeliefNetwork has",
        ),
        (
            ("--objective", "reweighted-wake-sleep", "--sleep-phi"),
            "needs a model with the methods sample_prior_and_data; VAE lacks sample_prior_and_data",
        ),
        ((*NETWORK_FLAGS, "--objective", "dreg"), "DReG: needs the samples of an encode; SigmoidBeliefNetwork"),
        (
            (*NETWORK_FLAGS, "--objective", "iwae"),
            "iwae would not train the encoder of sigmoid-belief-network, whose samples are discrete: take an objective "
            "that uses the score: tvo, vimco, score-function, reweighted-wake-sleep",
        ),
        (
            (*NETWORK_FLAGS, "--objective", "vimco", "--baseline-dims", "4"),
            "--baseline-dims asks for a baseline network that vimco does not use",
        ),
        ((*NETWORK_FLAGS, "--objective", "score-function", "--baseline-dims", "4"), "that score-function does not use"),
        ((*CATEGORICAL_FLAGS, "--objective", "stl"), "stl would not train the encoder of categorical-vae"),
        ((*NETWORK_FLAGS, "--layer-dims", "4,3,2,1"), "--layer-dims must be of 1 to 3 layers, got (4, 3, 2, 1)"),
    ],
)
def test_what_does_not_go_together_is_one_line(arguments, message):
    assert_one_clear_line(call("train", *arguments), message)


def test_the_options_are_in_the_help():
    text = CliRunner().invoke(app, ["train", "--help"], terminal_width=200).output
    sections = {part.split(":\n")[0]: part for part in text.split("Options of --")}
    assert "--layer-dims COUNTS" in sections["model sigmoid-belief-network"]
    assert "--num-categories COUNT" in sections["model categorical-vae"]
    assert "geometric or arithmetic  [default: geometric]" in sections["objective vimco"]
    assert "--sleep-phi / --no-sleep-phi" in sections["objective reweighted-wake-sleep"]


# Models and their messages


def test_options_build_the_models():
    mean = torch.linspace(0.0, 1.0, 64)
    network = make_model_options("sigmoid-belief-network", layer_dims=(5,)).build(DataShape((8, 8)), mean)
    categorical = make_model_options("categorical-vae", num_variables=2).build(DataShape((8, 8)), mean)
    for bias in (network.decoder[0].bias, categorical.likelihood_head.bias):
        torch.testing.assert_close(torch.sigmoid(bias), mean.clamp(1e-3, 1.0 - 1e-3))
    assert network.baseline is None
    assert SigmoidBeliefNetworkOptions(baseline_dims=(3,)).build(DataShape((2, 2))).baseline(
        torch.ones(5, 4)
    ).shape == (5,)
    assert CategoricalVAEOptions().likelihood == "bernoulli"
    assert network.reconstruct(torch.ones(3, 64)).shape == categorical.reconstruct(torch.ones(3, 64)).shape == (3, 64)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SigmoidBeliefNetwork(0), ValueError, "SigmoidBeliefNetwork: data_dim must be at least 1, got 0"),
        (lambda: SigmoidBeliefNetwork(3, ()), ValueError, "layer_dims must be one width or more"),
        (lambda: SigmoidBeliefNetwork(3, (1, 1, 1, 1)), ValueError, r"of 1 to 3 layers, got \(1, 1, 1, 1\)"),
        (lambda: SigmoidBeliefNetwork(3, (2.5,)), TypeError, "layer_dims must be an int, got 2.5"),
        (lambda: SigmoidBeliefNetwork(3, (2,), torch.ones(4)), ValueError, r"data_mean must have the shape \(3,\)"),
        (lambda: CategoricalVAE(3, 0), ValueError, "CategoricalVAE: num_variables must be at least 1, got 0"),
        (lambda: CategoricalVAE(3, 2, 1), ValueError, "num_categories must be at least 2, got 1"),
        (lambda: CategoricalVAE(3, activation="sine"), ValueError, "activation must be one of tanh, relu, .*'sine'"),
        (lambda: CategoricalVAE(3, baseline_dims=(0,)), ValueError, "baseline_dims must be at least 1, got 0"),
    ],
)
def test_sizes_are_checked(make, error, message):
    with pytest.raises(error, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


@both_models
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (None, TypeError, "x must be a tensor of the shape .B, 3. .*, got NoneType"),
        (torch.ones(2, 3, dtype=torch.int64), TypeError, "got a tensor of torch.int64"),
        (torch.ones(2, 4), ValueError, r"got the shape \(2, 4\)"),
        (torch.ones(3), ValueError, r"got the shape \(3,\)"),
        (torch.full((2, 3), 255.0), ValueError, r"a Bernoulli likelihood needs x in \[0, 1\]"),
    ],
)
def test_data_are_checked(model, x, error, message):
    for take in (lambda: model.draw(x, 2), lambda: model.reconstruct(x)):
        with pytest.raises(error, match=rf"^{type(model).__name__}: .*{message}"):
            take()


@both_models
def test_half_precision_products(model):
    """In autocast the products are of bfloat16; samples, and the density that they carry, are float32 and agree."""
    x = torch.ones(3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        drawn = model.draw(x, 4, seed=10)
        again = model.log_posterior(x, drawn.samples)
        for objective in (VIMCO(3), ScoreFunction(3, "control-variate"), IWAE(3)):
            assert objective(model, x, seed=0).dtype == torch.float32
    assert drawn.log_weights.dtype == drawn.log_posterior.dtype == torch.float32
    torch.testing.assert_close(again, drawn.log_posterior)


@both_models
def test_empty_batch(model):
    x = torch.ones(0, 3)
    for objective in EVERY:
        value = objective(model, x, seed=0)
        assert value.shape == (0,)
        value.sum().backward()
