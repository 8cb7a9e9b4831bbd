"""Signal and noise of gradients: exact variances at the posterior, slopes in K, tables, pictures, mistakes."""

import dataclasses
import doctest
import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fastvi import normal_log_prob
from fastvi.models import VAE
from fastvi.objectives import ELBO, IWAE, MIWAE, STL, Bound, DReG, Loss, diagnose, option
from fastvi.seeding import mix_seed

EXAMPLE = Path(__file__).parents[2] / "examples" / "signal_to_noise.py"


class Line(nn.Module):
    """z ~ N(0, 1), x ~ N(w z + c, 1); q = N((x - c) / 2 + b, exp(l)), the posterior where w = 1, b = 0, l = log 1/2."""

    def __init__(self, bias=0.0, logvar=0.0):
        super().__init__()
        values = {"weight": 1.0, "shift": 0.0, "bias": bias, "logvar": math.log(0.5) + logvar}
        for name, value in values.items():
            setattr(self, name, nn.Parameter(torch.tensor([value], dtype=torch.float64)))

    def encode(self, x):
        return 0.5 * (x - self.shift.detach()) + self.bias, self.logvar.expand_as(x)

    def log_likelihood(self, x, z):
        return normal_log_prob(x, self.weight * z + self.shift, torch.zeros_like(x))

    def groups(self):
        return {"generative": [self.weight, self.shift], "inference": [self.bias, self.logvar]}


def data(count):
    return torch.linspace(-1.0, 3.0, count, dtype=torch.float64).unsqueeze(1)


def test_moments_are_those_of_the_gradients():
    """Of the seeds that follow from one: mean and unbiased variance, without a change to the parameters' own grad."""
    model, x = Line(0.3, 0.2), data(5)
    model.weight.grad = torch.ones(1, dtype=torch.float64)
    found = diagnose(model, x, {"bound": IWAE(3)}, repeats=7, seed=71).statistics["bound"]
    assert list(found) == ["weight", "shift", "bias", "logvar"]
    parameters = list(model.parameters())
    draws = [
        torch.cat(torch.autograd.grad(IWAE(3)(model, x, seed=mix_seed(71, part)).mean(), parameters))
        for part in range(7)
    ]
    variance, mean = torch.var_mean(torch.stack(draws), 0)
    torch.testing.assert_close(torch.cat([each.mean for each in found.values()]), mean.detach())
    torch.testing.assert_close(torch.cat([each.variance for each in found.values()]), variance.detach())
    assert found["bias"].signal_to_noise == pytest.approx((mean[2].abs() / variance[2].sqrt()).item())
    assert found["bias"].mean_norm == pytest.approx(mean[2].abs().item())
    assert found["bias"].mean_variance == pytest.approx(variance[2].item())
    assert model.weight.grad.item() == 1.0
    assert model.bias.grad is None


@pytest.mark.parametrize("num_samples", [1, 4])
def test_variances_at_the_exact_posterior(num_samples):
    """Plain gradients of q have the Fisher information over K there, 1 / s^2 and 1/2, and over the batch; DReG's none.

    The variance of R gradients, nearly Gaussian as means of 40, is off by sqrt(2 / R): within 4.5 of that.
    """
    repeats, batch = 800, 40
    estimators = {"plain": IWAE(num_samples), "landing": DReG(num_samples)}
    found = diagnose(Line(), data(batch), estimators, repeats=repeats, seed=72).statistics
    for name, information in (("bias", 2.0), ("logvar", 0.5)):
        ratio = found["plain"][name].mean_variance * num_samples * batch / information
        assert ratio == pytest.approx(1.0, abs=4.5 * math.sqrt(2.0 / repeats))
        assert found["landing"][name].mean_variance < 1e-28
        # Noise alone: what the table's last line says of it, for one parameter anything up to 4.5 / sqrt(R).
        assert found["plain"][name].signal_to_noise < 4.5 / math.sqrt(repeats)


def ratios(found, kind, group, samples):
    return [found.statistics[f"{kind}(num_samples={count})"][group].signal_to_noise for count in samples]


def slope(samples, values):
    return np.polyfit(np.log(samples), np.log(values), 1)[0]


