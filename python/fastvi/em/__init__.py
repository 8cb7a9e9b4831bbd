"""Expectation-maximisation: mixtures and hidden Markov models, with the bound after every half step.

Estimators have scikit-learn's interface, which has to be installed: ``pip install "fastvi[em]"``.
"""

from fastvi._extras import missing

try:
    import sklearn  # noqa: F401  # asked for here, so that what is missing is named
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(missing("sklearn", "em", "fastvi.em"), name=error.name) from error

from fastvi.em.families import Bernoulli, Categorical, ExponentialFamily, Poisson
from fastvi.em.gaussian_mixture import GaussianMixture
from fastvi.em.hidden_markov import HiddenMarkovModel
from fastvi.em.mixture import Mixture

__all__ = [
    "Bernoulli",
    "Categorical",
    "ExponentialFamily",
    "GaussianMixture",
    "HiddenMarkovModel",
    "Mixture",
    "Poisson",
]
