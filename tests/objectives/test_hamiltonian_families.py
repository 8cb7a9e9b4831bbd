"""Hamiltonian variational inference with posteriors and priors of any kind, on linear-Gaussian models."""

import types

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from fastvi.evaluate import evaluate
from fastvi.models import DataShape, HamiltonianPosterior, MixturePrior, ReverseNetwork, make_model_options
from fastvi.objectives import ELBO, IWAE, STL, draw
from fastvi.objectives.latent import GaussianPrior, posterior_of, prior_of
from support import full_gaussian
from support.hamiltonian import shaken
from support.linear_gaussian import assert_expectation
from support.posteriors import EQUAL, KINDS, B, Leaves, X, Z

SAMPLED = ELBO(2, analytic_kl=False)
ROUNDING = {"rtol": 1e-9, "atol": 1e-10}
WITH_VARIANCE = ("diag-normal", "independent", "full", "low-rank", "laplace", "uniform")


def options_for(kind):
    return {"mass": "posterior" if kind in WITH_VARIANCE else "learned", "num_transitions": 2}


def outcome(objective, model, leaves, **options):
    """The bound, and its gradients by the model's leaves and the parameters of the trajectory."""
    wrapped = shaken(model, Z, options)
    value = objective(wrapped, X, seed=11)
    parameters = [*leaves, *wrapped.parameters()]
    return value.detach(), torch.autograd.grad(value.sum(), parameters, allow_unused=True, materialize_grads=True)


# Posteriors


def with_posterior(kind):
    """The models of the two equal forms of a posterior, each with its leaves."""
    models = [Leaves(make) for make in EQUAL[kind]]
    return [(model, model.leaves()) for model in models]


@pytest.mark.parametrize("objective", [SAMPLED, STL(2), IWAE(3)], ids=str)
@pytest.mark.parametrize("kind", EQUAL)
def test_a_distribution_gives_what_its_equal_gives(kind, objective):
    """Of the same draws, without a reverse model, which sees the mean and the variance of those that know them."""
    options = options_for(kind) | {"tempering": "free", "reverse": None}
    expected, found = (outcome(objective, *each, **options) for each in with_posterior(kind))
    torch.testing.assert_close(found, expected, **ROUNDING)


@pytest.mark.parametrize("kind", ["diag-normal", "independent", "full"])
def test_a_reverse_model_sees_the_mean_and_the_variance(kind):
    expected, found = (outcome(IWAE(3), *each, **options_for(kind)) for each in with_posterior(kind))
    torch.testing.assert_close(found, expected, **ROUNDING)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "module-flow"])  # whose module is of no x
def test_shards_of_every_kind_are_parts_of_the_whole(kind):
    wrapped = shaken(Leaves(KINDS[kind], from_x=True), Z, options_for(kind))
    whole = IWAE(3)(wrapped, X, seed=4)
    parts = [IWAE(3)(wrapped, X[rows], seed=4, row_offset=rows.start) for rows in (slice(0, 2), slice(2, B))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0.0, atol=1e-12)


# Priors


def with_prior(kind):
    """The model of `Leaves` with a Gaussian posterior and one Gaussian prior, in one of its forms, and its leaves."""
    model = Leaves(lambda m: (m.mean, m.logvar))
    leaves, mean, logvar = model.leaves(), model.prior_mean, model.prior_logvar[0]
    del model.prior_mean, model.prior_logvar
    scale = torch.exp(0.5 * logvar)
    components = Independent(Normal(mean.expand(3, Z), scale.expand(3, Z)), 1)
    weights = Categorical(logits=torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64))
    forms = {
        "parameters": {"prior_mean": mean, "prior_logvar": logvar},
        "pair": {"conditional_prior": lambda x: (mean.expand(B, Z), logvar.expand(B, Z))},
        "distribution": {
            "conditional_prior": lambda x: MultivariateNormal(mean.expand(B, Z), scale_tril=torch.diag(scale))
        },
        "function": {"log_prior": Independent(Normal(mean, scale), 1).log_prob},
        "equal components": {"log_prior": MixtureSameFamily(weights, components).log_prob},
    }
    for name, value in forms[kind].items():
        setattr(model, name, value)
    return model, leaves


@pytest.mark.parametrize("objective", [SAMPLED, STL(2)], ids=str)
@pytest.mark.parametrize("kind", ["pair", "distribution", "function", "equal components"])
def test_a_gaussian_prior_in_another_form_gives_the_same(kind, objective):
    """A mixture whose components are all one Gaussian is this Gaussian, whatever their weights."""
    expected, found = (outcome(objective, *with_prior(form), num_transitions=2) for form in ("parameters", kind))
    torch.testing.assert_close(found, expected, **ROUNDING)


def mixture():
    """Three components that differ, float64."""
    torch.manual_seed(6)
    prior = MixturePrior(3, 2).double()
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.3, -1.0, 0.8]))
        prior.logvars.copy_(torch.tensor([[0.2, -0.5], [-1.0, 0.4], [0.1, 0.3]]))
    return prior


def with_mixture():
    """A linear-Gaussian model with that prior and a posterior of full covariance, an x, and log p(x)."""
    base, x = full_gaussian.make()
    prior = mixture()
    weight, noise = base.weight[0], torch.exp(base.noise_logvar[0]) * torch.eye(3, dtype=torch.float64)
    densities = [
        MultivariateNormal(weight @ mean, weight * torch.exp(logvar) @ weight.T + noise).log_prob(x[0])
        for mean, logvar in zip(prior.means.detach(), prior.logvars.detach(), strict=True)
    ]
    evidence = torch.logsumexp(torch.stack(densities) + torch.log_softmax(prior.logits.detach(), 0), 0)
    model = types.SimpleNamespace(encode=base.encode, log_likelihood=base.log_likelihood, log_prior=prior)
    return model, x, evidence


