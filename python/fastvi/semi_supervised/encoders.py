"""A trained encoder q(z|x) as estimators use it: NumPy rows in, posterior means or samples out, one preprocessing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from fastvi.data import BINARIZATIONS, Presenter
from fastvi.evaluate import encode
from fastvi.objectives.model import has_bound
from fastvi.seeding import mix_seed
from fastvi.training.fitted import Fit, load
from fastvi.training.own_model import shaped

_PIXELS, _LATENTS = 0, 1
"""Streams of noise: ``mix_seed(seed, _PIXELS)``."""

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
    """

    model: Any
    binarization: str
    options: Any = None

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
            made = cls(found.model, binarization or found.config.binarization, found.config.model)
        else:
            made = cls(found, binarization or "none")
        name = type(made.model).__name__
        if not has_bound(made.model) or not hasattr(made.model, "encode"):
            raise TypeError(f"{owner}: model must have an encoder q(z|x): a VAE, a Fit or a run folder, got {name}")
        if getattr(made.model, "uses_labels", False):
            raise TypeError(f"{owner}: model must be one that was trained without labels, got {name}, which takes them")
        return made

    def means(self, rows: Rows) -> Rows:
        """Return E_q[z|x], (N, Z), of rows (N, D), in their dtype.

        Of rows that are binarised dynamically the encoder sees the grey values, which are the means of their draws.

        Raises
        ------
        ValueError
            If q(z|x) has no mean in closed form.
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
        if self.binarization == "static" or (self.binarization == "dynamic" and seed is not None):
            presenter = Presenter(x, self.binarization)
            x = presenter(torch.arange(len(x), device=x.device), 0 if seed is None else seed)
        return shaped(self.options, x)


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
