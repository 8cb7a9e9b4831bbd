"""Samples, maximum likelihood and conjugate priors."""

import math

import pytest
import torch
from scipy import stats

from fastvi.expfam import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Exponential,
    Gamma,
    Gaussian,
    Laplace,
    MultivariateGaussian,
    Poisson,
    VonMises,
)
from support.families import CASES

every_case = pytest.mark.parametrize("case", CASES, ids=repr)
DOUBLE = torch.float64
LEVEL = 1e-6
"""At which a test of random draws rejects, over all of its seeds; these are fixed."""


def double(*values):
    return torch.tensor(values, dtype=DOUBLE)


# Samples


@every_case
def test_moments_of_samples(case):
    """The squared distance of 20,000 draws' mean statistics from mu, in units of their covariance, is chi-squared."""
    family, eta, count = case.family, case.eta(21), 20000
    x = family.sample(eta, (count,), seed=3)
    statistics = family.statistics(x)
    difference = statistics.mean(0) - family.mean_parameters(eta)
    fisher = family.fisher_information(eta)
    distance = count * difference @ torch.linalg.pinv(fisher, rtol=1e-10) @ difference
    degrees = int(torch.linalg.matrix_rank(fisher, rtol=1e-10))
    assert LEVEL < stats.chi2.sf(distance.item(), degrees) < 1.0 - LEVEL


@pytest.mark.parametrize(
    ("family", "eta", "reference"),
    [
        (Exponential(), [-2.0], stats.expon(scale=0.5)),
        (Laplace(1.0), [-2.0], stats.laplace(1.0, 0.5)),
        (Gamma(), [0.05, -2.0], stats.gamma(0.05, scale=0.5)),
        (Gamma(), [1.0, -2.0], stats.gamma(1.0, scale=0.5)),
        (Gamma(), [50.0, -2.0], stats.gamma(50.0, scale=0.5)),
        (Beta(), [0.3, 0.6], stats.beta(0.3, 0.6)),
        (Gaussian(), [2.0, -2.0], stats.norm(0.5, 0.5)),
        (VonMises(), [0.0, 0.0], stats.uniform(-math.pi, 2.0 * math.pi)),
        (VonMises(), [0.7, 0.0], stats.vonmises(0.7)),
        (VonMises(), [3000.0, 0.0], stats.vonmises(3000.0)),
    ],
)
def test_distribution_of_samples(family, eta, reference):
    """Kolmogorov and Smirnov."""
    x = family.sample(double(*eta), (20000,), seed=5)
    assert LEVEL < stats.kstest(x.numpy(), reference.cdf).pvalue < 1.0 - LEVEL


@pytest.mark.parametrize(
    ("family", "eta", "reference"),
    [
        (Bernoulli(), [-1.0], stats.bernoulli(1.0 / (1.0 + math.e))),
        (Categorical(3), [0.0, 1.0, 0.5], stats.rv_discrete(values=([0, 1, 2], [0.186324, 0.506480, 0.307196]))),
        (Binomial(9), [0.5], stats.binom(9, 1.0 / (1.0 + math.exp(-0.5)))),
        (Poisson(), [-2.0], stats.poisson(math.exp(-2.0))),
        (Poisson(), [3.0], stats.poisson(math.exp(3.0))),
    ],
)
def test_counts_of_samples(family, eta, reference):
    """Chi-squared over the values that are expected ten times or more, the others together."""
    count = 20000
    x = family.sample(double(*eta), (count,), seed=6).long()
    expected = torch.from_numpy(count * reference.pmf(torch.arange(60).numpy()))
    often = expected >= 10.0
    found = torch.bincount(x, minlength=60)[:60][often].double()
    found, expected = (torch.cat([part, double(count) - part.sum()]) for part in (found, expected[often]))
    kept = expected > 1e-6
    distance = ((found - expected).square() / expected)[kept].sum().item()
    assert LEVEL < stats.chi2.sf(distance, int(kept.sum()) - 1) < 1.0 - LEVEL


