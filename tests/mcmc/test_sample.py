"""Sampling in one call: exact moments of constrained parameters, ways to write a density, statistics, diagnostics."""

from __future__ import annotations

import math
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Beta, Dirichlet, Gamma, Normal

from fastvi.mcmc import (
    HMCAlgorithm,
    Interval,
    LowerBounded,
    Ordered,
    PhasePoint,
    Positive,
    RunningCovariance,
    SamplerWarning,
    Samples,
    Simplex,
    sample,
)
from fastvi.mcmc.chees import trajectory_gradient
from fastvi.mcmc.density import make_target
from fastvi.mcmc.parameters import read_start
from fastvi.mcmc.targets import LinearRegression

F64 = torch.float64


def standard(x: Tensor) -> Tensor:
    return -0.5 * x.square().sum(-1)


def quick(log_prob: Any = standard, initial: Any = None, *sizes: int, **options: Any) -> Samples:
    """A short run, whose warnings do not matter."""
    start = torch.zeros(4, 2, dtype=F64) if initial is None else initial
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplerWarning)
        return sample(log_prob, start, *(sizes or (20, 20)), progress=False, seed=options.pop("seed", 3), **options)


def constrained(rate: Tensor, share: Tensor, parts: Tensor, places: Tensor) -> Tensor:
    """Independent parameters with known moments on four supports."""
    return (
        Gamma(3.0, 2.0).log_prob(rate)
        + Beta(2.0, 5.0).log_prob(share)
        + Dirichlet(torch.tensor([2.0, 3.0, 5.0], dtype=F64)).log_prob(parts)
        + Normal(0.0, 1.0).log_prob(places).sum(-1)
    )


CONSTRAINED: dict[str, Any] = {
    "initial": {"rate": 1.0, "share": 0.5, "parts": torch.full((3,), 1 / 3, dtype=F64), "places": [-1.0, 1.0]},
    "bijections": {"rate": Positive(), "share": Interval(), "parts": Simplex(), "places": Ordered()},
}
EXACT = {
    "rate": (1.5, math.sqrt(0.75)),
    "share": (2 / 7, math.sqrt(10 / 392)),
    "parts[0]": (0.2, math.sqrt(0.16 / 11)),
    "parts[2]": (0.5, math.sqrt(0.25 / 11)),
    "places[0]": (-1 / math.sqrt(math.pi), math.sqrt(1 - 1 / math.pi)),
    "places[1]": (1 / math.sqrt(math.pi), math.sqrt(1 - 1 / math.pi)),
}


def worst_errors(samples: Samples) -> tuple[float, float]:
    """Of means, in Monte Carlo standard errors, and of standard deviations, as shares."""
    summary = samples.summary()
    means = [abs(summary[name].mean - mean) / summary[name].mcse_mean for name, (mean, _) in EXACT.items()]
    deviations = [abs(summary[name].sd / deviation - 1.0) for name, (_, deviation) in EXACT.items()]
    return max(means), max(deviations)


def test_constrained_parameters_have_their_exact_moments() -> None:
    samples = sample(constrained, num_samples=250, num_warmup=150, num_chains=48, seed=1, progress=False, **CONSTRAINED)
    mean_error, deviation_error = worst_errors(samples)
    assert mean_error < 4.0
    assert deviation_error < 0.05
    assert samples.summary().worst_r_hat < 1.01
    assert samples.is_complete
    assert samples["parts"].shape == (48, 250, 3)
    torch.testing.assert_close(samples["parts"].sum(-1), torch.ones(48, 250, dtype=F64))


