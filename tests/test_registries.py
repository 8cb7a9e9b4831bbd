"""What the registries make of a class: options on the command line, what is stored of it, what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Tensor
from typer.testing import CliRunner

from fastvi.cli import app
from fastvi.models import MODELS, VAEOptions, make_model_options
from fastvi.objectives import ELBO, IWAE, OBJECTIVES, Bound, make_objective, option
from fastvi.training.config import RunFolder
from support.command import assert_one_clear_line, call
from support.own_classes import Autoencoder, Denoising, Renyi, register


@pytest.fixture(autouse=True)
def registered(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTVI_DATA", raising=False)
    register(monkeypatch)


SHORT = ("--epochs", "2", "--batch-size", "500", "--binarization", "none")


# Options on the command line


def test_help_lists_the_options_of_each_class():
    text = CliRunner().invoke(app, ["train", "--help"], terminal_width=200).output
    # Long rows are wrapped, where the terminal's width says.
    sections = {part.split(":\n")[0]: " ".join(part.split()) for part in text.split("Options of --")}
    for section, rows in {
        "objective elbo": ["--num-samples COUNT", "--beta NUMBER", "Weight of the divergence [default: 1.0]"],
        "objective iwae": [
            "--num-samples COUNT",
            "K, samples for each example [default: 5]",
            "--backward-samples COU",
        ],
        "objective renyi": ["--alpha NUMBER", "Order of the divergence [default: 0.0]"],
        "objective denoising": ["--halved / --no-halved", "--kind TEXT", "squared or absolute", "--steps COUNTS"],
        "objective cross-entropy": ["none"],
        "model vae": [
            "--hidden-dims COUNTS",
            "[default: 200,200]",
            "--likelihood TEXT",
            "[default: what fits the data]",
        ],
        "model autoencoder": ["--code-dim COUNT", "Width of the code [default: 4]"],
    }.items():
        for row in rows:
            assert row in sections[section], (section, row)
    assert "--backward-samples" not in sections["objective elbo"]
    assert "--noise" not in text.split("Options of --")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--objective", "renyi", "--num-samples", "1"), "--num-samples must be at least 2, got 1"),
        (
            ("--objective", "stl", "--alpha", "1"),
            "--alpha belongs to the objectives renyi and semi-supervised, not to stl, which has --num-s",
        ),
        (
            ("--objective", "iwae", "--warm-up-steps", "3"),
            "--warm-up-steps belongs to the objectives elbo and semi-supervised, not to iwae, which has --num-samples",
        ),
        (
            ("--objective", "iwae", "--free-bits", "3"),
            "--analytic-kl, --beta, --free-bits and --warm-up-steps belong to the objective elbo, not to iwae, "
            "which has --num-samples and --backward-samples",
        ),
        (("--objective", "cross-entropy", "--beta", "1"), "not to cross-entropy, which has no options"),
        (
            ("--objective", "denoising", "--num-samples", "3"),
            "--num-samples belongs to the objectives elbo, iwae, stl, ",
        ),
        (("--model", "autoencoder", "--latent-dim", "3"), "--latent-dim belongs to the models vae"),
        (("--model", "autoencoder", "--latent-dim", "3"), "hamiltonian, not to autoencoder, which has --code"),
        (
            ("--mass", "unit"),
            "--mass, --tempering, --inverse-temperature, --reverse and --reverse-dim belong to the model hamiltonian, "
            "not to vae, which has --latent-dim",
        ),
        (("--model", "hamiltonian", "--step-size", "1"), "--step-size must be above 0 and below --max-step-size = 0.5"),
        (("--code-dim", "3"), "--code-dim belongs to the model autoencoder, not to vae, which has --latent-dim"),
        (("--objective", "denoising", "--kind", "odd"), "--kind must be one of squared, absolute, got 'odd'"),
        (
            ("--objective", "denoising", "--steps", "1,x"),
            "--steps must be numbers separated by commas, such as 200,200",
        ),
        (("--objective", "denoising", "--steps", "1,0"), "--steps must be numbers from 1 to 2147483647, got '1,0'"),
        (("--objective", "elbo", "--no-analytic-kl", "--free-bits", "1"), "--free-bits=1.0 needs --analytic-kl, "),
        (
            ("--objective", "best"),
            f"--objective must be one of {', '.join([*OBJECTIVES, 'denoising', 'cross-entropy'])}, got 'best'",
        ),
        (("--model", "gan"), "--model must be one of vae, hamiltonian, autoencoder, classifier, got 'gan'"),
    ],
)
def test_options_of_other_classes_and_wrong_values(arguments, message, tmp_path):
    assert_one_clear_line(call("train", *arguments), message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--alpha", "inf"), "'--alpha': got 'inf', expected a finite number, that float32 holds"),
        (("--alpha", "x"), "'--alpha': got 'x', expected a finite number, that float32 holds"),
        (("--noise", "-1"), "'--noise': got '-1', expected a finite number, 0 or more, that float32 holds"),
        (("--code-dim", "0"), "'--code-dim': got '0', expected a whole number from 1"),
        (("--clip", "1.5"), "'--clip': got '1.5', expected a whole number from 0"),
    ],
)
def test_numbers_are_checked_as_they_come(arguments, message):
    result = call("train", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_flags_have_both_ways():
    for flag, value in (("--analytic-kl", True), ("--no-analytic-kl", False)):
        options = ("--objective", "elbo", flag, *SHORT, "--no-evaluate", "--hidden-dims", "4", "--out", f"run{value}")
        assert call("train", *options).exit_code == 0
        assert RunFolder(Path(f"run{value}")).read_config().objective == ELBO(analytic_kl=value)
    assert_one_clear_line(
        call("train", "--resume", "runTrue", "--no-analytic-kl"), "--analytic-kl False contradicts the True of the run"
    )


def test_an_option_without_a_usual_value_has_to_be_given(monkeypatch):
    @dataclass(frozen=True)
    class Required(Bound):
        weight: float = option("nobody knows")

        def __call__(self, model, x, **_):
            raise AssertionError("it is never made")

    monkeypatch.setitem(OBJECTIVES, "required", Required)
    assert_one_clear_line(call("train", "--objective", "required"), "--weight must be given for the objective required")


# Registries


def test_objects_by_their_names():
    assert make_objective("denoising", noise=0.5) == Denoising(0.5)
    assert make_model_options("vae", latent_dim=3) == VAEOptions(3)
    for objective in (Denoising(0.25, steps=(1, 2)), IWAE(5, 2), ELBO(beta=0.5)):
        stored = json.loads(json.dumps(OBJECTIVES.as_fields(objective)))
        assert OBJECTIVES.from_fields(stored) == objective
    with pytest.raises(TypeError, match=r"^make_model_options: 'vae' has the options latent_dim, .*; got width$"):
        make_model_options("vae", width=3)
    with pytest.raises(ValueError, match=f"make_model_options: name must be one of {', '.join(MODELS)}, got 'x'"):
        make_model_options("x")
    with pytest.raises(TypeError, match="make_objective: 'cross-entropy' has no options; got width"):
        make_objective("cross-entropy", width=3)


class Bare(Bound):
    def __call__(self, model, x, **_):
        return x


@dataclass(frozen=True)
class Strange(Bare):
    table: dict[str, int] = option("a type that no option has", None)


@dataclass(frozen=True)
class Clash(Bare):
    num_samples: float = option("a number elsewhere", 1.0)


@dataclass(frozen=True)
class Named(Bare):
    name: str = option("a run stores that of the class under it", "x")


@dataclass(frozen=True)
class TakesSeed(Bare):
    seed: int = option("fastvi train has that already", 1)


@dataclass(frozen=True)
class TakesLatent(Bare):
    latent_dim: int = option("the model has that already", 1)


@pytest.mark.parametrize(
    ("name", "entry", "error", "message"),
    [
        ("mine", Bare, TypeError, "Bare must be a dataclass, whose fields are its options"),
        ("mine", Tensor, TypeError, "'mine' must be a subclass of Objective to be a registered objective, got"),
        ("mine", Renyi(), TypeError, "'mine' must be a subclass of Objective to be a registered objective, got Renyi"),
        ("a/b", Renyi, ValueError, "of small letters, digits and hyphens, got 'a/b'"),
        ("", Renyi, ValueError, "of small letters, digits and hyphens, got ''"),
        (3, Renyi, ValueError, "of small letters, digits and hyphens, got 3"),
        ("mine", Named, ValueError, "Named: no option may be called name"),
        (
            "mine",
            Strange,
            TypeError,
            "Strange: the option table has the type dict.*; expected int, float, bool, str or",
        ),
        (
            "mine",
            Clash,
            ValueError,
            "Clash: the option num_samples is of type float, and of type int for the objective",
        ),
    ],
)
def test_what_cannot_be_registered_is_refused(name, entry, error, message):
    before = dict(OBJECTIVES)
    with pytest.raises(error, match=message):
        OBJECTIVES[name] = entry
    assert dict(OBJECTIVES) == before


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (TakesSeed, "--seed is an option of fastvi train itself"),
        (TakesLatent, "--latent-dim is an option of an objective and of a model, or of the trainer"),
    ],
)
def test_options_that_would_mean_two_things_are_one_line(monkeypatch, entry, message):
    monkeypatch.setitem(OBJECTIVES, "mine", entry)
    assert_one_clear_line(call("train", *SHORT), message)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Denoising(noise="1"), TypeError, "Denoising: noise must be a float, got '1' of type str"),
        (lambda: Denoising(noise=-1.0), ValueError, "Denoising: noise must be finite and not negative, got -1.0"),
        (lambda: Denoising(noise=None), TypeError, "Denoising: noise must be a float, got None"),
        (lambda: Denoising(noise=10**400), ValueError, "Denoising: noise must be finite"),
        (lambda: Renyi(2, math.nan), ValueError, "Renyi: alpha must be finite, got nan"),
        (lambda: Renyi(2, -math.inf), ValueError, "Renyi: alpha must be finite, got -inf"),
        (lambda: Denoising(halved=1), TypeError, "Denoising: halved must be a bool, got 1 of type int"),
        (lambda: Denoising(kind=3), TypeError, "Denoising: kind must be a str, got 3 of type int"),
        (lambda: Denoising(kind="odd"), ValueError, "Denoising: kind must be one of squared, absolute, got 'odd'"),
        (lambda: Denoising(steps=()), ValueError, r"Denoising: steps must be positive, got \(\)"),
        (lambda: Denoising(steps=(1, "x")), TypeError, "Denoising: steps must be a tuple of integers, got"),
        (lambda: Denoising(steps="12"), TypeError, "Denoising: steps must be a tuple of sizes, got '12'"),
        (lambda: Denoising(clip=-1), ValueError, "Denoising: clip must be at least 0, got -1"),
        (lambda: Autoencoder(2.0), TypeError, "Autoencoder: code_dim must be an int, got 2.0 of type float"),
        (lambda: VAEOptions(activation="sine"), ValueError, "VAEOptions: activation must be one of tanh"),
    ],
)
def test_every_field_is_checked(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_numbers_of_numpy_and_lists_are_taken():
    import numpy as np

    made = Denoising(np.float32(0.5), [np.int64(1), 2], clip=np.int8(3))
    assert made == Denoising(0.5, (1, 2), clip=3)
    assert [type(value) for value in (made.noise, made.steps[0], made.clip)] == [float, int, int]
