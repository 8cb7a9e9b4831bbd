"""Latent variables as features: those of the encoder, the dimensions that are kept, draws, and scikit-learn's rules."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

import fastvi
from fastvi.autoencoders import Autoencoder
from fastvi.data import STATIC_BINARIZATION_SEED, binarize, from_arrays
from fastvi.models import VAE, HierarchicalVAE
from fastvi.semi_supervised import LatentFeatures
from fastvi.training.errors import RunError
from support.command import call
from support.latent_models import LinearEncoder

IDENTITY = LinearEncoder()
GREY = np.random.default_rng(0).random((300, 16)).astype(np.float32)


def small_vae() -> VAE:
    torch.manual_seed(0)
    return VAE(16, latent_dim=3, hidden_dims=(8,))


def signs(count: int, width: int) -> np.ndarray:
    """Columns of as many 1 as -1: each has the standard deviation 1, exactly."""
    return np.tile([[1.0], [-1.0]], (count // 2, width))


# The encoder's own numbers


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_features_are_the_encoders_means(dtype: type) -> None:
    model = small_vae()
    found = LatentFeatures(model, min_spread=None).fit_transform(GREY.astype(dtype))
    with torch.no_grad():
        expected = model.encode(torch.from_numpy(GREY))[0]
    assert found.dtype == dtype
    # The sums of a row of float32 are taken in another order in a batch of another size.
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_a_model_a_fit_and_a_run_folder_are_one(tmp_path: Path) -> None:
    options = {"epochs": 1, "latent_dim": 3, "hidden_dims": (8,), "out": tmp_path / "run"}
    fitted = fastvi.fit("vae", GREY, **options)
    assert fitted.config.binarization == "dynamic"
    ways = [
        LatentFeatures(fitted, min_spread=0.0).fit(GREY),
        LatentFeatures(tmp_path / "run", min_spread=0.0).fit(GREY),
        LatentFeatures(str(tmp_path / "run"), min_spread=0.0).fit(GREY),
        LatentFeatures(fitted.model, min_spread=0.0, binarization="dynamic").fit(GREY),
    ]
    for way in ways[1:]:
        np.testing.assert_array_equal(way.transform(GREY), ways[0].transform(GREY))
        np.testing.assert_array_equal(way.sample(GREY, 5), ways[0].sample(GREY, 5))
    grey = LatentFeatures(fitted, min_spread=0.0, binarization="none").fit(GREY)
    np.testing.assert_array_equal(grey.transform(GREY), ways[0].transform(GREY))
    assert not np.array_equal(grey.sample(GREY, 5), ways[0].sample(GREY, 5))


def test_a_module_keeps_its_mode_and_parameters() -> None:
    class Noisy(VAE):
        def __init__(self) -> None:
            super().__init__(16, latent_dim=3, hidden_dims=(8,))
            self.encoder.append(nn.Dropout(0.5))

    torch.manual_seed(0)
    model = Noisy().train()
    model.decoder.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    features = LatentFeatures(model, min_spread=None).fit(GREY)
    np.testing.assert_array_equal(features.transform(GREY), features.transform(GREY))
    assert model.training
    assert model.encoder.training
    assert not model.decoder.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_module_takes_the_shape_that_it_was_trained_on() -> None:
    class Square(VAE):
        def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            assert x.shape[1:] == (4, 4)
            return super().encode(x.flatten(1))

        def log_likelihood(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
            return super().log_likelihood(x.flatten(1), z)

    fitted = fastvi.fit(Square(16, latent_dim=2, hidden_dims=(8,)), GREY.reshape(-1, 4, 4), epochs=1)
    assert LatentFeatures(fitted, min_spread=None).fit(GREY).sample(GREY).shape == (300, 2)


# The scale of a run

BYTES = np.random.default_rng(2).integers(0, 256, (300, 16)).astype(np.uint8)
SMALL = {"epochs": 1, "latent_dim": 3, "hidden_dims": (8,)}


@pytest.mark.parametrize("binarization", ["none", "dynamic", "static"])
def test_bytes_are_divided_as_the_run_divides_them(tmp_path: Path, binarization: str) -> None:
    grey = BYTES.astype(np.float32) / np.float32(255)
    fitted = fastvi.fit("vae", BYTES, "elbo", out=tmp_path / "run", binarization=binarization, **SMALL)
    expected = LatentFeatures(fitted, min_spread=None).fit(grey)
    for model in (fitted, tmp_path / "run"):
        features = LatentFeatures(model, min_spread=None).fit(BYTES)
        assert features.divisor_ == 255.0
        assert features.transform(BYTES).dtype == np.float32
        np.testing.assert_array_equal(features.spreads_, expected.spreads_)
        np.testing.assert_array_equal(features.transform(BYTES), expected.transform(grey))
        np.testing.assert_array_equal(features.sample(BYTES, 3), expected.sample(grey, 3))
        np.testing.assert_array_equal(features.transform(grey), expected.transform(grey))
        # Once divided, always: also a row without a value above 1.
        dark = BYTES[:1] % 2
        grey_dark = dark.astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(features.transform(dark), expected.transform(grey_dark))
        for method in (features.fit, features.transform, features.sample):
            with pytest.raises(ValueError, match=r"X must hold values in \[0, 1\], got values from 0 to 255; grey"):
                method(BYTES.astype(np.float64))


def test_bytes_of_zeros_and_ones_and_of_counts_are_not_divided() -> None:
    ones = BYTES % 2
    fitted = fastvi.fit("vae", ones, "elbo", **SMALL)
    features = LatentFeatures(fitted, min_spread=None).fit(ones)
    np.testing.assert_array_equal(features.transform(ones), features.transform(ones.astype(np.float32)))
    counts = fastvi.fit("vae", BYTES, "elbo", likelihood="poisson", **SMALL)
    features = LatentFeatures(counts, min_spread=None).fit(BYTES)
    np.testing.assert_array_equal(features.transform(BYTES), features.transform(BYTES.astype(np.float32)))
    with pytest.raises(ValueError, match=r"X must hold counts, whole numbers of 0 or more, got \d+\.5"):
        features.transform(BYTES + 0.5)


def test_a_chosen_divisor_is_that_of_the_run(tmp_path: Path) -> None:
    sixteen = (BYTES // 16).astype(np.uint8)
    np.save(tmp_path / "mine.npy", sixteen)
    run = tmp_path / "run"
    options = ("--data", tmp_path / "mine.npy", "--divide-by", 16, "--epochs", 1, "--hidden-dims", 8, "--no-evaluate")
    result = call("train", "--model", "vae", "--latent-dim", 3, "--objective", "elbo", *options, "--out", run)
    assert result.exit_code == 0, result.output
    features = LatentFeatures(run, min_spread=None).fit(sixteen)
    assert features.divisor_ == 16.0
    np.testing.assert_array_equal(features.transform(sixteen), features.transform(sixteen.astype(np.float32) / 16))


def test_a_model_without_a_run_divides_nothing() -> None:
    with pytest.raises(ValueError, match=r"X must hold values in \[0, 1\], got values from 0 to 255"):
        LatentFeatures(small_vae(), min_spread=None).fit(BYTES)
    np.testing.assert_array_equal(LatentFeatures(IDENTITY).fit(BYTES).transform(BYTES), BYTES)


def test_rows_on_another_scale_than_the_runs_are_warned_of(tmp_path: Path) -> None:
    raw = np.random.default_rng(3).normal(50.0, 10.0, (300, 4)).astype(np.float32)
    np.save(tmp_path / "mine.npy", raw)
    data = from_arrays(raw, standardize=True)
    options = ("--data", tmp_path / "mine.npy", "--standardize", "--epochs", 1, "--hidden-dims", 8, "--no-evaluate")
    run = tmp_path / "run"
    result = call("train", "--model", "vae", "--latent-dim", 3, "--objective", "elbo", *options, "--out", run)
    assert result.exit_code == 0, result.output
    for model in (fastvi.fit("vae", data, "elbo", **SMALL), run):
        with pytest.warns(
            UserWarning, match=r"column \d of X has the mean (49|5\d)[.\d]* .* give rows as the run has them"
        ):
            LatentFeatures(model, min_spread=None).fit(raw)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            LatentFeatures(model, min_spread=None).fit(data.train.numpy())


# The dimensions that are kept


def test_the_dimensions_that_are_spread_are_kept() -> None:
    """Spreads are |weight|, all of them exact in binary: 1/8 is not more than 1/8."""
    weights = np.diag([0.0625, 0.125, 0.1875, -2.0, 0.0])
    x = signs(10, 5)
    features = LatentFeatures(LinearEncoder(weights), min_spread=0.125).fit(x)
    assert features.spreads_.tolist() == [0.0625, 0.125, 0.1875, 2.0, 0.0]
    assert features.dimensions_.tolist() == [2, 3]
    assert features.get_feature_names_out().tolist() == ["z2", "z3"]
    np.testing.assert_array_equal(features.transform(x), x[:, :2] * [0.1875, -2.0])
    np.testing.assert_allclose(features.sample(x), x[:, :2] * [0.1875, -2.0], atol=1e-7)  # deviation exp(-20) = 2e-9
    kept = {
        least: LatentFeatures(LinearEncoder(weights), min_spread=least).fit(x).dimensions_ for least in (0, 0.1, None)
    }
    assert {least: dimensions.tolist() for least, dimensions in kept.items()} == {
        0: [0, 1, 2, 3],
        0.1: [1, 2, 3],
        None: [0, 1, 2, 3, 4],
    }


def test_the_spread_is_over_the_rows_of_fit() -> None:
    x = np.array([[1.0, 0.0], [-1.0, 0.0]])
    features = LatentFeatures(IDENTITY).fit(x)
    assert features.transform(np.array([[7.0, 9.0]])).tolist() == [[7.0]]


# Draws


def test_draws_have_the_posteriors_moments() -> None:
    """Over N rows alike: means within 4.5 standard errors, s / sqrt(N), and variances within 4.5 s^2 sqrt(2 / N)."""
    count, deviation = 40_000, np.array([0.5, 2.0, 1.0])
    model = LinearEncoder(np.diag([1.0, -1.0, 3.0]), 2.0 * np.log(deviation))
    row = np.array([0.25, 0.5, -1.0])
    features = LatentFeatures(model, min_spread=None).fit(row[None])
    drawn = features.sample(np.tile(row, (count, 1)), seed=7)
    assert (np.abs(drawn.mean(0) - row * [1.0, -1.0, 3.0]) < 4.5 * deviation / count**0.5).all()
    assert (np.abs(drawn.var(0) - deviation**2) < 4.5 * deviation**2 * (2 / count) ** 0.5).all()
    correlations = np.corrcoef(drawn.T)[np.triu_indices(3, 1)]
    assert (np.abs(correlations) < 4.5 / count**0.5).all()


@pytest.mark.parametrize("binarization", ["none", "dynamic", "static"])
def test_draws_depend_on_the_seed_alone(binarization: str) -> None:
    features = LatentFeatures(LinearEncoder(logvar=0.0), binarization=binarization).fit(GREY)
    first = features.sample(GREY, seed=3)
    torch.manual_seed(1)
    np.testing.assert_array_equal(features.sample(GREY, seed=3), first)
    np.testing.assert_array_equal(clone(features).fit(GREY).sample(GREY, seed=3), first)
    assert not np.isclose(features.sample(GREY, seed=4), first).any()
    np.testing.assert_array_equal(features.sample(GREY[:200], seed=3), first[:200])


def test_dynamic_pixels_are_drawn_for_samples_and_grey_for_means() -> None:
    """The frequency of a one in 400 draws is its grey value, within 5 standard errors of the least certain."""
    features = LatentFeatures(IDENTITY, binarization="dynamic").fit(GREY)
    np.testing.assert_array_equal(features.transform(GREY), GREY)
    pixels = np.stack([features.sample(GREY, seed) for seed in range(400)]).round(4)
    assert np.unique(pixels).tolist() == [0.0, 1.0]
    assert np.abs(pixels.mean(0) - GREY).max() < 5 * 0.5 / 400**0.5


def test_static_pixels_are_drawn_once() -> None:
    features = LatentFeatures(IDENTITY, binarization="static").fit(GREY)
    expected = binarize(torch.from_numpy(GREY), STATIC_BINARIZATION_SEED).numpy()
    np.testing.assert_array_equal(features.transform(GREY), expected)
    for seed in range(3):
        np.testing.assert_allclose(features.sample(GREY, seed), expected, atol=1e-7)


# Scikit-learn


def test_scikit_learns_checks() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for found in check_estimator(LatentFeatures(IDENTITY, min_spread=None), on_fail=None):
            assert found["status"] in ("passed", "skipped"), f"{found['check_name']}: {found['exception']}"


def test_a_clone_shares_the_model() -> None:
    features = LatentFeatures(small_vae(), min_spread=0.01, binarization="none").fit(GREY)
    copy = clone(features)
    assert copy.model is features.model
    assert copy.get_params() == features.get_params()
    assert not hasattr(copy, "dimensions_")
    assert copy.set_params(min_spread=0.5).min_spread == 0.5
    assert features.min_spread == 0.01
    again = pickle.loads(pickle.dumps(features))
    np.testing.assert_array_equal(again.transform(GREY), features.transform(GREY))


def test_a_pipeline_is_cross_validated() -> None:
    """The first two columns of the latents say the class without an error, and the pixels' third has no spread."""
    generator = np.random.default_rng(0)
    y = np.arange(60) % 2
    x = np.stack([4.0 * y - 2.0 + 0.1 * generator.standard_normal(60), generator.standard_normal(60)], 1)
    pipeline = make_pipeline(LatentFeatures(LinearEncoder([[1.0, 0.0], [0.0, 0.01]])), LogisticRegression())
    assert cross_val_score(pipeline, x, y, cv=3).tolist() == [1.0, 1.0, 1.0]
    assert pipeline.fit(x, y)[0].dimensions_.tolist() == [0]
    assert pipeline[:-1].get_feature_names_out().tolist() == ["z0"]


