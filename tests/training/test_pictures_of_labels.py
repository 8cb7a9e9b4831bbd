"""Pictures of planes, styles and analogies that a run writes, tile by tile, and samples of one class by the command."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from torch import Tensor

from fastvi.data import load_dataset
from fastvi.evaluate import analogies, manifold, sample, styles
from fastvi.models import DataShape, make_model_options
from fastvi.training.config import RunFolder
from fastvi.training.pictures import make_grid, write_pictures
from support.command import assert_one_clear_line, call
from support.known_decoder import IMAGES, LABELS, KnownDecoder, expected_analogies, plane

PAGE = Path(__file__).parents[2] / "docs" / "pictures.md"
EIGHT_BITS = 0.5 / 255.0 + 1e-6
SCALE, STEP = 32, 96
"""Images of 2 x 2 are enlarged 32 times, with gaps as wide; a wide gap adds three of them."""


def tile(path: Path, row: int, column: int, wide_gaps: tuple[int, ...] = ()) -> Any:
    """The values of a tile of 2 x 2 pixels: (4,), or (4, 3) of colours."""
    top, left = SCALE + row * STEP, SCALE + column * STEP + 3 * SCALE * sum(column >= first for first in wide_gaps)
    pixels = imread(path)[top : top + 2 * SCALE, left : left + 2 * SCALE]
    assert np.ptp(pixels.reshape(2, SCALE, 2, SCALE, -1), axis=(1, 3)).max() == 0.0  # the whole tile is there
    return torch.from_numpy(pixels[::SCALE, ::SCALE].copy()).flatten(0, 1).double()


def size(columns: int, rows: int, wide_gaps: int = 0) -> tuple[int, int]:
    return rows * STEP + SCALE, columns * STEP + SCALE + wide_gaps * 3 * SCALE


def close(found: Tensor, expected: Any) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=EIGHT_BITS)


def names(model: Any, images: Any, shape: tuple[int, ...], folder: Path, **options: Any) -> set[str]:
    return {path.name for path in write_pictures(model, images, shape, folder, **options)}


def test_every_tile_of_styles_and_analogies(tmp_path: Path) -> None:
    assert names(KnownDecoder(), (IMAGES, LABELS), (2, 2), tmp_path) == {"styles.png", "analogies.png"}
    assert imread(tmp_path / "styles.png").shape == size(30, 10, 2)
    cells = plane(10)
    for row, column in ((0, 0), (0, 9), (9, 0), (4, 13), (7, 29)):
        first, second = cells[row * 10 + column % 10].tolist()
        found = tile(tmp_path / "styles.png", row, column, wide_gaps=(10, 20))
        close(found, [column // 10 / 3.0, first, second, 0.25])
    assert imread(tmp_path / "analogies.png").shape == size(4, 3, 1)
    expected = expected_analogies(IMAGES, LABELS)
    for row in range(3):
        for column in range(4):
            close(tile(tmp_path / "analogies.png", row, column, wide_gaps=(1,)), expected[row, column])


def test_planes_are_those_of_classes_2_to_4_where_there_are_so_many(tmp_path: Path) -> None:
    names(KnownDecoder(num_classes=5), IMAGES, (2, 2), tmp_path)
    for plane_number in range(3):
        found = tile(tmp_path / "styles.png", 0, 10 * plane_number, wide_gaps=(10, 20))
        close(found[0], min(1.0, (2 + plane_number) / 3.0))


def test_styles_of_more_latent_dimensions_are_a_row_for_each_class(tmp_path: Path) -> None:
    model = KnownDecoder(latent_dim=3)
    assert names(model, IMAGES, (2, 2), tmp_path) == {"styles.png"}  # the classes of the images are not known
    assert imread(tmp_path / "styles.png").shape == size(12, 3)
    rows = styles(model)
    for row, column in ((0, 0), (2, 0), (1, 11)):
        close(tile(tmp_path / "styles.png", row, column), rows[row, column])


def test_colours(tmp_path: Path) -> None:
    class Coloured(KnownDecoder):
        def decode(self, z: Tensor, labels: Tensor) -> Tensor:
            grey = super().decode(z, labels)
            return torch.cat([grey, 0.5 * grey, 0.0 * grey], 1)  # planes of red, green and blue

    images = torch.linspace(0.0, 1.0, 36, dtype=torch.float64).reshape(3, 12)
    assert names(Coloured(), (images, LABELS), (3, 2, 2), tmp_path) == {"styles.png", "analogies.png"}
    close(tile(tmp_path / "analogies.png", 2, 0), images[2].reshape(3, 4).T)
    grey = expected_analogies(images[:, :4], LABELS)[2, 3]
    close(tile(tmp_path / "analogies.png", 2, 3, wide_gaps=(1,)), torch.stack([grey, 0.5 * grey, 0.0 * grey], 1))


@pytest.mark.parametrize("latent_dim", [2, 3])
def test_one_class_and_one_image(latent_dim: int, tmp_path: Path) -> None:
    model = KnownDecoder(num_classes=1, latent_dim=latent_dim)
    assert names(model, (IMAGES[:1], LABELS[:1]), (2, 2), tmp_path) == {"styles.png", "analogies.png"}
    assert imread(tmp_path / "styles.png").shape == (size(10, 10) if latent_dim == 2 else size(12, 1))
    assert imread(tmp_path / "analogies.png").shape == size(2, 1, 1)


def test_many_classes_and_many_images_are_thinned_out(tmp_path: Path) -> None:
    images, labels = torch.linspace(0.0, 1.0, 4000, dtype=torch.float64).reshape(1000, 4), torch.arange(1000) % 120
    names(KnownDecoder(num_classes=120, latent_dim=3), (images, labels), (2, 2), tmp_path)
    assert imread(tmp_path / "styles.png").shape == size(12, 50)
    assert imread(tmp_path / "analogies.png").shape == size(51, 10, 1)
    close(tile(tmp_path / "analogies.png", 9, 0), images[900])


def test_images_of_unknown_class_are_left_out(tmp_path: Path) -> None:
    """Labels may come apart from the images, as of a model that takes these alone elsewhere."""
    labels = torch.tensor([-1, 1, 3])
    assert names(KnownDecoder(), IMAGES, (2, 2), tmp_path, labels=labels) == {"styles.png", "analogies.png"}
    assert imread(tmp_path / "analogies.png").shape == size(4, 1, 1)
    close(tile(tmp_path / "analogies.png", 0, 0), IMAGES[1])
    assert names(KnownDecoder(), IMAGES, (2, 2), tmp_path, labels=torch.full((3,), -1)) == {"styles.png"}


def test_nan_is_black(tmp_path: Path) -> None:
    class Broken(KnownDecoder):
        def decode(self, z: Tensor, labels: Tensor) -> Tensor:
            return torch.where(labels[:, None] == 1, torch.nan, super().decode(z, labels))

    assert names(Broken(), (IMAGES, LABELS), (2, 2), tmp_path) == {"styles.png", "analogies.png"}
    close(tile(tmp_path / "analogies.png", 0, 2, wide_gaps=(1,)), [0.0] * 4)
    close(tile(tmp_path / "analogies.png", 0, 3, wide_gaps=(1,)), expected_analogies(IMAGES, LABELS)[0, 3])
    close(tile(tmp_path / "styles.png", 3, 10, wide_gaps=(10, 20)), [0.0] * 4)


def test_counts_are_scaled_as_the_images_are(tmp_path: Path) -> None:
    names(KnownDecoder(), (4.0 * IMAGES, LABELS), (2, 2), tmp_path)
    close(tile(tmp_path / "analogies.png", 2, 0), IMAGES[2])
    close(tile(tmp_path / "analogies.png", 0, 3, wide_gaps=(1,))[3], 0.25 / 4.0)


def test_who_has_no_pictures_of_classes(tmp_path: Path) -> None:
    model = KnownDecoder()
    model.decode = lambda z: z  # type: ignore[method-assign, assignment]
    assert names(model, (IMAGES, LABELS), (2, 2), tmp_path) == set()
    model = KnownDecoder()
    model.log_prior = lambda z: z.sum(-1)  # nothing says how it is drawn from
    assert names(model, (IMAGES, LABELS), (2, 2), tmp_path) == {"analogies.png"}
    assert names(KnownDecoder(), (IMAGES, LABELS), (1, 4), tmp_path) == set()  # rows that are no images


@pytest.mark.parametrize("prior", ["standard", "gaussian", "mixture", "vamp"])
def test_the_plane_of_a_model_of_parts(prior: str, tmp_path: Path) -> None:
    options = {"latent_dim": 2, "hidden_dims": (8,), "prior": prior, "prior_components": 3}
    model = make_model_options("general-vae", **options).build(DataShape((2, 2))).double()
    expected = {"reconstructions.png", "samples.png"}
    expected |= {"manifold.png"} if prior in ("standard", "gaussian") else set()
    assert names(model, IMAGES.round(), (2, 2), tmp_path) == expected
    if "manifold.png" in expected:
        close(tile(tmp_path / "manifold.png", 0, 19), manifold(model)[19])


def test_wide_gaps() -> None:
    images = torch.ones(6, 64, 64)
    narrow, wide = make_grid(images, 3), make_grid(images, 3, wide_gaps=(1, 2))
    assert wide.shape == (narrow.shape[0], narrow.shape[1] + 2 * 3)
    lit = (wide[1:65] == 1.0).all(0).nonzero()[:, 0]
    assert lit.tolist() == [left + pixel for left in (1, 69, 137) for pixel in range(64)]


# By the command

SHORT = (
    "--hidden-dims",
    8,
    "--epochs",
    1,
    "--batch-size",
    1500,
    "--threads",
    1,
    "--no-evaluate",
    "--objective",
    "elbo",
)


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("conditional") / "run"
    for overwrite in ((), ("--overwrite",)):  # the pictures do not stand in the way
        options = ("--model", "conditional-vae", "--latent-dim", 2)
        result = call("train", *options, *SHORT, "--out", run, *overwrite)
        assert result.exit_code == 0, result.output
    return run


def test_a_run_of_digits_has_them(conditional: Path) -> None:
    expected = {"reconstructions.png", "samples.png", "styles.png", "analogies.png"}
    assert {path.name for path in conditional.glob("*.png")} == expected
    model, data = RunFolder(conditional).load_model(), load_dataset("digits")
    found = torch.from_numpy(imread(conditional / "styles.png")[8:72:8, 8:72:8].copy()).double()
    close(found, manifold(model, 10, label=2)[0].reshape(8, 8))
    assert data.test_labels is not None
    binarised = torch.from_numpy(imread(conditional / "analogies.png")[8:72:8, 8:72:8].copy()).flatten()
    row = analogies(model, binarised[None], data.test_labels[:1])[0]
    found = torch.from_numpy(imread(conditional / "analogies.png")[8:72:8, 8 + 72 + 24 :][:, :64:8].copy()).double()
    close(found, row[1].reshape(8, 8))


@pytest.mark.usefixtures("own_directory")
def test_one_class_is_sampled_by_the_command(conditional: Path) -> None:
    for mean in ((), ("--mean",)):
        result = call("sample", conditional, "-n", 130, "--label", 3, "--out", "three.npz", "--overwrite", *mean)
        assert result.exit_code == 0, result.output
        assert ", class 3, seed 0" in " ".join(result.output.split())
        with np.load("three.npz") as found:
            assert found["labels"].tolist() == [3] * 130
            drawn = sample(RunFolder(conditional).load_model(), 130, mean=bool(mean), label=3)
            np.testing.assert_allclose(found["x"].reshape(130, 64), drawn.x.numpy(), rtol=1e-6)
    message = "--label must be from 0 to 9, got 10"
    assert_one_clear_line(call("sample", conditional, "--label", 10, "--out", "x.npz"), message)
    assert not Path("x.npz").exists()


@pytest.mark.usefixtures("own_directory")
def test_a_model_without_classes_says_so() -> None:
    assert call("train", "--latent-dim", 3, *SHORT, "--out", "run").exit_code == 0
    message = "--label is for models of classes, and VAE has none"
    assert_one_clear_line(call("sample", "run", "--label", 3, "--out", "x.npz"), message)
    assert not Path("x.npz").exists()


def test_the_examples_of_the_page_run() -> None:
    results = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted > 5
    assert results.failed == 0
