"""The settings of a training run: what its result depends on, and what they may be."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastvi._options import options_of
from fastvi.data import BINARIZATIONS, Dataset
from fastvi.data.rows import shape_of
from fastvi.models import MODELS, DataShape, ModelOptions
from fastvi.objectives import OBJECTIVES, Objective
from fastvi.ops._private import MULTIPLIED_BY_PROCESSOR
from fastvi.training.own_model import OWN_MODEL, OwnModel
from fastvi.training.trainer_settings import (
    TrainerSettings,
    check_trainer_settings,
    validation_count,
    with_trainer_defaults,
)
from fastvi.training.windows import check_windows

PRECISIONS = ("32-true", "bf16-mixed")
"""Of the arithmetic in training, by the names of PyTorch Lightning; runs without the setting have the first."""
_LARGEST_SIZE = 2**31 - 1
_LARGEST_SEED = 2**64 - 1
_LARGEST_NUMBER = torch.finfo(torch.float32).max
_COUNTS_OF_SAMPLES = ("num_bounds", "num_samples")
"""The options of an objective whose product is the number of samples of each example."""
_MANY_CLASSES, _MOST_UNUSED = 1_000, 10
"""Of more classes than these a new run is refused where there are more than so many for each label that occurs."""
_BYTES_PER_PARAMETER = 16  # in float32: itself, its gradient and Adam's two moments


@dataclass(frozen=True)
class TrainingConfig(TrainerSettings):
    """Every setting that the parameters at the end of a run depend on; see `TrainerSettings` for those of the trainer.

    Attributes
    ----------
    data, binarization
        See `fastvi.data`.
    image_shape
        (height, width) of the data set's images, or (channels, height, width); (1, D) of rows that are no images.
    objective
        An object of one of the classes in `fastvi.objectives.OBJECTIVES`.
    model
        An object of one of the classes in `fastvi.models.MODELS`.
    epochs, batch_size, learning_rate, seed
        Adam's schedule, and the seed of everything drawn.
    num_classes
        Number of classes of the labels, where the objective or the model uses them; else None.
    class_names
        What the labels from 0 on stand for, where the data say it and the run uses them; else None.
    precision
        ``"32-true"``: float32. ``"bf16-mixed"``: the factors of matrix products are bfloat16, in a region of
        ``torch.autocast``; parameters, their gradients, the optimiser and the bound stay float32.
    """

    data: str
    image_shape: tuple[int, ...]
    objective: Objective
    model: ModelOptions
    binarization: str
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    num_classes: int | None = None
    precision: str = PRECISIONS[0]
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Take NumPy's numbers for Python's, and a list of sizes for a tuple; the rest is for `check_settings`."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.integer | np.floating):
                object.__setattr__(self, field.name, value.item())
            elif isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))

    @property
    def shape(self) -> DataShape:
        """What the model has to know of the data."""
        return DataShape(self.image_shape, self.num_classes)

    @property
    def objective_name(self) -> str:
        """Name of the objective's class in `fastvi.objectives.OBJECTIVES`."""
        return OBJECTIVES.name_of(self.objective)

    @property
    def model_name(self) -> str:
        """Name of the model's options in `fastvi.models.MODELS`."""
        return OWN_MODEL if isinstance(self.model, OwnModel) else MODELS.name_of(self.model)

    @property
    def num_samples(self) -> int:
        """Samples that the objective draws for each example; 1 where it has no such option."""
        return int(getattr(self.objective, "num_samples", 1))

    @property
    def uses_labels(self) -> bool:
        """Whether the objective or the model takes the pair (images, labels)."""
        return self.objective.uses_labels or self.model.uses_labels

    @property
    def label_user(self) -> str:
        """Name of the objective where it uses labels, else of the model, for messages."""
        return self.objective_name if self.objective.uses_labels else self.model_name

    @property
    def takes_missing_labels(self) -> bool:
        """Whether the model takes examples without a label, -1, among those with one."""
        return self.model.takes_missing_labels

    @property
    def uses_neighbours(self) -> bool:
        """Whether the model takes windows of three frames in a row."""
        return self.model.uses_neighbours

    def build_model(self, data_mean: torch.Tensor | None = None) -> nn.Module:
        """Return the untrained model; its initial weights come from PyTorch's generator."""
        return self.model.build(self.shape, data_mean)

    def build_outline(self) -> nn.Module:
        """Return the model without values, on the device "meta": its shapes, for no memory."""
        with torch.device("meta"):
            return self.build_model()

    def as_dict(self) -> dict[str, Any]:
        """Return the settings by name; those of the objective and the model are ``{name, **fields}``."""
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        settings["objective"] = OBJECTIVES.as_fields(self.objective)
        settings["model"] = (
            {"name": OWN_MODEL, **dataclasses.asdict(self.model)}
            if isinstance(self.model, OwnModel)
            else MODELS.as_fields(self.model)
        )
        return settings

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], run: Path | None = None) -> TrainingConfig:
        """Return the settings that `as_dict` gave, those of JSON too; ``run`` is the folder of their run.

        Raises
        ------
        ValueError, TypeError
            If one is missing, unknown or cannot be.
        """
        settings = with_later_settings(settings)
        names = {field.name for field in dataclasses.fields(cls)}
        missing, unknown = sorted(names - settings.keys()), sorted(settings.keys() - names)
        wrong = [f"{', '.join(missing)} missing"] if missing else []
        wrong += [f"{', '.join(map(repr, unknown))} unknown"] if unknown else []
        if wrong:
            raise ValueError("; ".join(wrong))
        objective, model = OBJECTIVES.from_fields(settings["objective"]), _model_from(settings["model"])
        if run is not None:
            model = model.found_from(run)
        config = cls(**{**settings, "objective": objective, "model": model})
        check_settings(config)
        return config

    def lasting(self) -> dict[str, Any]:
        """Return the settings by name that a run keeps for good.

        The number of epochs of a constant rate may change, and the place of another run, which may be moved. The
        record of the data tells whether the labels are the same.
        """
        settings = self.as_dict()
        del settings["class_names"]
        if self.may_be_extended:
            del settings["epochs"]
        del settings["start_from"]
        settings["model"].pop("m1", None)
        return settings

    @property
    def may_be_extended(self) -> bool:
        """Whether a run can go on for more epochs: not where every step's learning rate depends on their number."""
        return self.schedule == "constant"


