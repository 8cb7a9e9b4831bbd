"""Pareto k-hat of many sets of weights at once, from the largest of them, and of evaluations."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import genpareto

from fastvi._pareto import FEWEST_SAMPLES, largest_reliable_k, pareto_k_hat, pareto_k_hats, tail_size
from fastvi.evaluate import evaluate, stream_bounds
from fastvi.models import VAE
from fastvi.objectives import log_weights
from fastvi.seeding import mix_seed


def test_many_sets_are_fitted_as_each_alone() -> None:
    log_weights = torch.randn(400, 3, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.5, 3.0])
    largest = log_weights.topk(tail_size(400) + 1, 0).values
    found = pareto_k_hats(largest)
    assert found.shape == (3, 2)
    for i in range(3):
        for j in range(2):
            assert float(found[i, j]) == pytest.approx(pareto_k_hat(log_weights[:, i, j]), rel=1e-12)


@pytest.mark.parametrize("k", [-0.3, 0.1, 0.6, 1.2])
def test_the_shape_of_a_pareto_tail(k: float) -> None:
    """Draws beyond a threshold: their shape within four of its standard errors, (1 + k) / sqrt(M) (Smith 1984)."""
    count = 100_000
    weights = torch.from_numpy(1.0 + genpareto.rvs(k, size=count, random_state=3))
    error = max(1.0 + k, 0.5) / math.sqrt(tail_size(count))
    assert pareto_k_hat(weights.log()) == pytest.approx(k, abs=4.0 * error)


def test_weights_without_a_tail() -> None:
    bad = torch.zeros(31, 4)
    bad[0, 0], bad[0, 1], bad[:, 2] = math.nan, math.inf, -math.inf
    assert pareto_k_hats(bad).isnan().tolist() == [True, True, True, False]
    assert float(pareto_k_hats(bad)[3]) == -math.inf
    few = torch.full((31, 1), -math.inf)
    few[:3, 0] = 0.0
    assert float(pareto_k_hats(few)) > 1.0


def test_the_limit_falls_with_the_samples() -> None:
    """1 - 1 / log10 S, at most 0.7 (Vehtari et al. 2024)."""
    assert largest_reliable_k(100) == pytest.approx(0.5)
    assert largest_reliable_k(10**6) == 0.7


@pytest.mark.parametrize(("num_samples", "chunk"), [(FEWEST_SAMPLES, 3), (103, 103), (500, 7)])
def test_streaming_keeps_the_tail(num_samples: int, chunk: int) -> None:
    torch.manual_seed(0)
    model, x = VAE(6, latent_dim=3, hidden_dims=(5,)).double(), torch.rand(4, 6, dtype=torch.float64).round()
    sizes = [min(chunk, num_samples - start) for start in range(0, num_samples, chunk)]
    with torch.no_grad():
        whole = torch.cat([log_weights(model, x, size, seed=mix_seed(5, part)) for part, size in enumerate(sizes)])
    found = stream_bounds(model, x, num_samples, chunk=chunk, seed=5).pareto_k
    expected = torch.tensor([pareto_k_hat(column) for column in whole.T], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_evaluations_count_heavy_tails() -> None:
    torch.manual_seed(0)
    model, x = VAE(6, latent_dim=3, hidden_dims=(5,)), torch.rand(9, 6).round()
    with torch.no_grad():
        model.posterior_head.bias[3:] = -3.0  # an encoder that is far too narrow
    found = evaluate(model, x, num_samples=1000)
    shapes = stream_bounds(model, x, 1000, seed=mix_seed(0, 0)).pareto_k
    assert found.heavy_tails == int((shapes > 1.0 - 1.0 / 3.0).sum()) > 4
    assert found.pareto_k == pytest.approx(float(shapes.double().median()))
    few = evaluate(model, x, num_samples=FEWEST_SAMPLES - 1)
    assert (few.pareto_k, few.heavy_tails) == (None, None)
    assert bool((stream_bounds(model, x, FEWEST_SAMPLES - 1).pareto_k == math.inf).all())
