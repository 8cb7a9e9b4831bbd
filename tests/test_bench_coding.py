"""The benchmark of sparse codes on a few rows: providers agree, and higher objectives are refused."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import pytest

from fastvi.benchmarks import coding, harness
from fastvi.benchmarks.harness import Case, Settings, Workload
from fastvi.benchmarks.patches import learned_dictionary, photograph_patches
from fastvi.benchmarks.results import EAGER, FASTVI, SCIKIT_LEARN
from fastvi.benchmarks.timers import CpuTimer
from fastvi.coding import active_set
from support.sparse_coding import some_problem


@pytest.mark.parametrize("method", ["ista", "fista"])
@pytest.mark.parametrize(("columns", "atoms"), [(7, 12), (12, 7)])
def test_steps_agree(method: str, columns: int, atoms: int) -> None:
    case = coding.steps_case(method, 30, columns, atoms)
    (mode,) = case.modes
    workload = case.prepare(mode, False)
    workload.check()
    assert list(workload.calls) == [EAGER, FASTVI]
    for call in workload.calls.values():
        call()


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("mode", list(coding.RIVALS))
def test_codes_agree(mode: str) -> None:
    import torch

    torch.set_num_threads(1)  # no processes of scikit-learn's

    def make() -> tuple[np.ndarray, np.ndarray]:
        x, dictionary = some_problem(30, 10, 25)
        return 10.0 * x, dictionary

    workload = coding.codes_case("small", make).prepare(mode, False)
    workload.check()
    assert list(workload.calls) == [SCIKIT_LEARN, FASTVI]
    for call in workload.calls.values():
        call()


def test_higher_objectives_are_refused() -> None:
    theirs = np.array([1.0, 2.0, 3.0])
    coding.assert_as_low("same", theirs, theirs * [1.00009, 1.0, 0.5])
    with pytest.raises(AssertionError, match=re.escape("other: an objective is above scikit-learn's by 0.0002")):
        coding.assert_as_low("other", theirs, theirs * [1.0, 1.0002, 0.5])
    with pytest.raises(AssertionError, match="by nan"):
        coding.assert_as_low("other", theirs, theirs * [1.0, np.nan, 1.0])


def test_patches_are_normalised() -> None:
    pytest.importorskip("PIL", reason="scikit-learn reads its photographs by Pillow")
    x = photograph_patches(201, 8)
    assert x.shape == (201, 64)
    np.testing.assert_allclose(x.mean(1), 0.0, atol=1e-12)
    variances = x.var(1)
    assert (variances <= 1.0).all()
    assert (variances > 0.9).sum() > 50
    np.testing.assert_array_equal(photograph_patches(201, 8), x)


@pytest.mark.slow
def test_a_dictionary_is_learned() -> None:
    """It has atoms of length 1, and leaves lower objectives than as many patches do."""
    pytest.importorskip("PIL", reason="scikit-learn reads its photographs by Pillow")
    x, dictionary = photograph_patches(500, 6), learned_dictionary(40, 6, 1.0)
    np.testing.assert_allclose(np.linalg.norm(dictionary, axis=1), 1.0)
    patches = x[-40:] / np.linalg.norm(x[-40:], axis=1, keepdims=True)
    learned, given = (active_set(x, atoms, 1.0).objective for atoms in (dictionary, patches))
    assert learned[:-40].mean() < given[:-40].mean()


def test_what_takes_minutes_runs_once_and_by_its_whole_name() -> None:
    (case,) = [case for case in coding.CASES if case.on_request]
    assert case.is_chosen("sparse codes 100000x100, 256 atoms")
    assert not case.is_chosen("")
    assert not case.is_chosen("sparse codes 100000x100")
    assert all(other.is_chosen("") and other.is_chosen(other.name[2:]) for other in coding.CASES if other is not case)


@pytest.mark.parametrize("agrees", [True, False])
def test_a_call_that_is_made_once_is_checked_after_it(agrees: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "copy_bandwidth", lambda timer, settings: 1e9)
    now, log = [0.0], []

    def call(name: str, seconds: float) -> None:
        log.append(name)
        now[0] += seconds

    def check() -> None:
        log.append("check")
        assert agrees, "they differ"

    def prepare(mode: str, with_compile: bool) -> Workload:
        calls = {SCIKIT_LEARN: partial(call, SCIKIT_LEARN, 80.0), FASTVI: partial(call, FASTVI, 8.0)}
        return Workload(calls, check, once=True)

    run = partial(
        harness.run,
        [Case("coding", "long", ("codes",), prepare, on_request=True)],
        Settings(threads=(1,), with_compile=False),
        CpuTimer(clock=lambda: now[0]),
    )
    if not agrees:
        with pytest.raises(AssertionError, match="they differ"):
            run()
        return
    (result,) = run()
    assert log == [SCIKIT_LEARN, FASTVI, "check"]
    assert result.ratio(SCIKIT_LEARN, FASTVI) == 10.0
    assert (result.attempts, result.timings[FASTVI].peak_bytes) == (1, None)
