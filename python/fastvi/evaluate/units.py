"""Active units: latent dimensions that vary with x (Burda, Grosse & Salakhutdinov 2016, section 5.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastvi._examples import count_examples
from fastvi.evaluate._batches import IMAGES_AT_A_TIME, batches
from fastvi.objectives import DrawingModel, LatentVariableModel, draw
from fastvi.objectives.latent import posterior_of
from fastvi.objectives.model import require_encoder

ACTIVE_UNIT_THRESHOLD = 0.01
_SAMPLES_OF_A_MEAN = 50
"""Samples that estimate a posterior mean, twice: of unit variance they tell that of 300 means to 0.001 or so."""


@torch.inference_mode()
def active_units(model: LatentVariableModel | DrawingModel, x: Any, threshold: float = ACTIVE_UNIT_THRESHOLD) -> Tensor:
    """Return which latent dimensions are active, bool (Z,): Cov_x(E[z|x]) > ``threshold``.

    Parameters
    ----------
    model
        The model.
    x
        Examples, as in :func:`stream_bounds`, at least two.
    threshold
        Least variance over the examples of a posterior mean.

    Raises
    ------
    ValueError, TypeError
        If there are fewer than two examples, ``x`` is not of tensors of one length, or the model has no ``encode``, or
        one whose distributions have no mean in closed form.

    References
    ----------
    Burda, Grosse & Salakhutdinov 2016, section 5.2.
    """
    count = count_examples("active_units", "x", x)
    require_encoder(model, "active_units")
    if count < 2:
        raise ValueError(f"active_units: a variance needs at least two examples, x holds {count}")
    try:
        means = torch.cat([posterior_of(model, batch).mean for batch in batches(x, count)])
    except NotImplementedError as error:
        raise TypeError(
            f"active_units: needs the posterior's mean, and what {type(model).__name__}.encode returns has none in "
            "closed form"
        ) from error
    return means.var(0) > threshold


@torch.inference_mode()
def active_units_of_layers(
    model: LatentVariableModel | DrawingModel, x: Any, threshold: float = ACTIVE_UNIT_THRESHOLD, *, seed: int = 0
) -> tuple[Tensor, ...] | None:
    """Return which latent dimensions of each stochastic layer are active, bool ``(Z_l,)``; None for discrete ones.

    Two independent sets of samples estimate each E[z|x]. The covariance over the examples of the one estimate with the
    other is an unbiased estimate of the variance of E[z|x], because only E[z|x] is common to both.

    Parameters
    ----------
    model
        A model that draws samples ``(K, B, Z_l)`` of each layer. Discrete ones carry a ``log_posterior``.
    x, threshold
        See :func:`active_units`.
    seed
        Of the samples.

    Raises
    ------
    ValueError
        If there are fewer than two examples.

    Examples
    --------
    >>> from fastvi.models import HierarchicalVAE
    >>> model = HierarchicalVAE(64, latent_dims=(8, 4), hidden_dims=(8,), upper_hidden_dims=(8,))
    >>> [len(layer) for layer in active_units_of_layers(model, torch.eye(64))]
    [8, 4]
    """
    count = count_examples("active_units_of_layers", "x", x)
    if count < 2:
        raise ValueError(f"active_units_of_layers: a variance needs at least two examples, x holds {count}")
    means: list[list[Tensor]] = []
    for number, batch in enumerate(batches(x, count)):
        drawn = draw(model, batch, 2 * _SAMPLES_OF_A_MEAN, seed=seed, row_offset=number * IMAGES_AT_A_TIME)
        if drawn.log_posterior is not None:
            return None
        layers = (drawn.samples,) if isinstance(drawn.samples, Tensor) else drawn.samples
        means.append([layer.unflatten(0, (2, _SAMPLES_OF_A_MEAN)).mean(1) for layer in layers])
    found = []
    for first, second in (torch.cat(parts, 1) for parts in zip(*means, strict=True)):
        covariance = ((first - first.mean(0)) * (second - second.mean(0))).sum(0) / (count - 1)
        found.append(covariance > threshold)
    return tuple(found)
