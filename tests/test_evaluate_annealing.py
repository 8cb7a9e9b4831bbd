"""Annealed importance sampling of decoders: the linear-Gaussian model's exact log p(x), and every kind of model."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastvi import evaluate as evaluation
from fastvi import normal_log_prob
from fastvi.evaluate import annealed_weights, annealing_steps, evaluate_by_annealing, stream_bounds
from fastvi.evaluate.latents import latents_of, simulate
from fastvi.mcmc import bidirectional_monte_carlo
from fastvi.models import VAE, DataShape, make_model_options
from fastvi.models.priors import MixturePrior
from fastvi.objectives.joint import log_joint_target
from fastvi.objectives.latent import posterior_of, prior_of
from support.annealing import STANDARD_ERRORS, deviation
from support.linear_gaussian import make

SHORT: dict[str, Any] = {"num_temperatures": 40, "num_chains": 32}


def rows(model: Any, count: int) -> Any:
    return model.map(lambda value: value.detach().repeat(count, *(1,) * (value.dim() - 1)))


# The linear-Gaussian model


@pytest.mark.parametrize("start", ["prior", "encoder"])
@pytest.mark.parametrize("schedule", ["adaptive", "sigmoidal"])
def test_the_mean_weight_is_the_evidence(start: str, schedule: str) -> None:
    """On 60 copies of one x: 1,920 weights of a short run, and their logarithms near it."""
    model, x = make()
    count = 60
    found = annealed_weights(
        rows(model, count), x.repeat(count, 1), start=start, schedule=schedule, num_temperatures=6, num_chains=32
    )
    exact = model.log_marginal(x).item()
    assert deviation((found.log_weights - exact).exp()) < STANDARD_ERRORS
    assert abs(found.log_normalizer.mean().item() - exact) < 0.2


def simulated(seeds: int) -> tuple[Any, Tensor, Tensor]:
    """The model and x made from z of the prior, one for each of so many seeds."""
    one, _ = make()
    model = rows(one, seeds)
    assert model.prior_logvar is not None
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(seeds, 2, generator=generator, dtype=torch.float64)
    z = model.prior_mean + torch.exp(0.5 * model.prior_logvar) * noise
    mean = torch.einsum("bdz,bz->bd", model.weight, z) + model.bias
    error = torch.randn(mean.shape, generator=generator, dtype=torch.float64)
    return model, mean + torch.exp(0.5 * model.noise_logvar) * error, z


@pytest.mark.parametrize("start", ["prior", "encoder"])
def test_forward_and_reverse_enclose_the_evidence_for_every_seed(start: str) -> None:
    """By Markov's inequality one of 100 bounds is beyond log p(x) by ln(10^5) nats with a probability of 0.001 at most.

    The mean of the 50 x 8 weights, and of their reciprocals in reverse, is exact, and both are within a nat.
    """
    seeds = 50
    model, x, z = simulated(seeds)
    exact = model.log_marginal(x)
    latents = latents_of(model, x, start)
    found = bidirectional_monte_carlo(
        latents.target(), latents.start, latents.units(z), num_chains=8, num_temperatures=30, seed=0
    )
    slack = math.log(100 / 1e-3)
    assert bool((found.forward.log_normalizer < exact + slack).all())
    assert bool((found.reverse.log_normalizer > exact - slack).all())
    assert deviation((found.forward.log_weights - exact.unsqueeze(1)).exp()) < STANDARD_ERRORS
    # The eight reverse chains of one x start at the same draw: their mean is one observation.
    assert deviation((exact.unsqueeze(1) - found.reverse.log_weights).exp().mean(1)) < STANDARD_ERRORS
    assert bool((found.gap.abs() < 1.0).all())


def test_positions_are_draws_of_the_posterior() -> None:
    """Its mean is that of the exact encoder."""
    model, x = make()
    model = model.with_exact_posterior()
    found = annealed_weights(model, x, start="prior", num_temperatures=200, num_chains=2000)
    mean, logvar = model.encode(x)
    error = (found.position.mean(1) - mean) / torch.exp(0.5 * logvar) * 2000**0.5
    # The weights are nearly equal, and the chains independent.
    assert bool((found.effective_sample_size > 1800).all())
    assert bool((error.abs() < STANDARD_ERRORS).all())


# Every kind of model


def build(name: str, **options: Any) -> Any:
    torch.manual_seed(1)
    options = {"latent_dim": 2, "hidden_dims": (8,), **options}
    model: Any = make_model_options(name, **options).build(DataShape((3, 3), num_classes=3))
    with torch.no_grad():
        for parameter in model.parameters():  # a posterior that is not the prior
            parameter.mul_(1.3)
    return model


IMAGES = torch.tensor([[1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0], [0.0] * 9, [1.0] * 9])
LABELS = torch.tensor([0, 2, 1])
KINDS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "vae": lambda: (build("vae"), IMAGES),
    "gaussian likelihood": lambda: (build("vae", likelihood="gaussian"), IMAGES),
    "full covariance": lambda: (build("general-vae", posterior="full"), IMAGES),
    "flow": lambda: (build("general-vae", posterior="flow"), IMAGES),
    "learned prior": lambda: (build("general-vae", prior="gaussian"), IMAGES),
    "mixture prior": lambda: (build("general-vae", prior="mixture", prior_components=3), IMAGES),
    "vamp prior": lambda: (build("general-vae", prior="vamp", prior_components=3), IMAGES),
    "labels": lambda: (build("conditional-vae", prior="labels"), (IMAGES, LABELS)),
}


def evidence(model: Any, x: Any) -> Tensor:
    """log p(x) by quadrature over the two latent variables, whose densities are smooth at this spacing."""
    line = torch.linspace(-9.0, 9.0, 181, dtype=next(model.parameters()).dtype)
    count = len(LABELS)
    z = torch.cartesian_prod(line, line).unsqueeze(1).expand(-1, count, -1).contiguous()
    with torch.no_grad():
        log_joint = model.log_likelihood(x, z) + prior_of(model, x, posterior_of(model, x)).log_prob(z)
    return torch.logsumexp(log_joint, 0) + 2.0 * math.log(float(line[1] - line[0]))


@pytest.mark.parametrize("start", ["auto", "prior", "encoder"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_and_prior(kind: str, start: str) -> None:
    model, x = KINDS[kind]()
    found = annealed_weights(model, x, start=start, **SHORT)
    difference = found.log_normalizer - evidence(model, x)
    # Beside the error of the weights float32's of some ten terms.
    assert bool((difference.abs() < STANDARD_ERRORS * found.standard_error + 1e-4).all()), difference
    assert bool((found.standard_error < 0.3).all())


def test_models_that_draw_for_themselves() -> None:
    """Several layers as one layer of standard normal numbers, and a posterior that dynamics make of an encoder's."""
    torch.manual_seed(1)
    layers = make_model_options("hierarchical", latent_dims=(3, 2), hidden_dims=(8,), upper_hidden_dims=(8,))
    hierarchical: Any = layers.build(DataShape((3, 3)))
    hamiltonian: Any = build("hamiltonian", reverse=False)
    for model in (hierarchical, hamiltonian):
        found = annealed_weights(model, IMAGES, **SHORT)
        bounds = stream_bounds(model, IMAGES, 20_000)
        error = (found.standard_error.square() + 1.0 / bounds.effective_sample_size).sqrt()
        assert bool(((found.log_normalizer - bounds.importance_weighted).abs() < STANDARD_ERRORS * error).all())
    inner = annealed_weights(hamiltonian.model, IMAGES, **SHORT)
    assert torch.equal(found.log_weights, inner.log_weights)
    with pytest.raises(TypeError, match="HierarchicalVAE has several layers, which start from the prior alone"):
        annealed_weights(hierarchical, IMAGES, start="encoder")


