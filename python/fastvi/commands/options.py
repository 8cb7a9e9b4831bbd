"""Options of the command line that come from the registries: each field of an objective or a model is one.

Numbers are parsed as they come, so that a wrong one is a usage error; which class a value belongs to is known once all
are there.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer
import typer.main
from typer.core import TyperCommand

from fastvi._terminal import LARGEST_COUNT, fail, number_of_float32, whole_number, write_sections
from fastvi.commands.config_option import with_config

if TYPE_CHECKING:
    from fastvi._options import Option
    from fastvi._registry import Registry
    from fastvi.data import Dataset

_METAVARS = {int: "COUNT", float: "NUMBER", str: "TEXT", tuple: "COUNTS"}
_GIVEN = "fastvi.given_options"


TRAIN_SECTIONS = {
    "Data": (
        "data",
        "data_dir",
        "download",
        "test_split",
        "labels_from",
        "array",
        "image_size",
        "colour",
        "divide_by",
        "standardize",
        "binarization",
    ),
    "Objective and model": ("objective", "model"),
    "Training": (),
    "Output": ("out", "overwrite", "resume", "checkpoint_every", "progress", "logger"),
    "Evaluation at the end": ("run_evaluation", "evaluation_samples", "evaluation_limit"),
    "Machine": ("device", "threads"),
}
"""Sections of the help of ``fastvi train``, by the options' names; any other option is in the one without names."""


class CommandWithOptions(TyperCommand):
    """A command that has the options of the trainer and of every registered objective and model, as it finds them."""

    sections: ClassVar[Mapping[str, tuple[str, ...]]] = TRAIN_SECTIONS
    _own: list[Any]
    _all: list[Any]
    _added: tuple[Any, ...]

    @property
    def params(self) -> list[Any]:
        """Its own parameters and those of the registries: one list as long as they stay, because click adds to it."""
        added = _parameters(*_entries())
        if added is not self._added:
            for name in {parameter.name for parameter in self._own} & {parameter.name for parameter in added}:
                fail(f"{_flag(name)} is an option of fastvi {self.name} itself: a registered class must not have it")
            self._added, self._all = added, [*self._own, *added]
        return self._all

    @params.setter
    def params(self, own: list[Any]) -> None:
        self._own, self._added = own, ()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options, those of a ``--config`` file too."""
        parsed: list[str] = super().parse_args(ctx, with_config(self.get_params(ctx), args))
        return parsed

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what was given of the registries' options is for `given_options`."""
        names = {parameter.name for parameter in _parameters(*_entries())}
        found = {name: ctx.params.pop(name) for name in names & ctx.params.keys()}
        ctx.meta[_GIVEN] = {name: value for name, value in found.items() if value is not None}
        return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the command's own options by section, then those of each objective and each model."""
        names = {parameter.name for parameter in _parameters(*_entries())}
        own = [parameter for parameter in self.get_params(ctx) if parameter.name not in names]
        write_sections(ctx, formatter, own, self.sections)
        with formatter.section("Options of the trainer"):
            formatter.write_dl([_help(option) for option in _trainer_options()])
        for registry in _registries():
            for name, entry in registry.items():
                rows = [_help(option) for option in _options_of(entry)]
                with formatter.section(f"Options of --{registry.what} {name}"):
                    formatter.write_dl(rows or [("", "none")])


def given_options(context: typer.Context) -> dict[str, Any]:
    """Return the options of objectives and models that came on the command line, numbers as such, the rest as text."""
    given: dict[str, Any] = context.meta[_GIVEN]
    return given


