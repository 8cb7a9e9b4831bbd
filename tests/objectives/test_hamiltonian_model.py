"""The model of Hamiltonian variational inference: seeds, shards, dtypes, evaluation, complaints."""

import doctest
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from fastvi.evaluate import evaluate, stream_bounds
from fastvi.models import VAE, DataShape, HamiltonianOptions, HamiltonianPosterior, ReverseNetwork
from fastvi.objectives import ELBO, IWAE, DReG
from fastvi.training.config import RunFolder
from support.command import assert_one_clear_line, call
from support.hamiltonian import configurations, shaken

SAMPLED = ELBO(analytic_kl=False)


def small(**options):
    torch.manual_seed(10)
    return shaken(VAE(6, 2, (4,)).double(), 2, options), torch.rand(7, 6, dtype=torch.float64).round()


@configurations
def test_one_seed_determines_everything_and_shards_are_parts_of_the_whole(options):
    wrapped, x = small(**options)
    first = IWAE(3)(wrapped, x, seed=11)
    torch.manual_seed(0)  # of no importance where a seed is given
    torch.testing.assert_close(IWAE(3)(wrapped, x, seed=11), first, rtol=0.0, atol=0.0)
    assert (IWAE(3)(wrapped, x, seed=12) != first).all()
    parts = [IWAE(3)(wrapped, x[rows], seed=11, row_offset=rows.start) for rows in (slice(0, 3), slice(3, 7))]
    torch.testing.assert_close(torch.cat(parts), first, rtol=0.0, atol=1e-12)
    torch.manual_seed(13)
    without = IWAE(3)(wrapped, x)
    assert (IWAE(3)(wrapped, x) != without).all()
    torch.manual_seed(13)
    torch.testing.assert_close(IWAE(3)(wrapped, x), without, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_value_is_the_same_without_a_graph(likelihood):
    torch.manual_seed(10)
    wrapped, x = shaken(VAE(6, 2, (4,), likelihood=likelihood).double(), 2, {}), torch.rand(7, 6).double().round()
    expected = IWAE(3)(wrapped, x, seed=11)
    with torch.no_grad():
        found = IWAE(3)(wrapped, x, seed=11)
    with torch.inference_mode():  # an x that was made there is no tensor that autograd could keep
        inferred = IWAE(3)(wrapped, x.clone(), seed=11)
    assert not found.requires_grad
    torch.testing.assert_close([found, inferred.clone()], [expected.detach()] * 2, rtol=0.0, atol=1e-12)


def test_float32_and_an_empty_batch():
    wrapped, x = small()
    expected = IWAE(3)(wrapped, x, seed=11)
    value = IWAE(3)(wrapped.float(), x.float(), seed=11)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-4)
    assert IWAE(3)(wrapped, x[:0].float(), seed=11).shape == (0,)


def test_a_prior_and_a_subclass_take_the_way_of_the_operations():
    """The decoder's node, and autograd through the operations, give the same."""

    class Own(VAE):
        def log_likelihood(self, x, z):
            return super().log_likelihood(x, z)

    torch.manual_seed(10)
    models = [VAE(6, 2, (4,)).double(), Own(6, 2, (4,)).double()]
    models[1].load_state_dict(models[0].state_dict())
    results = []
    for model in models:
        model.prior_mean = nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))
        model.prior_logvar = nn.Parameter(torch.tensor([0.1, 0.4], dtype=torch.float64))
        wrapped = shaken(model, 2, {"num_transitions": 2})
        value = IWAE(3)(wrapped, torch.ones(5, 6, dtype=torch.float64), seed=2)
        results.append([value.detach(), *torch.autograd.grad(value.sum(), list(wrapped.parameters()))])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-11)