def test_a_decoder_alone() -> None:
    """Without an encoder; the prior of none is the standard normal, for which this evidence is exact."""
    x = torch.tensor([[0.5, -1.0], [2.0, 0.0]], dtype=torch.float64)
    zeros = torch.zeros_like(x)
    decoder = types.SimpleNamespace(latent_dim=2, log_likelihood=lambda x, z: normal_log_prob(x, z, zeros))
    found = annealed_weights(decoder, x, **SHORT)
    exact = normal_log_prob(x, zeros, torch.full_like(x, math.log(2.0)))
    assert bool(((found.log_normalizer - exact).abs() < STANDARD_ERRORS * found.standard_error).all())
    result = evaluate_by_annealing(decoder, x, **SHORT)
    assert (result.importance_weighted, result.num_samples, result.start) == (None, None, "prior")


@pytest.mark.parametrize("start", ["prior", "encoder"])
def test_the_native_log_joint_is_that_of_autograd(start: str) -> None:
    """In the start's units: by the chain rule, and the volume of the change of variables."""
    model = build("vae").double()
    model.prior_mean = nn.Parameter(torch.tensor([0.5, -0.5]).double())
    model.prior_logvar = nn.Parameter(torch.tensor([0.3, -0.7]).double())
    x = IMAGES.double()
    latents = latents_of(model, x, start)
    position = torch.randn(15, 2, dtype=torch.float64, requires_grad=True)  # five chains of each image
    value, gradient = latents.target()(position.detach())
    mean, logvar = (model.prior_mean, model.prior_logvar) if start == "prior" else model.encode(x)
    units = position.view(3, 5, 2)
    z = (mean.expand(3, 2).unsqueeze(1) + torch.exp(0.5 * logvar).expand(3, 2).unsqueeze(1) * units).transpose(0, 1)
    expected = model.log_likelihood(x, z) + normal_log_prob(z, model.prior_mean, model.prior_logvar)
    expected = (expected + 0.5 * logvar.expand(3, 2).sum(-1)).T.flatten()
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), position)[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(latents.units(latents.values(units.transpose(0, 1))), units.transpose(0, 1))


def test_the_log_joint_of_any_prior() -> None:
    model = build("vae").double()
    model.log_prior = MixturePrior(3, 2).double()
    x, z = IMAGES.double(), torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    value, gradient = log_joint_target(model, x, prior_of(model, x, posterior_of(model, x)), "owner")(z)
    expected = model.log_likelihood(x, z) + model.log_prior(z)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), z)[0])


