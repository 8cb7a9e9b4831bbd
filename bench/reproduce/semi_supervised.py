"""Train and evaluate one draw of labels of the semi-supervised rows of docs/reproduction.md, or go on with it.

    python bench/reproduce/semi_supervised.py m1-m2 --labels 100 --draw 0 --out runs/reproduce --data-dir DATA

trains by ``fastvi train --labels`` on one thread with the seed ``--draw``, which draws the labels, too, evaluates on
all 10,000 test images and puts the error into bench/reproduce/results. M1 is the row vae-k1 of run.py; m1-svm is
scikit-learn's linear support-vector machine, as it comes, on M1's posterior means.
``--table`` prints mean and standard deviation over the draws that are there.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import statistics
import time
from pathlib import Path
from typing import Any

from run import IMAGES, RESULTS, epochs_of, fastvi, go_on, machine, write_row
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from fastvi.data import balanced_labels, evenly_spaced, load_dataset
from fastvi.semi_supervised import LatentFeatures

SHARED = (
    "--data mnist --labelled-batch 100 --activation relu --schedule cosine --schedule-warm-up 200 --schedule-end 0.01 "
    "--adam-epsilon 1e-6"
)
M2 = (
    "--hidden-dims 128 --batch-size 100 --learning-rate 0.005 --epochs 60 --precision bf16-mixed "
    "--hold-steps 600 --warm-up-steps 1800"
)
STACKED = "--hidden-dims 128 --latent-dim 20 --batch-size 400 --learning-rate 0.002 --epochs 300 --precision bf16-mixed"
MODELS = {
    "m2": f"--model m2 --binarization none {M2} {SHARED}",
    "m2-binarized": f"--model m2 --binarization dynamic {M2} {SHARED}",
    "m1-m2": f"--model m1-m2 --binarization dynamic {STACKED} {SHARED}",
}
"""M2 has the grey values themselves, as that of Pyro's tutorial; the other two draw each pixel at each presentation."""
SVM = "m1-svm"
ROWS_OF_SPREAD = 1000
PAPER = {
    (SVM, 100): "11.82",
    (SVM, 600): "5.72",
    (SVM, 1000): "4.24",
    (SVM, 3000): "3.49",
    ("m2", 100): "11.97 ± 1.71",
    ("m2", 600): "4.94 ± 0.13",
    ("m2", 1000): "3.60",
    ("m2", 3000): "3.92",
    ("m2-binarized", 100): "11.97 ± 1.71",
    ("m1-m2", 100): "3.33 ± 0.14",
    ("m1-m2", 600): "2.59 ± 0.05",
    ("m1-m2", 1000): "2.40",
    ("m1-m2", 3000): "2.18",
}
"""Errors in % of Kingma et al. 2014, table 1; the support-vector machine there is a transductive one."""
OTHERS = {("m2", 100): "6.8", ("m2", 600): "5.6", ("m2", 1000): "5.1", ("m2", 3000): "4.2", ("m1-m2", 100): "4.3"}
"""The best of others: M2 of Pyro's tutorial, which chose on 10,000 validation labels; M1+M2 of github.com/tijiang13."""


def train_and_evaluate(name: str, labels: int, draw: int, alpha: float, out: Path, data: list[str]) -> dict[str, Any]:
    """Train one model on one draw of labels and return its figures."""
    folder = out / f"{name}-{labels}-alpha{alpha:g}-draw{draw}"
    shared = ["--threads", "1", "--no-progress", "--no-evaluate", "--logger", "csv", *data]
    if (folder / "checkpoints" / "last.ckpt").exists():
        go_on(folder, *shared)
    else:
        options = [*shlex.split(MODELS[name]), "--labels", str(labels), "--seed", str(draw), "--alpha", str(alpha)]
        m1 = ["--m1", str(out / "vae-k1")] if name == "m1-m2" else []
        fastvi("train", "--out", str(folder), "--overwrite", *options, *m1, *shared)
    if not (folder / "evaluation.json").exists():
        few = ["--num-samples", "50"]  # each is one of every class; the error needs none
        fastvi("evaluate", str(folder), "--limit", str(IMAGES), "--threads", "1", "--no-progress", *few, *data)
    found = json.loads((folder / "evaluation.json").read_text())
    epochs = epochs_of(folder)
    return {
        "model": name,
        "labels": labels,
        "draw": draw,
        "alpha": alpha,
        "error": f"{found['figures']['error']:.2f}",
        "images": found["images"],
        "steps": epochs[-1]["step"],
        "epochs": epochs[-1]["epoch"],
        "minutes": f"{sum(float(epoch['seconds']) for epoch in epochs) / 60:.1f}",
        "options": MODELS[name],
        "machine": machine(),
    }