@every_case
def test_draws_depend_on_seed_sample_and_row_alone(case):
    family, eta = case.family, torch.stack([case.eta(seed) for seed in range(31, 36)])
    whole = family.sample(eta, (3,), seed=7)
    assert whole.shape == (3, 5, *family.event_shape)
    assert torch.equal(whole, family.sample(eta, 3, seed=7))
    assert torch.equal(whole[:, 2:], family.sample(eta[2:], (3,), seed=7, row_offset=2))
    assert torch.equal(whole[:2], family.sample(eta, (2,), seed=7))
    torch.manual_seed(8)
    first = family.sample(eta, (40,))
    assert not torch.equal(first, family.sample(eta, (40,)))
    torch.manual_seed(8)
    assert torch.equal(first, family.sample(eta, (40,)))
    single = family.sample(eta[0], (2,), seed=7)
    assert single.shape == (2, *family.event_shape)
    torch.testing.assert_close(single, whole[:2, 0])
    assert family.sample(eta[:0], (2,), seed=7).shape == (2, 0, *family.event_shape)


# Maximum likelihood


@every_case
def test_maximum_likelihood(case):
    """The likelihood has no slope there; weights are the number of times that a row is seen."""
    family = case.family
    x = family.sample(case.eta(41, size=0.3), (60,), seed=9).double()
    eta = family.maximum_likelihood(x).requires_grad_()
    (slope,) = torch.autograd.grad(family.log_prob(x, eta).mean(), eta)
    scale = family.statistics(x).abs().mean(0)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0.0, atol=1e-9 * float(scale.max()))
    counts = torch.arange(60) % 3
    repeated = family.maximum_likelihood(x.repeat_interleave(counts, 0))
    torch.testing.assert_close(family.maximum_likelihood(x, counts), repeated)


def test_weights_for_each_component():
    """Responsibilities, (N, K): K maxima at once, as the M step of a mixture has them."""
    x = torch.linspace(-1.0, 3.0, 9, dtype=DOUBLE)
    weights = torch.stack([x + 1.0, 3.0 - x], -1)
    found = Gaussian().maximum_likelihood(x.unsqueeze(-1).expand(-1, 2), weights)
    for component in range(2):
        torch.testing.assert_close(found[component], Gaussian().maximum_likelihood(x, weights[:, component]))
    mean = (weights[:, 0] @ x / weights[:, 0].sum()).item()
    assert Gaussian().mean_parameters(found)[0, 0].item() == pytest.approx(mean)


def test_the_maximum_is_differentiable_in_weights_and_data():
    """Through Newton's method, by the implicit function theorem."""
    x = double(0.5, 1.0, 2.0, 4.0).requires_grad_()
    weights = double(1.0, 2.0, 1.0, 0.5).requires_grad_()
    assert torch.autograd.gradcheck(Gamma().maximum_likelihood, (x, weights))


# Conjugate priors

PRIORS = [
    (Bernoulli(), [1.3], 3.0),
    (Binomial(4), [5.0], 2.0),
    (Poisson(), [2.5], 1.5),
    (Exponential(), [2.0], 3.0),
    (Laplace(0.5), [2.0], 3.0),
]


def log_integral(family, prior, low, high):
    """log of the integral of the prior's kernel over one natural parameter, and that of kernel times mean."""
    eta = torch.linspace(low, high, 200001, dtype=DOUBLE).unsqueeze(-1)
    scores = (eta @ prior.chi) - prior.nu * family.log_partition(eta) + math.log((high - low) / 200000)
    total = torch.logsumexp(scores, 0)
    return total, (scores - total).exp() @ family.mean_parameters(eta)


