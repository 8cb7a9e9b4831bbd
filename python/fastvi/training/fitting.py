"""`fastvi.fit`: a model trained on data of any kind in one call, the Python face of ``fastvi train``."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import nn

from fastvi._options import as_path, check_count, options_of
from fastvi._registry import Registry
from fastvi._sizes import shown
from fastvi.data import Dataset
from fastvi.models import MODELS, ModelOptions
from fastvi.objectives import OBJECTIVES, Objective
from fastvi.objectives.model import has_bound
from fastvi.training.claim import claimed, reopened
from fastvi.training.config import RunFolder
from fastvi.training.data_record import DataRecord
from fastvi.training.devices import gpu_obstacle
from fastvi.training.errors import RunError
from fastvi.training.fitted import Fit
from fastvi.training.given_data import GivenData, divisor_of, given_data, is_stream
from fastvi.training.loader_source import LoaderSource, has_state, whole_labels
from fastvi.training.other_runs import check_other_runs, with_absolute_places
from fastvi.training.own_model import OwnModel
from fastvi.training.settings import TrainingConfig, check_data, check_settings, classes_to_train
from fastvi.training.sources import Source
from fastvi.training.trainer_settings import TRAINER_DEFAULTS
from fastvi.training.usual_settings import usual_binarization, usual_epochs, with_usual_options

if TYPE_CHECKING:
    from fastvi.training._lightning import Callback, Logger


def fit(
    model: str | ModelOptions | nn.Module,
    data: Any,
    objective: str | Objective | None = None,
    *,
    epochs: int | None = None,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    seed: int = 0,
    binarization: str | None = None,
    precision: str = "32-true",
    test: Any = None,
    test_split: float | None = None,
    image_size: tuple[int, int] | None = None,
    out: Path | str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    checkpoint_every: int | None = None,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    progress: bool = False,
    **options: Any,
) -> Fit:
    """Train a model; the same settings give the same parameters, bit for bit, as ``fastvi train``.

    Parameters
    ----------
    model
        A name or an object of `fastvi.models.MODELS`, or a ``torch.nn.Module`` of your own that an objective takes
        (``encode`` and ``log_likelihood``, see `fastvi.objectives`), which is trained in place.
    data
        The name of a data set, a path, a `fastvi.data.Dataset`; an array, a tensor, a data frame or a sparse matrix
        (N, ...), or AnnData; a pair of such and labels (N,); a ``torch.utils.data.Dataset`` with a length; or a
        ``DataLoader`` or another iterable, which gives batches (B, ...). Models of fastvi take values in [0, 1], counts
        or real numbers, by their ``likelihood``; a module of your own gets float32 of the shape that the data have, or
        what a loader gives. Labels reach it where it has ``uses_labels = True``.
    objective
        A name or an object of `fastvi.objectives.OBJECTIVES`; None: the model's own, ``"iwae"`` or, for autoencoders,
        ``"reconstruction"``.
    epochs
        Passes over the data; None: 200 for the digits, 100 for the moving spot, else 20.
    batch_size
        Examples of a step; a loader has its own.
    learning_rate, seed, binarization, precision
        See ``fastvi train``.
    test, test_split
        Examples to evaluate with, or the fraction or number of ``data`` that is kept for that, spread evenly; None: a
        tenth, at most 10,000. A loader has none.
    image_size
        (height, width) of rows that are images.
    out
        Run folder; None: nothing is written.
    overwrite, resume
        Of the run that ``out`` holds: delete it, or go on with it, to the same parameters as without a stop.
    checkpoint_every
        Steps between checkpoints, beside those of each epoch.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    callbacks, loggers
        Of PyTorch Lightning.
    progress
        Show a bar.
    options
        Options of the model, of the objective and of the trainer, by name: ``latent_dim``, ``num_samples``,
        ``schedule``, ``validation_split``, ``patience``; see ``fastvi train --help``.

    Raises
    ------
    TypeError, ValueError
        For a setting that is unknown or cannot be.
    DataError
        For data that the model cannot take.
    RunError
        If ``out`` cannot be written or holds something else, or training fails, see `fastvi.training.trainer.train`.

    Examples
    --------
    >>> import fastvi
    >>> x = torch.rand(200, 16, generator=torch.Generator().manual_seed(0)).round()
    >>> fitted = fastvi.fit("vae", x, epochs=2, latent_dim=2, hidden_dims=(8,), num_samples=3)
    >>> len(fitted.history), fitted.evaluate(num_samples=10).images
    (2, 20)
    """
    _check_kinds(model, objective, image_size, callbacks, loggers)
    if checkpoint_every is not None:
        check_count("fit", "checkpoint_every", checkpoint_every)
    folder_path = None if out is None else as_path("fit", "out", out)
    objective = _default_objective(model) if objective is None else objective
    given_options = _sorted_options(model, objective, options)
    made_objective = _made(OBJECTIVES, objective, given_options["objective"], None)
    uses_labels = made_objective.uses_labels or bool(getattr(_class_of(model), "uses_labels", False))
    places = {"test": test, "test_split": test_split, "image_size": image_size}
    given = _given(model, data, uses_labels, given_options["model"].get("likelihood"), places)
    facts = given.dataset
    made_model: ModelOptions = (
        OwnModel.of(model, given.example_shape)
        if isinstance(model, nn.Module)
        else _made(MODELS, model, given_options["model"], facts)
    )
    if binarization is None:
        binarization = "none" if isinstance(made_model, OwnModel) else usual_binarization(made_model, facts)
    config = TrainingConfig(
        data=facts.name,
        image_shape=tuple(facts.image_shape),
        objective=made_objective,
        model=made_model,
        binarization=binarization,
        epochs=usual_epochs(facts.name) if epochs is None else epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        precision=precision,
        **given_options["trainer"],
    )
    if config.uses_labels:
        num_classes = classes_to_train(config, facts) if isinstance(facts, Dataset) else facts.num_classes
        class_names = getattr(facts, "class_names", None)
        config = dataclasses.replace(config, num_classes=num_classes, class_names=class_names)
    config = with_absolute_places(config)
    if isinstance(facts, Dataset):
        check_data(config, facts)
    check_settings(config)
    source: Dataset | Source = (
        facts if isinstance(facts, Dataset) else LoaderSource(config, data, facts.likelihood, facts.divisor)
    )
    chosen_device = _device(device)
    console = Console() if progress else Console(quiet=True)
    shared: dict[str, Any] = {"console": console, "progress": progress, "device": chosen_device}
    shared |= {"callbacks": callbacks, "loggers": loggers}
    if folder_path is None:
        if resume or overwrite or checkpoint_every is not None:
            raise ValueError("resume, overwrite and checkpoint_every are of a run folder: name it by out")
        from fastvi.training.trainer import train_in_memory

        trained = train_in_memory(config, source, **shared)
        return Fit(trained.model, config, trained.history, None, source, trained.checkpoints)
    from fastvi.training.trainer import train

    record = _record(source, given.place, config) if isinstance(source, Dataset) else None
    if not resume:
        check_other_runs(config, source, folder_path)
    with _folder(folder_path, overwrite, resume, config, record) as folder:
        trained_model = train(config, source, folder, checkpoint_every=checkpoint_every, **shared)
        return Fit(trained_model, config, folder.read_history(), folder, source, {})


def _check_kinds(model: Any, objective: Any, image_size: Any, callbacks: Any, loggers: Any) -> None:
    """Check what must be a name or an object, a pair, and sequences.

    Raises
    ------
    TypeError
        The message names the argument.
    """
    for name, value, kinds, expected in (
        (
            "model",
            model,
            str | ModelOptions | nn.Module,
            "a torch.nn.Module, or a name or an object of fastvi's models",
        ),
        ("objective", objective, str | Objective | None, "a name or an object of fastvi's objectives"),
    ):
        if not isinstance(value, kinds):
            got = f"the class {value.__name__}: give an object of it" if isinstance(value, type) else shown(value)
            raise TypeError(f"fit: {name} must be {expected}, got {got}")
    if image_size is not None and not (isinstance(image_size, tuple | list) and len(image_size) == 2):
        raise TypeError(f"fit: image_size must be a pair (height, width), got {shown(image_size)}")
    for name, several, method in (("callbacks", callbacks, "setup"), ("loggers", loggers, "log_metrics")):
        if not isinstance(several, Sequence) or not all(hasattr(each, method) for each in several):
            raise TypeError(f"fit: {name} must be a sequence of {name} of PyTorch Lightning, got {shown(several)}")


def _default_objective(model: Any) -> str:
    """The objective of a model where none was named; a module that carries a loss and has no bound is for that."""
    if isinstance(model, str):
        return MODELS[model].default_objective if model in MODELS else ModelOptions.default_objective
    if isinstance(model, nn.Module) and callable(getattr(model, "loss", None)) and not has_bound(model):
        return "reconstruction"
    return str(getattr(model, "default_objective", ModelOptions.default_objective))


def _record(data: Dataset, place: Any, config: TrainingConfig) -> DataRecord:
    return DataRecord.of(data, place, config.uses_labels, config.uses_neighbours)


def _sorted_options(model: Any, objective: Any, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the options of the model, the objective and the trainer.

    Raises
    ------
    TypeError
        If one is of none of them.
    """
    known = {
        "model": {option.name for option in options_of(MODELS[model])} if model in _names(MODELS) else set(),
        "objective": {option.name for option in options_of(OBJECTIVES[objective])}
        if objective in _names(OBJECTIVES)
        else set(),
        "trainer": set(TRAINER_DEFAULTS),
    }
    for what, given, registry in (("model", model, MODELS), ("objective", objective, OBJECTIVES)):
        if isinstance(given, str) and given not in registry:
            raise ValueError(f"fit: {what} must be one of {', '.join(registry)}, or an object; got {given!r}")
    found: dict[str, dict[str, Any]] = {owner: {} for owner in known}
    everything = sorted(set().union(*known.values()))
    for name, value in options.items():
        owners = [owner for owner, names in known.items() if name in names]
        if not owners:
            near = difflib.get_close_matches(name, [*everything, *inspect.signature(fit).parameters], 1)
            hint = f", did you mean {near[0]}?" if near else ""
            raise TypeError(f"fit: unknown option {name!r}{hint}; the options here are {', '.join(everything)}")
        found[owners[0]][name] = value
    return found


