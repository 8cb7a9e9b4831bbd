"""Objectives and models of a user, registered in one line: trained, stored, resumed and evaluated."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fastvi.data import Dataset, load_dataset
from fastvi.evaluate import evaluate, evaluate_loss, stream_bounds
from fastvi.models import VAEOptions
from fastvi.objectives import ELBO, IWAE, OBJECTIVES, STL, DReG, option
from fastvi.training.config import RunError, RunFolder, TrainingConfig
from fastvi.training.trainer import train
from support.command import assert_one_clear_line, call
from support.own_classes import Autoencoder, Classifier, CrossEntropy, Denoising, Renyi, register


@pytest.fixture(autouse=True)
def registered(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTVI_DATA", raising=False)
    register(monkeypatch)


AUTOENCODER = ("--objective", "denoising", "--model", "autoencoder", "--code-dim", "8")
SHORT = ("--epochs", "2", "--batch-size", "500", "--binarization", "none")


def metrics(folder):
    with (Path(folder) / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# A loss


def test_a_loss_is_trained_and_named_as_such():
    options = ("--noise", "0.2", "--kind", "absolute", "--halved", "--steps", "3,4", "--clip", "7")
    result = call("train", *AUTOENCODER, *SHORT, *options, "--epochs", 20, "--learning-rate", 0.01)
    assert result.exit_code == 0, result.output
    run = RunFolder(Path("runs/digits-denoising-001"))
    assert run.read_config().objective == Denoising(0.2, (3, 4), "absolute", True, 7)
    assert run.read_config().model == Autoencoder(8)
    stored = json.loads(run.config_file.read_text())
    assert stored["objective"] == {
        "name": "denoising", "noise": 0.2, "steps": [3, 4], "kind": "absolute", "halved": True, "clip": 7
    }  # fmt: skip
    assert stored["model"] == {"name": "autoencoder", "code_dim": 8}
    rows = metrics(run.path)
    assert list(rows[0]) == ["step", "epoch", "loss", "seconds"]
    losses = [float(row["loss"]) for row in rows]
    assert losses[-1] < 0.8 * losses[0]  # it goes down
    assert f"epoch 20/20, step 60, loss {losses[-1]:.3f}\n" in result.output
    for word in ("bound -", "test ELBO", "L_5000", "Traceback"):
        assert word not in result.output
    assert "test loss" in result.output
    line = "denoising is a loss and no bound on log p(x): there is no ELBO, no L_K and no effective sample size to tell"
    assert result.output.splitlines().count(line) == 1
    names = {path.name for path in run.path.glob("*.png")}
    assert names == {"reconstructions.png"}  # nothing says what a code of the prior would be


def test_a_run_of_a_loss_is_evaluated_by_its_loss():
    assert call("train", *AUTOENCODER, *SHORT, "--out", "run", "--noise", "0").exit_code == 0
    trained = json.loads(Path("run/evaluation.json").read_text())
    assert set(trained) == {"images", "test_images", "loss", "seconds"}
    images = load_dataset("digits").test
    model = RunFolder(Path("run")).load_model()
    with torch.no_grad():
        expected = (model(images) - images).square().sum(-1).mean().item()
    assert trained["loss"] == pytest.approx(expected, rel=1e-5)  # float32 sums in another order
    result = call("evaluate", "run", "--limit", 20)
    assert result.exit_code == 0, result.output
    assert "20 of 297 test images" in result.output
    few = json.loads(Path("run/evaluation-images20.json").read_text())
    assert (few["images"], few["test_images"]) == (20, 297)
    assert json.loads(Path("run/evaluation.json").read_text()) == trained
    assert call("train", *AUTOENCODER, *SHORT, "--out", "run", "--overwrite", "--no-evaluate").exit_code == 0
    assert not list(Path("run").glob("evaluation*"))


def test_a_loss_is_resumed_to_the_same_parameters():
    assert call("train", *AUTOENCODER, *SHORT, "--no-evaluate", "--out", "run").exit_code == 0
    assert call("train", "--resume", "run", "--epochs", 3, "--no-evaluate", *AUTOENCODER).exit_code == 0
    assert call("train", *AUTOENCODER, *SHORT, "--no-evaluate", "--out", "whole", "--epochs", 3).exit_code == 0
    first, second = (RunFolder(Path(name)).read_checkpoint()["state_dict"] for name in ("run", "whole"))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_loss_that_is_no_number_ends_the_run(monkeypatch):
    monkeypatch.setattr(Denoising, "__call__", lambda self, model, x, **_: model(x).sum(-1) * math.nan)
    assert_one_clear_line(call("train", *AUTOENCODER, *SHORT, "--out", "run"), "the loss became nan in epoch 1: try a")


def test_the_bar_names_the_loss():
    config = dataclasses.replace(run_config(Denoising(), Autoencoder()), epochs=1)
    screen = io.StringIO()
    folder = RunFolder(Path("run"))
    folder.write_config(config)
    console = Console(file=screen, force_terminal=True, width=80)
    train(config, load_dataset("digits"), folder, console=console, progress=True)
    assert "loss " in screen.getvalue()
    assert "bound" not in screen.getvalue()


def test_what_has_no_bound_says_so_in_python():
    model = Autoencoder().build(run_config(Denoising(), Autoencoder()).shape)
    x = torch.rand(150, 64)
    for call_it in (lambda: evaluate(model, x, num_samples=3), lambda: stream_bounds(model, x, 3)):
        with pytest.raises(TypeError, match="bound on log p") as raised:
            call_it()
        assert "Sequential" in str(raised.value)
        assert "\n" not in str(raised.value)
    result = evaluate_loss(Denoising(noise=0.0), model, x, test_images=400)
    assert (result.images, result.test_images) == (150, 400)
    expected = (model(x) - x).square().sum(-1).mean().item()
    assert result.loss == pytest.approx(expected, rel=1e-5)  # float32 in batches of another size
    with pytest.raises(ValueError, match="evaluate_loss: images holds no image"):
        evaluate_loss(Denoising(), model, x[:0])


def test_a_bound_on_a_model_without_one_is_one_line():
    result = call("train", "--model", "autoencoder", *SHORT, "--out", "run")
    assert_one_clear_line(result, "the bound IWAE: needs a model with the methods encode and log_likelihood; Seque")
    assert not Path("run").exists()


# Labels


def run_config(objective, model, **changes):
    settings = {"data": "digits", "image_shape": (8, 8), "binarization": "none", "epochs": 2, "batch_size": 100}
    settings |= {"learning_rate": 0.01, "seed": 0} | changes
    return TrainingConfig(objective=objective, model=model, **settings)


def labelled_digits(count=300):
    whole = load_dataset("digits")
    labels = whole.train_labels[:count], whole.test_labels[:50]
    return Dataset("digits", whole.train[:count], whole.test[:50], (8, 8), "bernoulli", *labels)


def test_labels_stay_with_their_images_in_every_batch(tmp_path):
    """A linear classifier that learns the digits: labels of other images would leave it at chance, log 10 nats."""
    data = labelled_digits()
    folder = RunFolder(tmp_path / "run")
    config = run_config(CrossEntropy(), Classifier(), num_classes=10, epochs=40)
    folder.write_config(config)
    model = train(config, data, folder, console=Console(file=io.StringIO()), progress=False)
    accuracy = (model(data.test).argmax(-1) == data.test_labels).float().mean().item()
    assert accuracy > 0.8
    assert float(metrics(folder.path)[-1]["loss"]) < 0.5 * math.log(10)
    result = evaluate_loss(CrossEntropy(), model, (data.test, data.test_labels))
    assert result.loss < 0.5 * math.log(10)


def test_labels_on_the_command_line():
    options = ("--objective", "cross-entropy", "--model", "classifier", *SHORT, "--epochs", 30, "--learning-rate", 0.01)
    result = call("train", *options, "--out", "run", "--evaluation-limit", 100)
    assert result.exit_code == 0, result.output
    config = RunFolder(Path("run")).read_config()
    assert config.num_classes == 10
    assert "test loss" in result.output
    assert "nats" in result.output
    few = json.loads(Path("run/evaluation.json").read_text())
    assert few["images"] == 100
    assert few["loss"] < 0.5 * math.log(10)
    assert call("evaluate", "run").exit_code == 0
    assert call("train", "--resume", "run", "--epochs", 31, "--no-evaluate").exit_code == 0


def test_data_without_labels_are_one_line(monkeypatch, tmp_path):
    whole = load_dataset("digits")
    bare = Dataset("digits", whole.train, whole.test, (8, 8), "bernoulli")
    options = ("--objective", "cross-entropy", "--model", "classifier", *SHORT, "--out", "run", "--no-evaluate")
    with monkeypatch.context() as patch:
        patch.setattr("fastvi.data.named._load_digits", lambda: bare)
        assert_one_clear_line(call("train", *options), "cross-entropy needs labels, and the data digits have none")
    assert not Path("run").exists()
    assert call("train", *options).exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr("fastvi.data.named._load_digits", lambda: bare)
        for arguments in (("evaluate", "run"), ("train", "--resume", "run", "--epochs", 3)):
            assert_one_clear_line(
                call(*arguments), "the data are not those of the run run: its images have other labels"
            )
    shuffled = dataclasses.replace(whole, train_labels=whole.train_labels.flip(0))
    monkeypatch.setattr("fastvi.data.named._load_digits", lambda: shuffled)
    assert_one_clear_line(call("train", "--resume", "run", "--epochs", 3), "its images have other labels than these")
    folder = RunFolder(tmp_path / "python")
    config = run_config(CrossEntropy(), Classifier(), num_classes=10)
    folder.write_config(config)
    with pytest.raises(RunError, match="cross-entropy needs labels, and the data digits have none"):
        train(config, bare, folder, console=Console(file=io.StringIO()), progress=False)


def test_labels_that_a_run_does_not_use_may_come_and_go(monkeypatch):
    whole = load_dataset("digits")
    bare = Dataset("digits", whole.train, whole.test, (8, 8), "bernoulli")
    with monkeypatch.context() as patch:
        patch.setattr("fastvi.data.named._load_digits", lambda: bare)
        assert call("train", *AUTOENCODER, *SHORT, "--out", "run").exit_code == 0
    assert call("train", "--resume", "run", "--epochs", 3).exit_code == 0


# A bound


@pytest.mark.parametrize("seed", [0, 1])
def test_a_bound_of_a_few_lines_is_what_its_formula_says(seed):
    model = VAEOptions(2, (8,)).build(run_config(ELBO(), VAEOptions()).shape)
    x = torch.rand(7, 64).round()
    limits = ((0.0, IWAE(5)), (1.0 - 1e-4, ELBO(5, analytic_kl=False)))
    for alpha, limit in limits:
        # float32, whose differences are divided by 1 - alpha; the first correction is alpha' times half a variance.
        tolerance = {"rtol": 1e-4, "atol": 0.05 if alpha else 1e-4}
        torch.testing.assert_close(Renyi(5, alpha)(model, x, seed=seed), limit(model, x, seed=seed), **tolerance)


def test_a_bound_trains_and_is_evaluated_as_every_other():
    options = ("--objective", "renyi", "--alpha", "-0.5", "--hidden-dims", "8", "--latent-dim", "2", "--epochs", 2)
    result = call("train", *options, "--evaluation-samples", 50, "--evaluation-limit", 20)
    assert result.exit_code == 0, result.output
    run = RunFolder(Path("runs/digits-renyi-001"))
    assert run.read_config().objective == Renyi(5, -0.5)
    assert "digits, renyi K=5: 20 of 297 test images" in result.output
    assert "test L_50" in result.output
    assert "bound -" in result.output
    assert_one_clear_line(
        call("train", "--resume", run.path, "--alpha", "0.5"), "--alpha 0.5 contradicts the -0.5 of the run"
    )
    assert_one_clear_line(
        call("train", "--resume", run.path, "--beta", "1"), "belongs to the objectives elbo and ciwae, not to renyi"
    )


def test_the_objective_of_a_step_is_what_the_step_takes(tmp_path):
    taken = []

    @dataclass(frozen=True)
    class Stepping(STL):
        scale: float = option("grows with the steps", 1.0)

        def at_step(self, step):
            return dataclasses.replace(self, scale=self.scale * (step + 1))

        def __call__(self, model, x, **options):
            taken.append(self.scale)
            return super().__call__(model, x, **options)

    OBJECTIVES["stepping"] = Stepping
    try:
        config = run_config(Stepping(scale=0.5), VAEOptions(2, (4,)), epochs=1)
        folder = RunFolder(tmp_path / "run")
        folder.write_config(config)
        train(config, labelled_digits(), folder, console=Console(file=io.StringIO()), progress=False)
        assert folder.read_config().objective == Stepping(scale=0.5)
    finally:
        del OBJECTIVES["stepping"]
    assert taken == [0.5, 1.0, 1.5]


def test_the_elbo_of_a_step():
    objective = ELBO(beta=2.0, warm_up_steps=4, free_bits=0.1)
    betas = [objective.at_step(step).beta for step in (0, 1, 2, 4, 5, 1000)]
    assert betas == [0.0, 0.5, 1.0, 2.0, 2.0, 2.0]
    assert objective.at_step(1).free_bits == 0.1
    assert ELBO().at_step(0) == ELBO()
    assert ELBO(beta=torch.tensor(3.0), warm_up_steps=2).at_step(1).beta == torch.tensor(1.5)
    for other in (IWAE(3), STL(), DReG(2), Renyi()):
        assert other.at_step(7) is other
