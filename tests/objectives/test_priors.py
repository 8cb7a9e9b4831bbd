"""Priors by ``log_prior`` and ``conditional_prior``: mixtures, VampPrior, priors given labels."""

import dataclasses
import math
import types

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from fastvi import normal_log_prob
from fastvi.models import VAE, FlowPosterior, FullCovariancePosterior, LabelPrior, MixturePrior, VampPrior
from fastvi.objectives import ELBO, IWAE, STL, Bound, DReG, draw, iwae_bound, option
from support.linear_gaussian import assert_expectation
from support.posteriors import EQUAL, B, Leaves, X, Z, affine_flow, diagonal_tril, outcome

EVERY = [ELBO(2, analytic_kl=False), ELBO(2, analytic_kl=False, beta=0.5), STL(3), IWAE(4), IWAE(4, 2), DReG(4)]
every_objective = pytest.mark.parametrize("objective", EVERY, ids=str)
every_form = pytest.mark.parametrize(
    "form", [EQUAL["full"][0], diagonal_tril, affine_flow], ids=["pair", "full", "flow"]
)


# The same Gaussian prior in every form


class ByFunction(Leaves):
    """The parameters go by other names, so that only ``log_prior`` is a prior."""

    def __init__(self, form):
        super().__init__(form)
        self.where, self.spread = self.prior_mean, self.prior_logvar
        del self.prior_mean, self.prior_logvar

    def log_prior(self, z):
        return normal_log_prob(z, self.where, self.spread)


class ByPair(ByFunction):
    log_prior = None

    def conditional_prior(self, x):
        return self.where.expand(B, Z), self.spread


class ByDistribution(ByPair):
    def conditional_prior(self, x):
        return MultivariateNormal(self.where, torch.diag_embed(torch.exp(self.spread)), validate_args=False)


@every_objective
@every_form
@pytest.mark.parametrize("kind", [ByFunction, ByPair, ByDistribution])
def test_a_prior_in_every_form_is_the_same_in_every_draw(kind, form, objective):
    """Values and all gradients, those of the prior's parameters among them."""
    expected = outcome(objective, Leaves(form))
    torch.testing.assert_close(outcome(objective, kind(form)), expected, rtol=1e-9, atol=1e-9)  # float64, another order
    assert all(gradient.abs().sum() > 0.0 for gradient in expected[1][-2:])


@dataclasses.dataclass(frozen=True)
class TwiceWeighed(Bound):
    """A planted mistake: the hook of DReG's second factor is on all that q's log ratio is made of, the prior too."""

    num_samples: int = option("K", 4, at_least=1)

    def __call__(self, model, x, *, seed=None, row_offset=0):
        drawn = draw(model, x, self.num_samples, detach_posterior=True, seed=seed, row_offset=row_offset)
        log_weights = drawn.log_weights
        weights = torch.softmax(log_weights.detach(), 0)
        log_weights.register_hook(lambda gradient: gradient * weights)
        return iwae_bound(log_weights)


def test_the_prior_has_the_first_factor_alone():
    model = ByFunction(diagonal_tril)
    found, single = outcome(DReG(4), model)[1], outcome(IWAE(4), model)[1]
    torch.testing.assert_close(found[-2:], single[-2:], rtol=1e-10, atol=1e-10)
    planted = outcome(TwiceWeighed(), model)[1]
    assert (planted[-1] - single[-1]).abs().max() > 0.01


def test_the_closed_form_needs_a_gaussian():
    torch.testing.assert_close(outcome(ELBO(2), ByPair(affine_pair_form)), outcome(ELBO(2), Leaves(affine_pair_form)))
    message = (
        "ELBO: analytic_kl=True needs a divergence in closed form, and ByFunction has none; take analytic_kl=False"
    )
    for call in (lambda model: ELBO().check_model(model), lambda model: ELBO()(model, X)):
        with pytest.raises(TypeError, match=message):
            call(ByFunction(diagonal_tril))
    with pytest.raises(
        TypeError, match=r"ELBO: no divergence from ByDistribution.conditional_prior is known in closed form"
    ):
        ELBO()(ByDistribution(diagonal_tril), X)


affine_pair_form = EQUAL["affine-flow"][0]


@every_objective
@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (None, TypeError, r"expected a tensor of the shape \(num_samples, batch\) = .*, got NoneType"),
        (torch.zeros(B), ValueError, r"expected the shape .*, got \(5,\)"),
        (torch.zeros(1, 1), ValueError, r"expected the shape .*, got \(1, 1\)"),
        (torch.zeros(B, Z), ValueError, r"expected the shape .*, got \(5, 3\)"),
    ],
)
def test_what_log_prior_returns_wrongly_is_named(objective, returned, error, message):
    model = ByFunction(EQUAL["full"][0])
    model.log_prior = lambda z: returned
    with pytest.raises(error, match=rf"^ByFunction\.log_prior: {message}") as raised:
        objective(model, X)
    assert "\n" not in str(raised.value)


@every_objective
@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (torch.zeros(B, Z), TypeError, "expected a pair"),
        ((torch.zeros(Z), torch.zeros(Z)), ValueError, r"expected mean and logvar .* got \(3,\) and \(3,\)"),
        (Normal(torch.zeros(B, Z), 1.0), TypeError, "expected a distribution of vectors"),
        (MultivariateNormal(torch.zeros(2, Z), torch.eye(Z)), TypeError, r"expected .* the batch \(5,\) for x"),
    ],
)
def test_what_conditional_prior_returns_wrongly_is_named(objective, returned, error, message):
    model = ByPair(EQUAL["full"][0])
    model.conditional_prior = lambda x: returned
    with pytest.raises(error, match=rf"^ByPair\.conditional_prior: {message}"):
        objective(model, X)


