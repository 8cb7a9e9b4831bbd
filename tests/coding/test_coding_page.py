"""The page of sparse coding and its example: what they show runs."""

from __future__ import annotations

import csv
import doctest
from pathlib import Path

import pytest

from support.scripts import ROOT, load_script


def test_the_examples_of_the_page_run() -> None:
    page = ROOT / "docs" / "coding.md"
    results = doctest.testfile(str(page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted > 20
    assert results.failed == 0


def test_the_example_writes_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = load_script("examples/learned_sparse_coding.py")
    script.main(["--quick", "--patch-size", "6", "--atoms", "32", "--layers", "3", "--out", str(tmp_path)])
    shown = capsys.readouterr().out
    for title in ("Sparse coding of patches", "Predictive sparse decomposition", "Squared error of codes"):
        assert title in shown
    with (tmp_path / "solvers.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    for row in rows:  # all three minimise the same objective; lars stops by a tolerance of its own
        assert abs(float(row["objective above the best"])) < 1e-6
    with (tmp_path / "lista.csv").open(encoding="utf-8") as file:
        assert [row["layers"] for row in csv.DictReader(file)] == ["3", "3"]
    assert (tmp_path / "atoms.png").stat().st_size > 1000
