"""Codes that move in straight lines: autoencoders of films with more and more weight on the linearisation error.

Each is trained, as `fastvi train --model slow-autoencoder` does it, with one weight; the weight 0 is the plain
autoencoder. What is told is of films that no model has seen.

    python examples/slow_features.py --out slow-features                       # a spot that moves, half a minute
    python examples/slow_features.py --data frey --data-dir DIR --out slow-features-frey

prints a table, and writes it and the codes' trajectories (trajectories.png) to the folder --out.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from torch import Tensor

from fastvi.autoencoders import SlowAutoencoder, SlowAutoencoderOptions, linearisation_error, slowness
from fastvi.data import Dataset, load_dataset
from fastvi.objectives import Reconstruction
from fastvi.training.config import RunFolder, TrainingConfig
from fastvi.training.trainer import train
from fastvi.training.trajectories import plane
from fastvi.training.windows import held_out_sequences, held_out_windows

SEED = 0
BLOCK = 39
"""Frames of a part of the video: every fifth part is held out."""
TRAJECTORIES = 8
WEIGHTS = {"moving-spot": (0.0, 10.0, 30.0, 100.0), "frey": (0.0, 1.0, 3.0, 10.0)}
EPOCHS = {"moving-spot": 60, "frey": 40}


class Row(NamedTuple):
    """A line of the table; the figures are means over the windows of films that were not trained on."""

    weight: float
    squared_error: float
    linearisation: float
    slowness: float


def in_parts(video: Dataset) -> Dataset:
    """The frames of one video, of which whole parts are held out: its own test frames all have neighbours to train."""
    assert video.train_times is not None
    assert video.test_times is not None
    times = torch.cat([video.train_times, video.test_times])
    order = times.argsort()
    frames, part = torch.cat([video.train, video.test])[order], times[order] // BLOCK
    is_test = part % 5 == 4
    apart = times[order] + part  # between two parts a time is missing, so that no window is in both
    return Dataset(
        video.name,
        frames[~is_test],
        frames[is_test],
        video.image_shape,
        video.likelihood,
        train_times=apart[~is_test],
        test_times=apart[is_test],
    )


def trained(data: Dataset, weight: float, latent_dim: int, epochs: int, folder: Path) -> SlowAutoencoder:
    """The model of one weight."""
    config = TrainingConfig(
        data=data.name,
        image_shape=data.image_shape,
        objective=Reconstruction(),
        model=SlowAutoencoderOptions(latent_dim=latent_dim, linearisation=weight),
        binarization="none",
        epochs=epochs,
        batch_size=100,
        learning_rate=1e-3,
        seed=SEED,
    )
    run = RunFolder(folder)
    run.write_config(config)
    model = train(config, data, run, console=Console(quiet=True), progress=False)
    assert isinstance(model, SlowAutoencoder)
    return model


@torch.no_grad()
def row(model: SlowAutoencoder, windows: Tensor) -> Row:
    """The figures of a model."""
    codes = model.code(windows)
    error = (model.reconstruct(windows[:, 1]) - windows[:, 1]).square().sum(-1).mean()
    found = (error, linearisation_error(codes).mean(), slowness(codes))
    return Row(model.linearisation, *(float(value) for value in found))


@torch.no_grad()
def save_picture(models: list[SlowAutoencoder], data: Dataset, path: Path) -> None:
    """Draw the codes of some films that were held out, a panel for each model: a line from dark to light."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    films = list(held_out_sequences(data, "none"))[:TRAJECTORIES]
    figure, axes = plt.subplots(1, len(models), figsize=(3.2 * len(models), 3.4), squeeze=False)
    for axis, model in zip(axes[0], models, strict=True):
        for path_of_film in plane([model.code(film) for film in films]):
            x, y = path_of_film.unbind(1)
            axis.plot(x, y, color="0.8", linewidth=1, zorder=1)
            axis.scatter(x, y, c=torch.arange(len(x)), cmap="viridis", s=8, zorder=2)
        axis.set_title(f"weight {model.linearisation:g}", fontsize=9)
        axis.set_aspect("equal", adjustable="datalim")
        axis.set_xticks([])
        axis.set_yticks([])
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    """Print the table, line by line as it is found, and write it with the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", choices=("moving-spot", "frey"), default="moving-spot")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("FASTVI_DATA"), help="folder of frey")
    parser.add_argument("--weights", type=float, nargs="+", help=f"default: {WEIGHTS}")
    parser.add_argument("--latent-dim", type=int, default=10, help="values of the code")
    parser.add_argument("--epochs", type=int, help=f"default: {EPOCHS}")
    parser.add_argument("--out", type=Path, help="folder of the table and the picture")
    options = parser.parse_args()
    data = load_dataset(options.data, options.data_dir)
    if options.data == "frey":
        data = in_parts(data)
    weights, epochs = options.weights or WEIGHTS[options.data], options.epochs or EPOCHS[options.data]
    windows = held_out_windows(data, "none")
    lines = ["| weight | squared error | linearisation error | slowness |", "|---|---|---|---|"]
    print(*lines, sep="\n", flush=True)
    models = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, weight in enumerate(weights):
            models.append(trained(data, weight, options.latent_dim, epochs, Path(scratch) / str(number)))
            found = row(models[-1], windows)
            figures = (found.squared_error, found.linearisation, found.slowness)
            lines.append(f"| {weight:g} | {' | '.join(f'{value:.4f}' for value in figures)} |")
            print(lines[-1], flush=True)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "table.md").write_text("\n".join(lines) + "\n")
        save_picture(models, data, options.out / "trajectories.png")


if __name__ == "__main__":
    main()
