"""Mean field of the Ising model beside its enumeration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvi.expfam import Ising
from fastvi.mean_field import IsingMeanField


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 7), st.floats(0.05, 1.5), st.integers(0, 10_000))
def test_the_bound_is_one(nodes: int, strength: float, seed: int) -> None:
    """Below log Z of the enumeration, rising with every spin, and equal to log Z - KL(q || p), summed over states."""
    random = np.random.default_rng(seed)
    fields, couplings = random.normal(size=nodes), strength * random.normal(size=(nodes, nodes))
    found = IsingMeanField(3, tol=1e-10, random_state=seed).fit(fields, couplings)
    family = Ising(nodes)
    eta = family.natural_from_couplings(torch.from_numpy(fields), torch.from_numpy(couplings))
    log_z = float(family.log_partition(eta))
    assert found.lower_bound_ <= log_z + 1e-9
    assert bool((np.diff(found.bounds_) > -1e-9).all())
    q = (0.5 * (1.0 + family.states * torch.from_numpy(found.means_))).prod(-1)
    expected = (q * family.log_prob(family.states, eta)).sum() + log_z + torch.special.entr(q).sum()
    assert found.lower_bound_ == pytest.approx(float(expected), abs=1e-8)
    pairs = np.triu(couplings, 1) + np.triu(couplings, 1).T
    np.testing.assert_allclose(found.means_, np.tanh(fields + pairs @ found.means_), atol=1e-8)


def test_without_couplings_it_is_exact() -> None:
    found = IsingMeanField(1).fit([0.3, -1.0], np.zeros((2, 2)))
    np.testing.assert_allclose(found.means_, np.tanh([0.3, -1.0]))
    assert found.lower_bound_ == pytest.approx(np.log(2.0 * np.cosh([0.3, -1.0])).sum())


def test_restarts_find_the_better_of_two_magnetisations() -> None:
    """A small field against strong couplings: both magnetisations are maxima, and most starts end in one of them."""
    found = IsingMeanField(20, random_state=0).fit(np.full(8, 0.05), np.full((8, 8), 0.5))
    assert len(np.unique(found.lower_bounds_.round(6))) > 1
    assert found.lower_bound_ == found.lower_bounds_.max()
    assert bool((found.means_ > 0.9).all())


@pytest.mark.parametrize(
    ("options", "fields", "couplings", "message"),
    [
        ({}, [0.0, 0.0], [[0.0]], r"couplings has shape \(1, 1\), expected \(2, 2\)"),
        ({}, [np.inf], [[0.0]], "fields contains NaN or infinity"),
        ({"n_init": 0}, [0.0], [[0.0]], "n_init must be an integer of 1 or more, got 0"),
    ],
)
def test_what_is_no_ising_model(options: dict[str, int], fields: object, couplings: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^IsingMeanField: {message}"):
        IsingMeanField(**options).fit(fields, couplings)
