"""Mean field: posteriors approximated by products of factors, by coordinate ascent and by stochastic gradients.

Estimators have scikit-learn's interface, which has to be installed: ``pip install "fastvi[mean_field]"``.
"""

from fastvi._extras import missing

try:
    import scipy  # noqa: F401  # asked for here, so that what is missing is named
    import sklearn  # noqa: F401  # the same
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(missing(error.name or "", "mean_field", "fastvi.mean_field"), name=error.name) from error

from fastvi.mean_field.advi import ADVI
from fastvi.mean_field.gaussian import FactorisedGaussian, factorised_gaussian
from fastvi.mean_field.gaussian_mixture import BayesianGaussianMixture
from fastvi.mean_field.ising import IsingMeanField
from fastvi.mean_field.latent_dirichlet_allocation import LatentDirichletAllocation, documents_bound
from fastvi.mean_field.linear_regression import BayesianLinearRegression
from fastvi.mean_field.logistic_regression import BayesianLogisticRegression
from fastvi.mean_field.score_function import ScoreFunctionVI

__all__ = [
    "ADVI",
    "BayesianGaussianMixture",
    "BayesianLinearRegression",
    "BayesianLogisticRegression",
    "FactorisedGaussian",
    "IsingMeanField",
    "LatentDirichletAllocation",
    "ScoreFunctionVI",
    "documents_bound",
    "factorised_gaussian",
]
