"""Runs made without the command line, what two of them have in common, and runs of an older version."""

import csv
import dataclasses
import io
import json

import torch
from rich.console import Console

from fastvi.models import VAEOptions
from fastvi.objectives import IWAE
from fastvi.training.config import RunFolder, TrainingConfig
from fastvi.training.trainer import train

CONFIG = TrainingConfig(
    data="digits",
    image_shape=(8, 8),
    objective=IWAE(3),
    model=VAEOptions(latent_dim=2, hidden_dims=(8,)),
    binarization="dynamic",
    epochs=3,
    batch_size=16,
    learning_rate=1e-2,
    seed=5,
)


def run(path, digits, config=CONFIG, **options):
    folder = RunFolder(path)
    folder.write_config(config)
    train(config, digits, folder, console=Console(file=io.StringIO()), progress=False, **options)
    return folder


def assert_same_end(folder, other):
    """Parameters and optimiser of two runs agree to the bit, and their metrics in all but the seconds."""
    first, second = folder.read_checkpoint(), other.read_checkpoint()
    assert (first["epoch"], first["global_step"]) == (second["epoch"], second["global_step"])
    for key in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)
    assert metrics_without_seconds(folder) == metrics_without_seconds(other)


def metrics_without_seconds(folder):
    with folder.metrics_file.open(newline="") as file:
        names = ("step", "epoch", "bound", "objective")
        return [{name: row[name] for name in names if name in row} for row in csv.DictReader(file)]


def former_settings(config):
    """The settings as they stood one beside the other before the objective and the model had options of their own."""
    options = {"num_samples": 1, "backward_samples": None, "beta": 1.0, "free_bits": 0.0, "warm_up_steps": 0}
    options |= dataclasses.asdict(config.objective)
    options.pop("analytic_kl", None)
    settings = {"data": config.data, "image_shape": config.image_shape, "objective": config.objective_name}
    settings |= options | dataclasses.asdict(config.model)
    return settings | {
        name: getattr(config, name) for name in ("binarization", "epochs", "batch_size", "learning_rate", "seed")
    }


def as_made_by_the_first_version(folder):
    """Turn a run into one of 0.1.0: nothing but the settings in config.json, nothing but PyTorch's in a checkpoint."""
    run = RunFolder(folder)
    config, checkpoint = run.read_config(), run.read_checkpoint()
    run.config_file.write_text(json.dumps(former_settings(config), indent=2) + "\n")
    del checkpoint["settings"], checkpoint["fastvi_run"]
    torch.save(checkpoint, run.checkpoint_file)
    (folder / ".lock").unlink(missing_ok=True)
