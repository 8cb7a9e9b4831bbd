"""fastvi: fast, exact operations for variational inference in PyTorch.

``import fastvi`` is cheap and does not import torch: names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastvi.ops import (  # type: ignore[no-redef]  # log_mean_exp is a module of fastvi.ops too
        LogMeanExp,
        bernoulli_log_prob,
        effective_sample_size,
        importance_weights,
        kinetic_energy,
        kl_normal,
        laplace_log_prob,
        leapfrog_step,
        linear_bernoulli_log_prob,
        log_mean_exp,
        normal_entropy,
        normal_log_prob,
        rsample_normal,
        rsample_normal_with_log_ratio,
        soft_threshold,
        standard_normal,
    )

__all__ = [
    "LogMeanExp",
    "__version__",
    "bernoulli_log_prob",
    "effective_sample_size",
    "importance_weights",
    "kinetic_energy",
    "kl_normal",
    "laplace_log_prob",
    "leapfrog_step",
    "linear_bernoulli_log_prob",
    "log_mean_exp",
    "normal_entropy",
    "normal_log_prob",
    "rsample_normal",
    "rsample_normal_with_log_ratio",
    "soft_threshold",
    "standard_normal",
]

_SUBMODULES = frozenset(
    {
        "benchmarks",
        "cli",
        "data",
        "distributions",
        "evaluate",
        "models",
        "numpy",
        "objectives",
        "ops",
        "reference",
        "seeding",
        "training",
    }
)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("fastvi")
    if name not in _SUBMODULES and name not in __all__:
        raise AttributeError(f"module 'fastvi' has no attribute {name!r}")
    try:
        if name in _SUBMODULES:
            return importlib.import_module(f"fastvi.{name}")
        value = getattr(importlib.import_module("fastvi.ops"), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(
            f"fastvi.{name} needs PyTorch, which is not installed; fastvi.numpy does without it"
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_SUBMODULES})