def test_slopes_in_the_number_of_samples():
    """Half for the generative model and for DReG's encoder, minus half for IWAE's, within .1 over K = 8 to 1024.

    IWAE's signal for the encoder is below the noise of the repeats where K is large: it is that of DReG, which has the
    same expectation. Where K is small the ratio that was found is that quotient.
    """
    samples = [8, 32, 128, 512, 1024]
    model = Line(0.3, 0.1)
    estimators = [kind(count) for kind in (IWAE, DReG) for count in samples]
    found = diagnose(model, data(30), estimators, repeats=150, groups=model.groups(), seed=73)
    for kind, group in (("IWAE", "generative"), ("DReG", "generative"), ("DReG", "inference")):
        assert slope(samples, ratios(found, kind, group, samples)) == pytest.approx(0.5, abs=0.1)
    plain, dreg = (
        [found.statistics[f"{kind}(num_samples={count})"]["inference"] for count in samples]
        for kind in ("IWAE", "DReG")
    )
    for name, parameter in (("bias", 0), ("logvar", 1)):
        quotients = []
        for each, other in zip(plain, dreg, strict=True):
            mean, deviation = other.mean[parameter].item(), each.variance[parameter].sqrt().item()
            quotients.append(abs(mean) / deviation)
            # Both means are of 150 gradients, and nearly all of the noise is IWAE's.
            assert each.mean[parameter].item() == pytest.approx(mean, abs=4.5 * deviation / math.sqrt(150)), name
        assert slope(samples, quotients) == pytest.approx(-0.5, abs=0.1)


def test_more_bounds_raise_both_ratios():
    """As the square root of M, for the mean of M bounds of four samples."""
    model = Line(0.4, 0.3)
    estimators = {"one": MIWAE(1, 4), "sixteen": MIWAE(16, 4)}
    found = diagnose(model, data(200), estimators, repeats=400, groups=model.groups(), seed=74).statistics
    for group in model.groups():
        gain = found["sixteen"][group].signal_to_noise / found["one"][group].signal_to_noise
        assert gain == pytest.approx(4.0, rel=0.2)  # five standard errors of the quotient of two deviations


@pytest.mark.parametrize("num_samples", [2, 16, 128])
def test_the_ordering_near_the_optimum(num_samples):
    """DReG's variance for the encoder is the smaller one there; the generative model's is IWAE's own."""
    model = Line(0.05, 0.05)
    estimators = {"plain": IWAE(num_samples), "dreg": DReG(num_samples)}
    found = diagnose(model, data(20), estimators, repeats=100, groups=model.groups(), seed=75).statistics
    assert found["dreg"]["inference"].mean_variance < 0.1 * found["plain"]["inference"].mean_variance
    for moment in ("mean", "variance"):
        generative = [getattr(found[name]["generative"], moment) for name in ("dreg", "plain")]
        torch.testing.assert_close(generative[0], generative[1])


# Parameters, names, seeds


@dataclasses.dataclass(frozen=True)
class Distance(Loss):
    """A loss without noise, of one parameter alone."""

    power: float = option("of the distance", 2.0)

    def __call__(self, model, x, *, seed=None, row_offset=0):
        return (x - model.shift).abs().pow(self.power)[:, 0]


def test_gradients_without_noise_and_without_signal():
    found = diagnose(Line(), data(4), [Distance()], repeats=3, seed=76).statistics["Distance"]
    assert found["shift"].mean.item() == pytest.approx(-2.0)
    assert found["shift"].mean_variance == 0.0
    assert found["shift"].signal_to_noise == math.inf
    assert math.isnan(found["bias"].signal_to_noise)
    assert found["bias"].mean_norm == 0.0


def test_groups_of_a_module_are_its_parts():
    model = VAE(6, 2, (4,))
    model.decoder.requires_grad_(False)
    found = diagnose(model, torch.rand(3, 6), [ELBO(2)], repeats=2, seed=77)
    assert {name: len(part.mean) for name, part in found.statistics["ELBO(num_samples=2)"].items()} == {
        "encoder": 28,
        "posterior_head": 20,
        "likelihood_head": 30,
    }
    with torch.no_grad():
        again = diagnose(model, torch.ones(3, 6), [STL()], repeats=2, seed=77)
    assert again.statistics["STL"]["encoder"].mean_norm > 0.0


def test_the_seed_determines_the_noise():
    model, x = Line(0.3, 0.2), data(5)

    def mean(seed=None):
        return diagnose(model, x, [STL(2)], repeats=2, seed=seed).statistics["STL(num_samples=2)"]["bias"].mean.item()

    assert mean(1) == mean(1) != mean(2)
    torch.manual_seed(78)
    first, second = mean(), mean()
    torch.manual_seed(78)
    assert first == mean() != second


# What is shown


