"""How a run's steps are taken beside the objective and the model: schedule, clipping, averaging, validation.

Each field is a setting of the run and an option of ``fastvi train``; runs from before there were such settings have
their defaults.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastvi._options import check_options, option
from fastvi.training.schedules import SCHEDULES

ADAM_EPSILON = 5e-6
"""Added to the root of Adam's second moment.

The code of Burda, Grosse & Salakhutdinov 2016 has 1e-4 for gradients that are sums over batches of 20 examples. Here
they are means, a twentieth of such sums, and so is what is added to their root.
"""


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """Settings of the trainer, all with the defaults of a plain run.

    Attributes
    ----------
    schedule, schedule_warm_up, schedule_end
        See `fastvi.training.schedules.rate_factor`.
    gradient_clip
        Largest norm of the gradient of all parameters; 0: any.
    weight_decay
        Of AdamW (Loshchilov & Hutter 2019); 0: Adam.
    weight_averaging
        Decay of an exponential moving average of the parameters over the steps, which is then what is validated and
        what the run's model has (Polyak & Juditsky 1992); 0: no average.
    adam_beta1, adam_beta2, adam_epsilon
        Of Adam (Kingma & Ba 2015).
    validation_split
        Examples that are kept from training, drawn by the seed: below 1 a fraction, else their number; 0: none.
    patience
        Epochs without a better validation value after which training ends; the run's model is then that of its best
        epoch. 0: all epochs, and the model of the last one.
    start_from
        Folder of another run, whose parameters this one begins with; its optimiser and its data are not taken. None:
        new ones.

    Raises
    ------
    TypeError, ValueError
        From `check`, if one cannot be.
    """

    schedule: str = option("course of the learning rate", "constant", choices=SCHEDULES)
    schedule_warm_up: int = option("first steps, over which the learning rate grows linearly", 0)
    schedule_end: float | None = option(
        "last learning rate, as a fraction of the first; else 0 for cosine, 0.1 for staged", None
    )
    gradient_clip: float = option("largest norm of the gradient; 0 for any", 0.0)
    weight_decay: float = option("weight decay of AdamW; 0 for Adam", 0.0)
    weight_averaging: float = option("decay of a moving average of the parameters, such as 0.999; 0 for none", 0.0)
    adam_beta1: float = option("decay of Adam's first moment", 0.9)
    adam_beta2: float = option("decay of Adam's second moment", 0.999)
    adam_epsilon: float = option("number added to the root of Adam's second moment", ADAM_EPSILON)
    validation_split: float = option("training examples kept for validation: a fraction, or a number from 1 on", 0.0)
    patience: int = option("epochs without a better validation value after which training ends; 0 for all epochs", 0)
    start_from: str | None = option("folder of the run whose parameters this one begins with", None)


TRAINER_DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(TrainerSettings)}


def with_trainer_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings by name with the trainer's defaults, which those of older runs lack."""
    return {**TRAINER_DEFAULTS, **settings}


def trainer_settings_of(settings: TrainerSettings) -> dict[str, Any]:
    """Return the trainer's settings by name."""
    return {name: getattr(settings, name) for name in TRAINER_DEFAULTS}


def check_trainer_settings(settings: TrainerSettings) -> None:
    """Check the trainer's settings.

    Raises
    ------
    TypeError, ValueError
        The message names the setting, what came, and what was expected.
    """
    only = TrainerSettings(**trainer_settings_of(settings))
    try:
        check_options(only)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).removeprefix("TrainerSettings: ")) from None
    for name in ("weight_averaging", "adam_beta1", "adam_beta2"):
        if getattr(only, name) >= 1.0:
            raise ValueError(f"{name} must be below 1, got {getattr(only, name)}")
    if only.schedule_end is not None and only.schedule_end > 1.0:
        raise ValueError(f"schedule_end must be at most 1, got {only.schedule_end}")
    if only.schedule_end is not None and only.schedule == "constant":
        raise ValueError("schedule_end has no meaning for the schedule constant: leave it out")
    if only.schedule_end == 0.0 and only.schedule == "staged":
        raise ValueError("schedule_end must be above 0 for the schedule staged, got 0")
    split = only.validation_split
    if split > 1.0 and split != int(split):
        raise ValueError(f"validation_split must be a fraction below 1 or a whole number of examples, got {split}")
    if only.patience > 0 and split == 0.0:
        raise ValueError("patience needs validation_split: it counts epochs without a better validation value")


def validation_count(settings: TrainerSettings, count: int) -> int:
    """Return how many of ``count`` training examples are kept for validation.

    Raises
    ------
    TypeError, ValueError
        If none would be left to train, or a setting cannot be: see `check_trainer_settings`.
    """
    check_trainer_settings(settings)
    split = settings.validation_split
    chosen = int(split) if split >= 1.0 or split == 0.0 else max(1, round(split * count))
    if chosen >= count:
        raise ValueError(f"validation_split {split:g} would leave none of the {count:,} training examples to train")
    return chosen
