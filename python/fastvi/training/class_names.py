"""Labels that are words: a run keeps what each class stands for, so that other data count the same classes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from fastvi.training.errors import RunError

if TYPE_CHECKING:
    from fastvi.data import Dataset
    from fastvi.training.settings import TrainingConfig

_WORDS_SHOWN = 10


def with_numbers_of(config: TrainingConfig, data: Dataset) -> Dataset:
    """Return the data with the numbers that a run's classes have, where both say what their labels stand for.

    Labels that were given as numbers are these numbers, and those of a run without words are left as they are.

    Raises
    ------
    RunError
        If one of the words is no class of the run.
    """
    names, own = data.class_names, config.class_names
    if not config.uses_labels or names is None or own is None or names == own:
        return data
    numbers = {name: number for number, name in enumerate(own)}
    used = {number: names[number] if number < len(names) else str(number) for number in _used(data)}
    unknown = [name for name in used.values() if name not in numbers]
    if unknown:
        raise RunError(f"labels must be classes of the run, {_shown(list(own))}, got {_shown(unknown)}")
    table = torch.full((max(used, default=-1) + 2,), -1)  # the last is that of -1, a label that is missing
    for number, name in used.items():
        table[number] = numbers[name]
    labels = [None if each is None else table[each] for each in (data.train_labels, data.test_labels)]
    return replace(data, train_labels=labels[0], test_labels=labels[1], class_names=own)


def require_words_of(config: TrainingConfig, data: Dataset) -> None:
    """Check that words stand for classes of a run: it must have words for them, too.

    Raises
    ------
    RunError
        If it has numbers alone.
    """
    if config.uses_labels and config.class_names is None and data.class_names is not None:
        raise RunError(
            "labels must be numbers of classes, from 0, as the run has no words for them, got "
            f"{_shown(list(data.class_names))}"
        )


def _used(data: Dataset) -> list[int]:
    """The classes that occur."""
    given = [each.unique().tolist() for each in (data.train_labels, data.test_labels) if each is not None]
    return sorted({number for numbers in given for number in numbers if number >= 0})


def _shown(words: list[str]) -> str:
    shown = ", ".join(map(repr, words[:_WORDS_SHOWN]))
    return f"{shown} and {len(words) - _WORDS_SHOWN} more" if len(words) > _WORDS_SHOWN else shown