def test_the_table():
    model = Line(0.3, 0.2)
    found = diagnose(model, data(5), {"a": IWAE(2), "b": DReG(2)}, repeats=8, groups=model.groups(), seed=79)
    lines = str(found).splitlines()
    assert lines[0].split() == ["estimator", "group", "parameters", "|mean|", "variance", "SNR"]
    assert [line.split()[:3] for line in lines[1:5]] == [
        [name, group, "2"] for name in "ab" for group in ("generative", "inference")
    ]
    part = found.statistics["b"]["inference"]
    wanted = [f"{value:.3g}" for value in (part.mean_norm, part.mean_variance, part.signal_to_noise)]
    assert lines[4].split()[3:] == wanted
    assert lines[5] == "over 8 repeats, which show an SNR of 0.28 where there is noise alone"


def test_the_picture():
    model = Line(0.3, 0.2)
    estimators = [IWAE(8), IWAE(2), DReG(2), MIWAE(3, 2), STL()]
    found = diagnose(model, data(5), estimators, repeats=4, groups=model.groups(), seed=80)
    panels = found.figure().axes
    assert [panel.get_title() for panel in panels] == ["generative", "inference"]
    for panel, group in zip(panels, model.groups(), strict=True):
        lines = {line.get_label(): line for line in panel.get_lines()}
        assert list(lines) == ["IWAE", "DReG", "MIWAE(num_bounds=3)", "STL", "noise alone"]
        assert list(lines["IWAE"].get_xdata()) == [2, 8]
        assert list(lines["IWAE"].get_ydata()) == ratios(found, "IWAE", group, [2, 8])
        assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
    for panel, group in zip(found.figure("mean_norm", "mean_variance").axes[2:], model.groups(), strict=True):
        lines = {line.get_label(): line for line in panel.get_lines()}
        assert panel.get_ylabel() == "variance"
        assert list(lines) == ["IWAE", "DReG", "MIWAE(num_bounds=3)", "STL"]  # and no ratio of noise alone
        assert lines["DReG"].get_ydata()[0] == found.statistics["DReG(num_samples=2)"][group].mean_variance
    with pytest.raises(ValueError, match="quantities must be of signal_to_noise, mean_variance, mean_norm, got 'bias'"):
        found.figure("mean_norm", "bias")


def test_a_picture_without_matplotlib_is_one_line(monkeypatch):
    found = diagnose(Line(), data(3), [STL()], repeats=2, seed=81)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(
        ImportError, match=r'a picture needs matplotlib, which is not installed: pip install "fastvi\[bench\]"'
    ):
        found.figure()


class NeedsMuch(Bound):
    def check_model(self, model):
        raise TypeError("NeedsMuch: needs what nobody has")

    def __call__(self, model, x, **_):
        raise AssertionError("it is never called")


@pytest.mark.parametrize(
    ("model", "estimators", "options", "error", "message"),
    [
        (Line(), [], {}, ValueError, "estimators must be one objective or more, got none"),
        (Line(), {"a": 3}, {}, TypeError, "estimators must be objectives, got int for a"),
        (Line(), [STL(), 3], {}, TypeError, "estimators must be objectives, got int for int"),
        (Line(), IWAE(2), {}, TypeError, "estimators must be a sequence, or by name, got IWAE$"),
        (
            Line(),
            [IWAE(2), STL(), IWAE(2)],
            {},
            ValueError,
            r"estimators must differ, .* got IWAE\(num_samples=2\) twice",
        ),
        (Line(), [STL()], {"repeats": 1}, ValueError, "repeats must be at least 2, got 1"),
        (object(), [Distance()], {}, TypeError, "groups must be given for object, which is no torch.nn.Module"),
        (Line().requires_grad_(False), [STL()], {}, ValueError, "groups must hold parameters that ask for gradients"),
        (Line(), [STL()], {"groups": {"a": [torch.ones(2)]}}, ValueError, "groups must hold parameters that ask"),
        (Line(), [STL()], {"groups": {"a": "encoder"}}, TypeError, "groups must be sequences of .*, got str for a"),
        (Line(), [STL()], {"groups": {"a": 3}}, TypeError, "groups must be sequences of parameters, got int for a"),
        (Line(), [STL()], {"groups": {"a": torch.ones(2)}}, TypeError, "groups must be sequences of .* Tensor for a"),
        (Line(), [STL()], {"groups": {"a": [3]}}, TypeError, "groups must hold parameters, got int for a"),
        (Line(), [STL()], {"groups": {"a": []}}, ValueError, "groups must hold one parameter or more, got none for a"),
        (Line(), [STL()], {"groups": [3]}, TypeError, "groups must be sequences of parameters by name, got list"),
    ],
)
def test_mistakes_are_one_line(model, estimators, options, error, message):
    with pytest.raises(error, match=f"^diagnose: {message}"):
        diagnose(model, data(3), estimators, **options)


