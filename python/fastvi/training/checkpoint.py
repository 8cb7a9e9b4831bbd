"""Checkpoint files: archives of PyTorch with a checksum, those of 0.1.0 without."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastvi._archive import LENGTH, archive_bytes, has_checksum, is_whole
from fastvi.training.config_file import FORMAT_KEY, check_format, from_former
from fastvi.training.errors import NoCheckpointError, RunError, reason
from fastvi.training.own_model import OWN_MODEL
from fastvi.training.settings import with_later_settings

_END, _END_BYTES = b"PK\5\6", 22  # of an archive without a comment
_ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    pickle.UnpicklingError,
    OSError,
    EOFError,
    RuntimeError,  # NotImplementedError and what PyTorch's own reader raises
    ValueError,
    OverflowError,
    LookupError,
    TypeError,
    AttributeError,
)
"""What Python's and PyTorch's readers raise on archives whose directory is damaged."""
_PARTS: dict[str, type | tuple[type, ...]] = {
    "state_dict": Mapping,
    "global_step": int,
    "epoch": int,
    "optimizer_states": list,
    "loops": Mapping,
    "epoch_total": float,
    "epoch_examples": int,
}
AVERAGE_KEY = "averaged"
"""Under which the average of the weights stands in a checkpoint, see `fastvi.training.averaging`."""
BEST_KEY = "best"
"""Under which the best epoch stands in a checkpoint, see `fastvi.training.validation.BestEpoch`."""
SOURCE_KEY = "source"
"""Under which the state of a source stands that has one, see `fastvi.training.sources`."""
_ADVICE = "put a copy of it back, or start a new run"


def checkpoint_bytes(checkpoint: Mapping[str, Any]) -> bytes:
    """Return the content of a checkpoint file."""
    return archive_bytes(checkpoint)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint made of tensors and plain values; no code that is found in it runs.

    Every changed bit is noticed. A file of fastvi 0.1.0 has no checksum: there the archive's CRCs are compared, and
    what they cover is read by its directory as Python checks it, not as PyTorch would.

    Raises
    ------
    RunError
        If there is no such file, or it is not a whole checkpoint of ``fastvi train``.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise NoCheckpointError(f"{path.parent.parent} has no checkpoint yet: {path} is missing") from error
    except OSError as error:
        raise RunError(f"{path} cannot be read: {reason(error)}") from error
    return checkpoint_of(content, path)


def checkpoint_of(content: bytes, path: Path) -> dict[str, Any]:
    """Return the checkpoint of a file's content; ``path`` is for messages. Errors: see `read_checkpoint`."""
    archive = _checked(content)
    if archive is None:
        raise RunError(f"{path} is damaged: {_ADVICE}")
    try:
        checkpoint = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
    except _ARCHIVE_ERRORS as error:
        raise RunError(f"{path} is damaged, or not a checkpoint of fastvi: {_ADVICE}") from error
    _check_parts(checkpoint, path)
    return checkpoint  # type: ignore[no-any-return]  # a dictionary, as was just checked


def check_fit(checkpoint: Mapping[str, Any], settings: Mapping[str, Any], model: torch.nn.Module, path: Path) -> None:
    """Check that a checkpoint belongs to the run of these settings.

    Parameters
    ----------
    checkpoint
        What `read_checkpoint` returned.
    settings
        The lasting settings of the run, which its checkpoints hold, too; those of 0.1.0 hold none.
    model
        A model of these settings, on any device, "meta" too.
    path
        Of the checkpoint, for messages.

    Raises
    ------
    RunError
        If it is the checkpoint of other settings, or of another model.
    """
    kept = checkpoint.get("settings", settings)
    try:
        if kept is not settings and FORMAT_KEY not in checkpoint:
            kept = from_former(kept, lasting=True)
        found_settings = _flat(with_later_settings(kept))
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # of no settings at all, or of other ones
        raise RunError(f"{path} is of another version of fastvi: {_ADVICE}") from error
    for place, value in _flat(settings).items():
        if place not in found_settings:
            raise RunError(f"{path} is of another version of fastvi: {_ADVICE}")
        if found_settings[place] != value:
            name = place[0] if place[1] in ("name", "") else place[1]
            raise RunError(f"{path} is of another run: its {name} is {found_settings[place]}, not {value}; {_ADVICE}")
    _check_shapes(
        checkpoint["state_dict"], {f"model.{name}": value for name, value in model.state_dict().items()}, path
    )
    if settings["weight_averaging"]:
        average = checkpoint.get(AVERAGE_KEY)
        if not isinstance(average, Mapping) or not isinstance(average.get("state_dict"), Mapping):
            raise RunError(f"{path} is not a checkpoint of fastvi: its {AVERAGE_KEY} is missing; {_ADVICE}")
        _check_shapes(average["state_dict"], model.state_dict(), path)
    best = checkpoint.get(BEST_KEY)
    if settings["validation_split"] and not (isinstance(best, Mapping) and best.keys() >= {"value", "epoch", "after"}):
        raise RunError(f"{path} is not a checkpoint of fastvi: its {BEST_KEY} is missing; {_ADVICE}")


