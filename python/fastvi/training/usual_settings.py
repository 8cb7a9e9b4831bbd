"""The settings of a run where none are given: one place for the command line and for Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fastvi._options import options_of
from fastvi._registry import Registry

USUAL_EPOCHS = 20
_EPOCHS_OF_SMALL_DATA = {"digits": 200, "digits-counts": 200, "moving-spot": 100}


def usual_epochs(data: str) -> int:
    """Return the number of epochs for a data set."""
    return _EPOCHS_OF_SMALL_DATA.get(data, USUAL_EPOCHS)


def usual_binarization(model: Any, data: Any) -> str:
    """Return ``"dynamic"`` for grey values under the Bernoulli likelihood, ``"none"`` else, by ``data.test``.

    A model may know better: by a method of this name, without arguments.

    Raises
    ------
    RunError
        If the model's own cannot be read.
    """
    own = getattr(model, "usual_binarization", None)
    if own is not None:
        return str(own())
    rows = data.test
    is_grey = bool(((rows > 0) & (rows < 1)).any())
    return "dynamic" if is_grey and getattr(model, "likelihood", None) == "bernoulli" else "none"


def with_usual_options(registry: Registry[Any], name: str, given: Mapping[str, Any], data: Any) -> dict[str, Any]:
    """Return the options of a registry's class, with the usual values of those that were not given, some from the data.

    Raises
    ------
    TypeError
        If one has to be given; the message has its name.
    """
    fields = dict(given)
    for option in options_of(registry[name]):
        if option.name in fields:
            continue
        if option.from_data is not None:
            fields[option.name] = getattr(data, option.from_data)
        elif option.usual is not dataclasses.MISSING:
            fields[option.name] = option.usual
        elif option.default is dataclasses.MISSING:
            raise TypeError(f"{option.name} must be given for the {registry.what} {name}")
    return fields
