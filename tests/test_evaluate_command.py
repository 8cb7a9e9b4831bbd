"""``fastvi evaluate --ais`` and Pareto k-hat, as their user meets them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import fastvi
from fastvi.evaluate import evaluate
from fastvi.training.config import RunFolder
from fastvi.training.figures import evaluation_examples, some_examples
from support.command import assert_one_clear_line, call

pytestmark = pytest.mark.usefixtures("own_directory")

TRAIN = ("train", "--epochs", 1, "--batch-size", 1500, "--no-evaluate", "--no-progress")
SHORT = ("--num-samples", 50, "--limit", 20)
AIS = ("--ais", "--ais-temperatures", 5, "--ais-chains", 3, "--ais-leapfrogs", 1, "--ais-images", 4)


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


def test_two_tables_and_two_files(run: Path) -> None:
    result = call("evaluate", run, *SHORT, *AIS, "--ais-simulated", 2, "--ais-seed", 7)
    assert result.exit_code == 0, result.output
    for text in (
        "annealed importance sampling: 4 of 297 test images",
        "test log p(x)",
        "error by the weights",
        "L_50",
        "acceptance",
        "3 for each image, 1 leapfrog ",
        "2 simulated images",
        "Pareto k-hat",
        "of 20 images",
    ):
        assert text in result.stdout
    file = run / "ais-T5-C3-L1-auto-adaptive-images4-seed7.json"
    assert f"figures: {file}" in result.stdout
    figures = json.loads(file.read_text())
    assert (figures["images"], figures["test_images"], figures["num_chains"], figures["seed"]) == (4, 297, 3, 7)
    assert figures["start"] == "encoder"
    assert figures["mean_log_weight"] <= figures["log_evidence"] < 0.0
    assert figures["simulated_lower"] is not None
    assert (run / "evaluation.json").exists()
    again = call("evaluate", run, *SHORT, *AIS, "--ais-simulated", 2, "--ais-seed", 7)
    assert again.exit_code == 0
    assert json.loads(file.read_text()) | {"seconds": 0.0} == figures | {"seconds": 0.0}


def test_the_runs_own_seed_and_no_file(run: Path) -> None:
    before = set(run.iterdir())
    result = call("evaluate", run, *SHORT, *AIS, "--no-save", "--ais-start", "prior", "--ais-schedule", "linear")
    assert result.exit_code == 0, result.output
    assert "5, linear, from the prior" in result.stdout
    assert set(run.iterdir()) == before


def test_the_same_from_python(run: Path) -> None:
    """One command for L_K of all images and annealing of some of them, and both from Python."""
    short = ("--ais", "--ais-temperatures", 5, "--ais-chains", 3, "--ais-leapfrogs", 10, "--ais-images", 4)
    result = call("evaluate", run, "--num-samples", 30, *short)
    assert result.exit_code == 0, result.output
    fitted = fastvi.load(run)
    figures = fitted.evaluate(num_samples=30, limit=None).as_dict()
    annealed = fitted.anneal(limit=4, num_temperatures=5, num_chains=3, num_steps=10, num_samples=30).as_dict()
    assert (figures["images"], annealed["images"], annealed["test_images"]) == (297, 4, 297)
    (file,) = run.glob("ais-*.json")
    for found, written in ((figures, run / "evaluation.json"), (annealed, file)):
        assert found | {"seconds": 0.0} == json.loads(written.read_text()) | {"seconds": 0.0}


def test_k_hat_is_that_of_the_run(run: Path) -> None:
    from fastvi.data import load_dataset

    assert call("evaluate", run, *SHORT).exit_code == 0
    figures = json.loads((run / "evaluation.json").read_text())
    folder = RunFolder(run)
    config = folder.read_config()
    examples, _, _ = some_examples(evaluation_examples(load_dataset("digits"), config), 20)
    found = evaluate(
        folder.load_model(), examples, num_samples=50, training_num_samples=config.num_samples, seed=config.seed
    )
    assert (figures["pareto_k"], figures["heavy_tails"]) == (found.pareto_k, found.heavy_tails)
    result = call("evaluate", run, "--num-samples", 24, "--limit", 3)
    assert result.exit_code == 0
    assert "k-hat" not in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--ais-chains", 4), "--ais-chains is for --ais, which was not asked for"),
        (("--ais", "--ais-start", "q"), "--ais-start must be one of auto, prior, encoder, got 'q'"),
        (
            ("--ais", "--ais-schedule", "cubic"),
            "must be one of linear, sigmoidal, adaptive, got 'cubic'",
        ),
        (("--ais", "--ais-temperatures", "0"), "expected a whole number from 1"),
    ],
)
def test_options_that_cannot_be(run: Path, options: tuple[Any, ...], message: str) -> None:
    result = call("evaluate", run, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not (run / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            ("categorical-vae", "--objective", "vimco"),
            (),
            "--ais: annealed importance sampling needs a model of continuous latent variables",
        ),
        (("hierarchical",), ("--ais-start", "encoder"), "which start from the prior alone"),
        (("vae", "--likelihood", "gaussian"), ("--ais-simulated", 1), "models with a Bernoulli likelihood"),
    ],
)
def test_a_model_that_cannot_is_told_before_any_work(
    model: tuple[str, ...], options: tuple[Any, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = call(*TRAIN, "--model", *model, "--num-samples", 2, "--out", "other")
    assert result.exit_code == 0, result.output
    monkeypatch.setattr("fastvi.evaluate.evaluate", lambda *_, **__: pytest.fail("the work was done"))
    assert_one_clear_line(call("evaluate", "other", "--ais", *options), message)


def test_several_layers_are_annealed_from_the_prior() -> None:
    options = ("--model", "hierarchical", "--latent-dims", "3,2", "--hidden-dims", 8, "--upper-hidden-dims", 8)
    assert call(*TRAIN, *options, "--out", "layers").exit_code == 0
    result = call("evaluate", "layers", *SHORT, *AIS)
    assert result.exit_code == 0, result.output
    assert "5, adaptive, from the prior" in result.stdout


def test_control_c_leaves_the_first_figures(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastvi.evaluate.evaluate_by_annealing", interrupted)
    result = call("evaluate", run, *SHORT, *AIS)
    assert result.exit_code == 130
    assert "Traceback" not in result.output
    assert result.output.splitlines()[-1] == "annealing interrupted: it leaves no figures; those above are whole"
    assert (run / "evaluation.json").exists()
    assert not list(run.glob("ais*"))


def test_a_file_that_cannot_be_written_is_told_before_any_work(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "ais-T5-C3-L1-auto-adaptive-images4-seed0.json").mkdir()
    monkeypatch.setattr("fastvi.evaluate.evaluate", lambda *_, **__: pytest.fail("the work was done"))
    assert_one_clear_line(call("evaluate", run, *SHORT, *AIS), "the figures cannot be written there")