# What is wrong


@pytest.mark.parametrize(
    ("features", "x", "error", "message"),
    [
        (LatentFeatures(IDENTITY, min_spread=-0.1), GREY, ValueError, "min_spread must be finite and at least 0"),
        (LatentFeatures(IDENTITY, min_spread=float("nan")), GREY, ValueError, "min_spread must be finite"),
        (LatentFeatures(IDENTITY, min_spread="0.1"), GREY, TypeError, "min_spread must be a number or None, got str"),
        (
            LatentFeatures(IDENTITY, min_spread=1.0),
            GREY,
            ValueError,
            "no latent dimension .* min_spread 1",
        ),
        (LatentFeatures(IDENTITY, binarization="random"), GREY, ValueError, "binarization must be one of dynamic, "),
        (LatentFeatures(small_vae(), min_spread=None), GREY[:, :15], ValueError, r"shape \(B, 16\), got \(128, 15\)"),
        (LatentFeatures(IDENTITY, binarization="static"), 255 * GREY, ValueError, "divided by 255 first"),
        (LatentFeatures(Autoencoder(16, 3, (8,))), GREY, TypeError, "model must have an encoder q"),
        (LatentFeatures(None), GREY, TypeError, "a VAE, a Fit or a run folder, got NoneType"),
        (
            LatentFeatures(HierarchicalVAE(16, latent_dims=(3, 2), hidden_dims=(8,), upper_hidden_dims=(8,))),
            GREY,
            TypeError,
            "model must have an encoder",
        ),
        (LatentFeatures("/no/such/run"), GREY, RunError, "/no/such/run is not a run folder"),
    ],
)
def test_what_is_wrong_is_said(features: LatentFeatures, x: np.ndarray, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        features.fit(x)


def test_a_model_that_takes_labels_is_refused() -> None:
    model = small_vae()
    model.uses_labels = True
    with pytest.raises(TypeError, match="trained without labels, got VAE, which takes them"):
        LatentFeatures(model).fit(GREY)


def test_before_fit_there_are_no_features() -> None:
    failed = LatentFeatures(IDENTITY, min_spread=1.0)
    with pytest.raises(ValueError, match="no latent dimension"):
        failed.fit(GREY)
    for features in (LatentFeatures(IDENTITY), failed):
        for method in ("transform", "sample"):
            with pytest.raises(NotFittedError):
                getattr(features, method)(GREY)
    with pytest.raises(ValueError, match=r"LatentFeatures.sample: seed is -1, expected a number in \[0, 2\^63\)"):
        LatentFeatures(IDENTITY).fit(GREY).sample(GREY, seed=-1)


def test_what_is_missing_is_named(run_python) -> None:
    code = """
import sys
sys.modules["sklearn"] = None  # as if it were not installed
import fastvi
try:
    fastvi.semi_supervised.LatentFeatures
except ImportError as error:
    print(error)
"""
    expected = 'fastvi.semi_supervised needs scikit-learn, which is not installed: pip install "fastvi[train]"'
    assert run_python(code).strip() == expected
