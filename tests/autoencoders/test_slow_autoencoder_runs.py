"""Data with an order, their windows in training, and ``fastvi train --model slow-autoencoder``."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from rich.console import Console

from fastvi.autoencoders import SlowAutoencoderOptions, linearisation_error, sequences, windows
from fastvi.data import DataError, Dataset, Presenter, load_dataset
from fastvi.objectives import Reconstruction
from fastvi.training.batches import ShuffledBatches
from fastvi.training.config import RunError, RunFolder, TrainingConfig
from fastvi.training.data_record import DataRecord
from fastvi.training.trainer import train
from fastvi.training.trajectories import plane, write_trajectories
from fastvi.training.windows import WindowPresenter, held_out_sequences, held_out_windows, training_windows
from support.command import assert_one_clear_line, call
from support.scripts import load_script

SHORT = ("--data", "moving-spot", "--model", "slow-autoencoder", "--hidden-dims", "8", "--batch-size", 600)


@pytest.fixture(autouse=True)
def _in_own_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def spot():
    return load_dataset("moving-spot")


def numbered(train_times, test_times, name="own"):
    """Frames of four pixels that tell their times, in hundredths."""
    frames = [torch.tensor(times)[:, None].expand(-1, 4) / 100.0 for times in (train_times, test_times)]
    order = {"train_times": torch.tensor(train_times), "test_times": torch.tensor(test_times)}
    return Dataset(name, *frames, (2, 2), "bernoulli", **order)


# The data


def test_a_spot_moves_in_a_straight_line_at_constant_speed(spot):
    assert (spot.train.shape, spot.test.shape, spot.image_shape) == ((2000, 256), (800, 256), (16, 16))
    assert spot.train.min() == 0.0
    grid = torch.cartesian_prod(torch.arange(16.0), torch.arange(16.0))
    for frames, times, films in ((spot.train, spot.train_times, 100), (spot.test, spot.test_times, 40)):
        found = sequences(times)
        assert [len(film) for film in found] == [20] * films
        centres = frames @ grid / frames.sum(1, keepdim=True)
        # The centre of mass of a spot whose tail the image cuts off lies a little inwards.
        steps = torch.stack([centres[film].diff(dim=0) for film in found])
        assert (steps - steps.mean(1, keepdim=True)).abs().max() < 0.15
        assert steps.norm(dim=-1).max() < math.hypot(11, 11) / 19 + 0.15
    assert float((spot.train * 255 - (spot.train * 255).round()).abs().max()) < 1e-4


def test_frey_keeps_the_place_of_each_frame_in_the_video(tmp_path):
    frames = np.arange(1965, dtype=np.float64)[:, None, None] % 256 * np.ones((28, 20))
    np.savez(tmp_path / "frey_faces.npz", x=frames.astype(np.uint8))
    data = load_dataset("frey", tmp_path)
    for times, images in ((data.train_times, data.train), (data.test_times, data.test)):
        assert torch.equal((images[:, 0] * 255).round().long(), times % 256)
    rows = training_windows(data)
    # 1,965 frames without 200 single ones, none beside another: two are lost at the ends of each part between them.
    assert len(rows) == 1765 - 2 * 200
    assert (data.train_times[rows].diff(dim=1) == 1).all()
    around = held_out_windows(data, "none")
    assert around.shape == (199, 3, 560)  # the first test frame is the first of the video
    expected = (data.test_times[1:, None] + torch.tensor([-1, 0, 1])) % 256
    assert torch.equal((around[:, :, 0] * 255).round().long(), expected)


@pytest.mark.parametrize(("order", "words"), [
    ({"train_times": torch.arange(3)}, "the test times must be a tensor as those of the other images, got NoneType"),
    ({"test_times": torch.arange(2)}, "the training times must be a tensor"),
    ({"train_times": torch.arange(4), "test_times": torch.arange(2)}, r"int64 of the shape \(3,\).* of \(4,\)"),
    ({"train_times": torch.arange(3.0), "test_times": torch.arange(2)}, "must be int64 .* got torch.float32"),
    ({"train_times": torch.arange(3), "test_times": torch.arange(2)}, "training and test times must all be different"),
    ({"train_times": [0, 1, 2], "test_times": torch.arange(2)}, "the training times must be a tensor .* got list"),
])  # fmt: skip
def test_times_that_cannot_be_are_named(order, words):
    with pytest.raises(DataError, match=f"^own: .*{words}"):
        Dataset("own", torch.zeros(3, 4), torch.zeros(2, 4), (2, 2), "bernoulli", **order)


# The windows


def test_windows_of_test_frames_have_their_neighbours_wherever_they_are():
    data = numbered([1, 2, 4, 5, 10, 11, 20], [3, 12, 21, 22, 23])
    found = (100 * held_out_windows(data, "none")[..., 0]).round()
    assert found.tolist() == [[2, 3, 4], [20, 21, 22], [21, 22, 23]]
    assert len(training_windows(data)) == 0  # of three in a row one is always a test frame
    found = [(100 * part[:, 0]).round().tolist() for part in held_out_sequences(data, "none")]
    assert found == [[1, 2, 3, 4, 5], [10, 11, 12], [20, 21, 22, 23]]


@pytest.mark.parametrize("binarization", ["none", "dynamic", "static"])
def test_pieces_of_a_batch_hold_the_windows_of_the_whole(spot, binarization):
    """A process draws for its share what it would have drawn in the whole, for any number of processes."""
    rows = training_windows(spot)
    assert len(rows) == 100 * 18
    present = WindowPresenter(Presenter(spot.train, binarization), rows)
    assert len(present) == len(rows)
    whole = next(iter(ShuffledBatches(len(present), 31, seed=3)))
    pieces = [next(iter(ShuffledBatches(len(present), 31, 3, 0, rank, 3))) for rank in range(3)]
    expected = present(whole.indices, 5, whole.row_offset)
    assert expected.shape == (31, 3, 256)
    found = torch.cat([present(piece.indices, 5, piece.row_offset) for piece in pieces])
    assert torch.equal(found, expected)
    if binarization == "none":
        assert torch.equal(expected, spot.train[rows[whole.indices]])
    else:
        assert sorted(expected.unique().tolist()) == [0.0, 1.0]
    assert present(whole.indices[:0], 5).shape == (0, 3, 256)
    present.to(torch.device("meta"))
    assert present(torch.arange(2, device="meta"), seed=1).is_meta


# Runs


def test_run_has_pictures_and_figures_of_windows(spot):
    result = call("train", *SHORT, "--epochs", 1, "--out", "run")
    assert result.exit_code == 0, result.output
    run = RunFolder(Path("run"))
    assert {file.name for file in run.path.glob("*.png")} == {"reconstructions.png", "filters.png", "trajectories.png"}
    config = run.read_config()
    assert (config.objective, config.model_name, config.model.error) == (
        Reconstruction(),
        "slow-autoencoder",
        "squared",
    )
    figures = json.loads(run.evaluation_file.read_bytes())
    assert figures["images"] == figures["test_images"] == 40 * 18
    model = run.load_model()
    with torch.no_grad():
        film_windows = windows(spot.test, spot.test_times)
        expected = linearisation_error(model.code(film_windows)).mean().item()
        squared = (model.reconstruct(film_windows[:, 1]) - film_windows[:, 1]).square().sum(-1).mean().item()
    assert figures["figures"]["linearisation error"] == pytest.approx(expected, rel=1e-5)
    assert figures["figures"]["squared error"] == pytest.approx(squared, rel=1e-5)
    assert "linearisation error" in result.output
    assert call("evaluate", "run").exit_code == 0
    assert call("train", *SHORT, "--epochs", 1, "--no-evaluate", "--out", "run", "--overwrite").exit_code == 0


def test_resumed_run_ends_with_the_same_bits():
    fixed = (*SHORT, "--binarization", "dynamic", "--no-evaluate")
    assert call("train", *fixed, "--epochs", 3, "--out", "whole").exit_code == 0
    assert call("train", *fixed, "--epochs", 1, "--out", "parts").exit_code == 0
    assert call("train", "--resume", "parts", "--epochs", 3, "--no-evaluate").exit_code == 0
    whole, parts = (RunFolder(Path(name)).read_checkpoint() for name in ("whole", "parts"))
    for key in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(whole[key], parts[key], rtol=0, atol=0)
    assert (whole["epoch"], whole["global_step"]) == (parts["epoch"], parts["global_step"]) == (2, 9)


def own_config(data, **changes):
    config = TrainingConfig(
        data=data.name,
        image_shape=data.image_shape,
        objective=Reconstruction(),
        model=SlowAutoencoderOptions(latent_dim=2, hidden_dims=None),
        binarization="none",
        epochs=1,
        batch_size=4,
        learning_rate=1e-3,
        seed=0,
    )
    return dataclasses.replace(config, **changes)


def test_a_run_remembers_the_order_of_its_data(tmp_path):
    data = numbered(list(range(12)), [20, 21, 22])
    folder = RunFolder(tmp_path / "run")
    folder.write_config(own_config(data))
    train(own_config(data), data, folder, console=Console(file=io.StringIO()), progress=False)
    assert folder.read_record().times_digest is not None
    shifted = dataclasses.replace(data, train_times=data.train_times.flip(0))
    with pytest.raises(RunError, match="its images have other times than these; name the data"):
        train(own_config(data, epochs=2), shifted, folder, console=Console(file=io.StringIO()), progress=False)
    assert folder.trained_epochs() == 1
    train(own_config(data, epochs=2), data, folder, console=Console(file=io.StringIO()), progress=False)
    assert folder.trained_epochs() == 2


def test_record_of_a_run_without_neighbours_is_that_of_former_versions():
    data = numbered([0, 1, 2], [5, 6, 7])
    record, ordered = DataRecord.of(data), DataRecord.of(data, uses_neighbours=True)
    assert "times_digest" not in record.as_dict()
    for made in (record, ordered):
        assert DataRecord.from_dict(made.as_dict()) == made
    with pytest.raises(ValueError, match="two digests"):
        DataRecord.from_dict({**ordered.as_dict(), "times_digest": 3})


@pytest.mark.parametrize(("train_times", "test_times", "words"), [
    ([0, 1, 2], [5, 7, 9], "have no test frame between two others"),
    ([0, 2, 4], [5, 6, 7], "have no training frame between two others"),
])  # fmt: skip
def test_data_without_neighbours_are_refused(tmp_path, train_times, test_times, words):
    data = numbered(train_times, test_times)
    with pytest.raises(RunError, match=f"slow-autoencoder needs frames with neighbours, and the data own {words}"):
        train(own_config(data), data, RunFolder(tmp_path), console=Console(file=io.StringIO()), progress=False)


def test_data_without_an_order_are_refused_in_one_line():
    result = call("train", "--model", "slow-autoencoder", "--out", "run")
    assert_one_clear_line(result, "slow-autoencoder needs frames with neighbours, and the data digits have no order")
    assert not Path("run").exists()


# Pictures and the example


def test_plane_keeps_the_distances_of_codes_in_two_dimensions():
    turned = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q[:2]
    flat = [torch.randn(4, 2, dtype=torch.float64), 3.0 * torch.randn(6, 2, dtype=torch.float64)]
    found = plane([part @ turned + 7.0 for part in flat])
    for given, drawn in zip(flat, found, strict=True):
        torch.testing.assert_close(torch.cdist(drawn, drawn), torch.cdist(given, given), rtol=0, atol=1e-6)
    assert torch.cat(found)[:, 0].var() > torch.cat(found)[:, 1].var()
    (line,) = plane([torch.arange(3.0)[:, None]])
    assert line.tolist() == [[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]


def test_trajectories_are_drawn_from_blue_to_orange(tmp_path):
    class Line(torch.nn.Module):
        def code(self, x):
            return x[:, :1]

    frames = torch.linspace(0.0, 1.0, 5)[:, None]
    (path,) = write_trajectories(Line(), [frames], tmp_path)
    picture = imread(path)
    row = picture[picture.shape[0] // 2]
    red, blue = row[:, 0], row[:, 2]
    coloured = np.flatnonzero(red + blue < 1.9)
    assert blue[coloured[2]] > red[coloured[2]]
    assert red[coloured[-3]] > blue[coloured[-3]]
    assert write_trajectories(Line(), [], tmp_path) == []
    assert write_trajectories(torch.nn.Linear(1, 1), [frames], tmp_path) == []
    (path,) = write_trajectories(Line(), [torch.full((3, 1), math.nan)], tmp_path)
    assert path.exists()


def test_example_of_slow_features_straightens_codes(monkeypatch, capsys):
    """On films that were not trained on, against the plain autoencoder of the same shape: the weight 0."""
    script = load_script("examples/slow_features.py")
    short = ["--epochs", "12", "--weights", "0", "100", "--out", "slow"]
    monkeypatch.setattr(sys, "argv", ["slow_features.py", *short])
    script.main()
    head, _, plain, straight = Path("slow/table.md").read_text().splitlines()
    assert capsys.readouterr().out == Path("slow/table.md").read_text()
    assert head == "| weight | squared error | linearisation error | slowness |"
    plain, straight = ([float(cell) for cell in line.strip("|").split("|")] for line in (plain, straight))
    assert straight[2] < 0.9 * plain[2]
    assert imread("slow/trajectories.png").shape[1] > 600


def test_parts_of_a_video_are_held_out_whole():
    script = load_script("examples/slow_features.py")
    times = torch.arange(400)
    is_test = times % 10 == 0
    frames = (times[:, None] / 400.0).expand(-1, 4)
    data = script.in_parts(
        Dataset(
            "own",
            frames[~is_test],
            frames[is_test],
            (2, 2),
            "bernoulli",
            train_times=times[~is_test],
            test_times=times[is_test],
        )
    )
    assert len(data.train) + len(data.test) == 400
    held = (400.0 * data.test[:, 0]).round().long()
    assert torch.equal(held, times[(times // 39) % 5 == 4])
    in_windows = (400.0 * held_out_windows(data, "none")[..., 0]).round().long()
    assert torch.isin(in_windows, held).all()
    assert len(in_windows) == 2 * 37
