"""A model to hand on: safetensors, its settings as JSON, and a page about it; nothing in it runs code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from fastvi.data import DATASET_NAMES
from fastvi.training.errors import RunError, reason
from fastvi.training.files import write_run_file
from fastvi.training.own_model import OwnModel
from fastvi.training.settings import TrainingConfig

if TYPE_CHECKING:
    from fastvi.training.fitted import Fit

_FORMAT_KEY, _FORMAT = "fastvi_pretrained", 1
_WEIGHTS, _CONFIG, _CARD = "model.safetensors", "config.json", "README.md"


def is_pretrained(path: Path) -> bool:
    """Return whether a folder was written by `write_pretrained`."""
    return (path / _WEIGHTS).is_file()


def write_pretrained(fitted: Fit, path: Path) -> Path:
    """Write a model; see `Fit.save_pretrained`."""
    safetensors = _safetensors()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"{path} is not empty: name another folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path} cannot be made: {reason(error)}") from error
    state = {name: value.detach().cpu().contiguous().clone() for name, value in fitted.model.state_dict().items()}
    content = {_FORMAT_KEY: _FORMAT, **fitted.config.as_dict()}
    write_run_file(path / _WEIGHTS, safetensors.save(state, {"format": "pt"}))
    write_run_file(path / _CONFIG, (json.dumps(content, indent=2) + "\n").encode())
    write_run_file(path / _CARD, model_card(fitted).encode())
    return path


def read_pretrained(path: Path, model: nn.Module | None) -> Fit:
    """Read a model; see `fastvi.load`."""
    from fastvi.training.fitted import Fit, attach

    safetensors = _safetensors()
    try:
        settings = json.loads((path / _CONFIG).read_bytes())
        if not isinstance(settings, dict) or settings.pop(_FORMAT_KEY, None) != _FORMAT:
            raise ValueError(f"{_FORMAT_KEY} must be {_FORMAT}")
        config = TrainingConfig.from_dict(settings, path)
        state = safetensors.load((path / _WEIGHTS).read_bytes())
    except (OSError, ValueError, TypeError, KeyError, RecursionError, safetensors.SafetensorError) as error:
        words = (str(error).splitlines() or [""])[0][:200]
        raise RunError(f"{path} is damaged or of another version ({words})") from error
    attach(config, model, path)
    built = config.build_model()
    try:
        built.load_state_dict(state)
    except RuntimeError as error:
        words = " ".join(str(error).split())[:200]
        raise RunError(f"{path / _WEIGHTS} is of another model: {words}") from error
    return Fit(built.eval(), config, [])


def model_card(fitted: Fit) -> str:
    """Return a page about a model: what it is, on what it was trained, with which figures, and how it is used."""
    config, last = fitted.config, fitted.history[-1] if fitted.history else {}
    shape = " x ".join(map(str, config.image_shape))
    figures = [f"| {name} | {value:.4g} |" for name, value in last.items() if name not in ("step", "seconds")]
    is_own = isinstance(config.model, OwnModel)
    model_name = config.model.class_name if isinstance(config.model, OwnModel) else config.model_name
    loaded = f"fastvi.load(path, model={model_name}).model" if is_own else "fastvi.load(path).model"
    lines = [
        f"# {model_name}, trained by fastvi",
        "",
        f"- Data: {config.data}, examples of {shape} values, binarization {config.binarization}",
        f"- Objective: {_words(config.as_dict()['objective'])}",
        f"- Model: {_words(config.as_dict()['model'])}",
        f"- Training: {config.epochs} epochs at most, batches of {config.batch_size}, learning rate "
        f"{config.learning_rate:g}, schedule {config.schedule}, seed {config.seed}, precision {config.precision}",
        "",
        *(["| after the last epoch | |", "|---|---|", *figures, ""] if figures else []),
        "```python",
        "import fastvi",
        "",
        f"model = {loaded}",
        "```",
    ]
    if not is_own and config.data in DATASET_NAMES:
        lines += ["", "The same from the command line:", "", "```", _command(config), "```"]
    return "\n".join(lines) + "\n"


def _words(fields: dict[str, Any]) -> str:
    options = ", ".join(f"{name} {value}" for name, value in fields.items() if name != "name")
    return f"{fields['name']}{f' ({options})' if options else ''}"


def _command(config: TrainingConfig) -> str:
    """Return the command that trains such a model."""
    words = ["fastvi train", f"--data {config.data}"]
    settings = config.as_dict()
    for part in ("objective", "model"):
        fields = settings.pop(part)
        words.append(f"--{part} {fields.pop('name')}")
        words += [_flag(name, value) for name, value in fields.items() if value is not None]
    for name in ("data", "image_shape", "num_classes", "class_names"):
        del settings[name]
    from fastvi.training.trainer_settings import TRAINER_DEFAULTS

    words += [
        _flag(name, value)
        for name, value in settings.items()
        if value is not None and (name not in TRAINER_DEFAULTS or value != TRAINER_DEFAULTS[name])
    ]
    return " ".join(words)


def _flag(name: str, value: Any) -> str:
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    return f"--{option} {','.join(map(str, value)) if isinstance(value, tuple | list) else value}"


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            "pretrained models need safetensors, the extra 'save': pip install \"fastvi[save]\""
        ) from error

    class Both:
        save = staticmethod(safetensors.torch.save)
        load = staticmethod(safetensors.torch.load)
        SafetensorError = safetensors.SafetensorError

    return Both
