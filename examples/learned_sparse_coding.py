"""Sparse codes of patches of photographs: a learned dictionary, and networks that predict codes.

    python examples/learned_sparse_coding.py --out runs/sparse-coding

learns a dictionary of edges from patches of the two photographs that scikit-learn ships, and prints three tables: how
near LISTA comes to the codes beside ISTA and FISTA of as many steps, how long the predictor of PSD takes beside the
optimisers, and how long 100,000 patches take beside scikit-learn. ``--out`` gets the tables as CSV and a picture of the
atoms. Takes about ten minutes on two cores; ``--quick`` does less of everything.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_sample_images
from sklearn.decomposition import SparseCoder as ScikitSparseCoder
from torch import Tensor

from fastvi.coding import LISTA, PSD, DictionaryLearning, active_set, fista, ista, lasso_objective

_LEAST_CONTRAST = 10.0
"""Is added to a patch's deviation, in grey levels, so that noise in flat patches is not blown up."""


class Sizes(NamedTuple):
    """How much of everything."""

    train: int
    test: int
    epochs: int
    ista_steps: int
    timed: int
    scikit: int


FULL = Sizes(train=50_000, test=5_000, epochs=15, ista_steps=1000, timed=100_000, scikit=100_000)
QUICK = Sizes(train=2_000, test=300, epochs=3, ista_steps=300, timed=1_000, scikit=200)


def patches(count: int, size: int, seed: int) -> npt.NDArray[np.float64]:
    """Grey patches (count, size * size) from random places, about their mean, in units of their contrast."""
    generator = np.random.default_rng(seed)
    images = [image.mean(-1) for image in load_sample_images().images]
    found = np.empty((count, size * size))
    for k in range(count):
        image = images[k % len(images)]
        top, left = (int(generator.integers(length - size + 1)) for length in image.shape)
        found[k] = image[top : top + size, left : left + size].ravel()
    found -= found.mean(1, keepdims=True)
    return found / (found.std(1, keepdims=True) + _LEAST_CONTRAST)


def code_error(codes: Tensor, best: Tensor) -> float:
    """Squared error of codes over the mean square of the best ones."""
    return float((codes - best).square().sum(-1).mean() / best.square().sum(-1).mean())


def ista_errors(x: Tensor, dictionary: Tensor, alpha: float, best: Tensor, num_steps: int) -> list[float]:
    """Code errors of ISTA after each step."""
    codes, errors = None, []
    for _ in range(num_steps):
        codes = ista(x, dictionary, alpha, start=codes, num_steps=1, tolerance=0.0).codes
        errors.append(code_error(codes, best))
    return errors


