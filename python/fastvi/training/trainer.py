"""Training of one run by PyTorch Lightning, from its settings to its last checkpoint."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from types import FrameType

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from rich.console import Console

from fastvi.data import Dataset
from fastvi.models import VAE
from fastvi.seeding import mix_seed
from fastvi.training.batches import INITIALISATION_STREAM
from fastvi.training.callbacks import (
    AtomicCheckpointIO,
    EpochLines,
    FormerSigterm,
    LastCheckpoint,
    MetricsFile,
    ProgressBar,
)
from fastvi.training.config import RunFolder, TrainingConfig
from fastvi.training.module import VariationalModule
from fastvi.training.processes import from_first, join_processes, layout


class TrainingInterruptedError(BaseException):
    """Control-C came. No KeyboardInterrupt, because Lightning would end the process by its own message on that."""


def train(
    config: TrainingConfig,
    data: Dataset,
    folder: RunFolder,
    *,
    console: Console,
    progress: bool = True,
    checkpoint_every: int | None = None,
    device: str = "cpu",
) -> VAE:
    """Train a model, from the last checkpoint of ``folder`` if it has one, and return it.

    A run that was stopped at any moment and resumed ends with the same parameters, bit for bit, as one that was not.
    Where torchrun started several processes, each calls this function and gets the model; the first reads and writes
    the folder.

    Parameters
    ----------
    config
        Settings; those of the run's checkpoint but for ``epochs``, which may be larger.
    data
        The data set named in ``config``.
    folder
        Where checkpoints and metrics go; it exists.
    console
        Where progress is shown; a quiet one in all processes but the first.
    progress
        A progress bar if true, one line for each epoch otherwise.
    checkpoint_every
        Also write a checkpoint every so many steps.
    device
        ``"cpu"``, or ``"cuda"`` for PyTorch's current GPU, in one process. The model comes back on the CPU.

    Raises
    ------
    RunError
        If the checkpoint cannot be read, or the bound becomes infinite or NaN.
    KeyboardInterrupt
        On control-C; the last checkpoint is whole.
    """
    join_processes()
    checkpoint_step = from_first(folder.trained_steps)
    processes, machines = layout()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_seed(config.seed, INITIALISATION_STREAM))
        module = VariationalModule(config, config.build_model(data.train.mean(0)), data)
    with _quiet_lightning(), _interruptible():
        trainer = Trainer(
            accelerator=device,
            devices=[torch.cuda.current_device()] if device == "cuda" else processes,
            num_nodes=machines,
            max_epochs=config.epochs,
            logger=_loggers(folder, checkpoint_step),
            callbacks=[
                ProgressBar(console) if progress else EpochLines(console),
                FormerSigterm(),
                LastCheckpoint(folder.checkpoint_file, checkpoint_every),
            ],
            plugins=[AtomicCheckpointIO()],
            log_every_n_steps=1,  # nothing is logged by step; a larger number only makes short epochs a warning
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        try:
            trainer.fit(module, ckpt_path=str(folder.checkpoint_file) if checkpoint_step else None)
        except TrainingInterruptedError as error:
            raise KeyboardInterrupt from error
    return module.model.eval()


def _loggers(folder: RunFolder, checkpoint_step: int) -> list[Logger]:
    loggers: list[Logger] = [MetricsFile(folder.metrics_file, checkpoint_step)]
    if importlib.util.find_spec("tensorboard"):
        loggers.append(
            TensorBoardLogger(
                folder.path, name="tensorboard", version="", purge_step=checkpoint_step + 1 if checkpoint_step else None
            )
        )
    return loggers


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advice off the terminal; its warnings still come through, but for the one named below."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Lightning makes a torch class that newer PyTorch wants made otherwise: nothing a user could mend.
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Raise `TrainingInterruptedError` on control-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal_number: int, _frame: FrameType | None) -> None:
        raise TrainingInterruptedError

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
