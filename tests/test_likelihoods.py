"""Likelihoods of the models: against PyTorch's distributions, their means, and training with each."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import (
    Bernoulli,
    ContinuousBernoulli,
    Distribution,
    Laplace,
    NegativeBinomial,
    Normal,
    Poisson,
)
from typer.testing import CliRunner

from fastvi.cli import app
from fastvi.data import DataError, Dataset, load_dataset
from fastvi.models import LIKELIHOODS, VAE, GeneralVAE, GeneralVAEOptions
from fastvi.models.base import DataShape
from fastvi.models.likelihoods import LOG_COUNT_RANGE, LOGVAR_RANGE, REAL_LOGVAR_RANGE, is_of_counts, is_of_reals
from fastvi.objectives import ELBO, IWAE

COUNTS = [name for name in LIKELIHOODS if is_of_counts(name)]
REALS = [name for name in LIKELIHOODS if is_of_reals(name)]


def outputs(name: str) -> torch.Tensor:
    """What a decoder may give for four values: beyond the ranges, too."""
    parts = LIKELIHOODS[name].parts
    generator = torch.Generator().manual_seed(0)
    found = torch.randn(3, 5, 4 * parts, dtype=torch.float64, generator=generator)
    if parts > 1:
        found[..., 4] = 40.0
        found[..., 5] = -40.0
    return found


def observations(name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(5, 4, dtype=torch.float64, generator=generator)
    if name == "bernoulli":
        return x.round()
    if name in REALS:
        return 20.0 * x - 15.0
    return (x * 5).floor() if name in COUNTS else x


def expected(name: str, parts: tuple[torch.Tensor, ...]) -> Distribution:
    first = parts[0]
    if name == "bernoulli":
        return Bernoulli(logits=first)
    if name == "continuous-bernoulli":
        return ContinuousBernoulli(logits=first, lims=(0.4999, 0.5001))
    if name == "gaussian":
        return Normal(first.sigmoid(), torch.exp(0.5 * parts[1].clamp(*LOGVAR_RANGE)))
    if name == "real-gaussian":
        return Normal(first, torch.exp(0.5 * parts[1].clamp(*REAL_LOGVAR_RANGE)))
    if name == "real-laplace":
        return Laplace(first, torch.exp(parts[1].clamp(*(end / 2 for end in REAL_LOGVAR_RANGE))))
    if name == "laplace":
        return Laplace(first.sigmoid(), torch.exp(parts[1].clamp(*(end / 2 for end in LOGVAR_RANGE))))
    if name == "poisson":
        return Poisson(first.exp())
    return NegativeBinomial(parts[1].clamp(*LOG_COUNT_RANGE).exp(), logits=first)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_log_prob_and_mean(name):
    likelihood, x = LIKELIHOODS[name], observations(name)
    parts = likelihood.split(outputs(name))
    reference = expected(name, parts)
    terms, mean = reference.log_prob(x), reference.mean
    if name == "zero-inflated-negative-binomial":
        gate = parts[2].sigmoid()
        terms = torch.where(x == 0, torch.log(gate + (1 - gate) * terms.exp()), torch.log1p(-gate) + terms)
        mean = (1 - gate) * mean
    # PyTorch has the constant of a continuous Bernoulli near 1/2 from a Taylor series of second order. Of a negative
    # binomial with many failures it subtracts log Gammas of 10^6.
    tolerance = 1e-6 if name == "continuous-bernoulli" or "binomial" in name else 1e-11
    torch.testing.assert_close(likelihood.log_prob(x, parts, True), terms.sum(-1), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(likelihood.mean(parts), mean, rtol=1e-7, atol=1e-7)


def test_the_mean_of_a_continuous_bernoulli_is_accurate_everywhere():
    """Against d log Z / dl = 1/2 + l/12 - l^3/720 + ... near 0, and by symmetry: m(l) + m(-l) = 1."""
    mean = LIKELIHOODS["continuous-bernoulli"].mean
    logits = torch.logspace(-12, 3, 400, dtype=torch.float64)
    torch.testing.assert_close(
        mean((logits,)) + mean((-logits,)), torch.ones(400, dtype=torch.float64), rtol=0, atol=1e-14
    )
    small = logits[logits < 0.05]
    series = 0.5 + small / 12 - small**3 / 720 + small**5 / 30240
    torch.testing.assert_close(mean((small,)), series, rtol=1e-14, atol=0)
    middle = torch.tensor([0.09999, 0.1, 0.10001, 1.0, 20.0], dtype=torch.float64)
    exact = 1 / (1 - torch.exp(-middle)) - 1 / middle
    torch.testing.assert_close(mean((middle,)), exact, rtol=1e-12, atol=0)
    assert mean((torch.zeros(1),)).item() == 0.5


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_decoder_begins_at_the_mean_of_the_data(name):
    torch.manual_seed(0)
    data_mean = torch.tensor([0.02, 0.3, 0.5, 0.97]) * (7.0 if name in COUNTS else -70.0 if name in REALS else 1.0)
    model = VAE(4, 2, (3,), likelihood=name, data_mean=data_mean)
    with torch.no_grad():
        model.likelihood_head.weight.zero_()
    torch.testing.assert_close(model.decode(torch.zeros(4, 2)), data_mean.expand(4, 4), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("objective", [ELBO(), IWAE(3)], ids=repr)
def test_models_learn(name, objective):
    torch.manual_seed(0)
    x = observations(name).float().repeat(4, 1)
    build = GeneralVAEOptions(latent_dim=2, hidden_dims=(8,)).build
    general = build(DataShape((2, 2)))
    decoder = torch.nn.Linear(2, 4 * LIKELIHOODS[name].parts)
    for model in (
        VAE(4, 2, (8,), likelihood=name, data_mean=x.mean(0)),
        GeneralVAE(general.encoder, general.posterior, decoder, 4, name),
    ):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        bounds = []
        for step in range(30):
            loss = -objective(model, x, seed=step).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            bounds.append(-loss.item())
        assert sum(bounds[-5:]) > sum(bounds[:5])


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_values_that_have_no_likelihood_are_refused(name):
    model = VAE(4, 2, (3,), likelihood=name)
    x = -torch.ones(5, 4)
    if name in ("gaussian", "laplace", *REALS):
        assert model.log_likelihood(x, torch.zeros(2, 5, 2)).isfinite().all()
        return
    with pytest.raises(ValueError, match="x"):
        model.log_likelihood(x, torch.zeros(2, 5, 2))


def test_counts_and_their_likelihoods():
    assert COUNTS == ["poisson", "negative-binomial", "zero-inflated-negative-binomial"]
    assert REALS == ["real-gaussian", "real-laplace"]


def test_a_data_set_of_counts():
    counts, grey = load_dataset("digits-counts"), load_dataset("digits")
    assert torch.equal(counts.train, 16.0 * grey.train)
    assert torch.equal(counts.test, 16.0 * grey.test)
    assert counts.likelihood == "poisson"
    for wrong in (0.5, -1.0, float("nan"), float("inf")):
        images = torch.ones(2, 4)
        images[1, 2] = wrong
        with pytest.raises(DataError, match="mine: the test images must hold counts, whole numbers of 0 or more, got"):
            Dataset("mine", torch.ones(2, 4), images, (2, 2), "poisson")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--likelihood", "negative-binomial", "--objective", "dreg"],
        ["--likelihood", "zero-inflated-negative-binomial", "--model", "general-vae", "--objective", "elbo"],
        ["--model", "hierarchical", "--latent-dims", "4,2"],
        ["--model", "convolutional-vae", "--channels", "4"],
    ],
    ids=" ".join,
)
def test_counts_are_trained(arguments, tmp_path):
    command = [
        "train",
        "--data",
        "digits-counts",
        "--epochs",
        "1",
        "--evaluation-samples",
        "2",
        "--evaluation-limit",
        "9",
    ]
    result = CliRunner().invoke(app, [*command, "--no-progress", "--out", str(tmp_path / "run"), *arguments])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "reconstructions.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--likelihood", "poisson"],
            "the likelihood poisson is of counts, and the data digits are of values in [0, 1]",
        ),
        (
            ["--data", "digits-counts", "--likelihood", "gaussian"],
            "the likelihood gaussian is of values in [0, 1], and the data digits-counts are of counts",
        ),
        (
            ["--data", "digits-counts", "--binarization", "dynamic"],
            "binarization must be none, for the data digits-counts are counts, got 'dynamic'",
        ),
        (
            ["--likelihood", "continuous-bernoulli", "--binarization", "static"],
            "binarization must be none, for continuous-bernoulli is of grey values, got 'static'",
        ),
        (["--data", "digits-counts", "--model", "sigmoid-belief-network", "--objective", "vimco"], "are of counts"),
    ],
)
def test_a_likelihood_of_another_kind_of_data_is_refused(arguments, words, tmp_path):
    result = CliRunner().invoke(app, ["train", "--out", str(tmp_path / "run"), *arguments])
    assert result.exit_code != 0
    assert words in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()
