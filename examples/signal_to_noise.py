"""Signal-to-noise ratio of gradients against the number of samples K, for IWAE and DReG.

The toy of Rainforth et al. 2018, "Tighter variational bounds are not necessarily better": z ~ N(mu, I) and x ~ N(z, I)
in 20 dimensions, q(z|x) = N(A x + b, 2/3 I), with parameters a little off their optimum A = I/2, b = mu/2. The ratio of
the generative model's gradient rises as the square root of K. That of the inference network's falls so for IWAE, and
rises for DReG, whose variance there is also the smaller one (Tucker et al. 2019).

    python examples/signal_to_noise.py --out signal_to_noise.png

takes about a minute.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

import fastvi
from fastvi.objectives import IWAE, Diagnosis, DReG, diagnose


class Toy(nn.Module):
    def __init__(self, dimensions: int, off: float, generator: torch.Generator) -> None:
        super().__init__()
        mean = torch.randn(dimensions, generator=generator)

        def near(optimum: torch.Tensor) -> nn.Parameter:
            return nn.Parameter(optimum + off * torch.randn(optimum.shape, generator=generator))

        self.true_mean = mean
        self.prior_mean = near(mean)
        self.A = near(0.5 * torch.eye(dimensions))
        self.b = near(0.5 * mean)

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = x @ self.A.T + self.b
        return mean, torch.full_like(mean, 2.0 / 3.0).log()

    def log_likelihood(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return fastvi.normal_log_prob(x, z, torch.zeros_like(x))


def measure(samples: list[int], points: int, repeats: int, seed: int, off: float = 0.01) -> Diagnosis:
    """Diagnose both estimators with each number of samples, on a batch of points that the model itself gives."""
    generator = torch.Generator().manual_seed(seed)
    model = Toy(20, off, generator)
    x = model.true_mean + 2.0**0.5 * torch.randn(points, 20, generator=generator)
    estimators = [kind(count) for kind in (IWAE, DReG) for count in samples]
    groups = {"generative: mu": [model.prior_mean], "inference: A and b": [model.A, model.b]}
    return diagnose(model, x, estimators, repeats=repeats, groups=groups, seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 4, 16, 64, 256], help="numbers of samples K")
    parser.add_argument("--points", type=int, default=256, help="points of data in a batch")
    parser.add_argument("--repeats", type=int, default=400, help="gradients of each estimator")
    parser.add_argument("--seed", type=int, default=0, help="of parameters, data and noise")
    parser.add_argument("--out", type=Path, help="file of the picture, such as signal_to_noise.png")
    options = parser.parse_args()
    found = measure(options.samples, options.points, options.repeats, options.seed)
    print(found)
    if options.out is not None:
        found.figure().savefig(options.out)


if __name__ == "__main__":
    main()