def test_noise_of_an_image_does_not_depend_on_the_batch() -> None:
    for kind in ("mixture prior", "full covariance"):
        model, x = KINDS[kind]()
        model, x = model.double(), x.double()
        start = "encoder" if kind == "full covariance" else "prior"
        whole = annealed_weights(model, x, start=start, num_temperatures=3, num_chains=3, seed=4)
        part = annealed_weights(model, x[1:], start=start, num_temperatures=3, num_chains=3, seed=4, row_offset=1)
        # Matrix products of another size add in another order.
        torch.testing.assert_close(part.log_weights, whole.log_weights[1:], rtol=1e-9, atol=1e-9)


# Figures


def test_figures_are_those_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the images come in several batches."""
    model = build("vae")
    options: dict[str, Any] = {"num_temperatures": 20, "num_chains": 8, "num_steps": 2, "seed": 5}
    found = annealed_weights(model, IMAGES, **options)
    monkeypatch.setattr(evaluation.annealing, "ROWS_AT_A_TIME", 16)  # two images
    calls: list[None] = []
    result = evaluate_by_annealing(
        model, IMAGES, num_samples=50, simulated_images=3, test_images=9, on_step=lambda: calls.append(None), **options
    )
    assert len(calls) == annealing_steps(3, 20, 8, simulated_images=3)
    approximately = {"rel": 1e-4}  # sums of float32 in another order
    assert result.log_evidence == pytest.approx(found.log_normalizer.mean().item(), **approximately)
    assert result.mean_log_weight == pytest.approx(found.log_weights.mean().item(), **approximately)
    assert result.standard_error == pytest.approx(found.log_normalizer.std().item() / 3**0.5, **approximately)
    assert result.annealing_error == pytest.approx(found.standard_error.square().sum().sqrt().item() / 3, rel=1e-3)
    assert result.effective_sample_size == pytest.approx(found.effective_sample_size.mean().item(), rel=1e-3)
    assert result.acceptance == pytest.approx(found.acceptance.mean().item(), rel=1e-3)
    assert result.least_acceptance == pytest.approx(found.acceptance.mean(1).min().item(), rel=1e-3)
    assert (result.images, result.test_images, result.num_leapfrogs, result.start) == (3, 9, 2, "encoder")
    assert result.importance_weighted == pytest.approx(
        stream_bounds(model, IMAGES, 50, seed=evaluation.annealing.mix_seed(5, 0)).importance_weighted.mean().item()
    )
    assert result.simulated_lower is not None
    assert result.simulated_upper is not None
    assert -0.5 < result.simulated_upper - result.simulated_lower < 2.0
    assert set(result.as_dict()) == {field.name for field in dataclasses.fields(result)}


def test_one_image_and_one_chain_tell_no_errors() -> None:
    result = evaluate_by_annealing(build("vae"), IMAGES[:1], num_temperatures=1, num_chains=1, num_samples=None)
    assert (result.standard_error, result.annealing_error, result.acceptance, result.importance_weighted) == (None,) * 4


def test_simulated_images_are_of_the_model() -> None:
    """Each pixel of many images is 1 as often as the decoder's mean over the prior says."""
    model = build("vae")
    x, z = simulate(model, 4000, IMAGES, seed=0)
    assert x.shape == (4000, 9)
    assert bool(((x == 0.0) | (x == 1.0)).all())
    with torch.no_grad():
        difference = x - model.decode(z)
    assert bool((difference.mean(0).abs() < STANDARD_ERRORS * difference.std(0) / 4000**0.5).all())
    assert bool((z.mean(0).abs() < STANDARD_ERRORS / 4000**0.5).all())