def test_compiled_whole():
    wrapped, x = small(num_leapfrogs=1)
    parameters = list(wrapped.parameters())
    torch._dynamo.reset()
    results = []
    for function in (IWAE(2), torch.compile(IWAE(2), backend="aot_eager", fullgraph=True)):
        torch.manual_seed(4)
        value = function(wrapped, x)
        results.append([value.detach(), *torch.autograd.grad(value.sum(), parameters)])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("shape", [(3, 2), (28, 28)])
def test_images_of_any_shape(shape):
    options = HamiltonianOptions(latent_dim=2, hidden_dims=(4,), reverse_dim=4, num_transitions=2)
    wrapped = options.build(DataShape(shape))
    x = torch.rand(5, math.prod(shape)).round()
    assert SAMPLED(wrapped, x).shape == (5,)
    assert wrapped.reconstruct(x).shape == wrapped.decode(torch.zeros(5, 2)).shape == x.shape


def test_it_is_evaluated():
    wrapped, x = small()
    result = evaluate(wrapped, x, num_samples=50)
    assert (result.images, result.latent_dim) == (7, (2,))
    bounds = stream_bounds(wrapped, x, 50, chunk=7)
    assert (bounds.importance_weighted >= bounds.elbo).all()


def test_step_sizes_stay_below_their_bound():
    wrapped = HamiltonianPosterior(VAE(6, 2, (4,)), 2, 3, step_size=0.1, max_step_size=0.4)
    torch.testing.assert_close(wrapped.step_sizes, torch.full((3, 2), 0.1))
    wrapped.step_logits.data.fill_(50.0)
    assert wrapped.step_sizes.max() <= 0.4


@pytest.mark.parametrize("tempering", ["quadratic", "free"])
def test_tempering_starts_at_its_temperature(tempering):
    wrapped = HamiltonianPosterior(VAE(6, 2, (4,)), 2, 2, 5, tempering=tempering, inverse_temperature=0.3)
    scales = wrapped.momentum_scales(1)
    assert scales.shape == (5,)
    assert scales.prod().square().item() == pytest.approx(0.3, rel=1e-5)
    assert scales.max() < 1.0


# What is refused


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_transitions": 0}, ValueError, "num_transitions must be at least 1, got 0"),
        ({"num_leapfrogs": 1.5}, TypeError, "num_leapfrogs must be an int, got 1.5"),
        ({"step_size": 0.5}, ValueError, "step_size must be above 0 and below max_step_size = 0.5, got 0.5"),
        ({"step_size": 0.0}, ValueError, "step_size must be above 0 and below max_step_size = 0.5, got 0.0"),
        ({"max_step_size": math.inf}, ValueError, "max_step_size must be finite and not negative, got inf"),
        ({"inverse_temperature": 1.0}, ValueError, "inverse_temperature must be above 0 and below 1, got 1.0"),
        ({"mass": "heavy"}, ValueError, "mass must be one of unit, learned, posterior, got 'heavy'"),
        ({"tempering": "hot"}, ValueError, "tempering must be one of none, quadratic, free, got 'hot'"),
    ],
)
def test_wrong_options_are_named(options, error, message):
    with pytest.raises(error, match=f"^HamiltonianPosterior: {message}"):
        HamiltonianPosterior(VAE(6, 2, (4,)), 2, **options)
    with pytest.raises(error, match=f"^HamiltonianOptions: {message}"):
        HamiltonianOptions(**options)


def test_what_a_model_lacks_is_one_line():
    with pytest.raises(TypeError, match=r"HamiltonianPosterior: needs a model with the methods encode and .*Linear"):
        HamiltonianPosterior(nn.Linear(2, 2), 2)
    with pytest.raises(ValueError, match=r"latent_dim is 3, but VAE.encode gives 2 latent variables"):
        SAMPLED(HamiltonianPosterior(VAE(6, 2, (4,)), 3), torch.ones(4, 6))
    with pytest.raises(ValueError, match="reverse must be one module, or one for each of 2 transitions, got 3"):
        HamiltonianPosterior(VAE(6, 2, (4,)), 2, 2, reverse=[ReverseNetwork(2, 3)] * 3)


