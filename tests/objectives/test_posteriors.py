"""What ``encode`` may return: distributions of full covariance and of other kinds, and what cannot be taken."""

import dataclasses
import math
import types

import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal, OneHotCategorical, StudentT

from fastvi import normal_log_prob
from fastvi.distributions import DiagNormal
from fastvi.evaluate import active_units, evaluate
from fastvi.objectives import ELBO, IWAE, STL, Bound, DReG, draw, elbo_bound, option
from support import full_gaussian
from support.linear_gaussian import assert_expectation, exact_gradients, gradient_draws
from support.posteriors import EQUAL, KINDS, B, Leaves, Seeded, X, Z, affine_flow, diagonal_tril, outcome

EVERY = [ELBO(2, analytic_kl=False), ELBO(2, analytic_kl=False, beta=0.5), STL(3), IWAE(4), IWAE(4, 2), DReG(4)]
every_objective = pytest.mark.parametrize("objective", EVERY, ids=str)

# Full covariance, on the linear-Gaussian model


@pytest.mark.parametrize(
    "objective",
    [ELBO(2), ELBO(2, analytic_kl=False), STL(2), IWAE(2), IWAE(2, backward_samples=1), DReG(2)],
    ids=str,
)
def test_values_and_gradients_are_exact_in_expectation(objective):
    model, x = full_gaussian.make()
    exact = (lambda leaves: leaves.second_bound(x)) if isinstance(objective, IWAE | DReG) else lambda m: m.elbo(x)
    value, gradients = gradient_draws(objective, model, x, 20_000, seed=41)
    assert_expectation(value, exact(model), "value")
    for name, expected in exact_gradients(exact, model).items():
        found = gradients[name].tril() if name == "tril" else gradients[name]
        assert_expectation(found, expected.tril() if name == "tril" else expected, name)


def test_the_quadrature_stands():
    model, x = full_gaussian.make()
    torch.testing.assert_close(model.second_bound(x, 14), model.second_bound(x, 20), rtol=0.0, atol=1e-6)
    assert model.elbo(x) < model.second_bound(x) < model.log_marginal(x)


@dataclasses.dataclass(frozen=True)
class AttachedSTL(Bound):
    """A planted mistake: q's parameters are not constants inside log q."""

    num_samples: int = option("K", 3, at_least=1)

    def __call__(self, model, x, *, seed=None, row_offset=0):
        return elbo_bound(draw(model, x, self.num_samples, seed=seed, row_offset=row_offset).log_weights)


def encoder_gradients(objective, model, x):
    leaves = model.rows(B)
    value = objective(leaves, x.expand(B, -1), seed=3)
    return value.detach(), torch.autograd.grad(value.sum(), (leaves.mean, leaves.tril))


