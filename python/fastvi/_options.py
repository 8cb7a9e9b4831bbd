"""Options of an objective or a model: the fields of its dataclass, with what each of them may be and what it is for.

The same table checks the values in Python, makes the options of the command line and reads the settings of a run.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import types
import typing
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastvi._sizes import as_integer, as_number, shown

_KINDS = (int, float, bool, str)
_LARGEST = sys.float_info.max
_TABLES: dict[type, tuple[Option, ...]] = {}
"""Of the classes that were looked at, because type hints take long to resolve and the compiler cannot trace it."""


class Option(NamedTuple):
    """One field.

    Attributes
    ----------
    name
        Of the field.
    kind
        int, float, bool, str, or tuple for a tuple of integers.
    optional, tensor
        Whether None is a value, and whether a tensor without axes is one.
    default
        ``dataclasses.MISSING`` where a value has to be given.
    help, at_least, choices, usual, from_data, called
        See :func:`option`.
    """

    name: str
    kind: type
    optional: bool
    tensor: bool
    default: Any
    help: str
    at_least: float
    choices: tuple[str, ...]
    usual: Any
    from_data: str | None
    called: str


def option(
    help: str,
    default: Any = dataclasses.MISSING,
    *,
    at_least: float = 0,
    choices: tuple[str, ...] = (),
    usual: Any = dataclasses.MISSING,
    from_data: str | None = None,
    called: str = "numbers",
) -> Any:
    """Make a dataclass field that is an option.

    Parameters
    ----------
    help
        What it is for: one line.
    default
        Its value where none is given; without it, Python has to give one.
    at_least
        Least value of a number, and of each number of a tuple; minus infinity for a float of any sign.
    choices
        The words that a text may be; none: any text.
    usual
        What the command line takes where none is given; the default where that is left out.
    from_data
        The attribute of the data set that the command line takes where none is given.
    called
        What the numbers of a tuple are, for messages.
    """
    said = {
        "help": help,
        "at_least": at_least,
        "choices": choices,
        "usual": usual,
        "from_data": from_data,
        "called": called,
    }
    return dataclasses.field(default=default, metadata=said)


def options_of(owner: type) -> tuple[Option, ...]:
    """Return the options of a dataclass, in the order of its fields.

    Raises
    ------
    TypeError
        If it is no dataclass, or a field has a type that no option can have.
    """
    if owner not in _TABLES:
        if not dataclasses.is_dataclass(owner):
            raise TypeError(f"{owner.__name__} must be a dataclass, whose fields are its options")
        hints = typing.get_type_hints(owner)
        _TABLES[owner] = tuple(_option(owner, field, hints[field.name]) for field in dataclasses.fields(owner))
    return _TABLES[owner]


def check_options(instance: Any) -> None:
    """Check every field of a frozen dataclass; NumPy's numbers become Python's, and a list of numbers a tuple.

    Raises
    ------
    TypeError, ValueError
        The message names the class, the field, what came and what was expected.
    """
    owner = type(instance)
    if torch.compiler.is_compiling() and owner not in _TABLES:
        return
    for entry in options_of(owner):
        value = getattr(instance, entry.name)
        checked = _checked(owner.__name__, entry, value)
        if checked is not value:
            object.__setattr__(instance, entry.name, checked)


def as_path(owner: str, argument: str, value: object) -> Path:
    """Return a path.

    Raises
    ------
    TypeError
        If the value is neither a word nor a path.
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{owner}: {argument} must be a path, got {shown(value)}")
    return Path(value)


def check_count(owner: str, argument: str, value: Any, at_least: float = 1) -> int:
    """Return ``value`` as an int; raise unless it is an integer, NumPy's included, of at least ``at_least``."""
    count = as_integer(value)
    if count is None:
        raise TypeError(f"{owner}: {argument} must be an int, got {shown(value)}")
    if count < at_least:
        raise ValueError(f"{owner}: {argument} must be at least {at_least}, got {count}")
    return count


def check_sizes(owner: str, argument: str, values: Any) -> tuple[Any, ...]:
    """Return ``values`` as a tuple, whose members are not looked at; raise unless they are several, not one number."""
    try:
        if not isinstance(values, str):
            return tuple(values)
    except TypeError:
        pass
    raise TypeError(f"{owner}: {argument} must be a tuple of sizes, got {shown(values)}")


def check_factor(owner: str, argument: str, value: Any, at_least: float = 0.0) -> float:
    """Return ``value`` as a number; raise unless it is a finite one, NumPy's included, of at least ``at_least``."""
    try:
        number = value if type(value) is int else as_number(value)
    except OverflowError:  # an integer of another type
        number = math.inf
    if number is None:
        raise TypeError(f"{owner}: {argument} must be a float, got {shown(value)}")
    if not max(at_least, -_LARGEST) <= number <= _LARGEST:  # true for NaN too
        bounds = {0: "finite and not negative", -math.inf: "finite"}
        bound = bounds.get(at_least, f"finite and at least {at_least}")
        raise ValueError(f"{owner}: {argument} must be {bound}, got {str(value)[:50]}")
    return number


def _checked(owner: str, entry: Option, value: Any) -> Any:
    if value is None and entry.optional:
        return None
    if entry.kind is int:
        return check_count(owner, entry.name, value, entry.at_least)
    if entry.tensor and isinstance(value, torch.Tensor):
        if value.dim() > 0:
            raise ValueError(
                f"{owner}: {entry.name} must be a float or a tensor without axes, got {tuple(value.shape)}"
            )
        return value
    if entry.kind is float:
        return check_factor(owner, entry.name, value, entry.at_least)
    if entry.kind is tuple:
        return _checked_tuple(owner, entry, value)
    if not isinstance(value, entry.kind):
        raise TypeError(f"{owner}: {entry.name} must be a {entry.kind.__name__}, got {shown(value)}")
    if entry.choices and value not in entry.choices:
        raise ValueError(f"{owner}: {entry.name} must be one of {', '.join(entry.choices)}, got {value!r}")
    return value


def _checked_tuple(owner: str, entry: Option, value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list):
        raise TypeError(f"{owner}: {entry.name} must be a tuple of sizes, got {shown(value)}")
    sizes = tuple(as_integer(size) for size in value)
    if None in sizes:
        raise TypeError(f"{owner}: {entry.name} must be a tuple of integers, got {tuple(map(str, value))}")
    counts = typing.cast("tuple[int, ...]", sizes)
    if not counts or min(counts) < entry.at_least:
        bound = "positive" if entry.at_least == 1 else f"one number or more, each at least {entry.at_least}"
        raise ValueError(f"{owner}: {entry.name} must be {bound}, got {counts}")
    return counts


def _option(owner: type, field: dataclasses.Field[Any], hint: Any) -> Option:
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    kinds = [member for member in members if member is not type(None) and member is not torch.Tensor]
    kind = kinds[0] if len(kinds) == 1 else None
    if kind == tuple[int, ...]:
        kind = tuple
    elif kind not in _KINDS:
        raise TypeError(
            f"{owner.__name__}: the option {field.name} has the type {hint}; expected int, float, bool, str or "
            "tuple[int, ...], or one of them and None"
        )
    said: dict[str, Any] = {"help": "", "at_least": 0, "choices": (), "usual": dataclasses.MISSING}
    said |= {"from_data": None, "called": "numbers", **field.metadata}
    is_optional, may_be_tensor = type(None) in members, torch.Tensor in members
    return Option(field.name, kind, is_optional, may_be_tensor, field.default, **said)
