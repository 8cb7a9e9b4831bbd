"""The script that times fits beside scikit-learn's, on a few rows."""

from __future__ import annotations

import sys
import time
from types import ModuleType

import numpy as np
import pytest

from support.scripts import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("bench/em_table.py")


@pytest.mark.parametrize("covariance_type", ["diag", "full"])
def test_both_fits_are_the_same(script: ModuleType, covariance_type: str) -> None:
    x = np.random.default_rng(0).standard_normal((300, 4)) + np.arange(300)[:, None] % 3
    cells = script.compared(x, 3, covariance_type, 3, 2, time.perf_counter)
    assert len(cells) == 3
    for cell in cells:
        best, median = (float(number) for number in cell.split(" / "))
        assert best > 0.0
        assert median > 0.0


def test_another_fit_is_not_timed(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).standard_normal((300, 4))
    starts = iter([x[:3], x[3:6]])
    start = script.start_of

    def other_start(*arguments: object) -> dict[str, object]:
        return {**start(*arguments), "means_init": next(starts)}

    monkeypatch.setattr(script, "start_of", other_start)
    with pytest.raises(RuntimeError, match="not the same fit"):
        script.compared(x, 3, "diag", 3, 1, time.perf_counter)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_rows(script: ModuleType) -> None:
    """400,000 rows of 8 columns are 12 MB; 16 times as many responsibilities would be 24 MB."""
    script.grown_memory(50_000, 8, 16)  # imports
    assert script.grown_memory(400_000, 8, 16)["megabytes"] < 8.0
