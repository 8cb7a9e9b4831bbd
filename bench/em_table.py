"""Exact EM of mixtures of Gaussians beside scikit-learn's: seconds for an iteration, and memory.

    python bench/em_table.py
    python bench/em_table.py --memory

The first prints, in Markdown, the time of whole fits from the same start, divided by their iterations: on the 50 first
components of MNIST's 60,000 training images, read from the folder that FASTVI_DATA names (without it, on as many
synthetic rows), and on 20,000 rows of 10 columns. Fits of both libraries take turns, their BLAS limited to as many
threads; best and median over the repeats. `--threads 1 --processor-time` is for a machine that has other work: there
threads that wait for each other, as those of BLAS do, can take many times as long. In the second a fresh process for
each number of rows fits 64 components with diagonal covariances to float32 rows of 50 columns, and tells how far its
memory grew beyond the data.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from fastvi.benchmarks.em import mixture_rows
from fastvi.data import DataError, load_dataset


def mnist_components(columns: int = 50) -> tuple[str, np.ndarray]:
    """The images' first principal components, or as many synthetic rows, and what they are."""
    try:
        images = load_dataset("mnist").train.double().numpy()
    except DataError:
        return f"synthetic, 60,000 x {columns}", mixture_rows(60_000, columns, 32, torch.float64).numpy()
    centred = images - images.mean(0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    return f"MNIST, 60,000 x {columns}", np.ascontiguousarray(centred @ directions[:, : -columns - 1 : -1])


def start_of(x: np.ndarray, components: int, covariance_type: str) -> dict[str, Any]:
    """Equal weights, some rows as means, the variances of the columns."""
    precision = 1.0 / x.var(0)
    precisions = np.stack([np.diag(precision) if covariance_type == "full" else precision] * components)
    weights = np.full(components, 1.0 / components)
    return {"weights_init": weights, "means_init": x[:components].copy(), "precisions_init": precisions}


def fit_of(mixture: Any, x: np.ndarray, components: int, covariance_type: str, iterations: int) -> Callable[[], Any]:
    """A call that fits, with so many iterations and one start."""
    start = start_of(x, components, covariance_type)
    options = {"covariance_type": covariance_type, "max_iter": iterations, "n_init": 1, "tol": 0.0, **start}

    def fit() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it did not converge
            return mixture(components, **options).fit(x)

    return fit


def compared(
    x: np.ndarray, components: int, covariance_type: str, iterations: int, repeats: int, clock: Callable[[], float]
) -> list[str]:
    """The cells of a row: best and median milliseconds of both for an iteration, and their ratios."""
    from sklearn.mixture import GaussianMixture as ScikitMixture

    from fastvi.em import GaussianMixture

    fits = [fit_of(kind, x, components, covariance_type, iterations) for kind in (GaussianMixture, ScikitMixture)]
    ours, theirs = (fit() for fit in fits)  # warm
    if not np.isclose(ours.score(x), theirs.score(x), rtol=1e-8):
        raise RuntimeError(f"not the same fit: {ours.score(x)} and {theirs.score(x)}")
    seconds: list[list[float]] = [[], []]
    for _ in range(repeats):
        for fit, own in zip(fits, seconds, strict=True):
            begin = clock()
            fit()
            own.append((clock() - begin) / iterations)
    best = [min(own) for own in seconds]
    median = [statistics.median(own) for own in seconds]
    times = [f"{1e3 * low:.3g} / {1e3 * mid:.3g}" for low, mid in zip(best, median, strict=True)]
    return [*times, f"{best[1] / best[0]:.1f} / {median[1] / median[0]:.1f}"]


def resident_megabytes(which: str) -> float:
    """Of this process, as Linux tells: `VmRSS` now, `VmHWM` the most so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{which}:")[2].split()[0]) / 1024


def grown_memory(rows: int, columns: int = 50, components: int = 64) -> dict[str, float]:
    """Of a fit in this process: its time for an iteration, and the megabytes that it needed beside the data."""
    from fastvi.em import GaussianMixture

    x = np.random.default_rng(0).standard_normal((rows, columns), dtype=np.float32)
    fit = fit_of(GaussianMixture, x, components, "diag", 5)
    Path("/proc/self/clear_refs").write_text("5")  # the most so far is what there is now
    before = resident_megabytes("VmRSS")
    begin = time.perf_counter()
    fit()
    return {"seconds": (time.perf_counter() - begin) / 5, "megabytes": resident_megabytes("VmHWM") - before}


def print_times(threads: int, iterations: int, repeats: int, clock: Callable[[], float]) -> None:
    """The table of all cases; more iterations where there are few rows."""
    name, digits = mnist_components()
    torch.manual_seed(0)
    small = mixture_rows(20_000, 10, 5, torch.float64).numpy()
    cases = [(name, digits, 32, "diag"), (name, digits, 32, "full"), ("synthetic, 20,000 x 10", small, 5, "diag")]
    print(f"{threads} threads; milliseconds for an iteration, best / median of {repeats} fits")
    print("| rows | components | covariance | fastvi | scikit-learn | scikit-learn / fastvi |")
    print("| --- | --- | --- | --- | --- | --- |")
    for label, x, components, covariance_type in cases:
        of_fit = iterations * (10 if len(x) < 50_000 else 1)
        with threadpool_limits(limits=threads, user_api="blas"):
            cells = compared(x, components, covariance_type, of_fit, repeats, clock)
        print(f"| {label} | {components} | {covariance_type} | {' | '.join(cells)} |", flush=True)


def print_memory(threads: int) -> None:
    """The table of processes with more and more rows."""
    print("| float32 rows x 50, 64 diagonal components | ms for an iteration | MB beside the data |")
    print("| --- | --- | --- |")
    for rows in (10**4, 10**5, 10**6):
        command = [sys.executable, __file__, "--memory-of", str(rows), "--threads", str(threads)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"| {rows:,} | {1e3 * found['seconds']:.0f} | {found['megabytes']:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=5, help="of a fit")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--processor-time", action="store_true", help="of all threads, in place of the time that passed"
    )
    parser.add_argument("--memory", action="store_true", help="print the table of memory, not that of times")
    parser.add_argument("--memory-of", type=int, metavar="ROWS", help="print the figures of this one process")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of is not None:
        print(json.dumps(grown_memory(options.memory_of)))
    elif options.memory:
        print_memory(options.threads)
    else:
        clock = time.process_time if options.processor_time else time.perf_counter
        print_times(options.threads, options.iterations, options.repeats, clock)


if __name__ == "__main__":
    main()
