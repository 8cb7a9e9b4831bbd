"""Every estimator where x, or what the encoder made of it, reaches the likelihood beside z: unbiased there as well.

The identity behind the doubly reparameterised gradient, E_q[f(z) d log q(z) / d phi] = E_q[df/dz dz/dphi], holds for
any f, so also for normalised weights that depend on x and on the encoder's parameters by other ways than z (Tucker et
al. 2019, appendix A, ask no more of f). Exact gradients come from quadrature, which knows nothing of estimators.
"""

import dataclasses

import pytest
import torch

from fastvi.objectives import ELBO, IWAE, MIWAE, STL, TVO, DReG
from support import linear_gaussian
from support.linear_gaussian import LinearGaussian, assert_expectation, exact_gradients, gradient_draws


class FromX(LinearGaussian):
    """p(x_i|z, x_(i-1)): the likelihood's mean is that of W z + b and half of the value before, as in an
    autoregressive or a conditional decoder."""

    def log_likelihood(self, x, z):
        context = 0.5 * torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
        return super().log_likelihood(x - context, z)


class FromEncoder(LinearGaussian):
    """The encoder's own output enters the likelihood, with its graph: a skip connection that shares parameters."""

    def log_likelihood(self, x, z):
        mean, logvar = self.encode(x)
        context = torch.tanh(mean) + 0.3 * logvar
        return super().log_likelihood(x - context, z)


OBJECTIVES = [
    *(ELBO(2), ELBO(2, analytic_kl=False), STL(2), IWAE(2), IWAE(3, backward_samples=2), DReG(2), DReG(3)),
    *(MIWAE(3, 2), TVO(2, 1)),
]


@pytest.mark.parametrize("kind", [FromX, FromEncoder])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_gradients_in_expectation(objective, kind):
    """Values and gradients of 40,000 examples against quadrature, in float64; see `STANDARD_ERRORS` for the bound."""
    plain, x = linear_gaussian.make(latent_dim=1)
    model = kind(**{field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)})
    samples = objective.num_samples if isinstance(objective, (IWAE, DReG, MIWAE)) else 1
    value, gradients = gradient_draws(objective, model, x, 40_000, seed=31)
    assert_expectation(value, model.importance_bound(x, samples), "value")
    for name, expected in exact_gradients(lambda leaves: leaves.importance_bound(x, samples), model).items():
        assert_expectation(gradients[name], expected, name)


@pytest.mark.parametrize("kind", [FromX, FromEncoder])
def test_the_context_matters(kind):
    """Without it the exact gradients of the encoder are others, so that the test above asks for something."""
    plain, x = linear_gaussian.make(latent_dim=1)
    model = kind(**{field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)})
    gradients = [exact_gradients(lambda leaves: leaves.importance_bound(x, 2), each) for each in (plain, model)]
    assert (gradients[0]["encoder_bias"] - gradients[1]["encoder_bias"]).abs().max() > 0.05