def _names(registry: Registry[Any]) -> set[Any]:
    return set(registry)


def _class_of(model: Any) -> Any:
    return MODELS[model] if isinstance(model, str) else model


def _made(registry: Registry[Any], given: Any, options: Mapping[str, Any], data: Any) -> Any:
    if not isinstance(given, str):
        return given
    return registry.make(given, **with_usual_options(registry, given, options, data))


def _given(model: Any, data: Any, uses_labels: bool, likelihood: str | None, places: dict[str, Any]) -> Any:
    """Return the data set, or of a loader what a run has to know of its batches."""
    is_own = isinstance(model, nn.Module)
    if not is_stream(data):
        return given_data(data, keep_values=is_own, with_labels=uses_labels, likelihood=likelihood, **places)
    if any(place is not None for name, place in places.items() if name != "image_size"):
        raise ValueError("fit: test and test_split are of data that can be indexed; give evaluate(data) its examples")
    return GivenData(_facts_of(data, is_own, likelihood, places["image_size"]))  # type: ignore[arg-type]  # as it says


def _facts_of(loader: Any, is_own: bool, likelihood: str | None, image_size: Any) -> SimpleNamespace:
    """Return what the first batch tells: it is taken once more when training begins."""
    if iter(loader) is loader:
        raise TypeError(
            f"fit: data must be an iterable that can begin again for each epoch, got a {type(loader).__name__}"
        )
    place = loader.state_dict() if has_state(loader) else None
    with torch.random.fork_rng(devices=[]):
        first = next(iter(loader), None)
    if has_state(loader):
        loader.load_state_dict(place)
    if first is None:
        raise ValueError("fit: data must give at least one batch, got none")
    x = first[0] if isinstance(first, tuple | list) else first
    if not isinstance(x, torch.Tensor) or x.dim() < 1:
        raise TypeError(f"fit: data must give batches that are tensors, or pairs of them, got {type(x).__name__}")
    shape = tuple(x.shape[1:])
    image_shape = image_size or (shape if len(shape) in (2, 3) and not is_own else (1, math.prod(shape)))
    divisor = divisor_of(x, x.dtype == torch.uint8)
    scaled = x.flatten(1).float() / divisor
    if likelihood is None:
        likelihood = "bernoulli" if bool(((scaled >= 0) & (scaled <= 1)).all()) else "real-gaussian"
    labels = first[1] if isinstance(first, tuple | list) and len(first) > 1 else None
    num_classes = None if labels is None else getattr(loader, "num_classes", 1 + int(whole_labels(labels).max()))
    facts = {"name": "data", "image_shape": image_shape, "likelihood": likelihood}
    return SimpleNamespace(**facts, num_classes=num_classes, divisor=divisor, test=scaled)