def options_for(registry: Registry[Any], name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that were given for the class called ``name``.

    An option of another class of the registry, or a value that cannot be, ends the command.
    """
    fields = {}
    for option in _options_of(registry[name]):
        if option.name in given:
            fields[option.name] = _value(option, given[option.name])
    for other in given:
        if other not in fields:
            _refuse_other(registry, name, other)
    return fields


def trainer_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the trainer that were given; a value that cannot be ends the command."""
    return {option.name: _value(option, given[option.name]) for option in _trainer_options() if option.name in given}


def make_from(registry: Registry[Any], name: str, given: Mapping[str, Any], data: Dataset) -> Any:
    """Return the object of a registry's class, with the usual values of what was not given.

    See `options_for` for what ends the command, and fields that do not go together.
    """
    from fastvi.training.usual_settings import with_usual_options

    fields = options_for(registry, name, given)
    try:
        fields = with_usual_options(registry, name, fields, data)
    except TypeError as error:
        fail(_with_flags(_options_of(registry[name]), str(error)))
    try:
        return registry.make(name, **fields)
    except (ValueError, TypeError) as error:
        entry = registry[name]
        words = str(error).removeprefix(f"{entry.__name__}: ")
        fail(_with_flags(_options_of(entry), words))


def with_flags(message: str, *chosen: Any) -> str:
    """Return a message on the chosen objective and model in the words of the command line.

    ``analytic_kl=False`` is --no-analytic-kl, ``num_samples`` is --num-samples. Options of one word are left as they
    are, because they may be words of the sentence.
    """
    options = [option for owner in chosen for option in _options_of(type(owner))]
    return _with_flags([option for option in options if option.kind is bool or "_" in option.name], message)


def _with_flags(options: Iterable[Option], message: str) -> str:
    kinds = {option.name: option.kind for option in options}

    def flag(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"]
        if value is None or kinds[name] is not bool:
            return _flag(name) + (f"={value}" if value else "")
        return _flag(name if value == "True" else f"no_{name}")

    if not kinds:
        return message
    # Names in backquotes are made options where the line is written.
    return re.sub(rf"(?<![\w`])(?P<name>{'|'.join(kinds)})\b(?!-\w)(?:=(?P<value>True|False)\b)?", flag, message)


def _refuse_other(registry: Registry[Any], name: str, other: str) -> None:
    """End the command where the option ``other`` is of another class of this registry than the one called ``name``."""
    owners = [owner for owner, entry in registry.items() if other in {option.name for option in _options_of(entry)}]
    if not owners:
        return
    known = [option.name for option in _options_of(registry[name])]
    others = [other]
    if len(owners) == 1:  # all that is only there, because who gives one may give the next
        others = [option.name for option in _options_of(registry[owners[0]]) if option.name not in known]
    verb, plural = ("belongs" if len(others) == 1 else "belong"), ("s" if len(owners) > 1 else "")
    has = f"which has {_joined([_flag(option) for option in known])}" if known else "which has no options"
    fail(
        f"{_joined([_flag(option) for option in others])} {verb} to the {registry.what}{plural} {_joined(owners)}, "
        f"not to {name}, {has}"
    )


def _value(option: Option, given: Any) -> Any:
    """Return the value of a text, checked; numbers and truth values have been made already."""
    if option.kind is tuple:
        return None if option.optional and given == "none" else _parse_counts(option, given)
    if option.kind is str and option.choices and given not in option.choices:
        fail(f"{_flag(option.name)} must be one of {', '.join(option.choices)}, got {given!r}")
    return given


def _parse_counts(option: Option, text: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(count) for count in text.split(","))
    except ValueError:
        fail(f"{_flag(option.name)} must be {option.called} separated by commas, such as 200,200; got {text!r}")
    if not all(option.at_least <= count <= LARGEST_COUNT for count in counts):
        fail(f"{_flag(option.name)} must be {option.called} from {option.at_least} to {LARGEST_COUNT}, got {text!r}")
    return counts


def _registries() -> tuple[Registry[Any], ...]:
    from fastvi.models import MODELS
    from fastvi.objectives import OBJECTIVES

    return OBJECTIVES, MODELS


def _entries() -> tuple[tuple[tuple[str, type], ...], ...]:
    from fastvi.training.trainer_settings import TrainerSettings

    return (*(tuple(registry.items()) for registry in _registries()), (("trainer", TrainerSettings),))


def _trainer_options() -> tuple[Option, ...]:
    from fastvi.training.trainer_settings import TrainerSettings

    return _options_of(TrainerSettings)


def _options_of(entry: type) -> tuple[Option, ...]:
    from fastvi._options import options_of

    return options_of(entry)


@functools.lru_cache(maxsize=8)
def _parameters(*entries: tuple[tuple[str, type], ...]) -> tuple[Any, ...]:
    """Return an option for each name; where several classes have it, they have it of one type, as registries see to.

    None stands for an option that was not given.
    """
    named: dict[str, Option] = {}
    for classes in entries:
        in_registry: dict[str, Option] = {}
        for option in (option for _, entry in classes for option in _options_of(entry)):
            # The class itself refuses what is too small for it alone.
            if option.at_least <= in_registry.setdefault(option.name, option).at_least:
                in_registry[option.name] = option
        for name in named.keys() & in_registry.keys():
            fail(f"{_flag(name)} is an option of an objective and of a model, or of the trainer: give it another name")
        named |= in_registry
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(option))
        for name, option in named.items()
    ]

    def carry(**_: Any) -> None:
        """Carry the options to typer, which reads them from a signature."""

    carry.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect looks for
    carry.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    carrier = typer.Typer(add_completion=False)
    carrier.command()(carry)
    return tuple(typer.main.get_command(carrier).params)


def _annotation(option: Option) -> Any:
    flag, help_text = _flag(option.name), _help(option)[1]
    if option.kind is bool:
        return Annotated[bool | None, typer.Option(f"{flag}/{_flag('no_' + option.name)}", help=help_text)]
    if option.kind in (int, float):
        most = LARGEST_COUNT
        parser: Any = number_of_float32(option.at_least)
        if option.kind is int:
            parser = whole_number(int(max(option.at_least, -most)), most)
        metavar = _METAVARS[option.kind]
        return Annotated[option.kind | None, typer.Option(flag, parser=parser, metavar=metavar, help=help_text)]
    return Annotated[str | None, typer.Option(flag, metavar=_METAVARS[option.kind], help=help_text)]


def _help(option: Option) -> tuple[str, str]:
    """Return a row of the help: the option, what it is for, and its default."""
    flag = _flag(option.name)
    left = f"{flag} / {_flag('no_' + option.name)}" if option.kind is bool else f"{flag} {_METAVARS[option.kind]}"
    words = option.help[:1].upper() + option.help[1:]
    if option.choices:
        words += f": {', '.join(option.choices[:-1])} or {option.choices[-1]}"
    default = option.default if option.usual is dataclasses.MISSING else option.usual
    if option.from_data is not None:
        shown: str | None = "what fits the data"
    elif default is dataclasses.MISSING:
        shown = "has to be given"
    elif option.kind is bool:
        shown = "yes" if default else "no"
    else:
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else None if default is None else str(default)
    return left, words if shown is None else f"{words}  [default: {shown}]"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
