"""fastvi's distributions in Pyro: bounds, gradients and draws as with Pyro's own."""

from __future__ import annotations

import doctest
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fastvi

pyro = pytest.importorskip("pyro", reason="needs Pyro: pip install pyro-ppl")
PLAIN = pyro.distributions


class PlainNormal(PLAIN.Normal):
    """Pyro's own normal distribution with fastvi's noise, so that both have the same draws."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return fastvi.rsample_normal(self.loc, 2.0 * self.scale.log(), sample_shape)


class Rows:
    """A Gaussian model of binary data with one layer, in both kinds of distributions."""

    def __init__(self, likelihood: str) -> None:
        generator = torch.Generator().manual_seed(0)
        shapes = {"encoder": (5, 4), "weight": (5, 2), "bias": (5,)}
        self.parameters = {
            name: torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
            for name, shape in shapes.items()
        }
        self.x = torch.randint(2, (3, 5), generator=generator).double()
        self.likelihood = likelihood

    def model(self, fused: bool) -> None:
        weight, bias = (pyro.param(name, self.parameters[name]) for name in ("weight", "bias"))
        zeros = self.x.new_zeros(3, 2)
        with pyro.plate("batch", 3):
            prior = fastvi.pyro.DiagNormal(zeros, zeros) if fused else PLAIN.Normal(zeros, 1.0).to_event(1)
            z = pyro.sample("z", prior)
            logits = z @ weight.T + bias
            if self.likelihood == "Laplace":
                scale = torch.zeros_like(logits)
                ours = fastvi.pyro.DiagLaplace(logits, scale) if fused else None
                pyro.sample("x", ours or PLAIN.Laplace(logits, scale.exp()).to_event(1), obs=self.x)
            elif not fused:
                pyro.sample("x", PLAIN.Bernoulli(logits=logits).to_event(1), obs=self.x)
            elif self.likelihood == "linear":
                pyro.sample("x", fastvi.pyro.LinearBernoulli(z, weight, bias), obs=self.x)
            else:
                pyro.sample("x", fastvi.pyro.BernoulliLogits(logits), obs=self.x)

    def guide(self, fused: bool) -> None:
        mean, logvar = (self.x @ pyro.param("encoder", self.parameters["encoder"])).chunk(2, -1)
        with pyro.plate("batch", 3):
            plain = PlainNormal(mean, torch.exp(0.5 * logvar)).to_event(1)
            pyro.sample("z", fastvi.pyro.DiagNormal(mean, logvar) if fused else plain)


@pytest.fixture(autouse=True)
def _no_parameters() -> None:
    pyro.clear_param_store()


def loss_and_gradients(bound: Any, rows: Rows, fused: bool) -> tuple[float, list[Tensor]]:
    pyro.clear_param_store()
    torch.manual_seed(4)
    loss = bound.loss_and_grads(rows.model, rows.guide, fused)
    stored = [pyro.param(name).unconstrained() for name in rows.parameters]
    gradients = [parameter.grad.clone() for parameter in stored]
    for parameter in stored:
        parameter.grad = None
    return loss, gradients


BOUNDS: dict[str, Callable[[], Any]] = {
    "ELBO": pyro.infer.Trace_ELBO,
    "ELBO of 7 particles": lambda: pyro.infer.Trace_ELBO(
        num_particles=7, vectorize_particles=True, max_plate_nesting=1
    ),
    "analytic ELBO": pyro.infer.TraceMeanField_ELBO,
    "Renyi": lambda: pyro.infer.RenyiELBO(num_particles=7, vectorize_particles=True, max_plate_nesting=1),
    "Renyi, particle by particle": lambda: pyro.infer.RenyiELBO(alpha=0.5, num_particles=7),
}


@pytest.mark.parametrize("likelihood", ["logits", "linear", "Laplace"])
@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_and_their_gradients_are_those_of_pyros_distributions(name: str, likelihood: str) -> None:
    rows, bound = Rows(likelihood), BOUNDS[name]()
    loss, gradients = loss_and_gradients(bound, rows, fused=True)
    expected, expected_gradients = loss_and_gradients(bound, rows, fused=False)
    assert loss == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-10, atol=1e-10)


def test_the_renyi_bound_of_order_zero_is_the_importance_weighted_one() -> None:
    """L_K of a batch is the sum of its examples': two estimates of 400 draws, within 4.5 standard errors."""
    rows, particles = Rows("linear"), 5

    class Same(torch.nn.Module):
        prior_mean = prior_logvar = None

        def encode(self, x: Tensor) -> tuple[Tensor, ...]:
            return (x @ rows.parameters["encoder"]).chunk(2, -1)

        def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
            return fastvi.linear_bernoulli_log_prob(z, rows.parameters["weight"], rows.parameters["bias"], x)

    bound = pyro.infer.RenyiELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    torch.manual_seed(0)
    theirs = torch.tensor([-bound.loss(rows.model, rows.guide, True) for _ in range(400)])
    objective = fastvi.objectives.IWAE(particles)
    with torch.no_grad():
        ours = torch.stack([objective(Same(), rows.x, seed=i).sum() for i in range(400)])
    error = math.sqrt((theirs.var() + ours.var()).item() / 400)
    assert abs(theirs.mean() - ours.mean()).item() < 4.5 * error