@pytest.mark.parametrize("options", [{"num_transitions": 2}, {"tempering": "quadratic", "reverse": None}], ids=str)
def test_the_mean_weight_is_the_evidence_of_a_mixture(options):
    model, x, evidence = with_mixture()
    with torch.no_grad():
        log_weights = draw(shaken(model, 2, options), x, 50_000, seed=9).log_weights[:, 0]
    assert_expectation(torch.exp(log_weights - evidence), 1.0, "w / p(x)")
    assert log_weights.mean() < evidence


class Forgetful(HamiltonianPosterior):
    """The mistake of dynamics that take the prior for a standard normal."""

    def _target(self, x, prior):
        right, standard = super()._target(x, prior), super()._target(x, GaussianPrior(None, None))
        return lambda z: (right(z)[0], standard(z)[1])


def slopes(model, x):
    """The gradient that the dynamics follow at three points, and that of finite differences."""
    target = model._target(x, prior_of(model.model, x, posterior_of(model.model, x)))
    z, width = torch.linspace(-1.0, 1.5, 6, dtype=torch.float64).reshape(3, 1, 2), 1e-5
    ends = [[target(z + sign * width * unit)[0] for sign in (1, -1)] for unit in torch.eye(2, dtype=torch.float64)]
    return target(z)[1], torch.stack([(up - down) / (2.0 * width) for up, down in ends], -1)


def test_the_dynamics_follow_the_whole_log_joint():
    model, x, _ = with_mixture()
    found, expected = slopes(HamiltonianPosterior(model, 2).double(), x)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-8)
    found, expected = slopes(Forgetful(model, 2).double(), x)
    assert (found - expected).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["flow", "full"])
def test_gradients_of_the_prior_and_the_posterior_are_those_of_finite_differences(kind):
    """Second-order terms included: those of the mixture's own slope are among them."""
    model = Leaves(KINDS[kind])
    del model.prior_mean, model.prior_logvar
    model.log_prior = MixturePrior(3, Z).double()
    wrapped = shaken(model, Z, options_for(kind))
    leaves = [model.mean, model.logvar, model.log_prior.means, model.log_prior.logvars, model.log_prior.logits]

    def value():
        return IWAE(2)(wrapped, X, seed=4).sum()

    width = 1e-5
    for leaf, gradient in zip(leaves, torch.autograd.grad(value(), leaves), strict=True):
        ends, flat = [], leaf.data.view(-1)
        kept = flat[1].item()
        with torch.no_grad():
            for shift in (width, -width):
                flat[1] = kept + shift
                ends.append(value().item())
        flat[1] = kept
        assert gradient.view(-1)[1].item() == pytest.approx((ends[0] - ends[1]) / (2.0 * width), rel=1e-5, abs=1e-7)


# Whole models


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("general-vae", {"posterior": "full", "prior": "mixture"}),
        ("general-vae", {"posterior": "flow", "prior": "vamp"}),
        ("conditional-vae", {"prior": "labels"}),
    ],
    ids=str,
)
def test_models_of_any_parts_learn_and_are_evaluated(name, parts):
    torch.manual_seed(3)
    options = make_model_options(name, latent_dim=2, hidden_dims=(6,), likelihood="bernoulli", **parts)
    base, x = options.build(DataShape((3, 2), 4)), torch.rand(5, 6).round()
    x = (x, torch.arange(5) % 4) if name == "conditional-vae" else x
    mass = "learned" if parts.get("posterior") == "flow" else "posterior"
    wrapped = HamiltonianPosterior(base, 2, mass=mass, reverse=ReverseNetwork(2, 4))
    value = IWAE(3)(wrapped, x, seed=0)
    with torch.no_grad():
        torch.testing.assert_close(IWAE(3)(wrapped, x, seed=0), value.detach())
    value.mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in base.parameters())
    assert evaluate(wrapped, x, num_samples=10).images == 5


# What is refused


def linear(**members):
    base, _ = full_gaussian.make()
    return types.SimpleNamespace(**{"encode": base.encode, "log_likelihood": base.log_likelihood, **members})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            linear(encode=lambda x: Independent(Bernoulli(torch.full((1, 2), 0.5)), 1)),
            "HamiltonianPosterior: needs reparameterised samples, and SimpleNamespace.encode gave Independent",
        ),
        (
            linear(log_prior=lambda z: torch.zeros(z.shape[:-1], dtype=torch.float64)),
            "HamiltonianPosterior: SimpleNamespace.log_prior has no gradient by the position: it must be a differentia",
        ),
        (linear(log_prior=lambda z: z.square()), r"SimpleNamespace.log_prior: expected the shape .*, got \(2, 1, 2\)"),
        (
            linear(
                encode=lambda x: KINDS["flow"](
                    types.SimpleNamespace(**dict.fromkeys(("mean", "logvar", "shift"), x[:, :2]))
                )
            ),
            "HamiltonianPosterior: mass='posterior' needs a posterior that knows its mean and variance, and the "
            "TransformedDistribution of SimpleNamespace.encode does not: take mass='unit' or mass='learned'",
        ),
    ],
    ids=["discrete", "constant prior", "shape", "flow"],
)
def test_what_cannot_be_is_one_line(model, message):
    _, x = full_gaussian.make()
    with pytest.raises((TypeError, ValueError), match=message) as raised:
        SAMPLED(HamiltonianPosterior(model, 2).double(), x)
    assert "\n" not in str(raised.value)