@every_objective
def test_two_priors_are_refused(objective):
    model = ByFunction(diagonal_tril)
    model.prior_mean = torch.zeros(Z)
    with pytest.raises(TypeError, match=r"^ByFunction: expected one prior, got log_prior and prior_mean$"):
        objective(model, X)
    model = ByPair(diagonal_tril)
    model.log_prior = lambda z: z.sum(-1)
    with pytest.raises(TypeError, match=r"^ByPair: expected one prior, got log_prior and conditional_prior$"):
        objective(model, X)


@every_objective
def test_the_fused_model_sees_its_log_prior(objective):
    torch.manual_seed(0)
    model, x = VAE(6, Z, (4,)).double(), torch.rand(B, 6, dtype=torch.float64).round()
    standard = objective(model, x, seed=0)
    prior = types.SimpleNamespace(mean=torch.full((Z,), 0.7).double(), logvar=torch.full((Z,), -0.3).double())
    model.prior_mean, model.prior_logvar = nn.Parameter(prior.mean), nn.Parameter(prior.logvar)
    expected = objective(model, x, seed=0)
    model.prior_mean = model.prior_logvar = None
    model.log_prior = lambda z: normal_log_prob(z, prior.mean, prior.logvar)
    torch.testing.assert_close(objective(model, x, seed=0), expected, rtol=1e-10, atol=1e-10)
    assert (standard - expected).abs().min() > 1e-3


# Mixtures


def mixture():
    torch.manual_seed(2)
    prior = MixturePrior(4, Z).double()
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.3, -1.0, 0.8, 0.1]))
        prior.logvars.copy_(0.5 * torch.randn(4, Z))
    parts = Independent(Normal(prior.means, torch.exp(0.5 * prior.logvars)), 1)
    return prior, MixtureSameFamily(Categorical(logits=prior.logits), parts)


def test_the_density_of_a_mixture():
    prior, reference = mixture()
    z = torch.randn(7, 5, Z, dtype=torch.float64).mul_(3.0).requires_grad_()
    inputs = [z, *prior.parameters()]
    found, expected = prior(z), reference.log_prob(z)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-12)
    gradients = (torch.autograd.grad(value.cos().sum(), inputs) for value in (found, expected))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
    assert prior(torch.full((1, 1, Z), 1e4, dtype=torch.float64)).isfinite().all()


def test_samples_of_a_mixture():
    """First and second moments of 20,000 draws; see `STANDARD_ERRORS` for the bound."""
    prior, reference = mixture()
    z = prior.sample(20_000, seed=3).detach()
    assert_expectation(z, reference.mean.detach(), "mean")
    assert_expectation((z - reference.mean.detach()).square(), reference.variance.detach(), "variance")
    torch.testing.assert_close(prior.sample(20_000, seed=3), z, rtol=0, atol=0)


class Encoder(nn.Module):
    def __init__(self, posterior=None):
        super().__init__()
        self.linear = nn.Linear(6, 2 * Z if posterior is None else posterior.num_outputs).double()
        self.posterior = posterior

    def encode(self, x):
        outputs = self.linear(x)
        return outputs.chunk(2, -1) if self.posterior is None else self.posterior(outputs)


def flow_with_weights():
    posterior = FlowPosterior(Z, 2, 4).double()
    for parameter in posterior.parameters():
        nn.init.normal_(parameter, 0.0, 0.5)
    return posterior


@pytest.mark.parametrize("make", [lambda: None, lambda: FullCovariancePosterior(Z), flow_with_weights])
def test_a_vamp_prior_is_the_mean_of_the_posteriors_of_its_inputs(make):
    torch.manual_seed(5)
    model = Encoder(make())
    inputs = torch.rand(4, 6, dtype=torch.float64)
    prior = VampPrior(model.encode, inputs)
    torch.testing.assert_close(prior.pseudo_inputs, inputs, rtol=0.0, atol=1e-2)  # less a margin at 0 and 1
    z = torch.randn(7, 5, Z, dtype=torch.float64)
    densities = []
    for row in prior.pseudo_inputs:
        found = model.encode(row.unsqueeze(0))
        if isinstance(found, tuple):
            found = Independent(Normal(found[0], torch.exp(0.5 * found[1])), 1)
        densities.append(found.log_prob(z))
    expected = torch.logsumexp(torch.stack(densities), 0) - math.log(4)
    torch.testing.assert_close(prior(z), expected, rtol=0.0, atol=1e-12)
    prior(z).sum().backward()
    assert prior.logits.grad.abs().min() > 0.0
    assert model.linear.weight.grad.abs().sum() > 0.0
    samples = prior.sample(20_000, seed=1).detach()
    if make() is None or isinstance(make(), FullCovariancePosterior):
        found = model.encode(prior.pseudo_inputs)
        means = found[0] if isinstance(found, tuple) else found.mean
        assert_expectation(samples, means.mean(0).detach(), "mean")


def test_bad_priors():
    with pytest.raises(ValueError, match="MixturePrior: num_components must be at least 1, got 0"):
        MixturePrior(0, 2)
    with pytest.raises(ValueError, match=r"VampPrior: pseudo_inputs must have the shape \(C, D\), got \(6,\)"):
        VampPrior(lambda x: x, torch.rand(6))


def test_a_prior_for_each_label():
    prior = LabelPrior(3, Z)
    mean, logvar = prior((torch.zeros(4, 6), torch.tensor([2, 0, 2, 1])))
    torch.testing.assert_close(mean, prior.means[[2, 0, 2, 1]])
    torch.testing.assert_close(logvar, prior.logvars[[2, 0, 2, 1]])