@every_objective
def test_no_gap_at_the_exact_posterior(objective):
    model, x = full_gaussian.make()
    exact = model.with_exact_posterior(x)
    if getattr(objective, "beta", 1.0) == 1.0:
        value = objective(exact.rows(B), x.expand(B, -1), seed=3)
        torch.testing.assert_close(value, exact.log_marginal(x).expand(B), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("objective", [STL(3), DReG(3)], ids=str)
def test_path_derivatives_vanish_at_the_exact_posterior(objective):
    model, x = full_gaussian.make()
    for gradient in encoder_gradients(objective, model.with_exact_posterior(x), x)[1]:
        torch.testing.assert_close(gradient.tril(), torch.zeros_like(gradient), rtol=0.0, atol=1e-12)
    planted = encoder_gradients(AttachedSTL(), model.with_exact_posterior(x), x)[1]
    assert all(gradient.tril().abs().max() > 0.1 for gradient in planted)


# One posterior in several forms


@every_objective
@pytest.mark.parametrize("forms", EQUAL.values(), ids=EQUAL)
def test_equal_posteriors_have_equal_bounds_and_gradients(objective, forms):
    """In every draw: the same noise goes through the same function, and the densities are closed forms."""
    first, second = (outcome(objective, Leaves(form)) for form in forms)
    # Sums and triangular solves of some ten terms in float64.
    torch.testing.assert_close(second, first, rtol=1e-9, atol=1e-9)
    assert first[1][0].abs().min() > 0.0


@pytest.mark.parametrize("forms", EQUAL.values(), ids=EQUAL)
def test_scores_of_equal_posteriors(forms):
    found = []
    for form in forms:
        model = Leaves(form)
        drawn = draw(model, X, 3, score=True, seed=2)
        assert not drawn.samples.requires_grad
        found.append(
            (drawn.samples, torch.autograd.grad(drawn.log_posterior.square().sum(), [model.mean, model.logvar]))
        )
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


def test_the_divergence_in_closed_form():
    for name in ("diag-normal", "independent", "full"):
        first, second = (outcome(ELBO(2), Leaves(form)) for form in EQUAL[name])
        torch.testing.assert_close(second, first, rtol=1e-9, atol=1e-9)
    message = "ELBO: no divergence of the TransformedDistribution of Leaves.encode is known .*; take analytic_kl=False"
    with pytest.raises(TypeError, match=message):
        ELBO()(Leaves(affine_flow), X)
    with pytest.raises(ValueError, match=r"ELBO: free_bits=0.1 needs independent latent .*, Leaves.encode gave Multi"):
        ELBO(free_bits=0.1)(Leaves(diagonal_tril), X)


# Seeds and shards


every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@every_kind
def test_a_shard_draws_what_it_drew_in_the_whole(kind):
    model = Leaves(kind)
    if kind is KINDS["logistic"]:
        assert (model.encode(X).batch_shape, model.encode(X).event_shape) == ((B,), (Z,))
    whole = draw(model, X, 4, seed=7)
    torch.manual_seed(0)
    torch.testing.assert_close(draw(model, X, 4, seed=7).samples, whole.samples, rtol=0, atol=0)
    assert (draw(model, X, 4, seed=8).samples != whole.samples).any()
    shard = Leaves(kind)
    for name in ("mean", "logvar", "shift", "prior_logvar"):
        setattr(shard, name, getattr(model, name)[2:])
    part = draw(shard, X[2:], 4, seed=7, row_offset=2)
    torch.testing.assert_close(part.samples, whole.samples[:, 2:], rtol=0, atol=1e-12)  # matrix products of other sizes
    torch.testing.assert_close(part.log_weights, whole.log_weights[:, 2:], rtol=0, atol=1e-12)


@every_kind
def test_without_a_seed_pytorch_rules(kind):
    model = Leaves(kind)
    torch.manual_seed(1)
    first = draw(model, X, 3).samples
    assert (draw(model, X, 3).samples != first).any()
    torch.manual_seed(1)
    torch.testing.assert_close(draw(model, X, 3).samples, first, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["low-rank", "laplace", "uniform", "logistic"])
def test_draws_are_of_their_distribution(kind):
    """First and second moments of 20,000 draws against the closed forms; see `STANDARD_ERRORS` for the bound."""
    model = Leaves(KINDS[kind])
    z = draw(model, X, 20_000, seed=4).samples.detach()
    if kind == "logistic":
        mean, variance = model.mean, (torch.exp(model.logvar) * math.pi).square() / 3.0
    else:
        mean, variance = model.encode(X).mean, model.encode(X).variance
    assert_expectation(z, mean.detach(), "mean")
    assert_expectation((z - mean.detach()).square(), variance.detach(), "variance")
    if kind == "low-rank":
        products = (z - mean.detach()).unsqueeze(-1) * (z - mean.detach()).unsqueeze(-2)
        assert_expectation(products, model.encode(X).covariance_matrix.detach(), "covariance")


def test_what_no_seed_rules_is_refused_with_one():
    model = Leaves(lambda m: Independent(StudentT(torch.full_like(m.mean, 5.0), m.mean), 1))
    assert draw(model, X, 3).samples.shape == (3, B, Z)
    with pytest.raises(
        TypeError, match=r"^Leaves\.encode: Independent: cannot draw a StudentT by a seed; give it rsam"
    ):
        draw(model, X, 3, seed=1)


# Distributions without rsample


def bits(m):
    return Independent(Bernoulli(logits=m.mean), 1)


def one_hot(m):
    return OneHotCategorical(logits=m.mean)


@pytest.mark.parametrize("kind", [bits, one_hot])
def test_discrete_draws(kind):
    """Constants, whose frequencies are the probabilities; a shard draws what it drew in the whole."""
    model = Leaves(kind)
    drawn = draw(model, X, 20_000, seed=4)
    assert not drawn.samples.requires_grad
    assert_expectation(drawn.samples, model.encode(X).mean.detach(), "probabilities")
    density = model.encode(X).log_prob(drawn.samples)
    torch.testing.assert_close(drawn.log_posterior, density)
    log_prior = normal_log_prob(drawn.samples, model.prior_mean, model.prior_logvar)
    torch.testing.assert_close(drawn.log_weights, model.log_likelihood(X, drawn.samples) + log_prior - density)
    shard = Leaves(kind)
    shard.mean, shard.prior_logvar = model.mean[2:], model.prior_logvar[2:]
    part = draw(shard, X[2:], 20_000, seed=4, row_offset=2)
    torch.testing.assert_close(part.samples, drawn.samples[:, 2:], rtol=0, atol=0)
    assert IWAE(3)(model, X).shape == (B,)


def test_the_states_of_discrete_draws_by_enumeration():
    """Each of the eight states comes as often as log q says."""
    model = Leaves(lambda m: Independent(Bernoulli(logits=m.mean[:1].expand(B, Z)), 1))
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * Z)
    density = model.encode(X).log_prob(states.unsqueeze(1).expand(-1, B, -1))
    torch.testing.assert_close(density.exp().sum(0), torch.ones(B, dtype=torch.float64))
    drawn = draw(model, X, 4000, seed=2).samples.flatten(0, 1)
    frequencies = (drawn.unsqueeze(1) == states).all(-1).double()
    assert_expectation(frequencies, density[:, 0].exp().detach(), "states")


