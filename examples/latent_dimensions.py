"""What latent dimensions are worth: samples of variational autoencoders with 2, 5, 10 and 20 of them, and their bounds.

The picture has a panel of samples for each number, as figure 5 of Kingma & Welling 2014, "Auto-encoding variational
Bayes", below them the plane of the two-dimensional model, as their figure 4, and beside it what the bound of test
images is made of: -ELBO = reconstruction error + divergence, in nats.

    python examples/latent_dimensions.py --out latent_dimensions.png                            # digits, a minute
    python examples/latent_dimensions.py --data mnist --data-dir DIR --epochs 20 --out latent_dimensions.png

prints one table. With --runs the runs are kept, each with its pictures of `fastvi train`, and found there again.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import fastvi
from fastvi.data import Dataset, evenly_spaced, load_dataset, test_images
from fastvi.evaluate import manifold, sample
from fastvi.training.pictures import make_grid, write_pictures

DIMENSIONS = (2, 5, 10, 20)
SAMPLE_COLUMNS = 8
PLANE_COLUMNS = 12
LEARNING_RATE = 2e-3
TEST_IMAGES = 1000
"""The most that are evaluated, evenly spaced."""


class Row(NamedTuple):
    """A line of the table: test figures in nats, mean over the images."""

    latent_dim: int
    elbo: float
    importance_weighted: float
    divergence: float
    active_units: int
    seconds: float

    @property
    def reconstruction_error(self) -> float:
        """The mean of -log p(x|z) over q(z|x)."""
        return -self.elbo - self.divergence


def trained(
    data: Dataset,
    latent_dim: int,
    hidden_dims: tuple[int, ...],
    epochs: int,
    num_samples: int,
    seed: int,
    runs: Path | None,
) -> tuple[nn.Module, Row]:
    """A variational autoencoder trained by the ELBO, and its figures."""
    start = time.monotonic()
    out = None if runs is None else runs / f"{data.name}-{latent_dim}"
    fitted = fastvi.fit(
        "vae",
        data,
        "elbo",
        epochs=epochs,
        learning_rate=LEARNING_RATE,
        latent_dim=latent_dim,
        hidden_dims=hidden_dims,
        seed=seed,
        out=out,
        resume=out is not None and out.exists(),
    )
    seconds = time.monotonic() - start
    images = test_images(data, fitted.config.binarization)
    images = images[evenly_spaced(min(TEST_IMAGES, len(images)), len(images))]
    if out is not None:
        write_pictures(fitted.model, images, data.image_shape, out)
    figures = fitted.evaluate(images, num_samples=num_samples)
    with torch.no_grad():
        divergence = float(fastvi.kl_normal(*fitted.model.encode(images)).mean())
    active = figures.active_units
    return fitted.model, Row(latent_dim, figures.elbo, figures.importance_weighted, divergence, active, seconds)


def save_picture(models: dict[int, nn.Module], rows: list[Row], shape: tuple[int, ...], path: Path) -> None:
    """Draw the samples, the plane of a two-dimensional model, and the figures."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    def show(axis: plt.Axes, images: Tensor, columns: int, title: str) -> None:
        axis.imshow(make_grid(images.reshape(-1, *shape), columns).numpy(), cmap="gray", vmin=0.0, vmax=1.0)
        axis.set_title(title)
        axis.axis("off")

    figure = plt.figure(figsize=(3.2 * len(models), 8.0), layout="constrained")
    cells = figure.add_gridspec(2, 2 * len(models), height_ratios=(3.0, 5.0))
    for number, (latent_dim, model) in enumerate(models.items()):
        axis = figure.add_subplot(cells[0, 2 * number : 2 * number + 2])
        drawn = sample(model, SAMPLE_COLUMNS**2, mean=True)
        show(axis, drawn.x, SAMPLE_COLUMNS, f"{latent_dim} latent dimensions")
    has_plane = 2 in models
    if has_plane:
        axis = figure.add_subplot(cells[1, : len(models)])
        show(axis, manifold(models[2], PLANE_COLUMNS), PLANE_COLUMNS, "plane of the two-dimensional model")
    axis = figure.add_subplot(cells[1, len(models) if has_plane else 0 :])
    places = [str(row.latent_dim) for row in rows]
    errors = [row.reconstruction_error for row in rows]
    axis.bar(places, errors, label="reconstruction error", color="tab:blue")
    axis.bar(places, [row.divergence for row in rows], bottom=errors, label="divergence", color="tab:orange")
    axis.plot(places, [-row.importance_weighted for row in rows], "k.-", label="-log p(x)")
    axis.set_xlabel("latent dimensions")
    axis.set_ylabel("nats of a test image")
    axis.legend(loc="lower right")
    figure.savefig(path, dpi=60)
    plt.close(figure)


def line(row: Row) -> str:
    """A line of the table."""
    figures = (-row.elbo, row.reconstruction_error, row.divergence, -row.importance_weighted)
    numbers = " | ".join(f"{figure:.2f}" for figure in figures)
    return f"| {row.latent_dim} | {numbers} | {row.active_units} | {row.seconds:.0f} |"


def widths(text: str) -> tuple[int, ...]:
    """Numbers that are separated by commas."""
    return tuple(int(part) for part in text.split(","))


def main() -> None:
    """Train, print the table line by line as it is found, and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="digits", help="a data set of fastvi train")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("FASTVI_DATA"), help="its folder")
    parser.add_argument("--dimensions", type=widths, default=DIMENSIONS, help="separated by commas")
    parser.add_argument("--hidden-dims", type=widths, default=(200,), help="widths of the encoder")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--num-samples", type=int, default=500, help="K of L_K, the estimate of log p(x)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, help="folder that keeps the runs; default: none does")
    parser.add_argument("--out", type=Path, help="file of the picture, such as latent_dimensions.png")
    options = parser.parse_args()
    data = load_dataset(options.data, options.data_dir)
    print("| latent dimensions | -ELBO | reconstruction | divergence | -L_K | active units | seconds |")
    print("|---|---|---|---|---|---|---|", flush=True)
    models, rows = {}, []
    for latent_dim in options.dimensions:
        training = (options.hidden_dims, options.epochs, options.num_samples, options.seed, options.runs)
        models[latent_dim], row = trained(data, latent_dim, *training)
        rows.append(row)
        print(line(row), flush=True)
    if options.out is not None:
        save_picture(models, rows, data.image_shape, options.out)


if __name__ == "__main__":
    main()