def _model_from(fields: Any) -> ModelOptions:
    if isinstance(fields, Mapping) and fields.get("name") == OWN_MODEL:
        return OwnModel(**{name: value for name, value in fields.items() if name != "name"})
    made: ModelOptions = MODELS.from_fields(fields)
    return made


_LATER_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "semi-supervised": {"unlabelled_share": 1.0, "hold_steps": 0, "warm_up_steps": 0},
}
"""Options that an objective got after runs had been trained with it, as these runs had them."""


def with_later_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings by name with those that older runs lack: they were float32, knew no words, and were plain."""
    later = {"precision": PRECISIONS[0], "class_names": None, **with_trainer_defaults(settings)}
    objective = later.get("objective")
    if isinstance(objective, Mapping) and objective.get("name") in _LATER_OPTIONS:
        later["objective"] = {**_LATER_OPTIONS[objective["name"]], **objective}
    return later


def check_settings(config: TrainingConfig) -> None:
    """Check every setting.

    Raises
    ------
    ValueError, TypeError
        The message names the setting, what it is, and what was expected.
    """
    for name, base in (("objective", Objective), ("model", ModelOptions)):
        if not isinstance(getattr(config, name), base):
            raise TypeError(f"{name} must be a fastvi {base.__name__}, got {type(getattr(config, name)).__name__}")
        _check_options(getattr(config, name))
    config.as_dict()  # both are registered
    for name, least, largest in (
        ("epochs", 1, _LARGEST_SIZE),
        ("batch_size", 1, _LARGEST_SIZE),
        ("seed", 0, _LARGEST_SEED),
    ):
        _check_integer(name, getattr(config, name), least, largest)
    if config.num_classes is not None:
        _check_integer("num_classes", config.num_classes, 1, _LARGEST_SIZE)
    if config.class_names is not None and (
        not isinstance(config.class_names, tuple) or not all(isinstance(name, str) for name in config.class_names)
    ):
        raise TypeError(f"class_names must be a tuple of words, got {config.class_names!r}")
    check_number("learning_rate", config.learning_rate)
    if config.learning_rate == 0:
        raise ValueError("learning_rate must be positive, got 0")
    for name in ("data", "binarization"):
        if not isinstance(getattr(config, name), str):
            raise TypeError(f"{name} must be a name, got {getattr(config, name)!r}")
    if config.precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {config.precision!r}")
    check_trainer_settings(config)
    if not isinstance(config.image_shape, tuple):
        raise TypeError(f"image_shape must be a tuple of sizes, got {config.image_shape!r}")
    for size in config.image_shape:
        # Zero and less are for the model, which says so in its own words.
        _check_integer("image_shape", size, -_LARGEST_SIZE, _LARGEST_SIZE)
    if len(config.image_shape) not in (2, 3):
        raise ValueError(f"image_shape must be (height, width) or (channels, height, width), got {config.image_shape}")
    if config.binarization not in BINARIZATIONS:
        raise ValueError(f"binarization must be one of {', '.join(BINARIZATIONS)}, got {config.binarization!r}")
    if isinstance(config.model, OwnModel) and not config.model.is_attached:
        return  # what it is made of is known once it is there
    try:
        outline = config.build_outline()
        config.objective.check_model(outline)
        check_training(config, outline)
    except RuntimeError as error:  # sizes whose product is beyond 64 bits
        sizes = {"image_shape": config.image_shape, **config.model.sizes()}
        raise ValueError(f"{', '.join(f'{name} {size}' for name, size in sizes.items())} are too large") from error


def check_training(config: TrainingConfig, model: nn.Module) -> None:
    """Check that the objective trains the encoder, by samples with a path or by the score, and a baseline network.

    Raises
    ------
    ValueError
        If the model's samples have no path and the bound does not use the score, or the model has a baseline network
        that the objective does not use: several processes would fail for want of its gradients.
    """
    if getattr(config.model, "baseline_dims", None) is not None and not getattr(
        config.objective, "uses_network", False
    ):
        raise ValueError(
            f"`baseline_dims` asks for a baseline network that {config.objective_name} does not use: leave it out, or "
            "take the objective score-function with `baseline` network"
        )
    trains_classifier = getattr(config.objective, "trains_classifier", False)
    if hasattr(model, "log_classifier") and not trains_classifier:
        raise ValueError(
            f"{config.objective_name} would not train the classifier of {config.model_name}: take the objective "
            "semi-supervised"
        )
    if getattr(model, "samples_have_path", True) or not config.objective.is_bound or config.objective.uses_score:
        return
    able = [name for name, entry in OBJECTIVES.items() if entry.uses_score]
    raise ValueError(
        f"{config.objective_name} would not train the encoder of {config.model_name}, whose samples are discrete: "
        f"take an objective that uses the score: {', '.join(able)}"
    )


def bfloat16_obstacle(device: str) -> str | None:
    """Why products of bfloat16 take more time than those of float32 on a kind of device; None where they take less."""
    if device == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        supported = torch.bfloat16 in MULTIPLIED_BY_PROCESSOR
    what = "GPU" if device == "cuda" else "processor"
    return None if supported else f"this {what} has no instructions for products of bfloat16"


def classes_to_train(config: TrainingConfig, data: Dataset) -> int | None:
    """Return the number of classes of a new run on the data; None where they have no labels.

    Raises
    ------
    ValueError
        If nearly all numbers up to the largest label are no label: most classes would have no example.
    """
    found = with_missing_labels(config, data)
    count = found.num_classes
    if count is None or found.train_labels is None or found.test_labels is None:
        return None
    different = torch.cat([found.train_labels, found.test_labels]).unique()
    different = different[different >= 0].shape[0]
    if count > _MANY_CLASSES and count > _MOST_UNUSED * different:
        raise ValueError(
            f"the labels of the data {data.name} are {different:,} different numbers up to {count - 1:,}, and each "
            "number up to the largest is a class: number them from 0 on without gaps"
        )
    return count


def with_missing_labels(config: TrainingConfig, data: Dataset) -> Dataset:
    """Return the data with -1 for labels that they do not have, where the run's model takes missing labels."""
    has_all = data.train_labels is not None and data.test_labels is not None
    if has_all or not config.takes_missing_labels:
        return data
    train, test = (
        torch.full((shape_of(rows)[0],), -1) if labels is None else labels
        for rows, labels in ((data.train, data.train_labels), (data.test, data.test_labels))
    )
    return dataclasses.replace(data, train_labels=train, test_labels=test)