@pytest.mark.parametrize("name", fastvi.pyro.__all__)
def test_a_sample_site(name: str) -> None:
    """Expanded by a plate, masked, drawn with the shape that Pyro expects, and still of its own class."""
    kind = getattr(fastvi.pyro, name)
    assert getattr(fastvi.pyro, name) is kind
    assert issubclass(kind, getattr(fastvi.distributions, name))
    zeros = torch.zeros(2)
    made = kind(zeros, torch.zeros(2, 2)) if name == "LinearBernoulli" else kind(*[zeros] * (1 + ("Diag" in name)))

    def model() -> Tensor:
        with pyro.plate("outer", 4, dim=-2), pyro.plate("inner", 3):
            return pyro.sample("z", made.mask(torch.tensor([True, False, True])))

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["z"]["value"].shape == (4, 3, 2)
    log_prob = trace.nodes["z"]["log_prob"]
    assert log_prob.shape == (4, 3)
    assert log_prob[:, 1].tolist() == [0.0] * 4
    assert type(made.expand((3,))) is kind


def test_a_flow_of_modules_in_a_guide() -> None:
    """A scale by two of N(0, 1) is N(0, 4): its divergence from N(0, 1) by a sample, against the closed form."""

    class Scale(torch.nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return 2.0 * x, x.new_full(x.shape[:1], 2 * math.log(2.0))

        def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
            return 0.5 * y, y.new_full(y.shape[:1], -2 * math.log(2.0))

    zeros = torch.zeros(3, 2, dtype=torch.float64)

    def guide() -> None:
        transforms = [fastvi.distributions.ModuleTransform(Scale())]
        with pyro.plate("batch", 3):
            pyro.sample("z", PLAIN.TransformedDistribution(fastvi.pyro.DiagNormal(zeros, zeros), transforms))

    def model() -> None:
        with pyro.plate("batch", 3):
            pyro.sample("z", fastvi.pyro.DiagNormal(zeros, zeros))

    torch.manual_seed(0)
    losses = torch.tensor([pyro.infer.Trace_ELBO().loss(model, guide) for _ in range(300)])
    expected = 6 * 0.5 * (4.0 - 1.0 - math.log(4.0))
    assert abs(losses.mean().item() - expected) < 4.5 * losses.std().item() / math.sqrt(300)


def test_the_examples_of_the_page_run() -> None:
    page = Path(__file__).parents[1] / "docs" / "pyro.md"
    results = doctest.testfile(str(page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted > 10
    assert results.failed == 0
