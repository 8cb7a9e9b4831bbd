"""Labels that are words: a run keeps their numbers, and other data count the same classes by them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import fastvi
from fastvi.cli import app
from fastvi.data import Dataset, from_arrays
from fastvi.training.config import RunFolder
from fastvi.training.errors import RunError

CLASSES = np.array(["ant", "bee", "cat"])
IMAGES = (np.random.default_rng(0).random((90, 8)) < 0.5).astype(np.float32)
NUMBERS = np.arange(90) % 3
OTHERS = IMAGES[:12]
OTHER_NUMBERS = np.array([2, 1] * 6)  # no example of the first class: numbered by themselves they would be 1 and 0
SMALL: dict[str, Any] = {"epochs": 1, "latent_dim": 2, "hidden_dims": (4,), "progress": False, "batch_size": 30}


@pytest.fixture(scope="module", params=["m2", "conditional-vae"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    fitted = fastvi.fit(request.param, (IMAGES, CLASSES[NUMBERS]), **SMALL)
    return fitted, fitted.save(tmp_path_factory.mktemp("words") / "run")


def values_of(found: Any) -> tuple[float, dict[str, float]]:
    return found.elbo, found.figures


@pytest.mark.parametrize("route", ["fitted", "loaded", "pretrained"])
def test_words_are_the_classes_that_the_run_counted(trained: tuple[Any, Path], route: str, tmp_path: Path) -> None:
    fitted, run = trained
    model = fitted if route == "fitted" else fastvi.load(run)
    if route == "pretrained":
        pytest.importorskip("safetensors")
        model = fastvi.load(fitted.save_pretrained(tmp_path / "pretrained"))
    by_number = model.evaluate((OTHERS, OTHER_NUMBERS), num_samples=10)
    by_word = model.evaluate((OTHERS, CLASSES[OTHER_NUMBERS]), num_samples=10)
    assert values_of(by_word) == values_of(by_number)
    if "error" in by_word.figures:
        wrong = fitted.model.classify(torch.from_numpy(OTHERS)).numpy() != OTHER_NUMBERS
        assert by_word.figures["error"] == pytest.approx(100.0 * wrong.mean())


def test_words_in_a_dataset_are_counted_alike(trained: tuple[Any, Path]) -> None:
    _, run = trained
    words = from_arrays(IMAGES, OTHERS, labels=CLASSES[1 + NUMBERS % 2], test_labels=CLASSES[OTHER_NUMBERS])
    numbers = from_arrays(IMAGES, OTHERS, labels=1 + NUMBERS % 2, test_labels=OTHER_NUMBERS)
    found, wanted = (fastvi.load(run).evaluate(data, num_samples=10) for data in (words, numbers))
    assert values_of(found) == values_of(wanted)


def test_missing_labels_stay_missing_among_words() -> None:
    fitted = fastvi.fit("m2", (IMAGES, CLASSES[NUMBERS]), **SMALL)
    given = ["cat", "", "cat", "bee"]
    wrong = fitted.model.classify(torch.from_numpy(OTHERS[:4])).numpy() != np.array([2, -1, 2, 1])
    found = fitted.evaluate((OTHERS[:4], given), num_samples=10)
    assert found.figures["error"] == pytest.approx(100.0 * wrong[[0, 2, 3]].mean())


def test_a_word_that_is_no_class_is_refused(trained: tuple[Any, Path]) -> None:
    _, run = trained
    with pytest.raises(RunError, match="labels must be classes of the run, 'ant', 'bee', 'cat', got 'dog', 'eel'"):
        fastvi.load(run).evaluate((OTHERS[:3], ["cat", "eel", "dog"]), num_samples=10)


def test_words_are_refused_where_the_run_has_numbers_alone() -> None:
    fitted = fastvi.fit("conditional-vae", (IMAGES, NUMBERS), **SMALL)
    with pytest.raises(RunError, match=r"labels must be numbers of classes, from 0, .* got 'bee', 'cat'"):
        fitted.evaluate((OTHERS, CLASSES[OTHER_NUMBERS]), num_samples=10)


def test_a_run_goes_on_with_its_words(tmp_path: Path) -> None:
    data = (IMAGES, CLASSES[NUMBERS])
    fastvi.fit("conditional-vae", data, out=tmp_path / "run", **SMALL)
    again = fastvi.fit("conditional-vae", data, out=tmp_path / "run", resume=True, **{**SMALL, "epochs": 2})
    assert again.config.class_names == tuple(CLASSES)
    assert fastvi.load(tmp_path / "run").config.class_names == tuple(CLASSES)


def test_a_run_of_before_goes_on_and_keeps_its_words_from_then_on(tmp_path: Path) -> None:
    data, folder = (IMAGES, CLASSES[NUMBERS]), RunFolder(tmp_path / "run")
    fastvi.fit("conditional-vae", data, out=folder.path, **SMALL)
    folder.write_config(dataclasses.replace(folder.read_config(), class_names=None), folder.read_record())
    again = fastvi.fit("conditional-vae", data, out=folder.path, resume=True, **{**SMALL, "epochs": 2})
    assert again.config.class_names == folder.read_config().class_names == tuple(CLASSES)


def test_data_with_words_and_without_labels_are_taken() -> None:
    fitted = fastvi.fit("m2", (IMAGES, CLASSES[NUMBERS]), **SMALL)
    others = torch.from_numpy(OTHERS)
    data = Dataset("others", others, others, (1, 8), "bernoulli", class_names=("bee", "cat"))
    assert fitted.evaluate(data, num_samples=10).images == len(OTHERS)


def test_commands_know_the_words_of_a_run_that_was_given_in_python(trained: tuple[Any, Path], tmp_path: Path) -> None:
    fitted, run = trained
    other, codes = tmp_path / "other.npz", tmp_path / "codes.npz"
    np.savez(other, x=OTHERS, y=CLASSES[OTHER_NUMBERS], z=OTHERS + 1.0)
    run_command = CliRunner().invoke
    refused = run_command(app, ["encode", str(run), "--data", str(other), "--out", str(codes), "--array", "w"])
    assert refused.exit_code == 2
    assert "expected an array named w, as --array says, found x, y, z" in refused.output
    found = run_command(app, ["encode", str(run), "--data", str(other), "--out", str(codes), "--array", "x"])
    if fitted.config.takes_missing_labels:
        assert found.exit_code == 0, found.output
        assert np.load(codes)["mean"].shape == (12, 2)
    else:
        assert found.exit_code == 2
        assert "needs labels" in found.output


def test_array_is_of_other_data_in_a_file(trained: tuple[Any, Path], tmp_path: Path) -> None:
    _, run = trained
    out = str(tmp_path / "out.npz")
    for words, message in (([], "--array is of other data"), (["--data", "digits"], "digits is a data set by name")):
        found = CliRunner().invoke(app, ["encode", str(run), *words, "--out", out, "--array", "x"])
        assert found.exit_code == 2
        assert message in found.output


def test_commands_name_the_labels_that_are_no_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("own.npz", x=IMAGES, y=CLASSES[NUMBERS])
    np.savez("words.npz", x=OTHERS[:2], y=np.array(["cat", "zebra"]))
    np.savez("numbers.npz", x=OTHERS[:2], y=np.array([0, 1]))
    options = ["--epochs", "1", "--latent-dim", "2", "--hidden-dims", "4", "--no-evaluate", "--no-progress"]
    words = ["train", "--model", "conditional-vae", "--data", "own.npz", "--labels-from", "y", "--out", "run", *options]
    assert CliRunner().invoke(app, words).exit_code == 0
    for other, message in (
        ("words.npz", "--data words.npz: labels must be classes of the run, 'ant', 'bee', 'cat', got 'zebra'"),
        ("numbers.npz", "--data numbers.npz, read beside the run's own data"),
    ):
        found = CliRunner().invoke(app, ["score", "run", "--data", other, "--out", "scores.csv"])
        assert found.exit_code == 2
        assert message in " ".join(found.output.split())
