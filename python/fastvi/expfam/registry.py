"""Exponential families by name."""

from __future__ import annotations

from typing import Any

from fastvi._registry import Registry
from fastvi.expfam.base import ExponentialFamily
from fastvi.expfam.bernoulli import Bernoulli
from fastvi.expfam.gaussian import Gaussian

FAMILIES: Registry[ExponentialFamily] = Registry(
    "family",
    "make_family",
    ExponentialFamily,
    {
        "bernoulli": Bernoulli,
        "gaussian": Gaussian,
    },
)
"""The families, each a frozen dataclass whose fields are its sizes; ``FAMILIES["name"] = Class`` adds another."""


def make_family(name: str, **options: Any) -> ExponentialFamily:
    """Make the family called ``name``.

    Parameters
    ----------
    name
        A key of :data:`FAMILIES`.
    options
        Fields of the family.

    Raises
    ------
    ValueError
        If there is no such family, or a value is out of its range.
    TypeError
        If the family has no such option, or lacks one, or a value is of a wrong type.

    Examples
    --------
    >>> make_family("gaussian")
    Gaussian()
    """
    return FAMILIES.make(name, **options)
