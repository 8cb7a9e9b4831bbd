"""``fastvi sample``, ``encode``, ``reconstruct``, ``score`` and ``export``, and the functions behind them."""

from __future__ import annotations

import csv
import io
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastvi import normal_log_prob
from fastvi.data import load_dataset, test_images
from fastvi.evaluate import encode, export, reconstruct, sample, score
from fastvi.models import LIKELIHOODS, MODELS, VAE, DataShape
from fastvi.models.generation import draw_values
from fastvi.training.config import RunFolder
from support.command import assert_one_clear_line, call

pytestmark = pytest.mark.usefixtures("own_directory")

TRAIN = ("train", "--epochs", 1, "--batch-size", 1500, "--no-evaluate", "--no-progress")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    result = call(*TRAIN, "--hidden-dims", 8, "--latent-dim", 2, "--out", run)
    assert result.exit_code == 0, result.output
    return run


@pytest.fixture
def run(trained: Path) -> Path:
    shutil.copytree(trained, "run")
    return Path("run")


def succeeds(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def small(name: str, **options: Any) -> Any:
    sizes: dict[str, Any] = {"latent_dim": 3, "hidden_dims": (8,)}
    if name == "hierarchical":
        sizes = {"latent_dims": (4, 2), "hidden_dims": (8,), "upper_hidden_dims": (6,)}
    elif name == "categorical-vae":
        sizes = {"num_variables": 4, "num_categories": 3, "hidden_dims": (8,)}
    elif name == "sigmoid-belief-network":
        sizes = {"layer_dims": (6, 4)}
    elif name == "convolutional-vae":
        sizes |= {"channels": (2, 4)}
    torch.manual_seed(3)
    return MODELS.make(name, **sizes, **options).build(DataShape((8, 8), 10)).eval()


def examples(name: str, count: int = 5) -> Any:
    x = (torch.arange(count * 64).reshape(count, 64) % 3 == 0).float()
    return (x, torch.arange(count)) if MODELS[name].uses_labels else x


PARTS = {
    "bernoulli": (0.4,),
    "gaussian": (0.4, -1.0),
    "laplace": (0.4, -1.0),
    "real-gaussian": (2.5, 0.5),
    "real-laplace": (2.5, 0.5),
    "continuous-bernoulli": (3.0,),
    "poisson": (1.2,),
    "negative-binomial": (0.3, 1.0),
    "zero-inflated-negative-binomial": (0.3, 1.0, -0.5),
}
VARIANCES = {
    "bernoulli": lambda p: p[0].sigmoid() * (-p[0]).sigmoid(),
    "gaussian": lambda p: p[1].exp(),
    "laplace": lambda p: 2.0 * (2.0 * p[1]).exp(),
    "real-gaussian": lambda p: p[1].exp(),
    "real-laplace": lambda p: 2.0 * (2.0 * p[1]).exp(),
    "continuous-bernoulli": lambda p: 1.0 / p[0] ** 2 + 1.0 / (2.0 - 2.0 * p[0].cosh()),
    "poisson": lambda p: p[0].exp(),
    "negative-binomial": lambda p: p[1].exp() * p[0].exp() * (1.0 + p[0].exp()),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_draws_have_the_mean_and_the_variance_of_the_likelihood(name: str) -> None:
    count = 40_000
    parts = tuple(torch.full((count,), value, dtype=torch.float64) for value in PARTS[name])
    drawn = draw_values(name, parts, seed=11)
    error = drawn.std() / math.sqrt(count)
    assert abs(drawn.mean() - LIKELIHOODS[name].mean(parts)[0]) < 5.0 * error
    if name in VARIANCES:
        squares = (drawn - drawn.mean()).square()
        expected = VARIANCES[name](tuple(part[0] for part in parts))
        assert abs(squares.mean() - expected) < 5.0 * squares.std() / math.sqrt(count)


def test_certain_continuous_bernoulli_values_are_finite() -> None:
    parts = (torch.tensor([-1e4, -1e-9, 0.0, 1e-9, 1e4]),)
    drawn = draw_values("continuous-bernoulli", parts, seed=0)
    assert bool(((drawn >= 0.0) & (drawn <= 1.0)).all())
    assert drawn[0] < 1e-2
    assert drawn[-1] > 1.0 - 1e-2


AUTOENCODERS = [name for name, options in MODELS.items() if options.default_objective == "reconstruction"]


# M1+M2 needs a run for its M1: tests/training/test_partly_labelled.py.
@pytest.mark.parametrize("name", [name for name in MODELS if name not in (*AUTOENCODERS, "m1-m2")])
def test_every_model_gives_what_is_defined_of_it(name: str) -> None:
    model, x = small(name), examples(name)
    drawn, means = sample(model, 7, seed=2), sample(model, 7, mean=True, seed=2)
    assert drawn.x.shape == means.x.shape == (7, 64)
    assert set(drawn.x.unique().tolist()) <= {0.0, 1.0}
    assert float(means.x.min()) > 0.0
    assert float(means.x.max()) < 1.0
    assert (drawn.labels is not None) == MODELS[name].uses_labels
    torch.testing.assert_close(sample(model, 7, seed=2).x, drawn.x, rtol=0, atol=0)
    codes = encode(model, x, num_samples=4, seed=1)
    assert all(layer.shape[:2] == (4, 5) for layer in codes.samples)
    torch.testing.assert_close(reconstruct(model, x), model.reconstruct(x), rtol=1e-5, atol=1e-6)
    scores = score(model, x, num_samples=30)
    assert bool((scores.elbo <= scores.log_prob).all())
    if codes.mean is None:
        with pytest.raises(ValueError, match=r"has no mean in closed form: ask for samples of it"):
            encode(model, x)


def test_codes_are_those_of_the_encoder() -> None:
    model, x = small("general-vae", posterior="full"), examples("general-vae", 300)
    codes, q = encode(model, x), model.encode(x)
    torch.testing.assert_close(codes.mean, q.mean)
    torch.testing.assert_close(codes.logvar, q.covariance_matrix.diagonal(dim1=-2, dim2=-1).log())


@pytest.mark.parametrize("labels", [None, [0, 1, 2, 3, 4], [0, -1, 2, -1, 4]])
def test_codes_of_a_model_with_missing_labels_are_of_one_class(labels: list[int] | None) -> None:
    """Of the label, and of the likeliest class by q(y|x) where there is none."""
    model, (x, _) = small("m2"), examples("m2")
    given = x if labels is None else (x, torch.tensor(labels))
    classes = torch.tensor([-1] * 5 if labels is None else labels)
    classes = torch.where(classes < 0, model.classify(x), classes)
    codes = encode(model, given, num_samples=20_000, seed=1)
    means, logvars = model.encode_classes(x)
    mean, logvar = means[classes, torch.arange(5)], logvars[classes, torch.arange(5)]
    # Layers of all classes and of one sum in other orders.
    torch.testing.assert_close(codes.mean, mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(codes.logvar, logvar, rtol=1e-5, atol=1e-6)
    (drawn,) = codes.samples
    assert drawn.shape == (20_000, 5, 3)
    assert bool(((drawn.mean(0) - mean).abs() < 5.0 * torch.exp(0.5 * logvar) / 20_000**0.5).all())


def test_the_encoder_of_a_model_with_missing_labels_is_no_program() -> None:
    exported = export(small("m2"), examples("m2"))
    assert set(exported.programs) == {"decoder"}
    assert "takes the likeliest class by q(y|x) where a label is missing" in exported.missing["encoder"]


def test_a_flow_has_samples_alone() -> None:
    model, x = small("general-vae", posterior="flow"), examples("general-vae")
    assert set(encode(model, x, num_samples=2).arrays()) == {"samples"}
    assert set(export(model, x).programs) == {"decoder"}


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_every_autoencoder_gives_what_is_defined_of_it(name: str) -> None:
    options = {"num_active": 2} if name == "k-sparse-autoencoder" else {}
    model, x = small(name, **options), examples(name)
    torch.testing.assert_close(encode(model, x).code, model.code(x))
    torch.testing.assert_close(reconstruct(model, x), model.reconstruct(x))
    for call_it in (lambda: sample(model, 3), lambda: score(model, x)):
        with pytest.raises(TypeError, match=rf"^(sample|score): {type(model).__name__} has no (distribution|bound)"):
            call_it()


def test_commands_of_an_autoencoder() -> None:
    succeeds(*TRAIN, "--model", "autoencoder", "--hidden-dims", 8, "--latent-dim", 2, "--out", "run")
    succeeds("encode", "run", "--out", "codes.npz", "--limit", 6)
    model, data = RunFolder(Path("run")).load_model(), load_dataset("digits")
    with np.load("codes.npz") as file:
        found = file["code"]
    assert found.shape == (6, 2)
    assert all((np.abs(model.code(data.test).detach().numpy() - row).max(1) < 1e-6).any() for row in found)
    succeeds("reconstruct", "run", "--out", "images.npz", "--limit", 6)
    assert_one_clear_line(call("sample", "run", "--out", "drawn.npz"), "Autoencoder has no distribution of its codes")
    assert_one_clear_line(call("score", "run", "--out", "scores.csv"), "Autoencoder has no bound on log p(x)")


def test_a_code_without_a_distribution() -> None:
    model: Any = SimpleNamespace(code=lambda x: x[:, :2])
    assert set(encode(model, examples("vae")).arrays()) == {"code"}
    for call_it in (lambda: sample(model, 3), lambda: score(model, examples("vae"))):
        with pytest.raises(TypeError, match=r"(sample|score): SimpleNamespace has no (distribution|bound)"):
            call_it()


class _Gaussian:
    """z ~ N(0, 1), x ~ N(z, 1), with the prior as posterior: log p(x) is that of N(0, 2)."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(x), torch.zeros_like(x)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return normal_log_prob(x, z, torch.zeros_like(x))


def test_scores_have_the_error_that_they_say() -> None:
    x = torch.full((2000, 1), 1.0, dtype=torch.float64)
    scores = score(_Gaussian(), x, num_samples=400)
    exact = -0.5 * math.log(4.0 * math.pi) - 0.25
    spread = float(scores.log_prob.std())
    # The relative error of a standard deviation from 2,000 values is 1.6 %.
    assert float(scores.standard_error.mean()) == pytest.approx(spread, rel=0.08)
    # Its bias is half its variance, to first order.
    assert float(scores.log_prob.mean()) == pytest.approx(exact - 0.5 * spread**2, abs=5.0 * spread / math.sqrt(2000))
    assert bool(score(_Gaussian(), x[:3], num_samples=1).standard_error.isnan().all())


@pytest.mark.parametrize("name", ["general-vae", "conditional-vae", "hamiltonian"])
def test_exported_programs_give_the_numbers_of_the_model(name: str) -> None:
    model, x = small(name), examples(name, 7)
    exported = export(model, examples(name, 1))
    for file, content in exported.content().items():
        program = torch.export.load(io.BytesIO(content)).module()
        if file == "encoder.pt2":
            found = program(*(x if isinstance(x, tuple) else (x,)))
            torch.testing.assert_close(found, model.encode(x), rtol=1e-5, atol=1e-6)
        else:
            z = torch.linspace(-2.0, 2.0, 21).reshape(7, 3)
            labels = x[1:] if isinstance(x, tuple) else ()
            torch.testing.assert_close(program(z, *labels), model.decode(z, *labels), rtol=1e-5, atol=1e-6)
    assert set(exported.programs) == ({"decoder"} if name == "hamiltonian" else {"encoder", "decoder"})


def test_exported_onnx_gives_the_numbers_of_the_model() -> None:
    pytest.importorskip("onnxscript", reason='ONNX needs the extra: pip install "fastvi[onnx]"')
    onnx = pytest.importorskip("onnx", reason='ONNX needs the extra: pip install "fastvi[onnx]"')
    from onnx.reference import ReferenceEvaluator

    model, x = small("vae"), examples("vae", 7)
    content = export(model, x).content(onnx=True)
    encoder = ReferenceEvaluator(onnx.load_from_string(content["encoder.onnx"]))
    assert list(encoder.output_names) == ["mean", "logvar"]
    found = [torch.from_numpy(part) for part in encoder.run(None, {"x": x.numpy()})]
    torch.testing.assert_close(tuple(found), model.encode(x), rtol=1e-5, atol=1e-5)
    (decoded,) = ReferenceEvaluator(onnx.load_from_string(content["decoder.onnx"])).run(None, {"z": found[0].numpy()})
    torch.testing.assert_close(torch.from_numpy(decoded), model.decode(found[0]), rtol=1e-5, atol=1e-5)


def test_commands_write_what_they_say(run: Path) -> None:
    assert "written: x.npz" in succeeds("sample", run, "-n", 6, "--out", "x.npz", "--seed", 4)
    with np.load("x.npz") as found:
        assert found["x"].shape == (6, 8, 8)
    digits, model = load_dataset("digits"), RunFolder(run).load_model()
    x = test_images(digits, "dynamic")
    succeeds("encode", run, "--out", "codes.npz", "--num-samples", 2)
    with np.load("codes.npz") as found, torch.no_grad():
        np.testing.assert_allclose(found["mean"], model.encode(x)[0].numpy(), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(found["labels"], digits.test_labels)
        assert found["samples"].shape == (2, 297, 2)
    succeeds("reconstruct", run, "--out", "r.npz", "--limit", 3, "--split", "train")
    with np.load("r.npz") as found:
        assert found["x"].shape == found["reconstruction"].shape == (3, 8, 8)
        assert found["index"].tolist() == [0, 500, 1000]
    assert "fastvi" not in succeeds("encode", run, "--out", "made.npz", "--data", "x.npz").splitlines()[0]
    with np.load("made.npz") as found:
        assert found["mean"].shape == (6, 2)


def test_score_lists_the_lowest_and_writes_all(run: Path) -> None:
    text = succeeds("score", run, "--out", "s.csv", "--num-samples", 30, "--limit", 20)
    with Path("s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    lowest = min(rows, key=lambda row: float(row["log_prob"]))
    assert f"{float(lowest['log_prob']):.2f}" in text
    assert f"lowest {float(lowest['log_prob']):.2f}" in text
    succeeds("score", run, "--out", "s.npz", "--num-samples", 30, "--limit", 20)
    with np.load("s.npz") as found:
        np.testing.assert_allclose(found["log_prob"], [float(row["log_prob"]) for row in rows], rtol=1e-6)
        assert found["num_samples"] == 30


def test_exported_programs_run_without_fastvi(run: Path) -> None:
    assert "written: programs/encoder.pt2" in succeeds("export", run, "--out", "programs", "--no-onnx")
    assert_one_clear_line(call("export", run, "--out", "programs"), "programs/encoder.pt2 is there already")
    code = (
        "import sys, torch\n"
        "mean, logvar = torch.export.load('programs/encoder.pt2').module()(torch.zeros(4, 64))\n"
        "print(tuple(mean.shape), 'fastvi' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(4, 2) False"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sample", "run", "--out", "x.txt"), "--out must end in .npz, got x.txt"),
        (("sample", "run", "--out", "there.npz"), "there.npz is there already: name another --out, or add --overwrite"),
        (("sample", "run", "--out", "nowhere/x.npz"), "No such file or directory: the result cannot be written there"),
        (("sample", "nowhere", "--out", "x.npz"), "nowhere is not a run folder"),
        (("encode", "run", "--out", "x.npz", "--split", "both"), "--split must be one of test, train, got 'both'"),
        (("encode", "run", "--out", "x.npz", "--data", "mnit"), "--data must be one of digits,"),
        (("encode", "run", "--out", "x.npz", "--data", "wide.npz"), "expected rows of 64 values"),
        (("score", "run", "--out", "x.json"), "--out must end in .csv or .npz, got x.json"),
    ],
)
def test_mistakes_get_one_clear_line_and_write_nothing(run: Path, arguments: tuple[str, ...], message: str) -> None:
    Path("there.npz").write_bytes(b"mine")
    np.savez("wide.npz", x=np.zeros((30, 65), np.float32))
    before = sorted(path.name for path in Path().iterdir())
    assert_one_clear_line(call(*arguments), message)
    assert sorted(path.name for path in Path().iterdir()) == before
    assert Path("there.npz").read_bytes() == b"mine"


def test_missing_onnx_is_named_with_its_extra(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "onnx" else real(name, *rest))
    line = '--onnx needs onnx, which is not installed: pip install "fastvi[onnx]"'
    assert_one_clear_line(call("export", run, "--out", "programs", "--onnx"), line)
    assert not Path("programs").exists()


def test_a_bare_vae_is_sampled_with_its_own_prior() -> None:
    model = VAE(16, 2, (8,))
    model.prior_mean, model.prior_logvar = torch.full((2,), 50.0), torch.full((2,), -20.0)
    expected = model.decode(torch.full((1, 2), 50.0)).expand(4, 16)
    torch.testing.assert_close(sample(model, 4, mean=True).x, expected, rtol=1e-3, atol=1e-3)


def test_commands_of_an_autoencoder_of_sequences() -> None:
    """A code for each frame, whether it has neighbours or not."""
    options = ("--model", "slow-autoencoder", "--data", "moving-spot", "--hidden-dims", 8, "--latent-dim", 2)
    succeeds(*TRAIN, *options, "--out", "run")
    model, data = RunFolder(Path("run")).load_model(), load_dataset("moving-spot")
    for split, frames in (("test", data.test), ("train", data.train)):
        succeeds("encode", "run", "--out", f"{split}.npz", "--split", split)
        with np.load(f"{split}.npz") as file:
            torch.testing.assert_close(
                torch.from_numpy(file["code"]), model.code(frames).detach(), rtol=1e-4, atol=1e-5
            )
            assert file["index"].tolist() == list(range(len(frames)))
    succeeds("reconstruct", "run", "--out", "images.npz", "--limit", 6)
    assert_one_clear_line(call("score", "run", "--out", "scores.csv"), "SlowAutoencoder has no bound on log p(x)")
