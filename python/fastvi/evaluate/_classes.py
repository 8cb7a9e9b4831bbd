"""What a model of classes is: how it is known, and the check of a class that is asked of it."""

from __future__ import annotations

import inspect
from typing import Any

from fastvi._sizes import as_integer, check_integer


def has_classes(model: Any) -> bool:
    """Whether a decoder takes classes: ``decode(z, labels)``, of ``num_classes`` classes and ``latent_dim`` styles."""
    sizes = [as_integer(getattr(model, name, None)) for name in ("num_classes", "latent_dim")]
    if not all(size is not None and size >= 1 for size in sizes) or not callable(getattr(model, "decode", None)):
        return False
    try:
        inspect.signature(model.decode).bind(None, None)
    except (TypeError, ValueError):  # it takes codes alone, or does not say what it takes
        return False
    return True


def require_classes(owner: str, model: Any) -> int:
    """Return the number of classes.

    Raises
    ------
    TypeError
        If the model has none.
    """
    if not has_classes(model):
        raise TypeError(
            f"{owner}: {type(model).__name__} is no model of classes: it needs num_classes, latent_dim and "
            "decode(z, labels)"
        )
    return int(model.num_classes)


def check_label(owner: str, model: Any, label: Any) -> int:
    """Return the number of a class, as int.

    Raises
    ------
    TypeError
        If the model has no classes, or it is no integer.
    ValueError
        If there is no such class.
    """
    if not has_classes(model):
        raise TypeError(f"{owner}: `label` is for models of classes, and {type(model).__name__} has none")
    number, classes = check_integer(owner, "label", label), int(model.num_classes)
    if not 0 <= number < classes:
        raise ValueError(f"{owner}: `label` must be from 0 to {classes - 1}, got {number}")
    return number