def test_a_planted_log_jacobian_left_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then Gamma(3, 2) becomes Gamma(2, 2), with the mean 1 in place of 1.5."""
    monkeypatch.setattr("fastvi.mcmc.parameters.Parameters.log_det_jacobian", lambda self, position: None)
    start = {"value": torch.ones(16, dtype=F64)}
    samples = quick(Gamma(3.0, 2.0).log_prob, start, 200, 100, bijections={"value": Positive()})
    assert float(samples["value"].mean()) == pytest.approx(1.0, abs=0.1)


# Ways to write a density


def test_a_density_of_one_chain_is_that_of_all() -> None:
    data = torch.linspace(-1.0, 2.0, 5, dtype=F64)

    def of_all(mean: Tensor, scale: Tensor) -> Tensor:
        return Normal(mean[:, None, None], scale[:, None]).log_prob(data[:, None]).sum((1, 2))

    def of_one(mean: Tensor, scale: Tensor) -> Tensor:
        return Normal(mean, scale).log_prob(data[:, None]).sum()

    initial = {"mean": torch.tensor([0.1, 0.2, 0.3]).double(), "scale": torch.rand(3, 2, dtype=F64) + 0.5}
    parameters, start, _ = read_start(initial, None, {"scale": Positive()}, 16)
    expected = make_target(of_all, parameters, False)(start)
    found = make_target(of_one, parameters, True)(start)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "log_prob",
    [
        lambda a, b: standard(b) - a.square(),
        lambda parameters: standard(parameters["b"]) - parameters["a"].square(),
        lambda **parameters: standard(parameters["b"]) - parameters["a"].square(),
    ],
    ids=["keywords", "mapping", "any keywords"],
)
def test_parameters_come_as_keywords_or_as_a_mapping(log_prob: Any) -> None:
    samples = quick(log_prob, {"a": torch.zeros(4), "b": torch.ones(4, 3)})
    assert {name: tuple(value.shape) for name, value in samples.draws.items()} == {"a": (4, 20), "b": (4, 20, 3)}
    assert samples["b"].dtype == torch.float32


class Quadratic:
    """A native target: the gradient by hand."""

    is_target = True

    def __call__(self, position: Tensor) -> tuple[Tensor, Tensor]:
        return -0.5 * (position - 2.0).square().sum(-1), 2.0 - position


def test_targets_are_taken_as_they_are_or_by_the_chain_rule() -> None:
    target = Quadratic()
    parameters, start, _ = read_start(torch.rand(3, 2, dtype=F64) + 0.1, None, None, 16)
    assert make_target(target, parameters, False) is target
    parameters, start, _ = read_start(torch.rand(3, 2, dtype=F64) + 0.1, None, LowerBounded(-1.0), 16)
    expected = make_target(lambda x: -0.5 * (x - 2.0).square().sum(-1), parameters, False)(start)
    torch.testing.assert_close(make_target(target, parameters, False)(start), expected)


def test_draws_have_the_names_of_a_native_target() -> None:
    target = LinearRegression(torch.eye(2, dtype=F64), torch.ones(2, dtype=F64), intercept=True)
    by_tensor = quick(target, torch.zeros(4, 4, dtype=F64))
    shapes = {name: tuple(value.shape) for name, value in by_tensor.draws.items()}
    assert shapes == {"coefficients": (4, 20, 2), "intercept": (4, 20), "log_scale": (4, 20)}
    by_name = quick(target, {name: value[:, 0] * 0.0 for name, value in reversed(by_tensor.draws.items())})
    assert torch.equal(by_name["log_scale"], by_tensor["log_scale"])


def test_a_chain_whose_matrix_has_no_factor_has_density_0() -> None:
    def log_prob(x: Tensor) -> Tensor:
        matrix = torch.eye(2, dtype=F64) * (4.0 - x.square().sum(-1))[:, None, None]
        return torch.linalg.cholesky(matrix).diagonal(dim1=1, dim2=2).log().sum(1)

    parameters, _, _ = read_start(torch.zeros(3, 2, dtype=F64), None, None, 16)
    position = torch.tensor([[0.0, 0.0], [3.0, 0.0], [1.0, 1.0]], dtype=F64)
    log_density, gradient = make_target(log_prob, parameters, False)(position)
    assert log_density.tolist() == pytest.approx([math.log(4.0), -math.inf, math.log(2.0)])
    assert gradient.isfinite().all()


def test_chains_do_not_depend_on_their_number() -> None:
    start = torch.linspace(-1.0, 1.0, 12, dtype=F64).reshape(6, 2)
    options: dict[str, Any] = {"algorithm": "hmc", "step_size": 0.4, "num_steps": 3}
    all_chains = quick(standard, start, 10, 0, **options)
    some = quick(standard, start[:2], 10, 0, **options)
    assert torch.equal(all_chains["x"][:2], some["x"])


def test_one_start_is_scattered_and_where_that_fails_less() -> None:
    options: dict[str, Any] = {"num_chains": 200, "algorithm": "mala", "step_size": 1e-9, "start_jitter": 2.0}
    wide = quick(standard, torch.zeros(3, dtype=F64), 1, 0, **options)
    assert float(wide["x"].std()) == pytest.approx(2.0, rel=0.1)
    narrow = quick(
        lambda x: torch.where(x.abs().amax(-1) < 0.5, standard(x), -math.inf),
        torch.zeros(3, dtype=F64),
        1,
        0,
        **options,
    )
    assert 0.1 < float(narrow["x"].abs().max()) < 0.5


def test_defaults() -> None:
    samples = quick(standard, torch.zeros(2, dtype=F64), 30, 30)
    assert samples.num_chains == 16
    assert "trajectory_length" in samples.settings
    assert quick(lambda x: -x.square(), {"x": 0.0}, 5, 5)["x"].dtype == F64
    torch.manual_seed(7)
    first = quick(seed=None)
    torch.manual_seed(7)
    assert torch.equal(first["x"], quick(seed=None)["x"])
    assert not torch.equal(first["x"], quick(seed=None)["x"])


# Results


def test_thinned_draws_are_every_third() -> None:
    every, third = quick(standard, None, 30, 20), quick(standard, None, 10, 20, thin=3)
    assert torch.equal(third["x"], every["x"][:, 2::3])
    for name in ("acceptance_rate", "energy", "lp"):
        assert torch.equal(third.statistics[name], every.statistics[name][:, 2::3])
    assert torch.equal(third.statistics["n_steps"], every.statistics["n_steps"].unflatten(1, (10, 3)).sum(2))


def test_statistics_are_arvizs() -> None:
    samples = quick(algorithm="hmc", num_steps=4, step_size=0.5)
    tree = samples.to_arviz()
    expected = {"acceptance_rate", "diverging", "energy", "lp", "n_steps", "step_size"}
    assert set(tree["sample_stats"].data_vars) == expected
    assert dict(tree["sample_stats"].sizes) == {"chain": 4, "draw": 20}
    assert tree["posterior"]["x"].shape == (4, 20, 2)
    assert tree["sample_stats"]["diverging"].dtype == bool
    np.testing.assert_array_equal(tree["posterior"]["x"], samples["x"].numpy())
    torch.testing.assert_close(samples.statistics["lp"], standard(samples["x"]))
    assert (samples.statistics["energy"] >= -samples.statistics["lp"]).all()
    assert samples.num_steps == int(samples.statistics["n_steps"][0].sum())


def test_the_summary_is_arviz_stats() -> None:
    from arviz_stats.base import array_stats

    samples = quick(standard, None, 200, 100)
    row = samples.summary()["x[1]"]
    values = samples["x"][..., 1].numpy()
    assert row.mean == pytest.approx(values.mean())
    assert row.ess_bulk == pytest.approx(float(array_stats.ess(values, method="bulk")))
    assert row.r_hat == pytest.approx(float(array_stats.rhat(values)))
    lines = samples.table().splitlines()
    assert lines[0].startswith("4 chains, 200 draws each, 100 warm-up steps")
    assert lines[2].split() == ["mean", "sd", "mcse", "5", "%", "95", "%", "ESS", "bulk", "tail", "R-hat"]
    assert [line.split()[0] for line in lines[3:]] == ["x[0]", "x[1]"]


def test_saved_samples_are_the_same(tmp_path: Path) -> None:
    samples = quick(constrained, CONSTRAINED["initial"], num_chains=4, bijections=CONSTRAINED["bijections"])
    samples.save(tmp_path / "samples.pt")
    again = Samples.load(tmp_path / "samples.pt")
    for name, value in samples.draws.items():
        assert torch.equal(again[name], value)
    assert str(again) == str(samples)
    (tmp_path / "other").write_text("no samples")
    with pytest.raises(ValueError, match=r"other holds no samples of fastvi"):
        Samples.load(tmp_path / "other")
    with pytest.raises(KeyError, match="no parameter 'tau': the samples have rate, share, parts, places"):
        samples["tau"]


def test_without_the_extra_draws_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "arviz_stats.base", None)
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    samples = quick()
    with pytest.raises(
        ModuleNotFoundError,
        match=r"Samples.summary needs arviz-stats, which is not installed: pip install \"fastvi\[mcmc\]\"",
    ):
        samples.summary()
    with pytest.raises(
        ModuleNotFoundError,
        match=r"Samples.to_arviz needs arviz-base, which is not installed: pip install \"fastvi\[mcmc\]\"",
    ):
        samples.to_arviz()
    assert 'pip install "fastvi[mcmc]"' in str(samples)


def test_progress_and_table_go_to_the_error_stream(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(SamplerWarning):
        sample(standard, torch.zeros(4, 2), 20, 20, seed=1, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "warm-up" in err
    assert "100%" in err
    assert "R-hat" in err


# Diagnostics


def funnel(scale: Tensor, x: Tensor) -> Tensor:
    """Neal's: log-scale N(0, 3), x given it N(0, e^scale)."""
    return Normal(0.0, 3.0).log_prob(scale) + Normal(0.0, (0.5 * scale).exp()[:, None]).log_prob(x).sum(1)


