"""Mixtures and hidden Markov models of the families of fastvi.expfam."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning

from fastvi import expfam
from fastvi.em import HiddenMarkovModel, Mixture, Poisson
from fastvi.em._from_expfam import FromExpfam


def rows(name: str, count: int = 60, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    large = random.random((count, 1)) < 0.5
    return {
        "gamma": lambda: random.gamma(np.where(large, 9.0, 2.0), np.where(large, 1.0, 0.3), (count, 3)),
        "exponential": lambda: random.exponential(np.where(large, 9.0, 0.5), (count, 3)),
        "beta": lambda: random.beta(np.where(large, 5.0, 1.0), 2.0, (count, 3)),
        "poisson": lambda: random.poisson(np.where(large, 9.0, 1.0), (count, 3)).astype(float),
        "von-mises": lambda: random.vonmises(np.where(large, 2.0, -1.0), 4.0, (count, 3)),
        "dirichlet": lambda: random.dirichlet([1.0, 2.0, 5.0], count),
        "multivariate-gaussian": lambda: random.normal(np.where(large, 2.0, -2.0), 1.0, (count, 3)),
        "ising": lambda: np.where(random.random((count, 3)) < np.where(large, 0.8, 0.3), 1.0, -1.0),
    }[name]()


FAMILIES = {
    "gamma": expfam.Gamma(),
    "exponential": expfam.Exponential(),
    "beta": expfam.Beta(),
    "poisson": expfam.Poisson(),
    "von-mises": expfam.VonMises(),
    "dirichlet": expfam.Dirichlet(3),
    "multivariate-gaussian": expfam.MultivariateGaussian(3),
    "ising": expfam.Ising(3),
}


def fit(model, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_bound_never_falls_and_is_the_log_likelihood(name):
    x = rows(name)
    mixture = fit(Mixture(FAMILIES[name], 2, random_state=0, max_iter=20), x)
    bounds = np.asarray(mixture.bounds_)
    assert (np.diff(bounds) >= -1e-9 * np.abs(bounds[1:])).all()
    family, natural = FAMILIES[name], torch.tensor(mixture.natural_parameters_)
    columns = natural if family.event_dim else natural.unflatten(-1, (3, -1))
    densities = family.log_prob(torch.tensor(x)[:, None], columns)
    expected = torch.logsumexp(
        (densities if family.event_dim else densities.sum(-1)) + torch.tensor(mixture.weights_).log(), -1
    )
    np.testing.assert_allclose(mixture.score_samples(x), expected.numpy(), rtol=1e-9, atol=1e-9)
    assert mixture.sample(5)[0].shape == (5, 3)


def test_gamma_against_scipy():
    x = rows("gamma")
    mixture = fit(Mixture(expfam.Gamma(), 2, random_state=0), x)
    shape = mixture.natural_parameters_.reshape(2, 3, 2)[..., 0]
    rate = -mixture.natural_parameters_.reshape(2, 3, 2)[..., 1]
    terms = stats.gamma.logpdf(x[:, None], shape, scale=1.0 / rate).sum(-1) + np.log(mixture.weights_)
    np.testing.assert_allclose(mixture.score_samples(x), logsumexp(terms, 1), rtol=1e-9)
    assert mixture.bic(x) == pytest.approx(-2 * logsumexp(terms, 1).sum() + 13 * np.log(60), rel=1e-9)


def test_the_same_fit_as_the_family_of_the_module_itself():
    x = rows("poisson")
    start = np.stack([x[:30].mean(0), x[30:].mean(0) + 1.0])
    one, other = (
        fit(Mixture(family, 2, means_init=start, weights_init=[0.5, 0.5]), x)
        for family in (expfam.Poisson(), Poisson())
    )
    np.testing.assert_allclose(one.natural_parameters_, other.natural_parameters_, rtol=1e-9)
    assert one.bounds_ == pytest.approx(other.bounds_, rel=1e-12)


def test_a_component_of_equal_rows_has_finite_parameters():
    """Its mean statistics are on the edge of the domain."""
    statistics = FromExpfam(expfam.Gamma()).sufficient_statistics(torch.full((1, 2), 3.0, dtype=torch.float64))
    natural = FromExpfam(expfam.Gamma()).natural_parameters(statistics)
    assert natural.isfinite().all()
    shape, rate = natural.reshape(2, 2)[..., 0], -natural.reshape(2, 2)[..., 1]
    torch.testing.assert_close(shape / rate, torch.full((2,), 3.0, dtype=torch.float64), rtol=1e-6, atol=0)


def test_a_categorical_family_is_not_minimal():
    one_hot = expfam.Categorical(4)
    assert FromExpfam(one_hot).num_parameters(8) == 6


@pytest.mark.parametrize(("name", "value"), [("gamma", -1.0), ("poisson", 0.5), ("beta", 1.5), ("dirichlet", 0.9)])
def test_rows_that_cannot_occur_are_refused(name, value):
    x = rows(name)
    x[7] = value
    with pytest.raises(ValueError, match=f"^{type(FAMILIES[name]).__name__}: x must"):
        Mixture(FAMILIES[name], 2).fit(x)


def test_rows_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"^Dirichlet: x must have rows of 3 columns, got 2"):
        Mixture(expfam.Dirichlet(3), 2).fit(np.full((9, 2), 0.5))


def test_emissions_of_a_hidden_markov_model():
    x = rows("gamma")
    model = fit(HiddenMarkovModel(2, family=expfam.Gamma(), random_state=0, max_iter=15), x)
    bounds = np.asarray(model.bounds_)
    assert (np.diff(bounds) >= -1e-9 * np.abs(bounds[1:])).all()
    assert model.predict(x).shape == (60,)