def fit_svm(labels: int, draw: int, out: Path, data_dir: str | None) -> dict[str, Any]:
    """Fit the linear support-vector machine to one draw of labels and return its figures."""
    start = time.monotonic()
    data = load_dataset("mnist", data_dir, False)
    train, classes, test = data.train.numpy(), data.train_labels.numpy(), data.test.numpy()
    chosen = balanced_labels(classes, labels, seed=draw).numpy()
    m1 = LatentFeatures(out / "vae-k1").fit(train[evenly_spaced(ROWS_OF_SPREAD, len(train))])
    classifier = make_pipeline(FrozenEstimator(m1), LinearSVC(dual=False, random_state=draw))
    wrong = classifier.fit(train[chosen], classes[chosen]).predict(test) != data.test_labels.numpy()
    return {
        "model": SVM,
        "labels": labels,
        "draw": draw,
        "alpha": "-",
        "error": f"{100.0 * wrong.mean():.2f}",
        "images": len(test),
        "minutes": f"{(time.monotonic() - start) / 60:.1f}",
        "options": "LinearSVC(dual=False)",
        "machine": machine(),
    }


def print_table() -> None:
    """Print mean and standard deviation over the draws of each model and number of labels."""
    errors: dict[tuple[str, int, str], list[float]] = {}
    for path in sorted(RESULTS.glob("*-draw*.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                key = row["model"], int(row["labels"]), row["alpha"]
                errors.setdefault(key, []).append(float(row["error"]))
    head = ["model", "labels", "alpha", "error, %", "draws", "paper", "best other"]
    for cells in (head, ["---"] * len(head)):
        print(f"| {' | '.join(cells)} |")
    for (name, labels, alpha), found in sorted(errors.items()):
        spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
        draws = ", ".join(f"{error:.2f}" for error in found)
        paper, other = PAPER.get((name, labels), "-"), OTHERS.get((name, labels), "-")
        mean = statistics.mean(found)
        print(f"| {name} | {labels} | {alpha} | {mean:.2f}{spread} | {draws} | {paper} | {other} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", choices=[SVM, *MODELS], help="which model")
    parser.add_argument("--labels", type=int, default=100, help="images that keep their label")
    parser.add_argument("--draw", type=int, default=0, help="seed of the run, which draws the labels")
    parser.add_argument("--alpha", type=float, default=0.1, help="weight of the classifier's term; the paper's is 0.1")
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"), help="folder of the runs")
    parser.add_argument("--data-dir", help="folder of MNIST's idx files; default: that of FASTVI_DATA")
    parser.add_argument("--table", action="store_true", help="print the table of all results")
    chosen = parser.parse_args()
    if chosen.table or chosen.model is None:
        print_table()
        return
    data = ["--data-dir", chosen.data_dir] if chosen.data_dir else []
    if chosen.model == SVM:
        made = fit_svm(chosen.labels, chosen.draw, chosen.out, chosen.data_dir)
        alpha = ""
    else:
        made = train_and_evaluate(chosen.model, chosen.labels, chosen.draw, chosen.alpha, chosen.out, data)
        alpha = f"-alpha{chosen.alpha:g}"
    path = RESULTS / f"{chosen.model}-{chosen.labels}{alpha}-draw{chosen.draw}.csv"
    write_row(path, made)
    print(f"{path}: error {made['error']} %")


if __name__ == "__main__":
    main()