def test_the_funnels_divergences_are_counted_and_located() -> None:
    start = {"scale": 0.0, "x": torch.zeros(9, dtype=F64)}
    with pytest.warns(SamplerWarning) as caught:
        samples = sample(funnel, start, 200, 150, 16, algorithm="hmc", seed=2, progress=False)
    assert int(samples.num_divergent.sum()) == int(samples.statistics["diverging"].sum()) > 0
    (warning,) = caught
    assert "diverged" in str(warning.message)
    assert "They began where scale is low" in str(warning.message)
    assert "non-centred" in str(warning.message)
    assert Path(warning.filename) == Path(__file__)


def test_a_chain_that_never_moves_is_named() -> None:
    def log_prob(x: Tensor) -> Tensor:
        return torch.where(x[:, 0] > 50.0, -1e6 * (x[:, 0] - 100.0).square(), standard(x))

    start = torch.zeros(4, 1, dtype=F64)
    start[2] = 100.0
    with pytest.warns(SamplerWarning, match="Chain 2 accepted none of 49 proposals"):
        sample(log_prob, start, 50, 0, algorithm="hmc", step_size=0.5, seed=1, progress=False)


def test_few_draws_and_chains_apart_are_reported() -> None:
    apart = quick(standard, torch.tensor([[0.0], [9.0]], dtype=F64), 20, 0, algorithm="hmc", step_size=0.01).diagnose()
    assert any(line.startswith("The chains do not agree, yet: R-hat is above 1.1 for 1 of 1") for line in apart)
    assert any(line.startswith("Effective sample size is below 400") for line in apart)
    assert sample(standard, torch.zeros(16, 1, dtype=F64), 300, 200, seed=1, progress=False).diagnose() == []


