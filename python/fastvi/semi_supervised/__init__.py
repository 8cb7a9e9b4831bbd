"""Classifiers that see few labels, on the latent variables of a model that was trained without any (M1).

After Kingma, Mohamed, Rezende and Welling 2014, "Semi-supervised learning with deep generative models", section 2.
The classes have scikit-learn's estimator interface, which has to be installed: ``pip install "fastvi[train]"``.
"""

from fastvi._extras import missing

try:
    import sklearn  # noqa: F401  # asked for here, so that what is missing is named
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(missing("sklearn", "train", "fastvi.semi_supervised"), name=error.name) from error

from fastvi.semi_supervised.features import LatentFeatures
from fastvi.semi_supervised.resampled import ResampledClassifier

__all__ = ["LatentFeatures", "ResampledClassifier"]
