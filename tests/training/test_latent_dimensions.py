"""The example of latent dimensions: its figures against sums of their own, and its picture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from fastvi import kl_normal
from fastvi.data import load_dataset, test_images
from fastvi.objectives import draw
from support.scripts import load_script

COUNT = 400


@pytest.mark.parametrize("keep", [False, True])
def test_figures_and_picture(tmp_path: Path, keep: bool) -> None:
    script = load_script("examples/latent_dimensions.py")
    data, runs = load_dataset("digits"), tmp_path / "runs" if keep else None
    found = {dim: script.trained(data, dim, (8,), 1, COUNT, 0, runs) for dim in (2, 3)}
    for latent_dim, (model, row) in found.items():
        assert row.latent_dim == model.latent_dim == latent_dim
        x = test_images(data, "dynamic")
        with torch.no_grad():
            mean, logvar = model.encode(x)
            errors = -model.log_likelihood(x, draw(model, x, COUNT, seed=9).samples).mean(0)
        assert row.divergence == pytest.approx(float(kl_normal(mean, logvar).mean()), rel=1e-5)
        # Two means of as many samples of each image; the error of one is some hundredths of a nat.
        assert row.reconstruction_error == pytest.approx(float(errors.mean()), abs=0.05)
        assert row.importance_weighted >= row.elbo
    if runs is not None:
        assert {path.name for path in (runs / "digits-2").glob("*.png")} >= {"manifold.png", "samples.png"}
        model, row = script.trained(data, 2, (8,), 1, COUNT, 0, runs)  # found there again
        assert row._replace(seconds=0.0) == found[2][1]._replace(seconds=0.0)
    models, rows = ({dim: pair[place] for dim, pair in found.items()} for place in (0, 1))
    script.save_picture(models, list(rows.values()), data.image_shape, tmp_path / "picture.png")
    assert imread(tmp_path / "picture.png").shape[:2] == (480, 384)
    script.save_picture({3: models[3]}, [rows[3]], data.image_shape, tmp_path / "picture.png")  # without the plane
