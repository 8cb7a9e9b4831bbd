"""Training of one run by PyTorch Lightning, from its settings to its last checkpoint."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch
from rich.console import Console
from torch import nn

from fastvi.data import DataError, Dataset
from fastvi.data.rows import shape_of
from fastvi.seeding import mix_seed
from fastvi.training._lightning import (
    Callback,
    ClusterEnvironment,
    LightningEnvironment,
    Logger,
    TorchElasticEnvironment,
    Trainer,
    rank_zero_only,
)
from fastvi.training.batches import INITIALISATION_STREAM
from fastvi.training.callbacks import (
    NO_FOLDER,
    AtomicCheckpointIO,
    EpochLines,
    FormerSigterm,
    LastCheckpoint,
    MemoryCheckpointIO,
    ProgressBar,
    Validation,
)
from fastvi.training.checkpoint import checkpoint_of, model_state
from fastvi.training.config import RunFolder
from fastvi.training.data_record import DataRecord, require_same_data
from fastvi.training.devices import devices_of
from fastvi.training.errors import DivergenceError, RunError
from fastvi.training.lock import locked
from fastvi.training.loggers import make_loggers
from fastvi.training.module import VariationalModule
from fastvi.training.other_runs import check_start, read_start
from fastvi.training.processes import (
    from_first,
    in_all,
    is_first,
    join_processes,
    layout,
    other_launchers_hidden,
    rank,
)
from fastvi.training.settings import TrainingConfig, check_data, check_memory, check_settings
from fastvi.training.sources import Source, training_mean
from fastvi.training.stacked_options import choose_features


class TrainingInterruptedError(BaseException):
    """Control-C came. No KeyboardInterrupt, because Lightning would end the process by its own message on that."""


def train(
    config: TrainingConfig,
    data: Dataset | Source,
    folder: RunFolder,
    *,
    console: Console,
    progress: bool = True,
    checkpoint_every: int | None = None,
    device: str = "cpu",
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    logger_names: Sequence[str] | None = None,
) -> nn.Module:
    """Train a model, from the last checkpoint of ``folder`` if it has one, and return it.

    A run that was stopped at any moment and resumed ends with the same parameters, bit for bit, as one that was not.
    Where torchrun started several processes, each calls this function and gets the model; the first reads and writes
    the folder.

    Parameters
    ----------
    config
        Settings; those of the run's checkpoint but for ``epochs``, which may be larger.
    data
        The data set named in ``config``, or another source of examples.
    folder
        Where checkpoints and metrics go; it exists.
    console
        Where progress is shown; a quiet one in all processes but the first.
    progress
        A progress bar if true, one line for each epoch otherwise.
    checkpoint_every
        Also write a checkpoint every so many steps.
    device
        ``"cpu"``, or ``"cuda"`` for PyTorch's current GPU, or in each of several processes that of its local
        rank. The model comes back on the CPU.
    callbacks, loggers
        Of PyTorch Lightning, beside those of the run.
    logger_names
        See `fastvi.training.extra_loggers.logger_names`.

    Raises
    ------
    ValueError, TypeError
        For a setting that cannot be, see :func:`fastvi.training.config.check_settings`.
    RunError
        If another process writes the folder; if the data are not those that its run began with; if the checkpoint
        cannot be read or is of other settings; if the model does not fit into memory; if the data lack the labels that
        the run uses; if a file cannot be written; if the bound, the loss or a parameter becomes infinite or NaN.
    KeyboardInterrupt
        On control-C; the last checkpoint is whole.
    """
    check_settings(config)
    join_processes()
    with contextlib.ExitStack() as stack:
        from_first(lambda: stack.enter_context(locked(folder.path, console.print)))
        checkpoint_step = from_first(lambda: folder.trained_steps(config))
        _check_source(config, data)
        if isinstance(data, Dataset):
            _check_data(config, data, folder)
        elif checkpoint_step and not data.can_be_resumed:
            raise RunError(
                f"{folder.path} cannot go on: its data can neither be indexed nor have they a state_dict, so that "
                "nothing tells which examples come next; start a new run"
            )
        own: list[Logger] = []
        in_all(lambda: own.extend(make_loggers(folder, checkpoint_step, logger_names) if is_first() else ()))
        io, every, shown = AtomicCheckpointIO(), checkpoint_every, _shown(console, progress)
        module = _train(config, data, folder, checkpoint_step, io, [shown, *callbacks], [*own, *loggers], every, device)
        if config.patience:
            module.result.load_state_dict(from_first(lambda: folder.read_model_state(config)))
    if module.best.epoch:
        console.print(_best_words(module), highlight=False)
    return module.result


class Trained(NamedTuple):
    """What a training without a folder leaves.

    Attributes
    ----------
    model
        The trained model, on the CPU.
    history
        The figures of each epoch.
    checkpoints
        Contents of the run's checkpoint files, by their names.
    """

    model: nn.Module
    history: list[dict[str, float]]
    checkpoints: dict[str, bytes]


def train_in_memory(
    config: TrainingConfig,
    data: Dataset | Source,
    *,
    console: Console,
    progress: bool = True,
    device: str = "cpu",
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
) -> Trained:
    """Train a model without a folder: nothing is written. See `train` for parameters and errors."""
    check_settings(config)
    join_processes()
    _check_source(config, data)
    io, shown = MemoryCheckpointIO(), _shown(console, progress)
    module = _train(config, data, RunFolder(NO_FOLDER), 0, io, [shown, *callbacks], list(loggers), None, device)
    if config.patience:
        state = from_first(lambda: model_state(checkpoint_of(io.kept["best.ckpt"], Path("best.ckpt"))))
        module.result.load_state_dict(state)
    if module.best.epoch:
        console.print(_best_words(module), highlight=False)
    return Trained(module.result, module.history, io.kept)


def _shown(console: Console, progress: bool) -> Callback:
    return ProgressBar(console) if progress else EpochLines(console)


def _check_source(config: TrainingConfig, data: Dataset | Source) -> None:
    if not isinstance(data, Dataset):
        return
    try:
        check_data(config, data)
        check_memory(config, shape_of(data.train)[0])
    except ValueError as error:
        raise RunError(str(error)) from error


def _check_data(config: TrainingConfig, data: Dataset, folder: RunFolder) -> None:
    """Compare the data of every process with those that the run remembers; a run without a record gets one.

    Each process reads its own copy of the data, on another machine perhaps another one.
    """

    def remembered() -> tuple[DataRecord, bool]:
        try:
            record = folder.read_record()
        except RunError:
            if folder.config_file.exists():
                raise
            record = None  # a folder that was not begun by the command
        made = DataRecord.of(data, uses_labels=config.uses_labels, uses_neighbours=config.uses_neighbours)
        return record or made, record is None

    record, is_new = from_first(remembered)
    in_all(lambda: require_same_data(record, config.image_shape, data, folder.path))
    if is_new:
        from_first(lambda: folder.write_config(config, record))


def _train(
    config: TrainingConfig,
    data: Dataset | Source,
    folder: RunFolder,
    checkpoint_step: int,
    checkpoint_io: AtomicCheckpointIO,
    callbacks: list[Callback],
    loggers: list[Logger],
    checkpoint_every: int | None,
    device: str,
) -> VariationalModule:
    """Train, and return the module with the parameters of the last step."""
    processes, machines = layout()
    environment: ClusterEnvironment = (
        LightningEnvironment() if (processes, machines) == (1, 1) else TorchElasticEnvironment()
    )
    last_checkpoint = LastCheckpoint(
        folder.checkpoint_file, folder.best_checkpoint_file, checkpoint_io, checkpoint_step, checkpoint_every
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_seed(config.seed, INITIALISATION_STREAM))
        mean = training_mean(config, data) if isinstance(data, Dataset) else data.mean
        model = config.build_model(mean)
        if config.start_from is not None and not checkpoint_step:
            _start_from(model, Path(config.start_from))
        module = VariationalModule(config, model, data)
        if not checkpoint_step:
            choose_features(model, config.model, module.source)
    with _quiet_lightning(), _interruptible():
        trainer = Trainer(
            accelerator=device,
            devices=devices_of(device),
            num_nodes=machines,
            strategy="auto" if (processes, machines) == (1, 1) else "ddp",
            max_epochs=config.epochs,
            logger=loggers,
            callbacks=[Validation(), *callbacks, FormerSigterm(), last_checkpoint],
            plugins=[checkpoint_io, environment],
            log_every_n_steps=1,  # nothing is logged by step; a larger number only makes short epochs a warning
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        try:
            trainer.fit(module, ckpt_path=str(folder.checkpoint_file) if checkpoint_step else None)
        except TrainingInterruptedError as error:
            raise KeyboardInterrupt from error
        except DataError as error:  # of a source, whose rows are read in the midst of training
            raise RunError(str(error)) from error
        except DivergenceError as error:
            kept = _kept_checkpoint(last_checkpoint.saved_step, trainer.num_training_batches)
            advice = "" if isinstance(data, Dataset) else ", and see whether the data hold NaN or infinity"
            raise DivergenceError(f"{error}: try a smaller `learning_rate`{advice}{kept}") from error
    module.result.cpu().eval()
    return module


def _start_from(model: nn.Module, path: Path) -> None:
    """Give a model the parameters that a run ended with."""
    state = from_first(lambda: read_start(path))
    check_start(model, state, path)
    model.load_state_dict(state)


def _best_words(module: VariationalModule) -> str:
    """Say which epoch was the best by validation, and whether the run's model is that."""
    what = f"validation {module.objective.value_name} {module.best.value:.3f}"
    if not module.config.patience:
        return f"best {what}, after epoch {module.best.epoch}; the model is that of the last epoch"
    return f"the model is that of epoch {module.best.epoch}, with the best {what}"


def _kept_checkpoint(step: int, steps_per_epoch: float) -> str:
    """Say which checkpoint a run that failed has left; nothing where it has none."""
    if step == 0:
        return ""
    if step % steps_per_epoch == 0:
        return " (the checkpoint of the epoch before is kept)"
    return f" (the checkpoint of step {step} is kept)"


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning to what it is told: no advice on the terminal, no settings and no place from the environment.

    Its warnings still come through, but for those named below.
    """
    logger = logging.getLogger("lightning.pytorch")
    kept = {"rank": vars(rank_zero_only)["rank"]}  # an attribute of the function
    level = logger.level
    logger.setLevel(logging.WARNING)
    vars(rank_zero_only).update(rank=rank())
    try:
        with warnings.catch_warnings(), other_launchers_hidden():
            # Lightning makes a torch class that newer PyTorch wants made otherwise: nothing a user could mend.
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            # Where srun is installed, Lightning would have every process started by it.
            warnings.filterwarnings("ignore", message="The `srun` command is available")
            yield
    finally:
        logger.setLevel(level)
        vars(rank_zero_only).update(kept)


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
