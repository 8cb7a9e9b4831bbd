"""A variational autoencoder in Pyro, with Pyro's own distributions and with fastvi's: the same bound in less time.

The binary digits of scikit-learn's 8x8 images, tiled to 784 pixels, and RenyiELBO of order 0, the importance-weighted
bound, with all particles in one call. Steps of the two alternate, so that both meet the machine in the same state; the
time is that of the process's threads, of the best block.

    python examples/pyro_vae.py --particles 20

takes about half a minute.
"""

from __future__ import annotations

import argparse
import time

import pyro
import torch
from pyro import distributions as plain
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from sklearn.datasets import load_digits
from torch import Tensor, nn

import fastvi
from fastvi import pyro as fused


class VAE(nn.Module):
    def __init__(self, with_fastvi: bool, data_dim: int = 784, latent_dim: int = 50, hidden_dim: int = 200) -> None:
        super().__init__()
        self.with_fastvi, self.latent_dim = with_fastvi, latent_dim
        self.encoder = nn.Sequential(
            *(nn.Linear(data_dim, hidden_dim), nn.Tanh(), nn.Linear(hidden_dim, hidden_dim), nn.Tanh()),
            nn.Linear(hidden_dim, 2 * latent_dim),
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(latent_dim, hidden_dim), nn.Tanh(), nn.Linear(hidden_dim, hidden_dim), nn.Tanh())
        )
        self.head = nn.Linear(hidden_dim, data_dim)

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        pyro.module("head", self.head)
        zeros = x.new_zeros(len(x), self.latent_dim)
        with pyro.plate("batch", len(x)):
            if self.with_fastvi:
                hidden = self.decoder(pyro.sample("z", fused.DiagNormal(zeros, zeros)))
                pyro.sample("x", fused.LinearBernoulli(hidden, self.head.weight, self.head.bias), obs=x)
            else:
                hidden = self.decoder(pyro.sample("z", plain.Normal(zeros, 1.0).to_event(1)))
                pyro.sample("x", plain.Bernoulli(logits=self.head(hidden)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        mean, logvar = self.encoder(x).chunk(2, -1)
        with pyro.plate("batch", len(x)):
            if self.with_fastvi:
                pyro.sample("z", fused.DiagNormal(mean, logvar))
            else:
                pyro.sample("z", plain.Normal(mean, torch.exp(0.5 * logvar)).to_event(1))


class Run:
    """A model and its optimiser."""

    def __init__(self, with_fastvi: bool, bound: Trace_ELBO | RenyiELBO) -> None:
        pyro.set_rng_seed(0)
        vae = VAE(with_fastvi)
        if with_fastvi:
            fastvi.fuse(vae)
        self.svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), bound)
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def steps(self, batches: list[Tensor]) -> None:
        pyro.clear_param_store()  # the process has one; the model's own parameters come into it again
        start = time.process_time()
        self.losses += [self.svi.step(x) / len(x) for x in batches]
        self.seconds.append((time.process_time() - start) / len(batches))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--particles", type=int, default=20)
    parser.add_argument("--bound", choices=["renyi", "elbo"], default="renyi")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=20, help="blocks of five steps of each kind")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = torch.tensor(load_digits().images, dtype=torch.float32).gt(8).float()
    data = nn.functional.interpolate(images.unsqueeze(1), size=(28, 28)).flatten(1)

    kind = RenyiELBO if options.bound == "renyi" else Trace_ELBO
    bound = kind(num_particles=options.particles, vectorize_particles=options.particles > 1, max_plate_nesting=1)
    runs = {"Pyro's": Run(False, bound), "fastvi's": Run(True, bound)}
    for block in range(options.blocks + 1):
        batches = [data[torch.randperm(len(data))[:100]] for _ in range(5)]
        for run in runs.values():
            run.steps(batches)
        if block == 0:  # the first one makes the optimiser's state
            for run in runs.values():
                run.seconds.clear()
    for name, run in runs.items():
        last = torch.tensor(run.losses[-25:]).mean().item()
        print(f"{name:>8} distributions: {1e3 * min(run.seconds):6.1f} ms a step, loss {last:.1f} nats an image")
    ours, theirs = (min(runs[name].seconds) for name in ("fastvi's", "Pyro's"))
    print(f"ratio {theirs / ours:.2f}")


if __name__ == "__main__":
    main()
