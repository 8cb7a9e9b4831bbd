"""The algorithms of :func:`fastvi.mcmc.sample` by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, cast

from fastvi.mcmc.algorithm import Algorithm, HMCAlgorithm, MALAAlgorithm
from fastvi.mcmc.chees import ChEESAlgorithm
from fastvi.mcmc.meads import MEADSAlgorithm

ALGORITHMS: dict[str, type[Any]] = {
    "hmc": HMCAlgorithm,
    "mala": MALAAlgorithm,
    "chees": ChEESAlgorithm,
    "meads": MEADSAlgorithm,
}
AUTO = "auto"
LEAST_CHAINS_OF_CHEES = 16


def make_algorithm(algorithm: Any, num_chains: int, options: dict[str, Any]) -> Algorithm:
    """Return the algorithm that a user named, with its options, or gave.

    Raises
    ------
    TypeError, ValueError
        If there is none of this name, or it has no such option.
    """
    if not isinstance(algorithm, str):
        if not hasattr(algorithm, "start") or isinstance(algorithm, type):
            hint = f"; write {algorithm.__name__}()" if isinstance(algorithm, type) else ""
            raise TypeError(f"sample: algorithm must be one of {_names()} or an algorithm, got {algorithm!r}{hint}")
        if options:
            raise TypeError(
                f"sample: the options {', '.join(sorted(options))} belong to the algorithm: give them to "
                f"{type(algorithm).__name__}(...)"
            )
        return cast(Algorithm, algorithm)
    name = algorithm
    if name == AUTO:
        name = "chees" if num_chains >= LEAST_CHAINS_OF_CHEES else "hmc"
    if name not in ALGORITHMS:
        raise ValueError(f"sample: algorithm must be one of {_names()}, got {algorithm!r}")
    known = [each.name for each in fields(ALGORITHMS[name])]
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise TypeError(
            f"sample: got an unexpected argument {', '.join(unknown)}; the algorithm {name} has the options "
            f"{', '.join(known)}"
        )
    return cast(Algorithm, ALGORITHMS[name](**options))


def _names() -> str:
    return ", ".join([AUTO, *ALGORITHMS])