# What is refused


class NoSample(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return -0.5 * z.square().sum(-1)


def with_prior(prior: nn.Module) -> Any:
    model = build("vae")
    model.log_prior = prior
    return model


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: annealed_weights(make_model_options("categorical-vae").build(DataShape((3, 3))), IMAGES),
            TypeError,
            "needs a model of continuous latent variables with a prior and log_likelihood.*CategoricalVAE",
        ),
        (
            lambda: annealed_weights(make_model_options("sigmoid-belief-network").build(DataShape((3, 3))), IMAGES),
            TypeError,
            "needs a model of continuous latent variables with a prior and log_likelihood.*SigmoidBeliefNetwork",
        ),
        (lambda: annealed_weights(build("vae"), IMAGES, start="q"), ValueError, "auto, prior, encoder, got 'q'"),
        (lambda: annealed_weights(build("vae"), IMAGES, schedule="q"), ValueError, "linear, sigmoidal, adaptive"),
        (lambda: annealed_weights(with_prior(NoSample()), IMAGES, start="prior"), TypeError, "start from the encoder"),
        (
            lambda: annealed_weights(types.SimpleNamespace(log_likelihood=None), IMAGES),
            TypeError,
            "SimpleNamespace has no encode and no latent_dim",
        ),
        (lambda: evaluate_by_annealing(build("vae"), IMAGES[:0]), ValueError, "images holds no image"),
        (
            lambda: evaluate_by_annealing(build("vae"), IMAGES, num_chains=0),
            ValueError,
            "num_chains must be at least 1",
        ),
        (
            lambda: evaluate_by_annealing(build("vae", likelihood="gaussian"), IMAGES, simulated_images=2),
            TypeError,
            "images are simulated for models with a Bernoulli likelihood",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_discrete_latents_of_an_encoder_are_refused() -> None:
    def encode(x: Tensor) -> Any:
        return torch.distributions.Independent(torch.distributions.Bernoulli(logits=x[:, :2]), 1)

    model = types.SimpleNamespace(encode=encode, log_likelihood=VAE(9, 2, (4,)).log_likelihood)
    with pytest.raises(TypeError, match="needs continuous latent variables: those of SimpleNamespace"):
        annealed_weights(model, IMAGES)
