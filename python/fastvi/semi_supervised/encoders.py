"""A trained encoder q(z|x) as estimators use it: NumPy rows in, posterior means or samples out, one preprocessing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fastvi.data import BINARIZATIONS, DataError, Dataset, Presenter
from fastvi.data.dataset import check_values
from fastvi.data.rows import some_rows
from fastvi.data.splitting import evenly_spaced
from fastvi.evaluate import encode
from fastvi.models.likelihoods import LIKELIHOODS, VALUES, values_of
from fastvi.objectives.model import has_bound
from fastvi.seeding import mix_seed
from fastvi.training.fitted import Fit, load
from fastvi.training.own_model import shaped

_PIXELS, _LATENTS = 0, 1
"""Streams of noise: ``mix_seed(seed, _PIXELS)``."""

_ROWS_LOOKED_AT = 10_000
_FEWEST_ROWS = 10
"""From fewer rows a standard deviation says little."""
_FARTHEST = 3.0
"""Columns are of another scale where their mean or their standard deviation is off by more than so many times the
standard deviation of the training rows."""

Rows = npt.NDArray[Any]


@dataclass(frozen=True)
class TrainedEncoder:
    """The encoder of a model that was trained without labels.

    Attributes
    ----------
    model
        It has an ``encode`` and a ``log_likelihood``, see `fastvi.objectives`.
    binarization
        How it meets grey values: one of ``fastvi.data.BINARIZATIONS``.
    options
        Of the model in its run, which know the shape of one example; None: rows.
    owner
        Who is named in messages.
    likelihood
        Which the values of the rows have to fit, one of ``fastvi.models.LIKELIHOODS``; None: any numbers.
    divide_by
        What the run divides its values by, where that was chosen; None: bytes are divided by 255 unless they are counts
        or hold 0 and 1 alone.
    has_run
        Whether the model is one of a run, which knows how bytes are divided; else rows are taken as they are.
    of_training
        Mean and standard deviation of each column of the training rows, two of (D,) or two numbers, where they are
        known and real numbers.
    """

    model: Any
    binarization: str
    options: Any = None
    owner: str = "TrainedEncoder"
    likelihood: str | None = None
    divide_by: float | None = None
    has_run: bool = False
    of_training: tuple[Rows, Rows] | None = None

    @classmethod
    def of(cls, owner: str, given: Any, binarization: str | None) -> TrainedEncoder:
        """Return the encoder of a model, a `Fit` or the folder of a run; for messages of ``owner``.

        Raises
        ------
        RunError
            If there is no such folder, or its run is damaged.
        TypeError, ValueError
            If the model has no q(z|x) or takes labels, or the binarization is unknown.
        """
        if binarization is not None and binarization not in BINARIZATIONS:
            expected = ", ".join(BINARIZATIONS)
            raise ValueError(f"{owner}: binarization must be one of {expected} or None, got {binarization!r}")
        found = load(given) if isinstance(given, (str, Path)) else given
        if isinstance(found, Fit):
            made = cls._of_run(owner, found, binarization or found.config.binarization)
        else:
            made = cls(found, binarization or "none", None, owner, _likelihood_of(found, binarization or "none"))
        name = type(made.model).__name__
        if not has_bound(made.model) or not hasattr(made.model, "encode"):
            raise TypeError(f"{owner}: model must have an encoder q(z|x): a VAE, a Fit or a run folder, got {name}")
        if getattr(made.model, "uses_labels", False):
            raise TypeError(f"{owner}: model must be one that was trained without labels, got {name}, which takes them")
        return made

    @classmethod
    def _of_run(cls, owner: str, fitted: Fit, binarization: str) -> TrainedEncoder:
        options, folder, data = fitted.config.model, fitted.folder, fitted._source
        record = folder.read_record() if folder is not None and folder.path.is_dir() else None
        source = {} if record is None or record.source is None else record.source
        likelihood = _likelihood_of(options, binarization)
        of_training = None
        if likelihood is None or values_of(likelihood) == VALUES[2]:
            if source.get("standardize"):
                of_training = np.zeros(1), np.ones(1)
            elif isinstance(data, Dataset):
                of_training = _moments(data)
        return cls(fitted.model, binarization, options, owner, likelihood, source.get("divide_by"), True, of_training)

    def divisor(self, rows: Rows) -> float:
        """Return what the run divides rows (N, D) of bytes by; 1 for other numbers, which are taken as they are."""
        if rows.dtype != np.uint8 or not self.has_run:
            return 1.0
        if self.divide_by is not None:
            return float(self.divide_by)
        are_counts = self.likelihood is not None and values_of(self.likelihood) == VALUES[1]
        return 255.0 if rows.size and rows.max() > 1 and not are_counts else 1.0

    def warn_of_scale(self, rows: Rows) -> None:
        """Warn where most columns of rows (N, D) are of another scale than those that the model was trained on."""
        if self.of_training is None:
            return
        mean, deviation = self.of_training
        varies = np.broadcast_to(deviation > 0, rows.shape[1:]) if deviation.size in (1, rows.shape[1]) else None
        if varies is None or not varies.any():
            return
        found_mean, found_deviation = rows.mean(0, dtype=np.float64), rows.std(0, dtype=np.float64)
        scale = np.where(varies, deviation, 1.0)
        off = np.abs(found_mean - mean) / scale
        if len(rows) >= _FEWEST_ROWS:
            off = np.maximum(off, np.maximum(found_deviation / scale, scale / np.maximum(found_deviation, 1e-300)))
        off = np.where(varies, off, 0.0)
        if (off > _FARTHEST).sum() <= varies.sum() / 2:
            return
        worst = int(off.argmax())
        trained = [np.broadcast_to(value, rows.shape[1:])[worst] for value in (mean, deviation)]
        warnings.warn(
            f"{self.owner}: column {worst} of X has the mean {found_mean[worst]:.3g} and the standard deviation "
            f"{found_deviation[worst]:.3g}, {trained[0]:.3g} and {trained[1]:.3g} in the rows that the run was trained "
            "on: give rows as the run has them, divided or standardised as its data were",
            UserWarning,
            stacklevel=3,
        )

    def means(self, rows: Rows) -> Rows:
        """Return E_q[z|x], (N, Z), of rows (N, D), in their dtype.

        Of rows that are binarised dynamically the encoder sees the grey values, which are the means of their draws.

        Raises
        ------
        ValueError
            If q(z|x) has no mean in closed form, or values are none that the likelihood is of.
        """
        with _evaluating(self.model):
            mean = encode(self.model, self._presented(rows, None)).mean
        assert mean is not None  # else encode has raised
        return _array(mean, rows)

    def sample(self, rows: Rows, seed: int) -> Rows:
        """Return one draw from q(z|x) for each of the rows (N, D), (N, Z), in their dtype."""
        with _evaluating(self.model):
            x = self._presented(rows, mix_seed(seed, _PIXELS))
            drawn = encode(self.model, x, num_samples=1, seed=mix_seed(seed, _LATENTS)).samples[0][0]
        return _array(drawn, rows)

    def _presented(self, rows: Rows, seed: int | None) -> Any:
        """The rows as the encoder sees them, in the dtype and on the device of its parameters."""
        like = next(self.model.parameters(), None) if isinstance(self.model, nn.Module) else None
        x = torch.tensor(rows) if like is None else torch.tensor(rows, dtype=like.dtype, device=like.device)
        if self.likelihood is not None:
            try:
                check_values(f"{self.owner}: X", x, self.likelihood)
            except DataError as error:
                raise ValueError(str(error)) from None
        if self.binarization == "static" or (self.binarization == "dynamic" and seed is not None):
            presenter = Presenter(x, self.binarization)
            x = presenter(torch.arange(len(x), device=x.device), 0 if seed is None else seed)
        return shaped(self.options, x)


def _likelihood_of(owner: Any, binarization: str) -> str | None:
    """The likelihood that a model, or its options, name; pixels that are to be drawn are in [0, 1] for any model."""
    name = getattr(owner, "likelihood", None)
    if isinstance(name, str) and name in LIKELIHOODS:
        return name
    return None if binarization == "none" else "bernoulli"


def _moments(data: Dataset) -> tuple[Rows, Rows]:
    """Mean and standard deviation of the columns of training rows, each (D,)."""
    rows = data.train
    if isinstance(rows, Tensor):
        rows = rows[evenly_spaced(min(_ROWS_LOOKED_AT, len(rows)), len(rows))]
    deviation, mean = torch.std_mean(some_rows(rows), 0, correction=0)
    return mean.double().numpy(), deviation.double().numpy()


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """A module without the noise that its layers have in training; afterwards each is as it was."""
    training = [part for part in model.modules() if part.training] if isinstance(model, nn.Module) else []
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _array(values: Tensor, like: Rows) -> Rows:
    return values.detach().cpu().numpy().astype(like.dtype, copy=False)
