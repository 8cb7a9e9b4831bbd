"""M1 of Kingma et al. 2014: classifiers that see few labels, on the latent variables of a VAE that was trained without.

    python examples/m1_classifiers.py                                              # scikit-learn's digits, a minute
    python examples/m1_classifiers.py --data mnist --data-dir DIR --out errors.csv
    python examples/m1_classifiers.py --data mnist --data-dir DIR --m1 RUN         # of `fastvi train --model vae`

prints the test error of each classifier on pixels, principal components, M1's posterior means and M1's re-sampled
latent variables, in %, mean and standard deviation over several draws of the labels. No classifier is tuned: they are
as scikit-learn has them, but for one neighbour of kNN, and the hidden layer of 300 and the epochs of MLP. The draws
have the seeds 0, 1, 2 and so on, each of as many labels of every class. There are as many principal components as
latent dimensions that M1 uses. --out has each error.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC, LinearSVC

import fastvi
from fastvi.data import Dataset, balanced_labels, evenly_spaced, load_dataset
from fastvi.semi_supervised import LatentFeatures, ResampledClassifier

FEATURES = ("pixels", "PCA", "M1 means", "M1 re-sampled")
CLASSIFIERS = ("LinearSVC", "LogisticRegression", "kNN", "SVC", "MLP")
MOST_DRAWS, MOST_ROWS = 50, 5000
"""Draws of each labelled image, and of all of them together: an SVC with a kernel takes the square of their number."""
MOST_EPOCHS, MOST_PRESENTED = 300, 100_000
"""The same for MLP, which sees another draw in each epoch, and as many epochs of pixels."""
OPTIONS: dict[str, dict[str, Any]] = {
    "digits": {"hidden_dims": (200, 200), "epochs": 100, "likelihood": "continuous-bernoulli", "binarization": "none"},
    "mnist": {"hidden_dims": (500, 500), "epochs": 10, "batch_size": 200},
}
"""Of the VAE, where none was trained before. MNIST's is the paper's, trained for minutes and not for days. The digits
are so small that ones and zeros leave too little of their grey values: their likelihood was chosen on a part of the
training images."""
PAPER = {100: 11.82, 600: 5.72, 1000: 4.24, 3000: 3.49}
"""M1 with a transductive SVM on MNIST, Table 1 of the paper."""
ROWS_OF_SPREAD = 1000


class Result(NamedTuple):
    """The error of one classifier on all test images, in %; ``draw`` is the seed of its labels."""

    features: str
    classifier: str
    labels: int
    draw: int
    error: float


def passes(name: str, count: int) -> int:
    """How often a classifier sees each of ``count`` images where it sees other draws of them."""
    most, presented = (MOST_EPOCHS, MOST_PRESENTED) if name == "MLP" else (MOST_DRAWS, MOST_ROWS)
    return max(2, min(most, presented // count))


def made_classifier(name: str, count: int, resampled: bool) -> Any:
    """A classifier; one that is to see all draws at once is regularised as if it saw each image once."""
    strength = 1.0 / passes(name, count) if resampled else 1.0
    made = {
        "LinearSVC": LinearSVC(C=strength, dual=False, random_state=0),
        "LogisticRegression": LogisticRegression(C=strength, max_iter=1000),
        "kNN": KNeighborsClassifier(1),
        "SVC": SVC(C=strength),
        "MLP": MLPClassifier((300,), max_iter=passes(name, count), n_iter_no_change=MOST_EPOCHS, random_state=0),
    }
    return made[name]


class Extractors(NamedTuple):
    """What makes features of images: M1, and as many principal components of the training images."""

    m1: LatentFeatures
    pca: PCA


def made_extractors(data: Dataset, model: Any) -> Extractors:
    """Both, fitted to training images without their labels."""
    some = evenly_spaced(min(ROWS_OF_SPREAD, len(data.train)), len(data.train))
    m1 = LatentFeatures(model).fit(data.train[some].numpy())
    components = min(len(m1.dimensions_), data.train.shape[1])
    return Extractors(m1, PCA(components, random_state=0).fit(data.train.numpy()))


def made_pipeline(features: str, name: str, extractors: Extractors, count: int) -> Any:
    """What learns from ``count`` labelled images."""
    m1, pca = extractors
    resampled = features == "M1 re-sampled"
    classifier = made_classifier(name, count, resampled)
    if resampled:
        return ResampledClassifier(classifier, FrozenEstimator(m1), num_draws=passes(name, count))
    if features == "pixels":
        return classifier
    return make_pipeline(FrozenEstimator(m1 if features == "M1 means" else pca), classifier)


def trained_m1(data: Dataset, seed: int, epochs: int | None) -> fastvi.training.fitted.Fit:
    """A VAE of all training images, without their labels."""
    options = OPTIONS.get(data.name, OPTIONS["mnist"])
    options = options if epochs is None else {**options, "epochs": epochs}
    return fastvi.fit("vae", data, "elbo", latent_dim=50, activation="softplus", seed=seed, **options)


def errors(
    data: Dataset, extractors: Extractors, name: str, features: str, counts: list[int], draws: int
) -> Iterator[Result]:
    """The errors of one line of the table."""
    train, labels, test = data.train.numpy(), data.train_labels.numpy(), data.test.numpy()
    for count in counts:
        for draw in range(draws):
            chosen = balanced_labels(labels, count, seed=draw).numpy()
            pipeline = made_pipeline(features, name, extractors, count)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # of MLP, whose epochs are given
                pipeline.fit(train[chosen], labels[chosen])
            wrong = pipeline.predict(test) != data.test_labels.numpy()
            yield Result(features, name, count, draw, 100.0 * wrong.mean())


def possible_counts(data: Dataset, wanted: list[int]) -> list[int]:
    """Those numbers of labels of which each class has enough."""
    least = int(data.train_labels.bincount().min())
    possible = [count for count in wanted if -(-count // data.num_classes) <= least]
    if left_out := sorted(set(wanted) - set(possible)):
        print(f"left out, because a class has {least} images: {', '.join(map(str, left_out))} labels\n")
    return possible


def line(found: list[Result], counts: list[int], seconds: float) -> str:
    """A line of the table."""
    cells = []
    for count in counts:
        values = np.array([result.error for result in found if result.labels == count])
        spread = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
        cells.append(f"{values.mean():.2f}{spread}")
    return f"| {found[0].classifier} | {found[0].features} | {' | '.join(cells)} | {seconds:.0f} |"


def arguments() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="digits", help="a data set of fastvi train with labels")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("FASTVI_DATA"), help="its folder")
    parser.add_argument("--m1", type=Path, help="run folder of a VAE that was trained before; default: one is trained")
    parser.add_argument("--epochs", type=int, help="of the VAE")
    parser.add_argument("--seed", type=int, default=0, help="of the VAE")
    parser.add_argument("--labels", type=int, nargs="+", default=[100, 600, 1000, 3000], help="numbers of them")
    parser.add_argument("--draws", type=int, default=3, help="draws of the labels")
    parser.add_argument("--classifiers", nargs="+", default=CLASSIFIERS, choices=CLASSIFIERS)
    parser.add_argument("--out", type=Path, help="CSV file of each error")
    return parser


def main(given: list[str] | None = None) -> None:
    """Print the table, line by line as it is found, and write the errors."""
    parser = arguments()
    options = parser.parse_args(given)
    data = load_dataset(options.data, options.data_dir, False)
    if data.train_labels is None:
        parser.error(f"the data {options.data} have no labels")
    counts = possible_counts(data, options.labels)
    start = time.monotonic()
    model = options.m1 or trained_m1(data, options.seed, options.epochs)
    extractors = made_extractors(data, model)
    m1 = extractors.m1
    print(
        f"M1: {len(m1.dimensions_)} of {len(m1.spreads_)} latent dimensions are spread by more than {m1.min_spread}; "
        f"{time.monotonic() - start:.0f} s\n",
        flush=True,
    )
    print(f"| classifier | features | {' | '.join(f'{count} labels' for count in counts)} | seconds |")
    print("|---|---|" + "---|" * (len(counts) + 1), flush=True)
    results = []
    for name in options.classifiers:
        for features in FEATURES:
            start = time.monotonic()
            found = list(errors(data, extractors, name, features, counts, options.draws))
            results += found
            print(line(found, counts, time.monotonic() - start), flush=True)
    if options.data == "mnist":
        cells = (f"{PAPER[count]}" if count in PAPER else "" for count in counts)
        print(f"| transductive SVM | M1, Kingma et al. 2014, Table 1 | {' | '.join(cells)} | |")
    if options.out is not None:
        with options.out.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([Result._fields, *results])


if __name__ == "__main__":
    main()