def check_data(config: TrainingConfig, data: Dataset, trains: bool = True) -> None:
    """Check that the data are of the kind of the model's likelihood, and have the labels or the order that it uses.

    A model that takes missing labels needs one of a training example where it ``trains`` on them.

    Raises
    ------
    ValueError
        If they are not, if there are no labels, or more classes than the run has, or if a model of sequences finds no
        frames with neighbours.
    """
    from fastvi.models.likelihoods import LIKELIHOODS, VALUES, is_of_counts, values_of

    validation_count(config, shape_of(data.train)[0])
    likelihood = getattr(config.model, "likelihood", getattr(config.model, "error", None))
    kind = values_of(data.likelihood)
    if likelihood in LIKELIHOODS and values_of(likelihood) not in (kind, VALUES[2]):
        raise ValueError(
            f"the likelihood {likelihood} is of {values_of(likelihood)}, and the data {data.name} are of {kind}"
            + ("; `likelihood` real-gaussian or real-laplace fits them" if kind == VALUES[2] else "")
        )
    if config.binarization != "none" and (kind != VALUES[0] or likelihood == "continuous-bernoulli"):
        what = f"{likelihood} is of grey values"
        if kind != VALUES[0]:
            what = f"the data {data.name} are {'counts' if is_of_counts(data.likelihood) else kind}"
        raise ValueError(f"binarization must be none, for {what}, got {config.binarization!r}")
    if config.uses_neighbours:
        check_windows(data, config.model_name)
        if config.validation_split:
            raise ValueError(
                f"validation_split is not for {config.model_name}: the windows of a film share frames, and none is new"
            )
    if not config.uses_labels:
        return
    if config.uses_neighbours:
        raise ValueError(f"{config.model_name} takes frames in a row, which have no labels, and the run uses labels")
    user = config.label_user
    if data.train_labels is None and (trains or not config.takes_missing_labels):
        raise ValueError(f"{user} needs labels, and the data {data.name} have none")
    if data.test_labels is None and not config.takes_missing_labels:
        raise ValueError(f"{user} needs labels, and the test rows of the data {data.name} have none")
    data = with_missing_labels(config, data)
    if trains or not config.takes_missing_labels:
        check_labels(config, data, user)
    assert data.num_classes is not None
    if config.num_classes is None or data.num_classes > config.num_classes:
        raise ValueError(
            f"the labels of {data.name} must be from 0 to {config.num_classes - 1}, as the run has "
            f"{config.num_classes} classes, got {data.num_classes - 1}"
            if config.num_classes
            else f"num_classes must be at least {data.num_classes} for {data.name}, got None"
        )


