"""Ten posteriors of posteriordb by `fastvi.mcmc.sample`, beside the reference draws that posteriordb has of them.

    python examples/posteriordb.py --data path/to/posteriordb

draws from all of them by default settings, and says for each whether the means agree within 4 combined Monte Carlo
standard errors, standard deviations within 5 %, R-hat is below 1.01 and effective sample sizes are 4,000 and more.
The models are written as a newcomer would: some for all chains at once, some for one chain (``vectorize``).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Beta, HalfCauchy, HalfNormal, Normal

from fastvi.mcmc import Bijection, Interval, Ordered, Positive, Samples, sample


@dataclass(frozen=True)
class Model:
    """A log density, where chains start, supports, and the names of the reference's values in our order."""

    log_prob: Callable[..., Tensor]
    start: dict[str, Any]
    bijections: dict[str, Bijection]
    vectorize: bool = False
    derived: Callable[[Samples], dict[str, Tensor]] = field(default=lambda samples: samples.draws)


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def linear_regression(
    columns: list[Tensor], y: Tensor, log_prior: Callable[[Tensor, Tensor], Tensor | float] = lambda beta, sigma: 0.0
) -> Model:
    """y ~ N(columns beta, sigma), flat but for a prior."""
    design = torch.stack(columns, 1)

    def log_prob(beta: Tensor, sigma: Tensor) -> Tensor:
        likelihood = Normal(beta @ design.T, sigma[:, None]).log_prob(y).sum(1)
        return likelihood + log_prior(beta, sigma)

    return Model(log_prob, {"beta": torch.zeros(len(columns)).double(), "sigma": 1.0}, {"sigma": Positive()})


def blr(data: dict[str, Any]) -> Model:
    def log_prior(beta: Tensor, sigma: Tensor) -> Tensor:
        return Normal(0.0, 10.0).log_prob(beta).sum(1) + HalfNormal(10.0).log_prob(sigma)

    return linear_regression(list(tensor(data["X"]).T), tensor(data["y"]), log_prior)


def kidscore(*names: str) -> Callable[[dict[str, Any]], Model]:
    """Test scores of children by what is known of their mothers."""

    def model(data: dict[str, Any]) -> Model:
        columns = [tensor(data[name]) for name in names]
        columns.insert(0, torch.ones_like(columns[0]))
        return linear_regression(
            columns, tensor(data["kid_score"]), lambda beta, sigma: HalfCauchy(2.5).log_prob(sigma)
        )

    return model


def mesquite(data: dict[str, Any]) -> Model:
    names = ("diam1", "diam2", "canopy_height", "total_height", "density", "group")
    columns = [tensor(data[name]) for name in names]
    return linear_regression([torch.ones_like(columns[0]), *columns], tensor(data["weight"]))


def nes(data: dict[str, Any]) -> Model:
    """Which party people identify with, by ideology, race, age, education, gender and income."""
    age = tensor(data["age_discrete"])
    columns = [tensor(data["real_ideo"]), tensor(data["race_adj"])]
    columns += [(age == group).double() for group in (2, 3, 4)]
    columns += [tensor(data[name]) for name in ("educ1", "gender", "income")]
    return linear_regression([torch.ones_like(age), *columns], tensor(data["partyid7"]))


def kilpisjarvi(data: dict[str, Any]) -> Model:
    """Summer temperatures by the year, which is not centred: intercept and slope have a correlation of -0.99999."""
    x, y = tensor(data["x"]), tensor(data["y"])
    alpha_prior = Normal(data["pmualpha"], data["psalpha"])
    beta_prior = Normal(data["pmubeta"], data["psbeta"])

    def log_prob(alpha: Tensor, beta: Tensor, sigma: Tensor) -> Tensor:
        likelihood = Normal(alpha + beta * x, sigma).log_prob(y).sum()
        return likelihood + alpha_prior.log_prob(alpha) + beta_prior.log_prob(beta)

    return Model(log_prob, {"alpha": 0.0, "beta": 0.0, "sigma": 1.0}, {"sigma": Positive()}, vectorize=True)


def eight_schools(data: dict[str, Any]) -> Model:
    y, error = tensor(data["y"]), tensor(data["sigma"])

    def log_prob(theta_trans: Tensor, mu: Tensor, tau: Tensor) -> Tensor:
        theta = mu[:, None] + tau[:, None] * theta_trans
        return (
            Normal(theta, error).log_prob(y).sum(1)
            + Normal(0.0, 1.0).log_prob(theta_trans).sum(1)
            + Normal(0.0, 5.0).log_prob(mu)
            + HalfCauchy(5.0).log_prob(tau)
        )

    def derived(samples: Samples) -> dict[str, Tensor]:
        mu, tau = samples["mu"], samples["tau"]
        return {"theta": mu[..., None] + tau[..., None] * samples["theta_trans"], "mu": mu, "tau": tau}

    start = {"theta_trans": torch.zeros(8).double(), "mu": 0.0, "tau": 1.0}
    return Model(log_prob, start, {"tau": Positive()}, derived=derived)


