"""What a code is worth: the accuracy of a linear classifier of pixels, principal components and autoencoders' codes.

Each autoencoder is trained without labels, as `fastvi train` does it, and a logistic regression of the labels is fitted
to the codes of the training images: a linear probe. The encoder with its first random weights is the control.

    python examples/linear_probe.py                                             # scikit-learn's digits, a minute
    python examples/linear_probe.py --data mnist --data-dir DIR --epochs 10 --out linear_probe.md

prints one table and writes it to --out. With --runs the runs are kept, each with its pictures, and found there again.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from fastvi.data import Dataset, load_dataset
from fastvi.models import MODELS, DataShape, ModelOptions
from fastvi.objectives import Reconstruction
from fastvi.training.config import RunFolder, TrainingConfig
from fastvi.training.pictures import write_pictures
from fastvi.training.trainer import train

SEED = 0
AUTOENCODERS: dict[str, tuple[str, dict[str, object]]] = {
    "autoencoder": ("autoencoder", {}),
    "sparse": ("sparse-autoencoder", {}),
    "k-sparse": ("k-sparse-autoencoder", {}),
    "contractive": ("contractive-autoencoder", {}),
    "denoising, masking": ("denoising-autoencoder", {}),
    "denoising, Gaussian": ("denoising-autoencoder", {"corruption": "gaussian"}),
    "denoising, salt and pepper": ("denoising-autoencoder", {"corruption": "salt-and-pepper"}),
}
"""A name in the table, the model of `fastvi train`, and its options beside the defaults."""


class Row(NamedTuple):
    """A line of the table; the squared error of a test image's reconstruction is None where there is none."""

    name: str
    values: int
    accuracy: float
    squared_error: float | None
    seconds: float


def probe(train_codes: Tensor, test_codes: Tensor, data: Dataset, iterations: int) -> float:
    """Accuracy on the test images of a logistic regression fitted to the training images, in per cent.

    The codes are centred and divided by one number, so that the solver finds them all of the same size.
    """
    centre = train_codes.mean(0)
    scale = (train_codes - centre).square().mean().sqrt().clamp_min(torch.finfo(train_codes.dtype).tiny)
    classifier = LogisticRegression(max_iter=iterations)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # all probes have the same number of iterations at most
        classifier.fit(((train_codes - centre) / scale).numpy(), data.train_labels)
    return 100.0 * float(classifier.score(((test_codes - centre) / scale).numpy(), data.test_labels))


@torch.no_grad()
def codes(model: nn.Module, images: Tensor) -> Tensor:
    """The codes (N, Z) of images (N, D), a thousand at a time."""
    return torch.cat([model.code(some) for some in images.split(1000)])


@torch.no_grad()
def squared_error(model: nn.Module, images: Tensor) -> float:
    """Mean over the images of the squared distance to their reconstructions."""
    return float((model.reconstruct(images) - images).square().sum(-1).mean())


def make_options(model: str, given: dict[str, object], data: Dataset, latent_dim: int | None) -> ModelOptions:
    """The options of a model for these data; a code of ``latent_dim`` values, by default of the model's number."""
    sizes = {} if latent_dim is None else {"latent_dim": latent_dim}
    if latent_dim is not None and model == "k-sparse-autoencoder":
        sizes["num_active"] = max(1, latent_dim // 12)  # the share of the defaults
    return MODELS.make(model, error=data.likelihood, **sizes, **given)


def trained(options: ModelOptions, data: Dataset, epochs: int, folder: Path) -> nn.Module:
    """The model, trained in a run folder, which has its pictures afterwards; a run that is there is gone on with."""
    config = TrainingConfig(
        data=data.name,
        image_shape=data.image_shape,
        objective=Reconstruction(),
        model=options,
        binarization="none",
        epochs=epochs,
        batch_size=100,
        learning_rate=1e-3,
        seed=SEED,
    )
    run = RunFolder(folder)
    run.write_config(config)
    model = train(config, data, run, console=Console(quiet=True), progress=False)
    write_pictures(model, data.test, data.image_shape, folder)
    return model


def pca_row(data: Dataset, components: int, iterations: int) -> Row:
    """Principal components."""
    start = time.monotonic()
    pca = PCA(components, random_state=SEED).fit(data.train)
    found = [torch.from_numpy(pca.transform(images)).float() for images in (data.train, data.test)]
    error = (torch.from_numpy(pca.inverse_transform(found[1])) - data.test).square().sum(-1).mean()
    return Row("PCA", components, probe(*found, data, iterations), float(error), time.monotonic() - start)


def model_row(name: str, model: nn.Module, data: Dataset, iterations: int, start: float, has_error: bool) -> Row:
    """The code of a model."""
    found = [codes(model, images) for images in (data.train, data.test)]
    error = squared_error(model, data.test) if has_error else None
    return Row(name, found[0].shape[1], probe(*found, data, iterations), error, time.monotonic() - start)


def line(row: Row) -> str:
    """A line of the table."""
    error = "" if row.squared_error is None else f"{row.squared_error:.2f}"
    return f"| {row.name} | {row.values} | {row.accuracy:.2f} | {error} | {row.seconds:.0f} |"


def main() -> None:
    """Print the table, line by line as it is found, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="digits", help="a data set of fastvi train with labels")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("FASTVI_DATA"), help="its folder")
    parser.add_argument("--epochs", type=int, default=100, help="of each autoencoder")
    parser.add_argument("--latent-dim", type=int, help="values of each code; default: 500, of the plain autoencoder 50")
    parser.add_argument("--components", type=int, default=50, help="of PCA")
    parser.add_argument("--iterations", type=int, default=300, help="most iterations of the logistic regression")
    parser.add_argument("--runs", type=Path, help="folder that keeps the runs; default: none does")
    parser.add_argument("--out", type=Path, help="file of the table")
    options = parser.parse_args()
    data = load_dataset(options.data, options.data_dir, False)
    if data.train_labels is None:
        parser.error(f"the data {options.data} have no labels")

    lines = ["| code | values | accuracy, % | squared error | seconds |", "|---|---|---|---|---|"]
    print(*lines, sep="\n", flush=True)

    def add(row: Row) -> None:
        lines.append(line(row))
        print(lines[-1], flush=True)

    start = time.monotonic()
    accuracy = probe(data.train, data.test, data, options.iterations)
    add(Row("pixels", data.train.shape[1], accuracy, None, time.monotonic() - start))
    add(pca_row(data, options.components, options.iterations))
    torch.manual_seed(SEED)
    control = make_options("denoising-autoencoder", {}, data, options.latent_dim)
    untrained = control.build(DataShape(data.image_shape), data.train.mean(0))
    add(model_row("random weights", untrained, data, options.iterations, time.monotonic(), False))
    with tempfile.TemporaryDirectory() as scratch:
        for name, (model_name, given) in AUTOENCODERS.items():
            start = time.monotonic()
            made = make_options(model_name, given, data, options.latent_dim)
            folder = (options.runs or Path(scratch)) / name.replace(",", "").replace(" ", "-")
            model = trained(made, data, options.epochs, folder)
            add(model_row(name, model, data, options.iterations, start, True))
    if options.out is not None:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
