"""Normalising flows as posteriors: their densities, their gradients, and flows without an inverse."""

import types

import pytest
import torch
from torch import nn
from torch.distributions import AffineTransform, ExpTransform, Independent, LogNormal

from fastvi import normal_log_prob
from fastvi.distributions import ModuleTransform
from fastvi.distributions.seeded import log_prob_along_path
from fastvi.objectives import ELBO, IWAE, STL, DReG, draw
from support.posteriors import (
    B,
    Leaves,
    Triangular,
    X,
    Z,
    affine_flow,
    affine_pair,
    base,
    flow,
    linear,
    normal,
    outcome,
)


def log_joint(model, z):
    return model.log_likelihood(X, z) + normal_log_prob(z, model.prior_mean, model.prior_logvar)


def test_detaching_the_base_alone_is_another_gradient():
    """A planted mistake: the transforms' parameters stay attached inside log q."""
    model = Leaves(affine_flow)
    z = model.encode(X).rsample((2,))

    def with_constant_base(m):
        constant = types.SimpleNamespace(mean=m.mean.detach(), logvar=m.logvar.detach())
        return flow(normal(constant), AffineTransform(m.shift, torch.exp(m.logvar), event_dim=1))

    planted = torch.autograd.grad(with_constant_base(model).log_prob(z).sum(), model.shift, retain_graph=True)[0]
    found = torch.autograd.grad(log_prob_along_path(model.encode(X), z).sum(), model.shift)[0]
    mean, logvar = affine_pair(model)
    expected = (-(z - mean) * torch.exp(-logvar)).sum(0).detach()  # d log q / d z, and dz / d shift is 1
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert (planted - expected).abs().max() > 0.1


@pytest.mark.parametrize("objective", [STL(2), DReG(3)], ids=str)
def test_a_density_along_the_path_is_differentiated_once(objective):
    """Where a second derivative would lack a part it raises; a graph of the first alone does no harm."""
    model = Leaves(affine_flow)
    value = objective(model, X, seed=0).sum()
    plain = torch.autograd.grad(value, model.mean, retain_graph=True)
    found = torch.autograd.grad(value, model.mean, create_graph=True)
    torch.testing.assert_close(found, plain, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match=r"a density along the path of .* is differentiated once only"):
        torch.autograd.grad(found[0].sum(), model.shift)


@pytest.mark.parametrize("objective", [IWAE(3), STL(2)], ids=str)
def test_functional_gradient(objective):
    """torch.func.grad, in which tensors are wrapped, gives the gradients of autograd."""
    model = Leaves(affine_flow)
    expected = outcome(objective, model)[1][0]

    def value(mean):
        model.mean = mean
        return objective(model, X, seed=11).sum()

    torch.testing.assert_close(torch.func.grad(value)(model.mean.detach()), expected, rtol=1e-10, atol=1e-12)


def test_a_module_runs_once_for_each_step():
    """The determinant that came with a sample is not computed again."""
    calls = []

    class Counting(Triangular):
        def forward(self, x):
            calls.append("forward")
            return super().forward(x)

        def inverse(self, y):
            calls.append("inverse")
            return super().inverse(y)

    model = Leaves(lambda m: flow(base(m), ModuleTransform(Counting(m.below)), ModuleTransform(Counting(m.below))))
    for objective, expected in ((IWAE(3), {"forward": 2}), (STL(3), {"forward": 2, "inverse": 2})):
        calls.clear()
        objective(model, X, seed=0).sum().backward()
        assert {name: calls.count(name) for name in set(calls)} == expected


def test_the_density_of_a_flow_is_that_of_its_jacobian():
    model = Leaves(lambda m: flow(base(m), ModuleTransform(Triangular(m.below)), ExpTransform()))
    drawn = draw(model, X, 4, score=True, seed=1)
    inner = draw(Leaves(linear), X, 4, score=True, seed=1)
    torch.testing.assert_close(drawn.samples, torch.exp(inner.samples))
    torch.testing.assert_close(drawn.log_posterior, inner.log_posterior - inner.samples.sum(-1))
    model.posterior = lambda m: Independent(LogNormal(m.mean, torch.exp(0.5 * m.logvar)), 1)
    whole = draw(model, X, 4, seed=1)
    density = model.encode(X).log_prob(whole.samples)
    joint = model.log_likelihood(X, whole.samples) + normal_log_prob(
        whole.samples, model.prior_mean, model.prior_logvar
    )
    torch.testing.assert_close(whole.log_weights, joint - density, rtol=1e-10, atol=1e-10)


class Planar(nn.Module):
    """Rezende and Mohamed 2015, equation 10: no inverse in closed form."""

    def __init__(self):
        super().__init__()
        self.u, self.w = (torch.tensor(values, dtype=torch.float64) for values in ([0.5, 0.2, 0.4], [0.7, -0.3, 0.6]))

    def forward(self, x):
        activation = torch.tanh(x @ self.w + 0.1)
        return x + self.u * activation[:, None], torch.log1p((1 - activation.square()) * (self.u @ self.w))


def test_a_flow_without_an_inverse():
    model = Leaves(lambda m: flow(base(m), ModuleTransform(Planar())))
    drawn = draw(model, X, 3, seed=5)
    inner = draw(Leaves(lambda m: (m.mean, m.logvar)), X, 3, score=True, seed=5)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: Planar()(row[None])[0][0]))(inner.samples.reshape(-1, Z))
    density = inner.log_posterior - torch.linalg.slogdet(jacobian).logabsdet.reshape(3, B)
    joint = model.log_likelihood(X, drawn.samples) + normal_log_prob(
        drawn.samples, model.prior_mean, model.prior_logvar
    )
    torch.testing.assert_close(drawn.log_weights, joint - density, rtol=1e-10, atol=1e-10)
    for objective in (IWAE(3), IWAE(3, 2), ELBO(2, analytic_kl=False)):
        assert all(gradient.isfinite().all() for gradient in outcome(objective, model)[1])
    message = (
        r"^Leaves\.encode: TransformedDistribution: Planar has no inverse, which the density at a given place takes$"
    )
    for objective in (STL(2), DReG(2)):
        with pytest.raises(TypeError, match=message):
            objective(model, X)


def test_a_context_belongs_to_its_example():
    class Shift(nn.Module):
        def forward(self, x, context):
            return x + context, x.new_zeros(len(x))

        def inverse(self, y, context):
            return y - context, y.new_zeros(len(y))

    first = outcome(DReG(3), Leaves(lambda m: (m.mean + m.shift, m.logvar)))
    second = outcome(DReG(3), Leaves(lambda m: flow(base(m), ModuleTransform(Shift(), m.shift))))
    torch.testing.assert_close(second, first, rtol=1e-9, atol=1e-9)
    wrong = ModuleTransform(nn.Identity())
    with pytest.raises(TypeError, match=r"ModuleTransform: Identity must return the pair .* got Tensor"):
        wrong(torch.zeros(2, 3))
