"""Runs that earlier versions wrote, and a run that a later one may write: what is read, and what is said."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
import torch

from fastvi.models import VAEOptions
from fastvi.objectives import ELBO, IWAE, OBJECTIVES, STL, DReG
from fastvi.training.checkpoint import checkpoint_bytes
from fastvi.training.config import RunError, RunFolder
from support.command import assert_one_clear_line, call
from support.runs import as_made_by_the_first_version, former_settings

# As fastvi wrote it before the objective and the model had options of their own, to the letter.
FORMAT_2 = """{
  "fastvi_run": 2,
  "data": "digits",
  "image_shape": [
    8,
    8
  ],
  "objective": "elbo",
  "num_samples": 2,
  "backward_samples": null,
  "beta": 0.5,
  "free_bits": 0.0,
  "warm_up_steps": 20,
  "latent_dim": 2,
  "hidden_dims": [
    8
  ],
  "activation": "tanh",
  "likelihood": "bernoulli",
  "binarization": "dynamic",
  "epochs": 2,
  "batch_size": 500,
  "learning_rate": 0.001,
  "seed": 0,
  "data_record": {
    "train_images": 1500,
    "test_images": 297,
    "train_digest": "58bf66cd820cb435928d75b413adb41f4c70a53004e19da82f0d0fe8e7f692b1",
    "test_digest": "cf38f7bd637adf82583ae6351ae5ea7fc49d32d044356b39b6086d80dae6a1ce",
    "data_dir": null
  },
  "checksum": "25c696bd76469f89135be6201c2b0c46"
}
"""
OPTIONS = ("--hidden-dims", "8", "--latent-dim", "2", "--batch-size", "500", "--threads", "1", "--no-evaluate")
WARM_UP = ("--objective", "elbo", "--num-samples", "2", "--beta", "0.5", "--warm-up-steps", "20")


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTVI_DATA", raising=False)


def as_made_in_format_2(folder):
    """Turn a run into one of the version after 0.1.0: settings one beside the other, no number in a checkpoint."""
    run = RunFolder(folder)
    config, record, checkpoint = run.read_config(), run.read_record(), run.read_checkpoint()
    settings = former_settings(config)
    del checkpoint["fastvi_run"]
    checkpoint["settings"] = {name: value for name, value in settings.items() if name != "epochs"}
    run.checkpoint_file.write_bytes(checkpoint_bytes(checkpoint))
    kept = record.as_dict()
    del kept["labels_digest"]
    content = json.loads(json.dumps({"fastvi_run": 2, **settings, "data_record": kept}))
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["checksum"] = hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()
    run.config_file.write_text(json.dumps(content, indent=2) + "\n")


FORMATS = {"format-1": as_made_by_the_first_version, "format-2": as_made_in_format_2}


def test_the_settings_of_format_2_are_those_that_were_chosen():
    run = RunFolder(Path("run"))
    run.make()
    run.config_file.write_text(FORMAT_2)
    config = run.read_config()
    assert config.objective == ELBO(2, beta=0.5, warm_up_steps=20)
    assert config.model == VAEOptions(latent_dim=2, hidden_dims=(8,))
    assert (config.epochs, config.batch_size, config.learning_rate, config.seed) == (2, 500, 0.001, 0)
    assert run.read_record().train_images == 1500
    flat = json.loads(FORMAT_2)
    for name in ("fastvi_run", "data_record", "checksum"):
        del flat[name]
    run.config_file.write_text(json.dumps(flat, indent=2))  # as 0.1.0 wrote it
    assert run.read_config() == config
    assert run.read_record() is None


def test_our_own_transformation_is_what_was_written():
    """So that the tests below start from runs as they were, the checksum included."""
    assert call("train", *OPTIONS, *WARM_UP, "--epochs", 2, "--out", "run").exit_code == 0
    as_made_in_format_2(Path("run"))
    assert Path("run/config.json").read_text() == FORMAT_2


@pytest.mark.parametrize("make_former", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize(
    ("options", "objective"),
    [
        (WARM_UP, ELBO(2, beta=0.5, warm_up_steps=20)),
        (("--num-samples", "3", "--backward-samples", "2"), IWAE(3, 2)),
        (("--objective", "stl"), STL(1)),
        (("--objective", "dreg", "--num-samples", "2"), DReG(2)),
    ],
    ids=["elbo", "iwae", "stl", "dreg"],
)
def test_former_runs_go_on_to_the_same_parameters_and_are_evaluated(make_former, options, objective):
    assert call("train", *OPTIONS, *options, "--epochs", 2, "--out", "whole").exit_code == 0
    assert call("train", "--resume", "whole", "--epochs", 3, "--threads", 1, "--no-evaluate").exit_code == 0
    assert call("train", *OPTIONS, *options, "--epochs", 2, "--out", "run").exit_code == 0
    make_former(Path("run"))
    result = call("evaluate", "run", "--num-samples", 10)
    assert result.exit_code == 0, result.output
    result = call("train", "--resume", "run", "--epochs", 3, "--threads", 1, "--no-evaluate", *options)
    assert result.exit_code == 0, result.output
    run, whole = RunFolder(Path("run")), RunFolder(Path("whole"))
    assert run.read_config() == whole.read_config()
    assert run.read_config().objective == objective
    for key in ("state_dict", "optimizer_states", "global_step"):
        torch.testing.assert_close(run.read_checkpoint()[key], whole.read_checkpoint()[key], rtol=0, atol=0)


def test_a_semi_supervised_run_from_before_the_classifier_could_wait():
    """Its objective had no hold, no warm-up and no share, which is what their usual values do."""
    options = ("--model", "m2", "--labels", 20, "--labelled-batch", 20, *OPTIONS)
    assert call("train", *options, "--epochs", 2, "--out", "whole").exit_code == 0
    assert call("train", *options, "--epochs", 1, "--out", "run").exit_code == 0
    run, whole = RunFolder(Path("run")), RunFolder(Path("whole"))
    checkpoint, content = run.read_checkpoint(), json.loads(run.config_file.read_text())
    del content["checksum"]
    for objective in (checkpoint["settings"]["objective"], content["objective"]):
        for name in ("hold_steps", "warm_up_steps", "unlabelled_share"):
            del objective[name]
    run.checkpoint_file.write_bytes(checkpoint_bytes(checkpoint))
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["checksum"] = hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()
    run.config_file.write_text(json.dumps(content))
    result = call("train", "--resume", "run", "--epochs", 2, "--threads", 1, "--no-evaluate")
    assert result.exit_code == 0, result.output
    assert run.read_config() == whole.read_config()
    for key in ("state_dict", "optimizer_states", "global_step"):
        torch.testing.assert_close(run.read_checkpoint()[key], whole.read_checkpoint()[key], rtol=0, atol=0)


def test_checkpoints_of_former_runs_are_told_apart():
    """A checkpoint of format 2 keeps its settings: one of another run is known by them."""
    for name, options in (("run", ()), ("seed", ("--seed", 3)), ("bound", ("--objective", "dreg"))):
        result = call("train", *OPTIONS, "--num-samples", 2, *options, "--epochs", 1, "--out", name)
        assert result.exit_code == 0, result.output
        as_made_in_format_2(Path(name))
    for name, message in (("seed", "its seed is 3, not 0"), ("bound", "its objective is dreg, not iwae")):
        RunFolder(Path("run")).checkpoint_file.write_bytes(RunFolder(Path(name)).checkpoint_file.read_bytes())
        assert_one_clear_line(call("evaluate", "run"), f"run/checkpoints/last.ckpt is of another run: {message}")


def test_a_newer_checkpoint_is_one_clear_line():
    assert call("train", *OPTIONS, "--epochs", 1, "--out", "run").exit_code == 0
    run = RunFolder(Path("run"))
    checkpoint = run.read_checkpoint()
    for number, message in (
        (4, "a newer fastvi wrote it, in format 4; this one reads up to 3"),
        ("x", "fastvi_run must be a whole number from 2 to 3, got 'x'"),
    ):
        # Whatever else a newer version keeps there.
        run.checkpoint_file.write_bytes(checkpoint_bytes({"fastvi_run": number, "weights": checkpoint["state_dict"]}))
        for arguments in (("evaluate", "run"), ("train", "--resume", "run", "--epochs", 2)):
            assert_one_clear_line(call(*arguments), f"run/checkpoints/last.ckpt cannot be read: {message}")
    del checkpoint["fastvi_run"]
    run.checkpoint_file.write_bytes(checkpoint_bytes(checkpoint))
    with pytest.raises(RunError, match=r"last\.ckpt is of another version of fastvi"):
        run.load_model()
    for settings in (None, 3, [], {}, {"objective": 3}, {"objective": {}, "model": {}}):
        run.checkpoint_file.write_bytes(checkpoint_bytes(checkpoint | {"fastvi_run": 3, "settings": settings}))
        with pytest.raises(RunError, match=r"last\.ckpt is of another version of fastvi"):
            run.load_model()


def test_an_objective_that_is_not_registered_is_one_clear_line():
    assert call("train", *OPTIONS, "--epochs", 1, "--out", "run").exit_code == 0
    run = RunFolder(Path("run"))
    settings = json.loads(run.config_file.read_text())
    settings["objective"] = {"name": "mine", "width": 3}
    run.config_file.write_text(json.dumps(settings))
    assert_one_clear_line(call("evaluate", "run"), f"no objective 'mine' is registered, only {', '.join(OBJECTIVES)}")


def test_a_class_that_is_not_registered_is_not_trained(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Other(STL):
        pass

    assert call("train", *OPTIONS, "--epochs", 1, "--out", "run").exit_code == 0
    config = dataclasses.replace(RunFolder(Path("run")).read_config(), objective=Other(1))
    names = ", ".join(OBJECTIVES)
    with pytest.raises(ValueError, match=f"objective must be one that is registered: {names}; got Other"):
        RunFolder(tmp_path / "new").write_config(config)
    assert not (tmp_path / "new").exists()
