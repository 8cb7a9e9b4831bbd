"""What the commands share towards their user: text that no stream refuses, one line for an error, checked options."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from fastvi import _native

if TYPE_CHECKING:
    from rich.console import Console

FAILED_EXIT_CODE = 2
LARGEST_COUNT = 2**31 - 1
"""Most of whatever an option counts: products of two counts are still 64-bit integers."""
LARGEST_NUMBER = (2.0 - 2.0**-23) * 2.0**127
"""Of float32, in which models are trained."""
MAX_THREADS = 16 * (os.cpu_count() or 1)
"""More threads than processors help nobody; where the operating system refuses them, the process ends at once."""
_LEAST_WIDTH = 40
_REFUSED_WRITES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
_OUT_OF_MEMORY = re.compile(
    r"no memory for|can't allocate memory|not enough memory|out of memory|Storage size calculation overflowed"
)


def make_console(**options: Any) -> Console:
    """Return a console, with the options of rich's, that shows text as it is: brackets in a path are no markup."""
    from rich.console import Console

    console = Console(markup=False, emoji=False, highlight=False, **options)
    console.width = max(console.width, _LEAST_WIDTH)  # some terminals, and COLUMNS=0, leave no place for a table
    return console


def show_error(message: str) -> None:
    """Write one line on the error stream.

    An argument's name in backquotes, as Python's users know it, becomes the option: `data_dir` is --data-dir.
    """
    typer.echo(f"Error: {as_options(message)}", err=True)


def as_options(message: str) -> str:
    """Return a message on one printable line, with arguments' names in backquotes as options."""
    options = re.sub(r"`([a-z][a-z0-9_]*)`", lambda found: "--" + found[1].replace("_", "-"), message)
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in options)


def fail(message: str) -> NoReturn:
    """End the command with one line on the error stream and the exit code of failure."""
    show_error(message)
    raise typer.Exit(FAILED_EXIT_CODE)


def reason(error: OSError) -> str:
    """Say which file the operating system refused, and why."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    if not names and error.errno in _REFUSED_WRITES:
        names = ["the output cannot be written"]
    return ": ".join([*names, error.strerror or str(error) or type(error).__name__])


def parse_path(text: str) -> Path:
    """Return the path that an option names.

    Raises
    ------
    BadParameter
        If the text is empty, which `Path` would take for the working directory, or holds a NUL character.
    """
    if not text or "\0" in text:
        raise typer.BadParameter(f"got {text!r}, expected a path")
    return Path(text)


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Return the function that makes an option's text a number from ``least`` to ``most``."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:  # also for thousands of digits
            number = least - 1
        if not least <= number <= most:
            raise typer.BadParameter(f"got {_shortened(text)}, expected a whole number from {least} to {most}")
        return number

    return parse


def number_of_float32(least: float = 0.0) -> Callable[[str], float]:
    """Return the function that makes an option's text a number of ``least`` or more that is finite in float32."""
    bound = "" if least == -math.inf else f" {least:g} or more,"

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not max(least, -LARGEST_NUMBER) <= number <= LARGEST_NUMBER:
            raise typer.BadParameter(f"got {_shortened(text)}, expected a finite number,{bound} that float32 holds")
        return number

    return parse


finite_number = number_of_float32()
"""Make an option's text a number of 0 or more."""


def _shortened(text: str) -> str:
    return repr(text) if len(text) <= 100 else f"{text[:100]!r}... ({len(text)} characters)"


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Turn what the machine refuses (a file, memory, kernels for this processor) into one line and an exit code.

    While the block runs, characters that the encoding of a stream lacks are written as escapes, and no setting of the
    user's makes matplotlib look for a screen.
    """
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    handlers = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    # Pictures go into files, which takes no backend; one that is not installed would end the import of matplotlib.
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    except _native.InstructionSetError as error:
        show_error(str(error))
        raise SystemExit(FAILED_EXIT_CODE) from error
    except OSError as error:
        show_error(reason(error))
        raise SystemExit(FAILED_EXIT_CODE) from error
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        wanted = re.search(r"\d+ bytes", str(error))
        show_error(f"not enough memory{f' for {wanted[0]}' if wanted else ''}: choose smaller sizes")
        raise SystemExit(FAILED_EXIT_CODE) from error
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
        lost = _lost_output(streams)
        for stream, errors in zip(streams, handlers, strict=True):
            if not stream.closed:
                stream.reconfigure(errors=errors)
        if lost:
            raise SystemExit(FAILED_EXIT_CODE)


def _lost_output(streams: list[io.TextIOWrapper]) -> bool:
    """Return whether a stream refuses what is left to write, after saying so; a reader who went away is no failure."""
    lost = False
    for stream in streams:
        try:
            if not stream.closed:
                stream.flush()
        except OSError as error:
            # The interpreter would try again at its end, and fail with words of its own.
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
            if not isinstance(error, BrokenPipeError):
                show_error(reason(error))
                lost = True
    return lost


def write_sections(
    context: Any, formatter: Any, options: Iterable[Any], sections: Mapping[str, tuple[str, ...]]
) -> None:
    """Write the help of options in sections, by the names in each; the one without names takes the others."""
    rows: dict[str, list[tuple[str, str]]] = {title: [] for title in sections}
    rows["Other"] = []
    rest = next((title for title, names in sections.items() if not names), "Other")
    section_of = {name: title for title, names in sections.items() for name in names} | {"help": "Other"}
    for option in options:
        record = option.get_help_record(context)
        if record is not None and option.param_type_name == "option":
            rows[section_of.get(option.name, rest)].append(record)
    for title, records in rows.items():
        if records:
            with formatter.section(title):
                formatter.write_dl(records)


class CommandGroup(TyperGroup):
    """Commands with a common name, whose errors are clear."""

    sections: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Train and evaluate": ("train", "evaluate"),
        "Take out of a run": ("sample", "encode", "reconstruct", "score", "export"),
        "This machine": ("bench", "info"),
    }
    """Sections of the help, by the names of the commands."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands by section; one that is in none comes last."""
        named = [name for names in self.sections.values() for name in names]
        others = {"Other commands": tuple(name for name in self.list_commands(ctx) if name not in named)}
        width = formatter.width - 6 - max(map(len, self.list_commands(ctx)))
        for title, names in {**self.sections, **others}.items():
            found = [(name, self.get_command(ctx, name)) for name in names]
            rows = [(name, command.get_short_help_str(width)) for name, command in found if command is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run one of them."""
        with clear_errors():
            return super().main(*arguments, **options)


class Command(TyperCommand):
    """A command that stands alone, whose errors are clear."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run it."""
        with clear_errors():
            return super().main(*arguments, **options)
