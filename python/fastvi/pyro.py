"""fastvi's distributions for the models and guides of Pyro (Bingham et al. 2019), which is an extra: ``fastvi[pyro]``.

Each is the distribution of that name in :mod:`fastvi.distributions` with Pyro's own methods mixed in, so that
``pyro.sample`` takes it. Pyro is imported when one of them is first used.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

from fastvi import distributions
from fastvi._extras import require_extra

if TYPE_CHECKING:
    from fastvi.distributions import BernoulliLogits as BernoulliLogits
    from fastvi.distributions import DiagLaplace as DiagLaplace
    from fastvi.distributions import DiagNormal as DiagNormal
    from fastvi.distributions import LinearBernoulli as LinearBernoulli

__all__ = ["BernoulliLogits", "DiagLaplace", "DiagNormal", "LinearBernoulli"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fastvi.pyro' has no attribute {name!r}")
    mixin = require_extra("pyro.distributions.torch_distribution", "pyro", f"fastvi.pyro.{name}").TorchDistributionMixin
    base = getattr(distributions, name)
    words = {"__module__": __name__, "__doc__": f"{name} of fastvi.distributions for Pyro.\n\n{base.__doc__}"}
    made = types.new_class(name, (base, mixin), exec_body=lambda namespace: namespace.update(words))
    globals()[name] = made
    return made


def __dir__() -> list[str]:
    return sorted(__all__)
