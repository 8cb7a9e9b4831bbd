"""What training from a DataLoader costs beyond iterating it: ``python bench/loader_cost.py``.

The same images are trained on from memory and from a DataLoader, and the loader is iterated alone; all three take
turns. Printed are the best times and the medians of an epoch, and the quotient of training from the loader and the
other two together, which is 1 where nothing is added.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

import fastvi

EPOCHS = 3


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) / EPOCHS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    images = (torch.rand(chosen.examples, 784, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    loader = DataLoader(TensorDataset(images), batch_size=chosen.batch_size, shuffle=True)
    options: dict[str, Any] = {"epochs": EPOCHS, "objective": "elbo", "hidden_dims": (200, 200)}

    def iterate() -> None:
        for _ in range(EPOCHS):
            for _ in loader:
                pass

    ways: dict[str, Callable[[], Any]] = {
        "from memory": lambda: fastvi.fit("vae", images, batch_size=chosen.batch_size, test=images[:100], **options),
        "iterating the loader": iterate,
        "from the loader": lambda: fastvi.fit("vae", loader, **options),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(chosen.repeats):
        for name, way in ways.items():
            times[name].append(seconds(way))
    for name, found in times.items():
        print(f"{name}: best {min(found):.3f} s an epoch, median {statistics.median(found):.3f}")
    for what, reduce in (("best", min), ("median", statistics.median)):
        memory, alone, both = (reduce(times[name]) for name in ways)
        print(f"by the {what}: {both / (memory + alone):.3f} of the two together")


if __name__ == "__main__":
    main()