@pytest.mark.parametrize(("family", "chi", "nu"), PRIORS, ids=lambda value: type(value).__name__)
def test_conjugate_priors_of_one_parameter(family, chi, nu):
    """The normaliser by quadrature over eta, E[mu] = chi / nu, evidence and predictive probabilities."""
    prior = family.conjugate_prior(double(*chi), nu)
    low, high = (-60.0, -1e-9) if "negative" in family.natural_range else (-60.0, 60.0)
    total, mean = log_integral(family, prior, low, high)
    torch.testing.assert_close(prior.log_normaliser(), total, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(prior.mean(), mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(family.mean_parameters(prior.mode()), prior.mean())
    x = family.sample(family.natural_parameters(prior.mean()), (5,), seed=12)
    posterior = prior.posterior(x)
    after, _ = log_integral(family, posterior, low, high)
    expected = after - total + family.log_base_measure(x).sum()
    torch.testing.assert_close(prior.log_evidence(x), expected, rtol=1e-6, atol=1e-6)
    check_chain_rule(prior, x)
    eta = family.natural_parameters(prior.mean())
    ratio = posterior.log_prob(eta) - prior.log_prob(eta)  # Bayes
    torch.testing.assert_close(ratio, family.log_prob(x, eta).sum() - prior.log_evidence(x))


def check_chain_rule(prior, x):
    """log p(x_1, ..., x_N) is the sum of log p(x_n | x_1, ..., x_n-1)."""
    terms = [prior.posterior(x[:n]).log_predictive(x[n]) for n in range(len(x))]
    torch.testing.assert_close(prior.log_evidence(x), torch.stack(terms).sum())


def test_priors_as_distributions():
    """PyTorch's Beta, Dirichlet and Gamma of the usual parameters; their means are those of mu."""
    beta = Bernoulli().conjugate_prior(double(2.0), 5.0).to_distribution()
    assert (beta.concentration1.item(), beta.concentration0.item()) == (2.0, 3.0)
    binomial = Binomial(4).conjugate_prior(double(2.0), 5.0).to_distribution()
    assert (binomial.concentration1.item(), binomial.concentration0.item()) == (2.0, 18.0)
    gamma = Poisson().conjugate_prior(double(2.0), 5.0).to_distribution()
    assert (gamma.concentration.item(), gamma.rate.item()) == (2.0, 5.0)
    for family in (Exponential(), Laplace()):
        gamma = family.conjugate_prior(double(2.0), 5.0).to_distribution()
        assert (gamma.concentration.item(), gamma.rate.item()) == (6.0, 2.0)
        # E[1 / rate] of Gamma(a, b) is b / (a - 1)
        torch.testing.assert_close(family.conjugate_prior(double(2.0), 5.0).mean(), gamma.rate / 5.0 * double(1.0))
    dirichlet = Categorical(3).conjugate_prior(double(1.0, 2.0, 3.0), 6.0)
    torch.testing.assert_close(dirichlet.mean(), dirichlet.to_distribution().mean)
    with pytest.raises(NotImplementedError, match="Gaussian: PyTorch has no distribution that is the conjugate prior"):
        Gaussian().conjugate_prior(double(0.0, 1.0), 2.0).to_distribution()


def test_prior_of_categories():
    """Polya's urn: with Dirichlet(chi), p(x = k) = chi_k / sum(chi)."""
    prior = Categorical(3).conjugate_prior(double(1.0, 2.0, 3.0), 6.0)
    torch.testing.assert_close(prior.log_predictive(torch.arange(3)).exp(), double(1.0, 2.0, 3.0) / 6.0)
    x = torch.tensor([0, 2, 2])
    assert prior.log_evidence(x).exp().item() == pytest.approx(1 / 6 * 3 / 7 * 4 / 8)
    weighted = prior.posterior(torch.arange(3), torch.tensor([1.0, 0.0, 2.0]))
    torch.testing.assert_close(weighted.chi, prior.posterior(x).chi)
    with pytest.raises(ValueError, match="chi / nu must be positive, with the sum 1, got"):
        Categorical(2).conjugate_prior(double(1.0, 1.0), 2.1)


def test_normal_gamma_prior():
    """Predictive: Student's t with nu + 3 degrees of freedom (the density is one of eta, not of mean and variance)."""
    chi, nu = double(1.0, 4.0), 3.0
    prior = Gaussian().conjugate_prior(chi, nu)
    x = torch.linspace(-4.0, 6.0, 11, dtype=DOUBLE)
    rate = 0.5 * (4.0 - 1.0 / 3.0)
    # Of N(m, v) with v's inverse Gamma(a, b) and m | v ~ N(m_0, v / nu): t(2 a), scale^2 = b / a (1 + 1 / nu).
    scale = math.sqrt(rate / 3.0 * (1.0 + 1.0 / 3.0))
    expected = stats.t(6.0, 1.0 / 3.0, scale).logpdf(x.numpy())
    torch.testing.assert_close(prior.log_predictive(x), torch.from_numpy(expected))
    check_chain_rule(prior, x[:4])
    vector = MultivariateGaussian(1).conjugate_prior(chi, nu)
    torch.testing.assert_close(vector.log_normaliser(), prior.log_normaliser())


def test_normal_gamma_normaliser_by_quadrature():
    """Over both natural parameters: the precision on a logarithmic grid, the mean on one that follows it."""
    chi, nu = double(1.0, 4.0), 3.0
    prior = Gaussian().conjugate_prior(chi, nu)
    log_precision = torch.arange(-14.0, 6.0, 0.05, dtype=DOUBLE)[:, None]
    precision = log_precision.exp()
    mean = 1.0 / 3.0 + torch.arange(-9.0, 9.0, 0.1, dtype=DOUBLE) / (nu * precision).sqrt()
    eta = torch.stack([mean * precision, (-0.5 * precision).expand_as(mean)], -1)
    # d eta = precision / 2 d mean d precision
    measure = (0.1 / (nu * precision).sqrt() * 0.05 * precision * 0.5 * precision).log()
    scores = eta @ chi - nu * Gaussian().log_partition(eta) + measure
    torch.testing.assert_close(prior.log_normaliser(), torch.logsumexp(scores.flatten(), 0), rtol=1e-9, atol=1e-9)
    weights = torch.softmax(scores.flatten(), 0)
    mean_parameters = weights @ Gaussian().mean_parameters(eta).flatten(0, 1)
    torch.testing.assert_close(mean_parameters, chi / nu, rtol=1e-5, atol=1e-5)


def test_normal_wishart_prior():
    """Predictive: the multivariate t with nu + 3 degrees of freedom."""
    family, nu = MultivariateGaussian(2), 4.0
    total, products = double(1.0, -2.0), torch.tensor([[6.0, 0.5], [0.5, 5.0]], dtype=DOUBLE)
    chi = nu * family.mean_from_covariance(total / nu, products / nu - total[:, None] * total / nu**2)
    prior = family.conjugate_prior(chi, nu)
    inverse_scale = products - total[:, None] * total / nu
    # For W(n, B^-1): t with n - D + 1 degrees of freedom, shape B (nu + 1) / (nu (n - D + 1)); here n = nu + D + 2.
    degrees = nu + 3.0
    shape = inverse_scale * (nu + 1.0) / (nu * degrees)
    x = torch.tensor([[0.0, 0.0], [1.0, -1.0], [3.0, 2.0]], dtype=DOUBLE)
    expected = stats.multivariate_t(total.numpy() / nu, shape.numpy(), degrees).logpdf(x.numpy())
    torch.testing.assert_close(prior.log_predictive(x), torch.from_numpy(expected))
    check_chain_rule(prior, x)


def test_priors_without_a_normaliser():
    """Posterior, mean and mode need none."""
    prior = Gamma().conjugate_prior(double(-1.0, 3.0), 2.0)
    posterior = prior.posterior(double(1.0, 2.0))
    torch.testing.assert_close(posterior.mean(), (double(-1.0, 3.0) + double(math.log(2.0), 3.0)) / 4.0)
    torch.testing.assert_close(Gamma().mean_parameters(posterior.mode()), posterior.mean())
    with pytest.raises(NotImplementedError, match="Gamma: the normaliser of the conjugate prior has no closed form"):
        prior.log_evidence(double(1.0, 2.0))
    assert repr(prior) == "ConjugatePrior(Gamma(), chi: (2,), nu: ())"