def low_dim_gauss_mix(data: dict[str, Any]) -> Model:
    y = tensor(data["y"])

    def log_prob(mu: Tensor, sigma: Tensor, theta: Tensor) -> Tensor:
        first = theta.log() + Normal(mu[0], sigma[0]).log_prob(y)
        second = torch.log1p(-theta) + Normal(mu[1], sigma[1]).log_prob(y)
        prior = Normal(0.0, 2.0).log_prob(mu).sum() + HalfNormal(2.0).log_prob(sigma).sum()
        return torch.logaddexp(first, second).sum() + prior + Beta(5.0, 5.0).log_prob(theta)

    start = {"mu": tensor([-1.0, 1.0]), "sigma": tensor([1.0, 1.0]), "theta": 0.5}
    bijections = {"mu": Ordered(), "sigma": Positive(), "theta": Interval(0.0, 1.0)}
    return Model(log_prob, start, bijections, vectorize=True)


POSTERIORS: dict[str, tuple[str, Callable[[dict[str, Any]], Model]]] = {
    "sblrc-blr": ("sblrc", blr),
    "kidiq-kidscore_momhs": ("kidiq", kidscore("mom_hs")),
    "kidiq-kidscore_momiq": ("kidiq", kidscore("mom_iq")),
    "kidiq-kidscore_momhsiq": ("kidiq", kidscore("mom_hs", "mom_iq")),
    "mesquite-mesquite": ("mesquite", mesquite),
    "nes1972-nes": ("nes1972", nes),
    "nes1980-nes": ("nes1980", nes),
    "kilpisjarvi_mod-kilpisjarvi": ("kilpisjarvi_mod", kilpisjarvi),
    "eight_schools-eight_schools_noncentered": ("eight_schools", eight_schools),
    "low_dim_gauss_mix-low_dim_gauss_mix": ("low_dim_gauss_mix", low_dim_gauss_mix),
}
"""For each posterior its data set and the function that makes the model of the data."""


class Agreement(NamedTuple):
    """The worst of a posterior's values: least ESS, errors in the mean (standard errors) and the sd (share), R-hat."""

    least_ess: float
    mean_error: float
    sd_error: float
    worst_r_hat: float
    num_divergent: int
    seconds: float

    @property
    def is_good(self) -> bool:
        return self.least_ess >= 4000 and self.mean_error <= 4.0 and self.sd_error <= 0.05 and self.worst_r_hat < 1.01


def read(folder: Path, name: str) -> tuple[Model, np.ndarray]:
    """A posterior's model, and its reference draws (10, 1000, P)."""
    data_name, make = POSTERIORS[name]
    with zipfile.ZipFile(folder / "data" / f"{data_name}.json.zip") as file:
        data = json.loads(file.read(file.namelist()[0]))
    with np.load(folder / "draws" / f"{name}.npz") as reference:
        return make(data), reference["draws"]


def draw(model: Model, num_samples: int, seed: int, **options: Any) -> Samples:
    return sample(
        model.log_prob,
        model.start,
        num_samples,
        num_chains=options.pop("num_chains", 16),
        bijections=model.bijections,
        vectorize=model.vectorize,
        seed=seed,
        progress=False,
        **options,
    )


def compare(model: Model, samples: Samples, reference: np.ndarray, seconds: float) -> Agreement:
    """Our draws of the reference's values beside the reference's."""
    from arviz_stats.base import array_stats

    values = model.derived(samples).values()
    ours = np.concatenate([value.reshape(*value.shape[:2], -1).numpy() for value in values], 2)
    places = {"chain_axis": 0, "draw_axis": 1}
    mean_errors = [array_stats.mcse(draws, method="mean", **places) for draws in (ours, reference)]
    difference = np.abs(ours.mean((0, 1)) - reference.mean((0, 1)))
    deviations = [draws.reshape(-1, draws.shape[2]).std(0, ddof=1) for draws in (ours, reference)]
    ess = np.minimum(
        array_stats.ess(ours, method="bulk", **places),
        array_stats.ess(ours, method="tail", prob=(0.05, 0.95), **places),
    )
    return Agreement(
        float(ess.min()),
        float((difference / np.hypot(*mean_errors)).max()),
        float(np.abs(deviations[0] / deviations[1] - 1.0).max()),
        float(np.max(array_stats.rhat(ours, **places))),
        int(samples.num_divergent.sum()),
        seconds,
    )


def main(arguments: list[str] | None = None) -> bool:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="posteriordb's folder; FASTVI_DATA/posteriordb if left out")
    parser.add_argument("--names", nargs="+", choices=POSTERIORS, default=list(POSTERIORS), help="which ones")
    parser.add_argument("--samples", type=int, default=1500, help="draws of each chain")
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--algorithm", default="auto")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    folder = options.data
    if folder is None and "FASTVI_DATA" in os.environ:
        folder = Path(os.environ["FASTVI_DATA"]) / "posteriordb"
    if folder is None or not (folder / "draws").is_dir():
        parser.error("--data must be a folder of posteriordb's draws and data")
    print(f"{'':42}{'least ESS':>10}{'mean':>7}{'sd':>8}{'R-hat':>8}{'divergent':>10}{'s':>7}")
    all_good = True
    for name in options.names:
        model, reference = read(folder, name)
        begin = time.perf_counter()
        samples = draw(model, options.samples, options.seed, num_chains=options.chains, algorithm=options.algorithm)
        found = compare(model, samples, reference, time.perf_counter() - begin)
        all_good &= found.is_good
        print(
            f"{name:42}{found.least_ess:10.0f}{found.mean_error:7.2f}{found.sd_error:8.1%}{found.worst_r_hat:8.4f}"
            f"{found.num_divergent:10}{found.seconds:7.1f}  {'' if found.is_good else 'DIFFERS'}",
            flush=True,
        )
    return all_good


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
