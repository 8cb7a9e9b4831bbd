"""What a denoising autoencoder knows of the plane round a spiral: its score field, and the level sets of its error.

The data are points on a spiral. An autoencoder that learns to take Gaussian noise of them away has, in (r(x) - x) /
sigma^2, the score of the data with that noise. Here that score has a closed form, a mixture of Gaussians along the
spiral, and both are compared where the noisy data are. The distance of x to its reconstruction is one to the spiral,
and Omega(eps) = {x : |x - r(x)| <= eps} is a tube round it.

    python examples/manifold_geometry.py --out manifold_geometry.png      # half a minute
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fastvi.autoencoders import DenoisingAutoencoder, denoising_score, reconstruction_distance
from fastvi.seeding import mix_seed

POINTS = 400
"""Of the spiral: closer to one another than the noise is wide, so that the mixture is that of the whole curve."""
NOISE_SCALE = 0.1
LEVELS = (0.02, 0.05, 0.1)
"""Of eps."""
WIDTH = 1.3
"""Of the picture: x in [-1.3, 1.3] in both directions."""


class Agreement(NamedTuple):
    """How the learned field agrees with the true one, on points of the data with noise.

    Attributes
    ----------
    cosine
        Mean cosine of the angle between the two vectors.
    relative_error
        Root of the mean squared difference, divided by that of the true field.
    """

    cosine: float
    relative_error: float


def spiral(count: int) -> Tensor:
    """Points at equal distances along one and a half turns of an Archimedean spiral, shape (count, 2)."""
    angles = torch.linspace(0.5 * math.pi, 3.5 * math.pi, 20 * count)
    curve = torch.stack([angles.cos(), angles.sin()], 1) * angles[:, None] / (3.5 * math.pi)
    length = torch.cat([torch.zeros(1), curve.diff(dim=0).norm(dim=1).cumsum(0)])
    places = torch.linspace(0.0, float(length[-1]), count)
    return curve[torch.searchsorted(length, places).clamp_max(len(curve) - 1)]


def true_score(x: Tensor, centres: Tensor, noise_scale: float) -> Tensor:
    """The gradient of log p at x (N, 2), where p is the mean of the densities N(centre, noise_scale^2)."""
    nearness = torch.softmax(-0.5 * (torch.cdist(x, centres) / noise_scale).square(), 1)
    return (nearness @ centres - x) / noise_scale**2


def trained(data: Tensor, noise_scale: float, steps: int, seed: int) -> DenoisingAutoencoder:
    """A denoising autoencoder of the points, by Adam with a step size that falls to 0 as a cosine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DenoisingAutoencoder(
            2,
            latent_dim=64,
            hidden_dims=(128, 128),
            activation="relu",
            code_activation="relu",
            error="squared",
            tied=False,
            corruption="gaussian",
            corruption_level=noise_scale,
        )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        optimizer.zero_grad()
        model.loss(data, seed=mix_seed(seed, step)).mean().backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def agreement(model: DenoisingAutoencoder, data: Tensor, noise_scale: float, seed: int) -> Agreement:
    """Compare the fields on new noise of the data, ten times."""
    x = model.corrupt(data.repeat(10, 1), seed=mix_seed(seed, 2**32))
    learned, true = denoising_score(model, x, noise_scale), true_score(x, data, noise_scale)
    cosine = torch.cosine_similarity(learned, true).mean()
    error = ((learned - true).square().sum() / true.square().sum()).sqrt()
    return Agreement(float(cosine), float(error))


@torch.no_grad()
def save_picture(model: DenoisingAutoencoder, data: Tensor, noise_scale: float, path: Path) -> None:
    """Draw both fields, and the level sets of the distance to the reconstruction."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    def grid(count: int) -> tuple[Tensor, Tensor]:
        axis = torch.linspace(-WIDTH, WIDTH, count)
        return axis, torch.cartesian_prod(axis, axis)

    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2))
    _, places = grid(26)
    near = places[torch.cdist(places, data).amin(1) < 3.0 * noise_scale]  # elsewhere there are no data to learn from
    fields = {
        "score of the data with noise": true_score(near, data, noise_scale),
        "(r(x) - x) / sigma^2": denoising_score(model, near, noise_scale),
    }
    for axis, (title, field) in zip(axes[:2], fields.items(), strict=True):
        axis.quiver(*near.T, *field.T, color="tab:blue", angles="xy", scale=400, width=0.004)
        axis.set_title(title)
    line, places = grid(200)
    distance = reconstruction_distance(model, places).reshape(200, 200).T  # rows are heights
    shades = axes[2].contourf(line, line, distance, levels=(0.0, *LEVELS), cmap="Blues_r", extend="neither")
    axes[2].contour(line, line, distance, levels=LEVELS, colors="0.4", linewidths=0.5)
    axes[2].set_title("Omega(eps) = {x : |x - r(x)| <= eps}")
    figure.colorbar(shades, ax=axes[2], label="eps", fraction=0.046, pad=0.04)
    for axis in axes:
        axis.plot(*data.T, color="tab:orange", linewidth=1)
        axis.set_aspect("equal")
        axis.set_xlim(-WIDTH, WIDTH)
        axis.set_ylim(-WIDTH, WIDTH)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    """Train, print how the fields agree, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--noise-scale", type=float, default=NOISE_SCALE, help="sigma")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file of the picture")
    options = parser.parse_args()
    data = spiral(POINTS)
    model = trained(data, options.noise_scale, options.steps, options.seed)
    found = agreement(model, data, options.noise_scale, options.seed)
    print(f"score field: cosine {found.cosine:.3f} with the true one, relative error {found.relative_error:.3f}")
    if options.out is not None:
        save_picture(model, data, options.noise_scale, options.out)


if __name__ == "__main__":
    main()
