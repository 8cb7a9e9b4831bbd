"""What variational inference loses and MCMC does not: a Gaussian and a regression's posterior, beside their reference.

1. A Gaussian of two variables with correlation 0.9. Mean field's variances are 1 / precision_ii, exactly; those of the
   Gaussian are 1 / (1 - 0.81) = 5.3 times as large.
2. The posterior `kidiq-kidscore_momhsiq` of posteriordb: test scores of children by their mothers' schooling and
   intelligence quotient. The reference is 10,000 draws of long runs of Hamiltonian Monte Carlo, which posteriordb has.

    python examples/mcmc_versus_vi.py --data path/to/posteriordb --out mcmc_versus_vi.png

takes less than two minutes; without --data or the environment variable FASTVI_DATA the second part is left out.
Effective sample sizes need `pip install 'fastvi[mcmc]'`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastvi.mcmc import SamplerWarning, Samples, sample
from fastvi.mean_field import ADVI, ScoreFunctionVI, factorised_gaussian

NAME = "kidiq-kidscore_momhsiq"

STYLES = {
    "exact": ("black", "-", 3.0),
    "reference": ("black", "-", 3.0),
    "mean field, theory": ("C0", "-", 3.0),
    "mean field": ("C1", "-", 1.5),
    "full rank": ("C2", "--", 1.5),
    "score function": ("C3", ":", 1.5),
    "HMC": ("C4", "-.", 1.5),
}
"""Colour, line and width of each method's contours."""


class Moments(NamedTuple):
    """Means (D,) and covariance (D, D) of a method; Pareto k-hat or the least effective sample size where known."""

    mean: np.ndarray
    covariance: np.ndarray
    k_hat: float | None = None
    ess: float | None = None


class Comparison(NamedTuple):
    """Moments of the reference, first, and of the methods by name; and draws of the reference, (S, D)."""

    title: str
    variables: list[str]
    moments: dict[str, Moments]
    draws: np.ndarray


def methods(steps: int) -> dict[str, ADVI | ScoreFunctionVI]:
    """Inference for any log joint density."""
    rate, seed = 0.05, 0
    return {
        "mean field": ADVI(max_iter=steps, num_samples=20, learning_rate=rate, random_state=seed),
        "full rank": ADVI("full", max_iter=steps, num_samples=20, learning_rate=rate, random_state=seed),
        "score function": ScoreFunctionVI(max_iter=steps, num_samples=200, learning_rate=rate, random_state=seed),
    }


def hmc(log_joint: Callable[[Tensor], Tensor], dimension: int, steps: int) -> Samples:
    """Draws of 16 chains, a step for every three of the stochastic gradients."""
    start = torch.zeros(16, dimension, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplerWarning)  # a short form is a show of the program, and not to be trusted
        return sample(log_joint, start, steps // 3, steps // 3, algorithm="hmc", seed=0, progress=False)


def moments_of_chains(values: Tensor, samples: Samples) -> Moments:
    """Moments of draws (C, S, D), with the least effective sample size of the samples that they come from."""
    flat = values.flatten(0, 1).numpy()
    return Moments(flat.mean(0), np.cov(flat.T), ess=samples.summary().least_ess)


def compare_gaussian(steps: int) -> Comparison:
    """A Gaussian of correlation 0.9, and its exact mean field."""
    covariance = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    precision, mean = torch.linalg.inv(covariance), torch.tensor([1.0, -1.0], dtype=torch.float64)

    def log_joint(z: Tensor) -> Tensor:
        return -0.5 * (((z - mean) @ precision) * (z - mean)).sum(-1)

    exact = factorised_gaussian(precision, mean)
    found = {
        "exact": Moments(mean.numpy(), covariance.numpy()),
        "mean field, theory": Moments(exact.mean.numpy(), exact.variance.diag().numpy()),
    }
    for name, method in methods(steps).items():
        fitted = method.fit(log_joint, 2)
        found[name] = Moments(fitted.mean_, fitted.covariance_, fitted.pareto_k())
    samples = hmc(log_joint, 2, steps)
    found["HMC"] = moments_of_chains(samples["x"], samples)
    draws = np.random.default_rng(0).multivariate_normal(mean.numpy(), covariance.numpy(), size=1000)
    return Comparison("a Gaussian of correlation 0.9", ["x[1]", "x[2]"], found, draws)


def regression(folder: Path) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], list[str], np.ndarray]:
    """Log joint density of scaled variables, the map from these to the parameters, and names and reference draws.

    score ~ N(b1 + b2 school + b3 quotient, sigma), b flat, sigma half-Cauchy of scale 2.5. The variables are b and
    log sigma, centred and scaled one by one: mean field of them is that of the parameters.
    """
    with zipfile.ZipFile(folder / "data" / "kidiq.json.zip") as file:
        data = json.loads(file.read(file.namelist()[0]))
    columns = [np.ones(data["N"]), data["mom_hs"], data["mom_iq"]]
    design = torch.tensor(np.stack(columns, 1), dtype=torch.float64)
    score = torch.tensor(data["kid_score"], dtype=torch.float64)
    centre = torch.linalg.lstsq(design, score[:, None]).solution[:, 0]
    noise = (score - design @ centre).std()
    scale = torch.cat([noise * design.square().sum(0).rsqrt(), torch.tensor([(2.0 * len(score)) ** -0.5])])
    place = torch.cat([centre, noise.log()[None]])

    def parameters(z: Tensor) -> Tensor:
        raw = place + scale * z
        return torch.cat([raw[..., :3], raw[..., 3:].exp()], -1)

    def log_joint(z: Tensor) -> Tensor:
        raw = place + scale * z
        log_sigma = raw[:, 3]
        errors = (score - raw[:, :3] @ design.mT) / log_sigma.exp()[:, None]
        log_prior = -torch.log1p((log_sigma.exp() / 2.5).square()) + log_sigma
        return log_prior - len(score) * log_sigma - 0.5 * errors.square().sum(1)

    with np.load(folder / "draws" / f"{NAME}.npz") as reference:
        draws = reference["draws"].reshape(-1, 4)
        return log_joint, parameters, [str(name) for name in reference["names"]], draws


