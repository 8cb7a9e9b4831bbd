"""A run remembers its data: it never goes on with others without a word, and finds its own again."""

import dataclasses
import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fastvi.data import Dataset, load_dataset
from fastvi.training.config import RunError, RunFolder
from fastvi.training.trainer import train
from support.command import assert_one_clear_line, call
from support.runs import CONFIG, as_made_by_the_first_version

pytestmark = pytest.mark.usefixtures("own_directory")

TRAIN = ("train", "--data", "mnist", "--epochs", 1, "--hidden-dims", "4", "--latent-dim", "2", "--no-evaluate")


def change_a_pixel(stem, folder="data"):
    """Change the last pixel of an idx file by one grey value."""
    (path,) = Path(folder).rglob(f"{stem}-images-idx3-ubyte")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def write_images(folder, shape=(5, 4), **counts):
    """Idx files of images of the given shape, the same each time."""
    folder.mkdir(exist_ok=True)
    for stem, count in (("train", counts["train_count"]), ("t10k", counts["test_count"])):
        pixels = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
        header = b"\x00\x00\x08\x03" + b"".join(size.to_bytes(4, "big") for size in (count, *shape))
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(header + pixels.numpy().tobytes())


@pytest.fixture
def run():
    """A run on fifty training and thirty test images in the folder "data"."""
    write_images(Path("data"), train_count=50, test_count=30)
    assert call(*TRAIN, "--data-dir", "data", "--out", "run").exit_code == 0
    return RunFolder(Path("run"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: write_images(Path("data"), train_count=60, test_count=30), "it has 50 training images, here are 60"),
        (lambda: write_images(Path("data"), train_count=50, test_count=20), "it has 30 test images, here are 20"),
        (
            lambda: write_images(Path("data"), (4, 5), train_count=50, test_count=30),
            "its images are 5 x 4 pixels, these are 4 x 5",
        ),
        (
            lambda: write_images(Path("data"), (8, 8), train_count=50, test_count=30),
            "its images are 5 x 4 pixels, these are 8 x 8",
        ),
        (lambda: change_a_pixel("train"), "its training images have other pixels than these"),
        (lambda: change_a_pixel("t10k"), "its test images have other pixels than these"),
    ],
    ids=["more", "fewer", "transposed", "larger", "training-pixel", "test-pixel"],
)
def test_other_data_are_told_apart(run, change, message):
    change()
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"}
    for arguments in (("train", "--resume", "run", "--epochs", 2), ("evaluate", "run", "--num-samples", 10)):
        for options in ((), ("--data-dir", "data")):
            result = call(*arguments, *options)
            assert_one_clear_line(result, "the data are not those of the run run: ")
            assert message in result.stderr
    after = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before


def test_the_folder_of_the_data_is_remembered(run, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert call("evaluate", "../run", "--num-samples", 10).exit_code == 0
    assert call("train", "--resume", "../run", "--epochs", 2, "--no-evaluate").exit_code == 0
    monkeypatch.chdir(tmp_path)
    assert run.trained_epochs() == 2


def test_data_that_moved_are_named_once(run):
    Path("data").rename("moved")
    place = Path("data").absolute()
    for arguments in (("train", "--resume", "run", "--epochs", 2, "--no-evaluate"), ("evaluate", "run")):
        assert_one_clear_line(
            call(*arguments), f"the data of the run were in {place}, which is not there any more: name their folder"
        )
    result = call("train", "--resume", "run", "--epochs", 2, "--no-evaluate", "--data-dir", "moved")
    assert result.exit_code == 0, result.output
    assert call("evaluate", "run", "--num-samples", 10).exit_code == 0


def test_what_is_named_wins_over_what_is_remembered(run, monkeypatch):
    """--data-dir before FASTVI_DATA before the run's own memory."""
    write_images(Path("others"), train_count=50, test_count=40)
    assert_one_clear_line(call("evaluate", "run", "--data-dir", "others"), "the data are not those of the run")
    monkeypatch.setenv("FASTVI_DATA", "others")
    assert_one_clear_line(call("evaluate", "run"), "the data are not those of the run")
    assert call("evaluate", "run", "--data-dir", "data", "--num-samples", 10).exit_code == 0


def test_data_of_the_environment_are_remembered_too(monkeypatch):
    write_images(Path("data"), train_count=50, test_count=30)
    with monkeypatch.context() as patch:
        patch.setenv("FASTVI_DATA", "data")
        assert call(*TRAIN, "--out", "run").exit_code == 0
    assert call("evaluate", "run", "--num-samples", 10).exit_code == 0


def test_runs_of_the_first_version_say_that_nothing_could_be_compared(run):
    as_made_by_the_first_version(run.path)
    assert_one_clear_line(call("evaluate", "run"), "--data-dir or FASTVI_DATA")
    line = "run keeps no record of its data, as runs of fastvi 0.1.0: only the size of the images could be compared"
    result = call("evaluate", "run", "--data-dir", "data", "--num-samples", 10)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines().count(line) == 1
    write_images(Path("larger"), (8, 8), train_count=50, test_count=30)
    assert_one_clear_line(call("train", "--resume", "run", "--data-dir", "larger"), "these are 8 x 8")
    result = call("train", "--resume", "run", "--epochs", 2, "--no-evaluate", "--data-dir", "data")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines().count(line) == 1
    assert line not in call("evaluate", "run", "--num-samples", 10).output
    change_a_pixel("t10k")
    assert_one_clear_line(call("evaluate", "run"), "its test images have other pixels than these")


def test_training_in_python_compares_the_data_too(tmp_path):
    whole = load_dataset("digits")
    data = Dataset("digits", whole.train[:100], whole.test[:40], whole.image_shape, whole.likelihood)
    other = Dataset("digits", whole.train[1:101], whole.test[:40], whole.image_shape, whole.likelihood)
    folder = RunFolder(tmp_path / "run")
    config = dataclasses.replace(CONFIG, epochs=1)
    folder.write_config(config)

    def go_on(with_data):
        longer = dataclasses.replace(config, epochs=config.epochs + 1)
        return train(longer, with_data, folder, console=Console(file=io.StringIO()), progress=False)

    train(config, data, folder, console=Console(file=io.StringIO()), progress=False)
    with pytest.raises(RunError, match="its training images have other pixels than these"):
        go_on(other)
    go_on(data)
    assert folder.trained_epochs() == 2


def test_paths_of_any_bytes_are_remembered():
    name = b"d\xff t[1]".decode("utf-8", "surrogateescape")
    write_images(Path(name), train_count=50, test_count=30)
    assert call(*TRAIN, "--data-dir", name, "--out", "run").exit_code == 0
    assert json.loads(Path("run/config.json").read_text())["data_record"]["data_dir"].endswith(name)
    assert call("evaluate", "run", "--num-samples", 10).exit_code == 0
