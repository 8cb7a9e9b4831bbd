"""Mean field: posteriors approximated by products of factors, by coordinate ascent and by stochastic gradients.

Estimators have scikit-learn's interface, which has to be installed: ``pip install "fastvi[mean_field]"``.
"""

try:
    import sklearn  # noqa: F401  # asked for here, so that what is missing is named
except ModuleNotFoundError as error:
    raise ImportError(
        'fastvi.mean_field needs scikit-learn, which is not installed: pip install "fastvi[mean_field]"'
    ) from error

from fastvi.mean_field.gaussian import FactorisedGaussian, factorised_gaussian
from fastvi.mean_field.gaussian_mixture import BayesianGaussianMixture
from fastvi.mean_field.ising import IsingMeanField
from fastvi.mean_field.latent_dirichlet_allocation import LatentDirichletAllocation, documents_bound
from fastvi.mean_field.linear_regression import BayesianLinearRegression

__all__ = [
    "BayesianGaussianMixture",
    "BayesianLinearRegression",
    "FactorisedGaussian",
    "IsingMeanField",
    "LatentDirichletAllocation",
    "documents_bound",
    "factorised_gaussian",
]
