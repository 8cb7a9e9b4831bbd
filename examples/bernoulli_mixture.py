"""A mixture of Bernoullis on binarised digits: its means as a picture, and the log-likelihood of test images.

Each of the components is a probability for every pixel; exact EM fits them. The mixture is the simplest latent variable
model of binarised MNIST, whose log-likelihood needs no bound: beside it stand those of variational autoencoders.

    python examples/bernoulli_mixture.py --data mnist --data-dir data --out bernoulli_mixture.png

takes about a minute on two cores; ``--data digits`` needs no files, and a second.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from fastvi.data import STATIC_BINARIZATION_SEED, Dataset, binarize, load_dataset, test_images
from fastvi.em import Bernoulli, Mixture


class Fitted(NamedTuple):
    mixture: Mixture
    dataset: Dataset
    train: float  # mean log-likelihood of an image, in nats
    test: float
    standard_error: float  # of the latter, over images


def fit(dataset: Dataset, components: int, iterations: int, starts: int, seed: int) -> Fitted:
    """Fit a mixture to the training images, binarised once, and look at the test images as `fastvi train` does."""
    train, test = binarize(dataset.train, STATIC_BINARIZATION_SEED), test_images(dataset, "dynamic")
    # A pixel that no image of a component has may yet be on in a test image.
    family = Bernoulli(margin=1e-3)
    mixture = Mixture(family, components, max_iter=iterations, n_init=starts, random_state=seed).fit(train)
    of_images: Tensor = mixture.score_samples(test)
    error = float(of_images.std()) / math.sqrt(len(test))
    return Fitted(mixture, dataset, mixture.score(train), float(of_images.mean()), error)


def save_picture(fitted: Fitted, path: Path) -> None:
    """Draw the components' means, the most frequent one first."""
    import matplotlib.pyplot as plt

    order = fitted.mixture.weights_.argsort()[::-1]
    columns = min(10, len(order))
    rows = math.ceil(len(order) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(columns, rows * 1.15), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, k in zip(axes.flat, order, strict=False):
        axis.imshow(fitted.mixture.means_[k].reshape(fitted.dataset.image_shape), cmap="gray_r", vmin=0, vmax=1)
        axis.set_title(f"{fitted.mixture.weights_[k]:.3f}", fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="data set, as `fastvi train --data` names it")
    parser.add_argument("--data-dir", type=Path, help="folder of its files; default: FASTVI_DATA")
    parser.add_argument("--components", type=int, default=50)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--starts", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file of the picture, such as bernoulli_mixture.png")
    options = parser.parse_args()
    dataset = load_dataset(options.data, options.data_dir)
    found = fit(dataset, options.components, options.iterations, options.starts, options.seed)
    print(
        f"{options.data}, {options.components} components, {found.mixture.n_iter_} iterations: log-likelihood of an "
        f"image {found.train:.2f} in training, {found.test:.2f} in test, standard error {found.standard_error:.2f} nats"
    )
    if options.out is not None:
        save_picture(found, options.out)


if __name__ == "__main__":
    main()
