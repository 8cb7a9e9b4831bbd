"""Arguments of operations that gave a result in silence: negative seeds in tensors, masses below 0."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import fastvi
import fastvi.numpy
from support.place import place

X = torch.ones(2, 3)
SEEDED: dict[str, Callable[[Any], object]] = {
    "standard_normal": lambda seed: fastvi.standard_normal(3, seed=seed),
    "rsample_normal": lambda seed: fastvi.rsample_normal(X, X, seed=seed),
    "rsample_normal_with_log_ratio": lambda seed: fastvi.rsample_normal_with_log_ratio(X, X, 2, seed=seed),
}


@pytest.mark.parametrize("name", SEEDED)
@pytest.mark.parametrize("number", [-1, -3, -(2**63)])
def test_a_negative_seed_is_refused_in_a_tensor_as_by_itself(name: str, number: int) -> None:
    for seed in (number, torch.tensor(number)):
        with pytest.raises(ValueError, match=rf"^{name}: seed is {number}, expected a number in \[0, 2\^63\)$"):
            SEEDED[name](seed)


@pytest.mark.parametrize("name", SEEDED)
def test_the_largest_seed_is_taken(name: str) -> None:
    for seed in (2**63 - 1, torch.tensor(2**63 - 1)):
        SEEDED[name](seed)


@pytest.mark.parametrize("mass", [-1.0, -1, math.nan, np.float32(-2.0), -math.inf])
def test_a_negative_inverse_mass(mass: Any) -> None:
    x, array = place.ones(2, 3), np.ones((2, 3))
    calls: dict[str, list[Callable[[], object]]] = {
        "kinetic_energy": [
            lambda: fastvi.kinetic_energy(x, mass),
            lambda: fastvi.numpy.kinetic_energy(array, mass),
        ],
        "leapfrog_step": [
            lambda: fastvi.leapfrog_step(x, x, x, 0.1, mass),
            lambda: fastvi.numpy.leapfrog_step(array, array, array, 0.1, mass),
        ],
    }
    for name, each in calls.items():
        for call in each:
            with pytest.raises(ValueError, match=f"^{name}: inverse_mass must be at least 0, got "):
                call()
