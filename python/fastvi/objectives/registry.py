"""Objectives by name, for the command line."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastvi.objectives.elbo import ELBO, STL
from fastvi.objectives.importance import IWAE, DReG
from fastvi.objectives.model import Objective

OBJECTIVES: dict[str, type[Any]] = {"elbo": ELBO, "iwae": IWAE, "stl": STL, "dreg": DReG}
"""The objectives, each a frozen dataclass whose fields are its options."""


def make_objective(name: str, **options: Any) -> Objective:
    """Make the objective called ``name``.

    Parameters
    ----------
    name
        A key of :data:`OBJECTIVES`.
    options
        Fields of the objective.

    Raises
    ------
    ValueError
        If there is no such objective, or a value is out of its range.
    TypeError
        If the objective has no such option, or lacks one, or a value is of a wrong type.

    Examples
    --------
    >>> make_objective("iwae", num_samples=5)
    IWAE(num_samples=5, backward_samples=None)
    """
    if name not in OBJECTIVES:
        raise ValueError(f"make_objective: name must be one of {', '.join(OBJECTIVES)}, got {name!r}")
    fields = dataclasses.fields(OBJECTIVES[name])
    unknown = sorted(options.keys() - {field.name for field in fields})
    if unknown:
        raise TypeError(
            f"make_objective: {name!r} has the options {', '.join(field.name for field in fields)}; "
            f"got {', '.join(unknown)}"
        )
    required = [field.name for field in fields if field.default is dataclasses.MISSING and field.name not in options]
    if required:
        raise TypeError(f"make_objective: {name!r} needs {', '.join(required)}")
    objective: Objective = OBJECTIVES[name](**options)
    return objective