@pytest.mark.parametrize("objective", [DReG(2), IWAE(2, 1)], ids=str)
def test_path_derivatives_need_a_path(objective):
    name = "DReG" if isinstance(objective, DReG) else "IWAE with backward_samples"
    with pytest.raises(
        TypeError, match=rf"^{name}: needs reparameterised samples, and Leaves.encode gave Independent$"
    ):
        objective(Leaves(bits), X)


# Wrong returns, evaluation, the compiler


@every_objective
@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda: Normal(torch.zeros(B, Z), 1.0), r"a distribution of vectors, .* got Normal with \(5, 3\) and \(\)"),
        (lambda: DiagNormal(torch.zeros(Z), torch.zeros(Z)), r"of vectors, .* got DiagNormal with \(\) and \(3,\)"),
        (lambda: DiagNormal(torch.zeros(4, Z), torch.zeros(4, Z)), r"the batch \(5,\) for x .* with the batch \(4,\)"),
    ],
)
def test_distributions_that_are_no_posterior(objective, returned, message):
    model = types.SimpleNamespace(encode=lambda x: returned(), log_likelihood=lambda x, z: z.sum(-1))
    with pytest.raises(TypeError, match=rf"^SimpleNamespace\.encode: expected .*{message}") as raised:
        objective(model, X)
    assert "\n" not in str(raised.value)


def test_a_density_of_another_shape_is_refused():
    class Wrong(Seeded):
        def log_prob(self, value):
            return super().log_prob(value).sum(0)

    with pytest.raises(ValueError, match=r"^Leaves\.encode: log_prob: expected the shape .* = \(4, 5\) .*, got \(5,\)"):
        IWAE(4)(Leaves(lambda m: Wrong(m.mean)), X)


def test_evaluation():
    full, pair, through_flow = (Leaves(form, from_x=True) for form in (*reversed(EQUAL["full"]), affine_flow))
    first, second = (evaluate(model, X, num_samples=50) for model in (full, pair))  # one batch
    assert first.active_units == second.active_units
    assert first.importance_weighted == pytest.approx(second.importance_weighted, rel=1e-9)
    result = evaluate(through_flow, X, num_samples=50)
    assert (result.active_units, result.latent_dim) == (None, Z)
    with pytest.raises(
        TypeError, match=r"active_units: needs the posterior's mean, and what Leaves.encode returns has"
    ):
        active_units(through_flow, X)


# Dynamo itself makes an instance of autograd.Function, and warns of it, when it traces one (PyTorch 2.13).
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("objective", [IWAE(3), DReG(3)], ids=str)
@pytest.mark.parametrize("kind", ["full", "flow"])
def test_compiled_whole(kind, objective):
    model = Leaves(KINDS[kind])
    torch._dynamo.reset()

    def both(function):
        torch.manual_seed(3)
        value = function(model, X)
        return value.detach(), torch.autograd.grad(value.sum(), [model.mean, model.logvar, model.weight])

    compiled = both(torch.compile(objective, backend="aot_eager", fullgraph=True))
    torch.testing.assert_close(compiled, both(objective), rtol=0, atol=1e-11)  # float64 in another order