def test_parameters_of_another_model_are_refused():
    """Beside the model's own, too; its own may have no gradient at all."""
    model, message = (
        Line(0.3, 0.2),
        r"^diagnose: groups must hold parameters of the model, got .* shape \(1,\) for a, in",
    )
    for groups in ({"a": Line().groups()["inference"]}, {"b": [model.bias], "a": [model.logvar, Line().bias]}):
        with pytest.raises(ValueError, match=message):
            diagnose(model, data(3), [STL()], repeats=2, groups=groups)
    model.unused = nn.Parameter(torch.ones(2))
    found = diagnose(model, data(3), [STL()], repeats=2, groups={"a": [model.unused]}).statistics["STL"]["a"]
    assert math.isnan(found.signal_to_noise)


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match=r"^diagnose: x must have one row or more, got the shape \(0, 1\)"):
        diagnose(Line(), data(0), [STL()])


def test_an_estimator_that_cannot_take_the_model_says_so_first():
    with pytest.raises(TypeError, match="NeedsMuch: needs what nobody has"):
        diagnose(Line(), data(3), {"a": STL(), "b": NeedsMuch()})


# The example


def test_the_example_shows_both_slopes(tmp_path, monkeypatch, capsys):
    picture = tmp_path / "ratios.png"
    arguments = ["--samples", "16", "128", "--points", "30", "--repeats", "40", "--out", str(picture)]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *arguments])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "DReG(num_samples=128)" in printed
    # A little further from the optimum there is more signal, so that few repeats tell the slopes.
    found = runpy.run_path(str(EXAMPLE))["measure"]([16, 128], points=100, repeats=60, seed=0, off=0.02)
    generative, inference = found.statistics["IWAE(num_samples=16)"]
    assert slope([16, 128], ratios(found, "IWAE", generative, [16, 128])) == pytest.approx(0.5, abs=0.15)
    assert slope([16, 128], ratios(found, "DReG", inference, [16, 128])) > 0.1
    assert slope([16, 128], ratios(found, "IWAE", inference, [16, 128])) < -0.1


@pytest.mark.parametrize("layers", [1, 2])
def test_the_example_shows_the_ordering_of_variances(layers):
    """DReG below the path derivative below IWAE, near the optimum, and the further the larger K is (Tucker 2019).

    The path derivative pays by a bias: its mean stays, where those of the unbiased two fall with the gap of the bound.
    """
    samples = [1, 4, 16, 64]
    found = runpy.run_path(str(EXAMPLE))["measure"](samples, points=50, repeats=25, seed=0, layers=layers).statistics
    kinds = ["DReG", "PathDerivative", "IWAE"]
    names = {(kind, count): f"{kind}(num_samples={count})" for kind in kinds for count in samples}
    names["PathDerivative", 1] = "PathDerivative"  # its default
    generative, *inference = found["DReG(num_samples=1)"]
    assert len(inference) == layers
    for group in inference:
        of = {key: found[name][group] for key, name in names.items()}
        for moment in ("mean", "variance"):
            torch.testing.assert_close(getattr(of["DReG", 1], moment), getattr(of["PathDerivative", 1], moment))
        variances = np.array([[of[kind, count].mean_variance for count in samples] for kind in kinds])
        between = variances[1:] / variances[:-1]
        assert (between[1] > 2.0).all()
        assert (between[0, 1:] > 2.0).all()
        assert (np.diff(between[0]) > 0.0).all()
        # As 1 / K, and as 1 / K^3 in the limit.
        slopes = [slope(samples[1:], row[1:]) for row in variances]
        assert slopes[0] < -1.6
        assert slopes[1:] == pytest.approx([-1.0, -1.0], abs=0.3)
        lengths = {kind: of[kind, 64].mean_norm / of[kind, 1].mean_norm for kind in ("DReG", "PathDerivative")}
        assert lengths["DReG"] < 0.1
        assert lengths["PathDerivative"] > 0.5
    for kind in kinds[:2]:
        assert found[names[kind, 16]][generative].mean_variance == pytest.approx(
            found[names["IWAE", 16]][generative].mean_variance, rel=1e-4
        )


def test_documentation_page():
    page = Path(__file__).parents[2] / "docs" / "bounds" / "diagnosis.md"
    results = doctest.testfile(str(page), module_relative=False)
    assert results.attempted > 0
    assert results.failed == 0