def test_what_r_hat_does_by_chance_is_not_reported() -> None:
    """With a seed of the 64 short chains whose R-hat is above 1.01, though draws are as good as independent."""
    samples = sample(standard, torch.zeros(64, 5, dtype=F64), 64, 200, seed=1, progress=False)
    assert samples.summary().worst_r_hat > 1.01
    assert samples.diagnose() == []


def test_a_single_chain_is_reported() -> None:
    lines = quick(standard, torch.zeros(1, 1, dtype=F64), algorithm="hmc").diagnose()
    assert any(line.startswith("R-hat compares chains, and there is one") for line in lines)


@pytest.mark.parametrize("num_warmup", [20, 25, 30, 39, 40, 45, 60])
def test_a_short_warm_up_ends_with_a_step_size_that_settled(num_warmup: int) -> None:
    for seed in range(3):
        samples = quick(standard, torch.zeros(4, 3, dtype=F64), 50, num_warmup, algorithm="hmc", seed=seed)
        assert int(samples.num_divergent.sum()) == 0
        assert samples.statistics["acceptance_rate"].mean() > 0.3


def test_numbers_have_the_dtype_of_the_tensors_beside_them() -> None:
    start = {"b": torch.zeros(()), "s": 1.0}
    samples = quick(lambda b, s: standard(b[:, None]) - s.square(), start, 5, 5, 4)
    assert samples["b"].dtype == samples["s"].dtype == torch.float32
    alone = quick(lambda s: -s.square(), {"s": 1.0}, 5, 5, 4)
    assert alone["s"].dtype == F64


