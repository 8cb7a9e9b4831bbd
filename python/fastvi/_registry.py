"""Classes by name, each a dataclass whose fields are its options: what a run stores is ``{name, **fields}``."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections import UserDict
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from fastvi._options import Option, options_of

Entry = TypeVar("Entry")

_NAME = re.compile("[a-z][a-z0-9-]*")


class UnregisteredError(ValueError):
    """A name is that of no registered class."""


class Registry(UserDict[str, type[Any]], Generic[Entry]):
    """A dictionary of classes by name. To assign one is to register it: ``registry["name"] = Class``.

    Parameters
    ----------
    what
        What its classes are, for messages: "objective".
    maker
        Name of the function that makes them, for messages.
    base
        The class that all of them derive from.
    entries
        The first of them.
    further
        Names of modules that register others when they are imported, which is done where all are asked for, or one
        that is not there yet.

    Raises
    ------
    TypeError, ValueError
        From an assignment, if the name or the class cannot be registered: the message says why.
    """

    def __init__(
        self, what: str, maker: str, base: type, entries: Mapping[str, type[Any]], further: tuple[str, ...] = ()
    ) -> None:
        self.what = what
        self.maker = maker
        self.base = base
        self._further = further
        super().__init__(entries)

    def __contains__(self, name: object) -> bool:
        """Return whether a class has the name."""
        return name in self.data or name in self._complete()

    def __getitem__(self, name: str) -> type[Any]:
        """Return the class of the name."""
        return self.data[name] if name in self.data else self._complete()[name]

    def __iter__(self) -> Iterator[str]:
        """Return the names."""
        return iter(self._complete())

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._complete())

    def _complete(self) -> dict[str, type[Any]]:
        further, self._further = self._further, ()
        for module in further:
            importlib.import_module(module)
        return self.data

    def __setitem__(self, name: str, entry: type[Any]) -> None:
        """Register a class, also in place of another one."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"the name of a registered {self.what} must be of small letters, digits and hyphens, got {name!r}"
            )
        if not (isinstance(entry, type) and issubclass(entry, self.base)):
            raise TypeError(
                f"{name!r} must be a subclass of {self.base.__name__} to be a registered {self.what}, got {entry!r}"
            )
        for option in options_of(entry):
            if option.name == "name":
                raise ValueError(f"{entry.__name__}: no option may be called name: under that a run stores {name!r}")
            for other, known in self.data.items():
                kinds = {known_option.kind for known_option in options_of(known) if known_option.name == option.name}
                if other != name and kinds - {option.kind}:
                    raise ValueError(
                        f"{entry.__name__}: the option {option.name} is of type {option.kind.__name__}, and of type "
                        f"{kinds.pop().__name__} for the {self.what} {other}: choose another name"
                    )
        super().__setitem__(name, entry)

    def make(self, name: str, **options: Any) -> Entry:
        """Make the object called ``name`` with these options; errors: see the function that is named `maker`."""
        if name not in self:
            raise ValueError(f"{self.maker}: name must be one of {', '.join(self)}, got {name!r}")
        known = options_of(self[name])
        unknown = sorted(options.keys() - {option.name for option in known})
        if unknown:
            raise TypeError(
                f"{self.maker}: {name!r} has the options {_listed(known)}; got {', '.join(unknown)}"
                if known
                else f"{self.maker}: {name!r} has no options; got {', '.join(unknown)}"
            )
        required = [option.name for option in known if option.default is dataclasses.MISSING]
        missing = [option for option in required if option not in options]
        if missing:
            raise TypeError(f"{self.maker}: {name!r} needs {', '.join(missing)}")
        made: Entry = self[name](**options)
        return made

    def name_of(self, made: Entry) -> str:
        """Return the name of an object's class.

        Raises
        ------
        ValueError
            If it is not registered.
        """
        for name, entry in self.items():
            if type(made) is entry:
                return name
        kind = type(made).__name__
        raise ValueError(f"{self.what} must be one that is registered: {', '.join(self)}; got {kind}")

    def as_fields(self, made: Entry) -> dict[str, Any]:
        """Return ``{name, **fields}``."""
        return {
            "name": self.name_of(made),
            **{option.name: getattr(made, option.name) for option in options_of(type(made))},
        }

    def from_fields(self, fields: Any) -> Entry:
        """Return the object that :meth:`as_fields` described.

        Raises
        ------
        UnregisteredError
            If no class has the name.
        ValueError, TypeError
            If a field is missing, unknown or out of range.
        """
        if not isinstance(fields, Mapping) or not isinstance(fields.get("name"), str):
            raise ValueError(f"{self.what} must hold a name and its options, got {str(fields)[:100]}")
        name = fields["name"]
        if name not in self:
            raise UnregisteredError(f"no {self.what} {name[:50]!r} is registered, only {', '.join(self)}")
        known = {option.name for option in options_of(self[name])}
        wrong = [f"{', '.join(sorted(known - fields.keys()))} missing"] if known - fields.keys() else []
        unknown = sorted(fields.keys() - known - {"name"})
        wrong += [f"{', '.join(map(repr, unknown))} unknown"] if unknown else []
        if wrong:
            raise ValueError(f"{self.what} {name}: {'; '.join(wrong)}")
        made: Entry = self[name](**{field: fields[field] for field in known})
        return made


def _listed(options: tuple[Option, ...]) -> str:
    return ", ".join(option.name for option in options)
