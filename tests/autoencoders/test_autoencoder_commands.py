"""``fastvi train`` and ``fastvi evaluate`` with autoencoders: folders, pictures, tables, resumed runs, refusals."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from fastvi.autoencoders import AutoencoderOptions
from fastvi.data import load_dataset
from fastvi.models import VAEOptions
from fastvi.objectives import Reconstruction
from fastvi.training.config import RunFolder
from support.command import assert_one_clear_line, call
from support.scripts import load_script

NAMES = (
    "autoencoder",
    "sparse-autoencoder",
    "k-sparse-autoencoder",
    "contractive-autoencoder",
    "denoising-autoencoder",
)
SHORT = ("--epochs", 1, "--batch-size", 500, "--latent-dim", 48)


@pytest.fixture(autouse=True)
def _in_own_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_trains_by_its_name_alone(name):
    result = call("train", "--model", name, *SHORT)
    assert result.exit_code == 0, result.output
    run = RunFolder(Path("runs/digits-reconstruction-001"))
    config = run.read_config()
    assert (config.objective, config.model_name, config.binarization) == (Reconstruction(), name, "none")
    pictures = {file.name for file in run.path.glob("*.png")}
    denoises = name == "denoising-autoencoder"
    assert pictures == {"reconstructions.png", "filters.png"} | ({"denoised.png"} if denoises else set())
    figures = json.loads(run.evaluation_file.read_bytes())
    assert figures["images"] == figures["test_images"] == 297
    assert {"reconstruction error", "squared error"} <= figures["figures"].keys()
    for row in ("test loss", *figures["figures"]):
        assert row in result.output
    assert "there is no ELBO, no L_K" in " ".join(result.output.split())
    # The figures are those of the model, and of the command again.
    x = load_dataset("digits").test
    with torch.no_grad():
        squared = (run.load_model().reconstruct(x) - x).square().sum(1).mean().item()
    assert figures["figures"]["squared error"] == pytest.approx(squared, rel=1e-5)
    run.evaluation_file.unlink()
    assert call("evaluate", run.path).exit_code == 0
    again = json.loads(run.evaluation_file.read_bytes())
    assert {**again, "seconds": 0} == {**figures, "seconds": 0}
    assert call("train", "--model", name, *SHORT, "--no-evaluate", "--out", run.path, "--overwrite").exit_code == 0


def test_pictures_show_filters_and_noise():
    """Filters are grey where they are 0 and reach black or white; noise is in the middle row of each three."""
    options = ("--hidden-dims", "none", "--corruption", "masking", "--corruption-level", 1, "--no-evaluate")
    assert call("train", "--model", "denoising-autoencoder", *SHORT, *options, "--out", "run").exit_code == 0
    denoised = imread("run/denoised.png")  # 12 x 12 tiles of 8 x 8, eight times enlarged, with gaps of eight
    tile = 8 * 8 + 8
    assert denoised.shape[:2] == (12 * tile + 8, 12 * tile + 8)
    rows = [denoised[8 + row * tile : (row + 1) * tile, 8:tile] for row in range(3)]
    assert rows[0].max() > 0.9
    assert rows[1].max() == 0
    assert rows[2].max() > 0
    filters = imread("run/filters.png")
    weights = RunFolder(Path("run")).load_model().filters()
    assert filters.shape[:2] == (4 * tile + 8, 12 * tile + 8)
    first = weights[0].reshape(8, 8) / weights[0].abs().max()
    shown = torch.from_numpy(filters[8:tile:8, 8:tile:8].copy())
    torch.testing.assert_close(shown, 0.5 + 0.5 * first, rtol=0, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("options", [
    ("--model", "denoising-autoencoder", "--corruption", "salt-and-pepper"),
    ("--model", "contractive-autoencoder", "--hidden-dims", "9", "--num-probes", 1),
], ids=["denoising", "contractive"])  # fmt: skip
def test_resumed_run_ends_with_the_same_bits(options):
    """Noise and signs are those of their step and place, wherever the run was stopped."""
    fixed = (*options, "--batch-size", 400, "--latent-dim", 12, "--no-evaluate")
    assert call("train", *fixed, "--epochs", 3, "--out", "whole").exit_code == 0
    assert call("train", *fixed, "--epochs", 1, "--out", "parts").exit_code == 0
    assert call("train", "--resume", "parts", "--epochs", 3, "--no-evaluate").exit_code == 0
    whole, parts = (RunFolder(Path(name)).read_checkpoint() for name in ("whole", "parts"))
    for key in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(whole[key], parts[key], rtol=0, atol=0)
    assert (whole["epoch"], whole["global_step"]) == (parts["epoch"], parts["global_step"])


def test_no_hidden_layer_is_said_by_none():
    options = ("--hidden-dims", "none", "--tied", "--error", "squared")
    assert call("train", *SHORT, "--model", "autoencoder", *options, "--no-evaluate", "--out", "run").exit_code == 0
    model = RunFolder(Path("run")).read_config().model
    assert model == AutoencoderOptions(latent_dim=48, hidden_dims=None, tied=True, error="squared")
    assert call("train", "--resume", "run", *options, "--no-evaluate").exit_code == 0
    assert_one_clear_line(
        call("train", "--resume", "run", "--hidden-dims", 5), "--hidden-dims (5,) contradicts the None"
    )


def test_counts_have_the_error_of_counts():
    result = call("train", *SHORT, "--data", "digits-counts", "--model", "sparse-autoencoder", "--out", "run")
    assert result.exit_code == 0, result.output
    assert RunFolder(Path("run")).read_config().model.error == "poisson"


@pytest.mark.parametrize(("options", "words"), [
    ("--model autoencoder --objective iwae", "IWAE: needs a model with the methods encode and log_likelihood"),
    ("--model vae --objective reconstruction", "needs a model with a loss of its own, such as an autoencoder; VAE has"),
    ("--model vae --hidden-dims none", "--hidden-dims must be widths separated by commas, such as 200,200; got 'none'"),
    ("--model autoencoder --sparsity 1", "--sparsity belongs to the model sparse-autoencoder, not to autoencoder"),
    ("--model k-sparse-autoencoder --latent-dim 20", "--num-active must be at most the code's 20 values, got 40"),
    ("--model denoising-autoencoder --corruption dust", "--corruption must be one of gaussian, masking"),
    ("--model denoising-autoencoder --corruption-level 2",
     "--corruption-level must be a probability, at most 1, for masking, got 2"),
    ("--model autoencoder --error sq", "--error must be one of squared, bernoulli"),
    ("--model autoencoder --num-samples 5", "--num-samples belongs to the objectives elbo"),
    ("--data digits-counts --model autoencoder --error bernoulli", "the data digits-counts are of counts"),
])  # fmt: skip
def test_refusals(options, words):
    assert_one_clear_line(call("train", *options.split(), "--out", "run"), words)
    assert not Path("run").exists()


def test_annealing_is_refused():
    assert call("train", "--model", "autoencoder", *SHORT, "--no-evaluate", "--out", "run").exit_code == 0
    assert_one_clear_line(call("evaluate", "run", "--ais"), "Autoencoder has no log_likelihood")


def test_other_models_keep_their_objective():
    assert VAEOptions.default_objective == "iwae"
    assert call("train", "--epochs", 1, "--batch-size", 500, "--hidden-dims", 4, "--no-evaluate").exit_code == 0
    assert Path("runs/digits-iwae-001").is_dir()


def test_example_of_linear_probes(monkeypatch, capsys):
    script = load_script("examples/linear_probe.py")
    kept = ("sparse", "k-sparse", "denoising, masking")
    monkeypatch.setattr(script, "AUTOENCODERS", {name: script.AUTOENCODERS[name] for name in kept})
    short = ["--epochs", "1", "--latent-dim", "24", "--iterations", "100", "--components", "20", "--out", "table.md"]
    monkeypatch.setattr(sys, "argv", ["linear_probe.py", *short])
    script.main()
    head, _, *rows = Path("table.md").read_text().splitlines()
    assert capsys.readouterr().out == Path("table.md").read_text()
    assert head == "| code | values | accuracy, % | squared error | seconds |"
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[:2] for row in cells] == [
        ["pixels", "64"], ["PCA", "20"], ["random weights", "24"], *([name, "24"] for name in kept)
    ]  # fmt: skip
    assert 93.0 < float(cells[0][2]) < 99.0  # of linear classifiers on these digits
    assert all(10.0 < float(row[2]) <= 100.0 for row in cells)
    assert all(re.fullmatch(r"\d+\.\d\d", row[3]) for row in cells if row[0] not in ("pixels", "random weights"))