def test_a_log_density_too_large_for_float32_is_reported() -> None:
    lines = quick(lambda x: standard(x) + 1e6, torch.zeros(4, 1)).diagnose()
    assert any(line.startswith("float32 knows this log density to 0.12 nats only") for line in lines)


def test_an_algorithm_with_options() -> None:
    samples = quick(algorithm=HMCAlgorithm(num_steps=7, jitter=0.0))
    assert (samples.statistics["n_steps"] == 7).all()


# The mass that sampling takes by itself


def test_an_automatic_mass_is_dense_where_correlations_are_strong_in_any_units() -> None:
    """Of positions with a known covariance: exact for a pair of them, whatever their units."""
    steps = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [-0.1, 0.1], [0.1, -0.1]], dtype=F64)
    for units in (torch.ones(2, dtype=F64), torch.tensor([1e-6, 1e3], dtype=F64)):
        found = automatic_mass(steps * units)
        assert found.shape == (2, 2)
        expected = steps.T @ steps * 100 / 399
        torch.testing.assert_close(found / torch.outer(units, units), expected, rtol=1e-4, atol=0.0)
    square = torch.tensor([[-1.0, -2.0], [1.0, 2.0], [-1.0, 2.0], [1.0, -2.0]], dtype=F64)
    torch.testing.assert_close(automatic_mass(square), torch.tensor([400.0, 1600.0], dtype=F64) / 399)


def test_the_criterion_with_a_dense_mass_is_that_of_whitened_positions() -> None:
    generator = torch.Generator().manual_seed(1)
    start, end, momentum = (torch.randn(6, 3, dtype=F64, generator=generator) for _ in range(3))
    factor = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [-3.0, 0.2, 0.1]], dtype=F64)
    probability = torch.linspace(0.1, 1.0, 6, dtype=F64)
    none = torch.zeros(6, dtype=F64), torch.zeros(6, 3, dtype=F64)
    white = trajectory_gradient(start, PhasePoint(end, momentum, *none), probability, 0.5)
    raw = PhasePoint(end @ factor.T, momentum @ torch.linalg.inv(factor), *none)
    found = trajectory_gradient(start @ factor.T, raw, probability, 0.5, factor @ factor.T)
    torch.testing.assert_close(found, white, rtol=1e-9, atol=1e-9)


def automatic_mass(positions: Tensor) -> Tensor:
    """The inverse mass after 100 steps of the same positions."""
    covariance = RunningCovariance.of_mass("auto", positions.shape[1])
    state = covariance.init(positions)
    for _ in range(100):
        state = covariance.update(state, positions)
    return covariance.inverse_mass(state)


def test_an_automatic_mass_of_what_never_moved_is_positive() -> None:
    positions = torch.tensor([[1.0, 0.0], [1.0, 2.0]], dtype=F64)
    found = automatic_mass(positions)
    assert found.shape == (2,)
    assert (found > 0).all()
