"""Maximum entropy from moments: a die, densities on lines and circles, pixels of handwritten digits, a contradiction.

1. A die whose mean is 4.5 (Jaynes).
2. Densities of given moments: exponential, Gaussian, von Mises, beside the natural parameters that these have.
3. Pixels of scikit-learn's digits, black or white: their means alone make them independent, the means of their
   products an Ising model. How much of the gap between the entropy of independent pixels and that of the data the pairs
   explain is what Schneidman, Berry, Segev and Bialek 2006, "Weak pairwise correlations imply strongly correlated
   network states in a neural population", ask of neurons.
4. Moments that no distribution has, and the reason.

    python examples/maximum_entropy.py --out maximum_entropy.png

takes a few seconds; it needs SciPy and scikit-learn, and matplotlib for the picture.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fastvi.expfam import Bernoulli, Exponential, Gaussian, Grid, Ising, VonMises, max_entropy


class Pixels(NamedTuple):
    """Entropies in nats, and the probabilities of all patterns."""

    independent: float
    pairwise: float
    observed: float
    patterns: dict[str, Tensor]


def die(mean: float) -> Tensor:
    """Return the probabilities of six faces."""
    faces = torch.arange(1.0, 7.0, dtype=torch.float64)
    return max_entropy(lambda x: x, torch.tensor(mean, dtype=torch.float64), faces).probabilities


def densities() -> list[tuple[str, Tensor, Tensor]]:
    """Return names, natural parameters found from moments, and those that are known."""
    cases = [
        ("exponential, mean 1/2", Exponential(), [-2.0], Grid.interval(0.0, 30.0, open_ends=(False, True))),
        (
            "Gaussian, mean 1, variance 4",
            Gaussian(),
            [0.25, -0.125],
            Grid.interval(-24.0, 26.0, open_ends=(True, True)),
        ),
        ("von Mises, concentration 2", VonMises(), [2.0, 0.0], Grid.interval(-math.pi, math.pi)),
    ]
    rows = []
    for name, family, values, grid in cases:
        eta = torch.tensor(values, dtype=torch.float64)
        found = max_entropy(family.statistics, family.mean_parameters(eta), grid)
        rows.append((name, found.eta, eta))
    return rows


def digits(count: int) -> Tensor:
    """Return as many pixels of scikit-learn's digits as -1 and 1: those that vary most, (examples, count)."""
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits().data).double()
    spins = torch.where(images > 7.5, 1.0, -1.0).double()
    return spins[:, spins.mean(0).abs().argsort()[:count]]


def compare(spins: Tensor) -> Pixels:
    """Fit independent pixels and pairs, and count the patterns themselves."""
    count = spins.shape[1]
    ising = Ising(count)
    pairwise = max_entropy(ising.statistics, ising.moments(spins), ising.states)
    independent = ising.probabilities(
        torch.cat([spins.mean(0).atanh(), torch.zeros(ising.num_statistics - count, dtype=torch.float64)])
    )
    numbers = ((spins > 0).long() * 2 ** torch.arange(count - 1, -1, -1)).sum(1)
    observed = torch.bincount(numbers, minlength=2**count) / len(spins)
    bits = Bernoulli()
    eta = bits.maximum_likelihood(0.5 * (1.0 + spins))
    return Pixels(
        bits.entropy(eta).sum().item(),
        pairwise.entropy.item(),
        -torch.xlogy(observed, observed).sum().item(),
        {"independent": independent, "pairs": pairwise.probabilities, "observed": observed.double()},
    )


def picture(pixels: Pixels, path: Path) -> None:
    """Draw each model's probability of a pattern against how often it was seen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 4.5), layout="constrained")
    axes = figure.add_subplot()
    seen = pixels.patterns["observed"] > 0.0
    observed = pixels.patterns["observed"][seen]
    for name in ("independent", "pairs"):
        axes.loglog(observed, pixels.patterns[name][seen], ".", alpha=0.5, label=name)
    axes.loglog(observed, observed, color="black", linewidth=0.8)
    axes.set(xlabel="share of the digits", ylabel="probability under the model", ylim=(1e-8, 1.0))
    axes.legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pixels", type=int, default=10, help="number of pixels, 16 at most")
    parser.add_argument("--out", type=Path, help="file of the picture, such as maximum_entropy.png")
    options = parser.parse_args()

    print("a die of mean 4.5:", " ".join(f"{probability:.4f}" for probability in die(4.5)))
    for name, found, known in densities():
        error = (found - known).abs().max().item()
        print(f"{name}: eta = {[round(value, 6) for value in found.tolist()]}, off by {error:.1e}")

    pixels = compare(digits(options.pixels))
    share = (pixels.independent - pixels.pairwise) / (pixels.independent - pixels.observed)
    print(f"{options.pixels} pixels, entropy in nats: {pixels.independent:.3f} independent,", end=" ")
    print(f"{pixels.pairwise:.3f} with pairs, {pixels.observed:.3f} of the patterns as they were seen:", end=" ")
    print(f"pairs explain {100.0 * share:.0f} % of the difference")

    try:
        max_entropy(Ising(2).statistics, torch.tensor([0.9, 0.9, -0.5], dtype=torch.float64), Ising(2).states)
    except ValueError as error:
        print(error)
    if options.out is not None:
        picture(pixels, options.out)


if __name__ == "__main__":
    main()
