"""Runs on data of a user's own: from the command, remembered, found again, and refused where they are others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from fastvi.commands.shared import run_source
from fastvi.data import load_dataset
from fastvi.training.config import RunFolder
from fastvi.training.data_record import DataRecord
from support.command import assert_one_clear_line, call
from support.own_data import BYTES, table_rows, write_csv, write_images
from support.runs import CONFIG, assert_same_end

pytestmark = pytest.mark.usefixtures("own_directory")

SHORT = ("--hidden-dims", "8", "--latent-dim", "2", "--num-samples", "2", "--batch-size", "10", "--no-progress")


def trained(*arguments):
    result = call("train", *arguments, *SHORT, "--no-evaluate")
    assert result.exit_code == 0, result.output
    return result


def evaluated(*arguments):
    result = call("evaluate", *arguments, "--num-samples", 10)
    assert result.exit_code == 0, result.output
    return result


def test_a_folder_of_images_from_training_to_evaluation():
    write_images(Path("faces") / "ann", 20, (9, 8, 3))
    write_images(Path("faces") / "bob", 20, (9, 8, 3), seed=1)
    result = trained("--data", "faces", "--labels-from", "folders", "--out", "run", "--epochs", 1)
    line = "faces: 36 images of 3 x 9 x 8 to train, 4 to test, in 2 classes; likelihood gaussian"
    assert line in result.output.splitlines()
    config = RunFolder(Path("run")).read_config()
    assert (config.data, config.image_shape, config.model.likelihood) == ("faces", (3, 9, 8), "gaussian")
    for name in ("reconstructions.png", "samples.png", "manifold.png"):
        with Image.open(Path("run") / name) as picture:
            assert picture.mode == "RGB"
    evaluated("run")


@pytest.mark.parametrize("model", [("vae",), ("convolutional-vae", "--channels", "4")])
def test_colour_images_are_decoded_in_colour(model):
    """After some training on one picture, red above and green below, the mean is of these colours."""
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:4, :, 0] = picture[4:, :, 1] = 255
    np.save("a.npy", np.stack([picture] * 20))
    options = ("--model", *model, "--likelihood", "laplace", "--learning-rate", "0.01", "--epochs", 20)
    trained("--data", "a.npy", "--out", "run", *options)
    with Image.open("run/samples.png") as samples:
        tile = np.asarray(samples)[8:72, 8:72].astype(int)  # 8 x 8, eight times enlarged, behind the gap
    assert (tile[:16].mean((0, 1)) - tile[-16:].mean((0, 1)))[[0, 1]] @ [1, -1] > 200


def test_a_table_has_no_pictures():
    write_csv(Path("table.csv"), table_rows(40, 3), ["a", "b", "c"])
    trained("--data", "table.csv", "--out", "run", "--epochs", 1)
    assert not list(Path("run").glob("*.png"))
    assert RunFolder(Path("run")).read_config().model.likelihood == "real-gaussian"


def test_what_a_user_should_know_is_said_in_a_line():
    write_csv(Path("table.csv"), [[*row, 5.0] for row in (100 * table_rows(40, 2)).tolist()], ["a", "b", "c"])
    lines = trained("--data", "table.csv", "--out", "run", "--epochs", 1).output.splitlines()
    assert any(line.startswith("warning: table.csv: constant columns: c; ") for line in lines)
    assert any("--standardize brings them to 1" in line for line in lines)


@pytest.mark.parametrize("options", [(), ("--binarization", "static", "--likelihood", "bernoulli")])
def test_a_resumed_run_ends_as_one_that_was_not_stopped(options):
    np.savez("a.npz", x=BYTES)
    trained("--data", "a.npz", "--out", "whole", "--epochs", 3, *options)
    trained("--data", "a.npz", "--out", "run", "--epochs", 1, *options)
    assert call("train", "--resume", "run", "--epochs", 3, "--no-evaluate").exit_code == 0
    assert_same_end(RunFolder(Path("whole")), RunFolder(Path("run")))


def test_streamed_and_in_memory_are_the_same_run(monkeypatch):
    np.save("a.npy", BYTES)
    trained("--data", "a.npy", "--out", "memory", "--epochs", 2)
    monkeypatch.setattr("fastvi.data.reading.STREAM_FROM_BYTES", 10)
    trained("--data", "a.npy", "--out", "streamed", "--epochs", 2)
    assert_same_end(RunFolder(Path("memory")), RunFolder(Path("streamed")))


def test_the_run_remembers_where_its_data_were_and_how_they_were_read(tmp_path, monkeypatch):
    labels = ["a", "b"] * 15
    np.savez("data.npz", one=BYTES, two=BYTES, who=labels)
    options = ("--array", "two", "--labels-from", "who", "--test-split", "6", "--divide-by", "300")
    trained("--data", "data.npz", *options, "--out", "run", "--epochs", 1)
    source = json.loads(Path("run/config.json").read_text())["data_record"]["source"]
    assert source["path"] == str(tmp_path / "data.npz")
    assert (source["array"], source["labels_from"]) == ("two", "who")
    assert (source["test_split"], source["divide_by"]) == (6, 300.0)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    evaluated("../run")
    assert call("train", "--resume", "../run", "--epochs", 2, "--no-evaluate").exit_code == 0


def test_data_that_moved_are_named_once():
    Path("old").mkdir()
    np.save("old/a.npy", BYTES)
    np.save("old/b.npy", BYTES[:7])
    trained("--data", "old/a.npy", "--test-split", "old/b.npy", "--out", "run", "--epochs", 1)
    Path("old").rename("new")
    place = Path("old/a.npy").absolute()
    words = f"the data of the run were in {place}, which is not there any more: name their place with --data"
    for arguments in (("evaluate", "run"), ("train", "--resume", "run", "--epochs", 2)):
        assert_one_clear_line(call(*arguments), words)
    evaluated("run", "--data", "new/a.npy")
    assert call("train", "--resume", "run", "--epochs", 2, "--no-evaluate", "--data", "new/a.npy").exit_code == 0
    evaluated("run")


def test_other_data_are_refused():
    np.save("a.npy", BYTES)
    trained("--data", "a.npy", "--out", "run", "--epochs", 1)
    changed = BYTES.copy()
    changed[1, 0, 0] ^= 1
    np.save("b.npy", changed)
    np.save("c.npy", BYTES[:20])
    for path, words in (("b.npy", "its training images have other pixels"), ("c.npy", "it has 27 training images")):
        for arguments in (("evaluate", "run"), ("train", "--resume", "run", "--epochs", 2)):
            assert_one_clear_line(call(*arguments, "--data", path), words)
    np.save("a.npy", changed)
    assert_one_clear_line(call("evaluate", "run"), "its training images have other pixels than these")
    assert_one_clear_line(
        call("evaluate", "run", "--data", "gone.npy"), "gone.npy: expected a file or a folder of data"
    )


def test_what_a_run_remembers_is_not_given_again(capsys):
    np.save("a.npy", BYTES)
    trained("--data", "a.npy", "--out", "run", "--epochs", 1)
    words = "--test-split is remembered by the run: leave it out, or start anew"
    assert_one_clear_line(call("train", "--resume", "run", "--test-split", "3"), words)
    named = RunFolder(Path("named"))
    named.write_config(CONFIG, DataRecord.of(load_dataset("digits")))
    with pytest.raises(typer.Exit):
        run_source(named, "a.npy")
    assert "the data of the run named are known by name, and not read from a path" in capsys.readouterr().err


def test_records_of_named_data_are_as_before():
    """Older versions read them: they have no source."""
    assert "source" not in DataRecord.of(load_dataset("digits"), Path("data")).as_dict()