def check_labels(config: TrainingConfig, data: Dataset, user: str) -> None:
    """Check that there are as many labels as the run needs.

    Raises
    ------
    ValueError
        If an example lacks its label and the model does not take that, or ``labels`` asks for more than there are.
    """
    from fastvi.training.labelled_source import seen_labels
    from fastvi.training.sources import split_indices

    assert data.train_labels is not None
    if config.takes_missing_labels:
        try:
            seen_labels(config, data, split_indices(config, data.train_labels.shape[0])[0])
        except ValueError as error:
            raise ValueError(f"`labels`: {str(error).removeprefix('balanced_labels: ')}") from error
        return
    assert data.test_labels is not None
    missing = int((data.train_labels < 0).sum() + (data.test_labels < 0).sum())
    if missing:
        raise ValueError(
            f"{user} needs a label for each example, and {missing:,} of the data {data.name} have none (-1)"
        )


def check_memory(config: TrainingConfig, examples: int) -> None:
    """Check that the training of the model on so many examples fits into this machine's memory.

    The least that it needs: the parameters with their gradients and Adam's moments, and the output of the widest hidden
    layer for every sample of a batch.

    Raises
    ------
    ValueError
        If it does not; the message has the arguments' names in backquotes.
    """
    sizes = config.model.sizes()
    try:
        parameters = sum(parameter.numel() for parameter in config.build_outline().parameters())
    except RuntimeError:  # sizes whose product is beyond 64 bits
        parameters = 2**63
    counts = [name for name in _COUNTS_OF_SAMPLES if hasattr(config.objective, name)]
    rows = math.prod(int(getattr(config.objective, name)) for name in counts) * min(config.batch_size, examples)
    needed = parameters * _BYTES_PER_PARAMETER + 4 * rows * max(sizes.values(), default=1)
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > present:
        names = ", ".join(f"`{name}`" for name in [*sizes, *counts])
        raise ValueError(
            f"{names} and `batch_size` need at least {needed / 2**30:,.1f} GiB of memory, this machine has "
            f"{present / 2**30:,.1f} GiB"
        )


def check_number(name: str, value: Any) -> None:
    """Check a number of 0 or more.

    Raises
    ------
    ValueError, TypeError
        If it is no number, negative, infinite in float32, or NaN.
    """
    if type(value) not in (int, float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= value <= _LARGEST_NUMBER:  # false for NaN too
        raise ValueError(f"{name} must be a finite number of float32 and not negative, got {value}")


def _check_options(owner: Any) -> None:
    """Check that JSON, the command line and float32 hold the options; their own class has checked the rest."""
    for entry in options_of(type(owner)):
        value = getattr(owner, entry.name)
        if value is None:
            continue
        if entry.kind is float and type(value) not in (int, float):
            raise TypeError(f"{entry.name} must be a number, got {value!r}")
        if entry.kind is float and not abs(value) <= _LARGEST_NUMBER:
            raise ValueError(f"{entry.name} must be a finite number of float32, got {value}")
        for size in value if entry.kind is tuple else (value,) if entry.kind is int else ():
            _check_integer(entry.name, size, -_LARGEST_SIZE, _LARGEST_SIZE)


def _check_integer(name: str, value: Any, least: int, largest: int) -> None:
    if type(value) is not int:
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if not least <= value <= largest:
        raise ValueError(f"{name} must be from {least} to {largest}, got {value}")
