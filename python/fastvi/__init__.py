"""fastvi: fast, exact operations for variational inference in PyTorch.

``import fastvi`` is cheap and does not import torch: names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastvi._names import operation_names

if TYPE_CHECKING:
    from fastvi.nn import fuse as fuse
    from fastvi.nn import unfuse as unfuse
    from fastvi.ops import *  # noqa: F403  # the names stand there, and only there

    __version__: str

_SUBMODULES = frozenset(
    {
        "autoencoders",
        "benchmarks",
        "cli",
        "coding",
        "data",
        "distributions",
        "em",
        "evaluate",
        "expfam",
        "mcmc",
        "mean_field",
        "models",
        "nn",
        "numpy",
        "objectives",
        "ops",
        "pyro",
        "reference",
        "seeding",
        "semi_supervised",
        "training",
    }
)
_OF_MODULES = {
    "fuse": "nn",
    "unfuse": "nn",
    "fit": "training.fitting",
    "load": "training.fitted",
    "from_pretrained": "training.fitted",
}
"""Names that are not operations, and the modules that have them."""


def _public_names() -> set[str]:
    return {"__version__", *operation_names(), *_OF_MODULES}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("fastvi")
    if name == "__all__":
        return sorted(_public_names())
    # A private module that is not imported yet is no operation: without the sources, the list of these needs PyTorch.
    if name.startswith("_") or (name not in _SUBMODULES | _OF_MODULES.keys() and name not in operation_names()):
        raise AttributeError(f"module 'fastvi' has no attribute {name!r}")
    try:
        if name in _SUBMODULES:
            return importlib.import_module(f"fastvi.{name}")
        value = getattr(importlib.import_module(f"fastvi.{_OF_MODULES.get(name, 'ops')}"), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(
            f"fastvi.{name} needs PyTorch, which is not installed; fastvi.numpy does without it"
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_public_names() | _SUBMODULES)
