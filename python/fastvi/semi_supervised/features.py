"""The latent variables of a trained model as features, with scikit-learn's interface: M1 of Kingma et al. 2014."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from fastvi._sizes import check_number, check_seed
from fastvi.semi_supervised.encoders import TrainedEncoder

_OWNER = "LatentFeatures"


class LatentFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no type hints
    """Posterior means E_q[z|x] of a model that was trained without labels, as features of a classifier.

    Labelled and unlabelled rows take one way to the encoder: the binarization that the model was trained with.

    Parameters
    ----------
    model
        A trained model with an ``encode`` whose q(z|x) has a mean in closed form, such as `fastvi.models.VAE`; what
        `fastvi.fit` returned; or the folder of a run. Nothing here changes it, and clones share it.
    min_spread
        Keep the latent dimensions whose posterior mean has a standard deviation of more than this over the rows of
        `fit`: the others are the prior's noise. None: keep all.
    binarization
        How grey values come to the encoder. ``"none"``: as they are. ``"dynamic"``: `sample` draws each pixel anew, and
        `transform` gives the encoder the grey values, which are the means of those draws. ``"static"``: both draw it
        once for good, by its place in the rows given. None: as the run has it, and ``"none"`` for a model without a
        run.

    Attributes
    ----------
    spreads_
        Standard deviation of each posterior mean over the rows of `fit`, (Z,).
    dimensions_
        The latent dimensions that are kept, in increasing order, (Z',).
    n_features_in_
        D.

    Raises
    ------
    TypeError, ValueError
        By `fit`: if the model has no such encoder or takes labels, a parameter is out of range, the rows do not fit the
        model, or no latent dimension is spread by more than ``min_spread``.
    RunError
        By `fit`: if ``model`` names no run folder.

    References
    ----------
    Kingma, Mohamed, Rezende and Welling 2014, "Semi-supervised learning with deep generative models", section 2, M1.
    Their program (github.com/dpkingma/nips14-ssl) keeps the dimensions with a standard deviation of more than 0.1 over
    1000 images.

    Examples
    --------
    >>> import numpy as np
    >>> import fastvi
    >>> x = np.random.default_rng(0).integers(0, 2, (200, 16)).astype(np.float32)
    >>> fitted = fastvi.fit("vae", x, epochs=1, latent_dim=2, hidden_dims=(8,))
    >>> features = LatentFeatures(fitted, min_spread=None).fit(x)
    >>> features.transform(x).shape, features.sample(x, seed=1).shape
    ((200, 2), (200, 2))
    """

    def __init__(self, model: Any, *, min_spread: float | None = 0.1, binarization: str | None = None) -> None:
        self.model = model
        self.min_spread = min_spread
        self.binarization = binarization

    def __sklearn_clone__(self) -> LatentFeatures:
        """Return an unfitted one of the same parameters; the trained model is shared, with all data that it has."""
        return type(self)(**self.get_params(deep=False))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def fit(self, X: Any, y: Any = None) -> LatentFeatures:  # noqa: N803  # scikit-learn's name
        """Choose the latent dimensions by rows (N, D); the model stays as it is, and ``y`` is not looked at."""
        least = _checked_spread(self.min_spread)
        encoder = TrainedEncoder.of(_OWNER, self.model, self.binarization)
        rows = validate_data(self, X, dtype=[np.float64, np.float32])
        spreads = encoder.means(rows).std(0, dtype=np.float64)
        kept = np.flatnonzero(spreads > least)
        if len(kept) == 0:
            raise ValueError(
                f"{_OWNER}: no latent dimension has a posterior mean that is spread by more than min_spread {least:g}: "
                f"the largest standard deviation over the {len(rows):,} rows of X is {spreads.max():.3g}"
            )
        self.encoder_ = encoder
        self.spreads_ = spreads
        self.dimensions_ = kept
        return self

    def transform(self, X: Any) -> Any:  # noqa: N803
        """Return the posterior means (N, Z') of rows (N, D), in their dtype."""
        check_is_fitted(self, "dimensions_")
        rows = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return self.encoder_.means(rows)[:, self.dimensions_]

    def sample(self, X: Any, seed: int = 0) -> Any:  # noqa: N803
        """Return a draw from q(z|x) for each of the rows (N, D), (N, Z'), in their dtype.

        A row's draw depends on the row, its place and ``seed``, in [0, 2^63).
        """
        check_is_fitted(self, "dimensions_")
        seed = check_seed(f"{_OWNER}.sample", seed, "an int")
        rows = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return self.encoder_.sample(rows, seed)[:, self.dimensions_]

    def get_feature_names_out(self, input_features: Any = None) -> Any:
        """Return z0, z3 and so on: the numbers of the latent dimensions that are kept."""
        check_is_fitted(self, "dimensions_")
        return np.asarray([f"z{dimension}" for dimension in self.dimensions_], dtype=object)


def _checked_spread(min_spread: Any) -> float:
    """The least spread as a number; less than any where all dimensions are kept."""
    if min_spread is None:
        return -math.inf
    least = check_number(_OWNER, "min_spread", min_spread, "a number or None")
    if not 0.0 <= least < math.inf:
        raise ValueError(f"{_OWNER}: min_spread must be finite and at least 0, or None, got {least:g}")
    return least
