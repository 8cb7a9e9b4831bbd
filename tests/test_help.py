"""Help in sections, completion, ``fastvi info`` for a report, and pictures that are large enough to look at."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread
from typer.testing import CliRunner

from fastvi.cli import app
from fastvi.commands.completion import data_names, model_names, objective_names
from fastvi.commands.info import openmp_runtimes
from fastvi.data import DATASET_NAMES
from fastvi.models import MODELS, VAE
from fastvi.objectives import OBJECTIVES
from fastvi.training.pictures import save_grid, write_pictures
from support.command import call

pytestmark = pytest.mark.usefixtures("own_directory")


def sections(text: str) -> dict[str, str]:
    """The parts of a help text by their titles."""
    parts = re.split(r"^(\S.*):$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_commands_are_in_sections() -> None:
    found = sections(call("--help").output)
    for title, names in (
        ("Train and evaluate", ("train", "evaluate")),
        ("Take out of a run", ("sample", "encode", "reconstruct", "score", "export")),
        ("This machine", ("bench", "info")),
    ):
        assert re.findall(r"^  (\w+) ", found[title], re.MULTILINE) == list(names)


def test_options_of_train_are_in_sections() -> None:
    text = CliRunner().invoke(app, ["train", "--help"], terminal_width=120).output
    found = sections(text)
    for title, options in (
        ("Data", ("--data", "--data-dir", "--test-split", "--binarization")),
        ("Objective and model", ("--objective", "--model")),
        ("Training", ("--epochs", "--batch-size", "--learning-rate")),
        ("Output", ("--out", "--resume")),
        ("Machine", ("--device", "--threads")),
    ):
        for option in options:
            assert re.search(rf"^  {option} ", found[title], re.MULTILINE), option
    assert found["Other"].split()[0] == "--help"


def test_what_the_shell_offers() -> None:
    assert objective_names("") == list(OBJECTIVES)
    assert objective_names("ciw") == ["ciwae"]
    assert model_names("") == list(MODELS)
    Path("digits-of-mine").mkdir()
    Path("digits.npz").touch()
    names = [name for name in DATASET_NAMES if name.startswith("digits")]
    assert data_names("digits") == [*names, "digits-of-mine/", "digits.npz"]
    assert data_names("nowhere/x") == []


def test_the_shell_asks_the_command() -> None:
    environment = {"_FASTVI_COMPLETE": "complete_bash", "COMP_WORDS": "fastvi train --objective d", "COMP_CWORD": "3"}
    result = CliRunner().invoke(app, [], env=os.environ | environment, prog_name="fastvi")
    assert result.output.split() == [name for name in OBJECTIVES if name.startswith("d")]


def test_info_is_a_whole_report() -> None:
    lines = call("info").output
    for name in ("processor", "modules", "OpenMP", "CUDA driver", "architectures", "libraries", "variables"):
        assert re.search(rf"^ *{name} ", lines, re.MULTILINE), name
    assert "built for" in lines
    if torch.backends.openmp.is_available() and Path("/proc/self/maps").exists():
        assert openmp_runtimes()


def test_small_images_are_enlarged_by_whole_factors() -> None:
    image = torch.tensor([[0.0, 1.0], [0.4, 0.6]])
    save_grid(image.expand(2, 2, 2), 2, Path("grid.png"))
    pixels = imread("grid.png")
    assert pixels.shape == (64 + 2 * 32, 2 * 64 + 3 * 32)
    tile = torch.from_numpy(pixels[32:96, 32:96])
    torch.testing.assert_close(tile, image.repeat_interleave(32, 0).repeat_interleave(32, 1), rtol=0, atol=1.0 / 255.0)


def test_grey_originals_stand_above_their_binarised_twins() -> None:
    grey = torch.full((48, 64), 0.75)
    twins = torch.ones(48, 64)
    write_pictures(VAE(64, 2, (4,)).eval(), twins, (8, 8), Path(), grey=grey)
    pixels, step = imread("reconstructions.png"), 64 + 8
    assert pixels.shape[0] == 12 * step + 8
    shades = [float(pixels[8 + row * step + 30, 40]) for row in range(3)]
    assert shades[0] == pytest.approx(0.75, abs=1.0 / 255.0)
    assert shades[1] == 1.0
    assert 0.0 < shades[2] < 1.0
