"""The page of documentation, and the example of classifiers on M1: its table, its file, and what it refuses."""

from __future__ import annotations

import csv
import doctest
from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

import fastvi
from fastvi.data import balanced_labels, load_dataset
from support.scripts import load_script

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def m1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a VAE of the digits, hardly trained."""
    folder = tmp_path_factory.mktemp("m1") / "run"
    fastvi.fit("vae", "digits", "elbo", epochs=3, latent_dim=4, hidden_dims=(16,), binarization="none", out=folder)
    return folder


def test_the_examples_of_the_page_run() -> None:
    page = ROOT / "docs" / "semi_supervised.md"
    results = doctest.testfile(str(page), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert results.attempted > 8
    assert results.failed == 0


def test_the_table_of_a_run(m1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example, out = load_script("examples/m1_classifiers.py"), tmp_path / "errors.csv"
    words = ["--m1", str(m1), "--labels", "20", "40", "3000", "--draws", "2", "--classifiers", "kNN", "SVC"]
    example.main([*words, "--out", str(out)])
    printed = capsys.readouterr().out
    assert "left out, because a class has" in printed
    assert "3000 labels" in printed
    with out.open(newline="") as file:
        results = list(csv.DictReader(file))
    assert len(results) == 2 * 4 * 2 * 2
    assert {(row["classifier"], row["features"]) for row in results} == {
        (name, features) for name in ("kNN", "SVC") for features in example.FEATURES
    }
    assert all(0.0 < float(row["error"]) < 100.0 for row in results)
    # On pixels they are scikit-learn's own.
    data = load_dataset("digits")
    train, labels, test = data.train.numpy(), data.train_labels.numpy(), data.test.numpy()
    chosen = balanced_labels(labels, 40, seed=1).numpy()
    score = KNeighborsClassifier(1).fit(train[chosen], labels[chosen]).score(test, data.test_labels.numpy())
    of_pixels = [row for row in results if (row["classifier"], row["features"]) == ("kNN", "pixels")]
    (found,) = (float(row["error"]) for row in of_pixels if (row["labels"], row["draw"]) == ("40", "1"))
    assert found == pytest.approx(100.0 * (1.0 - score))
    pixels = [float(row["error"]) for row in of_pixels if row["labels"] == "20"]
    assert f"| kNN | pixels | {np.mean(pixels):.2f} ± {np.std(pixels, ddof=1):.2f} |" in printed


def test_data_without_labels_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_script("examples/m1_classifiers.py").main(["--data", "moving-spot"])
    assert "the data moving-spot have no labels" in capsys.readouterr().err
