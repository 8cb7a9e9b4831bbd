"""Arguments of `fastvi.fit`, `fastvi.load` and what they return that cannot be: one line that names the argument."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import fastvi
from fastvi.data import DataError
from fastvi.evaluate import encode, reconstruct
from fastvi.models import VAE, VAEOptions
from fastvi.objectives import ELBO

X = (torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()
SMALL: dict[str, Any] = {"epochs": 1, "latent_dim": 2, "hidden_dims": (4,)}
LOADER = DataLoader(TensorDataset(X), batch_size=10)


@pytest.fixture(scope="module")
def fitted() -> Any:
    return fastvi.fit("vae", X, **SMALL)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((None, X), {}, TypeError, "fit: model must be a torch.nn.Module, or a name .* got None"),
        ((3, X), {}, TypeError, "fit: model must be .* got 3 of type int"),
        ((VAE, X), {}, TypeError, "fit: model must be .* got the class VAE: give an object of it"),
        ((VAEOptions, X), {}, TypeError, "fit: model must be .* got the class VAEOptions: give an object of it"),
        (("vae", X, 3), SMALL, TypeError, "fit: objective must be a name or an object .* got 3 of type int"),
        (("vae", X, ELBO), SMALL, TypeError, "fit: objective must be .* got the class ELBO: give an object of it"),
        (("vae", None), SMALL, DataError, "data: expected numbers .* got None"),
        (("vae", {"a": 1}), SMALL, DataError, "data: expected numbers .* got an object of type dict"),
        (("vae", X), {**SMALL, "test": LOADER}, DataError, "test rows: expected numbers .* of type DataLoader"),
        (("vae", X), {**SMALL, "image_size": 3}, TypeError, r"fit: image_size must be a pair \(height, width\), got 3"),
        (("vae", X), {**SMALL, "callbacks": 3}, TypeError, "fit: callbacks must be a sequence of callbacks"),
        (("vae", X), {**SMALL, "loggers": "csv"}, TypeError, "fit: loggers must be a sequence of loggers .* got 'csv'"),
        (("vae", X), {**SMALL, "out": 3}, TypeError, "fit: out must be a path, got 3 of type int"),
        (("vae", X), {**SMALL, "checkpoint_every": -1}, ValueError, "fit: checkpoint_every must be at least 1, got -1"),
        *(
            (("vae", X), {**SMALL, "validation_split": value}, error, f"validation_split must be .* got {value!r}")
            for value, error in ((math.nan, ValueError), (math.inf, ValueError), ("a", TypeError), (None, TypeError))
        ),
    ],
)
def test_fit_names_the_argument(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fastvi.fit(*arguments, **options)


@pytest.mark.parametrize("method", ["evaluate", "anneal"])
@pytest.mark.parametrize(
    ("limit", "error", "message"),
    [
        (-1, ValueError, "limit must be at least 1, got -1"),
        (0, ValueError, "limit must be at least 1, got 0"),
        (2.5, TypeError, "limit must be an int, got 2.5 of type float"),
        ("all", TypeError, "limit must be an int, got 'all' of type str"),
    ],
)
def test_limits_are_counts(fitted: Any, method: str, limit: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"{method}: {message}"):
        getattr(fitted, method)(X, limit=limit)


@pytest.mark.parametrize("method", ["evaluate", "anneal"])
def test_batches_are_no_examples_to_evaluate(fitted: Any, method: str) -> None:
    with pytest.raises(TypeError, match=f"{method}: data must be examples at hand, .* of type DataLoader"):
        getattr(fitted, method)(LOADER)


@pytest.mark.parametrize(
    ("owner", "call"),
    [
        ("load", lambda fit: fastvi.load(3)),
        ("load", lambda fit: fastvi.from_pretrained(3)),
        ("save", lambda fit: fit.save(3)),
        ("save_pretrained", lambda fit: fit.save_pretrained(3)),
    ],
)
def test_paths_are_paths(fitted: Any, owner: str, call: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=f"{owner}: path must be a path, got 3 of type int"):
        call(fitted)


@pytest.mark.parametrize(("value", "got"), [(math.nan, "NaN among them"), (255.0, "values from 0 to 255")])
def test_codes_are_of_values_that_the_likelihood_is_of(fitted: Any, value: float, got: str) -> None:
    x = X.clone()
    x[3, 2] = value
    for name, make in (("encode", encode), ("reconstruct", reconstruct)):
        with pytest.raises(ValueError, match=rf"{name}: x must hold values in \[0, 1\], got {got}"):
            make(fitted.model, x)
    assert encode(VAE(6, 2, (4,), likelihood="real-gaussian"), X * 255.0).mean is not None


def test_labels_beyond_the_classes_are_named() -> None:
    labels = torch.arange(60) % 3
    classes = fastvi.fit("conditional-vae", (X, labels), **SMALL)
    with pytest.raises(fastvi.training.errors.RunError, match="must be from 0 to 2, as the run has 3 classes, got 7"):
        classes.evaluate((X, torch.full((60,), 7)), num_samples=2)


def test_all_models_are_registered_in_a_new_process() -> None:
    """Whatever was imported first: a name is found, and names may be counted while models are trained."""
    lines = (
        "from fastvi.models import MODELS, make_model_options",
        "assert type(make_model_options('autoencoder')).__name__ == 'AutoencoderOptions'",
        "assert 'm1-m2' in MODELS and 'slow-autoencoder' in list(MODELS) and 'nobody' not in MODELS",
        "before = len(MODELS)",
        "import fastvi.autoencoders, fastvi.training.settings",
        "assert len(MODELS) == before",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
