"""What a decoder makes of chosen codes: the plane of two latent variables, styles of classes, and analogies.

The plane: Kingma & Welling 2014, "Auto-encoding variational Bayes", figure 4. Styles and analogies: Kingma, Rezende,
Mohamed & Welling 2014, "Semi-supervised learning with deep generative models", figure 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fastvi._examples import count_examples
from fastvi._options import check_count
from fastvi._sizes import check_seed
from fastvi.evaluate._batches import IMAGES_AT_A_TIME
from fastvi.evaluate._classes import check_label, require_classes
from fastvi.models import HamiltonianPosterior
from fastvi.models.general import _centre
from fastvi.models.generation import draw_latents
from fastvi.objectives.latent import GaussianPosterior, GaussianPrior, Prior, prior_of
from fastvi.objectives.model import member, optional


@torch.no_grad()
def manifold(model: Any, columns: int = 20, *, label: int | None = None) -> Tensor:
    """Decode a grid of the plane of two latent variables: the unit square through the prior's inverse distribution.

    The first variable grows from left to right and the second from bottom to top, as in a scatter plot of codes, and
    each cell of the grid has the same probability.

    Parameters
    ----------
    model
        A trained model with ``latent_dim`` 2, ``decode(z)`` and a Gaussian prior; with ``decode(z, labels)`` for a
        model of classes, whose prior may depend on the class.
    columns
        G, of as many rows.
    label
        The class, for a model of classes and for no other.

    Returns
    -------
    Tensor
        Means of p(x|z), (G * G, D), row by row from the top.

    Raises
    ------
    TypeError
        If the model has no such decoder or prior, or a ``label`` is missing or of no use.
    ValueError
        If there are not two latent variables, or a number is out of range.

    Examples
    --------
    >>> from fastvi.models import VAE
    >>> manifold(VAE(16, 2, (8,)), columns=5).shape
    torch.Size([25, 16])
    """
    columns, model = check_count("manifold", "columns", columns), _inner(model)
    name, latent_dim = type(model).__name__, getattr(model, "latent_dim", None)
    if not callable(getattr(model, "decode", None)) or latent_dim is None:
        raise TypeError(f"manifold: {name} has no decode(z) with latent_dim")
    if latent_dim != 2:
        raise ValueError(f"manifold: needs 2 latent dimensions, {name} has {latent_dim}")
    if label is not None:
        label = check_label("manifold", model, label)
    elif getattr(model, "num_classes", None) is not None:
        raise TypeError(f"manifold: {name} is a model of classes: say which by label")
    quantiles = torch.special.ndtri((torch.arange(columns, dtype=torch.float64) + 0.5) / columns)
    # The first axis of a product changes slowest: it is that of the rows, which go down.
    noise = torch.cartesian_prod(quantiles.flip(0), quantiles).flip(1).to(_parameter(model))
    labels = None if label is None else _labels(model, label, len(noise))
    prior = _prior(model, labels, noise)
    if not isinstance(prior, GaussianPrior):
        raise TypeError(f"manifold: the prior of {name} is no Gaussian, whose distribution function could be inverted")
    z = noise if prior.logvar is None else noise * (0.5 * prior.logvar).exp()
    return _decoded(model, z if prior.mean is None else z + prior.mean, labels)


@torch.no_grad()
def styles(model: Any, labels: Iterable[int] | None = None, *, num_styles: int = 12, seed: int = 0) -> Tensor:
    """Decode the same styles for several classes: z of the prior, shared by the classes.

    Where the prior p(z|y) depends on the class, its noise is shared.

    Parameters
    ----------
    model
        A trained model of classes: with ``num_classes``, ``latent_dim``, ``decode(z, labels)`` and a prior in one of
        the forms of `fastvi.objectives.LatentVariableModel` that can be drawn from.
    labels
        The C classes; None: all of them.
    num_styles
        S.
    seed
        Determines the styles.

    Returns
    -------
    Tensor
        Means of p(x|y, z), (C, S, D).

    Raises
    ------
    TypeError
        If the model has no classes, or its prior cannot be drawn from.
    ValueError
        If there is no such class, or a number is out of range.

    Examples
    --------
    >>> from fastvi.models import DataShape, make_model_options
    >>> model = make_model_options("conditional-vae", latent_dim=3).build(DataShape((4, 4), num_classes=10))
    >>> styles(model, labels=[2, 7], num_styles=5).shape
    torch.Size([2, 5, 16])
    """
    model = _inner(model)
    classes = _classes("styles", model, labels)
    num_styles, seed = check_count("styles", "num_styles", num_styles), check_seed("styles", seed, "an integer")
    rows = []
    for label in classes:
        z, of_class = draw_latents(model, num_styles, seed, _labels(model, label, num_styles))
        rows.append(_decoded(model, z, of_class))
    return torch.stack(rows)


@torch.no_grad()
def analogies(model: Any, images: Tensor, labels: Tensor, *, classes: Iterable[int] | None = None) -> Tensor:
    """Take the styles of images, and decode them for other classes.

    The style is the mean of q(z|x, y); for a flow, what it makes of its base's mean.

    Parameters
    ----------
    model
        A trained model of classes: with ``num_classes``, ``latent_dim``, ``decode(z, labels)``, and ``encode((images,
        labels))``, which gives a pair (mean, logvar) or a distribution.
    images
        Shape (M, D), M >= 1.
    labels
        The images' own classes, (M,).
    classes
        The C classes to decode the styles for; None: all of them.

    Returns
    -------
    Tensor
        (M, 1 + C, D): each image, and after it the means of p(x|y, z) for its style z and each class y.

    Raises
    ------
    TypeError
        If the model has no classes, or q(z|x, y) has no mean in closed form.
    ValueError
        If there are no images, not as many labels, or there is no such class.

    Examples
    --------
    >>> from fastvi.models import DataShape, make_model_options
    >>> model = make_model_options("conditional-vae", latent_dim=3).build(DataShape((4, 4), num_classes=10))
    >>> analogies(model, torch.rand(5, 16), torch.tensor([0, 9, 3, 3, 1])).shape
    torch.Size([5, 11, 16])
    """
    chosen = _classes("analogies", model, classes)
    counts = [count_examples("analogies", name, tensor) for name, tensor in (("images", images), ("labels", labels))]
    if counts[0] != counts[1]:
        raise ValueError(f"analogies: images are {counts[0]}, and labels are {counts[1]}")
    if counts[0] == 0:
        raise ValueError("analogies: images holds no example")
    z = torch.cat([_style(model, pair) for pair in zip(*_in_batches(images, labels), strict=True)])
    columns = [_decoded(model, z, _labels(model, label, len(z))) for label in chosen]
    return torch.stack([images.to(columns[0]), *columns], 1)


def has_plane(model: Any) -> bool:
    """Whether `manifold` can show the model, for each class if it has some."""
    model = _inner(model)
    if getattr(model, "latent_dim", None) != 2 or not callable(getattr(model, "decode", None)):
        return False
    if optional(model, "log_prior") is not None:
        return False
    labels = None if getattr(model, "num_classes", None) is None else _labels(model, 0, 1)
    try:
        return isinstance(_prior(model, labels, _parameter(model).new_zeros(1, 2)), GaussianPrior)
    except (TypeError, ValueError):  # a prior of each example of a batch
        return False


def has_drawable_prior(model: Any) -> bool:
    """Whether z can be drawn from a model's prior."""
    log_prior = optional(_inner(model), "log_prior")
    return log_prior is None or hasattr(log_prior, "sample")


