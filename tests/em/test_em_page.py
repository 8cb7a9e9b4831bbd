"""The page of documentation and the example: what they show runs."""

from __future__ import annotations

import doctest
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fastvi.data import load_dataset
from support.scripts import load_script

ROOT = Path(__file__).parents[2]


@pytest.mark.cpu_kernels
def test_the_examples_of_the_page_run() -> None:
    results = doctest.testfile(str(ROOT / "docs" / "em.md"), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert results.attempted > 15
    assert results.failed == 0


@pytest.mark.filterwarnings("ignore:Mixture. the best start did not converge")
def test_a_mixture_of_bernoullis_on_digits(tmp_path: Path) -> None:
    """Better than independent pixels in training and in test, and drawn."""
    example = load_script("examples/bernoulli_mixture.py")
    dataset = load_dataset("digits")
    found = example.fit(dataset, components=20, iterations=20, starts=1, seed=0)
    single = example.fit(dataset, components=1, iterations=3, starts=1, seed=0)
    pixels = torch.from_numpy(single.mixture.means_[0])
    images = example.test_images(dataset, "dynamic").double()
    probabilities = pixels.clamp(1e-3, 1 - 1e-3)
    independent = torch.distributions.Bernoulli(probabilities).log_prob(images).sum(-1).mean()
    assert single.test == pytest.approx(float(independent), rel=1e-5)
    assert found.train > single.train + 4.0
    assert found.test > single.test + 3.0
    assert math.isfinite(found.standard_error)
    assert np.isclose(found.mixture.weights_.sum(), 1.0)
    example.save_picture(found, tmp_path / "means.png")
    assert (tmp_path / "means.png").stat().st_size > 1000
