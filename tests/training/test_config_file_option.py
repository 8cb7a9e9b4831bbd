"""Options from a TOML file, and loggers by name."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

import fastvi
from fastvi.objectives import ELBO
from support.command import assert_one_clear_line, call

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11) and importlib.util.find_spec("tomli") is None,
    reason="Python 3.10 reads TOML by the package tomli, which is not installed",
)

FILE = """
objective = "elbo"
epochs = 2
hidden-dims = [8]
latent_dim = 2
batch-size = 500
analytic-kl = false
evaluate = false
progress = false
learning-rate = 2e-3
schedule = "cosine"
validation-split = 0.2
"""


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_options_come_from_the_file_and_those_given_win() -> None:
    Path("run.toml").write_text(FILE)
    result = call("train", "--config", "run.toml", "--epochs", 1, "--out", "run")
    assert result.exit_code == 0, result.output
    config = fastvi.load("run").config
    assert config.objective == ELBO(1, analytic_kl=False)
    assert (config.epochs, config.batch_size, config.learning_rate) == (1, 500, 2e-3)
    assert (config.model.latent_dim, config.model.hidden_dims) == (2, (8,))
    assert (config.schedule, config.validation_split) == ("cosine", 0.2)
    assert not Path("run/evaluation.json").exists()
    result = call("train", "--config=run.toml", "--resume", "run", "--epochs", 1)
    assert result.exit_code == 0, result.output
    assert_one_clear_line(call("train", "--config", "run.toml", "--resume", "run", "--seed", 3), "--seed 3 contradicts")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch = 1", "run.toml: 'epoch' is not an option, did you mean 'epochs'?"),
        ("xyzzy = 1", "run.toml: 'xyzzy' is not an option"),
        ('config = "x"', "run.toml: 'config' is not an option"),
        ("evaluate = 1", "run.toml: evaluate must be true or false, got 1"),
        ("epochs = true", "run.toml: epochs must be a number, a text or a list of whole numbers, got True"),
        ("[model]\nlatent-dim = 2", "run.toml: 'model' must"),
        ("epochs = ", "--config: run.toml is not a TOML file"),
    ],
)
def test_mistakes_in_the_file_are_named(text, words) -> None:
    Path("run.toml").write_text(text)
    result = call("train", "--config", "run.toml", "--out", "run")
    if "'model'" in words:
        words = "run.toml: model must be a number, a text or a list of whole numbers, got {'latent-dim': 2}"
    assert_one_clear_line(result, words)
    assert not Path("run").exists()


def test_a_file_that_is_not_there_is_named() -> None:
    assert_one_clear_line(call("train", "--config", "none.toml"), "--config: none.toml cannot be read")
    assert_one_clear_line(call("train", "--config"), "--config needs the path of a TOML file")


def test_a_value_from_the_file_is_checked_as_one_that_was_given() -> None:
    Path("run.toml").write_text("epochs = -1")
    result = call("train", "--config", "run.toml")
    assert result.exit_code != 0
    assert "--epochs" in result.output


def test_loggers_are_named() -> None:
    assert_one_clear_line(
        call("train", "--logger", "csv,paper"),
        "--logger must be of csv, tensorboard, wandb, mlflow, separated by commas, got 'csv,paper'",
    )
    options = ("--epochs", 1, "--batch-size", 1500, "--hidden-dims", 8, "--no-evaluate", "--out", "run")
    if importlib.util.find_spec("wandb") is None:
        result = call("train", *options, "--logger", "wandb")
        assert_one_clear_line(result, "--logger wandb needs the extra 'wandb': pip install \"fastvi[wandb]\"")
    result = call("train", *options, "--logger", "csv")
    assert result.exit_code == 0, result.output
    assert not Path("run/tensorboard").exists()
    assert Path("run/metrics.csv").exists()
