"""``--config FILE``: options of a command from a TOML file, each by its long name."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastvi._terminal import fail
from fastvi._terminal import reason as reason_of

_OPTION = "--config"


def with_config(parameters: Sequence[Any], arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command with those of its ``--config`` file before them, so that they win over it.

    Parameters
    ----------
    parameters
        Of the command, as click has them.
    arguments
        As they came; those without ``--config`` come back as they are.
    """
    if not any(_OPTION in parameter.opts for parameter in parameters):
        return list(arguments)
    rest: list[str] = []
    files: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == _OPTION:
            value = next(waiting, None)
            if value is None:
                fail(f"{_OPTION} needs the path of a TOML file")
            files.append(value)
        elif argument.startswith(f"{_OPTION}="):
            files.append(argument.removeprefix(f"{_OPTION}="))
        else:
            rest.append(argument)
    found: list[str] = []
    for file in files:
        settings = _read(Path(file))
        for name, value in settings.items():
            found += _arguments(file, parameters, name, value)
    return [*found, *rest]


def _read(path: Path) -> dict[str, Any]:
    present = [name for name in ("tomllib", "tomli") if importlib.util.find_spec(name)]
    if not present:
        fail(f"{_OPTION} needs Python 3.11, or the package tomli: pip install tomli")
    try:
        found: dict[str, Any] = importlib.import_module(present[0]).loads(path.read_bytes().decode())
        return found
    except OSError as error:
        fail(f"{_OPTION}: {path} cannot be read: {reason_of(error)}")
    except ValueError as error:  # of TOML, or bytes that are no text
        fail(f"{_OPTION}: {path} is not a TOML file ({' '.join(str(error).split())[:200]})")


def _arguments(file: str, parameters: Sequence[Any], name: str, value: Any) -> list[str]:
    """Return one setting as it would stand on the command line."""
    flags = {option: parameter for parameter in parameters for option in parameter.opts if option.startswith("--")}
    flag = "--" + name.replace("_", "-")
    parameter = flags.get(flag)
    if parameter is None or flag in (_OPTION, "--help"):
        known = [option.removeprefix("--") for option in flags if option not in (_OPTION, "--help")]
        near = difflib.get_close_matches(flag.removeprefix("--"), known, 1)
        fail(f"{file}: {name!r} is not an option{f', did you mean {near[0]!r}?' if near else ''}")
    if getattr(parameter, "is_flag", False):
        if not isinstance(value, bool):
            fail(f"{file}: {name} must be true or false, got {value!r}")
        if value:
            return [flag]
        return [parameter.secondary_opts[0]] if parameter.secondary_opts else []
    if isinstance(value, list) and value and all(type(each) is int for each in value):
        value = ",".join(map(str, value))
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        fail(f"{file}: {name} must be a number, a text or a list of whole numbers, got {value!r}")
    return [f"{flag}={value}"]
