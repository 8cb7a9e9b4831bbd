"""What a run takes from other runs: the parameters that it begins with, and the M1 of an M1+M2."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastvi.data import Dataset
from fastvi.models import StackedVAE
from fastvi.training.config import RunFolder
from fastvi.training.errors import RunError
from fastvi.training.labelled_source import source_of
from fastvi.training.settings import TrainingConfig
from fastvi.training.stacked_options import StackedOptions, choose_features


def with_absolute_places(config: TrainingConfig) -> TrainingConfig:
    """Return the settings with the absolute paths of the other runs, so that the new run is read from anywhere."""
    if config.start_from is not None:
        config = dataclasses.replace(config, start_from=str(Path(config.start_from).absolute()))
    if isinstance(config.model, StackedOptions):
        model = dataclasses.replace(config.model, m1=str(Path(config.model.m1).absolute()))
        config = dataclasses.replace(config, model=model)
    return config


def check_other_runs(config: TrainingConfig, data: Any, out: Path | None) -> None:
    """Read what a new run takes from others and check that it fits, while whatever ``out`` holds is still there.

    Parameters
    ----------
    config
        Settings of the new run.
    data
        Its data set; of another source of examples only the parameters are checked.
    out
        Its folder; None for a new one.

    Raises
    ------
    RunError
        If one of them is the folder that will be written, cannot be read, or does not fit.
    """
    m1 = config.model.m1 if isinstance(config.model, StackedOptions) else None
    others = {"start_from": config.start_from, "m1": m1}
    for name, place in others.items():
        if place is not None and "\0" in place:
            raise RunError(f"`{name}` must be a path, got {place!r}")
        if place is not None and out is not None and Path(place).resolve() == out.resolve():
            raise RunError(f"`{name}` {place} is the folder that the new run would be written to: choose another `out`")
    if all(place is None for place in others.values()):
        return
    with torch.random.fork_rng(devices=[]):
        model = config.build_model()
        if config.start_from is not None:
            path = Path(config.start_from)
            check_start(model, read_start(path), path)
        if m1 is not None and isinstance(data, Dataset):
            choose_features(model, config.model, source_of(config, data))


def read_start(path: Path) -> dict[str, torch.Tensor]:
    """Return the parameters that a run ended with.

    Raises
    ------
    RunError
        If it is no such run.
    """
    folder = RunFolder(path)
    try:
        return folder.read_model_state(folder.read_config())
    except RunError as error:
        raise RunError(f"`start_from`: {error}") from error


def check_start(model: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Check that a model can begin with the parameters of the run ``path``.

    Raises
    ------
    RunError
        If its model has others, or was trained on another M1 than an M1+M2 has.
    """
    own = model.state_dict()
    wrong = [name for name in {**own, **state} if name not in own or name not in state]
    wrong = wrong or [name for name, value in own.items() if state[name].shape != value.shape]
    if wrong:
        raise RunError(
            f"`start_from` {path}: its model has other parameters than this one: {', '.join(wrong[:3])}"
            f"{' and others' if len(wrong) > 3 else ''}"
        )
    if isinstance(model, StackedVAE):
        differing = [
            name for name, value in model.m1.state_dict().items() if not torch.equal(state[f"m1.{name}"], value)
        ]
        if differing:
            raise RunError(
                f"`start_from` {path}: it was trained on another M1 than this one, its {differing[0]} differs"
            )
