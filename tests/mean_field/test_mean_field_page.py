"""The page of documentation and the examples: what they show runs."""

from __future__ import annotations

import doctest
import json
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from support.scripts import load_script

ROOT = Path(__file__).parents[2]


def example(name: str) -> ModuleType:
    return load_script(f"examples/{name}.py")


def test_the_examples_of_the_page_run() -> None:
    page = ROOT / "docs" / "mean_field.md"
    results = doctest.testfile(str(page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted > 40
    assert results.failed == 0


def test_mean_field_beside_a_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On data of posteriordb's form, whose posterior is Gaussian but for sigma: its draws are made here."""
    random = np.random.default_rng(0)
    school, quotient = random.integers(0, 2, size=300), random.normal(100.0, 15.0, size=300)
    design = np.stack([np.ones(300), school, quotient], 1)
    score = design @ [25.0, 6.0, 0.5] + 18.0 * random.normal(size=300)
    (tmp_path / "data").mkdir()
    (tmp_path / "draws").mkdir()
    data = {"N": 300, "mom_hs": school.tolist(), "mom_iq": quotient.tolist(), "kid_score": score.tolist()}
    with zipfile.ZipFile(tmp_path / "data" / "kidiq.json.zip", "w") as file:
        file.writestr("kidiq.json", json.dumps(data))
    inverse = np.linalg.inv(design.T @ design)
    centre = inverse @ design.T @ score
    sigma = np.sqrt(((score - design @ centre) ** 2).sum() / random.chisquare(297, size=4000))
    noise = random.multivariate_normal(np.zeros(3), inverse, size=4000)
    draws = np.c_[centre + sigma[:, None] * noise, sigma].reshape(4, 1000, 4)
    names = np.array(["beta[1]", "beta[2]", "beta[3]", "sigma"])
    np.savez(tmp_path / "draws" / "kidiq-kidscore_momhsiq.npz", draws=draws, names=names)

    module = example("mcmc_versus_vi")
    module.main(["--data", str(tmp_path), "--steps", "150", "--out", str(tmp_path / "contours.png")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines if "sd" in line][:2] == ["exact", "mean field, theory"]
    theory = next(line for line in lines if line.startswith("mean field, theory"))
    assert theory.count("sd 0.436 (0.44)") == 2
    found = module.compare_regression(tmp_path, 150).moments
    lost = found["mean field"].covariance.diagonal() / found["reference"].covariance.diagonal()
    expected = 1.0 / ((design.T @ design).diagonal() * inverse.diagonal())
    np.testing.assert_allclose(lost[:3], expected, rtol=0.25)
    chains = found["HMC"]
    np.testing.assert_allclose(chains.covariance.diagonal(), found["reference"].covariance.diagonal(), rtol=0.35)
    assert chains.ess is not None
    assert chains.ess > 100
    assert (tmp_path / "contours.png").stat().st_size > 10_000


def test_topics_of_some_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    """Ours and scikit-learn's topics from the same start, which one evaluator finds equal."""
    module = example("topics_of_docstrings")
    results, components, words = module.compare(list(module.docstrings(40)), topics=4, passes=2, starts=1)
    bounds = {found.name: found.bounds[0] for found in results}
    assert components.shape == (4, len(words))
    for method in ("batch", "online"):
        assert bounds[f"fastvi, {method}"] == pytest.approx(bounds[f"scikit-learn, {method}"], abs=1e-4)
    assert "documents" in capsys.readouterr().out
