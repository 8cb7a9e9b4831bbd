"""The page of documentation and the example: its patches, its measure of codes, its tables and the picture, small."""

from __future__ import annotations

import csv
import doctest
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from support.scripts import load_script


@pytest.fixture(scope="module")
def example() -> ModuleType:
    pytest.importorskip("matplotlib", reason="the example draws atoms by matplotlib")
    return load_script("examples/learned_sparse_coding.py")


def test_patches_are_about_their_mean_in_units_of_their_contrast(example: ModuleType) -> None:
    x = example.patches(50, 6, seed=0)
    assert x.shape == (50, 36)
    np.testing.assert_allclose(x.mean(1), 0.0, atol=1e-12)
    assert (x.std(1) < 1.0).all()
    np.testing.assert_array_equal(example.patches(50, 6, seed=0), x)
    assert not np.array_equal(example.patches(50, 6, seed=1), x)


def test_the_error_of_codes(example: ModuleType) -> None:
    best = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert example.code_error(best, best) == 0.0
    assert example.code_error(torch.zeros(2, 2), best) == pytest.approx(1.0)
    assert example.code_error(best + torch.tensor([[0.0, 1.0], [0.0, 0.0]]), best) == pytest.approx(1.0 / 25.0)


def test_it_writes_tables_and_a_picture(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """LISTA of two layers is nearer than two steps of ISTA and of FISTA; scikit-learn's objective is ours."""
    monkeypatch.setattr(
        example, "QUICK", example.QUICK._replace(train=1000, test=200, epochs=10, ista_steps=100, timed=300, scikit=50)
    )
    options = ["--quick", "--patch-size", "4", "--atoms", "24", "--layers", "2", "--alpha", "0.5"]
    example.main([*options, "--out", str(tmp_path / "run")])
    assert (tmp_path / "run" / "atoms.png").stat().st_size > 1000
    tables = {}
    for name in ("lista", "psd", "solvers"):
        with (tmp_path / "run" / f"{name}.csv").open(encoding="utf-8") as stream:
            tables[name] = list(csv.DictReader(stream))
    for row in tables["lista"]:
        assert float(row["LISTA"]) < min(float(row["ISTA"]), float(row["FISTA"]))
        assert float(row["objective above the best"]) > 0.0
    objectives = [float(row["mean objective"]) for row in tables["psd"]]
    assert objectives[1] <= min(objectives) * (1.0 + 1e-6)
    for row in tables["solvers"][1:]:
        assert abs(float(row["objective above the best"])) < 1e-4
    assert "Squared error of codes" in capsys.readouterr().out


def test_the_examples_of_the_page_run() -> None:
    page = Path(__file__).parents[2] / "docs" / "coding.md"
    results = doctest.testfile(str(page), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert results.attempted > 15
    assert results.failed == 0
