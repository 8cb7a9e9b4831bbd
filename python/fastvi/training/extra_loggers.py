"""Services that a run's figures go to beside its own files, through PyTorch Lightning, where they are installed."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastvi.training.config import RunFolder
from fastvi.training.processes import other_launchers_hidden

if TYPE_CHECKING:
    from fastvi.training._lightning import Logger

LOGGERS = ("csv", "tensorboard", "wandb", "mlflow")
_PROJECT = "fastvi"


def usual_loggers() -> tuple[str, ...]:
    """Return what a run has that names none: TensorBoard where it is installed."""
    return ("tensorboard",) if importlib.util.find_spec("tensorboard") else ()


def logger_names(given: str | None) -> tuple[str, ...] | None:
    """Return the names in a text; None for the usual ones. ``csv`` is metrics.csv, which every run has.

    Raises
    ------
    ValueError
        For a name that is unknown.
    ImportError
        If one is not installed; the message names its extra.
    """
    if given is None:
        return None
    names = tuple(name.strip() for name in given.split(","))
    for name in names:
        if name not in LOGGERS:
            raise ValueError(f"`logger` must be of {', '.join(LOGGERS)}, separated by commas, got {given!r}")
        if name != "csv" and importlib.util.find_spec(name) is None:
            raise ImportError(f'`logger` {name} needs the extra {name!r}: pip install "fastvi[{name}]"')
    return names


def extra_loggers(names: Iterable[str], folder: RunFolder) -> list[Logger]:
    """Return Lightning's loggers of these services; the run is called there as its folder is.

    A run that goes on goes on there too: its identity is that of its folder's path.
    """
    made: list[Logger] = []
    with other_launchers_hidden():
        if "wandb" in names:
            from lightning.pytorch.loggers import WandbLogger

            place = hashlib.blake2b(str(folder.path.absolute()).encode(), digest_size=8).hexdigest()
            made.append(WandbLogger(project=_PROJECT, name=folder.path.name, id=place, resume="allow"))
        if "mlflow" in names:
            from lightning.pytorch.loggers import MLFlowLogger

            made.append(MLFlowLogger(experiment_name=_PROJECT, run_name=folder.path.name))
    return made