class Quantised(VAE):
    """Its log-likelihood is no differentiable function of z."""

    def log_likelihood(self, x, z):
        return super().log_likelihood(x, z.detach().round())


class Short(nn.Module):
    def forward(self, arrival):
        return arrival.mean, arrival.logvar


@pytest.mark.parametrize(
    ("wrapped", "error", "message"),
    [
        (
            HamiltonianPosterior(VAE(6, 2, (4,)), 2, reverse=Short()),
            ValueError,
            r"HamiltonianPosterior: the reverse model must give mean and logvar of .* = \(1, 4, 2\), got mean",
        ),
        (
            HamiltonianPosterior(Quantised(6, 2, (4,)), 2),
            ValueError,
            "HamiltonianPosterior: Quantised.log_likelihood has no gradient by the position: it must be",
        ),
        (
            HamiltonianPosterior(VAE(6, 2, (4,)), 2, 1, 40, 400.0, 800.0, mass="unit"),
            FloatingPointError,
            "HamiltonianPosterior: a trajectory became infinite or NaN in transition 1 of 1: its step sizes, "
            "up to 400, are too large; max_step_size bounds them",
        ),
    ],
    ids=["reverse", "density", "trajectory"],
)
def test_what_fails_on_the_way_is_one_line(wrapped, error, message):
    if error is FloatingPointError:
        wrapped.model.decoder[0].weight.data.mul_(1e3)
        wrapped.model.prior_logvar = torch.full((2,), -60.0)
    with pytest.raises(error, match=message) as raised:
        SAMPLED(wrapped, torch.ones(4, 6))
    assert "\n" not in str(raised.value)


def test_a_start_that_is_not_finite_is_no_fault_of_the_trajectory():
    wrapped = HamiltonianPosterior(VAE(6, 2, (4,)), 2)
    wrapped.model.posterior_head.bias.data.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="gradient at the encoder's samples is infinite or NaN, before any"):
        SAMPLED(wrapped, torch.ones(4, 6))


@pytest.mark.parametrize("objective", [ELBO(), DReG(2), IWAE(2, 1)], ids=str)
def test_objectives_of_a_gaussian_encoder_say_so(objective):
    with pytest.raises(TypeError, match="HamiltonianPosterior"):
        objective(HamiltonianPosterior(VAE(6, 2, (4,)), 2), torch.ones(4, 6))


def test_documentation_page():
    page = Path(__file__).parents[2] / "docs" / "bounds" / "hamiltonian.md"
    results = doctest.testfile(str(page), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert results.attempted > 0
    assert results.failed == 0


# By the program

SHORT = ("--model", "hamiltonian", "--latent-dim", "2", "--hidden-dims", "8", "--batch-size", "500", "--epochs", "1")


def test_it_trains_and_is_evaluated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--num-transitions", "2", "--num-leapfrogs", "2", "--mass", "learned", "--tempering", "free")
    evaluation = ("--evaluation-samples", "5", "--evaluation-limit", "20")
    result = call("train", *SHORT, *options, *evaluation, "--reverse-dim", "6", "--out", "run")
    assert result.exit_code == 0, result.output
    assert all((tmp_path / "run" / name).exists() for name in ("reconstructions.png", "samples.png", "manifold.png"))
    model = RunFolder(tmp_path / "run").load_model()
    assert (model.num_transitions, model.mass, model.tempering) == (2, "learned", "free")


def test_a_trajectory_that_diverges_ends_a_run_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps = ("--mass", "unit", "--step-size", "1e6", "--max-step-size", "1e7", "--num-leapfrogs", "10")
    assert_one_clear_line(
        call("train", *SHORT, *steps),
        "epoch 1: HamiltonianPosterior: a trajectory became infinite or NaN in transition 1 of 1: its step sizes, "
        "up to 1e+06, are too large; max_step_size bounds them: try a smaller --learning-rate",
    )