def compare_regression(folder: Path, steps: int) -> Comparison:
    """The reference's draws, and those of each method."""
    log_joint, parameters, names, draws = regression(folder)
    found = {"reference": Moments(draws.mean(0), np.cov(draws.T))}
    for name, method in methods(steps).items():
        fitted = method.fit(log_joint, 4)
        torch.manual_seed(0)
        values = parameters(fitted.posterior_.sample((20_000,))).numpy()
        found[name] = Moments(values.mean(0), np.cov(values.T), fitted.pareto_k())
    samples = hmc(log_joint, 4, steps)
    found["HMC"] = moments_of_chains(parameters(samples["x"]), samples)
    return Comparison(NAME, names, found, draws)


def table(found: Comparison) -> str:
    """Means and standard deviations; the latter as shares of the reference's, too."""
    reference = next(iter(found.moments.values()))
    deviation = np.sqrt(reference.covariance.diagonal())
    heads = "".join(f"{name:>26}" for name in found.variables)
    lines = [found.title, f"{'':20}{heads}{'k-hat':>8}{'ESS':>8}"]
    for name, moments in found.moments.items():
        own = np.sqrt(moments.covariance.diagonal())
        cells = [
            f"{mean:.3f} sd {each:.3f} ({each / of:4.2f})".rjust(26)
            for mean, each, of in zip(moments.mean, own, deviation, strict=True)
        ]
        k_hat = "" if moments.k_hat is None else f"{moments.k_hat:.2f}"
        ess = "" if moments.ess is None else f"{moments.ess:.0f}"
        lines.append(f"{name:20}{''.join(cells)}{k_hat:>8}{ess:>8}".rstrip())
    return "\n".join(lines)


def picture(comparisons: list[Comparison], path: Path) -> None:
    """Draw the two variables that are correlated most: draws, and the contours of one and two standard deviations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0 * len(comparisons), 4.5), layout="constrained")
    angles = np.linspace(0.0, 2.0 * math.pi, 200)
    circle = np.stack([np.cos(angles), np.sin(angles)])
    for place, found in enumerate(comparisons):
        axes = figure.add_subplot(1, len(comparisons), place + 1)
        correlation = np.abs(np.corrcoef(found.draws.T) - np.eye(found.draws.shape[1]))
        pair = sorted(np.unravel_index(correlation.argmax(), correlation.shape))
        axes.plot(*found.draws[:2000, pair].T, ".", color="0.8", markersize=2, zorder=0)
        for name, moments in found.moments.items():
            color, style, width = STYLES[name]
            root = np.linalg.cholesky(moments.covariance[np.ix_(pair, pair)])
            for radius in (1.0, 2.0):
                ellipse = moments.mean[pair][:, None] + radius * root @ circle
                label = name if radius == 1.0 else None
                axes.plot(*ellipse, style, color=color, linewidth=width, label=label)
        axes.set(title=found.title, xlabel=found.variables[pair[0]], ylabel=found.variables[pair[1]])
        axes.legend(fontsize="small")
    figure.savefig(path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="posteriordb's folder; FASTVI_DATA/posteriordb if left out")
    parser.add_argument("--steps", type=int, default=3000, help="of stochastic gradients")
    parser.add_argument("--out", type=Path, help="file of the picture, such as mcmc_versus_vi.png")
    options = parser.parse_args(arguments)
    folder = options.data
    if folder is None and "FASTVI_DATA" in os.environ:
        folder = Path(os.environ["FASTVI_DATA"]) / "posteriordb"
    comparisons = [compare_gaussian(options.steps)]
    print(table(comparisons[0]))
    if folder is not None:
        if not (folder / "draws" / f"{NAME}.npz").is_file():
            parser.error(f"{folder} has no draws/{NAME}.npz: --data must be a folder of posteriordb's draws and data")
        comparisons.append(compare_regression(folder, options.steps))
        print("\n" + table(comparisons[1]))
    if options.out is not None:
        picture(comparisons, options.out)


if __name__ == "__main__":
    main()
