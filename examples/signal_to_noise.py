"""Signal-to-noise ratio and variance of gradients against the number of samples K: IWAE, its path derivative, DReG.

The toy of Rainforth et al. 2018, "Tighter variational bounds are not necessarily better": z ~ N(mu, I) and x ~ N(z, I)
in 20 dimensions, q(z|x) = N(A x + b, 2/3 I), with parameters a little off their optimum A = I/2, b = mu/2. The ratio of
the generative model's gradient rises as the square root of K. That of the inference network's falls so for IWAE, and
rises for DReG.

The variance of the inference network's gradient, near the optimum, is the smallest for DReG, then comes the path
derivative of the same bound, "sticking the landing" for K samples, and IWAE's is the largest: the ordering of Tucker et
al. 2019, "Doubly reparameterized gradient estimators for Monte Carlo objectives", and the gaps widen as K grows. The
path derivative is biased: its mean does not fall with the bound's gap, as the others' do, so that its ratio tells
nothing.

With ``--layers 2`` there is a layer more, z2 ~ N(mu, I), z1 ~ N(z2, I), x ~ N(z1, I), where the same is seen.

    python examples/signal_to_noise.py --out signal_to_noise.png

takes about a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastvi
from fastvi.objectives import (
    IWAE,
    Bound,
    Diagnosis,
    Draw,
    DReG,
    call_detached,
    diagnose,
    iwae_bound,
    log_weights,
    option,
    sample_layer,
)


@dataclass(frozen=True)
class PathDerivative(Bound):
    """L_K without the score of q in its gradient, which is biased for K > 1; at K = 1 it is DReG."""

    num_samples: int = option("K, samples for each example", 1, at_least=1)

    def __call__(self, model: Any, x: Any, *, seed: int | None = None, row_offset: int = 0) -> Tensor:
        return iwae_bound(
            log_weights(model, x, self.num_samples, detach_posterior=True, seed=seed, row_offset=row_offset)
        )


class Toy(nn.Module):
    """z ~ N(mu, I), x ~ N(z, I)."""

    def __init__(self, dimensions: int, off: float, generator: torch.Generator) -> None:
        super().__init__()
        self.true_mean = torch.randn(dimensions, generator=generator)
        self.prior_mean = near(self.true_mean, off, generator)
        self.A = near(0.5 * torch.eye(dimensions), off, generator)
        self.b = near(0.5 * self.true_mean, off, generator)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x @ self.A.T + self.b
        return mean, torch.full_like(mean, 2.0 / 3.0).log()

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return fastvi.normal_log_prob(x, z, torch.zeros_like(x))

    def groups(self) -> dict[str, list[Tensor]]:
        return {"generative: mu": [self.prior_mean], "inference: A and b": [self.A, self.b]}


class Chain(nn.Module):
    """z2 ~ N(mu, I), z1 ~ N(z2, I), x ~ N(z1, I); the variances of q are a third larger than the posterior's."""

    def __init__(self, dimensions: int, off: float, generator: torch.Generator) -> None:
        super().__init__()
        self.true_mean = torch.randn(dimensions, generator=generator)
        self.prior_mean = near(self.true_mean, off, generator)
        self.first, self.second = nn.Linear(dimensions, dimensions), nn.Linear(dimensions, dimensions)
        for layer, slope, shift in ((self.first, 2.0 / 3.0, 1.0 / 3.0), (self.second, 0.5, 0.5)):
            layer.weight = near(slope * torch.eye(dimensions), off, generator)
            layer.bias = near(shift * self.true_mean, off, generator)

    def draw(
        self,
        x: Tensor,
        num_samples: int,
        *,
        detach_posterior: bool = False,
        seed: int | None = None,
        row_offset: int = 0,
        path: Any = None,
    ) -> Draw:
        mean1, zeros = self.first(x), torch.zeros_like(x)
        logvar1, logvar2 = (torch.full_like(x, value).log() for value in (8.0 / 9.0, 2.0 / 3.0))
        z1 = sample_layer(mean1, logvar1, num_samples, 0, seed=seed, row_offset=row_offset)
        z2 = sample_layer(self.second(z1), logvar2, num_samples, 1, seed=seed, row_offset=row_offset)
        if path is not None:
            z1, z2 = path(z1), path(z2)
        mean2 = call_detached(self.second, z1) if detach_posterior else self.second(z1)
        log_posterior = fastvi.normal_log_prob(z1, mean1.detach() if detach_posterior else mean1, logvar1)
        log_posterior = log_posterior + fastvi.normal_log_prob(z2, mean2, logvar2)
        log_joint = fastvi.normal_log_prob(z2, self.prior_mean, torch.zeros_like(self.prior_mean))
        log_joint = log_joint + fastvi.normal_log_prob(z1, z2, zeros) + fastvi.normal_log_prob(x, z1, zeros)
        return Draw([z1, z2], log_joint - log_posterior)

    def groups(self) -> dict[str, list[Tensor]]:
        named = (("inference: q(z1|x)", self.first), ("inference: q(z2|z1)", self.second))
        return {"generative: mu": [self.prior_mean], **{name: list(layer.parameters()) for name, layer in named}}


def near(optimum: Tensor, off: float, generator: torch.Generator) -> nn.Parameter:
    return nn.Parameter(optimum + off * torch.randn(optimum.shape, generator=generator))


def measure(
    samples: Sequence[int], points: int, repeats: int, seed: int, off: float = 0.01, layers: int = 1
) -> Diagnosis:
    """Diagnose the estimators with each number of samples, on a batch of points that the model itself gives."""
    generator = torch.Generator().manual_seed(seed)
    model = (Toy if layers == 1 else Chain)(20, off, generator)
    x = model.true_mean + (layers + 1.0) ** 0.5 * torch.randn(points, 20, generator=generator)
    estimators = [kind(count) for kind in (IWAE, PathDerivative, DReG) for count in samples]
    return diagnose(model, x, estimators, repeats=repeats, groups=model.groups(), seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 4, 16, 64, 256], help="numbers of samples K")
    parser.add_argument("--points", type=int, default=256, help="points of data in a batch")
    parser.add_argument("--repeats", type=int, default=400, help="gradients of each estimator")
    parser.add_argument("--layers", type=int, choices=[1, 2], default=1, help="stochastic layers")
    parser.add_argument("--seed", type=int, default=0, help="of parameters, data and noise")
    parser.add_argument("--out", type=Path, help="file of the picture, such as signal_to_noise.png")
    options = parser.parse_args()
    found = measure(options.samples, options.points, options.repeats, options.seed, layers=options.layers)
    print(found)
    if options.out is not None:
        found.figure("signal_to_noise", "mean_variance").savefig(options.out)


if __name__ == "__main__":
    main()
