"""One pass of EM against sums written out: every kind of component, dtype and layout, and any number of threads."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

from fastvi.benchmarks.timers import CpuTimer
from fastvi.em import _step
from fastvi.em._gaussian import GaussianComponents, precisions_cholesky
from fastvi.em._step import Densities, Statistics, run_pass

EPSILON = {torch.float64: 1e-11, torch.float32: 2e-4}
"""Of sums over a few hundred rows, relative to the largest."""


def densities_of(kind: str, components: int, columns: int, seed: int = 0) -> Densities:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    scales = {
        "linear": None,
        "diagonal": normal(components, columns).exp(),
        "tied": (normal(columns, columns).triu(1) / math.sqrt(columns)) + torch.eye(columns, dtype=torch.float64),
        "full": (normal(components, columns, columns).triu(1) / math.sqrt(columns))
        + torch.eye(columns, dtype=torch.float64),
    }
    shift = normal(columns).float().double()
    return Densities(kind, normal(components), normal(components, columns), scales[kind], shift)


def log_densities(x: np.ndarray, given: Densities) -> np.ndarray:
    """The table of `Densities`, an element at a time."""
    y = x - given.shift.numpy()
    found = np.empty((len(x), len(given.offset)))
    for k in range(found.shape[1]):
        location, offset = given.location[k].numpy(), float(given.offset[k])
        if given.kind == "linear":
            found[:, k] = offset + y @ location
            continue
        scale = given.scale.numpy() if given.kind == "tied" else given.scale[k].numpy()
        whitened = y * scale if given.kind == "diagonal" else y @ scale
        found[:, k] = offset - 0.5 * ((whitened - location) ** 2).sum(-1)
    return found


SHAPES = [(1, 1, 1), (7, 3, 2), (600, 5, 10), (523, 32, 17), (301, 9, 50), (4111, 2, 3)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("rows", "components", "columns"), SHAPES)
@pytest.mark.parametrize("kind", _step.KINDS)
def test_values_and_sums(kind: str, rows: int, components: int, columns: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(dtype)
    weights = torch.rand(rows, generator=generator, dtype=torch.float64).to(dtype)
    weights[0] = 0.0
    given = densities_of(kind, components, columns)
    expected = log_densities(x.double().numpy(), given)
    log_likelihood = logsumexp(expected, axis=1)
    responsibilities = np.exp(expected - log_likelihood[:, None])
    weighted, y = responsibilities * weights.double().numpy()[:, None], (x.double() - given.shift).numpy()
    seconds = {
        "squares": weighted.T @ y**2,
        "products": np.einsum("nk,nd,ne->kde", weighted, y, y),
    }
    for moments in _step.MOMENTS:
        found = run_pass(
            x, given, weights=weights, moments=moments, log_likelihood=True, responsibilities=True, log_densities=True
        )
        sums, tolerance = found.statistics, EPSILON[dtype]

        def close(value: object, target: object, tolerance: float = tolerance) -> None:
            np.testing.assert_allclose(value, target, rtol=0, atol=tolerance * (np.abs(target).max() + 1e-30))

        close(found.log_densities, expected)
        close(found.log_likelihood, log_likelihood)
        close(found.responsibilities, responsibilities, 100 * tolerance if dtype == torch.float32 else tolerance)
        close(sums.log_likelihood, (weights.double().numpy() * log_likelihood).sum())
        assert sums.weight == pytest.approx(float(weights.double().sum()))
        if moments != "none":
            close(sums.count, weighted.sum(0))
            close(sums.first, weighted.T @ y)
        if moments in seconds:
            close(sums.second, seconds[moments])


@pytest.mark.parametrize("moments", _step.MOMENTS)
@pytest.mark.parametrize("kind", _step.KINDS)
def test_the_formula_for_other_devices(kind: str, moments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of PyTorch against the native pass, which the test above compares with sums written out."""
    x = torch.randn(300, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = torch.rand(300, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = {"log_likelihood": True, "responsibilities": True, "log_densities": True}
    given = densities_of(kind, 3, 4)
    expected = run_pass(x, given, weights=weights, moments=moments, **wanted)
    monkeypatch.setattr(_step, "_run_native", _step._run_formula)
    monkeypatch.setattr(_step, "CHUNK_ROWS", 128)
    found = run_pass(x, given, weights=weights, moments=moments, **wanted)
    for name in wanted:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    for name in ("count", "first", "second", "log_likelihood"):
        torch.testing.assert_close(getattr(found.statistics, name), getattr(expected.statistics, name))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", _step.KINDS)
def test_on_a_gpu(kind: str, dtype: torch.dtype) -> None:
    """The CPU's values, and the same bits each time."""
    x = torch.randn(5000, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    weights = torch.rand(5000, generator=torch.Generator().manual_seed(1)).to(dtype)
    given = densities_of(kind, 40, 11)

    def found(device: str) -> _step.Pass:
        return run_pass(x.to(device), given, weights=weights.to(device), moments="products", log_likelihood=True)

    expected, first, second = found("cpu"), found("cuda"), found("cuda")
    assert first.log_likelihood is not None
    assert first.log_likelihood.is_cuda
    torch.testing.assert_close(first.log_likelihood.cpu(), expected.log_likelihood)
    assert torch.equal(first.log_likelihood, second.log_likelihood)
    for name in ("count", "first", "second"):
        target = getattr(expected.statistics, name)
        tolerance = EPSILON[dtype] * float(target.abs().max())
        torch.testing.assert_close(getattr(first.statistics, name), target, rtol=0.0, atol=tolerance)
        assert torch.equal(getattr(first.statistics, name), getattr(second.statistics, name))


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("kind", _step.KINDS)
def test_the_formula_takes_no_more_memory_than_a_chunk(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 8192 rows, 32 components and 20 columns in float64, which together would take 42 MB."""
    monkeypatch.setattr(_step, "_run_native", _step._run_formula)
    monkeypatch.setattr(_step, "CHUNK_ROWS", 256)
    x, given = torch.randn(8192, 20, dtype=torch.float64), densities_of(kind, 32, 20)
    assert CpuTimer().peak_bytes(lambda: run_pass(x, given, moments="products")) < 1.5e6


@pytest.mark.parametrize("moments", ["first", "squares", "products"])
def test_given_responsibilities(moments: str) -> None:
    given = densities_of("diagonal", 3, 5)
    x = torch.randn(777, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    responsibilities = torch.rand(777, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    sums = run_pass(x, given, moments=moments, given=responsibilities).statistics
    y = x - given.shift
    torch.testing.assert_close(sums.count, responsibilities.sum(0))
    torch.testing.assert_close(sums.first, responsibilities.T @ y)
    expected = {
        "squares": responsibilities.T @ y.square(),
        "products": torch.einsum("nk,nd,ne->kde", responsibilities, y, y),
    }
    if moments in expected:
        torch.testing.assert_close(sums.second, expected[moments])


@pytest.mark.parametrize("kind", _step.KINDS)
def test_any_strides(kind: str) -> None:
    given = densities_of(kind, 4, 6)
    x = torch.randn(300, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = run_pass(x, given, moments="squares", responsibilities=True)
    wide = torch.zeros(600, 12, dtype=torch.float64)
    wide[::2, ::2] = x
    for same in (x.T.contiguous().T, wide[::2, ::2]):
        assert not same.is_contiguous()
        found = run_pass(same, given, moments="squares", responsibilities=True)
        assert torch.equal(found.responsibilities, expected.responsibilities)
        assert torch.equal(found.statistics.second, expected.statistics.second)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", _step.KINDS)
@pytest.mark.cpu_kernels
def test_the_same_bits_for_any_number_of_threads(kind: str, dtype: torch.dtype) -> None:
    given = densities_of(kind, 7, 11)
    x = torch.randn(5000, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    moments = "products" if kind == "full" else "squares"
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(run_pass(x, given, moments=moments, log_likelihood=True))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert other.statistics.log_likelihood == found[0].statistics.log_likelihood
        assert torch.equal(other.log_likelihood, found[0].log_likelihood)
        for name in ("count", "first", "second"):
            assert torch.equal(getattr(other.statistics, name), getattr(found[0].statistics, name))


@pytest.mark.cpu_kernels
def test_sums_so_large_that_threads_share_them() -> None:
    """More than 8 MB: not every part of the rows has sums of its own, as it has in the tests above."""
    rows, components, columns = 700, 4, 520
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, columns, dtype=torch.float64, generator=generator)
    responsibilities = torch.rand(rows, components, dtype=torch.float64, generator=generator)
    given = densities_of("diagonal", components, columns)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(run_pass(x, given, moments="products", given=responsibilities).statistics)
    finally:
        torch.set_num_threads(threads)
    y = x - given.shift
    for k in range(components):
        torch.testing.assert_close(found[0].second[k], (y * responsibilities[:, k : k + 1]).T @ y)
    torch.testing.assert_close(found[0].first, responsibilities.T @ y)
    torch.testing.assert_close(found[0].count, responsibilities.sum(0))
    for name in ("count", "first", "second"):
        assert torch.equal(getattr(found[0], name), getattr(found[1], name))


def test_far_from_the_origin_and_far_from_every_component() -> None:
    """float32 rows at 1e4 with a deviation of 1; and rows whose densities are 0 in float64."""
    generator = torch.Generator().manual_seed(0)
    x = (1e4 + torch.randn(1000, 3, generator=generator, dtype=torch.float64)).float()
    exact = x.double()
    components = GaussianComponents(
        "diag",
        0.0,
        torch.tensor([[1e4] * 3, [1e4 + 1.0] * 3], dtype=torch.float64),
        torch.ones(2, 3, dtype=torch.float64),
        torch.ones(2, 3, dtype=torch.float64),
    )
    found = run_pass(x, components.densities(x, exact.mean(0)), log_likelihood=True).log_likelihood
    expected = logsumexp([norm.logpdf(exact.numpy(), mean).sum(-1) for mean in (1e4, 1e4 + 1.0)], axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    far = run_pass(
        torch.tensor([[1e6, 0.0, 0.0]], dtype=torch.float64),
        components.densities(exact, torch.zeros(3, dtype=torch.float64)),
        moments="first",
        log_likelihood=True,
        responsibilities=True,
    )
    assert torch.isfinite(far.log_likelihood).all()
    assert far.responsibilities.tolist() == [[0.0, 1.0]]


def test_a_component_of_weight_zero_and_an_impossible_row() -> None:
    given = densities_of("linear", 3, 2)
    offset = given.offset.clone()
    offset[1] = -math.inf
    x = torch.randn(5, 2, dtype=torch.float64)
    found = run_pass(x, given.weighted(offset), moments="first", responsibilities=True, log_likelihood=True)
    assert (found.responsibilities[:, 1] == 0).all()
    assert torch.isfinite(found.log_likelihood).all()
    found = run_pass(
        x,
        given.weighted(torch.full((3,), -math.inf, dtype=torch.float64)),
        moments="first",
        responsibilities=True,
        log_likelihood=True,
    )
    assert (found.responsibilities == 0).all()
    assert (found.log_likelihood == -math.inf).all()
    assert (found.statistics.first == 0).all()


def test_no_rows() -> None:
    for kind in _step.KINDS:
        found = run_pass(torch.zeros(0, 2, dtype=torch.float64), densities_of(kind, 3, 2), moments="products")
        assert found.statistics.log_likelihood == 0.0
        assert (found.statistics.second == 0).all()


def test_shifted_and_combined_sums() -> None:
    x = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    blank = densities_of("linear", 2, 3)
    given = torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for moments in ("squares", "products"):
        other = Densities(blank.kind, blank.offset, blank.location, None, torch.tensor([1.0, -2.0, 3.0]).double())
        expected = run_pass(x, other, moments=moments, given=given).statistics
        parts = [run_pass(x[rows], blank, moments=moments, given=given[rows]).statistics for rows in _halves(50)]
        found: Statistics = parts[0].shifted(other.shift).combined(parts[1])
        for name in ("count", "first", "second"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name))
        assert found.weight == 50


def _halves(count: int) -> list[slice]:
    return [slice(0, count // 3), slice(count // 3, count)]


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_gaussian_densities(covariance_type: str) -> None:
    """Against SciPy's, from covariances."""
    generator = torch.Generator().manual_seed(3)
    root = torch.randn(4, 3, 3, dtype=torch.float64, generator=generator)
    matrices = root @ root.mT + 0.1 * torch.eye(3, dtype=torch.float64)
    covariances = {
        "full": matrices,
        "tied": matrices[0],
        "diag": matrices.diagonal(dim1=-2, dim2=-1).contiguous(),
        "spherical": matrices[:, 0, 0].contiguous(),
    }[covariance_type]
    means = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    upper = precisions_cholesky(covariances, covariance_type)
    components = GaussianComponents(covariance_type, 0.0, means, covariances, upper)
    x = torch.randn(20, 3, dtype=torch.float64, generator=generator)
    found = run_pass(x, components.densities(x, means[0]), log_densities=True).log_densities
    for k in range(4):
        dense = {"tied": matrices[0], "diag": torch.diag(matrices[k].diagonal())}.get(covariance_type, matrices[k])
        if covariance_type == "spherical":
            dense = torch.eye(3) * matrices[k, 0, 0]
        expected = multivariate_normal(means[k].numpy(), dense.numpy()).logpdf(x.numpy())
        np.testing.assert_allclose(found[:, k], expected)