def _check_shapes(kept: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    found = {name: tuple(value.shape) for name, value in kept.items()}
    for name in sorted(shapes.keys() | found.keys()):
        if shapes.get(name) != found.get(name):
            raise RunError(
                f"{path} is of another model: {name} has {_words(found.get(name))} there, "
                f"{_words(shapes.get(name))} in the run; {_ADVICE}"
            )


def model_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state of the run's model: the average of its weights where the run has one."""
    if AVERAGE_KEY in checkpoint:
        return dict(checkpoint[AVERAGE_KEY]["state_dict"])
    return {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}


def _flat(settings: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """The settings by their places, the names of the objective and of the model before their options."""
    flat: dict[tuple[str, str], Any] = {}
    for part in ("objective", "model"):
        options = dict(settings[part])
        flat[part, "name"] = options.pop("name")
        flat |= {(part, name): value for name, value in options.items()}
    return flat | {(name, ""): value for name, value in settings.items() if name not in ("objective", "model")}


def _checked(content: bytes) -> bytes | None:
    """Return an archive that holds what was written, None where that cannot be told."""
    if has_checksum(content):
        return content if is_whole(content) else None
    if content[-_END_BYTES:][: len(_END)] != _END or content[-LENGTH.size :] != LENGTH.pack(0):
        return None  # 0.1.0 wrote archives without a comment; this one has lost its own, or its end
    # PyTorch would believe the directory, which no CRC covers: what Python reads, and checks, is packed anew for it.
    anew = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(anew, "w") as new:
            for member in old.infolist():
                new.writestr(member.filename, old.read(member))
    except _ARCHIVE_ERRORS:
        return None
    return anew.getvalue()


def _check_parts(checkpoint: Any, path: Path) -> None:
    if not isinstance(checkpoint, dict):
        raise RunError(f"{path} is not a checkpoint of fastvi, but a {type(checkpoint).__name__}: {_ADVICE}")
    try:
        check_format(checkpoint.get(FORMAT_KEY))
    except ValueError as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    for name, kind in _PARTS.items():
        if not isinstance(checkpoint.get(name), kind):
            raise RunError(f"{path} is not a checkpoint of fastvi: its {name} is missing or of another type; {_ADVICE}")
    is_own = _is_of_own_model(checkpoint.get("settings"))
    for name, value in checkpoint["state_dict"].items():
        is_tensor = isinstance(value, Tensor) and (is_own or value.dtype == torch.float32)
        if not isinstance(name, str) or not is_tensor:
            raise RunError(f"{path} is not a checkpoint of fastvi: {name} is not a float32 tensor; {_ADVICE}")
    if checkpoint["global_step"] < 0 or checkpoint["epoch"] < 0:
        raise RunError(f"{path} is not a checkpoint of fastvi: its step or epoch is negative; {_ADVICE}")


def _is_of_own_model(settings: Any) -> bool:
    """Whether the run's model is a module of the user's own, which may hold tensors of any dtype."""
    model = settings.get("model") if isinstance(settings, Mapping) else None
    return isinstance(model, Mapping) and model.get("name") == OWN_MODEL


def _words(shape: tuple[int, ...] | None) -> str:
    return "no values" if shape is None else f"the shape {shape}"
