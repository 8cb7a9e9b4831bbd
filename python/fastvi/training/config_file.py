"""The content of a run's config.json, in the format of this version and in those before it.

Format 1 is that of 0.1.0, without a mark: the settings alone, one beside the other. Format 2 added the mark, the record
of the data and the checksum. Format 3 keeps the options of the objective and of the model apart, each with its name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastvi.objectives import ELBO, IWAE
from fastvi.training.data_record import DataRecord
from fastvi.training.settings import TrainingConfig, check_number

RUN_FORMAT = 3
"""Of the run folders that this version writes."""
FORMAT_KEY = "fastvi_run"
"""Under which the number of the format stands in config.json and in a checkpoint."""
_DATA_KEY, _CHECKSUM_KEY = "data_record", "checksum"
_FORMER_NAMES = frozenset(
    {
        "data",
        "image_shape",
        "objective",
        "num_samples",
        "backward_samples",
        "beta",
        "free_bits",
        "warm_up_steps",
        "latent_dim",
        "hidden_dims",
        "activation",
        "likelihood",
        "binarization",
        "epochs",
        "batch_size",
        "learning_rate",
        "seed",
    }
)
"""The settings of formats 1 and 2."""
_OBJECTIVE_OPTIONS = {
    "elbo": ("num_samples", "beta", "free_bits", "warm_up_steps"),
    "iwae": ("num_samples", "backward_samples"),
    "stl": ("num_samples",),
    "dreg": ("num_samples",),
}
_MODEL_OPTIONS = ("latent_dim", "hidden_dims", "activation", "likelihood")
_FORMER_LIKELIHOODS = ("bernoulli", "gaussian")
_RUN_SETTINGS = ("data", "image_shape", "binarization", "batch_size", "learning_rate", "seed")


def is_config(content: bytes) -> bool:
    """Return whether ``content`` is that of some fastvi run's config.json, of whatever version, damaged values or not.

    Runs carry a mark; those of 0.1.0, which have none, are known by their exact set of keys.
    """
    try:
        settings = json.loads(content.decode())
    except (ValueError, RecursionError):
        return False
    if not isinstance(settings, dict):
        return False
    return type(settings.get(FORMAT_KEY)) is int or settings.keys() == _FORMER_NAMES


def config_bytes(config: TrainingConfig, record: DataRecord | None) -> bytes:
    """Return the content of a run's config.json."""
    content: dict[str, Any] = {FORMAT_KEY: RUN_FORMAT, **config.as_dict()}
    content[_DATA_KEY] = None if record is None else record.as_dict()
    content = json.loads(json.dumps(content))
    content[_CHECKSUM_KEY] = _checksum(content)
    return (json.dumps(content, indent=2) + "\n").encode()


def parse_config(content: bytes, run: Path | None = None) -> tuple[TrainingConfig, DataRecord | None]:
    """Return the settings and the record of the data, of a run in the folder ``run``.

    Raises
    ------
    ValueError, TypeError, RecursionError
        The message says what is wrong.
    """
    settings = json.loads(content.decode())
    if not isinstance(settings, dict):
        raise ValueError(f"it must hold settings by name, got a {type(settings).__name__}")
    if settings.keys() == _FORMER_NAMES:  # of 0.1.0
        return TrainingConfig.from_dict(from_former(settings)), None
    number = settings.pop(FORMAT_KEY, None)
    check_format(number)
    if number is None or not {_DATA_KEY, _CHECKSUM_KEY} <= settings.keys():
        absent = sorted((_FORMER_NAMES if number is None else {_DATA_KEY, _CHECKSUM_KEY}) - settings.keys())
        unknown = [] if absent else sorted(settings.keys() - _FORMER_NAMES)
        raise ValueError(f"{', '.join(absent)} missing" if absent else f"{', '.join(map(repr, unknown))} unknown")
    checksum = settings.pop(_CHECKSUM_KEY)
    changed = checksum != _checksum({FORMAT_KEY: number, **settings})
    kept_record = settings.pop(_DATA_KEY)
    config = TrainingConfig.from_dict(from_former(settings) if number < RUN_FORMAT else settings, run)
    record = None if kept_record is None else DataRecord.from_dict(kept_record)
    if changed:
        raise ValueError("its checksum says that it was changed after fastvi wrote it")
    return config, record


def check_format(number: Any) -> None:
    """Check the number of a format; None, of files without one, is right.

    Raises
    ------
    ValueError
        If it is not one that this version reads.
    """
    if type(number) is int and number > RUN_FORMAT:
        raise ValueError(f"a newer fastvi wrote it, in format {number}; this one reads up to {RUN_FORMAT}")
    if number is not None and (type(number) is not int or number < 2):
        raise ValueError(f"{FORMAT_KEY} must be a whole number from 2 to {RUN_FORMAT}, got {str(number)[:50]!r}")


def from_former(settings: Mapping[str, Any], lasting: bool = False) -> dict[str, Any]:
    """Return the settings of a run in format 1 or 2 as `TrainingConfig.as_dict` would give them.

    Parameters
    ----------
    settings
        As they stand in the file, one beside the other.
    lasting
        Whether they are those of a checkpoint, without the number of epochs.

    Raises
    ------
    ValueError, TypeError
        If one is missing, unknown or cannot be, one that the objective does not take too.
    """
    names = _FORMER_NAMES - {"epochs"} if lasting else _FORMER_NAMES
    missing, unknown = sorted(names - settings.keys()), sorted(settings.keys() - names)
    if missing or unknown:
        wrong = [f"{', '.join(missing)} missing"] if missing else []
        wrong += [f"{', '.join(map(repr, unknown))} unknown"] if unknown else []
        raise ValueError("; ".join(wrong))
    name = settings["objective"]
    if not isinstance(name, str) or name not in _OBJECTIVE_OPTIONS:
        raise ValueError(f"objective must be one of {', '.join(_OBJECTIVE_OPTIONS)}, got {str(name)[:50]!r}")
    likelihood = settings["likelihood"]
    if likelihood not in _FORMER_LIKELIHOODS:
        choices = ", ".join(_FORMER_LIKELIHOODS)
        raise ValueError(f"likelihood must be one of {choices} in a run of that version, got {str(likelihood)[:50]!r}")
    for number in ("beta", "free_bits"):
        check_number(number, settings[number])
    ELBO(beta=settings["beta"], free_bits=settings["free_bits"], warm_up_steps=settings["warm_up_steps"])
    IWAE(settings["num_samples"], settings["backward_samples"])
    if name != "iwae" and settings["backward_samples"] is not None:
        raise ValueError(f"backward_samples belongs to the objective iwae, not to {name}")
    objective = {"name": name} | {option: settings[option] for option in _OBJECTIVE_OPTIONS[name]}
    if name == "elbo":
        objective["analytic_kl"] = True
    new = {setting: settings[setting] for setting in _RUN_SETTINGS} | {"num_classes": None}
    new |= {} if lasting else {"epochs": settings["epochs"]}
    new["objective"] = objective
    new["model"] = {"name": "vae"} | {option: settings[option] for option in _MODEL_OPTIONS}
    return new


def _checksum(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()
