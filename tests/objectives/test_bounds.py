"""Log-weights and the two bounds made of them, exact on the linear-Gaussian model."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fastvi.objectives import elbo_bound, iwae_bound, log_weights
from support import linear_gaussian
from support.linear_gaussian import ENCODER, GENERATIVE, PRIOR, assert_expectation, exact_gradients, gradient_draws

ROUNDING = {"rtol": 0.0, "atol": 1e-10}
"""Float64 sums of a few terms of size 10 and less."""


@pytest.mark.parametrize("learned_prior", [True, False])
@pytest.mark.parametrize("detach_posterior", [True, False])
def test_log_weights_of_the_exact_posterior_are_the_evidence(learned_prior, detach_posterior):
    model, x = linear_gaussian.make(learned_prior=learned_prior)
    exact = model.with_exact_posterior().rows(5)
    log_w = log_weights(exact, x.expand(5, -1), 7, detach_posterior=detach_posterior, seed=1)
    torch.testing.assert_close(log_w, model.log_marginal(x).expand(7, 5), **ROUNDING)


def test_log_weights_of_a_wrong_posterior_average_to_the_evidence():
    model, x = linear_gaussian.make()
    log_w = log_weights(model.rows(4000), x.expand(4000, -1), 5, seed=2)
    assert log_w.shape == (5, 4000)
    assert log_w.std() > 0.1  # a wrong posterior indeed
    assert_expectation(torch.exp(log_w.detach() - model.log_marginal(x)).T.mean(1), 1.0, "mean weight / p(x)")


@pytest.mark.parametrize("learned_prior", [True, False])
@pytest.mark.parametrize("detach_posterior", [True, False])
def test_gradients_of_the_mean_log_weight(learned_prior, detach_posterior):
    """Leaving the score of q out changes no expectation."""
    model, x = linear_gaussian.make(learned_prior=learned_prior)

    def bound(model, x, seed):
        return elbo_bound(log_weights(model, x, 2, detach_posterior=detach_posterior, seed=seed))

    value, gradients = gradient_draws(bound, model, x, 20_000, seed=3)
    assert_expectation(value, model.elbo(x), "ELBO")
    for name, expected in exact_gradients(lambda leaves: leaves.elbo(x), model).items():
        assert_expectation(gradients[name], expected, name)
    assert set(gradients) == {*GENERATIVE, *ENCODER, *(PRIOR if learned_prior else ())}


log_weight_arrays = npst.arrays(
    "float64", st.tuples(st.integers(2, 6), st.integers(0, 3)), elements=st.floats(-1e3, 1e3)
)


@given(log_weight_arrays)
def test_order_of_the_bounds(array):
    log_w = torch.from_numpy(array)
    count = len(log_w)
    scale = 1e-12 * (1.0 + log_w.abs().amax(0))  # rounding of float64 relative to the largest weight
    assert (elbo_bound(log_w) <= iwae_bound(log_w) + scale).all()
    assert (iwae_bound(log_w) <= log_w.amax(0) + scale).all()
    # Burda et al. 2016, theorem 1, in its pointwise form: the mean over subsets never exceeds the whole.
    subsets = [iwae_bound(torch.cat([log_w[:left_out], log_w[left_out + 1 :]])) for left_out in range(count)]
    assert (torch.stack(subsets).mean(0) <= iwae_bound(log_w) + scale).all()


def test_bounds_by_hand():
    log_w = torch.log(torch.tensor([[1.0, 2.0], [3.0, 2.0]], dtype=torch.float64)).requires_grad_()
    torch.testing.assert_close(iwae_bound(log_w), torch.log(torch.tensor([2.0, 2.0], dtype=torch.float64)))
    torch.testing.assert_close(elbo_bound(log_w, 1), 0.5 * torch.log(torch.tensor([2.0, 6.0], dtype=torch.float64)))
    (gradient,) = torch.autograd.grad(iwae_bound(log_w).sum(), log_w)
    torch.testing.assert_close(gradient, torch.tensor([[0.25, 0.5], [0.75, 0.5]], dtype=torch.float64))


def test_bound_without_any_weight_is_minus_infinity():
    assert iwae_bound(torch.full((3, 2), -torch.inf)).tolist() == [-torch.inf, -torch.inf]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_bound_of_one_sample_is_its_weight(dtype):
    """In memory of its own: what is done to the bound in place does not change the weight."""
    log_w = torch.tensor([[1.5, -torch.inf, torch.inf, 1e4]], dtype=dtype, requires_grad=True)
    bound = iwae_bound(log_w)
    assert bound.tolist() == log_w[0].tolist()
    assert iwae_bound(log_w.t(), -1).tolist() == log_w[0].tolist()
    (gradient,) = torch.autograd.grad(iwae_bound(log_w[:, ::3]), log_w, torch.tensor([2.0, -1.0], dtype=dtype))
    assert gradient.tolist() == [[2.0, 0.0, 0.0, -1.0]]
    bound.detach().zero_()
    assert log_w[0, 0].item() == 1.5


@pytest.mark.parametrize("dim", [2, -3, 0.5, True, None])
def test_errors_of_the_bound_name_the_argument(dim):
    with pytest.raises((TypeError, ValueError), match=r"^log_mean_exp: dim "):
        iwae_bound(torch.zeros(1, 3), dim)
    with pytest.raises(TypeError, match=r"^log_mean_exp: x must be a torch.Tensor, got list"):
        iwae_bound([1.0], 0)


def test_rising_bounds():
    """ELBO <= L_2 <= L_3 <= log p(x), by quadrature, and by sampling L_4 <= L_16 where quadrature does not reach."""
    model, x = linear_gaussian.make(latent_dim=1)
    exact = torch.cat([model.importance_bound(x, count) for count in (1, 2, 3)])
    torch.testing.assert_close(exact[:1], model.elbo(x), **ROUNDING)
    assert exact.diff().min() > 0.02
    assert exact[-1] < model.log_marginal(x)
    log_w = log_weights(model.rows(4000), x.expand(4000, -1), 16, seed=4).detach()
    for count in (2, 3):
        assert_expectation(iwae_bound(log_w[:count]), exact[count - 1], f"L_{count}")
    gain = iwae_bound(log_w) - iwae_bound(log_w.reshape(4, 4, -1), 1).mean(0)
    assert gain.mean() > linear_gaussian.STANDARD_ERRORS * gain.std() / len(gain) ** 0.5
    gap = model.log_marginal(x) - iwae_bound(log_w).mean()
    assert 0.0 < gap.item() < (model.log_marginal(x) - exact[-1]).item()
