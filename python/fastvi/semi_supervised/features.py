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
DTYPES = [np.float64, np.float32, np.uint8]
"""Which scikit-learn lets pass; others become the first. Bytes have to be known as such, because they are divided."""


class LatentFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no type hints
    """Posterior means E_q[z|x] of a model that was trained without labels, as features of a classifier.

    Labelled and unlabelled rows take one way to the encoder: the scale and the binarization that the model was trained
    with. Of a run, rows of bytes (uint8) are divided as it divides its own: by 255 unless they are counts or hold 0 and
    1 alone. Other rows are to be as the run has them, divided and standardised. A model without a run takes rows as
    they are. Values that the likelihood is not of are refused.

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
    divisor_
        What rows of bytes are divided by: as those of `fit` were; None where these were no bytes.
    n_features_in_
        D.

    Raises
    ------
    TypeError, ValueError
        By `fit`: if the model has no such encoder or takes labels, a parameter is out of range, the rows do not fit the
        model, or no latent dimension is spread by more than ``min_spread``. By all: if a value of the rows is none that
        the model's likelihood is of.
    RunError
        By `fit`: if ``model`` names no run folder.

    Warns
    -----
    UserWarning
        By `fit`: where real numbers are of another scale than the rows that the run was trained on, as far as these are
        at hand: those of `fastvi.fit`, and of a folder that was trained on standardised data of a path.

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
        given = validate_data(self, X, dtype=DTYPES)
        divisor = encoder.divisor(given) if given.dtype == np.uint8 else None
        rows = _as_floats(given, divisor)
        spreads = encoder.means(rows).std(0, dtype=np.float64)
        encoder.warn_of_scale(rows)
        kept = np.flatnonzero(spreads > least)
        if len(kept) == 0:
            raise ValueError(
                f"{_OWNER}: no latent dimension has a posterior mean that is spread by more than min_spread {least:g}: "
                f"the largest standard deviation over the {len(rows):,} rows of X is {spreads.max():.3g}"
            )
        self.encoder_ = encoder
        self.divisor_ = divisor
        self.spreads_ = spreads
        self.dimensions_ = kept
        return self

    def transform(self, X: Any) -> Any:  # noqa: N803
        """Return the posterior means (N, Z') of rows (N, D), in their dtype, float32 of bytes."""
        check_is_fitted(self, "dimensions_")
        return self.encoder_.means(self._rows(X))[:, self.dimensions_]

    def sample(self, X: Any, seed: int = 0) -> Any:  # noqa: N803
        """Return a draw from q(z|x) for each of the rows (N, D), (N, Z'), in their dtype, float32 of bytes.

        A row's draw depends on the row, its place and ``seed``, in [0, 2^63).
        """
        check_is_fitted(self, "dimensions_")
        seed = check_seed(f"{_OWNER}.sample", seed, "an int")
        return self.encoder_.sample(self._rows(X), seed)[:, self.dimensions_]

    def get_feature_names_out(self, input_features: Any = None) -> Any:
        """Return z0, z3 and so on: the numbers of the latent dimensions that are kept."""
        check_is_fitted(self, "dimensions_")
        return np.asarray([f"z{dimension}" for dimension in self.dimensions_], dtype=object)

    def _rows(self, X: Any) -> Any:  # noqa: N803
        """Rows on the scale of those that were fitted."""
        rows = validate_data(self, X, dtype=DTYPES, reset=False)
        return _as_floats(rows, self.encoder_.divisor(rows) if self.divisor_ is None else self.divisor_)


def _as_floats(rows: Any, divisor: float | None) -> Any:
    """Rows of bytes as float32, divided; others as they are."""
    return rows.astype(np.float32) / np.float32(divisor) if rows.dtype == np.uint8 else rows


def _checked_spread(min_spread: Any) -> float:
    """The least spread as a number; less than any where all dimensions are kept."""
    if min_spread is None:
        return -math.inf
    least = check_number(_OWNER, "min_spread", min_spread, "a number or None")
    if not 0.0 <= least < math.inf:
        raise ValueError(f"{_OWNER}: min_spread must be finite and at least 0, or None, got {least:g}")
    return least