def compare_lista(
    train: Tensor, test: Tensor, dictionary: Tensor, alpha: float, sizes: Sizes, depths: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Errors of LISTA's codes beside ISTA's and FISTA's after as many steps, and the steps ISTA takes to that error."""
    targets, best = (active_set(x, dictionary, alpha).codes for x in (train, test))
    least = lasso_objective(test, best, dictionary, alpha).mean()
    errors = ista_errors(test, dictionary, alpha, best, sizes.ista_steps)
    rows = []
    for depth in depths:
        for name, options in (
            ("as published", {}),
            ("separate weights, momentum", {"shared_weights": False, "momentum": True}),
        ):
            network = LISTA(dictionary, alpha, depth, **options)
            rate = 1e-3 if depth < 10 else 4e-4  # through many layers a step of Adam goes a longer way
            network.fit(train, targets, epochs=sizes.epochs, batch_size=256, learning_rate=rate)
            with torch.no_grad():
                codes = network(test)
            error = code_error(codes, best)
            steps = sum(each > error for each in errors) + 1
            is_reached = steps <= len(errors)
            excess = lasso_objective(test, codes, dictionary, alpha).mean() / least - 1.0
            rows.append(
                {
                    "layers": depth,
                    "network": name,
                    "ISTA": errors[depth - 1],
                    "FISTA": code_error(
                        fista(test, dictionary, alpha, num_steps=depth, tolerance=0.0, restart=False).codes, best
                    ),
                    "LISTA": error,
                    "objective above the best": float(excess),
                    "ISTA steps for that error": steps if is_reached else f"> {len(errors)}",
                    "steps / layers": steps / depth if is_reached else f"> {len(errors) / depth:.0f}",
                }
            )
    return rows


def seconds_of(call: Callable[[], Any], repeats: int = 3) -> float:
    """The shortest time of some calls."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def compare_psd(train: Tensor, test: Tensor, atoms: int, alpha: float, epochs: int) -> list[dict[str, Any]]:
    """The predictor of PSD beside optimisers with its dictionary: time for each patch, and the mean objective."""
    model = PSD(train.shape[1], atoms, alpha, prediction_weight=1.0, seed=0)
    model.fit(train, epochs=epochs)
    dictionary = model.dictionary
    rows = []

    def predicted() -> Tensor:
        with torch.no_grad():
            codes: Tensor = model(test)
            return codes

    ways: dict[str, Callable[[], Tensor]] = {
        "PSD's predictor": predicted,
        "active_set": lambda: active_set(test, dictionary, alpha).codes,
        "fista, gap 1e-3": lambda: fista(test, dictionary, alpha, tolerance=1e-3, num_steps=5000).codes,
        "ista, gap 1e-3": lambda: ista(test, dictionary, alpha, tolerance=1e-3, num_steps=5000).codes,
    }
    best = ways["active_set"]()
    for name, way in ways.items():
        codes = way()
        rows.append(
            {
                "codes by": name,
                "microseconds a patch": 1e6 * seconds_of(way, 1 if name.startswith("ista") else 3) / len(test),
                "mean objective": float(lasso_objective(test, codes, dictionary, alpha).mean()),
                "reconstruction error": float((test - codes @ dictionary).square().sum(-1).mean() / 2),
                "code error": code_error(codes, best),
            }
        )
    for row in rows:
        row["time / predictor's"] = row["microseconds a patch"] / rows[0]["microseconds a patch"]
    return rows


def compare_scikit(
    x: npt.NDArray[np.float64], dictionary: npt.NDArray[np.float64], alpha: float, scikit_rows: int
) -> list[dict[str, Any]]:
    """Seconds for all rows; scikit-learn's, where it codes fewer of them, by the row."""
    found = active_set(x, dictionary, alpha)
    ours = seconds_of(lambda: active_set(x, dictionary, alpha))
    rows: list[dict[str, Any]] = [
        {"coder": "fastvi active_set", "rows": len(x), "seconds": ours, "seconds for all / fastvi's": 1.0}
    ]
    part = x[:scikit_rows]
    least = float(found.objective[: len(part)].mean())
    rows[0]["objective above the best"] = 0.0
    for algorithm in ("lasso_cd", "lasso_lars"):
        coder = ScikitSparseCoder(dictionary, transform_algorithm=algorithm, transform_alpha=alpha, n_jobs=2)
        start = time.perf_counter()
        codes = coder.transform(part)
        seconds = time.perf_counter() - start
        rows.append(
            {
                "coder": f"scikit-learn {algorithm}, n_jobs 2",
                "rows": len(part),
                "seconds": seconds,
                "seconds for all / fastvi's": seconds * len(x) / len(part) / ours,
                "objective above the best": float(lasso_objective(part, codes, dictionary, alpha).mean()) / least - 1.0,
            }
        )
    return rows


def show(title: str, rows: list[dict[str, Any]], file: Path | None) -> None:
    """Print a table, and write it as CSV where there is a folder."""
    names = list(rows[0])
    texts = [[f"{row[name]:.3g}" if isinstance(row[name], float) else str(row[name]) for name in names] for row in rows]
    print(f"\n{title}\n\n| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for text in texts:
        print(f"| {' | '.join(text)} |")
    if file is not None:
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, names)
            writer.writeheader()
            writer.writerows(rows)


def draw_atoms(dictionary: npt.NDArray[Any], size: int, file: Path) -> None:
    """A picture of all atoms, those that are used most first."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = 16
    count = -(-len(dictionary) // columns)
    figure, axes = pyplot.subplots(count, columns, figsize=(columns * 0.5, count * 0.5), squeeze=False)
    for k, axis in enumerate(axes.flat):
        axis.axis("off")
        if k < len(dictionary):
            limit = np.abs(dictionary[k]).max()
            axis.imshow(dictionary[k].reshape(size, size), cmap="gray", vmin=-limit, vmax=limit)
    figure.savefig(file, dpi=100, bbox_inches="tight")
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Learn, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the tables and the picture")
    parser.add_argument("--patch-size", type=int, default=10)
    parser.add_argument("--atoms", type=int, default=256)
    parser.add_argument("--alpha", type=float, default=1.0, help="weight of the L1 norm")
    parser.add_argument("--layers", type=int, nargs="+", default=[3, 7, 16], help="depths of LISTA")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args(arguments)
    sizes = QUICK if chosen.quick else FULL
    out: Path | None = chosen.out
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)

    def file(name: str) -> Path | None:
        return None if out is None else out / name

    x = patches(max(sizes.train + sizes.test, sizes.timed), chosen.patch_size, chosen.seed)
    train, test = (torch.from_numpy(part.astype(np.float32)) for part in (x[: sizes.train], x[-sizes.test :]))
    learner = DictionaryLearning(
        chosen.atoms, alpha=chosen.alpha, max_iter=10, batch_size=512, random_state=chosen.seed
    ).fit(train)
    first, last = learner.objectives_[0], learner.objectives_[-1]
    print(f"dictionary: mean objective {first:.3f} in the first pass, {last:.3f} in the last")
    dictionary = torch.from_numpy(learner.components_)
    if out is not None:
        draw_atoms(learner.components_, chosen.patch_size, out / "atoms.png")
    wide = learner.components_.astype(np.float64)
    show(
        "Sparse coding of patches",
        compare_scikit(x[: sizes.timed], wide, chosen.alpha, sizes.scikit),
        file("solvers.csv"),
    )
    show("Predictive sparse decomposition", compare_psd(train, test, chosen.atoms, chosen.alpha, 10), file("psd.csv"))
    torch.manual_seed(chosen.seed)
    rows = compare_lista(train, test, dictionary, chosen.alpha, sizes, tuple(chosen.layers))
    show("Squared error of codes, over the mean square of the best ones", rows, file("lista.csv"))


if __name__ == "__main__":
    main()
