"""Models of Hamiltonian variational inference of every kind, none of whose parameters is where it starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastvi.models import HamiltonianPosterior, ReverseNetwork

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "reverse": {"mass": "posterior", "num_transitions": 2},
    "scalar": {"mass": "learned", "step_per_dimension": False},
    "quadratic": {"tempering": "quadratic", "reverse": None},
    "free": {"tempering": "free", "reverse": None, "mass": "unit", "num_transitions": 2},
    "tempered with reverse": {"tempering": "free", "mass": "learned"},
}
configurations = pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())


def shaken(model: Any, latent_dim: int, options: dict[str, Any], scale: float = 0.2) -> HamiltonianPosterior:
    """A wrapper none of whose parameters is where it starts."""
    torch.manual_seed(7)
    count = options.get("num_transitions", 1)
    reverse = [ReverseNetwork(latent_dim, 4) for _ in range(count)]
    settings: dict[str, Any] = {
        "num_leapfrogs": 3,
        "step_size": 0.2,
        "inverse_temperature": 0.7,
        "reverse": reverse,
        **options,
    }
    wrapped = HamiltonianPosterior(model, latent_dim, **settings).double()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if not name.startswith("model"):
                parameter += scale * torch.randn_like(parameter)
    return wrapped