@contextlib.contextmanager
def _folder(
    path: Path, overwrite: bool, resume: bool, config: TrainingConfig, record: DataRecord | None
) -> Iterator[RunFolder]:
    """Give the run folder of ``out``, a new one or the one to go on with."""

    def tell(_line: str) -> None:
        """Say nothing of a file system without locks."""

    if not resume:
        with claimed(path, overwrite, config, record, tell) as folder:
            yield folder
        return
    if overwrite:
        raise ValueError("resume goes on with the run that out holds: leave out overwrite")
    folder = RunFolder(path)
    with reopened(folder, tell):
        kept = folder.read_config()
        before, now = kept.as_dict(), config.as_dict()
        free = {"epochs"} if kept.class_names else {"epochs", "class_names"}  # which older runs did not keep
        differing = [name for name, value in now.items() if name not in free and before.get(name) != value]
        if differing or (kept.epochs != config.epochs and not kept.may_be_extended):
            name = differing[0] if differing else "epochs"
            raise RunError(f"{name} {now[name]} contradicts the {before[name]} of the run {path}")
        folder.write_config(config, folder.read_record())
        yield folder


def _device(wanted: str) -> str:
    if wanted not in ("auto", "cpu", "cuda"):
        raise ValueError(f"fit: device must be one of auto, cpu, cuda, got {wanted!r}")
    obstacle = gpu_obstacle()
    if wanted == "cuda" and obstacle is not None:
        raise RunError(f"device cuda: {obstacle}")
    return "cpu" if wanted == "cpu" or obstacle is not None else "cuda"