def _inner(model: Any) -> Any:
    """The model that decodes and has the prior."""
    return model.model if isinstance(model, HamiltonianPosterior) else model


def _parameter(model: Any) -> Tensor:
    """A tensor of a module's dtype and device; of anything else float32 on the CPU."""
    found = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.zeros(()) if found is None else found


def _prior(model: Any, labels: Tensor | None, like: Tensor) -> Prior:
    return prior_of(model, (None, labels), GaussianPosterior(like, like))


def _classes(owner: str, model: Any, labels: Iterable[int] | None) -> list[int]:
    """The numbers of the classes, checked; None stands for all."""
    count = require_classes(owner, model)
    found = list(range(count)) if labels is None else [check_label(owner, model, label) for label in labels]
    if not found:
        raise ValueError(f"{owner}: expected one class or more, got none")
    return found


def _labels(model: Any, label: int, count: int) -> Tensor:
    return torch.full((count,), label, device=_parameter(model).device)


def _in_batches(*tensors: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    return tuple(tensor.split(IMAGES_AT_A_TIME) for tensor in tensors)


def _style(model: Any, x: tuple[Tensor, Tensor]) -> Tensor:
    q = model.encode(x)
    try:
        return _centre(q)
    except NotImplementedError as error:
        kind, place = type(q).__name__, member(model, "encode")
        raise TypeError(f"analogies: the {kind} of {place} has no mean in closed form") from error


def _decoded(model: Any, z: Tensor, labels: Tensor | None) -> Tensor:
    if labels is None:
        return torch.cat([model.decode(some) for some in z.split(IMAGES_AT_A_TIME)])
    return torch.cat([model.decode(some, of_them) for some, of_them in zip(*_in_batches(z, labels), strict=True)])
